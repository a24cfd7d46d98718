"""Blocks in real time, for benchmarks that compare separators in turns."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

RATE, CHANNELS = 44_100, 2
TURN_SECONDS, BEGIN_SECONDS = 0.2, 1.0
BLOCKS = (128, 512)
MARKS = {"p50": 50, "p95": 95, "p99": 99, "p99.9": 99.9, "max": 100}
Audio = npt.NDArray[np.float32]


def music(seconds: float) -> Audio:
    """Noise with a rhythm, float32 (channels, n)."""
    count = round(seconds * RATE)
    beat = 0.55 + 0.45 * np.sin(2 * np.pi * 2.0 * np.arange(count) / RATE)
    noise = np.random.default_rng(0).standard_normal((CHANNELS, count))
    return (0.1 * beat * noise).astype(np.float32)


def paced(push: Callable[[Audio], Any], audio: Audio, block: int) -> npt.NDArray[np.float64]:
    """Processing time of each block in milliseconds; a late block does not delay later ones."""
    count = audio.shape[1] // block
    times = np.empty(count)
    begin = time.perf_counter()
    for index in range(count):
        wait = begin + index * block / RATE - time.perf_counter()
        if wait > 0:
            time.sleep(wait)
        start = time.perf_counter()
        push(audio[:, index * block : (index + 1) * block])
        times[index] = 1e3 * (time.perf_counter() - start)
    return times
