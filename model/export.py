"""ONNX export of one step, for a caller that keeps the past.

`Separator.step` hands back its whole state. Of that, keys and values of the attention windows are
nearly all, and change by one frame: to move them costs as much as to attend to them. The graph
therefore only reads them and gives the newest frame's; the caller keeps them, in a ring perhaps.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Sequence
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from stemwire.model.config import config_text
from stemwire.model.layers import Past, State
from stemwire.model.separator import Separator


class OuterPast(Past):
    """The past of one frame whose successor somebody else keeps: `new` is the frame's share alone.

    Args:
        state: as of `Past`.
    """

    def __init__(self, state: State) -> None:
        super().__init__(state, 1)

    def extend(self, x: Tensor, dim: int) -> Tensor:
        self.new.append(x)
        return torch.cat((next(self._old), x), dim)

    def follow(self, x: Tensor) -> Tensor:
        self.new.append(x)
        return next(self._old)


class OuterStep(nn.Module):
    """`Separator.step` on real numbers, the past kept outside; see `export_onnx`."""

    def __init__(self, separator: Separator) -> None:
        super().__init__()
        self.separator = separator
        shapes = list(separator.state_shapes())
        self.is_tail = [name.endswith("_conv") for name, _ in shapes]
        self.widths = [shape[-1] for name, shape in shapes if name.endswith("_conv")]
        self.windows = [name for name, _ in shapes if not name.endswith("_conv")]

    def initial_state(self, batch: int = 1) -> tuple[Tensor, ...]:
        """Tails and windows before the first frame, zeros."""
        state = self.separator.initial_state(batch)
        tails = [x for x, tail in zip(state, self.is_tail, strict=True) if tail]
        return (torch.cat(tails, -1), *self._windows(state))

    def forward(self, frame: Tensor, tails: Tensor, *windows: Tensor) -> State:
        tail, window = iter(torch.split(tails, self.widths, -1)), iter(windows)
        past = OuterPast(tuple(next(tail) if is_tail else next(window) for is_tail in self.is_tail))
        vocals = self.separator.estimate(frame.transpose(-1, -2).unsqueeze(1), past)
        newest = [x for x, is_tail in zip(past.new, self.is_tail, strict=True) if is_tail]
        return (
            vocals.transpose(-1, -2).reshape(-1, *(int(size) for size in frame.shape[1:])),
            torch.cat((tails[:, :, 1:], torch.cat(newest, -1)), 2),
            torch.cat(self._windows(past.new), 2),
        )

    def _windows(self, state: Sequence[Tensor]) -> list[Tensor]:
        return [x for x, is_tail in zip(state, self.is_tail, strict=True) if not is_tail]


def export_onnx(separator: Separator, path: Path) -> None:
    """Write `separator`'s step as an ONNX graph. The configuration stands in its metadata.

    All is float32, and the batch comes first and is dynamic. Heads are H, a window W frames of D
    values for each head, C the channels of the convolutions over time. Inputs:

    - `frame` (channels, 2, analysis_window / 2 + 1): real parts, then imaginary ones.
    - `tails` (H, 2, C): the last two frames that the convolutions over time have seen.
    - for each keys and values of `Separator.state_shapes` by its name, a window (H, W - 1, D),
      oldest frame first.

    Outputs:

    - `vocals`, shaped like `frame`.
    - `new_tails`, the `tails` for the next frame.
    - `newest` (H, windows, D): what this frame adds to the end of each window.
    """
    step = OuterStep(separator)
    names = ["frame", "tails", *step.windows]
    outputs = ["vocals", "new_tails", "newest"]
    frame = torch.zeros(1, separator.config.channels, 2, separator.config.bins + 1)
    was_training = separator.training
    step.eval()
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # the tracer warns of shapes that are constants on purpose
        torch.onnx.export(
            step,
            (frame, *step.initial_state()),
            str(path),
            input_names=names,
            output_names=outputs,
            dynamic_axes={name: {0: "batch"} for name in [*names, *outputs]},
            opset_version=17,
            dynamo=False,
        )
    separator.train(was_training)
    graph = onnx.load(path)
    onnx.helper.set_model_props(graph, {"config": config_text(separator.config)})
    onnx.save(graph, path)
