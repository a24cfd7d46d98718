"""What one end of a connection has sent and may have to send again on the next connection."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import numpy as np

from stemwire.bridge.protocol.messages import STREAM_MODULUS
from stemwire.realtime.ring import Audio

MERGED_SAMPLES = 1024  # samples below which parts are joined, so that few objects hold many samples


class Journal:
    """The newest samples of a stream, by position; bounded.

    Args:
        capacity: samples that are kept at least: `Limits.ahead` of mixture at a client, and the
            latency more of stems at a server.

    Attributes:
        stream: that the samples belong to.
        start: position from which on everything is kept.
        end: position after the newest.
        ended: whether the stream is complete.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._parts: deque[tuple[int, Audio]] = deque()
        self.begin(0)

    def begin(self, stream: int) -> None:
        """Forget all; a stream begins at position 0."""
        self._parts.clear()
        self.stream = stream % STREAM_MODULUS
        self.start = self.end = 0
        self.ended = False

    def append(self, audio: Audio) -> int:
        """Take the next samples, (…, n); if the stream has ended, the first of the next stream.

        They are kept as they are, so nobody may write to them any more.

        Returns:
            Their position.
        """
        if self.ended:
            self.begin(self.stream + 1)
        position, count = self.end, audio.shape[-1]
        if count:
            at, last = self._parts[-1] if self._parts else (0, audio[..., :0])
            if at + last.shape[-1] == position and last.shape[-1] + count < MERGED_SAMPLES:
                if self._parts:
                    self._parts.pop()
                self._parts.append((at, np.concatenate((last, audio), -1)))
            else:
                self._parts.append((position, audio))
            self.end += count
            self.forget(self.end - self.capacity)
        return position

    def finish(self) -> None:
        """The stream, or the empty one after it, is complete; it is kept until the next begins."""
        if self.ended:
            self.begin(self.stream + 1)
        self.ended = True

    def skip(self, count: int) -> None:
        """So many samples will never be sent."""
        self.end += count
        self.forget(self.end - self.capacity)

    def forget(self, position: int) -> None:
        """Samples before a position are wanted no more."""
        self.start = max(self.start, min(position, self.end))
        while self._parts and self._parts[0][0] + self._parts[0][1].shape[-1] <= self.start:
            self._parts.popleft()

    def since(self, position: int) -> Iterator[tuple[int, Audio]]:
        """What is kept from a position on, as (position, samples)."""
        for at, audio in self._parts:
            early = max(0, position - at)
            if early < audio.shape[-1]:
                yield at + early, audio[..., early:]
