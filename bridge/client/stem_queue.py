"""Stems that have come and that nobody has taken yet: in order, without holes, bounded."""

from __future__ import annotations

from collections import deque

import numpy as np

from stemwire.errors import ProtocolError
from stemwire.realtime.ring import Audio


class Inbox:
    """A queue of stems, and of the ends of streams.

    Args:
        stems: in every part.
        channels: of each.

    Attributes:
        held: samples in it.
        limit: samples that an honest server never exceeds.
    """

    def __init__(self, stems: int, channels: int) -> None:
        self._lead = stems, channels
        self._parts: deque[Audio | None] = deque()  # None: a stream has ended
        self.held = self.limit = 0

    def __len__(self) -> int:
        return len(self._parts)

    def put(self, stems: Audio, missing: int = 0) -> None:
        """Append stems, (stems, channels, n), after silence for `missing` samples that are lost.

        Raises:
            ProtocolError: `too_fast` if they are more than were ever asked for.
        """
        count = stems.shape[2] + missing
        if self.held + count > self.limit:
            raise ProtocolError("too_fast", f"{self.held + count} samples of stems, unasked")
        if missing:
            self._parts.append(self.silence(missing))
        if stems.shape[2]:
            self._parts.append(stems)
        self.held += count

    def end(self) -> None:
        """A stream ends here."""
        self._parts.append(None)

    def take(self, most: int | None = None) -> Audio | None:
        """The next stems, at most so many samples; None where a stream ends."""
        stems = self._parts.popleft()
        if stems is None:
            return None
        if most is not None and stems.shape[2] > most:
            self._parts.appendleft(stems[..., most:])
            stems = stems[..., :most]
        self.held -= stems.shape[2]
        return stems

    def clear(self) -> None:
        """Forget all."""
        self._parts.clear()
        self.held = 0

    def silence(self, count: int) -> Audio:
        """Zeros, (stems, channels, count)."""
        return np.zeros((*self._lead, count), np.float32)
