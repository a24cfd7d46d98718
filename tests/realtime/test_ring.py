"""Ring buffers against simple models."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from stemwire.realtime.ring import HistoryRing, Ring


class RingMachine(RuleBasedStateMachine):
    """`Ring` beside a list of samples."""

    @initialize(capacity=st.integers(1, 12), lead=st.sampled_from([(), (1,), (2,), (2, 3)]))
    def start(self, capacity: int, lead: tuple[int, ...]) -> None:
        self.ring, self.capacity, self.lead = Ring(lead, capacity), capacity, lead
        self.model: list[np.ndarray] = []
        self.counter = 0

    def fresh(self, count: int) -> np.ndarray:
        """Samples that were never used before."""
        size = (*self.lead, count)
        total = int(np.prod(size))
        out = np.arange(self.counter, self.counter + total, dtype=np.float32).reshape(size)
        self.counter += total
        return out

    @rule(count=st.integers(0, 14))
    def write(self, count: int) -> None:
        audio = self.fresh(count)
        if count > self.capacity - len(self.model):
            with pytest.raises(BufferError, match=str(count)):
                self.ring.write(audio)
        else:
            self.ring.write(audio)
            self.model += [audio[..., k].copy() for k in range(count)]
        audio[...] = -1.0  # what was written is a copy

    @rule(count=st.integers(0, 14))
    def read(self, count: int) -> None:
        out = np.full((*self.lead, count), np.nan, np.float32)
        if count > len(self.model):
            with pytest.raises(BufferError, match=str(count)):
                self.ring.read_into(out)
            assert np.isnan(out).all()
        else:
            self.ring.read_into(out)
            for k in range(count):
                np.testing.assert_array_equal(out[..., k], self.model[k])
            del self.model[:count]

    @rule(share=st.floats(0, 1))
    def reset(self, share: float) -> None:
        zeros = int(share * self.capacity)
        self.ring.reset(zeros=zeros)
        self.model = [np.zeros(self.lead, np.float32)] * zeros

    @rule()
    def reset_empty(self) -> None:
        self.ring.reset()
        self.model = []

    @invariant()
    def agrees(self) -> None:
        if hasattr(self, "ring"):
            assert self.ring.available == len(self.model)


TestRing = RingMachine.TestCase
TestRing.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@given(
    hop=st.integers(1, 8),
    times=st.integers(1, 5),
    channels=st.integers(1, 3),
    hops=st.integers(1, 30),
    again=st.integers(0, 30),
)
def test_history_is_the_newest_samples(
    hop: int, times: int, channels: int, hops: int, again: int
) -> None:
    size = hop * times
    ring = HistoryRing(channels, size, hop)
    signal = np.zeros((channels, size), np.float32)
    for number in range(hops + again):
        if number == hops:
            ring.reset()
            signal = np.zeros((channels, size), np.float32)
        block = np.arange(channels * hop, dtype=np.float32).reshape(channels, hop) + 100 * number
        signal = np.concatenate((signal, block), 1)
        newest = ring.push(block)
        assert newest.shape == (channels, size)
        np.testing.assert_array_equal(newest, signal[:, -size:])
        assert newest.strides[-1] == 4  # contiguous in time
