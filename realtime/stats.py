"""Timing statistics in constant memory."""

from __future__ import annotations

import math

import numpy as np


class TimeHistogram:
    """Durations counted in bins of 1 % width, from 1 µs to 10 s; the largest is kept exactly."""

    _base = math.log(1.01)
    _lowest = 1e-6

    def __init__(self) -> None:
        self._counts = np.zeros(1 + int(math.log(1e7) / self._base), np.int64)
        self.count = 0
        self.total = 0.0  # seconds
        self.max = 0.0  # seconds

    def add(self, seconds: float) -> None:
        """Count one duration."""
        index = int(math.log(max(seconds, self._lowest) / self._lowest) / self._base)
        self._counts[min(index, len(self._counts) - 1)] += 1
        self.count += 1
        self.total += seconds
        self.max = max(self.max, seconds)

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
