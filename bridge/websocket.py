"""Websockets of both ends, which pass each message on as soon as it has been read.

`websockets` puts every message into a queue and wakes the task that waits for it, which takes
another turn of the event loop. That is too slow for audio: while a handler listens, a binary
message in one fragment goes to it as soon as it has been read. All others (text, fragmented
messages) take the queue, and so do the messages behind them, so the order stays.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from websockets.asyncio.client import ClientConnection
from websockets.asyncio.connection import Connection
from websockets.asyncio.server import ServerConnection
from websockets.frames import Frame, Opcode
from websockets.protocol import Event

from stemwire.bridge.protocol.framing import Data

MessageHandler = Callable[[Data], bool]
"""Function that takes a message, and tells whether it was the last one."""


class DirectConnection(Connection):
    """A websocket that calls a handler for each message."""

    _handler: MessageHandler | None = None  # while it listens
    _finished: asyncio.Future[None] | None = None  # done when the handler is
    _queued = 0  # messages that are in the queue, wholly or in part

    async def next_message(self) -> Data:
        """Receive the next message, while no handler listens.

        Raises:
            ConnectionClosed: if there will be none.
        """
        data = await self.recv()
        self._queued -= 1
        return data

    async def listen(self, handler: MessageHandler) -> None:
        """Call a handler for every message, in order, until one is the last.

        Args:
            handler: function called on the event loop; an exception it raises ends the listening.

        Raises:
            ConnectionClosed: when the connection ends, orderly or not.
        """
        self._handler, self._finished = handler, self.loop.create_future()
        ends = [self._finished, asyncio.create_task(self._read_queue())]
        errors: list[BaseException | None] = []
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            errors += [end.exception() for end in ends if end.done()]
            # Both were asked for their exception, so neither is reported as never retrieved.
            if errors[0] is not None:  # the first counts
                raise errors[0]
        finally:
            ends[1].cancel()
            # Drop every reference to an error: it refers to this frame and so to the session, all
            # of which would stay in memory until the next garbage collection.
            self._handler = self._finished = None
            ends.clear()
            errors.clear()

    async def _read_queue(self) -> None:
        while True:
            self._dispatch(await self.next_message())

    def process_event(self, event: Event) -> None:
        """Process a frame that has been read; overrides that of `websockets`."""
        if isinstance(event, Frame) and event.opcode in (Opcode.TEXT, Opcode.BINARY):
            unfragmented = event.opcode is Opcode.BINARY and event.fin
            if unfragmented and self._handler is not None and not self._queued:
                self._dispatch(bytes(event.data))
                return
            self._queued += 1
        super().process_event(event)

    def _dispatch(self, data: Data) -> None:
        """Call the handler, unless an earlier message was the last one or raised an exception."""
        if self._handler is None or self._finished is None:
            return
        try:
            if not self._handler(data):
                return
            self._finished.set_result(None)
        except Exception as error:
            self._finished.set_exception(error)
        self._handler = None


class ServerWebSocket(DirectConnection, ServerConnection):
    """The server's end."""


class ClientWebSocket(DirectConnection, ClientConnection):
    """The client's end."""
