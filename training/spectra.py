"""The engine's STFT in torch, for whole signals and gradients, and the training loss."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from stemwire.model import SeparatorConfig
from stemwire.realtime.windows import window_pair


class Transform(nn.Module):
    """STFT and ISTFT with the asymmetric windows of `stemwire.realtime.windows`."""

    analysis: Tensor
    synthesis: Tensor

    def __init__(self, config: SeparatorConfig) -> None:
        super().__init__()
        self.size, self.hop = config.analysis_window, config.hop
        analysis, synthesis = window_pair(self.size, self.hop)
        self.register_buffer("analysis", torch.from_numpy(analysis), persistent=False)
        self.register_buffer("synthesis", torch.from_numpy(synthesis), persistent=False)

    def forward(self, audio: Tensor) -> Tensor:
        """(B, C, n) -> complex (B, C, F, T), one frame for each whole hop of new samples."""
        history = functional.pad(audio, (self.size - self.hop, 0))
        frames = history.unfold(-1, self.size, self.hop) * self.analysis
        spec: Tensor = torch.fft.rfft(frames).transpose(-1, -2)
        return spec

    def inverse(self, spec: Tensor) -> Tensor:
        """Complex (..., F, T) -> (..., (T - 1) * hop): aligned with the samples that went in."""
        frames = torch.fft.irfft(spec.transpose(-1, -2), self.size)
        halves = frames[..., -2 * self.hop :] * self.synthesis
        audio: Tensor = (halves[..., :-1, self.hop :] + halves[..., 1:, : self.hop]).flatten(-2)
        return audio


def band_limit(audio: Tensor, bandwidth_hz: Tensor, rate: int) -> Tensor:
    """Remove what lies above each example's bandwidth: (B, C, n), (B,) in Hz -> (B, C, n)."""
    frequency = torch.fft.rfftfreq(audio.shape[-1], 1 / rate, device=audio.device)
    keep = frequency < bandwidth_hz[:, None, None]
    limited: Tensor = torch.fft.irfft(torch.fft.rfft(audio) * keep, audio.shape[-1])
    return limited


def compressed(audio: Tensor, size: int) -> Tensor:
    """Magnitudes to the power 0.4 of an STFT with a Hann window of `size` and a quarter as hop.

    (B, C, n) -> (B, C, F, T).
    """
    window = torch.hann_window(size, device=audio.device)
    spec = torch.stft(audio.flatten(0, 1), size, size // 4, window=window, return_complex=True)
    magnitudes: Tensor = (spec.real.square() + spec.imag.square() + 1e-7).pow(0.2)
    return magnitudes.reshape(*audio.shape[:2], *magnitudes.shape[1:])


def separation_losses(
    estimate: Tensor, vocals: Tensor, mixture: Tensor, sizes: Sequence[int]
) -> Tensor:
    """L1 in time plus L1 of compressed magnitudes of both stems at several resolutions.

    All signals (B, C, n), at a level of about 1 (the caller divides by the mixture's RMS); one loss
    for each example, (B,).
    """
    losses = (estimate - vocals).abs().mean((1, 2))
    for size in sizes:
        for guess, truth in ((estimate, vocals), (mixture - estimate, mixture - vocals)):
            error = (compressed(guess, size) - compressed(truth, size)).abs()
            losses = losses + 0.15 / len(sizes) * error.flatten(1).mean(1)
    return losses
