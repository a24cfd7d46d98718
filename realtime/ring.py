"""Ring buffers of fixed size for audio; nothing here allocates after construction."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Audio = NDArray[np.float32]


class Ring:
    """First-in first-out buffer of samples, float32 (..., n), for one thread.

    Args:
        lead: leading shape, for example (channels,).
        capacity: samples that it can hold.
    """

    def __init__(self, lead: tuple[int, ...], capacity: int) -> None:
        self._data = np.zeros((*lead, capacity), np.float32)
        self.capacity = capacity
        self._read = 0
        self.available = 0

    def write(self, audio: Audio) -> None:
        """Append samples; raises `BufferError` if they do not fit."""
        count = audio.shape[-1]
        if count > self.capacity - self.available:
            raise BufferError(f"{count} samples do not fit in a ring of {self.capacity}")
        start = (self._read + self.available) % self.capacity
        first = min(count, self.capacity - start)
        self._data[..., start : start + first] = audio[..., :first]
        self._data[..., : count - first] = audio[..., first:]
        self.available += count

    def read_into(self, out: Audio) -> None:
        """Take the oldest samples, as many as `out` holds; raises `BufferError` if too few."""
        count = out.shape[-1]
        if count > self.available:
            raise BufferError(f"{count} samples requested, {self.available} available")
        first = min(count, self.capacity - self._read)
        out[..., :first] = self._data[..., self._read : self._read + first]
        out[..., first:] = self._data[..., : count - first]
        self._read = (self._read + count) % self.capacity
        self.available -= count

    def reset(self, zeros: int = 0) -> None:
        """Discard everything and hold `zeros` samples of silence."""
        self._data[:] = 0.0
        self._read, self.available = 0, zeros


class HistoryRing:
    """The newest `size` samples as one contiguous view, without moving older samples.

    Each hop is written twice, `size` apart, so the view never wraps. `size` is a multiple of `hop`.
    """

    def __init__(self, channels: int, size: int, hop: int) -> None:
        self._data = np.zeros((channels, 2 * size), np.float32)
        self._size, self._hop, self._at = size, hop, 0

    def push(self, hop: Audio) -> Audio:
        """Add one hop, (C, hop) or (1, hop); return the newest samples, (C, size), oldest first."""
        at, size = self._at, self._size
        self._data[:, at : at + self._hop] = hop
        self._data[:, at + size : at + size + self._hop] = hop
        self._at = (at + self._hop) % size
        start = at + self._hop
        return self._data[:, start : start + size]

    def reset(self) -> None:
        """Return to silence."""
        self._data[:] = 0.0
        self._at = 0


class Timeline:
    """The newest samples of a stream by their position since its start; one writer, one reader.

    The writer stores samples before it advances `written`, so that a reader in another thread never
    sees incomplete samples. Neither waits. A read must finish before the writer overwrites the
    samples, `capacity` samples later.

    Args:
        lead: leading shape, for example (channels,).
        capacity: number of samples kept.

    Attributes:
        written: position after the newest sample; a Python int, so it never wraps.
    """

    def __init__(self, lead: tuple[int, ...], capacity: int) -> None:
        self._data = np.zeros((*lead, capacity), np.float32)
        self.capacity = capacity
        self.written = 0

    def write(self, audio: Audio) -> None:
        """Append samples, (..., n), n up to the capacity."""
        count = audio.shape[-1]
        start = self.written % self.capacity
        first = min(count, self.capacity - start)
        self._data[..., start : start + first] = audio[..., :first]
        self._data[..., : count - first] = audio[..., first:]
        self.written += count

    def write_silence(self, count: int) -> None:
        """Append any number of zeros."""
        here = min(count, self.capacity)
        start = (self.written + count - here) % self.capacity
        first = min(here, self.capacity - start)
        self._data[..., start : start + first] = 0.0
        self._data[..., : here - first] = 0.0
        self.written += count

    def read(self, start: int, out: Audio) -> None:
        """Copy the samples from position `start` on, as many as `out` holds.

        Before position 0 there is silence.

        Raises:
            BufferError: if they are not written yet, or overwritten.
        """
        if start < 0:
            early = min(-start, out.shape[-1])
            out[..., :early] = 0.0
            start, out = start + early, out[..., early:]
        count = out.shape[-1]
        if start + count > self.written or start < self.written - self.capacity:
            raise BufferError(
                f"samples {start} to {start + count} requested, {self.written - self.capacity} "
                f"to {self.written} available"
            )
        at = start % self.capacity
        first = min(count, self.capacity - at)
        out[..., :first] = self._data[..., at : at + first]
        out[..., first:] = self._data[..., : count - first]
