"""Backends that run the network's steps: native code or ONNX Runtime on the CPU, PyTorch, CUDA.

`load_backend` loads one by its name; `interface` defines what all of them provide.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from stemwire.errors import BackendError
from stemwire.model.config import SeparatorConfig
from stemwire.realtime.backends.interface import Backend
from stemwire.realtime.backends.native_backend import NativeBackend
from stemwire.realtime.backends.native_library import native_problem
from stemwire.realtime.backends.onnx_backend import OnnxBackend
from stemwire.realtime.backends.torch_backend import TorchBackend

if TYPE_CHECKING:
    from stemwire.model.preset import Preset

BACKENDS = ("native", "onnx", "torch", "cuda")


def default_backend() -> str:
    """Backend that `auto` selects: `native` where it is installed and runs, else `onnx`."""
    return "onnx" if native_problem() else "native"


def load_backend(preset: Preset, name: str) -> Backend:
    """Backend of a preset; loaded once, then shared by all streams.

    Args:
        preset: preset, from `find_preset`.
        name: `native` (CPU, native code), `onnx` (CPU, ONNX Runtime), `torch` (CPU), `cuda`, or
            `auto`, see `default_backend`. Whatever `auto` selects keeps up on one core.

    Raises:
        BackendError: for an unknown name or a backend that cannot run here.
        CheckpointError: for damaged files.
    """
    name = default_backend() if name == "auto" else name
    if name not in BACKENDS:
        raise BackendError(f"backend {name!r} is unknown; use 'auto' or one of {BACKENDS}")
    file = preset.folder / ("step.onnx" if name == "onnx" else "weights.safetensors")
    files = (file, preset.folder / "weights.safetensors")
    return _load(file, tuple(f.stat().st_mtime_ns for f in files), name, preset.config)


@lru_cache(maxsize=8)
def _load(file: Path, modified: tuple[int, ...], name: str, config: SeparatorConfig) -> Backend:
    """Load a backend, cached by the files' modification times: a new export is loaded again."""
    if name == "native":
        return NativeBackend(file, config)
    if name == "onnx":
        return OnnxBackend(file, config)
    return TorchBackend(file, "cuda" if name == "cuda" else "cpu")
