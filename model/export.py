"""ONNX export of one step, for a caller that keeps the past.

`Separator.step` hands back its whole state. Of that, keys and values of the attention windows are
nearly all, and change by one frame: to move them costs as much as to attend to them. The graph
therefore only reads them and gives the newest frame's; the caller keeps them, in a ring perhaps.
"""

from __future__ import annotations

import contextlib
import io
import math
import warnings
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from stemwire.model.config import SeparatorConfig, config_text
from stemwire.model.layers import TAPS, Past, State
from stemwire.model.separator import Separator


class OuterPast(Past):
    """The past of one frame whose successor somebody else keeps: `new` is the frame's share alone.

    Args:
        state: as of `Past`, but of the mixture only the frames that are worked on, oldest first.
    """

    def __init__(self, state: State) -> None:
        super().__init__(state, 1)

    def extend(self, x: Tensor, dim: int) -> Tensor:
        self.new.append(x)
        return torch.cat((next(self._old), x), dim)

    def delayed(self, x: Tensor, delays: tuple[int, ...]) -> dict[int, Tensor]:
        older = [delay for delay in delays if delay]
        frames = torch.split(next(self._old), 1, 1) if older else ()
        return {**dict(zip(older, frames, strict=True)), 0: x}

    def follow(self, x: Tensor) -> Tensor:
        self.new.append(x)
        return next(self._old)


class OuterStep(nn.Module):
    """`Separator.step` on real numbers, the past kept outside; see `export_onnx`."""

    def __init__(self, separator: Separator) -> None:
        super().__init__()
        self.separator = separator
        shapes = dict(separator.state_shapes())
        shapes.pop("mixture", None)
        self.mixture = sum(delay > 0 for delay in separator.config.delays)
        self.windows = [name for name in shapes if name.endswith(("_keys", "_values"))]
        self.is_tail = [name not in self.windows for name in shapes]
        self.tails = [shape[1:] for name, shape in shapes.items() if name not in self.windows]

    def example(self) -> tuple[Tensor, ...]:
        """Inputs of a first frame, zeros."""
        config = self.separator.config
        frame = torch.zeros(1, config.channels, 2, config.bins + 1)
        mixture = frame.unsqueeze(1).expand(-1, self.mixture, -1, -1, -1)
        tails = torch.zeros(1, TAPS - 1, sum(map(math.prod, self.tails)))
        state = dict(self.separator.state_shapes())
        windows = [torch.zeros(1, *state[name]) for name in self.windows]
        return (frame, *([mixture] if self.mixture else []), tails, *windows)

    def forward(self, frame: Tensor, *past: Tensor) -> State:
        *mixture, tails = past[: -len(self.windows)]
        windows = past[-len(self.windows) :]
        parts = torch.split(tails, [math.prod(shape) for shape in self.tails], -1)
        rows = int(tails.shape[1])
        shaped = iter([p.reshape(-1, rows, *s) for p, s in zip(parts, self.tails, strict=True)])
        kept = iter(windows)
        state = [next(shaped) if is_tail else next(kept) for is_tail in self.is_tail]
        outer = OuterPast((*mixture, *state))
        vocals, _ = self.separator.estimate(frame.unsqueeze(1), outer)
        newest: dict[bool, list[Tensor]] = {True: [], False: []}
        for x, is_tail in zip(outer.new, self.is_tail, strict=True):
            newest[is_tail].append(x.flatten(2) if is_tail else x)
        new_tails = torch.cat((tails[:, 1:], torch.cat(newest[True], -1)), 1)
        added = torch.cat(newest[False], 2)
        # Sizes as constants, so that the graph says them.
        return (
            vocals.reshape(-1, *map(int, frame.shape[1:])),
            new_tails.reshape(-1, *map(int, tails.shape[1:])),
            added.reshape(-1, *map(int, added.shape[1:])),
        )


def export_onnx(config: SeparatorConfig, path: Path) -> None:
    """Write the step of a network as an ONNX graph. The configuration stands in its metadata.

    There are no weights in it: its initializers are named as the checkpoint's tensors, to be given
    to a session from memory. All is float32, and the batch comes first and is dynamic. Heads are
    H, a window W frames of D values for each head. Inputs:

    - `frame` (channels, 2, analysis_window / 2 + 1): real parts, then imaginary ones.
    - `mixture` (n, channels, 2, …), if the network has look-ahead or several taps: the frames of
      `SeparatorConfig.delays` but for `frame` itself, oldest first.
    - `tails` (2, n): the last two frames that the convolutions over time have seen.
    - for each keys and values of `Separator.state_shapes` by its name, a window (H, W - 1, D),
      oldest frame first.

    Outputs:

    - `vocals`, shaped like `frame`.
    - `new_tails`, the `tails` for the next frame.
    - `newest` (H, windows, D): what this frame adds to the end of each window.
    """
    # The tracer makes one of tensors that are equal, so no two of these are.
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        separator = Separator(config).eval()
        for weight in separator.parameters():
            weight.normal_()
    step = OuterStep(separator)
    names = ["frame", *(["mixture"] if step.mixture else []), "tails", *step.windows]
    outputs = ["vocals", "new_tails", "newest"]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # the tracer warns of shapes that are constants on purpose
        torch.onnx.export(
            step,
            step.example(),
            str(path),
            input_names=names,
            output_names=outputs,
            dynamic_axes={name: {0: "batch"} for name in [*names, *outputs]},
            opset_version=17,
            do_constant_folding=False,  # it would make new weights of ours
            dynamo=False,
        )
    graph = onnx.load(path)
    _take_out_weights(graph, set(separator.state_dict()))
    onnx.helper.set_model_props(graph, {"config": config_text(config)})
    onnx.save(graph, path)


def _take_out_weights(graph: onnx.ModelProto, names: set[str]) -> None:
    """Leave of each weight its name, shape and type, for others to fill in."""
    prefix = "separator."
    for tensor in graph.graph.initializer:
        if (name := tensor.name.removeprefix(prefix)) in names:
            tensor.name = name
            tensor.ClearField("raw_data")
            tensor.data_location = onnx.TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value="weights.safetensors")
    for node in graph.graph.node:
        for index, name in enumerate(node.input):
            if name.removeprefix(prefix) in names:
                node.input[index] = name.removeprefix(prefix)
