"""Fixed-size ring buffers for audio; nothing here allocates after construction."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Audio = NDArray[np.float32]


class Ring:
    """First-in first-out buffer of samples, float32 (..., n), for one thread.

    Args:
        lead: leading shape, for instance (channels,).
        capacity: samples it can hold.
    """

    def __init__(self, lead: tuple[int, ...], capacity: int) -> None:
        self._data = np.zeros((*lead, capacity), np.float32)
        self._capacity = capacity
        self._read = 0
        self.available = 0

    def write(self, audio: Audio) -> None:
        """Append samples; raises `BufferError` if they do not fit."""
        count = audio.shape[-1]
        if count > self._capacity - self.available:
            raise BufferError(f"{count} samples do not fit in a ring of {self._capacity}")
        start = (self._read + self.available) % self._capacity
        first = min(count, self._capacity - start)
        self._data[..., start : start + first] = audio[..., :first]
        self._data[..., : count - first] = audio[..., first:]
        self.available += count

    def read_into(self, out: Audio) -> None:
        """Take the oldest samples, as many as `out` holds; raises `BufferError` if too few."""
        count = out.shape[-1]
        if count > self.available:
            raise BufferError(f"{count} samples asked for, {self.available} there")
        first = min(count, self._capacity - self._read)
        out[..., :first] = self._data[..., self._read : self._read + first]
        out[..., first:] = self._data[..., : count - first]
        self._read = (self._read + count) % self._capacity
        self.available -= count

    def reset(self, zeros: int = 0) -> None:
        """Forget everything and hold `zeros` samples of silence."""
        self._data[:] = 0.0
        self._read, self.available = 0, zeros


class HistoryRing:
    """The newest `size` samples as one contiguous view, without ever moving the older ones.

    Each hop is written twice, `size` apart, so the view never wraps. `size` is a multiple of `hop`.
    """

    def __init__(self, channels: int, size: int, hop: int) -> None:
        self._data = np.zeros((channels, 2 * size), np.float32)
        self._size, self._hop, self._at = size, hop, 0

    def push(self, hop: Audio) -> Audio:
        """Add one hop, (C, hop); return the newest samples, (C, size), oldest first."""
        at, size = self._at, self._size
        self._data[:, at : at + self._hop] = hop
        self._data[:, at + size : at + size + self._hop] = hop
        self._at = (at + self._hop) % size
        start = at + self._hop
        return self._data[:, start : start + size]

    def reset(self) -> None:
        """Back to silence."""
        self._data[:] = 0.0
        self._at = 0
