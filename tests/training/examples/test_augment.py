"""Augmentations: same length, no delay, finite, the same for the same generator."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import Audio, music, noise

pytest.importorskip("soxr")
pytest.importorskip("scipy")

from stemwire.errors import AudioError
from stemwire.training.examples import augment
from stemwire.training.examples.augment import CODECS, Rng

RATE = 8_000
Change = Callable[[Audio, Rng], Audio]
CHANGES: dict[str, Change] = {
    "gain": lambda a, r: augment.gain(a, r.uniform(-20, 20)),
    "pan": lambda a, r: augment.pan(a, r.normal(0, 3)),
    "swap": lambda a, r: augment.swap(a),
    "invert": lambda a, r: augment.invert(a),
    "pitch": lambda a, r: augment.shift_pitch(a, r.uniform(-4, 4), RATE),
    "equalise": lambda a, r: augment.equalise(a, r, RATE),
    "reverb": lambda a, r: augment.reverb(a, r, RATE, r.uniform(0.01, 1.5), r.uniform(-22, -6)),
    "compress": lambda a, r: augment.compress(a, RATE, r.uniform(-9, 6), r.uniform(1, 8)),
    "double": lambda a, r: augment.double(a, r, RATE),
    "silence": lambda a, r: augment.silence(a, r, RATE),
    **{
        name: functools.partial(
            lambda a, r, name: augment.codec(a, RATE, name, r.uniform(*CODECS[name].levels)),
            name=name,
        )
        for name in CODECS
    },
}
LINEAR = ("gain", "pan", "swap", "invert", "equalise", "reverb", "double", "silence")


def lag(audio: Audio, reference: Audio) -> int:
    """Samples by which `audio` comes after `reference`, by cross-correlation over all channels."""
    size = 2 * audio.shape[1]
    both = np.fft.rfft(audio, size) * np.conj(np.fft.rfft(reference, size))
    peak = int(np.argmax(np.fft.irfft(both, size).sum(0)))
    return peak - size if peak > size // 2 else peak


def pitch_of(audio: Audio, rate: int) -> float:
    """Frequency in Hz of the largest partial."""
    size = 8 * audio.shape[1]
    spectrum = np.abs(np.fft.rfft(audio.sum(0) * np.hanning(audio.shape[1]), size))
    return float(spectrum.argmax() * rate / size)


def tone(frequency: float, seconds: float = 1.0, rate: int = RATE) -> Audio:
    wave = 0.3 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)
    return np.stack((wave, 0.5 * wave)).astype(np.float32)


@pytest.mark.parametrize("name", CHANGES)
@given(
    samples=st.integers(1, 4_000) | st.sampled_from([1, 2, 3, 64]),
    level=st.sampled_from([0.0, 1e-20, 1e-3, 0.1, 40.0]),
    seed=st.integers(0, 2**32),
)
def test_every_change_keeps_shape_and_type(
    name: str, samples: int, level: float, seed: int
) -> None:
    audio = noise(samples, seed=seed, level=level)
    before = audio.copy()
    change = CHANGES[name]
    changed = change(audio, np.random.default_rng(seed))
    assert changed.shape == audio.shape
    assert changed.dtype == np.float32
    assert np.isfinite(changed).all()
    assert np.array_equal(audio, before), "the input was changed"
    assert not np.shares_memory(audio, changed)
    assert np.array_equal(changed, change(audio, np.random.default_rng(seed)))
    if not level:
        assert not changed.any()


@pytest.mark.parametrize("name", LINEAR)
@given(seed=st.integers(0, 2**32), factor=st.floats(-4, 4))
def test_linear_changes_scale(name: str, seed: int, factor: float) -> None:
    audio = noise(1_500, seed=seed)
    whole = CHANGES[name](audio * np.float32(factor), np.random.default_rng(seed))
    apart = CHANGES[name](audio, np.random.default_rng(seed)) * np.float32(factor)
    assert np.allclose(whole, apart, atol=1e-5 * max(1.0, float(np.abs(apart).max())))


@given(db=st.floats(-40, 40), seed=st.integers(0, 99))
def test_gain_polarity_and_pan(db: float, seed: int) -> None:
    audio = noise(100, seed=seed)
    assert augment.rms(augment.gain(audio, db)) == pytest.approx(
        augment.rms(audio) * 10 ** (db / 20), rel=1e-4
    )
    assert np.array_equal(augment.invert(audio), -audio)
    assert np.array_equal(augment.swap(audio), audio[[1, 0]])
    assert np.array_equal(augment.swap(augment.swap(audio)), audio)
    left, right = augment.pan(audio, db) / audio
    assert np.allclose(20 * np.log10(left / right), db, atol=1e-3)
    assert np.allclose(left * right, 1, atol=1e-4)


@given(count=st.integers(1, 50), length=st.integers(0, 50), offset=st.integers(0, 50))
def test_fit_puts_audio_at_the_offset(count: int, length: int, offset: int) -> None:
    audio = np.ones((2, length), np.float32)
    fitted = augment.fit(audio, count, min(offset, count))
    expected = [offset <= k < offset + length for k in range(count)]
    assert fitted.shape == (2, count)
    assert (fitted == np.array(expected, np.float32)).all()


def test_fades_are_at_the_ends_asked_for() -> None:
    audio = np.ones((2, 100), np.float32)
    both, start = augment.fade(audio, 10), augment.fade(audio, 10, end=False)
    assert np.array_equal(both, both[:, ::-1]) and (np.diff(both[0, :11]) > 0).all()
    assert both[0, 0] < 0.01 and (both[:, 10:90] == 1).all()
    assert (start[:, 10:] == 1).all() and np.array_equal(start[:, :10], both[:, :10])
    assert augment.fade(audio[:, :1], 10).shape == (2, 1)


@given(factor=st.floats(0.8, 1.25), frequency=st.floats(200, 1_500))
def test_speed_moves_length_and_pitch(factor: float, frequency: float) -> None:
    faster = augment.resample(tone(frequency), factor)
    assert abs(faster.shape[1] - RATE / factor) <= 1
    assert pitch_of(faster, RATE) == pytest.approx(frequency * factor, rel=0.003)


@given(factor=st.floats(0.7, 1.4), frequency=st.floats(150, 1_500))
def test_stretch_moves_length_alone(factor: float, frequency: float) -> None:
    audio = tone(frequency)
    longer = augment.stretch(audio, factor, RATE)
    assert longer.shape == (2, round(RATE * factor))
    assert pitch_of(longer, RATE) == pytest.approx(frequency, rel=0.003)
    inner = slice(400, -400)
    assert augment.rms(longer[:, inner]) == pytest.approx(augment.rms(audio), rel=0.05)


@given(semitones=st.floats(-4, 4), frequency=st.floats(150, 1_200))
def test_pitch_moves_alone(semitones: float, frequency: float) -> None:
    moved = augment.shift_pitch(tone(frequency), semitones, RATE)
    assert pitch_of(moved, RATE) == pytest.approx(frequency * 2 ** (semitones / 12), rel=0.005)


def test_pitch_keeps_the_rhythm() -> None:
    """Bursts half a second apart stay where they are, to within a window."""
    audio = tone(400, 3.0)
    gate = (np.arange(3 * RATE) % (RATE // 2) < RATE // 8).astype(np.float32)
    moved = augment.shift_pitch(audio * gate, 2.0, RATE)
    envelope = np.convolve(np.abs(moved[0]), np.ones(80), "same")[None]
    assert abs(lag(envelope.astype(np.float32), gate[None])) < 0.03 * RATE


def test_the_equaliser_is_smooth_bounded_and_symmetric_in_time() -> None:
    audio = np.zeros((2, RATE), np.float32)
    audio[:, RATE // 2] = 1
    for seed in range(10):
        response = augment.equalise(audio, np.random.default_rng(seed), RATE, 6.0)
        db = 20 * np.log10(np.abs(np.fft.rfft(response[0])))
        assert -8.1 < db.min() < db.max() < 8.1 and db.max() - db.min() > 1
        assert np.allclose(response[:, RATE // 2 :], response[:, RATE // 2 : 0 : -1], atol=1e-5)
        assert lag(response, audio) == 0
    end = np.zeros((2, RATE // 4), np.float32)
    end[:, -1] = 1
    assert np.abs(augment.equalise(end, np.random.default_rng(0), RATE, 6.0)[:, :200]).max() < 1e-5


@pytest.mark.parametrize("decay", [0.1, 0.4])
def test_reverb_decays_as_requested(decay: float) -> None:
    audio = np.zeros((2, RATE), np.float32)
    audio[:, 0] = 1
    room = augment.reverb(audio, np.random.default_rng(3), RATE, decay, -10.0)
    assert (room[:, 0] > 0.5).all(), "the direct sound stays where it was"
    tail = room - audio
    energy = np.square(tail).mean(0)
    assert 10 * np.log10(energy.sum()) == pytest.approx(-10, abs=0.1)
    start, third = round(0.03 * RATE), round(decay / 3 * RATE)
    pieces = [energy[start + k * third :][: third // 2].mean() for k in range(2)]
    assert 10 * np.log10(pieces[0] / pieces[1]) == pytest.approx(20, abs=3)
    assert energy[round(decay * RATE) + 1 :].max() < 1e-10


def test_compression_reduces_dynamics_and_keeps_the_sum() -> None:
    audio = np.concatenate((noise(RATE, level=0.02), noise(RATE, level=0.3, seed=1)), 1)
    pressed = augment.compress(audio, RATE, -6.0, 4.0)
    half = slice(RATE // 2, RATE), slice(3 * RATE // 2, None)
    before, after = (
        [20 * np.log10(augment.rms(a[:, part])) for part in half] for a in (audio, pressed)
    )
    assert after[0] == pytest.approx(before[0], abs=0.1), "what is quiet stays"
    assert 2 < before[1] - after[1] < 9
    assert np.allclose(augment.compress(audio, RATE, -6.0, 1.0), audio)
    louder = augment.compress(augment.gain(audio, 12.0), RATE, -6.0, 4.0)
    assert np.allclose(louder, augment.gain(pressed, 12.0), rtol=1e-3, atol=1e-5)
    other = music(2 * RATE, RATE)
    stems = [augment.compress(stem, RATE, -3.0, 3.0, audio + other) for stem in (audio, other)]
    assert np.allclose(sum(stems), augment.compress(audio + other, RATE, -3.0, 3.0), atol=1e-6)


def test_a_second_take_follows_the_first() -> None:
    audio = music(2 * RATE, RATE)
    for seed in range(8):
        second = augment.double(audio, np.random.default_rng(seed), RATE) - audio
        level = 20 * np.log10(augment.rms(second) / augment.rms(audio))
        assert -11 < level < 3
        assert 0 <= lag(second, audio) < 0.05 * RATE
        # Not merely a copy that is shifted: it wanders.
        shifted = np.roll(audio, lag(second, audio), 1)
        share = np.vdot(second[0], shifted[0]) ** 2 / (
            np.vdot(second[0], second[0]) * np.vdot(shifted[0], shifted[0])
        )
        assert share < 0.999


def test_silence_is_one_faded_stretch() -> None:
    audio = np.ones((2, RATE), np.float32)
    shares = []
    for seed in range(40):
        muted = augment.silence(audio, np.random.default_rng(seed), RATE)
        quiet = np.flatnonzero(muted[0] == 0)
        assert np.array_equal(muted[0], muted[1])
        assert (np.diff(quiet) == 1).all()
        assert np.abs(np.diff(muted[0])).max() < 0.02, "a click"
        shares.append(len(quiet) / RATE)
    assert 0.04 < min(shares) < 0.3 and 0.6 < max(shares) < 0.95


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100])
def test_codecs_are_aligned_to_the_sample(name: str, rate: int) -> None:
    audio = music(2 * rate, rate, seed=rate)
    for level in np.linspace(*CODECS[name].levels, 3):
        coded = augment.codec(audio, rate, name, float(level))
        assert lag(coded, audio) == 0
        error = 10 * np.log10(np.square(coded - audio).sum() / np.square(audio).sum())
        assert -60 < error < -3, "lossy, but the same music"


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("db", [-70.0, 40.0])
def test_codecs_do_the_same_at_any_level(name: str, db: float) -> None:
    """An encoder by itself drops inaudible signals."""
    audio = music(RATE, RATE)
    level = CODECS[name].levels[1]
    coded = augment.gain(augment.codec(augment.gain(audio, db), RATE, name, level), -db)
    assert np.allclose(coded, augment.codec(audio, RATE, name, level), atol=2e-3)


def test_a_codec_that_cannot_be_written_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    unknown = augment.Codec("OGG", "MPEG_LAYER_III", (0.0, 1.0), (8_000,))
    monkeypatch.setitem(CODECS, "odd", unknown)
    with pytest.raises(AudioError, match=r"cannot encode odd at 8000 Hz .* set codec_share to 0"):
        augment.codec(noise(100), RATE, "odd", 0.5)
