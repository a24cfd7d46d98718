"""Who is separated when: threads that take the steps of many strips, the most urgent first.

Threads: `wake`, `add`, `remove` and `close` may be called from anywhere. A strip is in the hands of
one thread at a time; what comes of it is given to `deliver`, which is called by that thread.

Each round takes the strips whose stems are due first, as many as are ready, up to `most`, and runs
the network once for all of them, but leaves every thread its part: one that took all would keep
them waiting for a long round while another sleeps. Nobody waits for a round to fill up: while one
is under way others become ready, so rounds grow by themselves as the load does. Streams that are
ahead of their time (files) have deadlines far away; they are served two at a time when nobody else
is, so a live stream never waits for longer than that takes. Where threads may hurry, they have
real-time priority except during such rounds: a file, separated as fast as can be, should not keep
other programs from the processor.

Deadlines are in seconds of `time.monotonic`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from stemwire.bridge.server.pipeline import Step, Strip, Work
from stemwire.realtime.backends.interface import Backend, NetworkBatch
from stemwire.realtime.live.priority import WORKER, lower_priority, raise_priority
from stemwire.realtime.stft import Spectrum

HORIZON_S = 0.05  # what is due within that is urgent
PATIENT = 2  # strips that are served together when none is urgent
MEMORY_S = 5.0  # over which costs and load are averaged
YOUNG_S = 3.0  # for which a strip's part in the costs is not known
YOUNG = 1.3  # times what steps cost so far that it may come to


@dataclass(eq=False)
class _Seat:
    """A strip and its work."""

    strip: Strip
    deliver: Callable[[Exception | None], None]
    hop_rate: float  # steps in a second of its audio
    since: float  # in the scheduler's time
    work: Work | None = None
    step: Step | None = None
    busy: bool = False  # in the hands of a thread
    gone: bool = field(default=False)


class Scheduler:
    """Threads that separate for many.

    Args:
        threads: to use.
        most: strips in one round; 1 takes every step alone.
        step_s: seconds that a step takes, measured beforehand.
        full: share of the threads' time that may be promised.
        hurry: give the threads real-time priority, where the system grants it.

    Attributes:
        steps: of the network, taken so far; `rounds` it took.
    """

    def __init__(
        self, threads: int, most: int, step_s: float, full: float, hurry: bool = False
    ) -> None:
        self._full, self._hurry = full, hurry
        self._most = most
        self._seats: dict[Strip, _Seat] = {}
        self._ready: set[_Seat] = set()
        self._change = threading.Condition()
        self._closed = False
        self._cost, self._busy, self._live = step_s, 0.0, 0.0
        self.steps = self.rounds = 0
        self._threads = [
            threading.Thread(target=self._run, name=f"stemwire-desk-{i}", daemon=True)
            for i in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def load(self) -> float:
        """What the strips there are need, as a share of what the threads can give."""
        with self._change:
            return self._share(seat.hop_rate for seat in self._seats.values())

    @property
    def busy(self) -> float:
        """Share of their time that the threads have worked lately."""
        return self._busy

    def _share(self, rates: Iterable[float]) -> float:
        """What so many steps in a second take of the threads' time."""
        return sum(rates) * self._cost / len(self._threads)

    def _needed(self) -> float:
        """What the strips may need: those that came together are not known by what they took."""
        young = time.monotonic() - YOUNG_S
        return self._share(
            seat.hop_rate * (YOUNG if seat.since > young else 1.0) for seat in self._seats.values()
        )

    def add(
        self, strip: Strip, hop_rate: float, deliver: Callable[[Exception | None], None]
    ) -> bool:
        """Serve a strip from now on, if that leaves the others their time; says whether it does.

        Args:
            strip: to be served.
            hop_rate: steps in a second of its audio.
            deliver: called in a thread when `strip.results` has something; with an exception if
                the strip cannot go on.
        """
        with self._change:
            if not self._room(hop_rate):
                return False
            self._seats[strip] = _Seat(strip, deliver, hop_rate, time.monotonic())
            return True

    def room(self, hop_rate: float) -> bool:
        """Whether `add` would serve a strip of so many steps in a second."""
        with self._change:
            return self._room(hop_rate)

    def _room(self, more: float) -> bool:
        if (
            not self._seats
        ):  # nobody would be late; and what steps take is known only by taking them
            return True
        # What is promised, and what live streams take by the clock, whichever is more.
        one = YOUNG * self._share([more])
        return max(self._needed(), self._live) + one <= self._full

    @property
    def well(self) -> bool:
        """Whether its threads are at work."""
        return all(thread.is_alive() for thread in self._threads)

    def remove(self, strip: Strip) -> None:
        """Serve it no more; what is under way may still be delivered."""
        with self._change:
            seat = self._seats.pop(strip, None)
            if seat is not None:
                seat.gone = True
                self._ready.discard(seat)

    def wake(self, strip: Strip) -> None:
        """Something was put into a strip."""
        with self._change:
            seat = self._seats.get(strip)
            if seat is not None and not seat.busy and seat not in self._ready:
                self._ready.add(seat)
                self._change.notify()

    def close(self) -> None:
        """End the threads."""
        with self._change:
            self._closed = True
            self._change.notify_all()
        for thread in self._threads:
            thread.join()

    # --- the threads

    def _run(self) -> None:
        batches: dict[Backend, NetworkBatch] = {}
        hurries = self._hurry and raise_priority(WORKER)
        while True:
            with self._change:
                before = time.monotonic()
                while not self._ready and not self._closed:
                    self._change.wait()
                if self._closed:
                    return
                seats, urgent = self._pick()
            if hurries and not urgent:
                lower_priority()
            began = time.monotonic()
            taken = self._round(seats, batches)
            ended = time.monotonic()
            if hurries and not urgent:
                raise_priority(WORKER)
            with self._change:
                for seat in seats:
                    seat.busy = False
                    if not seat.gone and (seat.step is not None or not seat.strip.idle):
                        self._ready.add(seat)
                        self._change.notify()
                self._account(began - before, ended - began, taken, urgent)
            for seat in seats:  # at last: it wakes a thread that then wants the interpreter
                if seat.strip.results and not seat.gone:
                    seat.deliver(None)

    def _pick(self) -> tuple[list[_Seat], bool]:
        """The most urgent seats, and whether they are urgent; they are busy from now on."""
        due = time.monotonic() + HORIZON_S
        order = sorted(self._ready, key=lambda seat: seat.strip.deadline)
        urgent = [seat for seat in order if seat.strip.deadline <= due]
        held = sum(seat.busy for seat in self._seats.values())
        part = min(self._most, -(-(len(urgent) + held) // len(self._threads)))
        seats = urgent[:part] or order[: min(PATIENT, self._most)]
        for seat in seats:
            seat.busy = True
            self._ready.discard(seat)
        return seats, bool(urgent)

    def _round(self, seats: list[_Seat], batches: dict[Backend, NetworkBatch]) -> int:
        """A step of each seat; returns how many were taken."""
        for seat in seats:
            if seat.step is None:
                self._advance(seat, None)
        count = 0
        for backend, group in _by_backend(seats):
            if backend not in batches:
                batches[backend] = backend.batch(self._most)
            steps = [seat.step for seat in group if seat.step is not None]
            try:
                vocals = batches[backend].step(
                    [step.stream for step in steps], [step.frame for step in steps]
                )
            except (
                Exception
            ) as error:  # of the backend: these clients' misfortune, not the server's
                for seat in group:
                    seat.step = None
                    self._fail(seat, error)
                continue
            count += len(steps)
            for seat, frame in zip(group, vocals, strict=True):
                self._advance(seat, frame)
        return count

    def _advance(self, seat: _Seat, frame: Spectrum | None) -> None:
        """Go on to the next step, or the end of what there is to do."""
        try:
            if seat.work is None:
                seat.work = seat.strip.work(time.monotonic)
                seat.step = next(seat.work)
            else:
                assert frame is not None
                seat.step = seat.work.send(frame)
        except StopIteration:
            seat.work = seat.step = None
        except Exception as error:  # of the client's blocks or effects
            seat.work = seat.step = None
            self._fail(seat, error)

    def _fail(self, seat: _Seat, error: Exception) -> None:
        self.remove(seat.strip)
        seat.deliver(error)

    def _account(self, idle: float, worked: float, taken: int, urgent: bool) -> None:
        whole = idle + worked
        if whole > 0:
            share = min(1.0, whole / MEMORY_S) / len(self._threads)
            self._busy += share * (worked / whole - self._busy)
            self._live += share * (worked * urgent / whole - self._live)
        if taken:
            self.rounds += 1
            self.steps += taken
            self._cost += min(1.0, worked / MEMORY_S) * (worked / taken - self._cost)


def _by_backend(seats: list[_Seat]) -> Iterator[tuple[Backend, list[_Seat]]]:
    groups: dict[Backend, list[_Seat]] = {}
    for seat in seats:
        if seat.step is not None:
            groups.setdefault(seat.step.backend, []).append(seat)
    yield from groups.items()
