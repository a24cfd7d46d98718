"""Scheduler of the network's steps: threads that run the steps of many pipelines, by deadline.

Threads: `wake`, `add`, `remove` and `close` may be called from any thread. A pipeline is held by
one worker thread at a time; that thread passes its results to `deliver`.

Each round takes the pipelines with the earliest deadlines, as many as are ready, up to `max_batch`,
and runs the network once for all of them. It leaves a fair share to every other thread: a thread
that took all of them would keep them waiting for one long round while the others sleep. No round
waits to fill up: while one runs, other pipelines become ready, so rounds grow with the load.
Streams that run ahead of real time (files) have distant deadlines; they are served two at a time
and only when nothing is urgent, so a live stream never waits longer than such a round takes. Where
the threads may have real-time priority, they have it except during such rounds: a file that is
separated as fast as possible should not keep other programs from the processor.

Deadlines are in seconds of `time.monotonic`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from stemwire.bridge.server.pipeline import Pipeline, Step, Work
from stemwire.realtime.backends.interface import Backend, NetworkBatch
from stemwire.realtime.live.priority import WORKER, lower_priority, raise_priority
from stemwire.realtime.stft import Spectrum

URGENT_S = 0.05  # a deadline within this time is urgent
BACKGROUND_BATCH = 2  # pipelines in a round when none is urgent
AVERAGING_S = 5.0  # time constant for the averages of cost and load
NEW_STREAM_S = 3.0  # time for which the cost of a new pipeline is unknown
NEW_STREAM_COST = 1.3  # factor on the average cost of a step, for new pipelines


@dataclass(eq=False)
class _Entry:
    """A pipeline and the state of its work."""

    pipeline: Pipeline
    deliver: Callable[[Exception | None], None]
    hop_rate: float  # steps per second of its audio
    added_at: float  # `time.monotonic`
    work: Work | None = None
    step: Step | None = None
    busy: bool = False  # held by a thread
    removed: bool = False


class Scheduler:
    """Worker threads that run the steps of many pipelines.

    Args:
        threads: number of worker threads.
        max_batch: maximum number of pipelines in one round; 1 runs every step alone.
        step_s: duration of one step in seconds, measured beforehand.
        max_load: share of the threads' time that may be promised to pipelines.
        realtime_priority: give the threads real-time priority, where the system grants it.

    Attributes:
        steps: steps of the network run so far.
        rounds: rounds in which they were run.
    """

    def __init__(
        self,
        threads: int,
        max_batch: int,
        step_s: float,
        max_load: float,
        realtime_priority: bool = False,
    ) -> None:
        self._max_load, self._realtime_priority = max_load, realtime_priority
        self._max_batch = max_batch
        self._entries: dict[Pipeline, _Entry] = {}
        self._ready: set[_Entry] = set()
        self._change = threading.Condition()
        self._closed = False
        self._cost, self._busy_share, self._live_share = step_s, 0.0, 0.0
        self.steps = self.rounds = 0
        self._threads = [
            threading.Thread(target=self._run_thread, name=f"stemwire-worker-{i}", daemon=True)
            for i in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def load(self) -> float:
        """Load of all pipelines, as a share of what the threads can do."""
        with self._change:
            return self._share_of_time(entry.hop_rate for entry in self._entries.values())

    @property
    def busy(self) -> float:
        """Share of their time that the threads have recently been working."""
        return self._busy_share

    def _share_of_time(self, rates: Iterable[float]) -> float:
        """Share of the threads' time that steps at these rates (per second) take."""
        return sum(rates) * self._cost / len(self._threads)

    def _promised_load(self) -> float:
        """Load to reserve: the cost of new pipelines is not in the averages yet."""
        new_since = time.monotonic() - NEW_STREAM_S
        return self._share_of_time(
            entry.hop_rate * (NEW_STREAM_COST if entry.added_at > new_since else 1.0)
            for entry in self._entries.values()
        )

    def add(
        self, pipeline: Pipeline, hop_rate: float, deliver: Callable[[Exception | None], None]
    ) -> bool:
        """Serve a pipeline from now on; False if that would make the others late.

        Args:
            pipeline: pipeline to serve.
            hop_rate: steps per second of its audio.
            deliver: function called by a worker thread when `pipeline.results` holds something;
                with an exception if the pipeline has failed.
        """
        with self._change:
            if not self._has_room(hop_rate):
                return False
            self._entries[pipeline] = _Entry(pipeline, deliver, hop_rate, time.monotonic())
            return True

    def has_room(self, hop_rate: float) -> bool:
        """Whether `add` would accept a pipeline with this many steps per second."""
        with self._change:
            return self._has_room(hop_rate)

    def _has_room(self, hop_rate: float) -> bool:
        # The first makes nobody late, and the cost of steps is known only by running them.
        if not self._entries:
            return True
        # What is promised, or what live streams actually take, whichever is more.
        added = NEW_STREAM_COST * self._share_of_time([hop_rate])
        return max(self._promised_load(), self._live_share) + added <= self._max_load

    @property
    def is_alive(self) -> bool:
        """Whether all worker threads are running."""
        return all(thread.is_alive() for thread in self._threads)

    def remove(self, pipeline: Pipeline) -> None:
        """Stop serving a pipeline; results of a step in progress may still be delivered."""
        with self._change:
            entry = self._entries.pop(pipeline, None)
            if entry is not None:
                entry.removed = True
                self._ready.discard(entry)

    def wake(self, pipeline: Pipeline) -> None:
        """Schedule a pipeline that was given something to do."""
        with self._change:
            entry = self._entries.get(pipeline)
            if entry is not None and not entry.busy and entry not in self._ready:
                self._ready.add(entry)
                self._change.notify()

    def close(self) -> None:
        """Stop the threads."""
        with self._change:
            self._closed = True
            self._change.notify_all()
        for thread in self._threads:
            thread.join()

    # --- worker threads

    def _run_thread(self) -> None:
        batches: dict[Backend, NetworkBatch] = {}
        realtime = self._realtime_priority and raise_priority(WORKER)
        while True:
            with self._change:
                before = time.monotonic()
                while not self._ready and not self._closed:
                    self._change.wait()
                if self._closed:
                    return
                entries, urgent = self._pick_entries()
            if realtime and not urgent:
                lower_priority()
            began = time.monotonic()
            steps_taken = self._run_round(entries, batches)
            ended = time.monotonic()
            if realtime and not urgent:
                raise_priority(WORKER)
            with self._change:
                for entry in entries:
                    entry.busy = False
                    if not entry.removed and (entry.step is not None or not entry.pipeline.idle):
                        self._ready.add(entry)
                        self._change.notify()
                self._account(began - before, ended - began, steps_taken, urgent)
            for entry in entries:  # last, for it wakes a thread that then competes for the GIL
                if entry.pipeline.results and not entry.removed:
                    entry.deliver(None)

    def _pick_entries(self) -> tuple[list[_Entry], bool]:
        """Entries with the earliest deadlines, now marked busy, and whether they are urgent."""
        due = time.monotonic() + URGENT_S
        order = sorted(self._ready, key=lambda entry: entry.pipeline.deadline)
        urgent = [entry for entry in order if entry.pipeline.deadline <= due]
        busy_count = sum(entry.busy for entry in self._entries.values())
        part = min(self._max_batch, -(-(len(urgent) + busy_count) // len(self._threads)))
        entries = urgent[:part] or order[: min(BACKGROUND_BATCH, self._max_batch)]
        for entry in entries:
            entry.busy = True
            self._ready.discard(entry)
        return entries, bool(urgent)

    def _run_round(self, entries: list[_Entry], batches: dict[Backend, NetworkBatch]) -> int:
        """Run one step of each entry; returns the number of steps."""
        for entry in entries:
            if entry.step is None:
                self._advance(entry, None)
        count = 0
        for backend, group in _grouped_by_backend(entries):
            if backend not in batches:
                batches[backend] = backend.batch(self._max_batch)
            steps = [entry.step for entry in group if entry.step is not None]
            try:
                vocals = batches[backend].step(
                    [step.stream for step in steps], [step.frame for step in steps]
                )
            except Exception as error:  # of the backend: it ends these streams, not the server
                for entry in group:
                    entry.step = None
                    self._fail(entry, error)
                continue
            count += len(steps)
            for entry, frame in zip(group, vocals, strict=True):
                self._advance(entry, frame)
        return count

    def _advance(self, entry: _Entry, frame: Spectrum | None) -> None:
        """Continue a pipeline's work until its next step, or until there is none."""
        try:
            if entry.work is None:
                entry.work = entry.pipeline.work(time.monotonic)
                entry.step = next(entry.work)
            else:
                assert frame is not None
                entry.step = entry.work.send(frame)
        except StopIteration:
            entry.work = entry.step = None
        except Exception as error:  # caused by the client's blocks or effects
            entry.work = entry.step = None
            self._fail(entry, error)

    def _fail(self, entry: _Entry, error: Exception) -> None:
        self.remove(entry.pipeline)
        entry.deliver(error)

    def _account(self, idle: float, worked: float, steps_taken: int, urgent: bool) -> None:
        total = idle + worked
        if total > 0:
            share = min(1.0, total / AVERAGING_S) / len(self._threads)
            self._busy_share += share * (worked / total - self._busy_share)
            self._live_share += share * (worked * urgent / total - self._live_share)
        if steps_taken:
            self.rounds += 1
            self.steps += steps_taken
            self._cost += min(1.0, worked / AVERAGING_S) * (worked / steps_taken - self._cost)


def _grouped_by_backend(entries: list[_Entry]) -> Iterator[tuple[Backend, list[_Entry]]]:
    groups: dict[Backend, list[_Entry]] = {}
    for entry in entries:
        if entry.step is not None:
            groups.setdefault(entry.step.backend, []).append(entry)
    yield from groups.items()
