"""The streaming STFT in PyTorch, for whole signals with gradients, and the training loss."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from stemwire.model import SeparatorConfig
from stemwire.realtime.windows import window_pair

SPECTRAL, DISTORTION = 0.3, 0.2  # weights relative to the waveform error, which has 1
AUDIBLE = 1e-3  # least power of vocals over the mixture's at which they count as present

Inverse = Callable[[Tensor], Tensor]


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


def bins_below(bandwidth_hz: Tensor, config: SeparatorConfig) -> Tensor:
    """Mask of bins below each example's bandwidth, (B,) in Hz -> bool (B, 1, 1, 1, F)."""
    bins = torch.arange(config.bins + 1, device=bandwidth_hz.device)
    frequency = bins * (config.sample_rate / config.analysis_window)
    return (frequency < bandwidth_hz[:, None])[:, None, None, None]


def compress_spectra(spec: Tensor) -> Tensor:
    """Frames with magnitudes to the power 0.3 and the same phases, (..., 2, F) -> the same."""
    real, imag = spec.unbind(-2)
    return spec * ((real.square() + imag.square() + 1e-6) ** -0.35).unsqueeze(-2)


def separation_losses(
    estimate: Tensor, vocals: Tensor, mixture: Tensor, inverse: Inverse
) -> Tensor:
    """Training loss: L1 of samples and of compressed spectra, and the logarithm of the error.

    The first follows the loudest sounds; the second gives quiet sounds their share (Ephrat et al.
    2018, "Looking to listen at the cocktail party", section 4), in both stems, as the error of one
    is the error of the other; the third is SDR where there are vocals, so that songs with quiet
    vocals count as much as others.

    Args:
        estimate: frames of the vocals, (B, T, C, 2, F), at a level such that the
            mixture's RMS is about 1 (the caller divides).
        vocals: true vocals, the same shape.
        mixture: the same shape.
        inverse: function from spectra to samples, (B, T, C, 2, F) -> (B, C, n).

    Returns:
        Loss of each example, (B,).
    """
    error = inverse(estimate - vocals)
    losses = error.abs().mean((1, 2))
    for guess, truth in ((estimate, vocals), (mixture - estimate, mixture - vocals)):
        losses = losses + SPECTRAL * (compress_spectra(guess) - compress_spectra(truth)).abs().mean(
            (1, 2, 3, 4)
        )
    level = inverse(vocals).square().mean((1, 2))
    present = level > AUDIBLE
    distortion = torch.log10((error.square().mean((1, 2)) + 1e-4) / (level + 1e-4))
    return losses + DISTORTION * distortion * present
