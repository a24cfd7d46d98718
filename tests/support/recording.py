"""Stems whose samples identify their position, for tests of recordings."""

from __future__ import annotations

import numpy as np

from stemwire.realtime.live.recorder import Recorder
from support import Audio

RATE, HOP = 8_000, 256


def stems(start: int, count: int, channels: int = 2) -> Audio:
    """Stems (3, channels, count) from position `start` on; values depend on the position."""
    position = (np.arange(start, start + count) % 60_000) + 1.0
    scale = np.arange(1, 3 * channels + 1).reshape(3, channels, 1)
    return (position * scale / 65_536).astype(np.float32)


def feed(recorder: Recorder, count: int, start: int = 0, channels: int = 2) -> int:
    for at in range(start, start + count, HOP):
        recorder.write(stems(at, min(HOP, start + count - at), channels))
    return start + count
