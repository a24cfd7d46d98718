"""What the tests of separators in pedalboard's call shape share: a song, and ways to play it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

import stemwire
from stemwire.bridge.pedalboard.streaming import Line
from support import Audio, music

RATE = 44_100
COUNT = 20_000
SONG = 0.5 * music(COUNT, RATE)


def offline(song: Audio, rate: int = RATE, preset: str = "standard") -> Audio:
    """Vocals and instrumental, float32 (2, channels, n), aligned."""
    separator = stemwire.load(preset, rate, len(song))
    return separator.flush(song)[..., separator.latency :]


def in_pieces(line: Line, song: Audio, sizes: list[int], rate: int = RATE) -> tuple[Audio, Audio]:
    """What comes out for pieces, and the tail; the first is long enough to tell its channels."""
    edges = [0, *(edge for edge in np.cumsum(sizes) if edge > len(song))]
    parts = [song[:, :0]]
    for start, end in pairwise(edges):
        if end > start:
            parts.append(line(song[:, start:end], rate, reset=False))
            held = line.reported_latency_samples
            assert sum(part.shape[1] for part in parts) == max(0, end - held)
    return np.concatenate(parts, 1), line.flush()
