"""The live engine against its separator: same samples, exact latency, nothing lost."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from support import Audio, music, noise

import stemwire
from stemwire.errors import ConfigError
from stemwire.realtime.levels import OFF
from stemwire.realtime.live.engine import HISTORY_S, LiveEngine
from stemwire.realtime.live.panel import Panel
from stemwire.realtime.mixer import Ramp

RATE = 44_100
BLOCKS = [512, 64, 480, 1024]


def engine_of(block: int = 512, preset: str = "standard", **more: Any) -> LiveEngine:
    def opener(name: str) -> stemwire.StreamingSeparator:
        return stemwire.load(name, RATE, 2, block)

    return LiveEngine(Panel(), opener, preset, RATE, 2, block, **more)


def play(
    engine: LiveEngine, song: Audio, before: Callable[[int], bool] = lambda block: True, **more: Any
) -> Audio:
    """Output of the engine for a song; the worker runs after block k if `before(k)`."""
    size = engine.block_size
    heard = np.zeros_like(song[:, : song.shape[1] // size * size])
    for number, at in enumerate(range(0, heard.shape[1], size)):
        engine.process(song[:, at : at + size], heard[:, at : at + size], **more)
        if before(number):
            while engine.work():
                pass
    return heard


def stems_of(song: Audio, delay: int, preset: str = "standard") -> Audio:
    """Stems of the separator, (2, 2, n), delayed by the latency of an engine."""
    separator = stemwire.load(preset, RATE, 2)
    stems = np.concatenate((separator.push(song), separator.flush()), 2)[..., separator.latency :]
    return np.pad(stems, ((0, 0), (0, 0), (delay, 0)))


def largest_jump(audio: Audio) -> float:
    return float(np.abs(np.diff(audio)).max())


@pytest.mark.parametrize("block", BLOCKS)
def test_what_is_heard_is_the_instrumental(block: int) -> None:
    song = music(RATE, RATE)
    engine = engine_of(block)
    heard = play(engine, song)
    wanted = stems_of(song, engine.latency)[1, :, : heard.shape[1]]
    ramped = engine.latency + RATE // 20  # gains come up from silence
    np.testing.assert_allclose(heard[:, ramped:], wanted[:, ramped:], atol=1e-6)
    assert engine.panel["misses"] == engine.panel["concealed"] == 0
    assert engine.panel["samples"] == heard.shape[1]
    assert engine.panel["hops"] == heard.shape[1] // 512


@pytest.mark.parametrize("block", BLOCKS)
def test_the_delay_is_as_reported(block: int) -> None:
    click = np.zeros((2, 20 * 1024), np.float32)
    click[:, 10_000] = 0.5
    engine = engine_of(block)
    engine.panel.steer("bypass", 1)
    heard = play(engine, click)
    assert int(np.argmax(np.abs(heard[0]))) == 10_000 + engine.latency
    np.testing.assert_allclose(heard[:, 10_000 + engine.latency], 0.5, atol=1e-6)
    assert engine.latency == sum(engine.delays.values()) == 2 * 512 + block


@pytest.mark.parametrize("late", [{40}, {40, 41, 42}, set(range(40, 80)), {40, 42, 44, 50}])
def test_a_late_block_is_concealed_by_the_aligned_input(late: set[int]) -> None:
    song = 0.3 * music(RATE * 2, RATE)
    engine = engine_of(margin=512)
    heard = play(engine, song, lambda number: number not in late)
    wanted = stems_of(song, engine.latency)[1, :, : heard.shape[1]]
    dry = np.pad(song, ((0, 0), (engine.latency, 0)))
    size, first, last = 512, min(late) + 1, max(late) + 1
    if len(late) == last - first + 1:  # one gap
        glided = slice(first * size + 400, (last + 1) * size)
        np.testing.assert_allclose(heard[:, glided], dry[:, glided], atol=1e-3)
    assert engine.panel["misses"] == len(late)
    assert engine.panel["concealed"] == len(late) * size
    # Neither a click nor another delay; and after one block everything is as it would have been.
    assert largest_jump(heard) <= 1.05 * max(largest_jump(song), largest_jump(wanted))
    after = (last + 2) * size
    np.testing.assert_allclose(heard[:, after:], wanted[:, after:], atol=1e-6)


def test_the_usual_margin_tolerates_a_late_block() -> None:
    song = 0.3 * music(RATE, RATE)
    late = {20, 40, 42}
    engine, on_time = engine_of(), engine_of()
    heard = play(engine, song, lambda number: number not in late)
    assert engine.panel["misses"] == 0
    np.testing.assert_array_equal(heard, play(on_time, song))


def test_without_late_blocks_a_gap_would_be_heard() -> None:
    """Check of the test above: it detects the click that silence in a gap would make."""
    song = 0.3 * music(RATE, RATE)
    broken = song.copy()
    broken[:, 20_000:20_512] = 0
    assert largest_jump(broken) > 1.05 * largest_jump(song)


def test_what_is_too_late_is_left_out_and_the_rest_in_time() -> None:
    song = 0.3 * music(RATE * 4, RATE)
    engine = engine_of()
    engine.panel.steer("bypass", 1)
    stalled = range(40, 40 + int((HISTORY_S + 0.5) * RATE / 512))
    heard = play(engine, song, lambda number: number not in stalled)
    assert engine.panel["skipped"] > 0
    dry = np.pad(song, ((0, 0), (engine.latency, 0)))
    after = (stalled.stop + 8) * 512
    np.testing.assert_allclose(heard[:, after:], dry[:, after : heard.shape[1]], atol=1e-5)
    assert largest_jump(heard) <= 1.05 * largest_jump(song)


def test_faders_and_switches_make_no_clicks() -> None:
    song = 0.2 * music(RATE * 3, RATE)
    moves = {
        20: ("vocals", 0.0), 60: ("instrumental", OFF), 90: ("bypass", 1.0), 120: ("bypass", 0.0),
        140: ("mute", 1.0), 170: ("mute", 0.0), 190: ("solo", 2.0), 220: ("output", -6.0),
    }  # fmt: skip
    engine = engine_of()

    def move(number: int) -> bool:
        if number in moves:
            engine.panel.steer(*moves[number])
        return True

    heard = play(engine, song, move)
    assert largest_jump(heard) <= 1.1 * largest_jump(song)
    block = 512

    def at(number: int) -> Audio:
        return heard[:, number * block : (number + 5) * block]

    stems = stems_of(song, engine.latency)

    def wanted(number: int) -> Audio:
        return stems[:, :, number * block : (number + 5) * block]

    np.testing.assert_allclose(at(50), wanted(50).sum(0), atol=1e-6)
    np.testing.assert_allclose(at(80), wanted(80)[0], atol=1e-6)
    np.testing.assert_allclose(at(110), wanted(110).sum(0), atol=1e-6)
    assert not at(160).any()
    # The instrumental's fader is off: solo brings it to 0 dB.
    np.testing.assert_allclose(at(210), wanted(210)[1], atol=1e-6)
    np.testing.assert_allclose(at(240), wanted(240)[1] * 10 ** (-6 / 20), atol=1e-6)


def test_the_microphone_is_heard_at_once() -> None:
    engine = engine_of()
    engine.panel.steer("instrumental", OFF)
    voice = noise(512, seed=3)
    out = np.zeros((2, 512), np.float32)
    for _ in range(4):
        engine.process(np.zeros((2, 512), np.float32), out, voice.copy())
        engine.work()
    np.testing.assert_allclose(out, voice, atol=1e-6)
    assert engine.microphone_delay == 0
    engine.panel.steer("solo", 1)
    for _ in range(3):
        engine.process(np.zeros((2, 512), np.float32), out, voice.copy())
    assert not out.any() and engine.panel["microphone_peak"] > 0


@pytest.mark.parametrize(("first", "then"), [("standard", "low"), ("low", "standard")])
@pytest.mark.parametrize("at", [90, 91])
def test_a_preset_is_changed_without_a_gap(first: str, then: str, at: int) -> None:
    song = 0.3 * music(RATE * 4, RATE)
    engine = engine_of(preset=first)
    before, both = engine.latency, 0

    def change(number: int) -> bool:
        nonlocal both
        both += engine._next is not None
        if number == at:
            engine.prepare(then)
        return True

    heard = play(engine, song, change)
    assert engine.current.preset == then
    assert engine.latency - before == (256 if then == "standard" else -256)
    assert 1 <= both <= 3  # blocks in which two networks run
    assert engine.panel["misses"] == 0
    assert largest_jump(heard) <= 1.1 * largest_jump(song)
    tail = slice(-RATE, None)
    wanted = stems_of(song, engine.latency, then)[1, :, : heard.shape[1]]
    # The new one began in the middle of the song, and hears no further back than its window.
    np.testing.assert_allclose(heard[:, tail], wanted[:, tail], atol=1e-2)
    parts = heard[:, RATE : RATE * 3].reshape(2, -1, 441)  # of 10 ms
    assert np.square(parts).mean((0, 2)).min() > 0


def test_a_preset_that_is_asked_for_while_another_comes_makes_no_click() -> None:
    engine = engine_of()
    opener = engine._open_separator
    asked: list[str] = []

    def turned(name: str) -> stemwire.StreamingSeparator:
        """Separator of "standard", or one with inverted stems, so that changes are large."""
        separator = opener("standard")
        if name == "turned":
            push = separator.push
            separator.push = lambda block: -push(block)  # type: ignore[method-assign]
        return separator

    def change(number: int) -> bool:
        if number == 60:
            engine.prepare("turned")
        elif 0.0 < engine._crossfade.value < 1.0 and not asked:
            asked.append("standard")
            engine.prepare("standard")
        return True

    engine._open_separator = turned
    hum = 0.5 * np.sin(2 * np.pi * 50 * np.arange(RATE * 4) / RATE)
    song = np.tile(hum.astype(np.float32), (2, 1))
    heard = play(engine, song, change)
    assert asked and engine.current.preset == "standard"
    assert np.abs(heard[:, RATE:]).max() > 0.2
    assert largest_jump(heard) <= 2 * largest_jump(song)


def test_the_worker_goes_on_after_an_error() -> None:
    engine = engine_of()
    push, broken = engine.current.separator.push, [True]

    def fail(block: Audio) -> Audio:
        if broken[0]:
            raise RuntimeError("the accelerator is out of order")
        return push(block)

    engine.current.separator.push = fail  # type: ignore[method-assign]
    thread = engine.start_thread()
    block, out = noise(512, seed=1, level=0.1), np.zeros((2, 512), np.float32)

    def play_on(seconds: float) -> float:
        for _ in range(round(seconds * RATE / 512)):
            engine.process(block, out)
            time.sleep(512 / RATE)
        return engine.panel["misses"]

    assert play_on(0.5) > 20 and thread.is_alive()  # the input plays meanwhile
    np.testing.assert_allclose(out, block, atol=1e-6)
    assert "RuntimeError: the accelerator is out of order" in engine.last_error
    broken[0] = False
    late = play_on(0.5)
    assert play_on(0.5) <= late + 2  # of the machine
    engine.stop()
    thread.join(2)


def test_a_margin_longer_than_what_is_kept() -> None:
    song = 0.3 * music(RATE * 5, RATE)
    engine = engine_of(margin=3 * RATE)
    engine.panel.steer("bypass", 1)
    heard = play(engine, song)
    begun = engine.latency + RATE // 20
    dry = np.pad(song, ((0, 0), (engine.latency, 0)))[:, : heard.shape[1]]
    np.testing.assert_allclose(heard[:, begun:], dry[:, begun:], atol=1e-5)
    assert engine.panel["misses"] == 0


def test_bad_samples_are_silence_and_counted() -> None:
    song = 0.2 * music(RATE, RATE)
    song[0, 9_000:9_010] = [math.nan, math.inf, -math.inf, 1e30, math.nan] * 2
    engine = engine_of()
    heard = play(engine, song)
    assert np.isfinite(heard).all() and engine.panel["bad_input"] == 10
    assert np.abs(heard[:, -1000:]).max() > 0.01


def test_beyond_full_scale_is_clipped_and_counted() -> None:
    engine = engine_of()
    engine.panel.steer("output", 24)
    heard = play(engine, 0.5 * music(RATE, RATE))
    assert np.abs(heard).max() == 1.0 and engine.panel["clipped"] > 100


def test_no_sample_is_too_loud_where_another_is_no_number() -> None:
    engine = engine_of()
    engine.panel.steer("bypass", 1)
    engine.panel.steer("output", 24)
    play(engine, 0.5 * music(RATE, RATE))
    before = engine.panel["clipped"]
    engine._mixed._data[0, ::7] = math.nan  # as a backend that has gone wrong might give
    heard = np.zeros((2, 512), np.float32)
    engine.process(np.zeros_like(heard), heard)
    assert np.isnan(heard).any() and np.nanmax(np.abs(heard)) == 1.0
    assert engine.panel["clipped"] > before


@pytest.mark.parametrize("block", [64, 512, 1024])
@pytest.mark.parametrize("preset", ["standard", "low"])
def test_a_worker_that_is_behind_catches_up_with_the_same_samples(preset: str, block: int) -> None:
    song = music(RATE, RATE)
    pushed: list[int] = []

    def busy(number: int) -> bool:  # it comes to work for every ninth block only, then for each
        return number % 9 == 8 or number * block > RATE // 2

    engine, prompt = engine_of(block, preset, margin=12 * max(block, 512)), engine_of(block, preset)
    push = engine.current.separator.push

    def watched(audio: Audio) -> Audio:
        pushed.append(audio.shape[1])
        return push(audio)

    engine.current.separator.push = watched  # type: ignore[method-assign]
    heard, expected = play(engine, song, busy), play(prompt, song)
    late = engine.latency - prompt.latency
    begun = engine.latency + RATE // 20  # gains come up from silence
    np.testing.assert_array_equal(heard[:, begun:], expected[:, begun - late : -late])
    assert engine.panel["misses"] == 0
    assert max(pushed[: len(pushed) // 2]) > block  # several at once
    assert max(pushed[-5:]) <= block  # and one by one again


def test_after_a_day_positions_are_what_they_were() -> None:
    song = music(RATE, RATE)
    engine, fresh = engine_of(), engine_of()
    past = 2**33 // 512 * 512  # 54 hours
    for line in (engine._input, engine._played, engine._mixed, engine._stems):
        line._data = np.roll(line._data, past % line.capacity, -1)
        line.written += past
    np.testing.assert_array_equal(play(engine, song), play(fresh, song))


class Take:
    """Sink that stores what it gets."""

    def __init__(self) -> None:
        self.parts: list[Audio] = []

    def write(self, stems: Audio) -> None:
        self.parts.append(stems.copy())


def test_a_recording_holds_what_was_heard() -> None:
    song = 0.3 * music(RATE, RATE)
    engine, take = engine_of(), Take()
    engine.record(take)
    heard = play(engine, song, lambda number: number not in {30, 31})
    recorded = np.concatenate(take.parts, 2)
    count = recorded.shape[2]
    assert heard.shape[1] - count <= 512
    np.testing.assert_array_equal(recorded[2], heard[:, :count])
    stems = stems_of(song, engine.latency)[..., :count]
    begun = engine.latency  # before it, what the first window makes of silence
    np.testing.assert_allclose(recorded[:2, :, begun:], stems[..., begun:], atol=1e-6)


def test_a_worker_thread_keeps_up() -> None:
    song = music(RATE // 2, RATE)
    engine = engine_of()
    thread = engine.start_thread()
    heard = np.zeros((2, 512), np.float32)
    for at in range(0, song.shape[1] - 512, 512):
        began = time.perf_counter()
        engine.process(song[:, at : at + 512], heard)
        time.sleep(max(0.0, 0.05 - (time.perf_counter() - began)))  # slower than music, for CI
    engine.stop()
    thread.join(2)
    assert not thread.is_alive() and engine.panel["misses"] <= 1


def test_ramps_reach_their_target_and_stay() -> None:
    ramp = Ramp(0.0, 100)
    line = np.concatenate([np.atleast_1d(ramp.to(1.0, 64)) for _ in range(2)])
    assert line[99] == pytest.approx(1.0) and (np.diff(line) >= 0).all()
    assert ramp.value == 1.0 and ramp.to(1.0, 64) == 1.0
    down = ramp.to(0.25, 100)
    assert np.asarray(down)[-1] == pytest.approx(0.25) and ramp.value == 0.25


@pytest.mark.parametrize(
    ("name", "value"), [("vocals", 30), ("vocals", math.nan), ("mute", 0.5), ("solo", 4), ("x", 0)]
)
def test_controls_that_cannot_be(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=name):
        Panel().steer(name, value)
