"""Timing statistics: accurate to 1 %, in constant memory."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stemwire.realtime.timing import TimeHistogram

PERCENTS = (0, 1, 50, 95, 99, 99.9, 100)


def filled(times: list[float]) -> TimeHistogram:
    histogram = TimeHistogram()
    for time in times:
        histogram.add(time)
    return histogram


@given(st.lists(st.floats(1e-6, 10.0), min_size=1, max_size=300), st.sampled_from(PERCENTS))
def test_percentiles_within_one_percent(times: list[float], percent: float) -> None:
    exact = float(np.percentile(times, percent, method="inverted_cdf"))
    got = filled(times).percentile(percent)
    assert exact * (1 - 1e-9) <= got <= exact * 1.01 * (1 + 1e-9)


def test_a_million_realistic_durations() -> None:
    times = np.random.default_rng(1).lognormal(np.log(1.5e-3), 0.4, 100_000)
    histogram = filled(list(times))
    for percent in PERCENTS[1:]:
        assert histogram.percentile(percent) == pytest.approx(
            np.percentile(times, percent), rel=0.011
        )
    assert histogram.max == times.max()
    assert histogram.count == len(times)
    assert histogram.total == pytest.approx(times.sum())
    summary = histogram.summary()
    assert list(summary) == ["p50", "p95", "p99", "p99.9", "max"]
    assert summary["max"] == times.max() * 1e3
    assert summary["p95"] == pytest.approx(1e3 * np.percentile(times, 95), rel=0.011)


def test_the_largest_is_exact_even_beyond_the_bins() -> None:
    histogram = filled([1e-9, 2e-3, 123.456])
    assert histogram.max == 123.456
    assert histogram.percentile(50) == pytest.approx(2e-3, rel=0.01)
    assert histogram.percentile(1) <= 1.01e-6


def test_nothing_counted_is_zero() -> None:
    assert set(TimeHistogram().summary().values()) == {0.0}


def test_one_duration_is_every_percentile() -> None:
    assert set(filled([3.7e-3]).summary().values()) == {3.7}


def test_memory_is_constant() -> None:
    def size(histogram: TimeHistogram) -> int:
        values = vars(histogram).values()
        return sum(sys.getsizeof(v) + getattr(v, "nbytes", 0) for v in values)

    histogram = filled([1e-3])
    before, names = size(histogram), set(vars(histogram))
    for time in np.random.default_rng(0).exponential(1.0, 20_000):
        histogram.add(float(time))
    assert set(vars(histogram)) == names
    assert size(histogram) <= before + 64
