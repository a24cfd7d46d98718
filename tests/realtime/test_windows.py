"""Asymmetric window pairs: their products sum to one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stemwire.realtime.windows import window_pair


@given(hop=st.integers(1, 600), more=st.integers(0, 5000))
def test_products_sum_to_one_at_every_hop(hop: int, more: int) -> None:
    size = 2 * hop + more
    analysis, synthesis = window_pair(size, hop)
    assert analysis.shape == (size,) and synthesis.shape == (2 * hop,)
    assert analysis.dtype == synthesis.dtype == np.float32
    product = (analysis[-2 * hop :] * synthesis).astype(np.float64)
    np.testing.assert_allclose(product[:hop] + product[hop:], 1.0, atol=1e-6)


@given(hop=st.integers(2, 600), more=st.integers(0, 5000))
def test_windows_are_positive_and_bounded(hop: int, more: int) -> None:
    analysis, synthesis = window_pair(2 * hop + more, hop)
    assert analysis.min() > 0 and analysis.max() <= 1
    assert synthesis.min() > 0 and synthesis.max() <= 1.0001  # no frame is amplified


@pytest.mark.parametrize(("size", "hop"), [(2048, 512), (2048, 256), (364, 91)])
def test_both_windows_fade(size: int, hop: int) -> None:
    analysis, synthesis = window_pair(size, hop)
    ends = (analysis[0], analysis[-1], synthesis[0], synthesis[-1])
    assert max(ends) < 0.02  # the newest samples have next to no weight in either
    assert np.argmax(analysis) in range(size - hop - 1, size - hop + 1)  # rises long, falls short


def test_a_window_of_two_hops_is_the_square_root_of_a_hann_window() -> None:
    analysis, synthesis = window_pair(512, 256)
    hann = np.sin(np.pi * (np.arange(512) + 0.5) / 512)
    np.testing.assert_allclose(analysis, hann, atol=1e-6)
    np.testing.assert_allclose(synthesis, hann, atol=1e-6)
