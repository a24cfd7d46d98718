"""The streaming STFT in NumPy and native code, against an offline STFT; its geometry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support import Audio, noise

import stemwire
from stemwire.errors import ConfigError
from stemwire.model.config import SeparatorConfig
from stemwire.realtime.backends.native_library import native_problem
from stemwire.realtime.backends.native_stft import NativeSTFT
from stemwire.realtime.stft import MAX_HOPS, FrameGeometry, StreamingSTFT, fast_floor
from stemwire.realtime.windows import window_pair

CONFIGS = [preset.config for preset in stemwire.presets()] + [SeparatorConfig(hop=256)]
USUAL = [8_000, 11_025, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 64_000, 88_200, 96_000,
         176_400, 192_000]  # fmt: skip
THIRDS = SeparatorConfig(analysis_window=1536, hop=512, bands=((64, 12),))
rates = st.integers(8_000, 192_000)
configs = st.sampled_from(CONFIGS)
Transform = Callable[[FrameGeometry, int], Any]
native = pytest.param(
    NativeSTFT,
    marks=pytest.mark.skipif(bool(native_problem()), reason=native_problem()),
)
each_transform = pytest.mark.parametrize("transform", [StreamingSTFT, native])


def whole_signal(audio: Audio, masks: np.ndarray, geometry: FrameGeometry) -> np.ndarray:
    """Mask the frames of a whole signal, in double precision: output n belongs to input n.

    Frame t ends with hop t; before the first sample there is silence.
    """
    size, hop = geometry.size, geometry.hop
    analysis, synthesis = (w.astype(np.float64) for w in window_pair(size, hop))
    channels, samples = audio.shape
    padded = np.concatenate((np.zeros((channels, size - hop)), audio), 1)
    out = np.zeros((channels, samples + hop))
    shared = min(geometry.bins, size // 2 + 1)
    for t, mask in enumerate(masks):
        spectrum = np.fft.rfft(padded[:, t * hop : t * hop + size] * analysis)
        spectrum[:, :shared] *= mask[:shared]
        spectrum[:, shared:] = 0
        frame = np.fft.irfft(spectrum, size)[:, -2 * hop :] * synthesis
        start = (t - 1) * hop  # the older half belongs to the hop before
        if start < 0:
            out[:, : start + 2 * hop] += frame[:, hop:]
        else:
            out[:, start : start + 2 * hop] += frame
    return out[:, :samples]


def streamed(
    transform: Transform, audio: Audio, masks: np.ndarray, geometry: FrameGeometry
) -> Audio:
    """One hop, two hops, … up to as many as go together, and again."""
    stft, out, at = transform(geometry, len(audio)), [], 0
    while at < len(masks):
        count = min(1 + len(out) % MAX_HOPS, len(masks) - at)
        hops = audio[:, at * geometry.hop : (at + count) * geometry.hop]
        frames = stft.analyse(hops) * masks[at : at + count, None]
        out.append(stft.synthesise(frames.astype(np.complex64)).copy())
        at += count
    return np.concatenate(out, 1)


def random_masks(frames: int, bins: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    masks = rng.uniform(0, 1, (frames, bins)) * np.exp(1j * rng.uniform(-3, 3, (frames, bins)))
    masks[:, [0, -1]] = np.abs(masks[:, [0, -1]])  # real where a real signal's spectrum is
    return masks


@each_transform
@given(
    hop=st.integers(1, 64),
    times=st.integers(2, 6),
    channels=st.sampled_from((1, 2)),
    frames=st.integers(1, 12),
    seed=st.integers(0, 99),
)
def test_perfect_reconstruction(
    transform: Transform, hop: int, times: int, channels: int, frames: int, seed: int
) -> None:
    size = 2 * hop * times
    geometry = FrameGeometry(size, hop, size // 2 + 1, 1.7)
    audio = noise(frames * hop, channels, seed, level=1.0)
    out = streamed(transform, audio, np.ones((frames, geometry.bins)), geometry)
    np.testing.assert_allclose(out[:, hop:], audio[:, : (frames - 1) * hop], atol=1e-5)


@each_transform
@given(
    hop=st.integers(1, 48),
    times=st.integers(2, 6),
    frames=st.integers(2, 12),
    fewer=st.integers(0, 8),
    seed=st.integers(0, 99),
)
def test_masked_frames_equal_the_whole_signal(
    transform: Transform, hop: int, times: int, frames: int, fewer: int, seed: int
) -> None:
    size = 2 * hop * times
    bins = max(1, size // 2 + 1 - fewer)  # a network that knows fewer bins than the audio has
    geometry = FrameGeometry(size, hop, bins, 0.3)
    audio = noise(frames * hop, 2, seed, level=1.0)
    masks = random_masks(frames, bins, seed)
    expected = whole_signal(audio, masks, geometry)
    out = streamed(transform, audio, masks, geometry)
    np.testing.assert_allclose(out[:, hop:], expected[:, : (frames - 1) * hop], atol=2e-5)


@each_transform
@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("rate", [8_000, 44_100, 48_000, 96_000, 192_000])
def test_masked_frames_equal_the_whole_signal_at_real_sizes(
    transform: Transform, config: SeparatorConfig, rate: int
) -> None:
    geometry = FrameGeometry.at(config, rate)
    audio = noise(12 * geometry.hop, 2, rate)
    masks = random_masks(12, geometry.bins, rate)
    out, expected = (
        streamed(transform, audio, masks, geometry),
        whole_signal(audio, masks, geometry),
    )
    hop = geometry.hop
    np.testing.assert_allclose(out[:, hop:], expected[:, : 11 * hop], atol=1e-5)
    assert np.abs(out[:, hop:] - audio[:, : 11 * hop]).max() > 0.05  # a mask worth the name


@each_transform
def test_reset_forgets(transform: Transform) -> None:
    geometry = FrameGeometry(64, 16, 33, 1.0)
    stft, fresh = transform(geometry, 2), transform(geometry, 2)
    for seed in range(5):
        stft.synthesise(stft.analyse(noise(16, seed=seed)))
    stft.reset()
    for seed in range(5):
        hop = noise(16, seed=seed + 10)
        one, other = stft.analyse(hop), fresh.analyse(hop)
        np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(stft.synthesise(one), fresh.synthesise(other))


@each_transform
def test_one_channel_serves_for_both(transform: Transform) -> None:
    geometry = FrameGeometry(96, 24, 49, 1.0)
    one, both = transform(geometry, 2), transform(geometry, 2)
    for seed in range(6):
        hop = noise(24, 1, seed)
        found = one.analyse(hop).copy()
        np.testing.assert_array_equal(found, both.analyse(np.repeat(hop, 2, 0)))
        np.testing.assert_array_equal(found[0, 0], found[0, 1])
        back = one.synthesise(found)
        np.testing.assert_array_equal(back[0], back[1])


@pytest.mark.skipif(bool(native_problem()), reason=native_problem())
@given(
    half=st.integers(2, 400), hops=st.integers(2, 9), channels=st.sampled_from((1, 2)),
    fewer=st.integers(-3, 8), seed=st.integers(0, 99),
)  # fmt: skip
@example(half=1024, hops=4, channels=2, fewer=0, seed=0)
@example(half=61 * 13, hops=2, channels=2, fewer=0, seed=0)  # large primes
def test_both_agree(half: int, hops: int, channels: int, fewer: int, seed: int) -> None:
    """Sizes of any factors, more bins than the audio has or fewer, on spectra of any kind."""
    hop = max(1, 2 * half // hops)
    size = hop * hops + hop * hops % 2 * hop
    geometry = FrameGeometry(size, hop, max(1, size // 2 + 1 - fewer), 0.7)
    one, other = StreamingSTFT(geometry, channels), NativeSTFT(geometry, channels)
    rng = np.random.default_rng(seed)
    for _ in range(hops + 2):
        audio = rng.standard_normal((channels, hop)).astype(np.float32)
        expected, found = one.analyse(audio), other.analyse(audio)
        np.testing.assert_allclose(found, expected, atol=2e-6 * np.sqrt(size))
        parts = rng.standard_normal((2, 1, channels, geometry.bins)).astype(np.float32)
        frame = parts[0] + 1j * parts[1]  # at the ends not even real
        np.testing.assert_allclose(other.synthesise(frame), one.synthesise(frame), atol=2e-6)


@pytest.mark.parametrize("config", CONFIGS)
def test_a_tone_looks_the_same_at_every_rate(config: SeparatorConfig) -> None:
    peaks, levels = [], []
    for rate in USUAL:
        geometry = FrameGeometry.at(config, rate)
        stft = StreamingSTFT(geometry, 1)
        time = np.arange(10 * geometry.size // geometry.hop * geometry.hop) / rate
        tone = np.sin(2 * np.pi * 1500 * time).astype(np.float32)[None]
        for hop in np.split(tone, tone.shape[1] // geometry.hop, 1):
            spectrum = np.abs(stft.analyse(hop))[0]
        peaks.append(int(spectrum.argmax()))
        levels.append(float(np.sqrt((spectrum**2).sum())))
    assert max(peaks) - min(peaks) <= 1 + 0.06 * np.median(peaks)
    assert max(levels) / min(levels) < 1.1


@pytest.mark.parametrize("config", CONFIGS)
def test_the_network_knows_its_own_rate_exactly(config: SeparatorConfig) -> None:
    geometry = FrameGeometry.at(config, config.sample_rate)
    assert geometry == FrameGeometry(config.analysis_window, config.hop, config.bins + 1, 1.0)


def test_own_rate_is_exact_whatever_the_hop() -> None:
    bands = ((272, 4),)
    config = SeparatorConfig(
        analysis_window=2176, hop=544, bands=bands, widths=(32,), token_width=272
    )
    geometry = FrameGeometry.at(config, config.sample_rate)
    assert (geometry.size, geometry.hop) == (2176, 544)


@given(config=st.sampled_from([*CONFIGS, THIRDS]), rate=rates)
def test_geometry_at_every_rate(config: SeparatorConfig, rate: int) -> None:
    geometry = FrameGeometry.at(config, rate)
    assert geometry.size % 2 == 0
    assert geometry.hop / rate <= config.hop / config.sample_rate  # never slower than trained
    assert geometry.size % geometry.hop == 0
    assert geometry.bins == config.bins + 1
    assert geometry.scale == pytest.approx(config.analysis_window / geometry.size)


@given(config=configs, rate=rates)
@example(config=SeparatorConfig(hop=512), rate=8_266)
@example(config=SeparatorConfig(hop=256), rate=10_331)
def test_frames_last_about_as_trained(config: SeparatorConfig, rate: int) -> None:
    share = FrameGeometry.at(config, rate).hop / rate * config.sample_rate / config.hop
    assert 0.93 <= share <= 1


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("rate", USUAL)
def test_frames_last_as_trained_at_the_usual_rates(config: SeparatorConfig, rate: int) -> None:
    share = FrameGeometry.at(config, rate).hop / rate * config.sample_rate / config.hop
    assert 0.9685 <= share <= 1  # 3.1 %


@pytest.mark.parametrize("rate", [1, 0, -44_100, 7_999, 192_001, 400_000])
def test_rates_that_cannot_be_processed(rate: int) -> None:
    with pytest.raises(ConfigError, match=f"sample rate {rate} Hz"):
        FrameGeometry.at(SeparatorConfig(), rate)


@given(st.floats(1, 1e5))
def test_fast_floor(size: float) -> None:
    number = fast_floor(size)
    assert number <= size

    def smooth(n: int) -> bool:
        for prime in (2, 3, 5, 7, 11, 13):
            while n % prime == 0:
                n //= prime
        return n == 1

    assert smooth(number)
    assert not any(smooth(n) for n in range(number + 1, int(size) + 1))
