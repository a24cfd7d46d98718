"""Backends run the network's step: ONNX Runtime on the CPU, PyTorch on CPU or CUDA.

A backend belongs to a preset and is shared; a stream belongs to one piece of audio and holds its
state. `Stream.step` is the only call on the way of a block. A server steps many streams at once: a
`Batch` gathers their states, runs the network once and hands the states back.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from stemwire.errors import BackendError, CheckpointError
from stemwire.model.config import SeparatorConfig, config_text
from stemwire.realtime.stft import Spectrum

if TYPE_CHECKING:
    import torch

    from stemwire.model.preset import Preset

BACKENDS = ("onnx", "torch", "cuda")


def onnx_runtime() -> Any:
    """The package `onnxruntime`, kept from telling its makers what it is used for.

    Since 1.29 it sends an event for each session, and keeps an identifier and a data base in the
    user's cache folder, unless this variable is set before it is first imported. Whoever wants it
    to sets `ORT_DISABLE_TELEMETRY=0`.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    return onnxruntime


class Stream(Protocol):
    """The network on its way through one piece of audio."""

    def step(self, frame: Spectrum) -> Spectrum:
        """Mixture frame, complex64 (C, bins) -> vocal frame of the same shape.

        The result is valid until the next call.
        """

    def reset(self) -> None:
        """Start again from the initial state."""


class Backend(Protocol):
    """A loaded network that can serve any number of streams."""

    name: str

    def open(self) -> Stream:
        """A new stream at the initial state."""

    def batch(self, most: int) -> Batch:
        """What steps up to `most` streams of this backend at once; for one thread."""


class Batch(Protocol):
    """Several streams, one run of the network."""

    def step(self, streams: Sequence[Any], frames: Sequence[Spectrum]) -> list[Spectrum]:
        """One step of each stream, of the backend that made this.

        Equal to `Stream.step` of each but for rounding; with one stream, to the bit. The results
        are valid until the next call.
        """


class OnnxBackend:
    """ONNX Runtime on one CPU core.

    Args:
        graph: what `stemwire.model.export` wrote.
        config: of the network it should hold.

    Raises:
        CheckpointError: if the graph cannot be loaded or is another network's.
    """

    name = "onnx"

    def __init__(self, graph: Path, config: SeparatorConfig) -> None:
        onnxruntime = onnx_runtime()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # a hop is too little work to share, and waiting costs
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self.session = onnxruntime.InferenceSession(
                str(graph), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime's errors share no public root
            reason = " ".join(str(error).split())
            raise CheckpointError(
                f"{graph}: cannot be loaded ({reason}); install or export the preset again"
            ) from error
        if self.session.get_modelmeta().custom_metadata_map.get("config") != config_text(config):
            raise CheckpointError(
                f"{graph}: is not the graph of these weights; export the preset again"
            )

    def open(self) -> OnnxStream:
        return OnnxStream(self.session)

    def batch(self, most: int) -> OnnxBatch:
        return OnnxBatch(self.session, most)


def _as_bytes(arrays: Sequence[NDArray[np.float32]]) -> list[memoryview]:
    return [array.data.cast("B") for array in arrays]


class OnnxStream:
    """Two bindings that read each other's state: nothing is allocated or bound per step."""

    def __init__(self, session: Any) -> None:
        from onnxruntime import OrtValue

        frame, *state = session.get_inputs()
        self._session = session
        self._frame = np.zeros((1, *frame.shape[1:]), np.float32)
        self._vocals = np.zeros_like(self._frame)
        # Two sets of state arrays: each step reads one and writes the other.
        self._states = [[np.zeros((1, *s.shape[1:]), np.float32) for s in state] for _ in range(2)]
        outputs = [output.name for output in session.get_outputs()]
        self._bindings = []
        for old, new in (self._states, reversed(self._states)):
            binding = session.io_binding()
            inputs = zip([frame.name, *(s.name for s in state)], [self._frame, *old], strict=True)
            for name, array in inputs:
                binding.bind_ortvalue_input(name, OrtValue.ortvalue_from_numpy(array))
            for name, array in zip(outputs, [self._vocals, *new], strict=True):
                binding.bind_ortvalue_output(name, OrtValue.ortvalue_from_numpy(array))
            self._bindings.append(binding)
        self._bytes = [_as_bytes(arrays) for arrays in self._states]
        self._turn = 0

    @property
    def state(self) -> list[memoryview]:
        """What the next step reads, bytes of each array."""
        return self._bytes[self._turn]

    def step(self, frame: Spectrum) -> Spectrum:
        self._frame[0] = frame.view(np.float32).reshape(self._frame.shape[1:])
        self._session.run_with_iobinding(self._bindings[self._turn])
        self._turn ^= 1
        vocals: Spectrum = self._vocals[0].view(np.complex64)[..., 0]
        return vocals

    def reset(self) -> None:
        for array in self._states[0]:
            array[:] = 0.0
        self._turn = 0


class OnnxBatch:
    """Buffers for `most` streams, and a binding for each number of them."""

    def __init__(self, session: Any, most: int) -> None:
        frame, *state = session.get_inputs()
        self._session, self._names = session, [frame.name, *(s.name for s in state)]
        self._outputs = [output.name for output in session.get_outputs()]
        self._frames = np.zeros((most, *frame.shape[1:]), np.float32)
        self._vocals = np.zeros_like(self._frames)
        self._old, self._new = (
            [np.zeros((most, *s.shape[1:]), np.float32) for s in state] for _ in range(2)
        )
        # NumPy would let go of the interpreter for each of some hundred copies, and wait for it.
        self._old_bytes, self._new_bytes = _as_bytes(self._old), _as_bytes(self._new)
        self._sizes = [len(view) // most for view in self._old_bytes]
        self._bindings: dict[int, Any] = {}

    def step(self, streams: Sequence[OnnxStream], frames: Sequence[Spectrum]) -> list[Spectrum]:
        count = len(streams)
        if count == 1:
            return [streams[0].step(frames[0])]
        for index, (stream, frame) in enumerate(zip(streams, frames, strict=True)):
            self._frames[index] = frame.view(np.float32).reshape(self._frames.shape[1:])
            arrays = zip(self._old_bytes, self._sizes, stream.state, strict=True)
            for together, size, alone in arrays:
                together[index * size : (index + 1) * size] = alone
        self._session.run_with_iobinding(self._binding(count))
        for index, stream in enumerate(streams):
            arrays = zip(self._new_bytes, self._sizes, stream.state, strict=True)
            for together, size, alone in arrays:
                alone[:] = together[index * size : (index + 1) * size]
        return [vocals.view(np.complex64)[..., 0] for vocals in self._vocals[:count]]

    def _binding(self, count: int) -> Any:
        from onnxruntime import OrtValue

        if count not in self._bindings:
            binding = self._session.io_binding()
            for name, array in zip(self._names, [self._frames, *self._old], strict=True):
                binding.bind_ortvalue_input(name, OrtValue.ortvalue_from_numpy(array[:count]))
            for name, array in zip(self._outputs, [self._vocals, *self._new], strict=True):
                binding.bind_ortvalue_output(name, OrtValue.ortvalue_from_numpy(array[:count]))
            self._bindings[count] = binding
        return self._bindings[count]


class TorchBackend:
    """PyTorch on the CPU, or on a CUDA GPU with the step recorded as a CUDA graph.

    Raises:
        BackendError: if torch is not installed, or has no GPU where one is asked for.
    """

    def __init__(self, weights: Path, device: str) -> None:
        if importlib.util.find_spec("torch") is None:
            raise BackendError(
                f"backend {device!r} needs PyTorch, which is not installed: "
                "pip install 'stemwire[gpu]', or use backend 'onnx'"
            )
        import torch

        from stemwire.model.checkpoint import load_checkpoint

        if device == "cuda" and not torch.cuda.is_available():
            raise BackendError(
                "backend 'cuda' found no CUDA GPU (or this PyTorch is a CPU build); "
                "use backend 'onnx', or install PyTorch for CUDA"
            )
        self.name = "cuda" if device == "cuda" else "torch"
        self.network = load_checkpoint(weights).to(device)

    def open(self) -> TorchStream | CudaStream:
        return CudaStream(self.network) if self.name == "cuda" else TorchStream(self.network)

    def batch(self, most: int) -> TorchBatch:
        return TorchBatch(self.network)


class TorchStream:
    """`Separator.step` on the CPU."""

    def __init__(self, network: Any) -> None:
        self._network = network
        self.state = network.initial_state()

    def step(self, frame: Spectrum) -> Spectrum:
        import torch

        with torch.inference_mode():
            stems, self.state = self._network.step(torch.from_numpy(frame)[None], self.state)
        vocals: Spectrum = stems[0, 0].numpy()
        return vocals

    def reset(self) -> None:
        self.state = self._network.initial_state()


class TorchBatch:
    """Several streams on the CPU or a GPU."""

    def __init__(self, network: Any) -> None:
        self._network = network

    def step(
        self, streams: Sequence[TorchStream | CudaStream], frames: Sequence[Spectrum]
    ) -> list[Spectrum]:
        import torch

        if len(streams) == 1:
            return [streams[0].step(frames[0])]
        states = [stream.state for stream in streams]
        with torch.inference_mode():
            together = tuple(torch.cat(parts) for parts in zip(*states, strict=True))
            mixtures = torch.from_numpy(np.stack(frames)).to(together[0].device)
            stems, new = self._network.step(mixtures, together)
            for olds, fresh in zip(zip(*states, strict=True), new, strict=True):
                for old, row in zip(olds, fresh.split(1), strict=True):
                    old.copy_(row)
            return list(stems[:, 0].cpu().numpy())


class CudaStream:
    """One step recorded as a CUDA graph, replayed on fixed buffers: one launch per hop."""

    def __init__(self, network: Any) -> None:
        import torch

        config = network.config
        shape = (1, 1, config.channels, config.bins + 1, 2)
        self._frame = torch.zeros(shape, device="cuda")
        self.state = network.initial_state()
        self._host_in = torch.zeros(shape, pin_memory=True)
        self._host_out = torch.zeros(shape, pin_memory=True)
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.inference_mode(), torch.cuda.stream(side):
            for _ in range(3):  # libraries choose their kernels before the recording
                self._advance(network)
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.inference_mode(), torch.cuda.graph(self._graph):
            self._vocals = self._advance(network)
        self.reset()

    def _advance(self, network: Any) -> torch.Tensor:
        vocals: torch.Tensor
        vocals, new = network.estimate(self._frame, self.state)
        for old, fresh in zip(self.state, new, strict=True):
            old.copy_(fresh)
        return vocals

    def step(self, frame: Spectrum) -> Spectrum:
        import torch

        self._host_in[0, 0] = torch.view_as_real(torch.from_numpy(frame))
        self._frame.copy_(self._host_in, non_blocking=True)
        self._graph.replay()
        self._host_out.copy_(self._vocals, non_blocking=True)
        torch.cuda.current_stream().synchronize()
        vocals: Spectrum = torch.view_as_complex(self._host_out)[0, 0].numpy()
        return vocals

    def reset(self) -> None:
        for tensor in self.state:
            tensor.zero_()


def load_backend(preset: Preset, name: str) -> Backend:
    """Backend of a preset; loaded once, then shared by all streams.

    Args:
        preset: as `find_preset` gives it.
        name: `onnx`, `torch` (CPU), `cuda`, or `auto`, which is `onnx`: it runs on every
            machine and keeps up on one core.

    Raises:
        BackendError: for an unknown name or a backend that cannot run here.
        CheckpointError: for damaged files.
    """
    name = "onnx" if name == "auto" else name
    if name not in BACKENDS:
        raise BackendError(f"backend {name!r} is unknown; use 'auto' or one of {BACKENDS}")
    file = preset.folder / ("step.onnx" if name == "onnx" else "weights.safetensors")
    return _load(file, file.stat().st_mtime_ns, name, preset.config)


@lru_cache(maxsize=8)
def _load(file: Path, changed: int, name: str, config: SeparatorConfig) -> Backend:
    """Load a file as it is since `changed`, so that a preset exported again is loaded again."""
    if name == "onnx":
        return OnnxBackend(file, config)
    return TorchBackend(file, "cuda" if name == "cuda" else "cpu")
