"""The websockets of both ends: what comes is handed on at once.

`websockets` puts every message into a queue and wakes the task that waits for it, which takes
another turn of the event loop. Audio has no time for that: once somebody listens, a binary message
that comes whole goes to them as soon as it is read. All others (text, messages in several frames)
take the queue, and what comes behind them does too, so the order stays.
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

Hear = Callable[[Data], bool]
"""Gets a message; whether it was the last that is wanted."""


class Prompt(Connection):
    """A websocket to be listened to."""

    _hear: Hear | None = None  # while somebody listens
    _over: asyncio.Future[None] | None = None  # when they need not any more
    _queued = 0  # messages in the queue, or whose first frame is

    async def message(self) -> Data:
        """The next message, for those who don't listen yet.

        Raises:
            ConnectionClosed: if there will be none.
        """
        data = await self.recv()
        self._queued -= 1
        return data

    async def listen(self, hear: Hear) -> None:
        """Hand every message on, in order, until one is the last.

        Args:
            hear: is called in the event loop; what it raises ends the listening.

        Raises:
            ConnectionClosed: when the connection ends, in good order or not.
        """
        self._hear, self._over = hear, self.loop.create_future()
        ends = [self._over, asyncio.create_task(self._listen())]
        errors: list[BaseException | None] = []
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            errors += [end.exception() for end in ends if end.done()]
            if errors[0] is not None:  # the first counts; the other was asked, and is not missed
                raise errors[0]
        finally:
            ends[1].cancel()
            # Nothing here may hold an error, which holds this frame and the session behind it: all
            # of that would stay until the garbage collector comes.
            self._hear = self._over = None
            ends.clear()
            errors.clear()

    async def _listen(self) -> None:
        """Hand on what takes the queue."""
        while True:
            self._hand_on(await self.message())

    def process_event(self, event: Event) -> None:
        """See `websockets`: gets what has been read."""
        if isinstance(event, Frame) and event.opcode in (Opcode.TEXT, Opcode.BINARY):
            whole = event.opcode is Opcode.BINARY and event.fin
            if whole and self._hear is not None and not self._queued:
                self._hand_on(bytes(event.data))
                return
            self._queued += 1
        super().process_event(event)

    def _hand_on(self, data: Data) -> None:
        """Hand a message on, unless one before it was the last, or wrong."""
        if self._hear is None or self._over is None:
            return
        try:
            if not self._hear(data):
                return
            self._over.set_result(None)
        except Exception as error:
            self._over.set_exception(error)
        self._hear = None


class ServerWire(Prompt, ServerConnection):
    """A server's end."""


class ClientWire(Prompt, ClientConnection):
    """A client's end."""
