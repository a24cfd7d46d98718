"""The asyncio client: `AsyncSeparator`, a separator whose network runs on a server.

There are two ways to use it, one at a time. `push` and `flush` are those of the local separator: a
block in, stems of the same length out. Or `send` in one task and `receive` (or `async for`) in
another: `send` waits while the server is too far behind or nobody receives, so memory use stays
bounded.

If the connection drops, the stream resumes at the exact sample behind these calls: they take
longer, and nothing is lost.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from stemwire.bridge.client.address import Address
from stemwire.bridge.client.checks import check_message, check_sized_block, make_hello
from stemwire.bridge.client.connection import ReconnectingConnection, Statistics
from stemwire.bridge.client.options import DEFAULTS, ConnectionOptions
from stemwire.bridge.client.pending_control import PendingControl
from stemwire.bridge.client.pending_push import OnResult, PendingPush, wait_for
from stemwire.bridge.client.stem_queue import StemQueue
from stemwire.bridge.protocol import ClientPeer, ReceivedStems
from stemwire.bridge.protocol.messages import (
    DTYPES,
    HEADER,
    Control,
    Error,
    Flushed,
    Format,
    Hello,
    State,
    Stem,
)
from stemwire.errors import BridgeError, ConfigError, StemwireError
from stemwire.realtime.ring import Audio
from stemwire.realtime.streaming import check_block

MESSAGE_SAMPLES = 4096  # at most: longer blocks go in several messages, so the server starts early
TAIL_SAMPLES = 65_536  # of stems beyond those asked for: room for the tail of a stream


class AsyncSeparator:
    """A separator on a server; made by `open`. For one event loop.

    Attributes:
        stems: names of the stems, in the order of the output.
        latency: delay in samples, as the server reports it: sample k of the input is sample
            k + latency of the output. Transmission over the network is not included.
        hop: samples between two frames of the server's network.
    """

    def __init__(
        self, address: Address, hello: Hello, tell: Callable[[str], None], patience: float
    ) -> None:
        self.sample_rate, self.channels = hello.rate, hello.channels
        self.block_size = hello.block or None
        self.stems, self.preset = hello.stems, hello.preset
        self.latency = self.hop = 0
        self._peer = ClientPeer(hello)
        self._connection = ReconnectingConnection(
            address, self._peer, self._on_event, tell, patience
        )
        self._tell = tell
        self._sample_bytes = hello.channels * DTYPES[hello.format].itemsize  # of all channels
        self._grain = self._message_samples = 1
        self._queue = StemQueue(len(hello.stems), hello.channels)
        self._replaced = 0  # of the samples lost by the peer, those replaced with silence
        self._changed = asyncio.Event()  # set for a moment whenever anything changes
        self._pending: PendingPush | None = None  # push or flush under way
        self._incomplete = False  # a push is under way, or was abandoned half-way
        self._closed = False
        self._control = PendingControl(patience)

    @classmethod
    async def open(
        cls,
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
    ) -> Self:
        """Connect to a server and start a stream.

        The arguments are those of `stemwire.connect`; `tell` is called in the event loop.

        Raises:
            ConfigError: for invalid arguments, or settings that the server does not support.
            BridgeError: if the server cannot be reached, or refuses.
        """
        options = ConnectionOptions(
            token=token,
            stems=stems,
            format=format,
            stats=stats,
            ca_file=ca_file,
            patience=patience,
            tell=tell,
        )
        return await cls.open_with(url, preset, sample_rate, channels, block_size, options)

    @classmethod
    async def open_with(
        cls,
        url: str,
        preset: str,
        sample_rate: int,
        channels: int,
        block_size: int | None,
        options: ConnectionOptions,
    ) -> Self:
        """As `open`, with the keyword arguments in one object."""
        address = Address.parse(url, options.ca_file)
        hello = make_hello(preset, sample_rate, channels, block_size, options)
        self = cls(address, hello, options.tell, options.patience)
        await self._connect()
        return self

    async def _connect(self) -> None:
        await self._connection.open()
        welcome = self._peer.welcome
        assert welcome is not None
        self.latency, self.hop = welcome.latency, welcome.hop
        self._grain = math.gcd(self.block_size or 1, self.hop)
        ahead = welcome.limits.ahead
        self._queue.limit = ahead + welcome.latency + TAIL_SAMPLES
        most = min(ahead, (welcome.limits.message - HEADER.size) // self._sample_bytes)
        samples = min(MESSAGE_SAMPLES, most) // self._grain * self._grain
        self._message_samples = max(self._grain, samples)
        if most < self._grain:
            await self.close()
            raise BridgeError(
                f"the server takes {most} samples at a time, fewer than blocks of "
                f"{self.block_size} need; leave out block_size"
            )

    # The local separator's calls

    async def push(self, block: Audio) -> Audio:
        """Separate the next block.

        Args:
            block: samples of the mixture, float32 (channels, n), n >= 0.

        Returns:
            Stems, float32 (stems, channels, n), delayed by `latency` samples.

        Raises:
            AudioError: for a wrong shape or type, or NaN or Inf; the stream is then unchanged.
            ConfigError: if n does not fit the `block_size` that was promised.
            BridgeError: if the session is lost.
        """
        return await wait_for(lambda on_result: self.start_push(block, on_result))

    async def flush(self, block: Audio | None = None) -> Audio:
        """End the stream and return its remaining stems; the next `push` starts another stream.

        Args:
            block: last block to push first, float32 (channels, n) of any n; None for none.

        Returns:
            Stems, float32 (stems, channels, n + latency); (stems, channels, 0) if nothing was
            pushed.

        Raises:
            AudioError: as `push`.
            BridgeError: if the session is lost.
        """
        last = np.zeros((self.channels, 0), np.float32)
        if block is not None:
            check_block(block, self.channels)
            last = block
        if self._peer.sent + last.shape[1] == 0:
            return self._queue.silence(0)
        return await wait_for(lambda on_result: self._start(last, True, on_result))

    def start_push(self, block: Audio, on_result: OnResult) -> Callable[[], None]:
        """Start a `push` without waiting for it in a task.

        Args:
            block: as for `push`.
            on_result: callback for what `push` returns or raises later; it may be called before
                this function returns.

        Returns:
            Function to call when the result is no longer needed.

        Raises:
            AudioError, ConfigError, BridgeError: as `push`.
        """
        self._check_block(block)
        return self._start(block, False, on_result)

    async def reset(self) -> None:
        """Discard the stream; if the session was lost, start another.

        Raises:
            BridgeError: if the server cannot be reached, or refuses.
        """
        if self._closed:
            self._check_connection()
        if self._connection.failure is not None:
            self._peer.start_new_session()
            await self._connect()
        elif self._peer.sent or self._peer.flushing:
            self._connection.replaceable = True
            self._connection.write(self._peer.reset())
            while self._connection.replaceable:
                await self._wait_for_change()
        self._queue.clear()
        if self._pending is not None:
            self._pending.on_result(ConfigError("the stream was reset while this call was waiting"))
        self._pending, self._incomplete, self._replaced = None, False, self._peer.lost
        self._notify()

    # Sending and receiving independently

    async def send(self, block: Audio) -> None:
        """Send the next block; waits while there is no room for it.

        Args:
            block: as for `push`.

        Raises:
            AudioError, ConfigError, BridgeError: as `push`.
        """
        self._check_block(block)
        await self._send(block)

    async def finish(self, block: Audio | None = None) -> None:
        """End the stream, after a last block of any size; `receive` then returns all up to None."""
        if block is not None:
            check_block(block, self.channels)
            await self._send(block)
        while self._peer.flushing:
            await self._wait_for_change()
        self._check_connection()
        if self._peer.sent:
            self._send_end()
        else:
            self._queue.put_end()
            self._notify()

    async def receive(self) -> Audio | None:
        """The next stems, float32 (stems, channels, n), n > 0; None at the end of a stream.

        Raises:
            BridgeError: if the session is lost.
        """
        while not self._queue:
            await self._wait_for_change()
        stems = self._queue.take_stems()
        self._notify()  # there is room again
        return stems

    async def __aiter__(self) -> AsyncIterator[Audio]:
        while (stems := await self.receive()) is not None:
            yield stems

    # Everything else

    async def control(
        self,
        *,
        vocals: float | None = None,
        instrumental: float | None = None,
        mute: bool | None = None,
        bypass: bool | None = None,
        preset: str | None = None,
        effects: dict[Any, str] | None = None,
    ) -> State:
        """Change the settings of the stem `mix`, or the preset; None leaves a setting unchanged.

        Args:
            vocals: level of the vocals in dB, -200 (off, the initial level) to 24.
            instrumental: level of the instrumental in dB, -200 (off) to 24, initially 0.
            mute: whether the mix is silent.
            bypass: whether the mix is the unchanged mixture, delayed like the stems.
            preset: name of the preset to separate with from now on.
            effects: by stem, the name of an effects chain that the server has; "" for none.

        Returns:
            All settings as they are now.

        Raises:
            ConfigError: if the server does not support the change; nothing is changed then.
            BridgeError: if the server does not answer, or the session is lost.
        """

        def send(number: int) -> None:
            self._check_connection()
            control = Control(
                id=number,
                vocals=vocals,
                instrumental=instrumental,
                mute=mute,
                bypass=bypass,
                preset=preset,
                effects=effects,
            )
            check_message(control)
            self._connection.write(self._peer.control(control))

        return await self._control.request(send)

    @property
    def statistics(self) -> Statistics:
        """State of the session."""
        return self._connection.statistics

    async def close(self) -> None:
        """End the session, also on the server."""
        if not self._closed:
            self._closed = True
            await self._connection.close(ConfigError("this separator is closed; open another"))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def _start(self, block: Audio, ends: bool, on_result: OnResult) -> Callable[[], None]:
        """Start a push or flush; see `start_push`."""
        self._check_connection()
        if self._incomplete:
            raise ConfigError(
                "a push is under way in another task, or was interrupted and its stems are lost; "
                "wait for it, or start again with reset()"
            )
        pending = PendingPush(block, ends, self._send_part, self._send_end, self._queue, on_result)
        self._incomplete, self._pending = True, pending
        self._advance()

        def abandon() -> None:
            if self._pending is pending:
                self._pending = None

        return abandon

    def _advance(self) -> None:
        """Advance the push or flush that is under way, if there is one."""
        if (pending := self._pending) is None:
            return
        try:
            self._check_connection()
            if (stems := pending.advance()) is not None:
                self._pending = None
                self._incomplete = not pending.on_result(stems)
        except Exception as error:
            self._pending = None
            pending.on_result(error)

    def _send_end(self) -> None:
        self._connection.write(self._peer.flush())

    async def _send(self, block: Audio) -> None:
        at = 0
        while at < block.shape[1]:
            if sent := self._send_part(block[:, at:]):
                at += sent
            else:
                await self._wait_for_change()

    def _send_part(self, block: Audio) -> int:
        """Send as many of these samples as there is room for now; returns their number."""
        count = block.shape[1]
        part: int = min(count, self._message_samples, self._peer.room - self._queue.buffered)
        if part < count:
            part -= part % self._grain
        if part <= 0:
            return 0
        self._connection.write(self._peer.mixture(block[:, :part], checked=True))
        return part

    def _on_event(self, event: Any) -> None:
        if isinstance(event, ReceivedStems):
            self._queue.put_stems(event.audio, self._newly_lost())
        elif isinstance(event, Flushed):
            self._queue.put_stems(self._queue.silence(0), self._newly_lost())
            self._queue.put_end()
        elif isinstance(event, State):
            self.latency = event.latency
            if self._control.matches(event.id):
                self._control.resolve(event)
        elif isinstance(event, Error):
            if self._control.matches(event.id):
                self._control.resolve(ConfigError(event.text))
            else:
                self._tell(f"error from the server: {event.text}")
        elif isinstance(event, Exception):
            self._control.resolve(event)
        self._notify()
        self._advance()

    def _newly_lost(self) -> int:
        """Samples of stems lost since the last call."""
        lost, self._replaced = self._peer.lost - self._replaced, self._peer.lost
        return lost

    def _check_block(self, block: Audio) -> None:
        check_sized_block(block, self.channels, self._grain, self.block_size)

    def _notify(self) -> None:
        self._changed.set()
        self._changed.clear()

    async def _wait_for_change(self) -> None:
        """Wait until anything changes."""
        self._check_connection()
        await self._changed.wait()
        self._check_connection()

    def _check_connection(self) -> None:
        """Raise the failure of the connection, if it has failed for good."""
        failure = self._connection.failure
        if isinstance(failure, StemwireError):
            raise type(failure)(str(failure)) from failure
        if failure is not None:  # a bug
            raise failure
