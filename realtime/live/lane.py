"""A separator on its way through a session: the one that is heard, or the one that will be."""

from __future__ import annotations

import math

import numpy as np

from stemwire.realtime.ring import Timeline
from stemwire.realtime.streaming import StreamingSeparator

SHARES = 4  # of a block at most that the worker takes one by one
SETTLE_S = 1.0  # a new separator listens that long before it is heard
CLOSE = 4  # blocks that the worker lets it make up for


class Lane:
    """A separator, warmed up.

    Args:
        preset: its name.
        separator: made for the session's blocks.
        block_size: of the session, samples.

    Attributes:
        step: samples that it is given at a time.
        at: position up to which it has listened before the worker takes it.
        heard: samples that it has listened to.
    """

    def __init__(self, preset: str, separator: StreamingSeparator, block_size: int) -> None:
        self.preset, self.separator = preset, separator
        silence = np.zeros((separator.channels, block_size), np.float32)
        for _ in range(-(-4 * separator.hop // block_size)):  # first calls are slow
            separator.push(silence)
        separator.reset()
        separator.hop_times = type(separator.hop_times)()
        # A hop where blocks hold several, so that what can be there early is; but no shares of a
        # block so small that their number costs more than it gains.
        share = math.gcd(block_size, separator.hop)
        self.step = share if share * SHARES >= block_size else block_size
        self.at = self.heard = 0
        self._block = np.zeros((separator.channels, self.step), np.float32)

    @property
    def settled(self) -> bool:
        """Whether it has listened for long enough to be heard."""
        return self.heard + self.step > SETTLE_S * self.separator.sample_rate

    def begin(self, position: int) -> None:
        """Listen from a position on, as if there had been nothing before."""
        self.separator.reset()
        self.at, self.heard = position, 0

    def look_back(self, position: int) -> None:
        """Begin so far before a position that it has settled there."""
        past = min(round(SETTLE_S * self.separator.sample_rate), position)
        self.begin(position - past // self.step * self.step)

    def listen(self, line: Timeline) -> None:
        """Hear the next step; raises `BufferError` where it is no more."""
        line.read(self.at, self._block)
        self.separator.push(self._block)
        self.at += self.step
        self.heard += self.step
