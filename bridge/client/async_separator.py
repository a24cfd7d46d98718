"""The asyncio client: `AsyncSeparator`, a separator whose work a server does.

Two ways to use it, one at a time. `push` and `flush` are the local separator's: a block in, as much
of the stems out. Or `send` in one task and `receive` (or `async for`) in another: `send` waits when
the server is too far behind, or when nobody receives, so that nothing grows.

A connection that breaks is mended behind these calls: they take longer, and nothing is lost.
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
from stemwire.bridge.client.checks import (
    check_message,
    checked_block,
    make_hello,
    whole_blocks,
)
from stemwire.bridge.client.connection import Link, Statistics
from stemwire.bridge.client.pending_push import Answer, Exchange, finished
from stemwire.bridge.client.stem_queue import Inbox
from stemwire.bridge.protocol import ClientPeer, Separated
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
from stemwire.realtime.levels import STEMS
from stemwire.realtime.ring import Audio

PIECE = 4096  # samples of a frame: longer blocks go in several, so that the server can begin
SLACK = 65_536  # samples of stems beyond those asked for: the tail of a stream


class AsyncSeparator:
    """A separator on a server; made by `open`. For one event loop.

    Attributes:
        stems: names of the stems, in the order of the output.
        latency: delay in samples, as the server reports it: sample k of the input is sample
            k + latency of the output. What the network between adds is not in it.
        hop: samples that the server's network takes at a time.
    """

    def __init__(
        self, address: Address, hello: Hello, tell: Callable[[str], None], patience: float
    ) -> None:
        self.sample_rate, self.channels = hello.rate, hello.channels
        self.block_size = hello.block or None
        self.stems, self.preset = hello.stems, hello.preset
        self.latency = self.hop = 0
        self._peer = ClientPeer(hello)
        self._link = Link(address, self._peer, self._hear, tell, patience)
        self._tell, self._patience = tell, patience
        self._frame_bytes = hello.channels * DTYPES[hello.format].itemsize
        self._grain = self._piece = 1
        self._inbox = Inbox(len(hello.stems), hello.channels)
        self._lost = 0  # of what the peer has counted, those made up for
        self._news = asyncio.Event()  # set for a moment whenever anything changes
        self._exchange: Exchange | None = None  # push or flush that is under way
        self._torn = False  # there is one, or it was given up in the middle
        self._closed = False
        self._controls = asyncio.Lock()
        self._control = 0  # number of the newest
        self._state: asyncio.Future[State] | None = None  # its answer

    @classmethod
    async def open(
        cls,
        url: str,
        preset: str = "standard",
        sample_rate: int = 44_100,
        channels: int = 2,
        block_size: int | None = None,
        *,
        token: str = "",
        stems: Sequence[Stem] = STEMS,
        format: Format = "f32",
        stats: float = 0.0,
        ca_file: str | Path | None = None,
        patience: float = 30.0,
        tell: Callable[[str], None] = lambda text: None,
    ) -> Self:
        """Connect to a server and begin a stream.

        Args:
            url: `ws://HOST:PORT`, or `wss://` for TLS.
            preset: name of a preset that the server has.
            sample_rate: of the audio, 8000 to 192000 Hz.
            channels: of the audio, 1 or 2.
            block_size: samples in every block to come, if that is known: the delay is then as
                small as it can be. None takes blocks of any size at any time.
            token: that the server asks for.
            stems: wanted, of `vocals`, `instrumental` and `mix`, which `control` shapes.
            format: of samples on the wire: `f32`, or `s16` for half the bytes.
            stats: seconds between the server's figures in `statistics`, 0 for none.
            ca_file: PEM file of certificates to trust instead of the system's.
            patience: seconds after which a server that gives nothing back is given up.
            tell: gets lines for people when the connection breaks and is mended.

        Raises:
            ConfigError: for arguments that cannot work, here or at the server.
            BridgeError: if the server cannot be reached, or refuses.
        """
        address = Address.parse(url, ca_file)
        hello = make_hello(
            preset, sample_rate, channels, block_size,
            token=token, stems=stems, format=format, stats=stats,
        )  # fmt: skip
        self = cls(address, hello, tell, patience)
        await self._begin()
        return self

    async def _begin(self) -> None:
        await self._link.open()
        welcome = self._peer.welcome
        assert welcome is not None
        self.latency, self.hop = welcome.latency, welcome.hop
        self._grain = math.gcd(self.block_size or 1, self.hop)
        ahead = welcome.limits.ahead
        self._inbox.limit = ahead + welcome.latency + SLACK
        most = min(ahead, (welcome.limits.message - HEADER.size) // self._frame_bytes)
        self._piece = max(self._grain, min(PIECE, most) // self._grain * self._grain)
        if most < self._grain:
            await self.close()
            raise BridgeError(
                f"the server takes {most} samples at a time, fewer than blocks of "
                f"{self.block_size} need; leave out block_size"
            )

    # The local separator's calls

    async def push(self, block: Audio) -> Audio:
        """Take the next block, give as much of the stems.

        Args:
            block: float32 (channels, n), n >= 0.

        Returns:
            float32 (stems, channels, n), `latency` samples behind.

        Raises:
            AudioError: for a wrong shape or type, or NaN or Inf; the stream then stands as before.
            ConfigError: if n does not fit the `block_size` that was promised.
            BridgeError: if the session is lost.
        """
        return await finished(lambda answer: self.start_push(block, answer))

    async def flush(self, block: Audio | None = None) -> Audio:
        """End the stream: give what is still inside, then be ready for the next song.

        Args:
            block: the last block, if it is to be pushed first; of any size.

        Returns:
            float32 (stems, channels, n + latency); (stems, channels, 0) if nothing was ever pushed.

        Raises:
            AudioError: as `push`.
            BridgeError: if the session is lost.
        """
        last = np.zeros((self.channels, 0), np.float32)
        if block is not None:
            last = checked_block(block, self.channels)
        if self._peer.sent + last.shape[1] == 0:
            return self._inbox.silence(0)
        return await finished(lambda answer: self._start(last, True, answer))

    def start_push(self, block: Audio, answer: Answer) -> Callable[[], None]:
        """A `push` for those who do not wait in a task.

        Args:
            block: as for `push`.
            answer: gets what `push` returns, or raises later; perhaps before this returns.

        Returns:
            To be called if nobody wants the answer any more.

        Raises:
            AudioError, ConfigError, BridgeError: as `push`.
        """
        return self._start(self._whole_blocks(block), False, answer)

    async def reset(self) -> None:
        """Forget the stream, or begin anew if the session was lost.

        Raises:
            BridgeError: if the server cannot be reached, or refuses.
        """
        if self._closed:
            self._check()
        if self._link.failure is not None:
            self._peer.begin_anew()
            await self._begin()
        elif self._peer.sent or self._peer.flushing:
            self._link.expendable = True
            self._link.write(self._peer.reset())
            while self._link.expendable:
                await self._change()
        self._inbox.clear()
        if self._exchange is not None:
            self._exchange.answer(ConfigError("the stream was reset while this call waited for it"))
        self._exchange, self._torn, self._lost = None, False, self._peer.lost
        self._changed()

    # Sending and receiving independently

    async def send(self, block: Audio) -> None:
        """Send the next block; wait while there is no room for it.

        Args:
            block: as for `push`.

        Raises:
            AudioError, ConfigError, BridgeError: as `push`.
        """
        await self._send(self._whole_blocks(block))

    async def finish(self, block: Audio | None = None) -> None:
        """End the stream, after a last block of any size; `receive` then gives all up to None."""
        if block is not None:
            await self._send(checked_block(block, self.channels))
        while self._peer.flushing:
            await self._change()
        self._check()
        if self._peer.sent:
            self._end()
        else:
            self._inbox.end()
            self._changed()

    async def receive(self) -> Audio | None:
        """The next stems, float32 (stems, channels, n), n > 0; None at the end of a stream.

        Raises:
            BridgeError: if the session is lost.
        """
        while not self._inbox:
            await self._change()
        return self._take()

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
        """Change how the stem `mix` is made, and the preset; what is left out stays.

        Args:
            vocals: level in dB, -200 (off, as it is at first) to 24.
            instrumental: likewise, 0 at first.
            mute: silence.
            bypass: the mixture as it came, as late as the stems.
            preset: that separates from now on.
            effects: names of effects chains that the server knows, by stem; "" is none.

        Returns:
            How things are set now.

        Raises:
            ConfigError: if the server cannot do that; everything then stays.
            BridgeError: if it doesn't answer, or the session is lost.
        """
        async with self._controls:
            self._check()
            self._control += 1
            wish = Control(
                id=self._control, vocals=vocals, instrumental=instrumental, mute=mute,
                bypass=bypass, preset=preset, effects=effects,
            )  # fmt: skip
            check_message(wish)
            self._state = asyncio.get_running_loop().create_future()
            self._link.write(self._peer.control(wish))
            try:
                async with asyncio.timeout(self._patience):
                    return await self._state
            except TimeoutError as error:
                raise BridgeError(
                    f"the server did not answer a control for {self._patience:g} s; try again"
                ) from error
            finally:
                self._state = None

    @property
    def statistics(self) -> Statistics:
        """How the session fares."""
        return self._link.statistics

    async def close(self) -> None:
        """End the session; the server forgets it."""
        if not self._closed:
            self._closed = True
            await self._link.close(ConfigError("this separator is closed; open another"))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def _start(self, block: Audio, ends: bool, answer: Answer) -> Callable[[], None]:
        """Begin a push or flush; see `start_push`."""
        self._check()
        if self._torn:
            raise ConfigError(
                "a push is at work in another task, or was interrupted and its stems are gone; "
                "wait for it, or begin anew with reset()"
            )
        exchange = Exchange(block, ends, self._offer, self._end, self._inbox, answer)
        self._torn, self._exchange = True, exchange
        self._advance()

        def give_up() -> None:
            if self._exchange is exchange:
                self._exchange = None

        return give_up

    def _advance(self) -> None:
        """Go on with the push or flush that is under way, if there is one."""
        if (exchange := self._exchange) is None:
            return
        try:
            self._check()
            if (stems := exchange.advance()) is not None:
                self._exchange = None
                self._torn = not exchange.answer(stems)
        except Exception as error:
            self._exchange = None
            exchange.answer(error)

    def _end(self) -> None:
        self._link.write(self._peer.flush())

    async def _send(self, block: Audio) -> None:
        at = 0
        while at < block.shape[1]:
            if step := self._offer(block[:, at:]):
                at += step
            else:
                await self._change()

    def _offer(self, block: Audio) -> int:
        """Send as many of these samples as may be sent now; how many."""
        count = block.shape[1]
        part: int = min(count, self._piece, self._peer.room - self._inbox.held)
        if part < count:
            part -= part % self._grain
        if part <= 0:
            return 0
        self._link.write(self._peer.mixture(block[:, :part], checked=True))
        return part

    def _take(self, most: int | None = None) -> Audio | None:
        stems = self._inbox.take(most)
        self._changed()  # there is room
        return stems

    def _hear(self, event: Any) -> None:
        if isinstance(event, Separated):
            self._inbox.put(event.audio, self._missing())
        elif isinstance(event, Flushed):
            self._inbox.put(self._inbox.silence(0), self._missing())
            self._inbox.end()
        elif isinstance(event, State):
            self.latency = event.latency
            if event.id == self._control:
                self._answer(event)
        elif isinstance(event, Error):
            if event.id == self._control:
                self._answer(ConfigError(event.text))
            else:
                self._tell(f"the server: {event.text}")
        elif isinstance(event, Exception):
            self._answer(event)
        self._changed()
        self._advance()

    def _missing(self) -> int:
        """Samples of stems that were lost since this was asked last."""
        missing, self._lost = self._peer.lost - self._lost, self._peer.lost
        return missing

    def _answer(self, answer: State | Exception) -> None:
        if self._state is not None and not self._state.done():
            if isinstance(answer, Exception):
                self._state.set_exception(answer)
            else:
                self._state.set_result(answer)

    def _whole_blocks(self, block: Audio) -> Audio:
        return whole_blocks(block, self.channels, self._grain, self.block_size)

    def _changed(self) -> None:
        self._news.set()
        self._news.clear()

    async def _change(self) -> None:
        """Wait until anything changes."""
        self._check()
        await self._news.wait()
        self._check()

    def _check(self) -> None:
        failure = self._link.failure
        if isinstance(failure, StemwireError):
            raise type(failure)(str(failure)) from failure
        if failure is not None:  # a bug
            raise failure
