"""PyTorch on the CPU, or on a CUDA GPU; torch is imported when a backend is created."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stemwire.errors import BackendError
from stemwire.realtime.backends.interface import SequentialStream
from stemwire.realtime.stft import Spectrum

if TYPE_CHECKING:
    import torch


class TorchBackend:
    """PyTorch on the CPU, or on a CUDA GPU with the step recorded as a CUDA graph.

    Raises:
        BackendError: if torch is not installed, or has no GPU and `device` is `cuda`.
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


class TorchStream(SequentialStream):
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
    """Several streams at once, on the CPU or a GPU."""

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


class CudaStream(SequentialStream):
    """One step recorded as a CUDA graph, replayed on fixed buffers: one launch per hop."""

    def __init__(self, network: Any) -> None:
        import torch

        config = network.config
        shape = (1, 1, config.channels, 2, config.bins + 1)
        self._frame = torch.zeros(shape, device="cuda")
        self.state = network.initial_state()
        self._host_in = torch.zeros(shape, pin_memory=True)
        self._host_out = torch.zeros(shape, pin_memory=True)
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.inference_mode(), torch.cuda.stream(side):
            for _ in range(3):  # libraries choose their kernels before the capture
                self._advance(network)
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.inference_mode(), torch.cuda.graph(self._graph):
            self._vocals = self._advance(network)
        self.reset()

    def _advance(self, network: Any) -> torch.Tensor:
        from stemwire.model.layers import Past

        vocals: torch.Tensor
        past = Past(self.state, 1)
        vocals, _ = network.estimate(self._frame, past)
        for old, fresh in zip(self.state, past.new, strict=True):
            old.copy_(fresh)
        return vocals

    def step(self, frame: Spectrum) -> Spectrum:
        import torch

        mixture = torch.from_numpy(frame)
        self._host_in[0, 0] = torch.stack((mixture.real, mixture.imag), 1)
        self._frame.copy_(self._host_in, non_blocking=True)
        self._graph.replay()
        self._host_out.copy_(self._vocals, non_blocking=True)
        torch.cuda.current_stream().synchronize()
        vocals: Spectrum = torch.complex(*self._host_out[0, 0].unbind(1)).numpy()
        return vocals

    def reset(self) -> None:
        for tensor in self.state:
            tensor.zero_()
