"""`RemoteSeparator`: the calls of the local separator, for a separator on a server.

    with stemwire.connect("ws://studio:8765", "low", 48_000, block_size=512) as separator:
        stems = separator.push(block)

An `AsyncSeparator` does the work in an event loop on a thread of its own; the calls here wait for
it. Interrupting a call (Ctrl-C) cancels it there too.
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

from stemwire.bridge.client.options import DEFAULTS, ConnectionOptions
from stemwire.errors import ConfigError
from stemwire.extras import BRIDGE, extra
from stemwire.realtime.ring import Audio
from stemwire.realtime.timing import TimeHistogram

if TYPE_CHECKING:
    from stemwire.bridge.client.async_separator import AsyncSeparator
    from stemwire.bridge.client.connection import Statistics
    from stemwire.bridge.protocol.messages import Format, State, Stem

INTERRUPT_CHECK_SECONDS = 0.5  # between checks for Ctrl-C, where waiting does not notice it
CLOSE_SECONDS = 5.0  # limit for saying goodbye

T = TypeVar("T")
OnResult = Callable[[T | Exception], bool]
"""Takes a result, or the exception to raise, once; returns whether the caller still waited."""
Start = Callable[[OnResult[T]], Callable[[], object]]
"""Starts an operation in the event loop and returns a function that abandons it."""


class _Request(Generic[T]):
    """An operation that one thread requests of the event loop; it has one result.

    It does less than a `Future`, for audio waits for it. `start` and `abandon` are called in the
    event loop, `wait` in the requesting thread.
    """

    def __init__(self, start: Start[T]) -> None:
        self.abandoned = False
        self._results: SimpleQueue[T | Exception] = SimpleQueue()
        self._start = start
        self._abandon: Callable[[], object] | None = None

    def start(self) -> None:
        if self.abandoned:
            return
        try:
            self._abandon = self._start(self._on_result)
        except Exception as error:
            self._on_result(error)

    def abandon(self) -> None:
        if self._abandon is not None:
            self._abandon()

    def _on_result(self, result: T | Exception) -> bool:
        if self.abandoned:
            return False
        self._results.put(result)
        return True

    def wait(self, thread: threading.Thread) -> T | Exception:
        """The result, which comes from the event loop in `thread`."""
        while True:
            try:
                return self._results.get(timeout=INTERRUPT_CHECK_SECONDS)
            except Empty:
                if not thread.is_alive() and self._results.empty():
                    raise ConfigError(
                        "this separator was closed during the call; open another"
                    ) from None


class EventLoopThread:
    """A thread that runs an event loop, until `stop`."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="stemwire-bridge", daemon=True)
        self._thread.start()

    def call(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine in the event loop and return its result; an interrupt cancels it."""

        def start(on_result: OnResult[T]) -> Callable[[], object]:
            # Called in the loop, so that nothing comes between a coroutine and its start.
            task = self.loop.create_task(work())

            def on_done(_: asyncio.Task[T]) -> None:
                if task.cancelled():
                    on_result(CancelledError())
                elif isinstance(error := task.exception(), Exception):
                    on_result(error)
                elif error is None:
                    on_result(task.result())

            task.add_done_callback(on_done)
            return task.cancel

        return self.request(start)

    def request(self, start: Start[T]) -> T:
        """Start an operation in the event loop and wait for it; an interrupt abandons it."""
        if not self._thread.is_alive():
            raise ConfigError("this separator is closed; open another")
        request = _Request(start)
        self.loop.call_soon_threadsafe(request.start)
        try:
            result = request.wait(self._thread)
        except BaseException:
            request.abandoned = True
            with contextlib.suppress(RuntimeError):  # the loop has ended, and everything in it
                self.loop.call_soon_threadsafe(request.abandon)
            raise
        if isinstance(result, Exception):
            try:
                raise result
            finally:
                del result  # it refers to this stack frame
        return result

    def stop(self, core: AsyncSeparator | None) -> None:
        """Close the separator, if there is one, and end the thread."""
        if not self._thread.is_alive():
            return
        if threading.current_thread() is self._thread:  # called by the garbage collector
            self.loop.stop()
            return
        if core is not None:
            future = asyncio.run_coroutine_threadsafe(core.close(), self.loop)
            with contextlib.suppress(Exception):  # nobody is left to handle it
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

    Calls may come from any thread, but `push`, `flush` and `reset` only from one at a time;
    `receive` may wait in one thread while another calls `send`.

    Attributes:
        hop_times: time that each `push` took, round trip included.
    """

    def __init__(self, thread: EventLoopThread, core: AsyncSeparator) -> None:
        self._thread, self._core = thread, core
        self.hop_times = TimeHistogram()
        self._end = weakref.finalize(self, thread.stop, core)  # also without a call of `close`

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
        """Sample rate of the audio, Hz."""
        return self._core.sample_rate

    @property
    def channels(self) -> int:
        """Number of channels of the audio."""
        return self._core.channels

    @property
    def block_size(self) -> int | None:
        """Samples in every block, if promised; None otherwise."""
        return self._core.block_size

    @property
    def hop(self) -> int:
        """Samples between two frames of the server's network."""
        return self._core.hop

    @property
    def preset(self) -> str:
        """Name of the requested preset."""
        return self._core.preset

    @property
    def statistics(self) -> Statistics:
        """State of the session."""
        return self._core.statistics

    def push(self, block: Audio) -> Audio:
        """Separate the next block; see `AsyncSeparator.push`."""

        def start(on_result: OnResult[Audio]) -> Callable[[], object]:
            return self._core.start_push(block, on_result)

        started = time.perf_counter()
        stems = self._thread.request(start)
        self.hop_times.add(time.perf_counter() - started)
        return stems

    def flush(self, block: Audio | None = None) -> Audio:
        """End the stream and return its remaining stems; see `AsyncSeparator.flush`."""
        return self._thread.call(lambda: self._core.flush(block))

    def reset(self) -> None:
        """Discard the stream; if the session was lost, start another."""
        self._thread.call(lambda: self._core.reset())

    def control(self, **changes: Any) -> State:
        """Change the settings of `mix`, or the preset; see `AsyncSeparator.control`."""
        return self._thread.call(lambda: self._core.control(**changes))

    def send(self, block: Audio) -> None:
        """Send the next block while another thread calls `receive`; waits for room."""
        self._thread.call(lambda: self._core.send(block))

    def finish(self, block: Audio | None = None) -> None:
        """End the stream that is being sent, after a last block of any size."""
        self._thread.call(lambda: self._core.finish(block))

    def receive(self) -> Audio | None:
        """The next stems, float32 (stems, channels, n); None at the end of a stream."""
        return self._thread.call(lambda: self._core.receive())

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
    token: str = DEFAULTS.token,
    stems: Sequence[Stem] = DEFAULTS.stems,
    format: Format = DEFAULTS.format,
    stats: float = DEFAULTS.stats,
    ca_file: str | Path | None = DEFAULTS.ca_file,
    patience: float = DEFAULTS.patience,
    tell: Callable[[str], None] = DEFAULTS.tell,
) -> RemoteSeparator:
    """Open a separator on a server that runs `stemwire serve`.

    Args:
        url: URL of the server, `ws://HOST:PORT`, or `wss://HOST:PORT` for TLS.
        preset: name of a preset that the server has.
        sample_rate: sample rate of the audio, 8000 to 192000 Hz.
        channels: number of channels of the audio, 1 or 2.
        block_size: samples in every block to come, if known: the latency is then the lowest
            possible. None accepts blocks of any size at any time.
        token: token that the server requires; "" for none.
        stems: names of the stems to receive, in this order: of `vocals`, `instrumental` and `mix`,
            which `control` shapes.
        format: sample format on the wire: `f32`, or `s16` for half the bytes.
        stats: seconds between the server's figures in `statistics`, 0 for none.
        ca_file: PEM file of certificates to trust instead of the system's.
        patience: seconds without stems after which a server that has samples is given up.
        tell: callback for a line of text when the connection drops or is restored; it is called
            in another thread.

    Returns:
        A separator with `stems`, `latency` (samples), `push`, `flush` and `reset`; close it after
        use.

    Raises:
        ConfigError: for invalid arguments, settings that the server does not support, or missing
            packages.
        BridgeError: if the server cannot be reached, or refuses.
    """
    for package in ("msgspec", "websockets"):
        extra(package, "a connection to a server", BRIDGE)
    from stemwire.bridge.client.async_separator import AsyncSeparator

    options = ConnectionOptions(
        token=token,
        stems=stems,
        format=format,
        stats=stats,
        ca_file=ca_file,
        patience=patience,
        tell=tell,
    )
    thread = EventLoopThread()
    try:
        core = thread.call(
            lambda: AsyncSeparator.open_with(
                url, preset, sample_rate, channels, block_size, options
            )
        )
    except BaseException:
        thread.stop(None)
        raise
    return RemoteSeparator(thread, core)
