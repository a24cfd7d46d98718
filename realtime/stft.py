"""Streaming STFT and its inverse at any sample rate, in the network's frames.

The network was trained at one rate (44.1 kHz). At another, the stream is not resampled: windows and
hop are scaled instead, so that the spacing of bins in Hz and of frames in seconds stays as in
training (within 1.4 % at 44.1 and 48 kHz and their multiples, within 7 % at any rate). No
resampler means no latency of a resampler, and everything above the network's highest bin stays in
the instrumental unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stemwire.errors import ConfigError
from stemwire.model.config import SeparatorConfig
from stemwire.realtime.ring import Audio, HistoryRing
from stemwire.realtime.windows import Window, window_pair

Spectrum = NDArray[np.complex64]
MAX_HOPS = 4  # processed at once: a backlog, or part of a long block
RATES = (8_000, 192_000)  # Hz, lowest and highest


def check_rate(sample_rate: int) -> None:
    """Refuse a sample rate, in Hz, that cannot be processed.

    Raises:
        ConfigError: if it lies outside `RATES`.
    """
    low, high = RATES
    if not low <= sample_rate <= high:
        raise ConfigError(
            f"sample rate {sample_rate} Hz cannot be processed; expected a whole number from {low} "
            f"to {high} Hz: resample the audio first"
        )


def fast_floor(size: float) -> int:
    """Largest whole number up to `size` with no prime factor above 13, for a fast FFT."""
    number = int(size)
    while True:
        rest = number
        for prime in (2, 3, 5, 7, 11, 13):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return number
        number -= 1


@dataclass(frozen=True)
class FrameGeometry:
    """Windows and hop in samples at one sample rate.

    Attributes:
        size: samples of the analysis window and of the FFT, an even number.
        hop: samples between frames; the synthesis window is `2 * hop` long.
        bins: bins of the network, including half the sample rate.
        scale: factor that brings spectra to the level of training.
    """

    size: int
    hop: int
    bins: int
    scale: float

    @classmethod
    def at(cls, config: SeparatorConfig, sample_rate: int) -> FrameGeometry:
        """Geometry for `sample_rate` Hz; the hop is never longer in seconds than the network's.

        Raises:
            ConfigError: if the rate is not a whole number from 8 kHz to 192 kHz.
        """
        check_rate(sample_rate)
        hop, hops = config.hop, config.analysis_window // config.hop
        if sample_rate != config.sample_rate:
            multiple = 1 + hops % 2  # so that the window is of even size
            length = config.hop * sample_rate / (multiple * config.sample_rate)
            hop = multiple * fast_floor(max(1.0, length))
        size = hop * hops
        return cls(size, hop, config.bins + 1, config.analysis_window / size)

    def windows(self) -> tuple[Window, Window]:
        """Analysis window (size,) and synthesis window (2 * hop,), with the scale in them."""
        analysis, synthesis = window_pair(self.size, self.hop)
        return analysis * np.float32(self.scale), synthesis / np.float32(self.scale)


class StreamingSTFT:
    """Transforms hops of audio into frames for the network, and frames back into hops.

    Args:
        geometry: windows and hop.
        channels: number of channels of the audio.
    """

    def __init__(self, geometry: FrameGeometry, channels: int) -> None:
        self.geometry = geometry
        size, hop = geometry.size, geometry.hop
        self._analysis, self._synthesis = geometry.windows()
        self._history = HistoryRing(channels, size, hop)
        self._windowed = np.zeros((channels, size), np.float32)
        self._overlap = np.zeros((channels, hop), np.float32)
        self._common_bins = min(geometry.bins, size // 2 + 1)  # bins of both audio and network
        self._frames = np.zeros((MAX_HOPS, channels, geometry.bins), np.complex64)
        self._done = np.zeros((channels, MAX_HOPS * hop), np.float32)
        self._spectrum = np.zeros((channels, size // 2 + 1), np.complex64)

    def analyse(self, hops: Audio) -> Spectrum:
        """Newest hops -> spectra of the windows that end with each of them.

        Args:
            hops: (C, n * hop), or (1, n * hop) for all channels, n up to `MAX_HOPS`.

        Returns:
            (n, C, bins), valid until the next call.
        """
        hop = self.geometry.hop
        frames = self._frames[: hops.shape[1] // hop]
        for k, frame in enumerate(frames):
            newest = self._history.push(hops[:, k * hop : (k + 1) * hop])
            np.multiply(newest, self._analysis, out=self._windowed)
            frame[:, : self._common_bins] = np.fft.rfft(self._windowed)[:, : self._common_bins]
        return frames

    def synthesise(self, frames: Spectrum) -> Audio:
        """Frames (n, C, bins) -> completed samples (C, n * hop), one hop late.

        They are valid until the next call.
        """
        hop, size = self.geometry.hop, self.geometry.size
        done = self._done[:, : len(frames) * hop]
        for k, frame in enumerate(frames):
            self._spectrum[:, : self._common_bins] = frame[:, : self._common_bins]
            newest = np.fft.irfft(self._spectrum, size)[:, -2 * hop :] * self._synthesis
            np.add(self._overlap, newest[:, :hop], out=done[:, k * hop : (k + 1) * hop])
            self._overlap[:] = newest[:, hop:]
        return done

    def reset(self) -> None:
        """Return to silence."""
        self._history.reset()
        self._overlap[:] = 0.0
