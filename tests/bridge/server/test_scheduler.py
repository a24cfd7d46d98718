"""Order in which streams are separated; real separators on a backend that records its rounds."""

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
from stemwire.bridge.server.pipeline import MixtureBlock, Pipeline, Stage
from stemwire.bridge.server.scheduler import (
    BACKGROUND_BATCH,
    NEW_STREAM_COST,
    NEW_STREAM_S,
    Scheduler,
)
from stemwire.realtime.backends import load_backend
from stemwire.realtime.live.priority import WORKER, raise_priority
from stemwire.realtime.streaming import StreamingSeparator

RATE = 44_100
HOP = 512
FAR = 1e6  # seconds


def has_realtime_priority() -> bool:
    """Whether this thread has real-time priority."""
    scheduler = getattr(os, "sched_getscheduler", None)
    return scheduler is not None and bool(scheduler(0) & os.SCHED_FIFO)


class RecordingBackend:
    """The real backend; records which streams shared a round, and can block or fail."""

    name = "recorder"

    def __init__(self) -> None:
        self._backend = load_backend(stemwire.find_preset("standard"), "auto")
        self.rounds: list[list[Any]] = []
        self.has_realtime_priority: list[bool] = []  # whether a round had real-time priority
        self.gate = threading.Event()
        self.gate.set()
        self.failing: set[int] = set()

    def open(self) -> Any:
        return self._backend.open()

    def batch(self, max_batch: int) -> Any:
        batch = self._backend.batch(max_batch)
        recorder = self

        class Batch:
            def step(self, streams: Sequence[Any], frames: Sequence[Any]) -> list[Any]:
                recorder.gate.wait(20)
                recorder.rounds.append(list(streams))
                recorder.has_realtime_priority.append(has_realtime_priority())
                if recorder.failing & {id(stream) for stream in streams}:
                    raise RuntimeError("the backend broke")
                return batch.step(streams, frames)

        return Batch()


class Harness:
    """A scheduler with pipelines, and their results."""

    def __init__(self, threads: int = 1, max_batch: int = 8, realtime: bool = False) -> None:
        self.backend = RecordingBackend()
        self.scheduler = Scheduler(
            threads, max_batch, 1e-6, max_load=100.0, realtime_priority=realtime
        )
        self.errors: dict[Pipeline, Exception] = {}
        self.done: dict[Pipeline, list[Any]] = {}

    def opener(self, preset: str, rate: int, channels: int, block: int | None) -> Any:
        config = stemwire.find_preset("standard").config
        return StreamingSeparator(self.backend, config, rate, channels, block)

    def pipeline(self) -> Pipeline:
        stage = Stage(self.opener, "standard", {}, {}, RATE, 2, HOP, (0.0, 1.0))
        pipeline = Pipeline(stage, ("vocals", "instrumental"))
        self.done[pipeline] = []

        def deliver(error: Exception | None) -> None:
            while pipeline.results:
                self.done[pipeline].append(pipeline.results.popleft())
            if error is not None:
                self.errors[pipeline] = error

        assert self.scheduler.add(pipeline, RATE / HOP, deliver)
        return pipeline

    def put(self, pipeline: Pipeline, audio: Any, deadline: float) -> None:
        pipeline.put(MixtureBlock(audio, 0, deadline))
        self.scheduler.wake(pipeline)

    def __enter__(self) -> Harness:
        return self

    def __exit__(self, *_: object) -> None:
        self.backend.gate.set()
        self.scheduler.close()


def until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_the_earliest_deadline_goes_first() -> None:
    block = 0.3 * music(HOP, RATE)
    with Harness(max_batch=1) as harness:
        first, *others = [harness.pipeline() for _ in range(4)]
        harness.backend.gate.clear()
        now = time.monotonic()
        harness.put(first, block, now)
        until(lambda: harness.scheduler.busy >= 0 and not harness.scheduler._ready)
        for pipeline, late in zip(others, (0.03, 0.01, 0.02), strict=True):
            harness.put(pipeline, block, now + late)
        harness.backend.gate.set()
        until(lambda: all(harness.done.values()))
        streams = [pipeline.stage.separator.stream for pipeline in (first, *others)]
        order = [streams.index(round_[0]) for round_ in harness.backend.rounds]
    assert order == [0, 2, 3, 1]


@pytest.mark.parametrize("realtime", [True, False])
def test_live_streams_have_realtime_priority_and_files_do_not(realtime: bool) -> None:
    allowed: list[bool] = []
    asking = threading.Thread(target=lambda: allowed.append(raise_priority(WORKER)))
    asking.start()
    asking.join()
    if not allowed[0]:
        pytest.skip("takes the right to real-time priority")
    block = 0.3 * music(HOP, RATE)
    with Harness(realtime=realtime) as harness:
        live, file = harness.pipeline(), harness.pipeline()
        for number, (pipeline, late) in enumerate([(live, 0.01), (file, FAR), (live, 0.01)]):
            harness.put(pipeline, block, time.monotonic() + late)
            until(lambda number=number: len(harness.backend.rounds) > number)
        until(lambda: len(harness.done[live]) == 2)
    assert harness.backend.has_realtime_priority == [realtime, False, realtime]
    assert not has_realtime_priority()  # the thread that asks for a scheduler keeps its own


def test_rounds_grow_while_others_wait() -> None:
    block = 0.3 * music(HOP, RATE)
    with Harness(max_batch=8) as harness:
        pipelines = [harness.pipeline() for _ in range(12)]
        harness.backend.gate.clear()
        now = time.monotonic()
        harness.put(pipelines[0], block, now)
        until(lambda: not harness.scheduler._ready)
        for pipeline in pipelines[1:]:
            harness.put(pipeline, block, now)
        harness.backend.gate.set()
        until(lambda: all(harness.done.values()))
        sizes = [len(round_) for round_ in harness.backend.rounds]
        assert harness.scheduler.steps == 12 and harness.scheduler.rounds == len(sizes)
    assert sizes == [1, 8, 3]


def test_no_thread_takes_what_another_could() -> None:
    block = 0.3 * music(HOP, RATE)
    with Harness(threads=2, max_batch=8) as harness:
        pipelines = [harness.pipeline() for _ in range(8)]
        harness.backend.gate.clear()
        now = time.monotonic()
        for pipeline in pipelines[:2]:  # one for each thread
            harness.put(pipeline, block, now)
            until(lambda: not harness.scheduler._ready)
        for pipeline in pipelines[2:]:
            harness.put(pipeline, block, now)
        harness.backend.gate.set()
        until(lambda: all(harness.done.values()))
        sizes = [len(round_) for round_ in harness.backend.rounds]
    assert max(sizes) <= 4 and sum(sizes) == 8


def test_streams_ahead_of_time_are_served_last_and_a_few_at_a_time() -> None:
    song = 0.3 * music(8 * HOP, RATE)
    with Harness(max_batch=8) as harness:
        patient = [harness.pipeline() for _ in range(4)]
        urgent = harness.pipeline()
        harness.backend.gate.clear()
        for pipeline in patient:
            harness.put(pipeline, song, time.monotonic() + FAR)
        until(lambda: len(harness.scheduler._ready) == len(patient) - BACKGROUND_BATCH)
        harness.put(urgent, song[:, :HOP], time.monotonic())
        harness.backend.gate.set()
        until(lambda: all(harness.done.values()))
        rounds = harness.backend.rounds
    assert max(len(round_) for round_ in rounds) <= BACKGROUND_BATCH
    assert rounds[1] == [urgent.stage.separator.stream]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("max_batch", [1, 3])
def test_many_pipelines_produce_their_own_stems(threads: int, max_batch: int) -> None:
    songs = [0.3 * music(RATE // 2, RATE, seed=seed) for seed in range(5)]
    with Harness(threads, max_batch) as harness:
        pipelines = [harness.pipeline() for _ in songs]
        for at in range(0, songs[0].shape[1] - HOP, HOP):
            for pipeline, song in zip(pipelines, songs, strict=True):
                harness.put(pipeline, song[:, at : at + HOP], time.monotonic() + 1)
        for pipeline in pipelines:
            pipeline.put(Flush())
            harness.scheduler.wake(pipeline)
        until(
            lambda: all(
                results and isinstance(results[-1], Flush) for results in harness.done.values()
            )
        )
        for pipeline, song in zip(pipelines, songs, strict=True):
            stems = np.concatenate(harness.done[pipeline][:-1], 2)
            whole = len(range(0, song.shape[1] - HOP, HOP)) * HOP
            wanted = stemwire.load("standard", RATE, 2, HOP).flush(song[:, :whole])
            np.testing.assert_allclose(stems, wanted, atol=0 if max_batch == 1 else 2e-5)
            assert pipeline.misses >= 0 and pipeline.waiting == 0


def test_a_failure_ends_only_its_own_pipeline() -> None:
    block = 0.3 * music(HOP, RATE)
    with Harness(max_batch=1) as harness:
        good, bad = harness.pipeline(), harness.pipeline()
        harness.backend.failing.add(id(bad.stage.separator.stream))
        harness.put(bad, block, 0.0)
        until(lambda: bad in harness.errors)
        harness.put(good, block, 0.0)
        until(lambda: bool(harness.done[good]))
        harness.put(bad, block, 0.0)  # nobody serves it any more
    assert str(harness.errors[bad]) == "the backend broke" and good not in harness.errors


def test_load_is_not_promised_beyond_capacity(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("stemwire.bridge.server.scheduler.time.monotonic", lambda: now)
    full = 0.85
    scheduler = Scheduler(2, 8, 0.004, full)
    pipelines = [object() for _ in range(10)]

    def add(pipeline: object) -> bool:
        return scheduler.add(pipeline, RATE / HOP, lambda error: None)  # type: ignore[arg-type]

    needed = RATE / HOP * 0.004 / 2
    # Those that come at once may take more than what is known; later there is room for another.
    assert (
        [add(pipeline) for pipeline in pipelines].count(True)
        == int(full / (NEW_STREAM_COST * needed))
        == 3
    )
    assert scheduler.load == pytest.approx(3 * needed)
    now += NEW_STREAM_S + 1
    assert [add(pipeline) for pipeline in pipelines[3:]].count(True) == 1
    now += NEW_STREAM_S + 1
    assert not add(pipelines[4]) and scheduler.load == pytest.approx(4 * needed)
    scheduler.remove(pipelines[0])  # type: ignore[arg-type]
    assert scheduler.has_room(RATE / HOP) and add(pipelines[5])
    scheduler.close()
