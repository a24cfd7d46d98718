"""Interface of all backends, which run the network's steps.

A backend belongs to a preset and is shared; a stream belongs to one piece of audio and holds its
state. `NetworkStream.run` is the only call in the path of a block. A server steps many streams at
once: a `NetworkBatch` gathers their states, runs the network once and scatters the new states.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from stemwire.realtime.stft import Spectrum


class NetworkStream(Protocol):
    """State of the network for one piece of audio."""

    def step(self, frame: Spectrum) -> Spectrum:
        """Mixture frame, complex64 (C, bins) -> vocal frame of the same shape.

        The result is valid until the next call.
        """

    def run(self, frames: Spectrum) -> Spectrum:
        """Mixture frames (n, C, bins) -> vocal frames, bit-exact with n calls of `step`.

        n is at most `MAX_HOPS`. The result is valid until the next call.
        """

    def reset(self) -> None:
        """Return to the initial state."""


class Backend(Protocol):
    """A loaded network that can serve any number of streams."""

    name: str

    def open(self) -> NetworkStream:
        """Open a stream at the initial state."""

    def batch(self, most: int) -> NetworkBatch:
        """Create a batch for up to `most` streams of this backend; for use by one thread."""


class NetworkBatch(Protocol):
    """Several streams stepped by one run of the network."""

    def step(self, streams: Sequence[Any], frames: Sequence[Spectrum]) -> list[Spectrum]:
        """Step each stream once; all belong to the backend that created this batch.

        Equal to `NetworkStream.step` of each up to rounding, and bit-exact with one stream. The
        results are valid until the next call.
        """


class SequentialStream:
    """`NetworkStream.run` for backends where several steps at once are no faster."""

    def step(self, frame: Spectrum) -> Spectrum:
        raise NotImplementedError

    def run(self, frames: Spectrum) -> Spectrum:
        if len(frames) == 1:
            return self.step(frames[0])[None]
        return np.stack([self.step(frame).copy() for frame in frames])
