"""One `push` or `flush` of a client: what it still has to send, and the stems that it waits for.

It is not a task: each message from the server advances it as far as possible at once, and the last
stems complete it without a turn of the event loop in between.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import numpy as np

from stemwire.bridge.client.stem_queue import StemQueue
from stemwire.realtime.ring import Audio

OnResult = Callable[[Audio | Exception], bool]
"""Takes the stems, or the error in their place, once; returns whether the caller still waited."""
Start = Callable[[OnResult], Callable[[], None]]
"""Starts a push or flush and returns a function that abandons it."""


async def wait_for(start: Start) -> Audio:
    """Start a push or flush and wait for its stems, float32 (stems, channels, n)."""
    future: asyncio.Future[Audio] = asyncio.get_running_loop().create_future()

    def on_result(result: Audio | Exception) -> bool:
        if future.done():  # cancelled
            return False
        if isinstance(result, Exception):
            future.set_exception(result)
        else:
            future.set_result(result)
        return True

    abandon = start(on_result)
    try:
        return await future
    finally:
        abandon()


class PendingPush:
    """A push that sends and receives at once: the first stems make room for the last samples.

    Args:
        block: samples to send, float32 (channels, n).
        ends: whether the stream ends with them.
        send: function that sends as many of the given samples as there is room for, and returns
            their number.
        send_end: function that sends the end of the stream.
        queue: queue that the stems arrive in.
        on_result: callback for the stems, float32 (stems, channels, m).
    """

    def __init__(
        self,
        block: Audio,
        ends: bool,
        send: Callable[[Audio], int],
        send_end: Callable[[], None],
        queue: StemQueue,
        on_result: OnResult,
    ) -> None:
        self._block, self._ends = block, ends
        self._send, self._send_end, self._queue = send, send_end, queue
        self.on_result = on_result
        self._sent, self._end_sent = 0, False
        self._missing = block.shape[1]  # samples of stems still to come, unless the stream ends
        self._parts: list[Audio] = []

    def advance(self) -> Audio | None:
        """Do what is possible now; the stems if that completes it, else None."""
        count = self._block.shape[1]
        while self._ends or self._missing:
            while self._sent < count and (sent := self._send(self._block[:, self._sent :])):
                self._sent += sent
            if self._ends and self._sent == count and not self._end_sent:
                self._send_end()
                self._end_sent = True
            if not self._queue:
                return None
            stems = self._queue.take_stems(None if self._ends else self._missing)
            if stems is not None:
                self._parts.append(stems)
                self._missing -= stems.shape[2]
            elif self._end_sent:
                break
        parts = self._parts or [self._queue.silence(0)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, 2)
