"""Training objectives: each turns a batch into one loss per example.

Examples come with their numbers, and all noise is drawn from (seed, number): a batch gives the same
losses however it is divided among processes, and a resumed run equals an uninterrupted one.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from stemwire.model import Separator
from stemwire.model.layers import Past, State
from stemwire.model.separator import planes, spectra
from stemwire.training.examples.examples import Example
from stemwire.training.trainer.settings import RunSettings
from stemwire.training.trainer.spectra import Transform, bins_below, separation_losses


class Batch(NamedTuple):
    """Batch of examples as tensors.

    Attributes:
        vocals: (B, 2, n).
        music: the accompaniment, (B, 2, n).
        bandwidth: (B,) in Hz; the loss ignores the spectrum above.
        numbers: (B,) numbers of the examples.
    """

    vocals: Tensor
    music: Tensor
    bandwidth: Tensor
    numbers: Tensor


def collate(examples: list[Example], numbers: list[int]) -> Batch:
    """Stack examples into tensors."""
    return Batch(
        torch.from_numpy(np.stack([e.vocals for e in examples])),
        torch.from_numpy(np.stack([e.accompaniment for e in examples])),
        torch.tensor([e.bandwidth_hz for e in examples], dtype=torch.float32),
        torch.tensor(numbers, dtype=torch.int64),
    )


class Objective(nn.Module):
    """A network and the loss it is trained with: `forward(batch)` -> losses (B,).

    Args:
        network: network to train.
        settings: settings of the run.
    """

    def __init__(self, network: Separator, settings: RunSettings) -> None:
        super().__init__()
        self.network, self.settings = network, settings
        self.transform = Transform(network.config)
        self.context = round(settings.context * network.config.sample_rate / network.config.hop)

    def forward(self, batch: Batch) -> Tensor:
        raise NotImplementedError

    def audio(self, signal: Tensor) -> Tensor:
        """Signal with the network's channels: mono networks get the mean of both."""
        return signal if self.network.config.channels == 2 else signal.mean(1, keepdim=True)

    def skip_context(self, spec: Tensor, ahead: Tensor | None = None) -> tuple[Tensor, State]:
        """Frames after the context, and the network's state at the end of the context."""
        state = self.network.initial_state(spec.shape[0])
        if self.context:
            with torch.no_grad():
                _, state = self.network.run(spec[..., : self.context], state, ahead)
        return spec[..., self.context :], state

    def generators(self, batch: Batch) -> list[torch.Generator]:
        """Random generator of each example, seeded by its number alone."""
        seeds = [(self.settings.seed * 1_000_003 + int(n)) % 2**63 for n in batch.numbers]
        return [torch.Generator().manual_seed(seed) for seed in seeds]


class Separation(Objective):
    """Finetuning: the loss of `separation_losses`, on the frames that the network works on.

    The stems sum to the mixture by construction, so the estimate of one decides both.
    """

    def forward(self, batch: Batch) -> Tensor:
        config = self.network.config
        mixture = self.audio(batch.vocals + batch.music)
        estimate, whole = self.frames(mixture, self.sees_ahead(batch))
        vocals = planes(self.transform(self.audio(batch.vocals)))
        vocals = vocals[:, self.context : self.context + estimate.shape[1]]
        scale = 1 / (mixture.square().mean((1, 2)).sqrt() + 1e-4)[:, None, None, None, None]
        scale = scale * bins_below(batch.bandwidth, config)
        return separation_losses(estimate * scale, vocals * scale, whole * scale, self.samples)

    def estimate(self, mixture: Tensor) -> Tensor:
        """Vocals of a mixture (B, C, n) after the context, aligned with it; (B, C, a little less).

        The last `lookahead` frames and hop, whose output would come later, are left out.
        """
        return self.samples(self.frames(mixture)[0])

    def sees_ahead(self, batch: Batch) -> Tensor | None:
        """Mask (B,) of the examples in which the network sees the frames ahead; None for all."""
        share, numbers = self.settings.ahead_share, batch.numbers.double()
        if not self.network.config.ahead or share == 1.0:
            return None
        return ((numbers + 1) * share).floor() > (numbers * share).floor()  # evenly spaced

    def frames(self, mixture: Tensor, ahead: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Frames of vocals and mixture, aligned with each other; both (B, T, C, 2, F)."""
        spec, state = self.skip_context(self.transform(mixture), ahead)
        whole, late = planes(spec), self.network.config.lookahead
        frames = int(whole.shape[1])
        vocals, _ = self.network.estimate(whole, Past(state, frames), ahead)
        return vocals[:, late:], whole[:, : frames - late]

    def samples(self, frames: Tensor) -> Tensor:
        """Frames (B, T, C, 2, F) -> (B, C, (T - 1) * hop)."""
        return self.transform.inverse(spectra(frames))


class Denoising(Objective):
    """DDeP: predict the noise in x' = sqrt(gamma) x + sqrt(1 - gamma) noise; L1.

    Brempong et al. 2022, "Denoising Pretraining for Semantic Segmentation" (arXiv 2205.11423),
    section 3. Here x is the mixture's STFT with magnitudes compressed as the network sees them and
    scaled to at most 1 in each example; the noise is drawn for real and imaginary parts alike. The
    head predicts it in place of the mask.
    """

    def forward(self, batch: Batch) -> Tensor:
        spec, state = self.skip_context(self.transform(self.audio(batch.vocals + batch.music)))
        clean, scale = compress(self.body(spec), self.network.config.compression)
        gamma, sigma = self.settings.gamma, self.settings.sigma
        noise = torch.stack(
            [torch.randn(clean.shape[1:], generator=g) for g in self.generators(batch)]
        ).to(clean.device)
        noise = noise * sigma
        noisy = math.sqrt(gamma) * clean + math.sqrt(1 - gamma) * noise
        body = expand(noisy, scale, self.network.config.compression)
        predicted = self.predict(body, state)
        return (predicted - noise[:, : predicted.shape[1]]).abs().flatten(1).mean(1)

    def predict(self, body: Tensor, state: State) -> Tensor:
        """Output of the head, float32, for all frames but those whose output is still to come."""
        spec = functional.pad(body, (0, 1))
        predicted, _ = self.network.predict(spec, Past(state, int(body.shape[1])))
        return predicted[:, self.network.config.lookahead :, 0].float()

    def body(self, spec: Tensor) -> Tensor:
        """Complex (B, C, F, T) -> the bins that the network sees, (B, T, C, 2, bins)."""
        return planes(spec)[..., : self.network.config.bins]


class Unmasking(Denoising):
    """BERT-style: hide spans of frames and predict their compressed magnitudes; L1 on those frames.

    As in BERT (Devlin et al. 2019, section 3.1) 80 % of the hidden spans become zeros, 10 % frames
    from elsewhere in the example, 10 % stay. The network is causal, so a hidden frame is
    predicted from what came before it. Phases cannot be predicted, hence magnitudes; they are
    scaled to at most 1 in each example.
    """

    def forward(self, batch: Batch) -> Tensor:
        spec, state = self.skip_context(self.transform(self.audio(batch.vocals + batch.music)))
        body = self.body(spec)
        clean, _ = compress(body, self.network.config.compression)
        plans = [self._plan(body.shape[1], g) for g in self.generators(batch)]
        hidden = torch.stack([plan[0] for plan in plans]).to(body.device)
        source = torch.stack([plan[1] for plan in plans]).to(body.device)
        shown = torch.stack([x[s.clamp(min=0)] for x, s in zip(body, source, strict=True)])
        shown = shown * (source >= 0)[:, :, None, None, None]
        predicted = self.predict(shown, state)[:, :, :, 0]
        frames = predicted.shape[1]
        target, hidden = clean.square().sum(-2).sqrt()[:, :frames], hidden[:, :frames]
        error = (predicted - target).abs().mean((2, 3)) * hidden
        return error.sum(1) / hidden.sum(1).clamp(min=1)

    def _plan(self, frames: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Mask of hidden frames (frames,), and the frame shown in each place (-1: none)."""
        span = min(self.settings.mask_span, frames)
        spans = max(1, round(self.settings.mask_share * frames / span))
        hidden, source = torch.zeros(frames), torch.arange(frames)
        for _ in range(spans):
            first, other = torch.randint(frames - span + 1, (2,), generator=generator).tolist()
            kind = torch.rand((), generator=generator)
            hidden[first : first + span] = 1.0
            if kind < 0.8:
                source[first : first + span] = -1
            elif kind < 0.9:
                source[first : first + span] = torch.arange(other, other + span)
        return hidden, source


def compress(body: Tensor, exponent: float) -> tuple[Tensor, Tensor]:
    """Spectra with magnitudes raised to `exponent` and scaled to at most 1 in each example.

    (B, T, C, 2, bins) -> the same shape, and the scale (B, 1, 1, 1, 1).
    """
    squares = body.square().sum(-2, keepdim=True) + 1e-10
    small = body * squares ** (exponent / 2 - 0.5)
    scale = small.square().sum(-2).sqrt().amax((1, 2, 3)).clamp(min=1e-3)[:, None, None, None, None]
    return small / scale, scale


def expand(small: Tensor, scale: Tensor, exponent: float) -> Tensor:
    """Inverse of `compress`."""
    small = small * scale
    squares = small.square().sum(-2, keepdim=True) + 1e-12
    return small * squares ** (0.5 / exponent - 0.5)


OBJECTIVES: dict[str, type[Objective]] = {
    "separation": Separation,
    "ddep": Denoising,
    "masked": Unmasking,
}


def freeze_encoder(network: Separator) -> None:
    """Freeze all but decoders and head (`part="decoder"`)."""
    for module in (network.stem, *network.encoders, network.bottom_units, *network.bottom):
        assert isinstance(module, nn.Module)
        module.requires_grad_(False)


def renew_head(network: Separator) -> None:
    """Reset the head to random weights: after pretraining it must learn the mask instead."""
    network.head.reset_parameters()
