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
        state: as of `Past`, but of what is delayed only the frames that are used, oldest first.
    """

    def __init__(self, state: State) -> None:
        super().__init__(state, 1)

    def extend(self, x: Tensor, dim: int) -> Tensor:
        self.new.append(x)
        return torch.cat((next(self._old), x), dim)

    def delayed(self, x: Tensor, delays: tuple[int, ...]) -> dict[int, Tensor]:
        if not delays[0]:
            return {0: x}
        self.new.append(x)
        older = [delay for delay in delays if delay]
        frames = torch.split(next(self._old), 1, 1)
        return {**dict(zip(older, frames, strict=True)), 0: x}

    def follow(self, x: Tensor) -> Tensor:
        self.new.append(x)
        return next(self._old)


def _count(delays: tuple[int, ...]) -> int:
    return sum(delay > 0 for delay in delays)


class OuterStep(nn.Module):
    """`Separator.step` on real numbers, the past kept outside; see `export_onnx`."""

    def __init__(self, separator: Separator) -> None:
        super().__init__()
        self.separator = separator
        self.shapes = dict(separator.state_shapes())
        self.kinds = [self._kind(name) for name in self.shapes]
        self.windows = [name for name in self.shapes if self._kind(name) == "window"]
        names = {"frame": True, "mixture": "mixture" in self.kinds,
                 "features": "features" in self.kinds, "tails": True}  # fmt: skip
        self.inputs = [*(name for name, there in names.items() if there), *self.windows]
        self.outputs = ["vocals", "new_tails", "newest"]
        if names["features"]:
            self.outputs.append("new_features")

    @staticmethod
    def _kind(name: str) -> str:
        """What of the caller's holds a state tensor: `mixture`, `features`, `window` or `tails`."""
        if name == "mixture":
            return name
        if name.endswith("_after"):
            return "features"
        return "window" if name.endswith(("_keys", "_values")) else "tails"

    def _rows(self, kind: str) -> list[tuple[int, ...]]:
        """Shapes of one frame of each state tensor of a kind."""
        shapes = zip(self.shapes.values(), self.kinds, strict=True)
        return [shape[1:] for shape, its in shapes if its == kind]

    def example(self) -> tuple[Tensor, ...]:
        """Inputs of a first frame, zeros."""
        config = self.separator.config
        frame = torch.zeros(1, config.channels, 2, config.bins + 1)
        sizes = {kind: sum(map(math.prod, self._rows(kind))) for kind in ("tails", "features")}
        inputs = {
            "frame": frame,
            "mixture": frame.unsqueeze(1).repeat(1, _count(config.mixture_delays), 1, 1, 1),
            "features": torch.zeros(1, _count(config.feature_delays), sizes["features"]),
            "tails": torch.zeros(1, TAPS - 1, sizes["tails"]),
            **{name: torch.zeros(1, *self.shapes[name]) for name in self.windows},
        }
        return tuple(inputs[name] for name in self.inputs)

    def forward(self, *inputs: Tensor) -> State:
        given = dict(zip(self.inputs, inputs, strict=True))
        parts: dict[str, list[Tensor]] = {}
        for kind in ("tails", "features"):
            if kind in given:
                parts[kind] = self._parts(given[kind], kind)
        parts["window"] = [given[name] for name in self.windows]
        parts["mixture"] = [given[name] for name in self.inputs if name == "mixture"]
        state = tuple(parts[kind].pop(0) for kind in self.kinds)
        outer = OuterPast(state)
        frame, tails = given["frame"], given["tails"]
        vocals, _ = self.separator.estimate(frame.unsqueeze(1), outer)
        new: dict[str, list[Tensor]] = {kind: [] for kind in ("tails", "features", "window")}
        for x, kind in zip(outer.new, self.kinds, strict=True):
            if kind != "mixture":  # the caller has it already
                new[kind].append(x if kind == "window" else x.flatten(2))
        new_tails = torch.cat((tails[:, 1:], torch.cat(new["tails"], -1)), 1)
        added = torch.cat(new["window"], 2)
        # Sizes as constants, so that the graph says them.
        results = [
            vocals.reshape(-1, *map(int, frame.shape[1:])),
            new_tails.reshape(-1, *map(int, tails.shape[1:])),
            added.reshape(-1, *map(int, added.shape[1:])),
        ]
        if new["features"]:
            features = torch.cat(new["features"], -1)
            results.append(features.reshape(-1, int(features.shape[-1])))
        return tuple(results)

    def _parts(self, joined: Tensor, kind: str) -> list[Tensor]:
        """The state tensors of a kind that lie side by side in one input."""
        rows = self._rows(kind)
        parts = torch.split(joined, [math.prod(row) for row in rows], -1)
        count = int(joined.shape[1])
        return [part.reshape(-1, count, *row) for part, row in zip(parts, rows, strict=True)]


def export_onnx(config: SeparatorConfig, path: Path) -> None:
    """Write the step of a network as an ONNX graph. The configuration stands in its metadata.

    There are no weights in it: its initializers are named as the checkpoint's tensors, to be given
    to a session from memory. All is float32, and the batch comes first and is dynamic. Heads are
    H, a window W frames of D values for each head. Inputs:

    - `frame` (channels, 2, analysis_window / 2 + 1): real parts, then imaginary ones.
    - `mixture` (n, channels, 2, …), if the network has look-ahead or several taps: the frames of
      `SeparatorConfig.mixture_delays` but for `frame` itself, oldest first.
    - `features` (m, n), if it has look-ahead: what `new_features` was at the frames of
      `SeparatorConfig.feature_delays` but for `frame` itself, oldest first; zeros before the start.
    - `tails` (2, n): the last two frames that the convolutions over time have seen.
    - for each keys and values of `Separator.state_shapes` by its name, a window (H, W - 1, D),
      oldest frame first; those of decoders' attention to encoders are longer by the look-ahead.

    Outputs:

    - `vocals`, shaped like `frame`.
    - `new_tails`, the `tails` for the next frame.
    - `newest` (H, windows, D): what this frame adds to the end of each window.
    - `new_features` (n,), if the network has look-ahead.
    """
    # The tracer makes one of tensors that are equal, so no two of these are.
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        separator = Separator(config).eval()
        for weight in separator.parameters():
            weight.normal_()
    step = OuterStep(separator)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # the tracer warns of shapes that are constants on purpose
        torch.onnx.export(
            step,
            step.example(),
            str(path),
            input_names=step.inputs,
            output_names=step.outputs,
            dynamic_axes={name: {0: "batch"} for name in [*step.inputs, *step.outputs]},
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
