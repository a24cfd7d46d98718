"""What `stemwire live --check` measures, and what it says."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import noise
from hypothesis import given
from hypothesis import strategies as st

import stemwire
from stemwire.realtime.selfcheck import BLOCKS, find_delay, smallest_block, sweep, time_preset
from stemwire.realtime.stats import TimeHistogram

RATE = 44_100


@given(delay=st.integers(0, 40_000), level=st.floats(0.05, 1.0), seed=st.integers(0, 9))
def test_a_delay_is_found_to_the_sample(delay: int, level: float, seed: int) -> None:
    tone = sweep(RATE)
    heard = noise(2 * RATE, 1, seed, level=0.002)[0]
    heard[delay : delay + len(tone)] += level * tone
    assert find_delay(tone, heard) == delay


@pytest.mark.parametrize("level", [0.0, 0.1])
def test_without_a_cable_nothing_is_found(level: float) -> None:
    assert find_delay(sweep(RATE), noise(2 * RATE, 1, level=level)[0]) is None


def times(milliseconds: float, slow: float) -> TimeHistogram:
    histogram = TimeHistogram()
    for k in range(1000):
        histogram.add((slow if k % 400 == 7 else milliseconds) / 1e3)
    return histogram


def test_blocks_are_as_large_as_the_slowest_hops_need() -> None:
    assert smallest_block(times(1.0, 1.0), 512, RATE) == 64
    assert smallest_block(times(1.0, 6.0), 512, RATE) == 256
    assert smallest_block(times(1.0, 30.0), 512, RATE) is None
    assert smallest_block(times(11.0, 11.0), 512, RATE) is None  # no time is left
    assert smallest_block(times(0.1, 0.1), 512, RATE) == BLOCKS[0]


def test_presets_are_timed_at_the_pace_of_music() -> None:
    preset = stemwire.presets()[-1]
    histogram = time_preset(preset, RATE, seconds=0.3)
    assert histogram.count == pytest.approx(0.3 * RATE / preset.config.hop, abs=1)
    assert np.isfinite(histogram.percentile(99))
