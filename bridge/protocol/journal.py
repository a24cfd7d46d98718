"""Journal of the samples that one end has sent and may have to send again after a resume."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import numpy as np

from stemwire.bridge.protocol.messages import STREAM_MODULUS
from stemwire.realtime.ring import Audio

_MERGED_SAMPLES = 1024  # parts are merged up to this size, to keep the number of objects low


class Journal:
    """Bounded journal of the newest samples of a stream, by position.

    Args:
        capacity: number of samples that are always kept: `Limits.ahead` of mixture at a client, and
            the latency more of stems at a server.

    Attributes:
        stream: number of the stream.
        start: position from which on all samples are kept.
        end: position after the newest sample.
        ended: whether the stream is complete.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._parts: deque[tuple[int, Audio]] = deque()
        self.begin(0)

    def begin(self, stream: int) -> None:
        """Forget all samples and begin a stream at position 0."""
        self._parts.clear()
        self.stream = stream % STREAM_MODULUS
        self.start = self.end = 0
        self.ended = False

    def append(self, audio: Audio) -> int:
        """Append the next samples, (…, n); if the stream has ended, they begin the next one.

        The array is kept without a copy, so it must not be written to any more.

        Returns:
            Position of the first of them.
        """
        if self.ended:
            self.begin(self.stream + 1)
        position, count = self.end, audio.shape[-1]
        if count:
            at, last = self._parts[-1] if self._parts else (0, audio[..., :0])
            if at + last.shape[-1] == position and last.shape[-1] + count < _MERGED_SAMPLES:
                if self._parts:
                    self._parts.pop()
                self._parts.append((at, np.concatenate((last, audio), -1)))
            else:
                self._parts.append((position, audio))
            self.end += count
            self.forget(self.end - self.capacity)
        return position

    def finish(self) -> None:
        """Mark the stream, or the empty one after it, as complete; kept until the next begins."""
        if self.ended:
            self.begin(self.stream + 1)
        self.ended = True

    def skip(self, count: int) -> None:
        """Leave a gap of `count` samples that will never be sent."""
        self.end += count
        self.forget(self.end - self.capacity)

    def forget(self, position: int) -> None:
        """Drop samples before a position."""
        self.start = max(self.start, min(position, self.end))
        while self._parts and self._parts[0][0] + self._parts[0][1].shape[-1] <= self.start:
            self._parts.popleft()

    def since(self, position: int) -> Iterator[tuple[int, Audio]]:
        """Samples that are kept from a position on, as (position, samples)."""
        for at, audio in self._parts:
            early = max(0, position - at)
            if early < audio.shape[-1]:
                yield at + early, audio[..., early:]
