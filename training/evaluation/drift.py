"""Whether a stream stays as good as it began: one minute of music, looped for many.

Every minute of the stream holds the same samples, so that its figures can be compared; only what
the separator remembers differs.
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
    """A looped minute.

    Attributes:
        method: preset or checkpoint.
        passage: what was looped.
        minutes: vocals SDR of each minute, dB.
        state_bytes: of all arrays that the separator holds, after the first minute, and the
            most after any.
    """

    method: str
    passage: str
    minutes: list[float]
    state_bytes: tuple[int, int]

    @property
    def change(self) -> float:
        """Largest difference of a minute's SDR from the first's, dB, with its sign."""
        return max((level - self.minutes[0] for level in self.minutes), key=abs)


def measure_drift(
    method: Streamed,
    passage: Passage,
    minutes: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
    seconds: int = MINUTE,
) -> Drift:
    """Push a minute of `passage` (repeated to fill it, if it is shorter) `minutes` times.

    The vocals are compared with their reference minute by minute: all but the last `latency`
    samples of each. `seconds` makes minutes shorter.

    Raises:
        AudioError: if the separator gives NaN or Inf, saying when.
        StemwireError: if the separator cannot be opened.
    """
    references = one_minute(passage, seconds)
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
        # What comes out first is the end of the minute before, and silence in the first minute.
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


def one_minute(passage: Passage, seconds: int = MINUTE) -> Audio:
    """The middle minute of a passage, repeated and cut to a minute if it is shorter."""
    count, there = seconds * passage.sample_rate, passage.references.shape[2]
    if there >= count:
        start = (there - count) // 2
        return passage.references[:, :, start : start + count]
    return np.tile(passage.references, math.ceil(count / there))[:, :, :count]


def state_bytes(separator: StreamingSeparator) -> int:
    """Bytes of all NumPy arrays and tensors that can be reached from a separator's own objects.

    The network's weights are left out: they belong to the backend.
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
