"""ONNX Runtime on the CPU: one stream, or several at once."""

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
    """The package `onnxruntime`, with its telemetry disabled.

    Since 1.29 it sends an event for each session, and stores an identifier and a database in the
    user's cache folder, unless this variable is set before the first import. Users can enable the
    telemetry with `ORT_DISABLE_TELEMETRY=0`.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    return onnxruntime


class OnnxBackend:
    """ONNX Runtime on one CPU core.

    Args:
        graph: file written by `stemwire.model.export`, beside its checkpoint.
        config: expected configuration of the network.

    Raises:
        CheckpointError: if graph or weights cannot be loaded or do not belong together.
    """

    name = "onnx"

    def __init__(self, graph: Path, config: SeparatorConfig) -> None:
        onnxruntime = onnx_runtime()
        self.config = config
        self.weights = read_weights(graph.with_name("weights.safetensors"))
        values = [onnxruntime.OrtValue.ortvalue_from_numpy(x) for x in self.weights.values()]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # a hop is too little work to split among threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            options.add_external_initializers(list(self.weights), values)
            self.session = onnxruntime.InferenceSession(
                str(graph), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime's errors share no public base class
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
    """Input and output arrays of a session for some streams; see `stemwire.model.export`.

    The windows of all attentions of one length are one array, (windows, streams, heads, W - 1, D).
    """

    def __init__(self, backend: OnnxBackend, streams: int) -> None:
        self._session = backend.session
        delays = backend.config.mixture_delays, backend.config.feature_delays
        self._older = [[delay for delay in part if delay] for part in delays]
        self.inputs = {
            end.name: np.zeros((streams, *end.shape[1:]), np.float32)
            for end in self._session.get_inputs()
        }
        self.outputs = {
            end.name: np.zeros((streams, *end.shape[1:]), np.float32)
            for end in self._session.get_outputs()
        }
        joint = ("frame", "mixture", "features", "tails")
        names = [name for name in self.inputs if name not in joint]
        frames_of = {name: self.inputs[name].shape[2] for name in names}
        self._groups = [
            [place for place, name in enumerate(names) if frames_of[name] == count]
            for count in sorted(set(frames_of.values()))
        ]
        self.windows = []
        for group in self._groups:
            joined = np.zeros((len(group), *self.inputs[names[group[0]]].shape), np.float32)
            self.inputs |= {names[place]: joined[i] for i, place in enumerate(group)}
            self.windows.append(joined)
        frames = self.inputs["frame"]
        self._spectra = np.zeros((streams, frames.shape[1], frames.shape[3]), np.complex64)

    def bind(self, count: int) -> Any:
        """Binding for a run of the first `count` streams."""
        from onnxruntime import OrtValue

        binding = self._session.io_binding()
        for name, array in self.inputs.items():
            binding.bind_ortvalue_input(name, OrtValue.ortvalue_from_numpy(array[:count]))
        for name, array in self.outputs.items():
            binding.bind_ortvalue_output(name, OrtValue.ortvalue_from_numpy(array[:count]))
        return binding

    def load(self, row: int, frame: Spectrum, past: OnnxStream) -> None:
        """Load a stream's frame and state into the inputs."""
        planes = self.inputs["frame"][row]
        planes[:, 0], planes[:, 1] = frame.real, frame.imag
        self.inputs["tails"][row] = past.tails
        rings = (past.recent, past.features)
        for name, ring, older in zip(("mixture", "features"), rings, self._older, strict=True):
            for place, delay in enumerate(older):
                self.inputs[name][row, place] = ring[(past.age - delay) % len(ring)]
        if len(past.recent):
            past.recent[past.age % len(past.recent)] = planes
        # In order, wherever the ring begins: sums are then the same to the last bit.
        for windows, ring in zip(self.windows, past.rings, strict=True):
            size = ring.shape[2]  # a window of one has no ring
            window, place = windows[:, row], past.age % max(1, size)
            window[:, :, : size - place] = ring[:, :, place:]
            window[:, :, size - place :] = ring[:, :, :place]

    def store(self, row: int, past: OnnxStream) -> Spectrum:
        """Store a stream's new state from the outputs, and return its vocals."""
        past.tails[:] = self.outputs["new_tails"][row]
        newest = self.outputs["newest"][row].swapaxes(0, 1)[:, :, None]
        for group, ring in zip(self._groups, past.rings, strict=True):
            place = past.age % max(1, ring.shape[2])
            ring[:, :, place : place + 1] = newest[group]
        if len(past.features):
            past.features[past.age % len(past.features)] = self.outputs["new_features"][row]
        past.age += 1
        spectrum: Spectrum = self._spectra[row]
        spectrum.real, spectrum.imag = self.outputs["vocals"][row].swapaxes(0, 1)
        return spectrum


class OnnxStream(SequentialStream):
    """State of one stream; arrays and binding are created once, not per step.

    Attributes:
        tails: the last frames of the convolutions over time, (2, n).
        rings: frames of the attention windows, (windows, heads, W - 1, D) for each W there is.
        recent: frames of the mixture that are still worked on, real and imaginary parts apart, in a
            ring (n, channels, 2, bins); none if only the newest is.
        features: of the frames that decoders have not seen for the last time, in a ring.
        age: frames seen since the start.
    """

    def __init__(self, backend: OnnxBackend) -> None:
        self._session, self._arrays = backend.session, SessionArrays(backend, 1)
        self._binding = self._arrays.bind(1)
        inputs = self._arrays.inputs
        self.tails = np.zeros_like(inputs["tails"][0])
        self.rings = [np.zeros_like(windows[:, 0]) for windows in self._arrays.windows]
        longest, lookahead = backend.config.mixture_delays[0], backend.config.lookahead
        self.recent = np.zeros((longest, *inputs["frame"].shape[1:]), np.float32)
        width = inputs["features"].shape[-1] if lookahead else 0
        self.features = np.zeros((lookahead, width), np.float32)
        self.age = 0

    def step(self, frame: Spectrum) -> Spectrum:
        self._arrays.load(0, frame, self)
        self._session.run_with_iobinding(self._binding)
        return self._arrays.store(0, self)

    def reset(self) -> None:
        for array in (self.tails, self.recent, self.features, *self.rings):
            array[:] = 0.0
        self.age = 0


class OnnxBatch:
    """Several streams at once, up to `most`, with a binding for each number of them."""

    def __init__(self, backend: OnnxBackend, most: int) -> None:
        self._session, self._arrays = backend.session, SessionArrays(backend, most)
        self._bindings: dict[int, Any] = {}

    def step(self, streams: Sequence[OnnxStream], frames: Sequence[Spectrum]) -> list[Spectrum]:
        count = len(streams)
        if count == 1:
            return [streams[0].step(frames[0])]
        for row, (stream, frame) in enumerate(zip(streams, frames, strict=True)):
            self._arrays.load(row, frame, stream)
        if count not in self._bindings:
            self._bindings[count] = self._arrays.bind(count)
        self._session.run_with_iobinding(self._bindings[count])
        return [self._arrays.store(row, stream) for row, stream in enumerate(streams)]
