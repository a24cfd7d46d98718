"""The frame primer: a transformer block whose tokens are the frames of one U-Net level."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from stemwire.model.config import SeparatorConfig
from stemwire.model.layers import FrameNorm, Past, Shapes, WindowedAttention


@dataclass
class Scores:
    """Raw attention scores on their way from block to block (residual attention)."""

    own: Tensor | None = None
    skip: Tensor | None = None


class FeedForward(nn.Module):
    """Squared-ReLU feed-forward part (So et al. 2021, "Primer", section 4.1)."""

    def __init__(self, width: int, multiple: int) -> None:
        super().__init__()
        self.inner = nn.Linear(width, width * multiple)
        self.out = nn.Linear(width * multiple, width)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.out(functional.relu(self.inner(x)).square())
        return y


class FramePrimer(nn.Module):
    """One primer on the frames of a level: features (N, P, C) in, features and tokens out.

    Each frame is narrowed to `token_width / P` channels and read as one token, low frequencies
    first, so that a head is a band. What attention and feed-forward find is widened and added to
    the features. A decoder's primer also attends to the tokens of the encoder at its resolution.
    """

    def __init__(self, config: SeparatorConfig, level: int, decoder: bool = False) -> None:
        super().__init__()
        width, positions = config.token_width, config.positions(level)
        channels = config.widths[level]
        depth = width // positions
        self.norm = FrameNorm(channels, positions)
        self.narrow = nn.Linear(channels, depth)
        self.widen = nn.Linear(depth, channels)
        self.own_norm = nn.LayerNorm(width)
        self.own = WindowedAttention(width, config.heads, config.window)
        if decoder:
            self.skip_norm = nn.LayerNorm(width)
            self.memory_norm = nn.LayerNorm(width)
            self.skip = WindowedAttention(
                width, config.heads, config.window, True, config.lookahead
            )
        self.decoder = decoder
        self.feed_norm = nn.LayerNorm(width)
        self.feed = FeedForward(width, config.feed_forward)

    def state_shapes(self, name: str) -> Shapes:
        yield from self.own.state_shapes(f"{name}_own")
        if self.decoder:
            yield from self.skip.state_shapes(f"{name}_skip")

    def forward(
        self,
        x: Tensor,
        memory: Tensor | None,
        scores: Scores,
        past: Past,
        ahead: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the features (N, P, C) and this block's tokens (N, token_width).

        Args:
            x: features.
            memory: the encoder's tokens, for a decoder.
            scores: of the block before; this block's take their place.
            past: state in and out.
            ahead: which items a decoder shows tokens ahead, bool (B,); None for all.
        """
        narrow = self.narrow(self.norm(x))
        tokens = narrow.flatten(1)
        attended, scores.own = self.own(self.own_norm(tokens), None, scores.own, past)
        tokens = tokens + attended
        if self.decoder and memory is not None:
            attended, scores.skip = self.skip(
                self.skip_norm(tokens), self.memory_norm(memory), scores.skip, past, ahead
            )
            tokens = tokens + attended
        tokens = tokens + self.feed(self.feed_norm(tokens))
        return x + self.widen(tokens.reshape(narrow.shape)), tokens
