"""The network's step on the CPU, by ONNX Runtime: one stream, or several at once."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stemwire.errors import CheckpointError
from stemwire.model.checkpoint import read_weights
from stemwire.model.config import SeparatorConfig, config_text
from stemwire.realtime.backends.interface import SequentialStream
from stemwire.realtime.stft import Spectrum


def onnx_runtime() -> Any:
    """The package `onnxruntime`, kept from telling its makers what it is used for.

    Since 1.29 it sends an event for each session, and keeps an identifier and a data base in the
    user's cache folder, unless this variable is set before it is first imported. Whoever wants it
    to sets `ORT_DISABLE_TELEMETRY=0`.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    return onnxruntime


class OnnxBackend:
    """ONNX Runtime on one CPU core.

    Args:
        graph: what `stemwire.model.export` wrote; the checkpoint lies beside it.
        config: of the network it should hold.

    Raises:
        CheckpointError: if graph or weights cannot be loaded, or the graph is another network's.
    """

    name = "onnx"

    def __init__(self, graph: Path, config: SeparatorConfig) -> None:
        onnxruntime = onnx_runtime()
        self.config = config
        self.weights = read_weights(graph.with_name("weights.safetensors"))
        values = [onnxruntime.OrtValue.ortvalue_from_numpy(x) for x in self.weights.values()]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # a hop is too little work to share, and waiting costs
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            options.add_external_initializers(list(self.weights), values)
            self.session = onnxruntime.InferenceSession(
                str(graph), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime's errors share no public root
            reason = " ".join(str(error).split())
            raise CheckpointError(
                f"{graph}: cannot be loaded ({reason}); install or export the preset again"
            ) from error
        metadata = self.session.get_modelmeta().custom_metadata_map
        ends = {end.name for end in self.session.get_inputs()}
        if metadata.get("config") != config_text(config) or not {"frame", "tails"} <= ends:
            raise CheckpointError(
                f"{graph}: is not the graph of these weights; export the preset again"
            )

    def open(self) -> OnnxStream:
        return OnnxStream(self)

    def batch(self, most: int) -> OnnxBatch:
        return OnnxBatch(self, most)


class SessionArrays:
    """What a session reads and writes for a number of streams; see `stemwire.model.export`.

    The windows of all attentions are one array, (windows, streams, heads, W - 1, D).
    """

    def __init__(self, backend: OnnxBackend, streams: int) -> None:
        self._session = backend.session
        self._older = [delay for delay in backend.config.delays if delay]
        self.inputs = {
            end.name: np.zeros((streams, *end.shape[1:]), np.float32)
            for end in self._session.get_inputs()
        }
        self.outputs = {
            end.name: np.zeros((streams, *end.shape[1:]), np.float32)
            for end in self._session.get_outputs()
        }
        windows = [name for name in self.inputs if name not in ("frame", "mixture", "tails")]
        self.windows = np.zeros((len(windows), *self.inputs[windows[0]].shape), np.float32)
        self.inputs |= dict(zip(windows, self.windows, strict=True))
        frames = self.inputs["frame"]
        self._spectra = np.zeros((streams, frames.shape[1], frames.shape[3]), np.complex64)

    def bind(self, count: int) -> Any:
        """A run for the first `count` streams."""
        from onnxruntime import OrtValue

        binding = self._session.io_binding()
        for name, array in self.inputs.items():
            binding.bind_ortvalue_input(name, OrtValue.ortvalue_from_numpy(array[:count]))
        for name, array in self.outputs.items():
            binding.bind_ortvalue_output(name, OrtValue.ortvalue_from_numpy(array[:count]))
        return binding

    def put(self, row: int, frame: Spectrum, past: OnnxStream) -> None:
        """Lay out what a stream's step reads."""
        planes = self.inputs["frame"][row]
        planes[:, 0], planes[:, 1] = frame.real, frame.imag
        self.inputs["tails"][row] = past.tails
        if len(past.heard):
            for place, delay in enumerate(self._older):
                at = (past.age - delay) % len(past.heard)
                self.inputs["mixture"][row, place] = past.heard[at]
            past.heard[past.age % len(past.heard)] = planes
        # In order, wherever the ring begins: sums are then the same to the last bit.
        size = past.rings.shape[2]  # a window of one has no ring
        window, place = self.windows[:, row], past.age % max(1, size)
        window[:, :, : size - place] = past.rings[:, :, place:]
        window[:, :, size - place :] = past.rings[:, :, :place]

    def take(self, row: int, past: OnnxStream) -> Spectrum:
        """Give the vocals of a stream's step, and keep what its next one needs."""
        past.tails[:] = self.outputs["new_tails"][row]
        newest = self.outputs["newest"][row].swapaxes(0, 1)[:, :, None]
        place = past.age % max(1, past.rings.shape[2])
        past.rings[:, :, place : place + 1] = newest
        past.age += 1
        spectrum: Spectrum = self._spectra[row]
        spectrum.real, spectrum.imag = self.outputs["vocals"][row].swapaxes(0, 1)
        return spectrum


class OnnxStream(SequentialStream):
    """SessionArrays and a binding that are made once: nothing is allocated or bound per step.

    Attributes:
        tails: the last frames of the convolutions over time, (2, n).
        rings: frames of the attention windows, (windows, heads, W - 1, D).
        heard: frames of the mixture that are still worked on, real and imaginary parts apart, in a
            ring (n, channels, 2, bins); none if only the newest is.
        age: frames seen since the start.
    """

    def __init__(self, backend: OnnxBackend) -> None:
        self._session, self._arrays = backend.session, SessionArrays(backend, 1)
        self._binding = self._arrays.bind(1)
        inputs = self._arrays.inputs
        self.tails = np.zeros_like(inputs["tails"][0])
        self.rings = np.zeros_like(self._arrays.windows[:, 0])
        longest = backend.config.delays[0]
        self.heard = np.zeros((longest, *inputs["frame"].shape[1:]), np.float32)
        self.age = 0

    def step(self, frame: Spectrum) -> Spectrum:
        self._arrays.put(0, frame, self)
        self._session.run_with_iobinding(self._binding)
        return self._arrays.take(0, self)

    def reset(self) -> None:
        for array in (self.tails, self.rings, self.heard):
            array[:] = 0.0
        self.age = 0


class OnnxBatch:
    """SessionArrays for `most` streams, and a binding for each number of them."""

    def __init__(self, backend: OnnxBackend, most: int) -> None:
        self._session, self._arrays = backend.session, SessionArrays(backend, most)
        self._bindings: dict[int, Any] = {}

    def step(self, streams: Sequence[OnnxStream], frames: Sequence[Spectrum]) -> list[Spectrum]:
        count = len(streams)
        if count == 1:
            return [streams[0].step(frames[0])]
        for row, (stream, frame) in enumerate(zip(streams, frames, strict=True)):
            self._arrays.put(row, frame, stream)
        if count not in self._bindings:
            self._bindings[count] = self._arrays.bind(count)
        self._session.run_with_iobinding(self._bindings[count])
        return [self._arrays.take(row, stream) for row, stream in enumerate(streams)]
