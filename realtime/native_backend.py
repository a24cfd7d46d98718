"""The network's step on the CPU by our own machine code: `native/`, called through ctypes.

It reads the checkpoint itself; nothing is exported for it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stemwire.errors import CheckpointError
from stemwire.model.config import SeparatorConfig
from stemwire.realtime.native_code import Config, library
from stemwire.realtime.stft import Spectrum


class NativeBackend:
    """Machine code on one CPU core.

    Args:
        weights: a checkpoint.
        config: of the network it holds.

    Raises:
        BackendError: as `library`.
        CheckpointError: if the weights cannot be read or do not fit the configuration.
    """

    name = "native"
    handle: Any = None  # of the machine code; None before it is made

    def __init__(self, weights: Path, config: SeparatorConfig) -> None:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        self.code, self.config = library(), config
        try:
            tensors = load_file(weights)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{weights}: cannot be read ({error}); fetch it again") from error
        arrays = [np.ascontiguousarray(value, np.float32) for value in tensors.values()]
        shapes = [(ctypes.c_int64 * array.ndim)(*array.shape) for array in arrays]
        count = len(arrays)
        reason = ctypes.create_string_buffer(500)
        self.handle = self.code.stemwire_network(
            ctypes.byref(Config.of(config)),
            ctypes.c_int(count),
            (ctypes.c_char_p * count)(*(name.encode() for name in tensors)),
            (ctypes.c_void_p * count)(*(array.ctypes.data for array in arrays)),
            (ctypes.c_int * count)(*(array.ndim for array in arrays)),
            (ctypes.c_void_p * count)(*map(ctypes.addressof, shapes)),
            reason,
            ctypes.c_int(len(reason)),
        )
        if not self.handle and not reason.value:
            raise MemoryError(f"no memory for the network of {weights}")
        if not self.handle:
            raise CheckpointError(
                f"{weights}: weights do not fit its own configuration "
                f"({reason.value.decode(errors='replace')}); fetch it again"
            )
        self.state_size = int(self.code.stemwire_state(self.handle))

    def __del__(self) -> None:
        if self.handle:
            self.code.stemwire_network_free(self.handle)

    def open(self) -> NativeStream:
        return NativeStream(self)

    def batch(self, most: int) -> NativeBatch:
        return NativeBatch(self, most)


class _Workspace:
    """Memory for steps of up to `most` streams, for one thread at a time."""

    _handle: Any = None

    def __init__(self, backend: NativeBackend, most: int) -> None:
        self.backend, self.most = backend, most
        self._handle = backend.code.stemwire_workspace(backend.handle, most)
        if not self._handle:
            raise MemoryError(f"no memory for steps of {most} streams")
        # Where each stream's frame, state, age and vocals lie.
        self._places = [(ctypes.c_void_p * most)() for _ in range(4)]

    def __del__(self) -> None:
        if self._handle:
            self.backend.code.stemwire_workspace_free(self._handle)

    def step(self, streams: Sequence[NativeStream], frames: Sequence[Spectrum]) -> list[Spectrum]:
        for row, (stream, frame) in enumerate(zip(streams, frames, strict=True)):
            stream.frame[:] = frame
            for places, place in zip(self._places, stream.places, strict=True):
                places[row] = place
        self.backend.code.stemwire_step(
            self.backend.handle, self._handle, len(streams), *self._places
        )
        return [stream.vocals for stream in streams]


class NativeStream:
    """Arrays that are made once, for every step.

    Attributes:
        state: what the layers remember, float32, laid out by the machine code.
        age: frames seen since the start.
        places: addresses of `frame`, `state`, `age` and `vocals`.
    """

    def __init__(self, backend: NativeBackend) -> None:
        shape = (backend.config.channels, backend.config.bins + 1)
        self.state = np.zeros(backend.state_size, np.float32)
        self.age = np.zeros(1, np.int64)
        self.frame, self.vocals = np.zeros((2, *shape), np.complex64)
        ends = (self.frame, self.state, self.age, self.vocals)
        self.places = tuple(end.ctypes.data for end in ends)
        self._workspace = _Workspace(backend, 1)

    def step(self, frame: Spectrum) -> Spectrum:
        return self._workspace.step((self,), (frame,))[0]

    def reset(self) -> None:
        self.state[:] = 0.0
        self.age[:] = 0


class NativeBatch:
    """One pass over the weights for several streams."""

    def __init__(self, backend: NativeBackend, most: int) -> None:
        self._workspace = _Workspace(backend, min(most, backend.code.stemwire_most()))

    def step(self, streams: Sequence[NativeStream], frames: Sequence[Spectrum]) -> list[Spectrum]:
        found, most = [], self._workspace.most
        for at in range(0, len(streams), most):
            found += self._workspace.step(streams[at : at + most], frames[at : at + most])
        return found
