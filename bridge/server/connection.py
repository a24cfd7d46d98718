"""One websocket of a server: its peer, and what waits to be sent."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any

from websockets.asyncio.server import broadcast
from websockets.exceptions import ConnectionClosed

from stemwire.bridge.protocol import Data, ServerPeer, complaint
from stemwire.bridge.protocol.messages import Message, close_code, encode
from stemwire.bridge.websocket import ServerWire
from stemwire.errors import ProtocolError

if TYPE_CHECKING:
    from stemwire.bridge.server.session import Session

MESSAGES = 5000  # in a second, at most
WAITING = 4096  # answers that may wait to be sent
REFUSAL_S = 2.0  # for telling a client why; then it is hung up on
FAULTS = {1002: "malformed", 1007: "malformed", 1009: "too_large"}  # that the websocket finds


class Connection:
    """One websocket: a peer, and what waits to be sent.

    Attributes:
        peer: this end of it.
        session: that it has let in; None before.
        heard: time (`time.monotonic`) of the newest message.
        refused: whether an error ends it.
    """

    def __init__(self, websocket: ServerWire) -> None:
        self.peer = ServerPeer()
        self.websocket = websocket
        self.session: Session | None = None
        self.heard = time.monotonic()
        self.refused = False
        self._queue: asyncio.Queue[tuple[list[Data], tuple[int, int] | None]] = asyncio.Queue()
        self._free = False  # the pump waits for something to send
        self._second, self._messages = 0, 0

    def send(self, data: list[Data], stream: int, position: int) -> None:
        """Send messages, or put them in line; bounded by how far the client may be ahead."""
        self._send(data, (stream, position))

    def say(self, message: Message) -> None:
        """Send a message, or put it in line."""
        self._send([encode(message)], None)

    def _send(self, data: list[Data], reached: tuple[int, int] | None) -> None:
        # Where the network takes all at once, nobody needs to be woken for it.
        if not self._free or self.websocket.transport.get_write_buffer_size():
            self._free = False
            self._queue.put_nowait((data, reached))
            return
        for message in data:
            broadcast([self.websocket], message)
        if reached is not None:
            self.peer.deliver(*reached)

    async def pump(self) -> None:
        """Send what is in line, until the connection ends."""
        while True:
            self._free = self._queue.empty()
            data, reached = await self._queue.get()
            for message in data:
                await self.websocket.send(message)
            if reached is not None:
                self.peer.deliver(*reached)

    def receive(self, data: Data) -> Any:
        """The event that a message is.

        Raises:
            ProtocolError: as the peer does, and `too_fast` for too many messages.
        """
        self.heard = time.monotonic()
        if int(self.heard) != self._second:
            self._second, self._messages = int(self.heard), 0
        self._messages += 1
        if self._queue.qsize() > WAITING:
            raise ProtocolError("too_slow", "answers are not taken")
        if self._messages > MESSAGES:
            raise ProtocolError("too_fast", f"more than {MESSAGES} messages in a second")
        return self.peer.receive(data)

    async def refuse(self, error: ProtocolError) -> None:
        """Tell why, and hang up, whether or not the client listens."""
        with contextlib.suppress(ConnectionClosed, TimeoutError):
            async with asyncio.timeout(REFUSAL_S):
                await self.websocket.send(complaint(error))
        await self.websocket.close(close_code(error.code), error.code)


def fault(closed: ConnectionClosed) -> ProtocolError | None:
    """What was wrong with bytes that were no websocket's, or a message beyond all limits.

    The websocket has told the client already, in the frame that closes it.
    """
    sent = closed.sent
    if sent is None or closed.rcvd_then_sent or sent.code not in FAULTS:
        return None
    return ProtocolError(FAULTS[sent.code], sent.reason or "not a websocket's bytes")
