"""One websocket of a server: its peer, and the messages that wait to be sent. On the event loop.

Incoming messages run downhill: the websocket calls `Connection.handle`, which checks the rate and
decodes with the peer, and passes the event to `Session.handle`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

from websockets.asyncio.server import broadcast
from websockets.exceptions import ConnectionClosed

from stemwire.bridge.protocol import Data, ServerPeer, error_message
from stemwire.bridge.protocol.messages import Message, close_code, encode
from stemwire.bridge.server.session import Session
from stemwire.bridge.websocket import ServerWebSocket
from stemwire.errors import ProtocolError

MESSAGES_PER_S = 5000  # maximum
QUEUE_LIMIT = 4096  # maximum number of entries that may wait to be sent
ERROR_TIMEOUT_S = 2.0  # for sending an error; then the connection is closed without it
WEBSOCKET_ERRORS = {1002: "malformed", 1007: "malformed", 1009: "too_large"}  # by close code


class Connection:
    """One websocket: a peer, and the messages that wait to be sent.

    Args:
        websocket: the open websocket.

    Attributes:
        peer: this end of the protocol.
        session: session that the connection was let into; None before.
        last_message: time (`time.monotonic`) of the newest message.
        refused: whether an error ends the connection.
    """

    def __init__(self, websocket: ServerWebSocket) -> None:
        self.peer = ServerPeer()
        self.websocket = websocket
        self.session: Session | None = None
        self.last_message = time.monotonic()
        self.refused = False
        self._queue: asyncio.Queue[tuple[list[Data], tuple[int, int] | None]] = asyncio.Queue()
        self._sender_idle = False  # `send_queued` waits for something to send
        self._second, self._messages = 0, 0

    # --- from the client

    def handle(self, data: Data) -> bool:
        """Pass a message to the session.

        Returns:
            Whether nothing more is expected on this connection.

        Raises:
            ProtocolError: if the message breaks the protocol.
        """
        session = self.session
        if session is None or session.connection is not self:  # a newer connection has it
            return True
        return session.handle(self.receive(data))

    def receive(self, data: Data) -> Any:
        """Decode a message into an event.

        Raises:
            ProtocolError: as by the peer, and `too_fast` for too many messages.
        """
        self.last_message = time.monotonic()
        if int(self.last_message) != self._second:
            self._second, self._messages = int(self.last_message), 0
        self._messages += 1
        if self._queue.qsize() > QUEUE_LIMIT:
            raise ProtocolError("too_slow", "the client does not read its answers")
        if self._messages > MESSAGES_PER_S:
            raise ProtocolError("too_fast", f"more than {MESSAGES_PER_S} messages in a second")
        return self.peer.receive(data)

    # --- to the client

    def send(self, data: list[Data], stream: int, position: int) -> None:
        """Send or queue messages; bounded, for the client may only be `ahead` of its stems.

        Args:
            data: encoded messages.
            stream: stream of the newest stems among them.
            position: position after these stems.
        """
        self._send(data, (stream, position))

    def send_message(self, message: Message) -> None:
        """Send or queue a message."""
        self._send([encode(message)], None)

    def _send(self, data: list[Data], sent_to: tuple[int, int] | None) -> None:
        # If the network takes everything at once, no task needs to be woken for it.
        if not self._sender_idle or self.websocket.transport.get_write_buffer_size():
            self._sender_idle = False
            self._queue.put_nowait((data, sent_to))
            return
        for message in data:
            broadcast([self.websocket], message)
        if sent_to is not None:
            self.peer.mark_sent(*sent_to)

    async def send_queued(self) -> None:
        """Send queued messages until the connection ends."""
        while True:
            self._sender_idle = self._queue.empty()
            data, sent_to = await self._queue.get()
            for message in data:
                await self.websocket.send(message)
            if sent_to is not None:
                self.peer.mark_sent(*sent_to)

    async def close_with_error(self, error: ProtocolError) -> None:
        """Send an error and close the connection, whether or not the client reads."""
        with contextlib.suppress(ConnectionClosed, TimeoutError):
            async with asyncio.timeout(ERROR_TIMEOUT_S):
                await self.websocket.send(error_message(error))
        await self.websocket.close(close_code(error.code), error.code)


def websocket_error(closed: ConnectionClosed) -> ProtocolError | None:
    """The error of a client that sent invalid websocket bytes, or a message beyond all limits.

    The websocket has already told the client, in the frame that closes it.
    """
    sent = closed.sent
    if sent is None or closed.rcvd_then_sent or sent.code not in WEBSOCKET_ERRORS:
        return None
    reason = sent.reason or "the bytes are not a websocket's"
    return ProtocolError(WEBSOCKET_ERRORS[sent.code], reason)
