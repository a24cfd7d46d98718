"""Songs and calls for the tests of separators with pedalboard's call signature."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

import stemwire
from stemwire.bridge.pedalboard.streaming import StreamProcessor
from support import Audio, music

RATE = 44_100
COUNT = 20_000
SONG = 0.5 * music(COUNT, RATE)


def offline(song: Audio, rate: int = RATE, preset: str = "standard") -> Audio:
    """Vocals and instrumental of a song, float32 (2, channels, n), aligned with it."""
    separator = stemwire.load(preset, rate, len(song))
    return separator.flush(song)[..., separator.latency :]


def in_pieces(
    processor: StreamProcessor, song: Audio, sizes: list[int], rate: int = RATE
) -> tuple[Audio, Audio]:
    """Process a song in pieces of these sizes; returns the output and the tail from `flush`.

    The first piece is made long enough to tell channels from samples.
    """
    edges = [0, *(edge for edge in np.cumsum(sizes) if edge > len(song))]
    parts = [song[:, :0]]
    for start, end in pairwise(edges):
        if end > start:
            parts.append(processor(song[:, start:end], rate, reset=False))
            held = processor.reported_latency_samples
            assert sum(part.shape[1] for part in parts) == max(0, end - held)
    return np.concatenate(parts, 1), processor.flush()
