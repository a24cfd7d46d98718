"""`StreamingSTFT` in native code: equal up to rounding, in a fraction of the time."""

from __future__ import annotations

from typing import Any

import numpy as np

from stemwire.realtime.backends.native_library import load_library_holding_gil
from stemwire.realtime.ring import Audio
from stemwire.realtime.stft import MAX_HOPS, FrameGeometry, Spectrum


class NativeSTFT:
    """Replacement for `StreamingSTFT` with the same methods.

    Args:
        geometry: windows and hop; its size is even.
        channels: number of channels of the audio.

    Raises:
        BackendError: as `native_library.load_library`.
    """

    _handle: Any = None  # native object; None until it is created

    def __init__(self, geometry: FrameGeometry, channels: int) -> None:
        self.geometry, self._code = geometry, load_library_holding_gil()
        windows = geometry.windows()
        self._handle = self._code.stemwire_stft(
            channels,
            geometry.size,
            geometry.hop,
            geometry.bins,
            *(window.ctypes.data for window in windows),
        )
        if not self._handle:
            raise MemoryError(f"no memory for an STFT of {geometry.size} samples")
        self._hops, self._done = np.zeros((2, MAX_HOPS, channels, geometry.hop), np.float32)
        shape = MAX_HOPS, channels, geometry.bins
        self._frames, self._processed = np.zeros((2, *shape), np.complex64)
        # Addresses of each hop and its frame.
        self._analysis_addresses, self._synthesis_addresses = (
            [(a.ctypes.data, b.ctypes.data) for a, b in zip(*ends, strict=True)]
            for ends in ((self._hops, self._frames), (self._processed, self._done))
        )
        self._out = np.zeros((channels, MAX_HOPS * geometry.hop), np.float32)

    def __del__(self) -> None:
        if self._handle:
            self._code.stemwire_stft_free(self._handle)

    def analyse(self, hops: Audio) -> Spectrum:
        """As `StreamingSTFT.analyse`."""
        size = self.geometry.hop
        count = hops.shape[1] // size
        for k, addresses in enumerate(self._analysis_addresses[:count]):
            self._hops[k] = hops[:, k * size : (k + 1) * size]
            self._code.stemwire_analyse(self._handle, *addresses)
        return self._frames[:count]

    def synthesise(self, frames: Spectrum) -> Audio:
        """As `StreamingSTFT.synthesise`."""
        count, size = len(frames), self.geometry.hop
        self._processed[:count] = frames
        for k, addresses in enumerate(self._synthesis_addresses[:count]):
            self._code.stemwire_synthesise(self._handle, *addresses)
            self._out[:, k * size : (k + 1) * size] = self._done[k]
        return self._out[:, : count * size]

    def reset(self) -> None:
        """Return to silence."""
        self._code.stemwire_stft_reset(self._handle)
