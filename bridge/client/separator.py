"""`RemoteSeparator`: the local separator's shape for a separator on a server.

    with stemwire.connect("ws://studio:8765", "low", 48_000, block_size=512) as separator:
        stems = separator.push(block)

An `AsyncSeparator` does the work in a thread of its own; the calls here wait for it. A call that is
interrupted (Ctrl-C) is given up there too.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import CancelledError
from pathlib import Path
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from stemwire.errors import ConfigError
from stemwire.extras import BRIDGE, extra
from stemwire.realtime.ring import Audio
from stemwire.realtime.timing import TimeHistogram

if TYPE_CHECKING:
    from stemwire.bridge.client.async_separator import AsyncSeparator
    from stemwire.bridge.client.connection import Statistics
    from stemwire.bridge.protocol.messages import Format, State, Stem

LOOK_SECONDS = 0.5  # between looking for Ctrl-C, where waiting itself does not notice it
CLOSE_SECONDS = 5.0  # for saying goodbye

T = TypeVar("T")
Answer = Callable[[T | Exception], bool]
"""Takes a result, or what is to be raised, once; whether anybody still wanted it."""
Begin = Callable[[Answer[T]], Callable[[], object]]
"""Begins something that will be answered; gives what is to be called to give it up."""


class _Asked(Generic[T]):
    """What was asked of the loop; there is one answer, unless it was given up before.

    It does less than a `Future`, and audio waits for what it does. `begin` and `give_up` are called
    in the loop.
    """

    def __init__(self, begin: Begin[T]) -> None:
        self.given_up = False
        self._answers: SimpleQueue[T | Exception] = SimpleQueue()
        self._begin = begin
        self._stop: Callable[[], object] | None = None

    def begin(self) -> None:
        if self.given_up:
            return
        try:
            self._stop = self._begin(self._answer)
        except Exception as error:
            self._answer(error)

    def give_up(self) -> None:
        if self._stop is not None:
            self._stop()

    def _answer(self, found: T | Exception) -> bool:
        if self.given_up:
            return False
        self._answers.put(found)
        return True

    def wait(self, thread: threading.Thread) -> T | Exception:
        """The answer, which comes from that thread."""
        while True:
            try:
                return self._answers.get(timeout=LOOK_SECONDS)
            except Empty:
                if not thread.is_alive() and self._answers.empty():
                    raise ConfigError("this separator was closed meanwhile; open another") from None


class Worker:
    """A thread that runs an event loop, until `stop`."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="stemwire-bridge", daemon=True)
        self._thread.start()

    def call(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine to its end, there; what interrupts the wait here cancels it."""

        def begin(answer: Answer[T]) -> Callable[[], object]:
            # In the loop, where nothing comes between a coroutine and its start.
            task = self.loop.create_task(work())

            def tell(_: asyncio.Task[T]) -> None:
                if task.cancelled():
                    answer(CancelledError())
                elif isinstance(error := task.exception(), Exception):
                    answer(error)
                elif error is None:
                    answer(task.result())

            task.add_done_callback(tell)
            return task.cancel

        return self.ask(begin)

    def ask(self, begin: Begin[T]) -> T:
        """Have something begun there, and wait for its answer; who is interrupted gives it up."""
        if not self._thread.is_alive():
            raise ConfigError("this separator is closed; open another")
        asked = _Asked(begin)
        self.loop.call_soon_threadsafe(asked.begin)
        try:
            found = asked.wait(self._thread)
        except BaseException:
            asked.given_up = True
            with contextlib.suppress(RuntimeError):  # the loop has ended, and all in it
                self.loop.call_soon_threadsafe(asked.give_up)
            raise
        if isinstance(found, Exception):
            try:
                raise found
            finally:
                del found  # it holds this frame
        return found

    def stop(self, core: AsyncSeparator | None) -> None:
        """Say goodbye and end the thread."""
        if not self._thread.is_alive():
            return
        if threading.current_thread() is self._thread:  # the garbage collector's choice
            self.loop.stop()
            return
        if core is not None:
            future = asyncio.run_coroutine_threadsafe(core.close(), self.loop)
            with contextlib.suppress(Exception):  # nobody is left to be told
                future.result(CLOSE_SECONDS)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        try:
            self.loop.run_forever()
            for task in (tasks := asyncio.all_tasks(self.loop)):
                task.cancel()
            if tasks:
                self.loop.run_until_complete(asyncio.wait(tasks))
        finally:
            self.loop.close()


class RemoteSeparator:
    """A separator on a server; made by `connect`.

    Calls may come from any thread, `push`, `flush` and `reset` from one at a time; `receive` may
    wait in one thread while another calls `send`.

    Attributes:
        hop_times: time each `push` took, there and back.
    """

    def __init__(self, worker: Worker, core: AsyncSeparator) -> None:
        self._worker, self._core = worker, core
        self.hop_times = TimeHistogram()
        self._end = weakref.finalize(self, worker.stop, core)  # also when it is merely forgotten

    @property
    def stems(self) -> tuple[Stem, ...]:
        """Names of the stems, in the order of the output."""
        return self._core.stems

    @property
    def latency(self) -> int:
        """Delay in samples: sample k of the input is sample k + latency of the output."""
        return self._core.latency

    @property
    def sample_rate(self) -> int:
        """Of the audio, Hz."""
        return self._core.sample_rate

    @property
    def channels(self) -> int:
        """Of the audio."""
        return self._core.channels

    @property
    def block_size(self) -> int | None:
        """Samples that blocks have, if that was promised."""
        return self._core.block_size

    @property
    def hop(self) -> int:
        """Samples that the server's network takes at a time."""
        return self._core.hop

    @property
    def preset(self) -> str:
        """Name of the preset that was asked for."""
        return self._core.preset

    @property
    def statistics(self) -> Statistics:
        """How the session fares."""
        return self._core.statistics

    def push(self, block: Audio) -> Audio:
        """Take the next block, give as much of the stems; see `AsyncSeparator.push`."""

        def begin(answer: Answer[Audio]) -> Callable[[], object]:
            return self._core.start_push(block, answer)

        start = time.perf_counter()
        stems = self._worker.ask(begin)
        self.hop_times.add(time.perf_counter() - start)
        return stems

    def flush(self, block: Audio | None = None) -> Audio:
        """End the stream: give what is still inside; see `AsyncSeparator.flush`."""
        return self._worker.call(lambda: self._core.flush(block))

    def reset(self) -> None:
        """Forget the stream, or begin anew if the session was lost."""
        self._worker.call(lambda: self._core.reset())

    def control(self, **changes: Any) -> State:
        """Change how `mix` is made, and the preset; see `AsyncSeparator.control`."""
        return self._worker.call(lambda: self._core.control(**changes))

    def send(self, block: Audio) -> None:
        """Send the next block, for those who `receive` in another thread; waits for room."""
        self._worker.call(lambda: self._core.send(block))

    def finish(self, block: Audio | None = None) -> None:
        """End what is sent, after a last block of any size."""
        self._worker.call(lambda: self._core.finish(block))

    def receive(self) -> Audio | None:
        """The next stems, float32 (stems, channels, n); None at the end of a stream."""
        return self._worker.call(lambda: self._core.receive())

    def __iter__(self) -> Iterator[Audio]:
        while (stems := self.receive()) is not None:
            yield stems

    def close(self) -> None:
        """End the session."""
        self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def connect(
    url: str,
    preset: str = "standard",
    sample_rate: int = 44_100,
    channels: int = 2,
    block_size: int | None = None,
    *,
    token: str = "",
    stems: Sequence[Stem] = ("vocals", "instrumental"),
    format: Format = "f32",
    stats: float = 0.0,
    ca_file: str | Path | None = None,
    patience: float = 30.0,
    tell: Callable[[str], None] = lambda text: None,
) -> RemoteSeparator:
    """Open a separator on a server that runs `stemwire serve`.

    Args:
        url: `ws://HOST:PORT`, or `wss://` for TLS.
        preset: name of a preset that the server has.
        sample_rate: of the audio, 8000 to 192000 Hz.
        channels: of the audio, 1 or 2.
        block_size: samples in every block to come, if that is known: the delay is then as small as
            it can be. None takes blocks of any size at any time.
        token: that the server asks for.
        stems: wanted, of `vocals`, `instrumental` and `mix`, which `control` shapes.
        format: of samples on the wire: `f32`, or `s16` for half the bytes.
        stats: seconds between the server's figures in `statistics`, 0 for none.
        ca_file: PEM file of certificates to trust instead of the system's.
        patience: seconds after which a server that gives nothing back is given up.
        tell: gets lines for people, in another thread, when the connection breaks and is mended.

    Returns:
        A separator with `stems`, `latency` (samples), `push`, `flush` and `reset`, to be closed.

    Raises:
        ConfigError: for arguments that cannot work, here or at the server, or if packages lack.
        BridgeError: if the server cannot be reached, or refuses.
    """
    for package in ("msgspec", "websockets"):
        extra(package, "a connection to a server", BRIDGE)
    from stemwire.bridge.client.async_separator import AsyncSeparator

    worker = Worker()
    try:
        core = worker.call(
            lambda: AsyncSeparator.open(
                url, preset, sample_rate, channels, block_size, token=token, stems=stems,
                format=format, stats=stats, ca_file=ca_file, patience=patience, tell=tell,
            )
        )  # fmt: skip
    except BaseException:
        worker.stop(None)
        raise
    return RemoteSeparator(worker, core)
