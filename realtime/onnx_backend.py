"""The network's step on the CPU, by ONNX Runtime: one stream, or several at once."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stemwire.errors import CheckpointError
from stemwire.model.config import SeparatorConfig, config_text
from stemwire.realtime.stft import Spectrum
from stemwire.realtime.streams import OneByOne


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
        metadata = self.session.get_modelmeta().custom_metadata_map
        ends = [end.name for end in self.session.get_inputs()[:2]]
        if metadata.get("config") != config_text(config) or ends != ["frame", "tails"]:
            raise CheckpointError(
                f"{graph}: is not the graph of these weights; export the preset again"
            )

    def open(self) -> OnnxStream:
        return OnnxStream(self.session)

    def batch(self, most: int) -> OnnxBatch:
        return OnnxBatch(self.session, most)


class Arrays:
    """What a session reads and writes for a number of streams; see `stemwire.model.export`.

    The windows of all attentions are one array, (windows, streams, heads, W - 1, D).
    """

    def __init__(self, session: Any, streams: int) -> None:
        frame, tails, *windows = session.get_inputs()
        newest = session.get_outputs()[2]
        self.frames, self.vocals = np.zeros((2, streams, *frame.shape[1:]), np.float32)
        self._spectra = np.zeros((streams, frame.shape[1], frame.shape[3]), np.complex64)
        self.tails, self.new_tails = np.zeros((2, streams, *tails.shape[1:]), np.float32)
        self.windows = np.zeros((len(windows), streams, *windows[0].shape[1:]), np.float32)
        self.newest = np.zeros((streams, *newest.shape[1:]), np.float32)

    def bind(self, session: Any, count: int) -> Any:
        """A run for the first `count` streams."""
        from onnxruntime import OrtValue

        binding = session.io_binding()
        inputs = (self.frames, self.tails, *self.windows)
        for end, array in zip(session.get_inputs(), inputs, strict=True):
            binding.bind_ortvalue_input(end.name, OrtValue.ortvalue_from_numpy(array[:count]))
        outputs = (self.vocals, self.new_tails, self.newest)
        for end, array in zip(session.get_outputs(), outputs, strict=True):
            binding.bind_ortvalue_output(end.name, OrtValue.ortvalue_from_numpy(array[:count]))
        return binding

    def put(self, row: int, frame: Spectrum, past: OnnxStream) -> None:
        """Lay out what a stream's step reads."""
        self.frames[row, :, 0], self.frames[row, :, 1] = frame.real, frame.imag
        self.tails[row] = past.tails
        # In order, wherever the ring begins: sums are then the same to the last bit.
        window, old = self.windows[:, row], past.rings.shape[2] - past.place
        window[:, :, :old] = past.rings[:, :, past.place :]
        window[:, :, old:] = past.rings[:, :, : past.place]

    def take(self, row: int, past: OnnxStream) -> Spectrum:
        """Give the vocals of a stream's step, and keep what its next one needs."""
        past.tails[:] = self.new_tails[row]
        newest = self.newest[row].swapaxes(0, 1)[:, :, None]
        past.rings[:, :, past.place : past.place + 1] = newest  # a window of one has no ring
        past.place = (past.place + 1) % max(1, past.rings.shape[2])
        spectrum: Spectrum = self._spectra[row]
        spectrum.real, spectrum.imag = self.vocals[row].swapaxes(0, 1)
        return spectrum


class OnnxStream(OneByOne):
    """Arrays and a binding that are made once: nothing is allocated or bound per step.

    Attributes:
        tails: the last frames of the convolutions over time, (heads, 2, channels).
        rings: frames of the attention windows, (windows, heads, W - 1, D).
        place: of the oldest frame in the rings, which the next one replaces.
    """

    def __init__(self, session: Any) -> None:
        self._session, self._arrays = session, Arrays(session, 1)
        self._binding = self._arrays.bind(session, 1)
        self.tails = np.zeros_like(self._arrays.tails[0])
        self.rings = np.zeros_like(self._arrays.windows[:, 0])
        self.place = 0

    def step(self, frame: Spectrum) -> Spectrum:
        self._arrays.put(0, frame, self)
        self._session.run_with_iobinding(self._binding)
        return self._arrays.take(0, self)

    def reset(self) -> None:
        self.tails[:] = 0.0
        self.rings[:] = 0.0
        self.place = 0


class OnnxBatch:
    """Arrays for `most` streams, and a binding for each number of them."""

    def __init__(self, session: Any, most: int) -> None:
        self._session, self._arrays = session, Arrays(session, most)
        self._bindings: dict[int, Any] = {}

    def step(self, streams: Sequence[OnnxStream], frames: Sequence[Spectrum]) -> list[Spectrum]:
        count = len(streams)
        if count == 1:
            return [streams[0].step(frames[0])]
        for row, (stream, frame) in enumerate(zip(streams, frames, strict=True)):
            self._arrays.put(row, frame, stream)
        if count not in self._bindings:
            self._bindings[count] = self._arrays.bind(self._session, count)
        self._session.run_with_iobinding(self._bindings[count])
        return [self._arrays.take(row, stream) for row, stream in enumerate(streams)]
