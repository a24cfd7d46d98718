"""The frame primer: tokens, feed-forward part, memory. Its streaming is tested in test_layers."""

from __future__ import annotations

import pytest
from support import randomise, tiny_config

torch = pytest.importorskip("torch")

from torch import Tensor  # noqa: E402

from stemwire.model.layers import Past  # noqa: E402
from stemwire.model.primer import FeedForward, FramePrimer, Scores  # noqa: E402

CONFIG = tiny_config()


def primer(level: int, decoder: bool = False) -> FramePrimer:
    torch.manual_seed(level)
    module = randomise(FramePrimer(CONFIG, level, decoder), level)
    assert isinstance(module, FramePrimer)
    return module


def run(
    module: FramePrimer, x: Tensor, memory: Tensor | None = None, scores: Scores | None = None
) -> tuple[Tensor, Tensor]:
    batch, frames = x.shape[:2]
    state = tuple(torch.zeros(batch, *shape) for _, shape in module.state_shapes("p"))
    past = Past(state, frames)
    flat = None if memory is None else memory.flatten(0, 1)
    with torch.no_grad():
        y, tokens = module(x.flatten(0, 1), flat, scores or Scores(), past)
    assert len(past.new) == len(state)  # all state was used
    return y.reshape(x.shape), tokens.reshape(batch, frames, -1)


@pytest.mark.parametrize("level", range(3))
@pytest.mark.parametrize("decoder", [False, True])
def test_shapes(level: int, decoder: bool) -> None:
    x = torch.randn(2, 3, CONFIG.positions(level), CONFIG.widths[level])
    y, tokens = run(primer(level, decoder), x, torch.randn(2, 3, 32))
    assert y.shape == x.shape
    assert tokens.shape == (2, 3, CONFIG.token_width)


@torch.no_grad()
@pytest.mark.parametrize("level", range(3))
def test_a_token_lists_low_frequencies_first(level: int) -> None:
    module = primer(level)
    for linear in (module.own.out, module.feed.out):  # leave the tokens as they were made
        linear.weight.zero_()
        linear.bias.zero_()
    positions = CONFIG.positions(level)
    x = torch.randn(1, 2, positions, CONFIG.widths[level])
    y, tokens = (part[0] for part in run(module, x))
    narrow = module.narrow(module.norm(x[0]))
    depth = CONFIG.token_width // positions
    for position in range(positions):
        part = tokens[..., position * depth : (position + 1) * depth]
        torch.testing.assert_close(part, narrow[:, position])
    torch.testing.assert_close(y, x[0] + module.widen(narrow))  # and they come back in their places


def test_squared_relu() -> None:
    feed = randomise(FeedForward(8, 2), 1)
    x = torch.randn(3, 8)
    inner = torch.clamp(x @ feed.inner.weight.T + feed.inner.bias, min=0) ** 2
    torch.testing.assert_close(feed(x), inner @ feed.out.weight.T + feed.out.bias)


def test_only_a_decoder_attends_to_the_encoder() -> None:
    x = torch.randn(1, 6, 8, 6)
    one, other = torch.randn(2, 1, 6, 32)
    for decoder in (False, True):
        module = primer(1, decoder)
        same = torch.allclose(run(module, x, one)[0], run(module, x, other)[0], atol=1e-5)
        assert same != decoder


def test_scores_are_read_and_handed_on() -> None:
    x, memory = torch.randn(1, 6, 8, 6), torch.randn(1, 6, 32)
    module = primer(1, decoder=True)
    scores = Scores()
    first = run(module, x, memory, scores)[0]
    assert scores.own is not None and scores.skip is not None
    for part in ("own", "skip"):
        given = Scores(**{part: torch.randn_like(scores.own)})
        assert not torch.allclose(run(module, x, memory, given)[0], first, atol=1e-4)
