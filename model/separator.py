"""The separator: a causal primer U-Net from mixture spectra to vocal spectra.

The way of a frame: compressed features -> stem -> encoders (frequency halves from level to level,
time never does) -> bottom -> decoders -> complex mask -> vocals; the instrumental is what is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from stemwire.model.config import SeparatorConfig
from stemwire.model.layers import FrameConv, FrameNorm, FrameUnit, Past, Shapes, State
from stemwire.model.primer import FramePrimer, Scores

M = TypeVar("M", bound=nn.Module)


def _modules(modules: list[M]) -> Sequence[M]:
    """Register modules with their type kept, which `nn.ModuleList` hides from a type checker."""
    return cast(Sequence[M], nn.ModuleList(modules))


def _planes(x: Tensor) -> Tensor:
    """Real and imaginary parts from side by side to one after the other, or back; a view.

    (..., bins, 2) <-> (..., 2, bins). What treats both parts apart, or all bins alike, is quick
    only where the bins lie together.
    """
    return x.transpose(-1, -2)


class Encoder(nn.Module):
    """One level on the way down: frame unit, then a primer (`unet`), then half the frequencies."""

    def __init__(self, config: SeparatorConfig, level: int) -> None:
        super().__init__()
        channels, positions = config.widths[level], config.positions(level)
        self.unit = FrameUnit(channels, positions)
        self.primer = FramePrimer(config, level) if config.variant == "unet" else None
        self.down = FrameConv(channels, config.widths[level + 1], 4, stride=2)


class Decoder(nn.Module):
    """One level on the way up: double the frequencies, merge the skip, frame unit, primer."""

    def __init__(self, config: SeparatorConfig, level: int) -> None:
        super().__init__()
        channels, positions = config.widths[level], config.positions(level)
        self.up = FrameConv(config.widths[level + 1], channels, 3, upsample=2)
        self.merge = FrameConv(2 * channels, channels, 1)
        self.unit = FrameUnit(channels, positions)
        self.primer = FramePrimer(config, level, decoder=True) if config.variant == "unet" else None


class Separator(nn.Module):
    """Causal mask-based separator; `step` frame by frame equals `forward` over the whole.

    Args:
        config: the shape of the network.
    """

    def __init__(self, config: SeparatorConfig) -> None:
        super().__init__()
        self.config = config
        last = config.levels - 1
        magnitudes = 1 if config.channels == 1 else 4  # left, right, mid, side
        features, stride = magnitudes + 2 * config.channels, config.stem_stride
        self.stem = FrameConv(features, config.widths[0], max(3, 2 * stride), stride)
        self.encoders = _modules([Encoder(config, level) for level in range(last)])
        self.bottom_unit = FrameUnit(config.widths[last], config.positions(last))
        self.bottom = _modules([FramePrimer(config, last) for _ in range(config.blocks)])
        self.decoders = _modules([Decoder(config, level) for level in reversed(range(last))])
        self.head_norm = FrameNorm(config.widths[0], config.positions(0))
        self.head = FrameConv(config.widths[0], 2 * config.channels, 3, upsample=config.stem_stride)

    def state_shapes(self) -> Shapes:
        """Name and shape (without the batch) of each state tensor, in order."""
        for level, encoder in enumerate(self.encoders):
            if encoder.primer is not None:
                yield from encoder.primer.state_shapes(f"encoder{level}")
        for index, primer in enumerate(self.bottom):
            yield from primer.state_shapes(f"bottom{index}")
        for index, decoder in enumerate(self.decoders):
            if decoder.primer is not None:
                yield from decoder.primer.state_shapes(f"decoder{len(self.decoders) - 1 - index}")

    def initial_state(self, batch: int = 1) -> State:
        """State before the first frame: float32 zeros, batch first, sizes fixed for ever."""
        like = self.head_norm.weight
        return tuple(like.new_zeros(batch, *shape) for _, shape in self.state_shapes())

    def forward(self, spec: Tensor) -> Tensor:
        """Separate a whole signal.

        Args:
            spec: mixture STFT, complex64 (B, C, F, T) with F = analysis_window / 2 + 1.

        Returns:
            Stem STFTs, complex64 (B, S, C, F, T); stems sum to the mixture.
        """
        return self.run(spec, self.initial_state(spec.shape[0]))[0]

    def step(self, frame: Tensor, state: State) -> tuple[Tensor, State]:
        """Separate one frame: complex64 (B, C, F) -> (B, S, C, F), and the state for the next."""
        stems, state = self.run(frame.unsqueeze(-1), state)
        return stems.squeeze(-1), state

    def run(self, spec: Tensor, state: State) -> tuple[Tensor, State]:
        """Separate the next T frames of a stream: `forward` with the state carried in and out."""
        pairs = torch.view_as_real(spec.permute(0, 3, 1, 2))  # (B, T, C, F, 2)
        vocals, state = self.run_pairs(pairs, state)
        vocals = torch.view_as_complex(vocals.contiguous()).permute(0, 2, 3, 1)
        return torch.stack((vocals, spec - vocals), 1), state

    def run_pairs(self, pairs: Tensor, state: State) -> tuple[Tensor, State]:
        """Vocals of `run` alone, as `estimate` gives them, and the state for the next frames."""
        past = Past(state, int(pairs.shape[1]))
        return self.estimate(pairs, past), tuple(past.new)

    def estimate(self, spec: Tensor, past: Past) -> Tensor:
        """Vocal spectra of T frames as real pairs, float32 (B, T, C, F, 2) -> the same shape."""
        body = spec[..., : self.config.bins, :]
        real, imag = _planes(body).unbind(-2)
        re, im = _planes(self.mask(body, past)).unbind(-2)
        vocals = torch.stack((real * re - imag * im, real * im + imag * re), -2)
        return _planes(functional.pad(vocals, (0, 1)))  # half the rate: no vocals there

    def mask(self, body: Tensor, past: Past) -> Tensor:
        """Complex mask of magnitude below 1 for `body`; both (B, T, C, bins, 2) as real pairs."""
        z = _planes(self.head_output(body, past))
        re, im = z.unbind(-2)
        size = (re.square() + im.square() + 1e-8).sqrt()
        return _planes(z * (torch.tanh(size) / size).unsqueeze(-2))

    def head_output(self, body: Tensor, past: Past) -> Tensor:
        """The mask before it is bounded; pretraining lets it predict other things (same shapes)."""
        frames, channels, bins = (int(size) for size in body.shape[1:4])  # constants when exported
        scores = Scores()
        x = self.stem(self._features(body))
        skips = []
        for encoder in self.encoders:
            x, tokens = encoder.unit(x), None
            if encoder.primer is not None:
                x, tokens = encoder.primer(x, None, scores, past)
            skips.append((x, tokens))
            x = encoder.down(x)
        x = self.bottom_unit(x)
        for primer in self.bottom:
            x, _ = primer(x, None, scores, past)
        for decoder in self.decoders:
            skip, tokens = skips.pop()
            x = decoder.unit(decoder.merge(torch.cat((decoder.up(x), skip), 1)))
            if decoder.primer is not None:
                x, _ = decoder.primer(x, tokens, scores, past)
        z: Tensor = self.head(self.head_norm(x))
        return _planes(z.reshape(-1, frames, channels, 2, bins))

    def _features(self, body: Tensor) -> Tensor:
        """Level-compressed view of the frames, (B, T, C, bins, 2) -> (B * T, features, bins).

        Magnitudes of left, right, mid and side, raised to `compression`, and the spectra of left
        and right with magnitudes compressed likewise.
        """
        body = _planes(body.reshape(-1, *(int(size) for size in body.shape[2:])))
        signals = body
        if self.config.channels == 2:
            left, right = body[:, :1], body[:, 1:]
            signals = torch.cat((body, (left + right) / 2, (left - right) / 2), 1)
        real, imag = signals.unbind(2)
        squares = real.square() + imag.square() + 1e-10
        magnitudes = squares ** (self.config.compression / 2)
        shrink = (magnitudes / squares.sqrt())[:, : self.config.channels]
        real, imag = body.unbind(2)
        return torch.cat((magnitudes, real * shrink, imag * shrink), 1)
