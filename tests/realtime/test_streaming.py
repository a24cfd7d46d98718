"""The streaming contract: same output for any block sizes, at exactly the reported latency."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support import PRESETS, Audio, music, noise, partitions

import stemwire
from stemwire.errors import AudioError, ConfigError
from stemwire.realtime.streaming import StreamingSeparator

every_preset = pytest.mark.parametrize("preset", PRESETS)
LIMITS_MS = {"standard": 23.2, "low": 11.6}
RATES = [8_000, 11_025, 16_000, 22_050, 32_000, 44_100, 48_000, 88_200, 96_000, 176_400, 192_000]


class HalfBackend:
    """In place of a network: half of every frame is vocals, told as late as its look-ahead."""

    name = "half"

    def __init__(self, lookahead: int) -> None:
        self.lookahead = lookahead
        self.waiting: list[np.ndarray] | None = None

    def open(self) -> HalfBackend:
        return self

    def run(self, frames: np.ndarray) -> np.ndarray:
        for frame in frames:
            if self.waiting is None:
                self.waiting = [np.zeros_like(frame)] * self.lookahead
            self.waiting.append(frame * np.float32(0.5))
        assert self.waiting is not None
        told = self.waiting[: len(frames)]
        self.waiting = self.waiting[len(frames) :]
        return np.stack(told)

    def reset(self) -> None:
        self.waiting = None


def halves(preset: str, rate: int, channels: int, block: int | None) -> StreamingSeparator:
    config = next(p.config for p in stemwire.presets() if p.name == preset)
    return StreamingSeparator(HalfBackend(config.lookahead), config, rate, channels, block)


def push_parts(separator: StreamingSeparator, audio: Audio, sizes: list[int]) -> Audio:
    """Push consecutive parts; the output for all of them together."""
    edges = np.cumsum([0, *sizes])
    parts = [separator.push(audio[:, a:b]) for a, b in pairwise(edges)]
    assert [part.shape[2] for part in parts] == sizes
    return np.concatenate((separator.push(audio[:, :0]), *parts), 2)


def played(separator: StreamingSeparator, audio: Audio) -> Audio:
    """All output for `audio`, flush included."""
    return np.concatenate((separator.push(audio), separator.flush()), 2)


@every_preset
@given(
    sizes=partitions(3000),
    rate=st.sampled_from((8_000, 44_100, 48_000)),
    channels=st.sampled_from((1, 2)),
    with_flush=st.booleans(),
)
@settings(max_examples=20)
def test_any_blocks_give_the_same_output_and_the_next_song_too(
    preset: str, sizes: list[int], rate: int, channels: int, with_flush: bool
) -> None:
    separator = stemwire.load(preset, rate, channels)
    for seed in (1, 2):  # the second song meets a separator that was used
        audio = noise(sum(sizes), channels, seed)
        expected = played(stemwire.load(preset, rate, channels), audio)
        if with_flush:  # the last block goes in with the flush
            pushed = push_parts(separator, audio, sizes[:-1])
            tail = separator.flush(audio[:, pushed.shape[2] :])
        else:
            pushed = push_parts(separator, audio, sizes)
            tail = separator.flush()
        np.testing.assert_array_equal(np.concatenate((pushed, tail), 2), expected)


@every_preset
@given(
    block=st.integers(1, 3000), rate=st.sampled_from((44_100, 48_000)), last=st.integers(0, 3000)
)
@settings(max_examples=20)
def test_a_promised_block_size_changes_the_delay_and_nothing_else(
    preset: str, block: int, rate: int, last: int
) -> None:
    audio = noise(block * max(1, 2000 // block) + last, 2, block)
    free, promised = stemwire.load(preset, rate), stemwire.load(preset, rate, block_size=block)
    count = (audio.shape[1] - last) // block
    for _ in range(2):
        pushed = push_parts(promised, audio, [block] * count)
        out = np.concatenate((pushed, promised.flush(audio[:, block * count :])), 2)
        assert out.shape[2] == audio.shape[1] + promised.latency
        expected = played(free, audio)[..., free.latency :]
        np.testing.assert_array_equal(out[..., promised.latency :], expected)
        assert not out[:, :, : promised.latency - promised.hop].any()


def measured_by_sum(separator: StreamingSeparator, block: int | None) -> int:
    """Delay of the sum of the stems, found by trying every candidate."""
    samples = 5 * separator.hop + separator.latency
    sizes = [block] * -(-samples // block) if block else [1, 7, samples - 100, 92]
    audio = noise(sum(sizes), separator.channels, 3)
    total = push_parts(separator, audio, sizes).sum(0)
    fits = [
        delay
        for delay in range(separator.latency + separator.hop)
        if np.abs(total[:, delay:] - audio[:, : total.shape[1] - delay]).max() <= 1e-5
    ]
    assert len(fits) == 1, fits
    assert not total[:, : fits[0]].any()  # silence before
    return fits[0]


def measured_by_correlation(separator: StreamingSeparator, block: int | None) -> int:
    """Delay of the vocals alone, where the network is a plain factor."""
    samples = 8 * separator.hop + separator.latency
    sizes = [block] * -(-samples // block) if block else [samples]
    audio = noise(sum(sizes), separator.channels, 4)
    vocals = push_parts(separator, audio, sizes)[0]
    count = 2 * audio.shape[1]
    spectra = np.fft.rfft(vocals, count) * np.fft.rfft(audio, count).conj()
    return int(np.fft.irfft(spectra, count).sum(0).argmax())


def check_latency(preset: str | Path, rate: int, channels: int, block: int | None) -> None:
    real = stemwire.load(preset, rate, channels, block)
    assert measured_by_sum(real, block) == real.latency
    half = StreamingSeparator(
        HalfBackend(real.config.lookahead), real.config, rate, channels, block
    )
    assert half.latency == real.latency
    assert measured_by_correlation(half, block) == half.latency
    least = 2 * real.hop - math.gcd(block or 1, real.hop)
    assert real.latency == least + real.config.lookahead * real.hop


@every_preset
@pytest.mark.parametrize("rate", [44_100, 48_000, 96_000])
@pytest.mark.parametrize("block", [None, 1, 64, 128, 480, 512, 1024])
def test_reported_latency_is_measured_latency(preset: str, rate: int, block: int | None) -> None:
    check_latency(preset, rate, 2, block)


@every_preset
@given(rate=st.integers(8_000, 192_000), block=st.integers(1, 5_000), channels=st.integers(1, 2))
@settings(max_examples=15)
def test_reported_latency_is_measured_latency_anywhere(
    preset: str, rate: int, block: int, channels: int
) -> None:
    check_latency(preset, rate, channels, block)


@every_preset
@pytest.mark.parametrize("at", [0, 1, 511, 512, 700, 2047])
def test_an_impulse_comes_out_where_reported(preset: str, at: int) -> None:
    separator = halves(preset, 44_100, 1, None)
    count = at + separator.latency + 3000
    click = np.zeros((1, count), np.float32)
    click[0, at] = 1.0
    stems = separator.push(click)
    expected = np.zeros(count)
    expected[at + separator.latency] = 0.5
    for stem in stems:  # half of it is vocals, and the other half the rest
        np.testing.assert_allclose(stem[0], expected, atol=1e-5)


@pytest.mark.parametrize("rate", [44_100, 48_000, 96_000])
@pytest.mark.parametrize("block", [None, 1, 64, 480, 512, 1024])
def test_latency_with_look_ahead(ahead_preset: Path, rate: int, block: int | None) -> None:
    check_latency(ahead_preset, rate, 2, block)


@pytest.mark.parametrize("kind", ["auto", "onnx", "torch"])
def test_look_ahead_in_blocks_is_look_ahead_in_one(ahead_preset: Path, kind: str) -> None:
    """Whatever the blocks and the backend, the stems are those of the whole; and again after it."""
    pytest.importorskip("torch")
    audio = music(20_000, 44_100)
    expected = played(stemwire.load(ahead_preset), audio)
    separator = stemwire.load(ahead_preset, backend=kind)
    assert separator.latency == 5 * 256 - 1
    for sizes in ([20_000], [1, 7, 9_992, 10_000], [640] * 31 + [160]):
        stems = np.concatenate((push_parts(separator, audio, sizes), separator.flush()), 2)
        np.testing.assert_allclose(stems, expected, atol=1e-4)
        late = stems.sum(0)[:, separator.latency :]
        np.testing.assert_allclose(late, audio, atol=1e-5)
    assert np.abs(expected[0]).max() > 0.01


@every_preset
@given(rate=st.sampled_from(RATES) | st.integers(8_000, 192_000))
@example(rate=44_100)
@example(rate=176_400)
def test_latency_stays_within_the_promise(preset: str, rate: int) -> None:
    separator = halves(preset, rate, 2, None)
    promise = LIMITS_MS.get(preset, 23.2)
    assert round(separator.latency / rate * 1e3, 1) <= promise
    config = separator.config
    assert separator.latency / rate < (2 + config.lookahead) * config.hop / config.sample_rate


@every_preset
@pytest.mark.parametrize("rate", [8_000, 44_100, 96_000])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("level", [1e-8, 0.1, 1.0])
def test_stems_sum_to_the_delayed_mixture(
    preset: str, rate: int, channels: int, level: float
) -> None:
    separator = stemwire.load(preset, rate, channels)
    audio = music(6000, rate, channels)
    audio *= np.float32(level / np.abs(audio).max())
    out = played(separator, audio)
    assert out.shape == (2, channels, 6000 + separator.latency) and out.dtype == np.float32
    assert np.isfinite(out).all()
    total = out.sum(0)
    assert np.abs(total[:, separator.latency :] - audio).max() <= 1e-5 * level
    assert not total[:, : separator.latency].any()


@every_preset
@pytest.mark.parametrize("kind", ["silence", "square", "impulse", "subnormal", "constant"])
def test_odd_signals_stay_finite(preset: str, kind: str) -> None:
    audio = {
        "silence": np.zeros((2, 8000)),
        "square": np.sign(np.sin(np.arange(16000).reshape(2, 8000) / 20)),
        "impulse": np.eye(2, 8000, 4000),
        "subnormal": np.full((2, 8000), 1e-42),
        "constant": np.ones((2, 8000)),
    }[kind].astype(np.float32)
    separator = stemwire.load(preset)
    out = played(separator, audio)
    assert np.isfinite(out).all()
    assert np.abs(out.sum(0)[:, separator.latency :] - audio).max() <= 1e-5
    if kind == "silence":
        assert not out.any()


@every_preset
@pytest.mark.parametrize("huge", [1e15, 1e25, 3e38])
def test_one_absurd_sample_does_not_spoil_the_rest_of_the_stream(preset: str, huge: float) -> None:
    """It may be refused, or separated badly; but what comes seconds later is music again."""
    separator = stemwire.load(preset)
    click = noise(4096, seed=1)
    click[:, 100] = huge
    try:
        separator.push(click)
    except AudioError:
        return
    window = separator.config.window * separator.config.hop
    separator.push(noise(8 * window, seed=2))
    assert np.isfinite(separator.push(noise(4096, seed=3))).all()


@every_preset
def test_mono_is_the_stereo_of_two_equal_channels(preset: str) -> None:
    audio = music(20_000, 44_100, channels=1)
    mono = played(stemwire.load(preset, channels=1), audio)
    stereo = played(stemwire.load(preset, channels=2), np.repeat(audio, 2, 0))
    np.testing.assert_allclose(mono[:, 0], stereo.mean(1), atol=1e-6)


BAD_BLOCKS: list[tuple[str, Any]] = [
    ("float64", np.zeros((2, 100))),
    ("int16", np.zeros((2, 100), np.int16)),
    ("complex64", np.zeros((2, 100), np.complex64)),
    ("list", [[0.0] * 100] * 2),
    ("NoneType", None),
    ("shape", np.zeros((100, 2), np.float32)),
    ("shape", np.zeros(100, np.float32)),
    ("shape", np.zeros((1, 100), np.float32)),
    ("shape", np.zeros((3, 100), np.float32)),
    ("shape", np.zeros((1, 2, 100), np.float32)),
    ("sample 57", np.where(np.arange(100) == 57, np.nan, noise(100)).astype(np.float32)),
    ("sample 0", np.full((2, 100), np.inf, np.float32)),
    ("sample 99", np.where(np.arange(200).reshape(2, 100) == 199, -np.inf, 0).astype(np.float32)),
]


@every_preset
@pytest.mark.parametrize(("word", "bad"), BAD_BLOCKS)
def test_a_refused_block_leaves_the_stream_as_it_was(preset: str, word: str, bad: Any) -> None:
    one, other = stemwire.load(preset), stemwire.load(preset)
    for seed, size in enumerate((700, 1500, 9)):
        audio = noise(size, seed=seed)
        with pytest.raises(AudioError, match=word):
            one.push(bad)
        if bad is not None:
            with pytest.raises(AudioError, match=word):
                one.flush(bad)
        np.testing.assert_array_equal(one.push(audio), other.push(audio))
    np.testing.assert_array_equal(one.flush(), other.flush())


@every_preset
@pytest.mark.parametrize("block", [480, 512, 384])
def test_a_broken_promise_is_refused_and_leaves_the_stream_as_it_was(
    preset: str, block: int
) -> None:
    one, other = (stemwire.load(preset, block_size=block) for _ in range(2))
    grain = math.gcd(block, one.hop)
    assert grain > 1
    for seed in range(5):
        for wrong in (1, grain - 1, grain + 1, block - 1):
            with pytest.raises(ConfigError, match=f"{wrong} samples.*block_size={block}"):
                one.push(noise(wrong))
        audio = noise(block, seed=seed)
        np.testing.assert_array_equal(one.push(audio), other.push(audio))
    last = noise(grain + 1, seed=9)  # at the end, any size will do
    np.testing.assert_array_equal(one.flush(last), other.flush(last))
    np.testing.assert_array_equal(one.push(audio), other.push(audio))


@every_preset
def test_multiples_of_the_grain_keep_the_promise(preset: str) -> None:
    one, other = (stemwire.load(preset, 44_100, block_size=64) for _ in range(2))
    audio = noise(64 * 40)
    expected = push_parts(other, audio, [64] * 40)
    np.testing.assert_array_equal(push_parts(one, audio, [64 * 3, 64 * 30, 0, 64 * 7]), expected)


@every_preset
def test_empty_blocks_and_empty_streams(preset: str) -> None:
    separator = stemwire.load(preset)
    empty = noise(0)
    assert separator.push(empty).shape == (2, 2, 0)
    assert separator.flush().shape == (2, 2, 0)  # nothing was ever pushed
    assert separator.flush(empty).shape == (2, 2, 0)
    assert separator.flush(noise(1)).shape == (2, 2, 1 + separator.latency)
    assert separator.flush().shape == (2, 2, 0)


@every_preset
@pytest.mark.parametrize("samples", [1, 2, 511, 512, 513, 1023, 1024])
def test_short_songs_come_back_whole(preset: str, samples: int) -> None:
    separator, audio = stemwire.load(preset), noise(samples, level=0.5)
    for out in (played(separator, audio), separator.flush(audio)):
        assert out.shape == (2, 2, samples + separator.latency)
        assert np.abs(out.sum(0)[:, separator.latency :] - audio).max() <= 1e-5


@every_preset
def test_reset_forgets_the_stream(preset: str) -> None:
    separator, audio = stemwire.load(preset), noise(5000)
    first = separator.push(audio)
    counted = separator.hop_times.count
    assert counted == 5000 // separator.hop
    separator.push(noise(777, seed=1))
    separator.reset()
    np.testing.assert_array_equal(separator.push(audio), first)
    assert separator.hop_times.count > counted  # timing goes on


@every_preset
def test_two_streams_do_not_disturb_each_other(preset: str) -> None:
    settings = [(44_100, 2), (44_100, 2), (48_000, 1)]
    audio = [noise(6000, channels, seed) for seed, (_, channels) in enumerate(settings)]
    alone = [played(stemwire.load(preset, *s), a) for s, a in zip(settings, audio, strict=True)]
    together = [stemwire.load(preset, *s) for s in settings]
    out: list[list[Audio]] = [[], [], []]
    for start in range(0, 6000, 300):
        for separator, signal, parts in zip(together, audio, out, strict=True):
            parts.append(separator.push(signal[:, start : start + 300]))
    for separator, parts, expected in zip(together, out, alone, strict=True):
        np.testing.assert_array_equal(np.concatenate((*parts, separator.flush()), 2), expected)


@every_preset
def test_what_was_returned_is_the_callers(preset: str) -> None:
    separator, other = stemwire.load(preset), stemwire.load(preset)
    audio = noise(3000)
    first = separator.push(audio)
    kept = first.copy()
    second = separator.push(audio[:, ::-1])
    np.testing.assert_array_equal(first, kept)
    first[:] = second[:] = 9.0
    other.push(audio), other.push(audio[:, ::-1])
    np.testing.assert_array_equal(separator.flush(), other.flush())


@every_preset
def test_the_input_is_only_read_in_any_layout(preset: str) -> None:
    audio = noise(3000)
    interleaved = np.asfortranarray(audio)
    interleaved.flags.writeable = False
    expected = stemwire.load(preset).push(audio.copy())
    np.testing.assert_array_equal(stemwire.load(preset).push(interleaved), expected)


@pytest.mark.slow
@every_preset
def test_a_minute_stays_finite_and_bounded(preset: str) -> None:
    rate = 44_100
    audio = music(60 * rate, rate)
    audio[:, 20 * rate : 25 * rate] = 0.0
    audio[:, 25 * rate : 30 * rate] *= 1e-8
    audio[:, 40 * rate : 45 * rate] = noise(5 * rate, level=0.3)
    separator = stemwire.load(preset)
    for start in range(0, audio.shape[1], rate):
        stems = separator.push(audio[:, start : start + rate])
        assert np.isfinite(stems).all()
        assert np.abs(stems).max() < 4 * np.abs(audio).max()
    again = stemwire.load(preset).push(audio[:, :rate])
    separator.reset()
    np.testing.assert_array_equal(separator.push(audio[:, :rate]), again)
