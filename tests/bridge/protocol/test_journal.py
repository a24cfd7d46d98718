"""Samples that a journal keeps."""

from __future__ import annotations

from collections import deque

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from support import Audio

from stemwire.bridge.protocol import Journal


def ramp(start: int, count: int) -> Audio:
    return np.arange(start, start + count, dtype=np.float32).reshape(1, 1, count)


def kept(journal: Journal, position: int) -> list[float]:
    """Samples from a position on, after a check of their positions."""
    values = []
    for at, audio in journal.since(position):
        assert at >= position
        np.testing.assert_array_equal(audio, ramp(at, audio.shape[-1]))
        values += audio[0, 0].tolist()
    return values


@given(
    capacity=st.integers(0, 3000), sizes=st.lists(st.integers(0, 1500), max_size=30),
    wanted=st.floats(0, 1),
)  # fmt: skip
def test_the_newest_samples_are_kept(capacity: int, sizes: list[int], wanted: float) -> None:
    journal, end = Journal(capacity), 0
    for size in sizes:
        assert journal.append(ramp(end, size)) == end
        end += size
    assert (journal.start, journal.end) == (max(0, end - capacity), end)
    position = journal.start + round(wanted * (end - journal.start))
    assert kept(journal, position) == list(range(position, end))


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 40)), max_size=40), st.integers(0, 500))
def test_gaps_and_dropped_samples_are_not_sent_again(
    steps: list[tuple[bool, int]], forgotten: int
) -> None:
    journal, wanted = Journal(10_000), []
    for gap, count in steps:
        if gap:
            journal.skip(count)
        else:
            wanted += list(range(journal.end, journal.end + count))
            journal.append(ramp(journal.end, count))
    journal.forget(forgotten)
    assert journal.start == min(forgotten, journal.end)
    assert kept(journal, journal.start) == [value for value in wanted if value >= journal.start]
    journal.forget(0)  # what is forgotten stays so
    assert journal.start == min(forgotten, journal.end)


def test_a_gap_at_the_beginning_is_kept_too() -> None:
    journal = Journal(100)
    journal.skip(10)
    journal.append(ramp(10, 5))
    assert journal.start == 0 and kept(journal, 3) == [10, 11, 12, 13, 14]


def test_single_samples_do_not_become_single_objects() -> None:
    journal = Journal(10_000)
    for at in range(20_000):
        journal.append(ramp(at, 1))
    parts: deque[object] = journal._parts
    assert len(parts) <= 12
    assert kept(journal, 10_000) == list(range(10_000, 20_000))
    for at in range(20_000, 120_000, 1025):  # one small, one that is just too large to join it
        journal.append(ramp(at, 1))
        journal.append(ramp(at + 1, 1024))
    assert len(parts) <= 22


def test_streams_follow_one_another() -> None:
    journal = Journal(100)
    journal.append(ramp(0, 10))
    journal.finish()
    assert (journal.stream, journal.end, journal.ended) == (0, 10, True)
    assert kept(journal, 0) == list(range(10))  # until the next begins
    assert journal.append(ramp(0, 3)) == 0
    assert (journal.stream, journal.end, journal.ended) == (1, 3, False)
    journal.finish()
    journal.finish()  # a stream without samples
    assert (journal.stream, journal.start, journal.end, journal.ended) == (2, 0, 0, True)
    journal.begin(65_536 + 7)
    assert (journal.stream, journal.end, journal.ended) == (7, 0, False)
    journal.begin(65_535)
    journal.finish()
    journal.append(ramp(0, 1))
    assert journal.stream == 0
