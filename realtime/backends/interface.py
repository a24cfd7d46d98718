"""What runs the network's steps, whichever backend it is.

A backend belongs to a preset and is shared; a stream belongs to one piece of audio and holds its
state. `Stream.run` is the only call on the way of a block. A server steps many streams at once: a
`Batch` gathers their states, runs the network once and hands the states back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from stemwire.realtime.stft import Spectrum


class Stream(Protocol):
    """The network on its way through one piece of audio."""

    def step(self, frame: Spectrum) -> Spectrum:
        """Mixture frame, complex64 (C, bins) -> vocal frame of the same shape.

        The result is valid until the next call.
        """

    def run(self, frames: Spectrum) -> Spectrum:
        """Steps one after the other: mixture frames (n, C, bins) -> vocal frames, to the bit.

        n is up to `TOGETHER`. The result is valid until the next call.
        """

    def reset(self) -> None:
        """Start again from the initial state."""


class Backend(Protocol):
    """A loaded network that can serve any number of streams."""

    name: str

    def open(self) -> Stream:
        """A new stream at the initial state."""

    def batch(self, most: int) -> Batch:
        """What steps up to `most` streams of this backend at once; for one thread."""


class Batch(Protocol):
    """Several streams, one run of the network."""

    def step(self, streams: Sequence[Any], frames: Sequence[Spectrum]) -> list[Spectrum]:
        """One step of each stream, of the backend that made this.

        Equal to `Stream.step` of each but for rounding; with one stream, to the bit. The results
        are valid until the next call.
        """


class OneByOne:
    """`Stream.run` where several steps in one go are no quicker than one after the other."""

    def step(self, frame: Spectrum) -> Spectrum:
        raise NotImplementedError

    def run(self, frames: Spectrum) -> Spectrum:
        if len(frames) == 1:
            return self.step(frames[0])[None]
        return np.stack([self.step(frame).copy() for frame in frames])
