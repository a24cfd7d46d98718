"""Training transform and loss, and that training and stream use the same frames."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import PRESETS, TRAINING_RATE, music, noise, training_config

import stemwire
from stemwire.model.config import SeparatorConfig
from stemwire.realtime.stft import FrameGeometry, StreamingSTFT

torch = pytest.importorskip("torch")

from stemwire.model.checkpoint import load_checkpoint  # noqa: E402
from stemwire.model.separator import planes, spectra  # noqa: E402
from stemwire.training.trainer.spectra import (  # noqa: E402
    DISTORTION,
    SPECTRAL,
    Transform,
    bins_below,
    compress_spectra,
    separation_losses,
)

CONFIGS = [SeparatorConfig(), SeparatorConfig(hop=256), training_config()]


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("extra", [0, 7])
def test_inverse_reconstructs(config: SeparatorConfig, extra: int) -> None:
    transform = Transform(config)
    audio = torch.from_numpy(noise(20 * config.hop + extra, level=1.0))[None]
    spec = transform(audio)
    assert spec.shape == (1, 2, config.bins + 1, 20)
    back = transform.inverse(spec)
    assert back.shape == (1, 2, 19 * config.hop)
    torch.testing.assert_close(back, audio[..., : 19 * config.hop], atol=1e-5, rtol=0)


@pytest.mark.parametrize("config", CONFIGS)
def test_training_sees_the_frames_of_the_stream(config: SeparatorConfig) -> None:
    transform = Transform(config)
    stft = StreamingSTFT(FrameGeometry.at(config, config.sample_rate), 2)
    audio = noise(16 * config.hop)
    spec = transform(torch.from_numpy(audio)[None])[0]
    generator = torch.Generator().manual_seed(0)
    masks = torch.rand((config.bins + 1, 16), generator=generator)
    back = transform.inverse(spec * masks)
    measured = []
    for t, hop in enumerate(np.split(audio, 16, 1)):
        frame = stft.analyse(hop)
        np.testing.assert_allclose(frame[0], spec[..., t].numpy(), atol=1e-4)
        measured.append(stft.synthesise((frame * masks[:, t].numpy()).astype(np.complex64)).copy())
    np.testing.assert_allclose(np.concatenate(measured[1:], 1), back.numpy(), atol=1e-5)


@pytest.mark.parametrize("preset", PRESETS)
def test_the_stream_gives_what_training_would(preset: str) -> None:
    """End to end: whole signal through `forward` against blocks through the shipped preset."""
    separator = stemwire.load(preset)
    audio = music(40 * separator.hop, separator.config.sample_rate)
    network = load_checkpoint(
        stemwire.model.preset.find_preset(preset).folder / "weights.safetensors"
    )
    transform, late = Transform(network.config), network.config.lookahead
    with torch.no_grad():
        stems = network(transform(torch.from_numpy(audio)[None]))[..., late:]
        whole = transform.inverse(stems)[0].numpy()
    live = np.concatenate((separator.push(audio), separator.flush()), 2)[..., separator.latency :]
    np.testing.assert_allclose(live[..., : whole.shape[2]], whole, atol=1e-4)


@given(bandwidth=st.integers(500, 3900))
def test_bins_below_a_bandwidth(bandwidth: int) -> None:
    config = training_config()
    keep = bins_below(torch.tensor([float(bandwidth), 1e6]), config)
    assert keep.shape == (2, 1, 1, 1, config.bins + 1) and keep[1].all()
    frequency = np.fft.rfftfreq(config.analysis_window, 1 / TRAINING_RATE)
    np.testing.assert_array_equal(keep[0].flatten().numpy(), frequency < bandwidth)


CONFIG = training_config()
TRANSFORM = Transform(CONFIG)


def samples(frames: torch.Tensor) -> torch.Tensor:
    return TRANSFORM.inverse(spectra(frames))


def signals(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Frames of vocals and of a mixture with them, three examples."""
    generator = torch.Generator().manual_seed(seed)
    vocals, music = torch.randn((2, 3, 2, 4000), generator=generator)
    return planes(TRANSFORM(vocals)), planes(TRANSFORM(vocals + music))


def test_loss_is_smallest_for_a_perfect_estimate() -> None:
    vocals, mixture = signals()
    losses = [
        separation_losses(vocals + error * mixture, vocals, mixture, samples).mean().item()
        for error in (0.0, 0.01, 0.1, 0.5, 1.0)
    ]
    assert losses == sorted(losses)
    best = DISTORTION * torch.log10(1e-4 / (samples(vocals).square().mean((1, 2)) + 1e-4))
    perfect = separation_losses(vocals, vocals, mixture, samples)
    torch.testing.assert_close(perfect, best)  # nothing but the logarithm of what keeps it finite


def test_loss_is_the_sum_of_its_three_parts() -> None:
    vocals, mixture = signals()
    estimate = vocals + 0.3 * torch.randn_like(vocals)
    whole = separation_losses(estimate, vocals, mixture, samples)
    error, level = samples(estimate) - samples(vocals), samples(vocals)
    parts = [
        (compress_spectra(guess) - compress_spectra(truth)).abs().mean((1, 2, 3, 4))
        for guess, truth in ((estimate, vocals), (mixture - estimate, mixture - vocals))
    ]
    powers = [x.square().mean((1, 2)) + 1e-4 for x in (error, level)]
    distortion = torch.log10(powers[0] / powers[1])
    expected = error.abs().mean((1, 2)) + SPECTRAL * sum(parts) + DISTORTION * distortion
    torch.testing.assert_close(whole, expected)


def test_there_is_no_distortion_of_vocals_that_are_not_there() -> None:
    vocals, mixture = signals()
    vocals[0] = 0
    estimate = 0.1 * mixture
    losses = separation_losses(estimate, vocals, mixture, samples)
    assert losses[0] > 0  # what is heard where nothing should be still counts
    assert torch.isfinite(losses).all()


def test_compressed_keeps_phases() -> None:
    frames = 100 * torch.randn(2, 3, 2, 2, 9)
    small = compress_spectra(frames)
    magnitude = frames.square().sum(-2).sqrt()
    torch.testing.assert_close(small.square().sum(-2).sqrt(), magnitude**0.3, rtol=1e-3, atol=1e-3)
    cosine = (small * frames).sum(-2) / (magnitude**1.3)
    torch.testing.assert_close(cosine, torch.ones_like(cosine), rtol=1e-3, atol=1e-3)


def test_loss_has_a_finite_gradient_even_for_silence() -> None:
    vocals, mixture = signals()
    estimate = torch.zeros_like(vocals, requires_grad=True)
    separation_losses(estimate, 0 * vocals, mixture, samples).mean().backward()
    assert torch.isfinite(estimate.grad).all()
    estimate = (0.5 * mixture).requires_grad_()
    separation_losses(estimate, vocals, mixture, samples).mean().backward()
    assert torch.isfinite(estimate.grad).all() and estimate.grad.abs().max() > 0
