"""Native code on the CPU: the C++ in `native/`, called through ctypes.

It reads the checkpoint directly; nothing is exported for it.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stemwire.errors import CheckpointError
from stemwire.model.checkpoint import read_weights
from stemwire.model.config import SeparatorConfig
from stemwire.realtime.backends.native_library import NativeConfig, load_library
from stemwire.realtime.stft import MAX_HOPS, Spectrum

LARGE_PAGE = 2 << 20  # bytes


class NativeBackend:
    """Native code on one CPU core.

    Args:
        weights: path of a checkpoint.
        config: configuration of its network.

    Raises:
        BackendError: as `load_library`.
        CheckpointError: if the weights cannot be read or do not fit the configuration.
    """

    name = "native"
    handle: Any = None  # native network; None until it is created

    def __init__(self, weights: Path, config: SeparatorConfig) -> None:
        self.code, self.config = load_library(), config
        tensors = read_weights(weights)
        arrays = list(tensors.values())
        shapes = [(ctypes.c_int64 * array.ndim)(*array.shape) for array in arrays]
        count = len(arrays)
        reason = ctypes.create_string_buffer(500)
        self.handle = self.code.stemwire_network(
            ctypes.byref(NativeConfig.of(config)),
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


def zeros_in_large_pages(count: int) -> NDArray[np.float32]:
    """Zeros, float32 (count,), in pages of 2 MB where the system has them.

    A step reads all of a stream's state; address translation for many small pages takes measurable
    time, most of all on virtual machines.
    """
    memory = mmap.mmap(-1, 4 * count + LARGE_PAGE)  # untouched pages take no memory
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # not supported by the kernel
            memory.madvise(mmap.MADV_HUGEPAGE)
    address = np.frombuffer(memory, np.float32).ctypes.data
    return np.frombuffer(memory, np.float32, count, -address % LARGE_PAGE)


StepAddresses = tuple[int, int, int, int]
"""Addresses of a step's frame, its stream's state and age, and the vocals."""


class _Workspace:
    """Scratch memory for up to `most` steps at once, for one thread at a time."""

    _handle: Any = None

    def __init__(self, backend: NativeBackend, most: int) -> None:
        self.backend, self.most = backend, most
        self._handle = backend.code.stemwire_workspace(backend.handle, most)
        if not self._handle:
            raise MemoryError(f"no memory for {most} steps")
        self._places = [(ctypes.c_void_p * most)() for _ in range(4)]

    def __del__(self) -> None:
        if self._handle:
            self.backend.code.stemwire_workspace_free(self._handle)

    def step(self, rows: Sequence[StepAddresses]) -> None:
        """Run one step for each row; rows of one stream are consecutive."""
        for number, row in enumerate(rows):
            for places, place in zip(self._places, row, strict=True):
                places[number] = place
        self.backend.code.stemwire_step(self.backend.handle, self._handle, len(rows), *self._places)


class NativeStream:
    """State of one stream, in arrays that are allocated once.

    Attributes:
        state: state of the layers, float32, in the native code's layout.
        age: frames processed since the start.
        frames: mixture frames of steps run at once, complex64 (MAX_HOPS, C, bins).
        vocals: vocal frames, likewise.
        rows: addresses of those steps.
    """

    def __init__(self, backend: NativeBackend) -> None:
        shape = (MAX_HOPS, backend.config.channels, backend.config.bins + 1)
        self.state = zeros_in_large_pages(backend.state_size)
        self.age = np.zeros(1, np.int64)
        self.frames, self.vocals = np.zeros((2, *shape), np.complex64)
        state, age = self.state.ctypes.data, self.age.ctypes.data
        self.rows = [
            (frame.ctypes.data, state, age, vocals.ctypes.data)
            for frame, vocals in zip(self.frames, self.vocals, strict=True)
        ]
        self._backend = backend
        self._workspace: _Workspace | None = None  # created by `run`; streams in a batch need none

    def step(self, frame: Spectrum) -> Spectrum:
        vocals: Spectrum = self.run(frame[None])[0]
        return vocals

    def run(self, frames: Spectrum) -> Spectrum:
        if self._workspace is None:
            self._workspace = _Workspace(self._backend, MAX_HOPS)
        count = len(frames)
        self.frames[:count] = frames
        self._workspace.step(self.rows[:count])
        return self.vocals[:count]

    def reset(self) -> None:
        self.state[:] = 0.0
        self.age[:] = 0


class NativeBatch:
    """Several streams stepped in one pass over the weights."""

    def __init__(self, backend: NativeBackend, most: int) -> None:
        self._workspace = _Workspace(backend, min(most, backend.code.stemwire_most()))

    def step(self, streams: Sequence[NativeStream], frames: Sequence[Spectrum]) -> list[Spectrum]:
        for stream, frame in zip(streams, frames, strict=True):
            stream.frames[0] = frame
        rows, most = [stream.rows[0] for stream in streams], self._workspace.most
        for at in range(0, len(rows), most):
            self._workspace.step(rows[at : at + most])
        return [stream.vocals[0] for stream in streams]
