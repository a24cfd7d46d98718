"""The streaming contract of every layer, and each layer against a plain restatement of itself.

Contract: whatever parts a signal comes in, frame by frame included, the output is that of the whole
signal; no frame sees a later one; the state keeps its promised size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import partitions, randomise, tiny_config

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402

from stemwire.model import layers  # noqa: E402
from stemwire.model.layers import (  # noqa: E402
    BandExpand,
    BandLinear,
    BandProjection,
    FrameNorm,
    FrameUnit,
    Past,
    WindowedAttention,
)
from stemwire.model.primer import FeedForward, FramePrimer, Scores  # noqa: E402

Inputs = tuple[Tensor, ...]  # each with the time in dimension 1
FRAMES, WINDOW = 17, 4
REACH = WINDOW - 1 + 2  # keys of the frames in the window, and the two frames before each of them
CONFIG = tiny_config(window=WINDOW)
BANDS = ((2, 1), (1, 2), (1, 4))


@dataclass(frozen=True)
class Case:
    """A layer, what it takes for each frame, and how it is called."""

    build: Callable[[], nn.Module]
    sizes: tuple[tuple[int, ...], ...]
    call: Callable[[nn.Module, Inputs, Past], Tensor]
    reach: int = 0  # frames that an output depends on, before its own

    def module(self, seed: int = 0) -> nn.Module:
        torch.manual_seed(seed)
        return randomise(self.build(), seed, 0.3)

    def inputs(self, frames: int, batch: int = 2, seed: int = 0) -> Inputs:
        generator = torch.Generator().manual_seed(100 + seed)
        return tuple(torch.randn(batch, frames, *size, generator=generator) for size in self.sizes)

    def shapes(self, module: nn.Module) -> list[tuple[int, ...]]:
        named = module.state_shapes("x") if hasattr(module, "state_shapes") else ()
        return [shape for _, shape in named]

    def start(self, module: nn.Module, batch: int = 2) -> Inputs:
        return tuple(torch.zeros(batch, *shape) for shape in self.shapes(module))

    def run(self, module: nn.Module, inputs: Inputs, state: Inputs) -> tuple[Tensor, Inputs]:
        batch, frames = inputs[0].shape[:2]
        past = Past(state, frames)
        with torch.no_grad():
            y = self.call(module, tuple(x.flatten(0, 1) for x in inputs), past)
        return y.reshape(batch, frames, *y.shape[1:]), tuple(past.new)

    def whole(self, module: nn.Module, inputs: Inputs) -> Tensor:
        return self.run(module, inputs, self.start(module, len(inputs[0])))[0]

    def in_parts(self, module: nn.Module, inputs: Inputs, sizes: Iterable[int]) -> Tensor:
        state, outputs, at = self.start(module, len(inputs[0])), [], 0
        for size in sizes:
            part = tuple(x[:, at : at + size] for x in inputs)
            y, state = self.run(module, part, state)
            outputs.append(y)
            at += size
        return torch.cat(outputs, 1)


class Pair(nn.Module):
    """Two attention layers that hand on their raw scores: residual attention."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = WindowedAttention(8, 2, WINDOW), WindowedAttention(8, 2, WINDOW)

    def state_shapes(self, name: str) -> layers.Shapes:
        yield from self.one.state_shapes(f"{name}1")
        yield from self.two.state_shapes(f"{name}2")

    def forward(self, x: Tensor, past: Past) -> Tensor:
        y, scores = self.one(x, None, None, past)
        return self.two(x + y, None, scores, past)[0]


def call_projection(module: nn.Module, inputs: Inputs, past: Past) -> Tensor:
    return module(inputs[0], past).flatten(0, 1)


def plain(module: nn.Module, inputs: Inputs, past: Past) -> Tensor:
    return module(inputs[0])


CASES = {
    "FrameNorm": Case(lambda: FrameNorm(3, 8), ((8, 3),), plain),
    "BandLinear": Case(lambda: BandLinear(BANDS, 3, 5), ((3, 8),), plain),
    "BandExpand": Case(lambda: BandExpand(BANDS, 5, 3), ((4, 5),), plain),
    "FrameUnit": Case(lambda: FrameUnit(3, 8, 2), ((8, 3),), lambda m, x, p: m(x[0], p), 2),
    "FeedForward": Case(lambda: FeedForward(8, 2), ((8,),), plain),
    "BandProjection": Case(lambda: BandProjection(2, 4, 3), ((8,),), call_projection, 2),
    "own attention": Case(
        lambda: WindowedAttention(8, 2, WINDOW),
        ((8,),),
        lambda m, x, past: m(x[0], None, None, past)[0],
        REACH,
    ),
    "cross attention": Case(
        lambda: WindowedAttention(8, 2, WINDOW, cross=True),
        ((8,), (8,)),
        lambda m, x, past: m(x[0], x[1], None, past)[0],
        REACH,
    ),
    "residual attention": Case(Pair, ((8,),), lambda m, x, past: m(x[0], past), 2 * REACH),
    "encoder primer": Case(
        lambda: FramePrimer(CONFIG, 1),
        ((8, 6),),
        lambda m, x, past: m(x[0], None, Scores(), past)[0],
        REACH,
    ),
    "decoder primer": Case(
        lambda: FramePrimer(CONFIG, 1, decoder=True),
        ((8, 6), (32,)),
        lambda m, x, past: m(x[0], x[1], Scores(), past)[0],
        REACH + 2,  # own attention, then the query's convolution
    ),
}


def close(one: Tensor, other: Tensor, tolerance: float = 1e-5) -> None:
    """Equal but for rounding, which is in proportion to the largest value."""
    assert one.shape == other.shape
    if one.numel():
        assert (one - other).abs().max() <= tolerance * max(1.0, float(other.abs().max()))


every_layer = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


@every_layer
@pytest.mark.parametrize("seed", range(3))
def test_frame_by_frame_equals_the_whole(case: Case, seed: int) -> None:
    module, inputs = case.module(seed), case.inputs(FRAMES, seed=seed)
    steps = case.in_parts(module, inputs, [1] * FRAMES)
    close(steps, case.whole(module, inputs))


@every_layer
@given(sizes=partitions(FRAMES, smallest=1), seed=st.integers(0, 99))
def test_any_parts_equal_the_whole(case: Case, sizes: list[int], seed: int) -> None:
    module, inputs = case.module(seed), case.inputs(FRAMES, seed=seed)
    parts = case.in_parts(module, inputs, sizes)
    close(parts, case.whole(module, inputs))


@every_layer
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nan_in_the_future_never_reaches_the_past(case: Case, bad: float) -> None:
    module, inputs = case.module(), case.inputs(FRAMES)
    clean = case.whole(module, inputs)
    for at in range(FRAMES):
        for x in (dirty := tuple(x.clone() for x in inputs)):
            x[:, at:] = bad
        y = case.whole(module, dirty)
        close(y[:, :at], clean[:, :at])
        assert not torch.isfinite(y[:, at]).all()  # it was there to be seen


@every_layer
def test_a_frame_matters_as_far_as_it_should(case: Case) -> None:
    module, inputs = case.module(), case.inputs(FRAMES)
    changed = tuple(x.clone() for x in inputs)
    for x in changed:
        x[:, 3] = -x[:, 3]
    difference = (case.whole(module, changed) - case.whole(module, inputs)).abs().flatten(2)
    moved = difference.amax((0, 2)) > 1e-6
    expected = [3 <= frame <= 3 + case.reach for frame in range(FRAMES)]
    assert moved.tolist() == expected


@every_layer
def test_state_keeps_its_size_for_ever(case: Case) -> None:
    module = case.module()
    state, shapes = case.start(module), case.shapes(module)
    for index, frames in enumerate([1, 1, 3, WINDOW, 2 * WINDOW + 1, 1, 50, 1]):
        _, state = case.run(module, case.inputs(frames, seed=index), state)
        assert [tuple(s.shape[1:]) for s in state] == shapes
        assert {s.dtype for s in state} <= {torch.float32}


@every_layer
@pytest.mark.parametrize("frames", [1, FRAMES])
def test_items_of_a_batch_do_not_mix(case: Case, frames: int) -> None:
    module, inputs = case.module(), case.inputs(frames, batch=3)
    together = case.whole(module, inputs)
    for item in range(3):
        alone = case.whole(module, tuple(x[item : item + 1] for x in inputs))
        close(together[item : item + 1], alone)


def test_past_remembers_as_many_frames_as_it_held() -> None:
    past = Past((torch.tensor([[1.0, 2.0]]), torch.zeros(1, 0)), 1)
    torch.testing.assert_close(
        past.extend(torch.tensor([[3.0]]), 1), torch.tensor([[1.0, 2.0, 3.0]])
    )
    assert past.new[0].tolist() == [[2.0, 3.0]]
    assert past.extend(torch.tensor([[9.0]]), 1).tolist() == [[9.0]]  # a state of no frames
    assert past.new[1].shape == (1, 0)


def project(module: BandProjection, x: Tensor) -> Tensor:
    """`BandProjection` in loops: (H, T, D) -> (H, T, outputs * D), from silence."""
    heads, frames, _ = x.shape
    out = torch.zeros(heads, frames, module.weight.shape[2])
    taps = module.conv.weight.reshape(heads, -1, 3)
    for h in range(heads):
        for t in range(frames):
            for k in range(3):  # tap 2 is the frame itself
                if t + k - 2 >= 0:
                    out[h, t] += (x[h, t + k - 2] @ module.weight[h]) * taps[h, :, k]
    return out


def attend(
    module: WindowedAttention, x: Tensor, memory: Tensor | None, scores: dict | None
) -> tuple[Tensor, dict[tuple[int, int, int], Tensor]]:
    """`WindowedAttention` in loops, for one item (T, H * D); frames before the first are zero."""
    frames, heads, width = len(x), module.heads, module.head_width
    split = x.reshape(frames, heads, width).transpose(0, 1)
    if module.query is not None and memory is not None:
        query = project(module.query, split)
        other = memory.reshape(frames, heads, width).transpose(0, 1)
        key, value = project(module.source, other).split(width, 2)
    else:
        query, key, value = project(module.source, split).split(width, 2)
    raw, y = {}, torch.zeros(heads, frames, width)
    for h in range(heads):
        for t in range(frames):
            for s in range(t - module.window + 1, t + 1):
                score = query[h, t] @ key[h, s] / math.sqrt(width) if s >= 0 else torch.zeros(())
                score = score + module.distance_bias[h, t - s]
                raw[h, t, s] = score + (scores[h, t, s] if scores else 0)
            seen = range(t - module.window + 1, t + 1)
            weights = torch.stack([raw[h, t, s] for s in seen]).softmax(0)
            y[h, t] = sum(
                w * value[h, s] for w, s in zip(weights, seen, strict=True) if s >= 0
            )  # fmt: skip
    return module.out(y.transpose(0, 1).reshape(frames, -1)), raw


@torch.no_grad()
@pytest.mark.parametrize("frames", [1, 3, WINDOW, WINDOW + 1, 11])
@pytest.mark.parametrize("cross", [False, True])
def test_attention_against_loops(cross: bool, frames: int) -> None:
    torch.manual_seed(5)
    one, two = (randomise(WindowedAttention(6, 3, WINDOW, cross), seed, 0.5) for seed in (1, 2))
    x, other = torch.randn(1, frames, 6), torch.randn(1, frames, 6)
    memory = other[0] if cross else None
    shapes = [shape for module in (one, two) for _, shape in module.state_shapes("x")]
    past = Past(tuple(torch.zeros(1, *shape) for shape in shapes), frames)
    y, raw = one(x[0], memory, None, past)
    z, _ = two(x, memory, raw, past)  # raw scores of the first are added to the second's
    y_loops, raw_loops = attend(one, x[0], memory, None)
    z_loops, _ = attend(two, x[0], memory, raw_loops)
    torch.testing.assert_close(y, y_loops, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(z, z_loops, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_band_projection_against_loops() -> None:
    module = CASES["BandProjection"].module()
    (x,) = CASES["BandProjection"].inputs(7, batch=1)
    heads_first = x[0].reshape(7, 2, 4).transpose(0, 1)
    y = CASES["BandProjection"].whole(module, (x,))[0].transpose(0, 1)
    torch.testing.assert_close(y, project(module, heads_first), atol=1e-6, rtol=1e-5)


def test_band_projection_starts_as_the_projection_alone() -> None:
    module, x = BandProjection(2, 4, 1), torch.randn(5, 8)
    y = module(x, Past((torch.zeros(1, *module.shape),), 5))[0].transpose(0, 1)
    torch.testing.assert_close(y, x.reshape(5, 2, 4).transpose(0, 1) @ module.weight)


@torch.no_grad()
def test_bands_do_not_mix_before_the_output() -> None:
    module = CASES["own attention"].module()
    module.out.weight.copy_(torch.eye(8))
    module.out.bias.zero_()
    (x,) = CASES["own attention"].inputs(9)
    changed = x.clone()
    changed[..., :4] += 1.0  # the first of two heads
    one, other = (CASES["own attention"].whole(module, (v,)) for v in (x, changed))
    assert torch.equal(one[..., 4:], other[..., 4:])
    assert not torch.allclose(one[..., :4], other[..., :4])


def in_bands() -> list[tuple[int, int, int, int]]:
    """Group, place in it, first bin and width of each of `BANDS`."""
    found, first = [], 0
    for group, (count, width) in enumerate(BANDS):
        for place in range(count):
            found.append((group, place, first, width))
            first += width
    return found


@torch.no_grad()
def test_each_band_has_a_matrix_of_its_own() -> None:
    gather, expand = (CASES[name].module() for name in ("BandLinear", "BandExpand"))
    x, z = torch.randn(6, 3, 8), torch.randn(6, 4, 5)
    y, w = gather(x), expand(z)
    assert y.shape == (6, 4, 5) and w.shape == (6, 3, 8)
    for band, (group, place, first, width) in enumerate(in_bands()):
        bins = slice(first, first + width)
        wanted = x[:, :, bins].flatten(1) @ gather.weights[group][place] + gather.bias[band]
        torch.testing.assert_close(y[:, band], wanted)
        values = (z[:, band] @ expand.weights[group][place]).reshape(6, 3, width)
        torch.testing.assert_close(w[:, :, bins], values + expand.bias[:, bins])


@torch.no_grad()
def test_frame_norm_is_over_the_whole_frame() -> None:
    norm = randomise(FrameNorm(3, 8), 1)
    x = 5 * torch.randn(8, 8, 3) + 2
    mean = x.mean((1, 2), keepdim=True)
    spread = x.var((1, 2), keepdim=True, unbiased=False)
    wanted = (x - mean) / (spread + 1e-4).sqrt() * norm.weight + norm.bias
    torch.testing.assert_close(norm(x), wanted, atol=1e-5, rtol=1e-5)
    assert norm.weight.shape == (8, 3)


@torch.no_grad()
def test_frame_unit_against_loops() -> None:
    unit = CASES["FrameUnit"].module()
    (x,) = CASES["FrameUnit"].inputs(6, batch=1)
    taps, y = unit.conv.weight[:, 0], torch.zeros(6, 8, 3)
    for t in range(6):
        for p in range(8):
            y[t, p] = unit.conv.bias
            for k in range(3):  # the last is the frame itself
                for j in range(3):  # the middle one is the position itself
                    if t + k - 2 >= 0 and 0 <= p + j - 1 < 8:
                        y[t, p] += x[0, t + k - 2, p + j - 1] * taps[:, k, j]
    wanted = x[0] + unit.out(torch.nn.functional.silu(unit.wide(unit.norm(y))))
    torch.testing.assert_close(
        CASES["FrameUnit"].whole(unit, (x,))[0], wanted, atol=1e-5, rtol=1e-5
    )


@torch.no_grad()
def test_frame_unit_is_residual() -> None:
    unit = randomise(FrameUnit(3, 8, 2), 1)
    unit.out.weight.zero_()
    unit.out.bias.zero_()
    x = torch.randn(8, 8, 3)
    assert torch.equal(unit(x, Past((torch.zeros(1, 2, 8, 3),), 8)), x)
