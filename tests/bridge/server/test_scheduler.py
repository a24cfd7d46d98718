"""Who is separated when; with real separators, and a backend that tells what it was asked."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from support import music

pytest.importorskip("msgspec")

import stemwire
from stemwire.bridge.protocol.messages import Flush
from stemwire.bridge.server.pipeline import Arrived, Strip, Voice
from stemwire.bridge.server.scheduler import PATIENT, YOUNG, YOUNG_S, Scheduler
from stemwire.realtime.backends import load_backend
from stemwire.realtime.live.priority import WORKER, raise_priority
from stemwire.realtime.streaming import StreamingSeparator

RATE = 44_100
HOP = 512
FAR = 1e6  # seconds


def hurried() -> bool:
    """Whether this thread has real-time priority."""
    scheduler = getattr(os, "sched_getscheduler", None)
    return scheduler is not None and bool(scheduler(0) & os.SCHED_FIFO)


class Watched:
    """The real backend; keeps which streams shared a round, and can be held up or fail."""

    name = "watched"

    def __init__(self) -> None:
        self._backend = load_backend(stemwire.find_preset("standard"), "auto")
        self.rounds: list[list[Any]] = []
        self.hurried: list[bool] = []  # whether a round had real-time priority
        self.gate = threading.Event()
        self.gate.set()
        self.failing: set[int] = set()

    def open(self) -> Any:
        return self._backend.open()

    def batch(self, most: int) -> Any:
        batch = self._backend.batch(most)
        watched = self

        class Batch:
            def step(self, streams: Sequence[Any], frames: Sequence[Any]) -> list[Any]:
                watched.gate.wait(20)
                watched.rounds.append(list(streams))
                watched.hurried.append(hurried())
                if watched.failing & {id(stream) for stream in streams}:
                    raise RuntimeError("the backend broke")
                return batch.step(streams, frames)

        return Batch()


class Desk:
    """A scheduler with strips, and what came of them."""

    def __init__(self, threads: int = 1, most: int = 8, hurry: bool = False) -> None:
        self.backend = Watched()
        self.scheduler = Scheduler(threads, most, 1e-6, full=100.0, hurry=hurry)
        self.errors: dict[Strip, Exception] = {}
        self.done: dict[Strip, list[Any]] = {}

    def opener(self, preset: str, rate: int, channels: int, block: int | None) -> Any:
        config = stemwire.find_preset("standard").config
        return StreamingSeparator(self.backend, config, rate, channels, block)

    def strip(self) -> Strip:
        voice = Voice(self.opener, "standard", {}, {}, RATE, 2, HOP, (0.0, 1.0))
        strip = Strip(voice, ("vocals", "instrumental"))
        self.done[strip] = []

        def deliver(error: Exception | None) -> None:
            while strip.results:
                self.done[strip].append(strip.results.popleft())
            if error is not None:
                self.errors[strip] = error

        assert self.scheduler.add(strip, RATE / HOP, deliver)
        return strip

    def put(self, strip: Strip, audio: Any, deadline: float) -> None:
        strip.put(Arrived(audio, 0, deadline))
        self.scheduler.wake(strip)

    def __enter__(self) -> Desk:
        return self

    def __exit__(self, *_: object) -> None:
        self.backend.gate.set()
        self.scheduler.close()


def until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_what_is_due_first_is_done_first() -> None:
    block = 0.3 * music(HOP, RATE)
    with Desk(most=1) as desk:
        first, *others = [desk.strip() for _ in range(4)]
        desk.backend.gate.clear()
        now = time.monotonic()
        desk.put(first, block, now)
        until(lambda: desk.scheduler.busy >= 0 and not desk.scheduler._ready)
        for strip, late in zip(others, (0.03, 0.01, 0.02), strict=True):
            desk.put(strip, block, now + late)
        desk.backend.gate.set()
        until(lambda: all(desk.done.values()))
        streams = [strip.voice.separator.stream for strip in (first, *others)]
        order = [streams.index(round_[0]) for round_ in desk.backend.rounds]
    assert order == [0, 2, 3, 1]


@pytest.mark.parametrize("hurry", [True, False])
def test_live_streams_hurry_and_files_do_not(hurry: bool) -> None:
    allowed: list[bool] = []
    asking = threading.Thread(target=lambda: allowed.append(raise_priority(WORKER)))
    asking.start()
    asking.join()
    if not allowed[0]:
        pytest.skip("takes the right to real-time priority")
    block = 0.3 * music(HOP, RATE)
    with Desk(hurry=hurry) as desk:
        live, file = desk.strip(), desk.strip()
        for number, (strip, late) in enumerate([(live, 0.01), (file, FAR), (live, 0.01)]):
            desk.put(strip, block, time.monotonic() + late)
            until(lambda number=number: len(desk.backend.rounds) > number)
        until(lambda: len(desk.done[live]) == 2)
    assert desk.backend.hurried == [hurry, False, hurry]
    assert not hurried()  # the thread that asks for a scheduler keeps its own


def test_rounds_grow_while_others_wait() -> None:
    block = 0.3 * music(HOP, RATE)
    with Desk(most=8) as desk:
        strips = [desk.strip() for _ in range(12)]
        desk.backend.gate.clear()
        now = time.monotonic()
        desk.put(strips[0], block, now)
        until(lambda: not desk.scheduler._ready)
        for strip in strips[1:]:
            desk.put(strip, block, now)
        desk.backend.gate.set()
        until(lambda: all(desk.done.values()))
        sizes = [len(round_) for round_ in desk.backend.rounds]
        assert desk.scheduler.steps == 12 and desk.scheduler.rounds == len(sizes)
    assert sizes == [1, 8, 3]


def test_no_thread_takes_what_another_could() -> None:
    block = 0.3 * music(HOP, RATE)
    with Desk(threads=2, most=8) as desk:
        strips = [desk.strip() for _ in range(8)]
        desk.backend.gate.clear()
        now = time.monotonic()
        for strip in strips[:2]:  # one for each thread
            desk.put(strip, block, now)
            until(lambda: not desk.scheduler._ready)
        for strip in strips[2:]:
            desk.put(strip, block, now)
        desk.backend.gate.set()
        until(lambda: all(desk.done.values()))
        sizes = [len(round_) for round_ in desk.backend.rounds]
    assert max(sizes) <= 4 and sum(sizes) == 8


def test_those_who_have_time_are_served_a_few_at_a_time_and_last() -> None:
    song = 0.3 * music(8 * HOP, RATE)
    with Desk(most=8) as desk:
        patient = [desk.strip() for _ in range(4)]
        urgent = desk.strip()
        desk.backend.gate.clear()
        for strip in patient:
            desk.put(strip, song, time.monotonic() + FAR)
        until(lambda: len(desk.scheduler._ready) == len(patient) - PATIENT)
        desk.put(urgent, song[:, :HOP], time.monotonic())
        desk.backend.gate.set()
        until(lambda: all(desk.done.values()))
        rounds = desk.backend.rounds
    assert max(len(round_) for round_ in rounds) <= PATIENT
    assert rounds[1] == [urgent.voice.separator.stream]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("most", [1, 3])
def test_many_strips_give_their_own_stems(threads: int, most: int) -> None:
    songs = [0.3 * music(RATE // 2, RATE, seed=seed) for seed in range(5)]
    with Desk(threads, most) as desk:
        strips = [desk.strip() for _ in songs]
        for at in range(0, songs[0].shape[1] - HOP, HOP):
            for strip, song in zip(strips, songs, strict=True):
                desk.put(strip, song[:, at : at + HOP], time.monotonic() + 1)
        for strip in strips:
            strip.put(Flush())
            desk.scheduler.wake(strip)
        until(lambda: all(results and isinstance(results[-1], Flush)
                          for results in desk.done.values()))  # fmt: skip
        for strip, song in zip(strips, songs, strict=True):
            stems = np.concatenate(desk.done[strip][:-1], 2)
            whole = len(range(0, song.shape[1] - HOP, HOP)) * HOP
            wanted = stemwire.load("standard", RATE, 2, HOP).flush(song[:, :whole])
            np.testing.assert_allclose(stems, wanted, atol=0 if most == 1 else 2e-5)
            assert strip.misses >= 0 and strip.waiting == 0


def test_what_fails_ends_its_own_strips() -> None:
    block = 0.3 * music(HOP, RATE)
    with Desk(most=1) as desk:
        good, bad = desk.strip(), desk.strip()
        desk.backend.failing.add(id(bad.voice.separator.stream))
        desk.put(bad, block, 0.0)
        until(lambda: bad in desk.errors)
        desk.put(good, block, 0.0)
        until(lambda: bool(desk.done[good]))
        desk.put(bad, block, 0.0)  # nobody serves it any more
    assert str(desk.errors[bad]) == "the backend broke" and good not in desk.errors


def test_no_more_is_promised_than_there_is_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("stemwire.bridge.server.scheduler.time.monotonic", lambda: now)
    full = 0.85
    scheduler = Scheduler(2, 8, 0.004, full)
    strips = [object() for _ in range(10)]

    def add(strip: object) -> bool:
        return scheduler.add(strip, RATE / HOP, lambda error: None)  # type: ignore[arg-type]

    needed = RATE / HOP * 0.004 / 2
    # Those that come at once may take more than what is known; later there is room for another.
    assert [add(strip) for strip in strips].count(True) == int(full / (YOUNG * needed)) == 3
    assert scheduler.load == pytest.approx(3 * needed)
    now += YOUNG_S + 1
    assert [add(strip) for strip in strips[3:]].count(True) == 1
    now += YOUNG_S + 1
    assert not add(strips[4]) and scheduler.load == pytest.approx(4 * needed)
    scheduler.remove(strips[0])  # type: ignore[arg-type]
    assert scheduler.room(RATE / HOP) and add(strips[5])
    scheduler.close()
