"""Drift correction between two simulated clocks: callbacks early, late, in bursts or missing.

`python tests/realtime/live/test_drift.py` prints the figures of docs/decisions.md.
"""

from __future__ import annotations

import threading
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
from numpy.typing import NDArray

from stemwire.errors import ConfigError
from stemwire.realtime.live.drift import (
    MAX_RATIO_OFFSET,
    CallbackClock,
    DriftCorrector,
    FarrowResampler,
    tap_polynomials,
)

Audio = NDArray[np.float32]
Lateness = Callable[[int], float]

RATE, BLOCK = 44_100, 512
LAP = 4096  # samples after which `circle` comes round


def circle(start: int, count: int) -> Audio:
    """A signal that tells its own position: sine and cosine."""
    angle = 2 * np.pi * ((np.arange(count) + start) % LAP) / LAP
    return np.stack((np.sin(angle), np.cos(angle))).astype(np.float32)


def sine(pitch: float, channels: int = 1) -> Callable[[int, int], Audio]:
    def signal(start: int, count: int) -> Audio:
        wave = 0.5 * np.sin(2 * np.pi * pitch / RATE * np.arange(start, start + count))
        return np.repeat(wave[None], channels, 0).astype(np.float32)

    return signal


@dataclass
class Simulation:
    """An input `ppm(seconds)` faster than the output, whose callbacks come when they like."""

    ppm: float | Callable[[float], float] = 100.0
    signal: Callable[[int, int], Audio] = circle
    input_block: int = BLOCK
    output_block: int = BLOCK
    write_late: Lateness = lambda number: 0.0
    read_late: Lateness = lambda number: 0.0
    phase: float = 0.0037  # seconds that the input's blocks are after the output's
    fill: int | None = None
    corrector: DriftCorrector = field(init=False)

    def __post_init__(self) -> None:
        channels = len(self.signal(0, 1))
        self.corrector = DriftCorrector(
            RATE, channels, self.input_block, self.output_block, self.fill
        )
        self.heard: list[Audio] = []
        self.first: list[tuple[float, float]] = []  # where the input was, two channels of output
        self.captured: list[float] = []
        self.ratios: list[float] = []
        self.costs: list[tuple[float, float]] = []  # seconds, and of them on the processor

    def run(self, seconds: float, *, keep: bool = True) -> Simulation:
        corrector, out = self.corrector, np.zeros((len(self.signal(0, 1)), self.output_block), "f4")
        number = turn = 0
        begun = self.phase  # the input's block: since when, and until when
        written = self._end_of_block(begun)
        late = self.write_late(0)
        while (due := turn * self.output_block / RATE) < seconds:
            now = due + self.read_late(turn)
            while written + late <= now:
                block = self.signal(number * self.input_block, self.input_block)
                corrector.write(block, written + late)
                number += 1
                begun, written = written, self._end_of_block(written)
                late = self.write_late(number)
            # How much the input has captured when this output is due, callbacks or not.
            start, ahead, end = begun, number, written
            while end <= due:
                start, ahead, end = end, ahead + 1, self._end_of_block(end)
            self.captured.append((ahead + (due - start) / (end - start)) * self.input_block)
            before = time.perf_counter(), time.thread_time()
            corrector.read_into(out, now)
            self.costs.append((time.perf_counter() - before[0], time.thread_time() - before[1]))
            self.first.append((float(out[0, 0]), float(out[-1, 0])))
            self.ratios.append(corrector._drift)
            if keep:
                self.heard.append(out.copy())
            turn += 1
        return self

    def _end_of_block(self, begun: float) -> float:
        ppm = self.ppm(begun) if callable(self.ppm) else self.ppm
        return begun + self.input_block / (RATE * (1 + ppm * 1e-6))

    @property
    def audio(self) -> Audio:
        return np.concatenate(self.heard, 1)

    def wrong(self) -> NDArray[np.float64]:
        """Samples by which the delay of each output block was not `latency`, NaN if silent."""
        first = np.array(self.first)
        position = np.arctan2(first[:, 0], first[:, 1]) / (2 * np.pi) * LAP
        delay = np.array(self.captured) - position - self.output_block - self.corrector.latency
        wrong = (delay + LAP / 2) % LAP - LAP / 2
        wrong[np.hypot(*first.T) < 0.9] = np.nan
        return wrong


def bursts(size: int) -> Lateness:
    """Blocks that come together."""
    return lambda number: (size - 1 - number % size) * BLOCK / RATE


def jitter(seconds: float, seed: int) -> Lateness:
    late = np.random.default_rng(seed).exponential(seconds, 1 << 20)
    return lambda number: float(late[number])


def signal_to_noise(audio: NDArray[np.float32], pitch: float) -> float:
    """dB of the best sine, near `pitch`, over what it leaves."""
    y = audio.astype(np.float64)
    t = np.arange(len(y)) - len(y) / 2
    for _ in range(5):
        angle = 2 * np.pi * pitch / RATE * t
        s, c = np.sin(angle), np.cos(angle)
        (a, b), *_ = np.linalg.lstsq(np.stack((s, c), 1), y, rcond=None)
        slope = np.linalg.lstsq(np.stack((s, c, (a * c - b * s) * t), 1), y, rcond=None)[0][2]
        pitch += slope * RATE / (2 * np.pi)
    rest = y - a * s - b * c
    return float(10 * np.log10(np.sum(y * y) / np.sum(rest * rest)))


@pytest.mark.parametrize("pitch", [1_000.0, 10_000.0, 18_000.0])
@pytest.mark.parametrize("ppm", [100.0, -100.0])
def test_a_sine_stays_a_sine(pitch: float, ppm: float) -> None:
    audio = Simulation(ppm, sine(pitch)).run(16).audio[0]
    assert signal_to_noise(audio[-RATE:], pitch * (1 + ppm * 1e-6)) > 90


@pytest.mark.parametrize(
    "ppm, blocks",
    [
        (0.0, (512, 512)), (40.0, (512, 512)), (-150.0, (512, 512)), (30.0, (256, 1024)),
        (-30.0, (1024, 256)), (60.0, (480, 441)), (25.0, (64, 64)), (25.0, (128, 600)),
    ],
)  # fmt: skip
def test_the_delay_is_what_is_reported(ppm: float, blocks: tuple[int, int]) -> None:
    simulation = Simulation(ppm, input_block=blocks[0], output_block=blocks[1]).run(20)
    corrector = simulation.corrector
    wrong = simulation.wrong()[len(simulation.first) // 2 :]
    assert abs(wrong.mean()) < 0.2 and np.abs(wrong).max() < 1.0
    assert corrector.latency == corrector.min_fill(blocks[0]) + round(0.005 * RATE)
    assert corrector.fill == pytest.approx(corrector.latency, abs=0.2)
    assert corrector.ppm == pytest.approx(ppm, abs=1.0)
    assert (corrector.underruns, corrector.overruns, corrector.missing) == (0, 0, 0)


def test_it_settles_without_swinging() -> None:
    simulation = Simulation(100.0).run(30)
    wrong = simulation.wrong()
    sounding = np.flatnonzero(~np.isnan(wrong))
    assert sounding[0] * BLOCK / RATE < 0.06  # sound begins
    assert np.nanmax(np.abs(wrong)) < 10
    late = np.abs(wrong) > 1
    assert np.flatnonzero(late)[-1] * BLOCK / RATE < 6  # the last time that it was a sample off
    assert max(simulation.ratios) < 150e-6  # hardly more than it ends at


@pytest.mark.parametrize("seconds", [0.0005, 0.002])
def test_jitter_is_not_heard(seconds: float) -> None:
    simulation = Simulation(
        80.0, write_late=jitter(seconds, 1), read_late=jitter(seconds, 2), fill=2 * BLOCK
    ).run(40)
    wrong = simulation.wrong()[len(simulation.first) // 2 :]
    assert abs(wrong.mean()) < 1 + 3000 * seconds
    assert np.abs(wrong).max() < 5 + 7000 * seconds
    ratios = np.array(simulation.ratios[len(simulation.ratios) // 2 :])
    assert np.abs(ratios - 80e-6).max() < 200e-6  # a third of a cent
    slow = np.abs(np.diff(ratios)) * RATE / BLOCK
    assert slow.max() < 250e-6  # in a second
    assert simulation.corrector.underruns == 0


def test_the_ratio_has_bounds() -> None:
    """Devices that are not what they say: kept going, with jumps that are counted."""
    simulation = Simulation(5_000.0).run(20)
    assert np.abs(simulation.ratios).max() <= MAX_RATIO_OFFSET
    assert simulation.corrector.overruns > 3
    assert np.abs(np.diff(simulation.audio)).max() < 0.02


@pytest.mark.parametrize("size", [3, 4])
def test_bursts_make_the_fill_grow_until_all_is_there(size: int) -> None:
    simulation = Simulation(50.0, write_late=bursts(size)).run(20)
    corrector = simulation.corrector
    silent = np.flatnonzero(np.isnan(simulation.wrong()))
    assert 0 < corrector.underruns < 20
    assert silent[-1] * BLOCK / RATE < 8
    assert 766 < corrector.latency <= 766 + 4 * BLOCK
    # Nothing tells how late the blocks of a burst are: what is reported counts from their average.
    wrong = simulation.wrong()[-300:]
    assert abs(wrong.mean() - (size - 1) / 2 * BLOCK) < 40 and wrong.std() < 20


def test_a_gap_is_bridged_and_the_delay_comes_back() -> None:
    """Input that comes 100 ms late, and then all at once."""
    stalled = range(1000, 1009)
    simulation = Simulation(
        60.0, write_late=lambda n: (1009 - n) * BLOCK / RATE if n in stalled else 0.0
    ).run(30)
    corrector = simulation.corrector
    assert corrector.underruns == 1
    assert corrector.missing == pytest.approx(8 * BLOCK, abs=BLOCK)
    assert np.abs(np.diff(simulation.audio)).max() < 0.015  # fades, where a cut would be 1
    wrong = simulation.wrong()
    assert np.abs(wrong[-500:]).max() < 2.0 and abs(wrong[1100:].mean()) < 3.0
    assert corrector.latency == 767 - 1  # a single gap is no reason for a longer delay


def test_input_that_is_lost_is_noticed() -> None:
    """From block 1000 on everything comes three blocks late, as if three had been dropped."""
    simulation = Simulation(60.0, write_late=lambda n: 3 * BLOCK / RATE if n >= 1000 else 0.0).run(
        25
    )
    corrector = simulation.corrector
    assert 1 <= corrector.underruns <= 2
    assert corrector.missing < 25 * BLOCK
    wrong = simulation.wrong()[-500:] - 3 * BLOCK  # which the simulation's clock knows nothing of
    assert np.abs(wrong).max() < 2.0


def test_an_output_that_paused_goes_on_at_the_old_delay() -> None:
    simulation = Simulation(60.0, read_late=lambda n: 2.0 if n >= 800 else 0.0).run(20)
    corrector = simulation.corrector
    assert (corrector.underruns, corrector.overruns) == (0, 1)
    assert corrector.skipped == pytest.approx(2 * RATE, abs=20)
    assert corrector.fill == pytest.approx(corrector.latency, abs=0.5)
    assert np.abs(np.diff(simulation.audio)).max() < 0.015


def test_input_that_stops_is_silence_and_starts_again() -> None:
    corrector = DriftCorrector(RATE, 2, BLOCK, BLOCK)
    out = np.ones((2, BLOCK), np.float32)
    for turn in range(10):
        corrector.read_into(out, turn * BLOCK / RATE)
        assert not out.any() and corrector.underruns == corrector.missing == 0  # not begun
    now, position, heard = 10 * BLOCK / RATE, 0, []
    for running in (True, False, True):
        for _ in range(300):
            if running:
                corrector.write(circle(position, BLOCK), now)
            position += BLOCK
            corrector.read_into(out, now)
            heard.append(out.copy())
            now += BLOCK / RATE
    loud = np.array([np.hypot(*block).min() > 0.99 for block in heard])
    assert loud[5:300].all() and not loud[303:600].any() and loud[620:].all()
    assert corrector.underruns == 1
    assert np.abs(np.diff(np.concatenate(heard, 1))).max() < 0.015


@pytest.mark.parametrize("sizes", [(1, 7), (3, 300, 511), (1_000, 24)])
def test_any_size_can_be_read(sizes: tuple[int, ...]) -> None:
    corrector = DriftCorrector(RATE, 2, BLOCK, max(sizes), 3 * BLOCK)
    heard, read, written = [], 0, 0
    for turn in range(3_000):
        count = sizes[turn % len(sizes)]
        while (written + BLOCK) <= read:
            corrector.write(circle(written, BLOCK), (written + BLOCK) / RATE)
            written += BLOCK
        out = np.full((2, count), np.nan, np.float32)
        corrector.read_into(out, read / RATE)
        heard.append(out)
        read += count
    corrector.read_into(np.zeros((2, 0), np.float32))
    audio = np.concatenate(heard, 1)
    assert np.isfinite(audio).all() and corrector.underruns == 0
    assert np.abs(np.diff(audio)).max() < 0.015
    assert np.hypot(*audio[:, -2_000:]).min() > 0.999


def test_counts_beyond_32_bits() -> None:
    """A day of 192 kHz is 1.7e10 samples."""
    simulation = Simulation(90.0)
    corrector, far = simulation.corrector, LAP * 5_000_000
    corrector._written = corrector._input.count = far
    simulation.run(16)
    assert corrector._at > 1 << 34
    wrong = simulation.wrong()[-200:]
    assert np.abs(wrong).max() < 1.0


def test_too_small_a_fill_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"at least 546, not 500"):
        DriftCorrector(RATE, 2, 512, 512, 500)
    assert DriftCorrector(RATE, 2, 512, 512, 546).latency == 546


def test_a_block_costs_no_memory() -> None:
    simulation = Simulation(100.0).run(1)
    corrector = simulation.corrector
    block, out = circle(0, BLOCK), np.zeros((2, BLOCK), np.float32)
    now = 1.0
    tracemalloc.start()
    try:
        for turn in range(200):
            if turn == 50:
                tracemalloc.reset_peak()
                start, _ = tracemalloc.get_traced_memory()
            now += BLOCK / RATE
            corrector.write(block, now)
            corrector.read_into(out, now)
        end, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert end - start < 2_000
    assert peak - start < 16_000  # what lives during a call


def test_taps_are_a_low_pass_at_every_position() -> None:
    """Sines at fractional positions, against sines."""
    assert tap_polynomials().shape == (10, 65)
    ring = np.zeros((1, 4096), np.float32)
    farrow = FarrowResampler(ring)
    for pitch in (0.01, 0.2, 0.45):
        ring[:, :2048] = ring[:, 2048:] = np.sin(2 * np.pi * pitch * np.arange(2048))
        out = np.zeros((1, 700), np.float32)
        for fraction in (0.0, 0.3, 0.5, 0.999):
            for before, after in ((0.0, 0.0), (1e-3, 1e-3), (-1e-3, 1e-3)):
                farrow.interpolate(out, 900, fraction, before, after)
                k = np.arange(700)
                at = 900 + fraction + k * (1 + before) + (after - before) / 700 * k * k / 2
                error = out[0] - np.sin(2 * np.pi * pitch * at)
                assert np.abs(error).max() < 4e-5


def test_a_clock_draws_a_straight_line_through_jitter() -> None:
    clock, late = CallbackClock(RATE), jitter(0.001, 3)
    period = 1 / (RATE * 1.00005)
    for number in range(8_000):
        clock.update(BLOCK, (number + 1) * BLOCK * period + late(number))
    assert clock.period == pytest.approx(period, rel=30e-6)
    assert clock.time == pytest.approx(clock.count * period + 0.001, abs=0.0003)
    assert clock.count == 8_000 * BLOCK


def test_two_threads_by_the_wall_clock() -> None:
    """As it is used: nothing is simulated, and on a busy machine callbacks are late as they are."""
    corrector, heard, end = DriftCorrector(RATE, 2, BLOCK, BLOCK), [], time.perf_counter() + 3
    failed: list[BaseException] = []

    def every(period: float, act: Callable[[int], object]) -> None:
        due, number = time.perf_counter(), 0
        while due < end:
            time.sleep(max(0.0, due - time.perf_counter()))
            try:
                act(number)
            except BaseException as error:
                failed.append(error)
                raise
            due, number = due + period, number + 1

    def give(number: int) -> None:
        out = np.full((2, BLOCK), np.nan, np.float32)
        corrector.read_into(out)
        heard.append(out)

    def take(number: int) -> None:
        corrector.write(circle(number * BLOCK, BLOCK))

    faster = BLOCK / RATE / (1 + 200e-6)
    threads = [
        threading.Thread(target=every, args=(faster, take)),
        threading.Thread(target=every, args=(BLOCK / RATE, give)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    audio = np.concatenate(heard, 1)
    assert not failed and np.isfinite(audio).all()
    assert np.abs(np.diff(audio)).max() < 0.015  # whatever happened, nothing clicked
    assert np.hypot(*audio[:, ::BLOCK]).mean() > 0.5


@pytest.mark.slow
def test_an_hour() -> None:
    """Clocks that wander as rooms warm up, callbacks that are late: the delay never moves."""

    def ppm(seconds: float) -> float:
        return 40.0 + 60.0 * float(np.exp(-seconds / 600)) + 5.0 * float(np.sin(seconds / 100))

    blocks = {"input_block": 2048, "output_block": 2048}
    late = jitter(0.0003, 4), jitter(0.0003, 5)
    simulation = Simulation(ppm, write_late=late[0], read_late=late[1], **blocks)
    simulation.run(3_600, keep=False)
    corrector, wrong = simulation.corrector, simulation.wrong()
    assert (corrector.underruns, corrector.overruns) == (0, 0)
    settled = wrong[len(wrong) // 60 :]
    assert np.abs(settled).max() < 12.0 and abs(settled.mean()) < 0.1
    minutes = settled[: len(settled) // 59 * 59].reshape(59, -1).mean(1)
    assert np.abs(minutes).max() < 2.5
    assert corrector.ppm == pytest.approx(ppm(3_600), abs=15)


def print_figures() -> None:
    for pitch in (1_000.0, 10_000.0, 18_000.0, 20_000.0):
        for ppm in (100.0, -100.0):
            audio = Simulation(ppm, sine(pitch)).run(40).audio[0]
            marks = [
                f"{signal_to_noise(audio[s * RATE : (s + 1) * RATE], pitch * (1 + ppm / 1e6)):.0f}"
                for s in (2, 5, 10, 20, 39)
            ]
            levels = ", ".join(marks)
            print(f"{pitch:6.0f} Hz at {ppm:+.0f} ppm: SNR {levels} dB after 2, 5, 10, 20, 39 s")
    simulation = Simulation(100.0).run(60)
    wrong = np.abs(simulation.wrong())
    for limit in (1.0, 0.1):
        last = np.flatnonzero(wrong > limit)[-1] * BLOCK / RATE
        print(f"delay within {limit} samples of {simulation.corrector.latency} after {last:.1f} s")
    print("a block of 512 stereo samples takes, p50, p99 and max:")
    for name, seconds in zip(("elapsed", "processor"), np.array(simulation.costs).T, strict=True):
        marks = np.quantile(seconds, (0.5, 0.99, 1.0))
        shares = (f"{1e6 * m:.0f} µs ({100 * m * RATE / BLOCK:.1f} %)" for m in marks)
        print(f"  {name}: {', '.join(shares)}")
    for milliseconds in (0.1, 0.5, 1.0, 2.0):
        late = jitter(milliseconds / 1e3, 1), jitter(milliseconds / 1e3, 2)
        simulation = Simulation(100.0, write_late=late[0], read_late=late[1], fill=1400).run(60)
        half = len(simulation.first) // 2
        wrong, ratios = simulation.wrong()[half:], np.array(simulation.ratios[half:]) * 1e6
        print(
            f"callbacks late by {milliseconds} ms on average: delay off by {wrong.mean():+.2f} "
            f"± {wrong.std():.2f} samples, ratio by {ratios.std():.0f} ppm"
        )


if __name__ == "__main__":
    print_figures()
