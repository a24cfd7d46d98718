"""Asymmetric window pairs: long analysis for sharp spectra, short synthesis for low delay.

Mauler and Martin, "A low delay, variable resolution, perfect reconstruction spectral
analysis-synthesis system for speech enhancement", EUSIPCO 2007, section 3: the product of both
windows over the newest `2 * hop` samples is a Hann window, which sums to one at every hop.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Window = NDArray[np.float32]


def window_pair(size: int, hop: int) -> tuple[Window, Window]:
    """Analysis window of `size` samples and synthesis window of `2 * hop` samples.

    The synthesis window belongs to the newest `2 * hop` samples of a frame. Perfect reconstruction:
    for each n, the products of both at n and n + hop sum to 1.

    Args:
        size: samples of a frame, at least `2 * hop`.
        hop: samples between frames.

    Returns:
        Both windows, float32, (size,) and (2 * hop,).
    """
    rise = size - hop
    up = np.sin(np.pi * (np.arange(rise) + 0.5) / (2 * rise))  # square root of a rising Hann
    down = np.cos(np.pi * (np.arange(hop) + 0.5) / (2 * hop))  # and of a falling one
    hann_rise = np.sin(np.pi * (np.arange(hop) + 0.5) / (2 * hop)) ** 2
    analysis = np.concatenate((up, down))
    synthesis = np.concatenate((hann_rise / up[-hop:], down))
    return analysis.astype(np.float32), synthesis.astype(np.float32)
