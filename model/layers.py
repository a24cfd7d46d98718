"""Causal layers that run over any number of frames and carry their past explicitly.

Every layer maps `(x, past)` to an output and appends what it must remember to `past.new`; nothing
is hidden in the module. One code path thus serves both executions: a whole signal is one call with
many frames, a stream is many calls with one. Layers take their own state from `past` in the order
in which they run, which is also the order of `state_shapes`.

Shapes in comments: B batch, T frames, C feature channels, F frequency positions, H heads,
D values per head, W frames of the attention window.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

State = tuple[Tensor, ...]
Shapes = Iterator[tuple[str, tuple[int, ...]]]  # name and shape without the batch


def fixed_shape(x: Tensor) -> tuple[int, ...]:
    """All sizes but the batch's, as plain numbers, so that an exported graph holds constants."""
    return tuple(int(size) for size in x.shape[1:])


class Past:
    """Hands each layer its state from the last call and collects the state for the next."""

    def __init__(self, state: State) -> None:
        self._old = iter(state)
        self.new: list[Tensor] = []

    def extend(self, x: Tensor, dim: int) -> Tensor:
        """Prepend the remembered frames to `x` along `dim` and remember as many newest ones."""
        old = next(self._old)
        joined = torch.cat((old, x), dim)
        self.new.append(joined.narrow(dim, int(x.shape[dim]), int(old.shape[dim])))
        return joined


class FrameNorm(nn.LayerNorm):
    """Layer norm over all values of one frame, (B, T, C, F); gain and bias for each of them."""

    def __init__(self, channels: int, positions: int) -> None:
        super().__init__((channels, positions), eps=1e-4)


class FrameConv(nn.Module):
    """Convolution over the frequencies of each frame by itself: (B, T, C, F) -> (B, T, C', F').

    Args:
        stride: frequency positions folded into one (F' = F / stride).
        upsample: frequency positions made of one (F' = F * upsample), by sub-pixel shuffle.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, upsample: int = 1
    ) -> None:
        super().__init__()
        self.outputs, self.upsample = outputs, upsample
        padding = (kernel - stride) // 2 if stride > 1 else kernel // 2
        self.conv = nn.Conv1d(inputs, outputs * upsample, kernel, stride, padding)

    def forward(self, x: Tensor) -> Tensor:
        frames, channels, positions = fixed_shape(x)
        y: Tensor = self.conv(x.reshape(-1, channels, positions))
        positions = int(y.shape[2]) * self.upsample
        if self.upsample > 1:
            y = y.reshape(-1, self.outputs, self.upsample, positions // self.upsample)
            y = y.transpose(2, 3)
        return y.reshape(-1, frames, self.outputs, positions)


class FrameUnit(nn.Module):
    """Residual frame convolution: x + conv(silu(conv(norm(x)))), all within one frame."""

    def __init__(self, channels: int, positions: int) -> None:
        super().__init__()
        self.norm = FrameNorm(channels, positions)
        self.wide = FrameConv(channels, channels, 3)
        self.out = FrameConv(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.out(functional.silu(self.wide(self.norm(x))))
        return x + found


class BandProjection(nn.Module):
    """Projection within each frequency band, then a depthwise causal convolution over time.

    (B, H, T, D) -> (B, H, T, outputs * D). Each band (head) has weights of its own. The convolution
    of kernel 3 after the projection is what makes multi-dconv-head attention (So et al. 2021,
    "Primer", section 4.1).
    """

    kernel = 3

    def __init__(self, heads: int, head_width: int, outputs: int) -> None:
        super().__init__()
        self.shape = (heads, self.kernel - 1, outputs * head_width)
        bound = 1 / math.sqrt(head_width)
        self.weight = nn.Parameter(
            torch.empty(heads, head_width, outputs * head_width).uniform_(-bound, bound)
        )
        taps = torch.zeros(self.kernel, heads, 1, outputs * head_width)
        taps[-1] = 1.0  # starts as the projection alone
        self.taps = nn.Parameter(taps)

    def state_shapes(self, name: str) -> Shapes:
        yield f"{name}_conv", self.shape

    def forward(self, x: Tensor, past: Past) -> Tensor:
        frames = int(x.shape[2])
        y = past.extend(x @ self.weight, 2)
        z = y[:, :, :frames] * self.taps[0]
        for k in range(1, self.kernel):
            z = z + y[:, :, k : k + frames] * self.taps[k]
        return z


class WindowedAttention(nn.Module):
    """Multi-dconv-head attention of a frame to the last W frames: its own, or the encoder's.

    Heads are frequency bands. Learned relative positions are a bias for each head and distance.
    Residual attention (He et al. 2021, "RealFormer"): raw scores of the block before are added to
    this block's. Before the stream starts all keys and values are zero, and are attended to.

    Args:
        cross: keys and values come from the encoder's tokens (skip attention).
    """

    def __init__(self, width: int, heads: int, window: int, cross: bool = False) -> None:
        super().__init__()
        self.heads, self.head_width, self.window = heads, width // heads, window
        self.query = BandProjection(heads, self.head_width, 1) if cross else None
        self.source = BandProjection(heads, self.head_width, 2 if cross else 3)
        self.distance_bias = nn.Parameter(torch.zeros(heads, window))  # [:, 0] is the frame itself
        self.out = nn.Linear(width, width)

    def state_shapes(self, name: str) -> Shapes:
        if self.query is not None:
            yield from self.query.state_shapes(f"{name}_query")
        yield from self.source.state_shapes(f"{name}_source")
        for part in ("keys", "values"):
            yield f"{name}_{part}", (self.heads, self.window - 1, self.head_width)

    def forward(
        self, x: Tensor, memory: Tensor | None, scores: Tensor | None, past: Past
    ) -> tuple[Tensor, Tensor]:
        """Attend, (B, T, H * D) -> the same.

        Args:
            x: tokens that ask.
            memory: the encoder's tokens for skip attention, else None.
            scores: raw scores of the block before, as this method returns them, or None.
            past: state in and out.

        Returns:
            The attended tokens and the raw scores, (B, H, blocks, block, block + W - 1).
        """
        frames = int(x.shape[1])
        if self.query is not None and memory is not None:
            query = self.query(self._split(x), past)
            key, value = self.source(self._split(memory), past).chunk(2, dim=-1)
        else:
            query, key, value = self.source(self._split(x), past).chunk(3, dim=-1)
        keys, values = past.extend(key, 2), past.extend(value, 2)  # (B, H, W - 1 + T, D)
        block = min(frames, self.window)
        raw = self._blocks(query, block, block) @ self._blocks(
            keys, block + self.window - 1, block
        ).transpose(-1, -2)
        raw = raw * self.head_width**-0.5 + self._bias(block)
        if scores is not None:
            raw = raw + scores
        values = self._blocks(values, block + self.window - 1, block)
        if block > 1:  # frames of one block see each other: shut out what is not in the window
            raw = raw.masked_fill(self._outside(block), -math.inf)
            values = values.nan_to_num()  # a weight of zero times NaN would still be NaN
        y = raw.softmax(-1) @ values
        y = y.flatten(2, 3)[:, :, :frames] if block > 1 else y.squeeze(2)  # (B, H, T, D)
        width = self.heads * self.head_width
        return self.out(y.transpose(1, 2).reshape(-1, frames, width)), raw

    def _split(self, x: Tensor) -> Tensor:
        frames = int(x.shape[1])
        return x.reshape(-1, frames, self.heads, self.head_width).transpose(1, 2)

    @staticmethod
    def _blocks(x: Tensor, size: int, step: int) -> Tensor:
        """Overlapping runs of `size` frames every `step`: (B, H, n, D) -> (B, H, m, size, D)."""
        frames = int(x.shape[2])
        if frames == size:
            return x.unsqueeze(2)
        missing = -(frames - size) % step
        return functional.pad(x, (0, 0, 0, missing)).unfold(2, size, step).transpose(-1, -2)

    def _distance(self, block: int) -> Tensor:
        """Frames from key to query, (block, block + W - 1)."""
        device = self.distance_bias.device  # made there: a CUDA graph cannot hold a transfer
        keys = torch.arange(block + self.window - 1, device=device)
        return torch.arange(block, device=device)[:, None] + self.window - 1 - keys

    def _outside(self, block: int) -> Tensor:
        distance = self._distance(block)
        return (distance < 0) | (distance >= self.window)

    def _bias(self, block: int) -> Tensor:
        """Learned bias by distance, (H, 1, block, block + W - 1)."""
        return self.distance_bias[:, self._distance(block).clamp(0, self.window - 1)][:, None]
