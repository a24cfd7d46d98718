"""Quality metrics: values known in closed form, and invariances."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import Audio, noise

from stemwire.errors import AudioError
from stemwire.training.evaluation.metrics import (
    LEAST_LEAKAGE,
    bss_eval,
    leakage,
    median,
    ratio_db,
    scores,
    sdr,
    si_sdr,
)

RATE = 8_000
gains = st.floats(0.01, 100)


def silence(samples: int, channels: int = 2) -> Audio:
    return np.zeros((channels, samples), np.float32)


def pair(seconds: float = 3, channels: int = 1) -> Audio:
    """Two different stems, (2, channels, n)."""
    count = round(seconds * RATE)
    return np.stack((noise(count, channels, 1), noise(count, channels, 2)))


def test_ratio() -> None:
    assert ratio_db(100, 1) == pytest.approx(20)
    assert ratio_db(1, 0) == math.inf and ratio_db(0, 1) == -math.inf
    assert math.isnan(ratio_db(0, 0))


@given(st.floats(-40, 40))
def test_sdr_is_the_level_of_the_error(level: float) -> None:
    reference, error = noise(2000), noise(2000, seed=1)
    error *= np.float32(10 ** (-level / 20) * np.linalg.norm(reference) / np.linalg.norm(error))
    assert sdr(reference, reference + error) == pytest.approx(level, abs=0.01)


@given(gains)
def test_sdr_depends_on_no_common_gain_and_si_sdr_on_none(gain: float) -> None:
    reference = noise(2000)
    estimate = reference + noise(2000, seed=1, level=0.03)
    louder = np.float32(gain)
    assert sdr(louder * reference, louder * estimate) == pytest.approx(
        sdr(reference, estimate), abs=0.01
    )
    assert si_sdr(reference, louder * estimate) == pytest.approx(
        si_sdr(reference, estimate), abs=0.01
    )


def test_sdr_sees_a_gain() -> None:
    reference = noise(2000)
    assert sdr(reference, reference / 2) == pytest.approx(20 * math.log10(2), abs=0.01)
    assert si_sdr(reference, reference / 2) == math.inf


def test_si_sdr_of_an_orthogonal_error() -> None:
    time = np.arange(RATE) / RATE
    tone, other = (np.sin(2 * np.pi * f * time)[None].astype(np.float32) for f in (100, 200))
    assert si_sdr(tone, 3 * tone + 0.3 * other) == pytest.approx(20, abs=0.01)


def test_silent_references_leave_figures_undefined() -> None:
    quiet = silence(1000)
    assert sdr(quiet, noise(1000)) == -math.inf
    assert math.isnan(si_sdr(quiet, noise(1000)))
    assert math.isnan(sdr(quiet, quiet))


class TestLeakage:
    def signals(self) -> tuple[Audio, Audio]:
        """Vocals that pause from second 1 to 2, and a mixture that does not."""
        vocals, rest = pair()
        vocals[:, RATE : 2 * RATE] = 0
        return vocals, vocals + rest

    def test_mixture_leaks_all(self) -> None:
        vocals, mixture = self.signals()
        assert leakage(vocals, mixture, mixture, RATE) == (0.0, 1.0)

    @given(st.floats(-60, 0))
    def test_level(self, level: float) -> None:
        vocals, mixture = self.signals()
        estimate = 0.5 * vocals  # what the stem holds elsewhere does not matter
        estimate[:, RATE : 2 * RATE] = 10 ** (level / 20) * mixture[:, RATE : 2 * RATE]
        found, seconds = leakage(vocals, estimate, mixture, RATE)
        assert found == pytest.approx(level, abs=0.01) and seconds == 1.0

    @given(gains)
    def test_gain_of_all_does_not_matter(self, gain: float) -> None:
        vocals, mixture = self.signals()
        louder = np.float32(gain)
        one = leakage(vocals, 0.1 * mixture, mixture, RATE)
        other = leakage(louder * vocals, louder * 0.1 * mixture, louder * mixture, RATE)
        assert one == pytest.approx(other, abs=1e-3)

    def test_silence_is_the_least(self) -> None:
        vocals, mixture = self.signals()
        assert leakage(vocals, silence(3 * RATE, 1), mixture, RATE) == (LEAST_LEAKAGE, 1.0)

    def test_a_breath_60_db_down_is_silence_and_one_50_db_down_is_not(self) -> None:
        vocals, mixture = self.signals()
        for level, seconds in ((-70, 1.0), (-50, 0.0)):
            breath = noise(RATE, 1, 3, level=0.1 * math.sqrt(2) * 10 ** (level / 20))
            vocals[:, RATE : 2 * RATE] = breath
            assert leakage(vocals, mixture, mixture, RATE)[1] == seconds

    def test_where_the_mixture_is_silent_nothing_counts(self) -> None:
        vocals, mixture = self.signals()
        mixture[:, RATE : 2 * RATE] = 0
        level, seconds = leakage(vocals, mixture, mixture, RATE)
        assert math.isnan(level) and seconds == 0

    @pytest.mark.parametrize("samples", [0, 10, RATE])
    def test_nothing_to_find(self, samples: int) -> None:
        level, seconds = leakage(*[noise(samples)] * 3, RATE)
        assert math.isnan(level) and seconds == 0


class TestBSSEval:
    def test_shape_and_order(self) -> None:
        values = bss_eval(pair(3.7), pair(3.7) + noise(1, 1, 9), RATE)
        assert values.shape == (4, 2, 3)  # the last 0.7 s are left out

    def test_noise_is_an_artefact_and_the_other_stem_interference(self) -> None:
        references = pair(6)
        noisy = references + np.stack((noise(6 * RATE, 1, 3), noise(6 * RATE, 1, 4))) / 10
        sdr_, isr, sir, sar = np.median(bss_eval(references, noisy, RATE), 2)
        np.testing.assert_allclose(sdr_, 20, atol=0.5)
        assert (sir > 25).all() and (isr > 25).all() and (np.abs(sar - sdr_) < 1).all()
        mixed = references + references[::-1] / 10
        sdr_, isr, sir, sar = np.median(bss_eval(references, mixed, RATE), 2)
        np.testing.assert_allclose(sdr_, 20, atol=0.5)
        np.testing.assert_allclose(sir, 20, atol=0.5)
        assert (sar > 60).all()

    def test_as_museval_computes_it_for_a_track(self) -> None:
        """Arguments that `museval.evaluate` passes to its metrics (its import needs ffmpeg)."""
        from stemwire.extras import lone_module

        exact = pair(4), pair(4) * 0.9 + noise(4 * RATE, 1, 7)
        references, estimates = (np.round(stems * 32_768) / 32_768 for stems in exact)
        direct = lone_module("museval", "metrics", "BSS Eval").bss_eval(
            *(np.array([stem.T for stem in stems]) for stems in (references, estimates)),
            compute_permutation=False,
            window=RATE,
            hop=RATE,
            framewise_filters=False,
            bsseval_sources_version=False,
        )
        np.testing.assert_array_equal(bss_eval(references, estimates, RATE), np.array(direct[:4]))

    def test_empty_bands_break_nothing(self) -> None:
        """Decoded Opus is exactly zero above its cutoff."""
        spectra = np.fft.rfft(pair(4))
        spectra[..., spectra.shape[-1] // 3 :] = 0
        references = np.fft.irfft(spectra).astype(np.float32)
        _, _, sir, sar = np.median(
            bss_eval(references, references + references[::-1] / 10, RATE), 2
        )
        assert (sir > 15).all() and (sar > 15).all()

    def test_silent_windows_are_undefined_in_both_stems(self) -> None:
        references = pair(3)
        references[0, :, RATE : 2 * RATE] = 0
        values = bss_eval(references, references + noise(3 * RATE, 1, 5), RATE)
        assert np.isnan(values[:, :, 1]).all() and np.isfinite(values[:, :, [0, 2]]).all()

    @pytest.mark.parametrize("which", ["reference", "estimate"])
    def test_all_silent_is_undefined(self, which: str) -> None:
        references, estimates = pair(2), pair(2)
        (references if which == "reference" else estimates)[0] = 0
        values = bss_eval(references, estimates, RATE)
        assert values.shape == (4, 2, 2) and np.isnan(values).all()

    def test_perfect_windows_count_as_undefined(self) -> None:
        references = pair(2)
        values = bss_eval(references, references, RATE)
        assert not np.isinf(values).any()

    def test_shorter_than_a_window_is_one(self) -> None:
        assert bss_eval(pair(0.5), pair(0.5) * 0.8, RATE).shape == (4, 2, 1)

    def test_two_equal_channels(self) -> None:
        references = np.repeat(pair(2), 2, axis=1)
        estimates = references + references[::-1] / 10
        np.testing.assert_allclose(bss_eval(references, estimates, RATE)[0], 20, atol=1)

    def test_needs_neither_musdb_nor_stempeg(self) -> None:
        code = """
import sys
import numpy as np
from stemwire.training.evaluation.metrics import bss_eval
bss_eval(*[np.random.default_rng(0).standard_normal((2, 1, 8000), np.float32)] * 2, 8000)
sys.exit(bool({"museval", "musdb", "stempeg", "torch"} & set(sys.modules)))
"""
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

    def test_missing_museval(self) -> None:
        code = """
import importlib.machinery
finder = importlib.machinery.PathFinder
find = finder.find_spec
finder.find_spec = lambda name, *rest: None if name == "museval" else find(name, *rest)
import numpy as np
from stemwire.errors import ConfigError
from stemwire.training.evaluation.metrics import bss_eval
try:
    bss_eval(*[np.ones((2, 1, 8000), np.float32)] * 2, 8000)
except ConfigError as error:
    print(error)
"""
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert "needs museval, which is not installed: pip install 'stemwire[train]'" in done.stdout


class TestScores:
    def test_improvement_over_the_mixture(self) -> None:
        references = pair(2)
        mixture = references.sum(0)
        found = scores(references, np.stack((mixture, mixture)), RATE)
        assert [score.improvement for score in found.values()] == [0.0, 0.0]
        estimates = references + references[::-1] / 10  # the other stem, 20 dB down
        for score in scores(references, estimates, RATE).values():
            assert score.improvement == pytest.approx(20, abs=0.01)

    def test_improvement_is_the_others_sdr_where_stems_sum_to_the_mixture(self) -> None:
        references = pair(2)
        vocals = references[0] + noise(2 * RATE, 1, 6, 0.02)
        found = scores(references, np.stack((vocals, references.sum(0) - vocals)), RATE, False)
        assert found["vocals"].improvement == pytest.approx(found["instrumental"].sdr, abs=1e-3)

    def test_without_vocals_leakage_is_the_instrumental_sdr(self) -> None:
        references = pair(2)
        references[0] = 0
        vocals = 0.1 * references[1]
        found = scores(references, np.stack((vocals, references[1] - vocals)), RATE, False)
        assert found["instrumental"].sdr == pytest.approx(20, abs=1e-3)
        assert found["vocals"].leakage == pytest.approx(-20, abs=1e-3)
        assert found["vocals"].silent_seconds == 2.0
        assert not math.isfinite(found["vocals"].sdr)

    def test_medians_are_over_windows_that_are_defined(self) -> None:
        references = pair(4)
        references[0, :, :RATE] = 0
        score = scores(references, references + noise(4 * RATE, 1, 8), RATE)["vocals"]
        windows = score.windows["SDR"]
        assert len(windows) == 4 and math.isnan(windows[0])
        assert score.bss_eval["SDR"] == np.median(windows[1:])

    def test_bad_stems(self) -> None:
        references = pair(1)
        with pytest.raises(AudioError, match="shape"):
            scores(references, references[:, :, 1:], RATE)
        broken = references.copy()
        broken[0, 0, 5] = np.nan
        with pytest.raises(AudioError, match="NaN"):
            scores(references, broken, RATE)


def test_median_of_what_is_finite() -> None:
    assert median([1.0, math.nan, 5.0, math.inf, 2.0]) == 2.0
    assert math.isnan(median([])) and math.isnan(median([math.nan]))
