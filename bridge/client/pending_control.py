"""The control of a client that waits for the server's answer; there is one at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from stemwire.bridge.protocol.messages import State
from stemwire.errors import BridgeError


class PendingControl:
    """Numbers controls, and matches the server's answers to them.

    Args:
        patience: seconds to wait for an answer.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._lock = asyncio.Lock()
        self._id = 0  # of the newest control
        self._state: asyncio.Future[State] | None = None  # the answer to it

    async def request(self, send: Callable[[int], None]) -> State:
        """Send a control, which gets a number from here, and wait for the answer to it.

        Raises:
            BridgeError: if there is no answer.
        """
        async with self._lock:
            self._id += 1
            self._state = asyncio.get_running_loop().create_future()
            try:
                send(self._id)
                async with asyncio.timeout(self._patience):
                    return await self._state
            except TimeoutError as error:
                raise BridgeError(
                    f"the server did not answer a control within {self._patience:g} s; try again"
                ) from error
            finally:
                self._state = None

    def matches(self, number: int) -> bool:
        """Whether an answer is to the newest control."""
        return number == self._id

    def resolve(self, result: State | Exception) -> None:
        """Hand over the answer, or the error in its place, to the call that waits for it."""
        if self._state is not None and not self._state.done():
            if isinstance(result, Exception):
                self._state.set_exception(result)
            else:
                self._state.set_result(result)
