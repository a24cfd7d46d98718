"""ONNX export of one step: a frame and the state in, the vocal frame and the new state out."""

from __future__ import annotations

import contextlib
import io
import warnings
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from stemwire.model.config import config_text
from stemwire.model.separator import Separator


class _Step(nn.Module):
    """`Separator.step` on real pairs, with the state as separate arguments."""

    def __init__(self, separator: Separator) -> None:
        super().__init__()
        self.separator = separator

    def forward(self, frame: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        vocals, new = self.separator.estimate(frame.unsqueeze(1), state)
        return (vocals.reshape(-1, *(int(size) for size in frame.shape[1:])), *new)


def export_onnx(separator: Separator, path: Path) -> None:
    """Write `separator`'s step as an ONNX graph.

    Inputs are `frame`, float32 (batch, channels, analysis_window / 2 + 1, 2) with real and
    imaginary part last, and one tensor for each entry of `Separator.state_shapes`, by its name.
    Outputs are `vocals`, shaped like `frame`, and each state's successor as `new_<name>`.
    The batch is dynamic. The configuration stands in the graph's metadata.
    """
    config = separator.config
    names = [name for name, _ in separator.state_shapes()]
    outputs = ["vocals", *(f"new_{name}" for name in names)]
    frame = torch.zeros(1, config.channels, config.bins + 1, 2)
    was_training = separator.training
    separator.eval()
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # the tracer warns of shapes that are constants on purpose
        torch.onnx.export(
            _Step(separator),
            (frame, *separator.initial_state()),
            str(path),
            input_names=["frame", *names],
            output_names=outputs,
            dynamic_axes={name: {0: "batch"} for name in ["frame", *names, *outputs]},
            opset_version=17,
            dynamo=False,
        )
    separator.train(was_training)
    graph = onnx.load(path)
    onnx.helper.set_model_props(graph, {"config": config_text(config)})
    onnx.save(graph, path)
