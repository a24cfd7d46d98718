"""`StreamingSTFT` in machine code: the same numbers but for rounding, in a fraction of the time."""

from __future__ import annotations

from typing import Any

import numpy as np

from stemwire.realtime.native_code import brief
from stemwire.realtime.ring import Audio
from stemwire.realtime.stft import FrameGeometry, Spectrum


class NativeSTFT:
    """What `StreamingSTFT` is, call by call.

    Args:
        geometry: windows and hop; its size is even.
        channels: channels of the audio.

    Raises:
        BackendError: as `native_code.library`.
    """

    _handle: Any = None  # of the machine code; None before it is made

    def __init__(self, geometry: FrameGeometry, channels: int) -> None:
        self.geometry, self._code = geometry, brief()
        windows = geometry.windows()
        self._handle = self._code.stemwire_stft(
            channels, geometry.size, geometry.hop, geometry.bins,
            *(window.ctypes.data for window in windows),
        )  # fmt: skip
        if not self._handle:
            raise MemoryError(f"no memory for an STFT of {geometry.size} samples")
        self._hop, self._done = np.zeros((2, channels, geometry.hop), np.float32)
        self._frame, self._changed = np.zeros((2, channels, geometry.bins), np.complex64)
        self._there = (self._hop.ctypes.data, self._frame.ctypes.data)
        self._back = (self._changed.ctypes.data, self._done.ctypes.data)

    def __del__(self) -> None:
        if self._handle:
            self._code.stemwire_stft_free(self._handle)

    def analyse(self, hop: Audio) -> Spectrum:
        """As `StreamingSTFT.analyse`."""
        self._hop[:] = hop
        self._code.stemwire_analyse(self._handle, *self._there)
        return self._frame

    def synthesise(self, frame: Spectrum) -> Audio:
        """As `StreamingSTFT.synthesise`."""
        self._changed[:] = frame
        self._code.stemwire_synthesise(self._handle, *self._back)
        return self._done

    def reset(self) -> None:
        """Back to silence."""
        self._code.stemwire_stft_reset(self._handle)
