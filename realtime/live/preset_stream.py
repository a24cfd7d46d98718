"""A preset's separator in a session: the one that plays, or the one that plays next."""

from __future__ import annotations

import math

import numpy as np

from stemwire.realtime.ring import Timeline
from stemwire.realtime.streaming import StreamingSeparator

MAX_STEPS_PER_BLOCK = 4
SETTLE_S = 1.0  # input that a new separator gets before its output is played
MAX_BLOCKS_BEHIND = 4  # that the worker makes up for by feeding a prepared separator


class PresetStream:
    """A warmed-up separator and its position in the session's input.

    Args:
        preset: name of the preset.
        separator: separator opened for the session's blocks.
        block_size: samples of the session's blocks.

    Attributes:
        step: samples that the separator gets at a time.
        position: position up to which it was fed before the worker took it over.
        fed: samples that it was fed since its restart.
    """

    def __init__(self, preset: str, separator: StreamingSeparator, block_size: int) -> None:
        self.preset, self.separator = preset, separator
        silence = np.zeros((separator.channels, block_size), np.float32)
        for _ in range(-(-4 * separator.hop // block_size)):  # first calls are slow
            separator.push(silence)
        separator.reset()
        separator.hop_times = type(separator.hop_times)()
        # A hop at a time where a block holds several, so that the first is ready early; but not in
        # steps so small that their number costs more than they gain.
        share = math.gcd(block_size, separator.hop)
        self.step = share if share * MAX_STEPS_PER_BLOCK >= block_size else block_size
        self.position = self.fed = 0
        self._block = np.zeros((separator.channels, self.step), np.float32)

    @property
    def settled(self) -> bool:
        """Whether it was fed enough for its output to be played."""
        return self.fed + self.step > SETTLE_S * self.separator.sample_rate

    def restart_at(self, position: int) -> None:
        """Forget the past and continue from a position."""
        self.separator.reset()
        self.position, self.fed = position, 0

    def restart_before(self, position: int) -> None:
        """Restart so far before a position that it has settled when it gets there."""
        past = min(round(SETTLE_S * self.separator.sample_rate), position)
        self.restart_at(position - past // self.step * self.step)

    def ready_for(self, position: int) -> bool:
        """Whether its next step ends at or before a position."""
        return self.position + self.step <= position

    def feed(self, timeline: Timeline) -> None:
        """Feed it the next step; raises `BufferError` if that was overwritten."""
        timeline.read(self.position, self._block)
        self.separator.push(self._block)
        self.position += self.step
        self.fed += self.step
