"""Long-run quality of a stream: one minute of music, looped many times.

Every minute of the stream holds the same samples, so that the figures are comparable; only the
separator's state differs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from stemwire.errors import AudioError
from stemwire.realtime.streaming import StreamingSeparator
from stemwire.training.evaluation.methods import BLOCKS, Passage, Streamed
from stemwire.training.evaluation.metrics import Audio, sdr

MINUTE = 60  # seconds


@dataclass(frozen=True)
class Drift:
    """Figures of a looped minute.

    Attributes:
        method: name of the preset or checkpoint.
        passage: name of the looped passage.
        minutes: vocals SDR of each minute, dB.
        state_bytes: bytes of all arrays of the separator after the first minute, and the maximum
            over all minutes.
    """

    method: str
    passage: str
    minutes: list[float]
    state_bytes: tuple[int, int]

    @property
    def change(self) -> float:
        """Largest difference of a minute's SDR to the first's, dB, signed."""
        return max((level - self.minutes[0] for level in self.minutes), key=abs)


def measure_drift(
    method: Streamed,
    passage: Passage,
    minutes: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
    seconds: int = MINUTE,
) -> Drift:
    """Drift of a stream of `minutes` times the same minute of `passage`, repeated if it is shorter.

    The vocals are compared with their reference minute by minute, except for the last `latency`
    samples of each. `seconds` sets the length of a minute.

    Raises:
        AudioError: if the separator gives NaN or Inf, saying when.
        StemwireError: if the separator cannot be opened.
    """
    references = looped_minute(passage, seconds)
    mixture: Audio = references.sum(0)
    count = mixture.shape[1]
    separator = method.open(passage.sample_rate, len(mixture))
    late = separator.latency
    sizes = np.random.default_rng(0)
    levels: list[float] = []
    held: list[int] = []
    for minute in range(minutes):
        parts, at = [], 0
        while at < count:
            size = min(int(sizes.choice(BLOCKS)), count - at)
            parts.append(separator.push(mixture[:, at : at + size])[0])
            at += size
        # The output starts with the end of the previous minute, or silence in the first.
        vocals = np.concatenate(parts, axis=1)[:, late:]
        if not np.isfinite(vocals).all():
            raise AudioError(
                f"{method.name} gives NaN or Inf in minute {minute + 1} of {passage.name}, looped; "
                "do not use these weights for streams"
            )
        levels.append(sdr(references[0, :, : count - late], vocals))
        held.append(state_bytes(separator))
        progress(minute + 1, minutes)
    return Drift(method.name, passage.name, levels, (held[0], max(held)))


def looped_minute(passage: Passage, seconds: int = MINUTE) -> Audio:
    """Middle minute of a passage, which is repeated if it is shorter."""
    count, length = seconds * passage.sample_rate, passage.references.shape[2]
    if length >= count:
        start = (length - count) // 2
        return passage.references[:, :, start : start + count]
    return np.tile(passage.references, math.ceil(count / length))[:, :, :count]


def state_bytes(separator: StreamingSeparator) -> int:
    """Bytes of all NumPy arrays and tensors reachable from a separator's own objects.

    The network's weights are excluded: they belong to the backend.
    """
    seen: set[int] = set()

    def size(thing: Any) -> int:
        if id(thing) in seen:
            return 0
        seen.add(id(thing))
        if isinstance(thing, np.ndarray) or type(thing).__module__.startswith("torch"):
            return int(getattr(thing, "nbytes", 0))
        if isinstance(thing, dict):
            return sum(map(size, thing.values()))
        if isinstance(thing, list | tuple):
            return sum(map(size, thing))
        if type(thing).__module__.startswith("stemwire.realtime"):
            return size(getattr(thing, "__dict__", {}))
        return 0

    return size(separator)
