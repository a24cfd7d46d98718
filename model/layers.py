"""Causal layers that run over any number of frames and carry their past explicitly.

Every layer maps `(x, past)` to an output and appends what it must remember to `past.new`; nothing
is hidden in the module. One code path thus serves both executions: a whole signal is one call with
many frames, a stream is many calls with one. Layers take their own state from `past` in the order
in which they run, which is also the order of `state_shapes`.

What looks at one frame at a time takes all frames as one batch of N = B * T; only attention, which
looks back, tells them apart. A step is many small operations, whose number costs more than their
size, so a single frame goes without those that only reorder frames.

Shapes in comments: B batch, T frames, N = B * T, C feature channels, F frequency positions,
H heads, D values per head, W frames of the attention window.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

State = tuple[Tensor, ...]
Shapes = Iterator[tuple[str, tuple[int, ...]]]  # name and shape without the batch


class Past:
    """Hands each layer its state from the last call and collects the state for the next.

    Args:
        state: what the last call left.
        frames: T, how many frames of each item this call brings.
    """

    def __init__(self, state: State, frames: int) -> None:
        self.frames = frames
        self._old = iter(state)
        self.new: list[Tensor] = []

    def extend(self, x: Tensor, dim: int) -> Tensor:
        """Prepend the remembered frames to `x` along `dim` and remember as many newest ones."""
        old = next(self._old)
        joined = torch.cat((old, x), dim)
        self.new.append(joined.narrow(dim, int(x.shape[dim]), int(old.shape[dim])))
        return joined

    def follow(self, x: Tensor) -> Tensor:
        """Give the remembered frames alone, (B, H, W - 1, D), and remember `x` (B, H, 1, D) too."""
        old = next(self._old)
        self.new.append(torch.cat((old, x), 2)[:, :, 1:])
        return old


class FrameNorm(nn.LayerNorm):
    """Layer norm over all values of one frame, (N, C, F); gain and bias for each of them."""

    def __init__(self, channels: int, positions: int) -> None:
        super().__init__((channels, positions), eps=1e-4)


class FrameConv(nn.Module):
    """Convolution over the frequencies of each frame by itself: (N, C, F) -> (N, C', F').

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
        y: Tensor = self.conv(x)
        if self.upsample == 1:
            return y
        positions = int(y.shape[2])
        y = y.reshape(-1, self.outputs, self.upsample, positions).transpose(2, 3)
        return y.reshape(-1, self.outputs, positions * self.upsample)


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
        frames = past.frames
        y = past.extend(x @ self.weight, 2)
        if frames == 1:
            return (y * self.taps.squeeze(2).transpose(0, 1)).sum(2, keepdim=True)
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
        """Attend, (N, H * D) -> the same.

        Args:
            x: tokens that ask.
            memory: the encoder's tokens for skip attention, else None.
            scores: raw scores of the block before, as this method returns them, or None.
            past: state in and out.

        Returns:
            The attended tokens and the raw scores, (B, H, blocks, block, block + W - 1), or
            (B, H, 1, W) where T = 1.
        """
        frames = past.frames
        if self.query is not None and memory is not None:
            query = self.query(self._split(x, frames), past)
            key, value = self.source(self._split(memory, frames), past).split(self.head_width, -1)
        else:
            source = self.source(self._split(x, frames), past)
            query, key, value = source.split(self.head_width, -1)
        width = self.heads * self.head_width
        if frames == 1:
            # The past and the present apart, so that nothing as large as the past is copied.
            keys, values = past.follow(key), past.follow(value)  # (B, H, W - 1, D)
            scale = self.head_width**-0.5
            products = [query @ k.transpose(-1, -2) * scale for k in (keys, key)]
            raw = torch.cat(products, -1) + self.distance_bias.flip(1)[:, None]
            if scores is not None:
                raw = raw + scores
            weights, weight = torch.split(raw.softmax(-1), [self.window - 1, 1], -1)
            return self.out((weights @ values + weight * value).reshape(-1, width)), raw
        keys, values = past.extend(key, 2), past.extend(value, 2)  # (B, H, W - 1 + T, D)
        block = min(frames, self.window)
        raw = self._blocks(query, block, block) @ self._blocks(
            keys, block + self.window - 1, block
        ).transpose(-1, -2)
        raw = raw * self.head_width**-0.5 + self._bias(block)
        if scores is not None:
            raw = raw + scores
        values = self._blocks(values, block + self.window - 1, block)
        # Frames of one block see each other: shut out what is not in the window.
        raw = raw.masked_fill(self._outside(block), -math.inf)
        values = values.nan_to_num()  # a weight of zero times NaN would still be NaN
        y = (raw.softmax(-1) @ values).flatten(2, 3)[:, :, :frames]  # (B, H, T, D)
        return self.out(y.transpose(1, 2).reshape(-1, width)), raw

    def _split(self, x: Tensor, frames: int) -> Tensor:
        """Tokens by bands: (N, H * D) -> (B, H, T, D)."""
        if frames == 1:
            return x.reshape(-1, self.heads, 1, self.head_width)
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
