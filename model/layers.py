"""Causal layers that run over any number of frames and carry their past explicitly.

Every layer maps `(x, past)` to an output and appends what it must remember to `past.new`; nothing
is hidden in the module. One code path thus serves both executions: a whole signal is one call with
many frames, a stream is many calls with one. Layers take their own state from `past` in the order
in which they run, which is also the order of `state_shapes`.

Channels come last, so that nearly all work is matrix products over (frames * positions) rows; only
what looks back in time tells the frames of one item from those of another.

Shapes in comments: B batch, T frames, N = B * T, P frequency positions, C feature channels,
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

TAPS = 3  # frames that a convolution over time sees, its own included


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

    def delayed(self, x: Tensor, delays: tuple[int, ...]) -> dict[int, Tensor]:
        """`x` (B, T, ...) late by each of `delays` frames, the longest first."""
        longest = delays[0]
        joined = self.extend(x, 1) if longest else x
        return {delay: joined.narrow(1, longest - delay, self.frames) for delay in delays}

    def follow(self, x: Tensor) -> Tensor:
        """Give the remembered frames alone, (B, H, W - 1, D), and remember `x` (B, H, 1, D) too."""
        old = next(self._old)
        self.new.append(torch.cat((old, x), 2)[:, :, 1:])
        return old


class FrameNorm(nn.LayerNorm):
    """Layer norm over all values of one frame, (N, P, C); gain and bias for each of them."""

    def __init__(self, channels: int, positions: int) -> None:
        super().__init__((positions, channels), eps=1e-4)


class BandLinear(nn.Module):
    """A linear layer for each band, (N, inputs, bins) -> (N, P, outputs).

    Args:
        bands: (count, width) of each group of equal bands, lowest frequencies first.
        inputs: values that enter for each bin.
        outputs: values that leave for each band.
    """

    def __init__(self, bands: tuple[tuple[int, int], ...], inputs: int, outputs: int) -> None:
        super().__init__()
        self.bands = bands
        self.weights = nn.ParameterList(  # rows: input by input, bin by bin
            torch.empty(count, inputs * width, outputs).uniform_(-1, 1) / math.sqrt(inputs * width)
            for count, width in bands
        )
        self.bias = nn.Parameter(torch.zeros(sum(count for count, _ in bands), outputs))

    def forward(self, x: Tensor) -> Tensor:
        inputs = int(x.shape[1])
        parts = torch.split(x, [count * width for count, width in self.bands], 2)
        found = []
        for part, weight, (count, width) in zip(parts, self.weights, self.bands, strict=True):
            rows = part.reshape(-1, inputs, count, width).permute(2, 0, 1, 3)
            found.append((rows.reshape(count, -1, inputs * width) @ weight).transpose(0, 1))
        return torch.cat(found, 1) + self.bias


class BandExpand(nn.Module):
    """The reverse of `BandLinear`: (N, P, inputs) -> (N, outputs, bins).

    Args:
        bands: (count, width) of each group of equal bands, lowest frequencies first.
        inputs: values of each band.
        outputs: values for each bin.
    """

    def __init__(self, bands: tuple[tuple[int, int], ...], inputs: int, outputs: int) -> None:
        super().__init__()
        self.bands, self.outputs = bands, outputs
        self.weights = nn.ParameterList(  # columns: output by output, bin by bin
            torch.empty(count, inputs, outputs * width) for count, width in bands
        )
        bins = sum(count * width for count, width in bands)
        self.bias = nn.Parameter(torch.zeros(outputs, bins))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set new random weights."""
        nn.init.zeros_(self.bias)
        for weight in self.weights:
            bound = 1 / math.sqrt(weight.shape[1])
            nn.init.uniform_(weight, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        parts = torch.split(x, [count for count, _ in self.bands], 1)
        found = []
        for part, weight, (count, width) in zip(parts, self.weights, self.bands, strict=True):
            y = (part.transpose(0, 1) @ weight).reshape(count, -1, self.outputs, width)
            found.append(y.permute(1, 2, 0, 3).flatten(2))
        return torch.cat(found, 2) + self.bias


class FrameUnit(nn.Module):
    """Residual unit: x + out(silu(wide(norm(conv(x))))), (N, P, C) -> the same.

    `conv` is depthwise over three frames, this one and the two before, and three neighbouring
    positions; the rest works on each position by itself, all with the same weights (Liu et al.
    2022, "A ConvNet for the 2020s", section 2.4, made causal).

    Args:
        channels: C.
        positions: P.
        expansion: width within, as a multiple of C.
    """

    def __init__(self, channels: int, positions: int, expansion: int) -> None:
        super().__init__()
        self.shape = (TAPS - 1, positions, channels)
        self.conv = nn.Conv2d(channels, channels, (TAPS, 3), padding=(0, 1), groups=channels)
        # In the order of memory that its gradient will have.
        weight = self.conv.weight.detach().contiguous(memory_format=torch.channels_last)
        self.conv.weight = nn.Parameter(weight)
        self.norm = FrameNorm(channels, positions)
        self.wide = nn.Linear(channels, expansion * channels)
        self.out = nn.Linear(expansion * channels, channels)

    def state_shapes(self, name: str) -> Shapes:
        yield f"{name}_frames", self.shape

    def forward(self, x: Tensor, past: Past) -> Tensor:
        positions, channels = self.shape[1:]
        frames = past.extend(x.reshape(-1, past.frames, positions, channels), 1)
        y = self.conv(frames.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        y = self.norm(y.reshape(-1, positions, channels))
        found: Tensor = self.out(functional.silu(self.wide(y)))
        return x + found


class BandProjection(nn.Module):
    """Projection within each frequency band, then a depthwise causal convolution over time.

    (N, H * D) -> (B, T, H, outputs * D). Each band (head) has weights of its own. The convolution
    of kernel 3 after the projection is what makes multi-dconv-head attention (So et al. 2021,
    "Primer", section 4.1).
    """

    def __init__(self, heads: int, head_width: int, outputs: int) -> None:
        super().__init__()
        self.heads, self.head_width = heads, head_width
        self.shape = (TAPS - 1, heads * outputs * head_width)
        bound = 1 / math.sqrt(head_width)
        self.weight = nn.Parameter(
            torch.empty(heads, head_width, outputs * head_width).uniform_(-bound, bound)
        )
        channels = self.shape[1]
        self.conv = nn.Conv1d(channels, channels, TAPS, groups=channels, bias=False)
        with torch.no_grad():  # starts as the projection alone
            self.conv.weight.zero_()[:, :, -1] = 1.0

    def state_shapes(self, name: str) -> Shapes:
        yield f"{name}_conv", self.shape

    def forward(self, x: Tensor, past: Past) -> Tensor:
        y = x.reshape(-1, self.heads, self.head_width).transpose(0, 1) @ self.weight
        y = y.transpose(0, 1).reshape(-1, past.frames, self.shape[1])
        y = past.extend(y, 1).transpose(1, 2).unsqueeze(-1)  # (B, C, T, 1), channels last
        z = functional.conv2d(y, self.conv.weight.unsqueeze(-1), groups=self.shape[1])
        z = z.squeeze(-1).transpose(1, 2)
        return z.reshape(-1, past.frames, self.heads, self.shape[1] // self.heads)


class WindowedAttention(nn.Module):
    """Multi-dconv-head attention of a frame to the last W frames: its own, or the encoder's.

    Heads are frequency bands. Learned relative positions are a bias for each head and distance.
    Residual attention (He et al. 2021, "RealFormer"): raw scores of the block before are added to
    this block's. Before the stream starts all keys and values are zero, and are attended to.

    Args:
        cross: keys and values come from the encoder's tokens (skip attention).
        lookahead: frames by which those are newer than the frame that attends to them; the window
            is longer by as many.
    """

    def __init__(
        self, width: int, heads: int, window: int, cross: bool = False, lookahead: int = 0
    ) -> None:
        super().__init__()
        window += lookahead
        self.heads, self.head_width, self.window = heads, width // heads, window
        self.lookahead = lookahead
        self.query = BandProjection(heads, self.head_width, 1) if cross else None
        self.source = BandProjection(heads, self.head_width, 2 if cross else 3)
        self.distance_bias = nn.Parameter(torch.zeros(heads, window))  # [:, 0] is the newest frame
        self.out = nn.Linear(width, width)

    def state_shapes(self, name: str) -> Shapes:
        if self.query is not None:
            yield from self.query.state_shapes(f"{name}_query")
        yield from self.source.state_shapes(f"{name}_source")
        for part in ("keys", "values"):
            yield f"{name}_{part}", (self.heads, self.window - 1, self.head_width)

    def forward(
        self,
        x: Tensor,
        memory: Tensor | None,
        scores: Tensor | None,
        past: Past,
        ahead: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Attend, (N, H * D) -> the same.

        Args:
            x: tokens that ask.
            memory: the encoder's tokens for skip attention, else None.
            scores: raw scores of the block before, as this method returns them, or None.
            past: state in and out.
            ahead: which items attend to what is ahead of them, bool (B,); None for all.

        Returns:
            The attended tokens and the raw scores, (B, H, blocks, block, W + block), or
            (B, H, 1, W) where T = 1.
        """
        if self.query is not None and memory is not None:
            query = self.query(x, past).transpose(1, 2)  # (B, H, T, D)
            key, value = self.source(memory, past).transpose(1, 2).split(self.head_width, -1)
        else:
            source = self.source(x, past).transpose(1, 2)
            query, key, value = source.split(self.head_width, -1)
        frames, width = past.frames, self.heads * self.head_width
        query = query * self.head_width**-0.5
        if frames == 1:
            # The past and the present apart, so that nothing as large as the past is copied.
            keys, values = past.follow(key), past.follow(value)  # (B, H, W - 1, D)
            products = [query @ k.transpose(-1, -2) for k in (keys, key)]
            raw = torch.cat(products, -1) + self.distance_bias.flip(1)[:, None]
            if scores is not None:
                raw = raw + scores
            shown = raw
            if ahead is not None and self.lookahead:
                newer = torch.arange(self.window, device=x.device) >= self.window - self.lookahead
                shown = raw.masked_fill(newer & ~ahead[:, None, None, None], -math.inf)
            weights, weight = torch.split(shown.softmax(-1), [self.window - 1, 1], -1)
            return self.out((weights @ values + weight * value).reshape(-1, width)), raw
        keys, values = past.extend(key, 2), past.extend(value, 2)  # (B, H, W - 1 + T, D)
        block = min(frames, self.window)
        # A weight of zero times a NaN of a frame to come would still be NaN.
        keys, values = self._reach(keys, block), self._reach(values.nan_to_num(), block)
        query = self._runs(functional.pad(query, (0, 0, 0, -frames % block)), block)
        raw = query @ keys.transpose(-1, -2) + self._bias(block)
        if scores is not None:
            raw = raw + scores
        weights = raw.masked_fill(self._outside(block, ahead), -math.inf).softmax(-1)
        y = (weights @ values).flatten(2, 3)[:, :, :frames]  # (B, H, T, D)
        return self.out(y.transpose(1, 2).reshape(-1, width)), raw

    def _reach(self, x: Tensor, block: int) -> Tensor:
        """What each block of frames may attend to: (B, H, W - 1 + T, D) -> (B, H, m, W + block, D).

        One frame more than it needs, zeros for the first block, so that W + block frames are two
        neighbouring runs of W where blocks have that many.
        """
        window = self.window
        missing = -(int(x.shape[2]) - window + 1) % block
        x = functional.pad(x, (0, 0, 1, missing))  # (B, H, W + m * block, D)
        if int(x.shape[2]) == window + block:
            return x.unsqueeze(2)
        runs = self._runs(x, window)
        return torch.cat((runs[:, :, :-1], runs[:, :, 1:]), 3)

    @staticmethod
    def _runs(x: Tensor, size: int) -> Tensor:
        """Frames in runs of `size`: (B, H, n, D) -> (B, H, n / size, size, D)."""
        return x.reshape(*x.shape[:2], -1, size, x.shape[3])

    def _outside(self, block: int, ahead: Tensor | None) -> Tensor:
        """Whether a key lies outside the window of a query, (block, W + block).

        For each item, (B, 1, 1, block, W + block), where some are not shown what is ahead.
        """
        device = self.distance_bias.device  # made there: a CUDA graph cannot hold a transfer
        keys = torch.arange(self.window + block, device=device)
        distance = torch.arange(block, device=device)[:, None] + self.window - keys
        outside = (distance < 0) | (distance >= self.window)
        if ahead is None or not self.lookahead:
            return outside
        newest = torch.where(ahead, 0, self.lookahead)[:, None, None, None, None]
        return outside | (distance < newest)

    def _bias(self, block: int) -> Tensor:
        """Learned bias by distance, (H, 1, block, W + block); outside the window anything.

        Each row is the one before moved on by one key, which rows that are one too long do by
        themselves: no gathering, whose gradient is slow.
        """
        keys = self.window + block
        row = functional.pad(self.distance_bias.flip(1), (1, block))
        rows = row.unsqueeze(1).expand(-1, block, -1).flatten(1)
        return rows[:, : block * keys].reshape(self.heads, 1, block, keys)
