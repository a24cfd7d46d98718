"""The separator: a causal primer U-Net from mixture spectra to vocal spectra.

The way of a frame: compressed features -> bands -> encoders (frequency halves from level to level,
time never does) -> bottom -> decoders -> complex filter -> vocals; the instrumental is what the
vocals leave.

With look-ahead, encoders and bottom work on the newest frame and decoders on one that is
`lookahead` frames older: they get its features from a ring, with those of some frames that came
after it beside them, and attend to the encoders' tokens of all of these. Time never runs backwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from stemwire.model.config import SeparatorConfig
from stemwire.model.layers import BandExpand, BandLinear, FrameNorm, FrameUnit, Past, Shapes, State
from stemwire.model.primer import FramePrimer, Scores

M = TypeVar("M", bound=nn.Module)


def _modules(modules: list[M]) -> Sequence[M]:
    """Register modules with their type kept, which `nn.ModuleList` hides from a type checker."""
    return cast(Sequence[M], nn.ModuleList(modules))


class Units(nn.Module):
    """The frame units of one place of the network, one after the other."""

    def __init__(self, config: SeparatorConfig, level: int) -> None:
        super().__init__()
        channels, positions = config.widths[level], config.positions(level)
        self.parts = _modules(
            [FrameUnit(channels, positions, config.expansion) for _ in range(config.units)]
        )

    def state_shapes(self, name: str) -> Shapes:
        for index, unit in enumerate(self.parts):
            yield from unit.state_shapes(f"{name}_unit{index}")

    def forward(self, x: Tensor, past: Past) -> Tensor:
        for unit in self.parts:
            x = unit(x, past)
        return x


class Encoder(nn.Module):
    """One level on the way down: units, then a primer (`unet`), then half the positions."""

    def __init__(self, config: SeparatorConfig, level: int) -> None:
        super().__init__()
        self.units = Units(config, level)
        self.primer = FramePrimer(config, level) if config.variant == "unet" else None
        self.down = nn.Linear(2 * config.widths[level], config.widths[level + 1])

    def state_shapes(self, name: str) -> Shapes:
        yield from self.units.state_shapes(name)
        if self.primer is not None:
            yield from self.primer.state_shapes(name)


class After(nn.Module):
    """What decoders see of one level with look-ahead: a frame, and those that came after it.

    What comes after adds nothing at first, so that any weights without look-ahead can go on.
    """

    def __init__(self, config: SeparatorConfig, level: int) -> None:
        super().__init__()
        channels, self.delays = config.widths[level], config.feature_delays
        self.shape = (config.lookahead, config.positions(level), channels)
        self.linear = nn.Linear(len(config.ahead) * channels, channels, bias=False)
        nn.init.zeros_(self.linear.weight)

    def state_shapes(self, name: str) -> Shapes:
        yield f"{name}_after", self.shape

    def forward(self, x: Tensor, past: Past, ahead: Tensor | None) -> tuple[Tensor, Tensor]:
        """Features (N, P, C) -> those of the frame, and what the frames after it add to it."""
        frames = past.delayed(x.reshape(-1, past.frames, *self.shape[1:]), self.delays)
        now, *after = frames.values()
        found = self.linear(torch.cat(after, -1))
        if ahead is not None:
            found = found * ahead[:, None, None, None]
        return now.reshape(x.shape), found.reshape(x.shape)


class Decoder(nn.Module):
    """One level on the way up: double the positions, add the skip, units, primer (`unet`)."""

    def __init__(self, config: SeparatorConfig, level: int) -> None:
        super().__init__()
        channels = config.widths[level]
        self.up = nn.Linear(config.widths[level + 1], 2 * channels)
        self.merge = nn.Linear(channels, channels)
        self.after = After(config, level) if config.lookahead else None
        self.units = Units(config, level)
        self.primer = FramePrimer(config, level, decoder=True) if config.variant == "unet" else None

    def state_shapes(self, name: str) -> Shapes:
        if self.after is not None:
            yield from self.after.state_shapes(name)
        yield from self.units.state_shapes(name)
        if self.primer is not None:
            yield from self.primer.state_shapes(name)


class Separator(nn.Module):
    """Causal separator; `step` frame by frame equals `forward` over the whole.

    Args:
        config: the shape of the network.
    """

    def __init__(self, config: SeparatorConfig) -> None:
        super().__init__()
        self.config = config
        last, first = config.levels - 1, config.widths[0]
        magnitudes = 1 if config.channels == 1 else 4  # left, right, mid, side
        features = magnitudes + 2 * config.channels
        self.stem = BandLinear(config.bands, features, first)
        self.encoders = _modules([Encoder(config, level) for level in range(last)])
        self.bottom_units = Units(config, last)
        self.bottom = _modules([FramePrimer(config, last) for _ in range(config.blocks)])
        self.after = After(config, last) if config.lookahead else None
        self.decoders = _modules([Decoder(config, level) for level in reversed(range(last))])
        self.head_unit = FrameUnit(first, config.positions(0), config.expansion)
        self.head_norm = FrameNorm(first, config.positions(0))
        self.head = BandExpand(config.bands, first, 2 * config.channels * config.taps)

    def state_shapes(self) -> Shapes:
        """Name and shape (without the batch) of each state tensor, in order."""
        if longest := self.config.mixture_delays[0]:
            yield "mixture", (longest, self.config.channels, 2, self.config.bins + 1)
        for level, encoder in enumerate(self.encoders):
            yield from encoder.state_shapes(f"encoder{level}")
        yield from self.bottom_units.state_shapes("bottom")
        for index, primer in enumerate(self.bottom):
            yield from primer.state_shapes(f"bottom{index}")
        if self.after is not None:
            yield from self.after.state_shapes("bottom")
        for index, decoder in enumerate(self.decoders):
            yield from decoder.state_shapes(f"decoder{len(self.decoders) - 1 - index}")
        yield from self.head_unit.state_shapes("head")

    def initial_state(self, batch: int = 1) -> State:
        """State before the first frame: zeros, batch first, of fixed sizes.

        In the type of the weights, but for the mixture's spectra, which are float32.
        """
        like = self.head_norm.weight
        return tuple(
            like.new_zeros(batch, *shape, dtype=torch.float32 if name == "mixture" else like.dtype)
            for name, shape in self.state_shapes()
        )

    def forward(self, spec: Tensor) -> Tensor:
        """Separate a whole signal.

        Args:
            spec: mixture STFT, complex64 (B, C, F, T) with F = analysis_window / 2 + 1.

        Returns:
            Stem STFTs, complex64 (B, S, C, F, T), late by `lookahead` frames; stems sum to the
            mixture, late by as many.
        """
        return self.run(spec, self.initial_state(spec.shape[0]))[0]

    def step(self, frame: Tensor, state: State) -> tuple[Tensor, State]:
        """Separate one frame: complex64 (B, C, F) -> (B, S, C, F), and the state for the next."""
        stems, state = self.run(frame.unsqueeze(-1), state)
        return stems.squeeze(-1), state

    def run(self, spec: Tensor, state: State, ahead: Tensor | None = None) -> tuple[Tensor, State]:
        """Separate the next T frames of a stream: `forward` with the state carried in and out."""
        past = Past(state, int(spec.shape[-1]))
        vocals, mixture = self.estimate(planes(spec), past, ahead)
        stems = torch.stack((vocals, mixture - vocals), 1)  # (B, S, T, C, 2, F)
        return spectra(stems), tuple(past.new)

    def estimate(
        self, spec: Tensor, past: Past, ahead: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Vocals of T frames, and the mixture that they are part of.

        Args:
            spec: mixture, float32 (B, T, C, 2, F), as `planes` gives it.
            past: state in and out.
            ahead: as of `predict`.

        Returns:
            Two tensors shaped like `spec`, late by `lookahead` frames.
        """
        bins, lookahead = self.config.bins, self.config.lookahead
        z, mixture = self.predict(spec, past, ahead)
        filters = torch.tanh(z).float()
        vocals: Tensor | None = None
        for tap in range(self.config.taps):
            real, imag = mixture[lookahead + tap][..., :bins].unbind(-2)
            re, im = filters[:, :, tap].unbind(-2)
            part = torch.stack((real * re - imag * im, real * im + imag * re), -2)
            vocals = part if vocals is None else vocals + part
        assert vocals is not None
        vocals = functional.pad(vocals, (0, 1))  # half the rate: no vocals there
        return vocals, mixture[lookahead]

    def predict(
        self, spec: Tensor, past: Past, ahead: Tensor | None = None
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """What the head makes of T frames, before it is bounded and filters anything.

        Args:
            spec: mixture, float32 (B, T, C, 2, F).
            past: state in and out.
            ahead: which items are shown the frames ahead, bool (B,); None for all. The others are
                separated as by the same weights without look-ahead, only later.

        Returns:
            In the type of the weights, (B, T, taps, C, 2, bins), for the mixture `lookahead` frames
            before (pretraining lets the first tap predict other things); and `spec` late by each of
            the configuration's `mixture_delays`.
        """
        config = self.config
        mixture = past.delayed(spec, config.mixture_delays)
        x = self._body(self.stem(self._features(spec)), past, ahead)
        z: Tensor = self.head(self.head_norm(x))
        return z.reshape(-1, past.frames, config.taps, config.channels, 2, config.bins), mixture

    def _body(self, x: Tensor, past: Past, ahead: Tensor | None) -> Tensor:
        """All between stem and head, (N, P, C) of the finest level -> the same."""
        scores = Scores()
        skips = []
        for encoder in self.encoders:
            x, tokens = encoder.units(x, past), None
            if encoder.primer is not None:
                x, tokens = encoder.primer(x, None, scores, past)
            skips.append((x, tokens))
            x = encoder.down(x.reshape(-1, int(x.shape[1]) // 2, 2 * int(x.shape[2])))
        x = self.bottom_units(x, past)
        for primer in self.bottom:
            x, _ = primer(x, None, scores, past)
        if self.after is not None:
            x = torch.add(*self.after(x, past, ahead))
        scores = Scores()  # decoders may be at another frame
        for decoder in self.decoders:
            skip, tokens = skips.pop()
            added = None
            if decoder.after is not None:
                skip, added = decoder.after(skip, past, ahead)
            x = decoder.up(x).reshape(skip.shape) + decoder.merge(skip)
            if added is not None:
                x = x + added
            x = decoder.units(x, past)
            if decoder.primer is not None:
                x, _ = decoder.primer(x, tokens, scores, past, ahead)
        y: Tensor = self.head_unit(x, past)
        return y

    def _features(self, spec: Tensor) -> Tensor:
        """Level-compressed view of the frames, (B, T, C, 2, F) -> (B * T, features, bins).

        Magnitudes of left, right, mid and side, raised to `compression`, and the spectra of left
        and right with magnitudes compressed likewise; in the type of the weights.
        """
        signals = body = spec.flatten(0, 1)[..., : self.config.bins]
        if self.config.channels == 2:
            left, right = body[:, :1], body[:, 1:]
            signals = torch.cat((body, (left + right) / 2, (left - right) / 2), 1)
        real, imag = signals.unbind(2)
        squares = real.square() + imag.square() + 1e-10
        magnitudes = squares ** (self.config.compression / 2)  # (N, signals, bins)
        shrink = (magnitudes / squares.sqrt())[:, : self.config.channels]
        shrunk = (body * shrink.unsqueeze(2)).flatten(1, 2)
        return torch.cat((magnitudes, shrunk), 1).to(self.stem.bias.dtype)


def planes(spec: Tensor) -> Tensor:
    """Complex (B, C, F, T) -> real and imaginary parts apart, float32 (B, T, C, 2, F).

    What treats all bins alike is quick only where they lie together.
    """
    frames = spec.permute(0, 3, 1, 2)
    return torch.stack((frames.real, frames.imag), -2)


def spectra(frames: Tensor) -> Tensor:
    """Inverse of `planes`: (..., T, C, 2, F) -> complex (..., C, F, T)."""
    return torch.complex(*frames.unbind(-2)).movedim(-3, -1)
