"""One `push` or `flush` of a client: what it sends, and the stems that it waits for.

It is no task: whatever comes from the server takes it as far as that goes, at once, and the last
stems answer it, with no turns of the event loop in between.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import numpy as np

from stemwire.bridge.client.stem_queue import Inbox
from stemwire.realtime.ring import Audio

Answer = Callable[[Audio | Exception], bool]
"""Gets stems, or why there are none, once; whether anybody still wants them."""
Start = Callable[[Answer], Callable[[], None]]
"""Begins an exchange that will be answered; gives what is to be called to give it up."""


async def finished(start: Start) -> Audio:
    """Begin an exchange and wait for its answer."""
    future: asyncio.Future[Audio] = asyncio.get_running_loop().create_future()

    def answer(found: Audio | Exception) -> bool:
        if future.done():  # nobody waits any more
            return False
        if isinstance(found, Exception):
            future.set_exception(found)
        else:
            future.set_result(found)
        return True

    give_up = start(answer)
    try:
        return await future
    finally:
        give_up()


class Exchange:
    """Sends and receives at once: a long block's first stems make room for its last samples.

    Args:
        block: float32 (channels, n), to be sent.
        ends: whether the stream ends with it.
        offer: sends as many of these samples as there is room for, and says how many.
        end: sends that the stream ends.
        inbox: where stems come.
        answer: wants the stems, float32 (stems, channels, m).
    """

    def __init__(
        self,
        block: Audio,
        ends: bool,
        offer: Callable[[Audio], int],
        end: Callable[[], None],
        inbox: Inbox,
        answer: Answer,
    ) -> None:
        self._block, self._ends = block, ends
        self._offer, self._end, self._inbox = offer, end, inbox
        self.answer = answer
        self._sent, self._asked = 0, False
        self._left = block.shape[1]  # stems that are to come, unless the stream ends
        self._parts: list[Audio] = []

    def advance(self) -> Audio | None:
        """Do what can be done now; the answer, if that was all."""
        count = self._block.shape[1]
        while self._ends or self._left:
            while self._sent < count and (step := self._offer(self._block[:, self._sent :])):
                self._sent += step
            if self._ends and self._sent == count and not self._asked:
                self._end()
                self._asked = True
            if not self._inbox:
                return None
            stems = self._inbox.take(None if self._ends else self._left)
            if stems is not None:
                self._parts.append(stems)
                self._left -= stems.shape[2]
            elif self._asked:
                break
        parts = self._parts or [self._inbox.silence(0)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, 2)
