"""Queue of the stems that have arrived and were not taken yet: in order, gapless, bounded."""

from __future__ import annotations

from collections import deque

import numpy as np

from stemwire.errors import ProtocolError
from stemwire.realtime.ring import Audio


class StemQueue:
    """A queue of stems, and of the ends of streams.

    Args:
        stems: number of stems in every part.
        channels: number of channels of each stem.

    Attributes:
        buffered: samples in the queue.
        limit: samples that a server which keeps to the protocol never exceeds.
    """

    def __init__(self, stems: int, channels: int) -> None:
        self._shape = stems, channels
        self._parts: deque[Audio | None] = deque()  # None: a stream has ended
        self.buffered = self.limit = 0

    def __len__(self) -> int:
        return len(self._parts)

    def put_stems(self, stems: Audio, missing: int = 0) -> None:
        """Append stems, float32 (stems, channels, n), after silence for `missing` lost samples.

        Raises:
            ProtocolError: `too_fast` if they are more than was ever asked for.
        """
        count = stems.shape[2] + missing
        if self.buffered + count > self.limit:
            raise ProtocolError("too_fast", f"{self.buffered + count} samples of stems, unasked")
        if missing:
            self._parts.append(self.silence(missing))
        if stems.shape[2]:
            self._parts.append(stems)
        self.buffered += count

    def put_end(self) -> None:
        """Append the end of a stream."""
        self._parts.append(None)

    def take_stems(self, limit: int | None = None) -> Audio | None:
        """The next stems, at most `limit` samples; None at the end of a stream."""
        stems = self._parts.popleft()
        if stems is None:
            return None
        if limit is not None and stems.shape[2] > limit:
            self._parts.appendleft(stems[..., limit:])
            stems = stems[..., :limit]
        self.buffered -= stems.shape[2]
        return stems

    def clear(self) -> None:
        """Discard everything."""
        self._parts.clear()
        self.buffered = 0

    def silence(self, count: int) -> Audio:
        """Zeros, float32 (stems, channels, count)."""
        return np.zeros((*self._shape, count), np.float32)
