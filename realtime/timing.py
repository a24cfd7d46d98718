"""Timing statistics in constant memory."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


class TimeHistogram:
    """Durations counted in bins of 1 % width, from 1 µs to 10 s; the largest is kept exactly.

    Args:
        data: float64 (`size()`,) to store the counts in, initially zeros, for instance memory
            shared with another process; None creates an array. Integers are exact up to 2^53.
    """

    _base = math.log(1.01)
    _lowest = 1e-6

    def __init__(self, data: NDArray[np.float64] | None = None) -> None:
        self.data = np.zeros(self.size()) if data is None else data
        self._counts = self.data[3:]

    @classmethod
    def size(cls) -> int:
        """Required length of `data`."""
        return 4 + int(math.log(1e7) / cls._base)

    @property
    def count(self) -> int:
        """Number of durations."""
        return int(self.data[0])

    @property
    def total(self) -> float:
        """Sum of the durations in seconds."""
        return float(self.data[1])

    @property
    def max(self) -> float:
        """Longest duration in seconds."""
        return float(self.data[2])

    def add(self, seconds: float) -> None:
        """Count one duration."""
        index = int(math.log(max(seconds, self._lowest) / self._lowest) / self._base)
        self._counts[min(index, len(self._counts) - 1)] += 1
        self.data[0] += 1
        self.data[1] += seconds
        self.data[2] = max(self.max, seconds)

    def percentile(self, percent: float) -> float:
        """Duration in seconds that `percent` of all do not exceed, at most 1 % too high."""
        if self.count == 0:
            return 0.0
        rank = math.ceil(self.count * percent / 100)
        index = int(np.searchsorted(np.cumsum(self._counts), max(1, rank)))
        return min(self.max, self._lowest * math.exp((index + 1) * self._base))

    def summary(self) -> dict[str, float]:
        """p50, p95, p99, p99.9 and max in milliseconds."""
        marks = {f"p{p:g}": self.percentile(p) * 1e3 for p in (50, 95, 99, 99.9)}
        return {**marks, "max": self.max * 1e3}
