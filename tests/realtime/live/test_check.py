"""`stemwire live --check`: its measurements and conclusions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import ROOT, noise, read_audio
from support.jack_server import VirtualCard, jack_server, need_jack

import stemwire
from stemwire.realtime.live import check as selfcheck
from stemwire.realtime.live.check import (
    BLOCKS,
    LISTEN_S,
    blocks_per_burst,
    find_delay,
    reason_against,
    smallest_block,
    sweep,
    time_preset,
)
from stemwire.realtime.live.devices import find_device, rescan
from stemwire.realtime.timing import TimeHistogram

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


def test_music_at_the_input_is_no_cable() -> None:
    song = read_audio(ROOT / "examples" / "excerpt.opus")[0]
    tone = sweep(RATE)
    for at in range(0, len(song) - 2 * RATE, RATE):
        heard = song[at : at + round(LISTEN_S * RATE)].copy()
        assert find_delay(tone, heard) is None
        heard[1500 : 1500 + len(tone)] += 2 * tone
        assert find_delay(tone, heard) == 1500


def times(milliseconds: float, slow: float) -> TimeHistogram:
    histogram = TimeHistogram()
    for k in range(1000):
        histogram.add((slow if k % 400 == 7 else milliseconds) / 1e3)
    return histogram


SINGLE: dict[int, int | None] = {block: block for block in BLOCKS}


def test_blocks_are_as_large_as_the_slowest_hops_need() -> None:
    assert smallest_block(times(1.0, 1.0), 512, RATE, SINGLE) == 64
    assert smallest_block(times(1.0, 6.0), 512, RATE, SINGLE) == 256
    assert smallest_block(times(1.0, 30.0), 512, RATE, SINGLE) is None
    assert smallest_block(times(11.0, 11.0), 512, RATE, SINGLE) is None  # no time is left
    assert smallest_block(times(0.1, 0.1), 512, RATE, SINGLE) == BLOCKS[0]


def test_blocks_that_come_in_bursts_leave_no_time() -> None:
    quick = times(1.0, 1.0)
    system = {block: max(512, block) for block in BLOCKS}  # has blocks of 512 itself
    # Blocks of 256 leave 512 samples, which are asked for at once: just enough.
    assert smallest_block(quick, 512, RATE, system) == 256
    assert "leave 0.0 ms, as 4 of them come at once" in reason_against(128, quick, 512, RATE, 512)
    assert smallest_block(quick, 512, RATE, {64: None, 1024: 1024}) == 1024
    assert "cannot be opened" in reason_against(64, quick, 512, RATE, None)


@given(size=st.integers(1, 8), bursts=st.integers(4, 40), seed=st.integers(0, 99))
def test_blocks_at_once_are_counted(size: int, bursts: int, seed: int) -> None:
    length = 0.0015
    late = np.random.default_rng(seed).uniform(0, 0.4 * length, bursts)
    came = [k * size * length + late[k] + n * 2e-5 for k in range(bursts) for n in range(size)]
    assert blocks_per_burst(came, length) == size


def test_blocks_at_once_of_a_real_device() -> None:
    need_jack("sounddevice")
    with jack_server(RATE, 512), VirtualCard("desk", loopback=1024):
        rescan()
        desk = find_device("desk", "output")
        found = [
            selfcheck.samples_per_request(desk, desk, RATE, block) for block in (128, 512, 1024)
        ]
        assert found == [512, 512, 1024]
        assert selfcheck.samples_per_request(desk, desk, 48_000, 512) is None


def test_presets_are_timed_at_the_pace_of_music() -> None:
    preset = stemwire.presets()[-1]
    histogram = time_preset(preset, RATE, seconds=0.3)
    assert histogram.count == pytest.approx(0.3 * RATE / preset.config.hop, abs=1)
    assert np.isfinite(histogram.percentile(99))
