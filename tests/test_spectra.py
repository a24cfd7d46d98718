"""The training transform and loss; and that training and the stream see the same frames."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import PRESETS, TRAINING_RATE, music, noise, training_config
from hypothesis import given
from hypothesis import strategies as st

import stemwire
from stemwire.model.config import SeparatorConfig
from stemwire.realtime.stft import FrameGeometry, StreamingSTFT

torch = pytest.importorskip("torch")

from stemwire.model.checkpoint import load_checkpoint  # noqa: E402
from stemwire.training.spectra import (  # noqa: E402
    Transform,
    band_limit,
    compressed,
    separation_losses,
)

CONFIGS = [SeparatorConfig(), SeparatorConfig(hop=256), training_config()]
SIZES = [256, 1024]


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
    heard = []
    for t, hop in enumerate(np.split(audio, 16, 1)):
        frame = stft.analyse(hop)
        np.testing.assert_allclose(frame[0], spec[..., t].numpy(), atol=1e-4)
        heard.append(stft.synthesise((frame * masks[:, t].numpy()).astype(np.complex64)).copy())
    np.testing.assert_allclose(np.concatenate(heard[1:], 1), back.numpy(), atol=1e-5)


@pytest.mark.parametrize("preset", PRESETS)
def test_the_stream_gives_what_training_would(preset: str) -> None:
    """End to end: whole signal through `forward` against blocks through the shipped graph."""
    separator = stemwire.load(preset)
    audio = music(40 * separator.hop, separator.config.sample_rate)
    network = load_checkpoint(
        stemwire.model.preset.find_preset(preset).folder / "weights.safetensors"
    )
    transform = Transform(network.config)
    with torch.no_grad():
        stems = transform.inverse(network(transform(torch.from_numpy(audio)[None])))[0].numpy()
    live = np.concatenate((separator.push(audio), separator.flush()), 2)[..., separator.latency :]
    np.testing.assert_allclose(live[..., : stems.shape[2]], stems, atol=1e-4)


@given(bandwidth=st.integers(500, 3900))
def test_band_limit_removes_what_lies_above(bandwidth: int) -> None:
    time = torch.arange(TRAINING_RATE, dtype=torch.float64) / TRAINING_RATE
    below, above = max(100, bandwidth - 300), min(3990, bandwidth + 50)
    low = torch.sin(2 * torch.pi * below * time).float().expand(1, 2, -1)
    high = torch.sin(2 * torch.pi * above * time).float().expand(1, 2, -1)
    both = (low + high).expand(2, 2, -1)
    limits = torch.tensor([float(bandwidth), 1e6])
    out = band_limit(both, limits, TRAINING_RATE)
    torch.testing.assert_close(out[:1], low, atol=1e-4, rtol=0)
    torch.testing.assert_close(out[1:], low + high, atol=1e-4, rtol=0)  # each has its own


def signals(seed: int = 0) -> tuple:
    generator = torch.Generator().manual_seed(seed)
    vocals, music = torch.randn((2, 3, 2, 4000), generator=generator)
    return vocals, vocals + music


def test_loss_is_zero_for_a_perfect_estimate_only() -> None:
    vocals, mixture = signals()
    assert (separation_losses(vocals, vocals, mixture, SIZES) == 0).all()
    losses = [
        separation_losses(vocals + error * mixture, vocals, mixture, SIZES).mean().item()
        for error in (0.01, 0.1, 0.5, 1.0)
    ]
    assert losses[0] > 0 and losses == sorted(losses)


def test_loss_counts_both_stems() -> None:
    """The same error in spectra of vocals and of music: neither stem may be forgotten."""
    vocals, mixture = signals()
    estimate = vocals + 0.3 * torch.randn_like(vocals)
    whole = separation_losses(estimate, vocals, mixture, [512]).mean()
    swapped = separation_losses(mixture - estimate, mixture - vocals, mixture, [512]).mean()
    torch.testing.assert_close(whole, swapped)
    time = (estimate - vocals).abs().mean()
    parts = [
        (compressed(guess, 512) - compressed(truth, 512)).abs().mean()
        for guess, truth in ((estimate, vocals), (mixture - estimate, mixture - vocals))
    ]
    torch.testing.assert_close(whole, time + 0.15 * sum(parts))


def test_loss_has_a_finite_gradient_even_for_silence() -> None:
    vocals, mixture = signals()
    estimate = torch.zeros_like(vocals, requires_grad=True)
    separation_losses(estimate, 0 * vocals, mixture, SIZES).mean().backward()
    assert torch.isfinite(estimate.grad).all()
    estimate = (0.5 * mixture).requires_grad_()
    separation_losses(estimate, vocals, mixture, SIZES).mean().backward()
    assert torch.isfinite(estimate.grad).all() and estimate.grad.abs().max() > 0
