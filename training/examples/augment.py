"""Augmentations of stems before they are mixed: pure functions, float32 (2, n) in and out.

All keep length, shape and type, and none delays: an event stays at its sample. Randomness comes
from the generator that is passed in, so the same generator state gives the same result.
Levels are in dB, times in seconds, `rate` is the sample rate in Hz.
"""

from __future__ import annotations

import functools
import io
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stemwire.errors import AudioError

Audio = NDArray[np.float32]
Rng = np.random.Generator

FADE = 0.02  # seconds over which a stretch of silence begins and ends


class Codec(NamedTuple):
    """How libsndfile writes a lossy format, and the settings that sound like music on the web."""

    container: str
    subtype: str
    levels: tuple[float, float]  # libsndfile's compression level, best to worst; 1 is smallest
    rates: tuple[int, ...]  # supported sample rates, in Hz


MPEG_RATES = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
CODECS = {  # for stereo music at 44.1 kHz about 75 to 150, 60 to 170 and 85 to 155 kbit/s
    "Vorbis": Codec("OGG", "VORBIS", (0.5, 1.0), MPEG_RATES),
    "Opus": Codec("OGG", "OPUS", (0.7, 0.9), (8_000, 12_000, 16_000, 24_000, 48_000)),
    "MP3": Codec("MP3", "MPEG_LAYER_III", (0.5, 0.9), MPEG_RATES),
}


def rms(audio: Audio) -> float:
    """Root mean square over all channels."""
    return float(np.sqrt(np.vdot(audio, audio) / audio.size))


def gain(audio: Audio, db: float) -> Audio:
    """Audio louder by `db`."""
    return audio * np.float32(10 ** (db / 20))


def pan(audio: Audio, db: float) -> Audio:
    """Audio with left raised over right by `db`; the product of both gains is one."""
    sides = np.array([[10 ** (db / 40)], [10 ** (-db / 40)]], np.float32)
    return audio * sides


def swap(audio: Audio) -> Audio:
    """Audio with left and right exchanged."""
    return np.ascontiguousarray(audio[::-1])


def invert(audio: Audio) -> Audio:
    """Audio with reversed polarity."""
    return -audio


def fit(audio: Audio, count: int, offset: int = 0) -> Audio:
    """Audio cut or zero-padded to `count` samples, after `offset` zeros in front."""
    kept = audio[:, : max(0, count - offset)]
    return np.pad(kept, ((0, 0), (offset, count - offset - kept.shape[1])))


def fade(audio: Audio, samples: int, start: bool = True, end: bool = True) -> Audio:
    """Audio with raised-cosine fades of at most `samples` (or half the audio) at either end."""
    samples = min(samples, audio.shape[1] // 2)
    ramp = (0.5 - 0.5 * np.cos(np.pi * (np.arange(samples) + 0.5) / samples)).astype(np.float32)
    faded = audio.copy()
    if samples and start:
        faded[:, :samples] *= ramp
    if samples and end:
        faded[:, -samples:] *= ramp[::-1]
    return faded


def resample(audio: Audio, factor: float) -> Audio:
    """Audio played `factor` times as fast, pitch included: (2, n) -> (2, about n / factor)."""
    import soxr

    faster: Audio = soxr.resample(audio.T, factor, 1.0, quality="MQ").T
    return faster


def stretch(audio: Audio, factor: float, rate: int) -> Audio:
    """Audio `factor` times as long at the same pitch: (2, n) -> (2, round(n * factor)).

    WSOLA (Verhelst and Roelands 1993): windows of 40 ms are overlapped by half at their new
    positions; each is taken from within 10 ms of its source position, where it continues the
    previous one best. Made for voices; dense music smears. The search runs on a quarter of the
    samples first.
    """
    hop = 4 * max(1, round(rate * 0.02 / 4))
    count = round(audio.shape[1] * factor)
    window = np.hanning(2 * hop + 1)[:-1].astype(np.float32)
    reach, coarse = hop // 2, 4
    around = 3 * hop  # zeros on both sides, so that every search stays inside
    padded = np.pad(audio, ((0, 0), (around, around)))
    middle = padded.sum(0)
    rough = middle[: len(middle) // coarse * coarse].reshape(-1, coarse).mean(1)
    out = np.zeros((2, count + 3 * hop), np.float32)
    place = around - hop
    for start in range(0, count + hop, hop):  # output sample `start` lies at `hop` in `out`
        target = around - hop + round(min(start / factor, audio.shape[1]))
        if start:
            follow = place + hop  # what would come next if nothing were stretched
            low = (target - reach) // coarse
            shift = _best_match(
                rough, follow // coarse, low, 2 * reach // coarse, 2 * hop // coarse
            )
            near = coarse * (low + shift) - coarse
            place = near + _best_match(middle, follow, near, 2 * coarse, 2 * hop)
        else:
            place = target
        out[:, start : start + 2 * hop] += window * padded[:, place : place + 2 * hop]
    return out[:, hop : hop + count]


def _best_match(signal: Audio, at: int, low: int, steps: int, length: int) -> int:
    """Offset in 0..steps from `low` whose `length` samples correlate best with those at `at`."""
    region = signal[low : low + steps + length]
    likeness = np.correlate(region, signal[at : at + length], "valid")
    energy = np.concatenate(([0.0], np.cumsum(np.square(region, dtype=np.float64))))
    norm = np.sqrt(energy[length:] - energy[:-length] + 1e-9)
    return int(np.argmax(likeness / norm))


def shift_pitch(audio: Audio, semitones: float, rate: int) -> Audio:
    """Audio with pitch and formants moved at the same speed: stretched, then played faster."""
    factor = 2 ** (semitones / 12)
    return fit(resample(stretch(audio, factor, rate), factor), audio.shape[1])


def equalise(audio: Audio, rng: Rng, rate: int, sd_db: float = 3.0) -> Audio:
    """Audio through a smooth random zero-phase equaliser of at most 8 dB up or down."""
    from scipy import fft

    points = np.array([60.0, 250.0, 1_000.0, 4_000.0, 14_000.0])  # Hz
    curve = np.clip(rng.normal(0, sd_db, len(points)), -8, 8)
    size = fft.next_fast_len(audio.shape[1] + round(0.1 * rate), real=True)  # no wrap-around
    frequency = np.fft.rfftfreq(size, 1 / rate)
    response = 10 ** (np.interp(np.log(frequency + 1), np.log(points), curve) / 20)
    equalised: Audio = fft.irfft(fft.rfft(audio, size) * response.astype(np.float32), size)
    return np.ascontiguousarray(equalised[:, : audio.shape[1]])


def reverb(audio: Audio, rng: Rng, rate: int, decay: float, level_db: float) -> Audio:
    """Audio in a room: plus a tail at `level_db` that has decayed by 60 dB after `decay` seconds.

    The tail is stereo noise that decays exponentially (Moorer 1979), begins after up to 30 ms and
    is dulled by a first-order low-pass between 2 and 10 kHz, as by air and walls.
    """
    from scipy import fft, signal

    length = max(1, round(decay * rate))
    tail = rng.standard_normal((2, length), dtype=np.float32)
    tail *= (10 ** (-3 * np.arange(length) / length)).astype(np.float32)
    tail[:, : int(rng.uniform(0.0, 0.03) * rate)] = 0.0
    pole = float(np.exp(-2 * np.pi * min(rng.uniform(2_000, 10_000), 0.4 * rate) / rate))
    above, below = np.array([1 - pole], np.float32), np.array([1, -pole], np.float32)
    tail = signal.lfilter(above, below, tail)
    tail *= np.float32(10 ** (level_db / 20) / (np.linalg.norm(tail) / np.sqrt(2) + 1e-9))
    size = fft.next_fast_len(audio.shape[1] + length, real=True)
    wet: Audio = fft.irfft(fft.rfft(audio, size) * fft.rfft(tail, size), size)
    return audio + wet[:, : audio.shape[1]]


def compress(
    audio: Audio, rate: int, threshold_db: float, ratio: float, key: Audio | None = None
) -> Audio:
    """Audio with dynamics above `threshold_db` over the RMS level reduced to one `ratio`-th.

    Feed-forward, with 5 ms of attack and 120 ms of release smoothed on the gain in dB (Giannoulis,
    Massberg and Reiss 2012). With `key` the gain follows that signal: given the mixture, stems that
    are compressed one by one still sum to the compressed mixture.
    """
    key = audio if key is None else key
    block = max(1, round(0.0015 * rate))
    count = key.shape[1]
    whole = np.pad(key, ((0, 0), (0, -count % block))).reshape(2, -1, block)
    level = 10 * np.log10(np.square(whole).mean(2).max(0) + 1e-12)
    threshold = 20 * np.log10(rms(key) + 1e-6) + threshold_db
    reduction = np.maximum(level - threshold, 0.0) * (1 / ratio - 1)
    attack, release = (1 - np.exp(-block / (seconds * rate)) for seconds in (0.005, 0.12))
    smooth, now = [], 0.0
    for target in reduction.tolist():
        now += (attack if target < now else release) * (target - now)
        smooth.append(now)
    centres = (np.arange(len(smooth)) + 0.5) * block
    factor = np.interp(np.arange(count), centres, 10 ** (np.array(smooth) / 20))
    return audio * factor.astype(np.float32)


def double(audio: Audio, rng: Rng, rate: int) -> Audio:
    """Voice with a second take of itself: later, quieter and slightly detuned.

    Its delay wanders slowly around 10 to 35 ms, which detunes it by a few cents.
    """
    from scipy.ndimage import map_coordinates

    count = audio.shape[1]
    time = np.arange(count) / rate
    delay = np.full(count, rng.uniform(0.010, 0.035))
    for _ in range(3):
        speed = rng.uniform(0.1, 0.8)  # Hz
        cents = rng.uniform(1, 6)  # at most, by this wave alone
        depth = (2 ** (cents / 1200) - 1) / (2 * np.pi * speed)  # seconds
        delay += min(depth, 0.003) * np.sin(2 * np.pi * (speed * time + rng.random()))
    places = (time - delay) * rate
    take = np.stack([map_coordinates(c, [places], np.float32, order=3) for c in audio])
    return audio + gain(pan(take, rng.normal(0, 3)), rng.uniform(-9, -1))


def silence(audio: Audio, rng: Rng, rate: int) -> Audio:
    """Audio with a stretch of a tenth to nine tenths muted; it may extend past either end."""
    count = audio.shape[1]
    length = round(count * rng.uniform(0.1, 0.9))
    start = int(rng.integers(-length // 2, max(1, count - length // 2)))
    edge = max(1, round(FADE * rate))
    distance = np.maximum(start - np.arange(count), np.arange(count) - start - length + 1)
    ramp = np.clip(distance / edge, 0, 1)  # 0 inside the stretch, 1 from a fade away on
    open_share: Audio = (0.5 - 0.5 * np.cos(np.pi * ramp)).astype(np.float32)
    return audio * open_share


def codec(audio: Audio, rate: int, name: str, level: float) -> Audio:
    """Audio encoded with one of `CODECS` and decoded again, sample-aligned.

    Args:
        audio: float32 (2, n).
        rate: sample rate in Hz; the codec gets the nearest one that it supports (44.1 kHz goes
            through Opus as 48 kHz: its bands move up by 9 %, and nothing is resampled).
        name: "Vorbis", "Opus" or "MP3".
        level: libsndfile's compression level, 0 (best) to 1 (smallest).

    Raises:
        AudioError: if libsndfile cannot write or read the format.
    """
    peak = float(np.abs(audio).max(initial=0.0))
    if peak < 1e-6:  # nothing to encode; some encoders turn silence into noise
        return audio.copy()
    scale = np.float32(0.7 / peak)  # encoders drop inaudible signals, decoders may clip
    delay = codec_delay(name, rate)
    coded = _round_trip(fit(audio * scale, audio.shape[1] + delay), rate, name, level)
    return fit(coded[:, delay:], audio.shape[1]) / scale


@functools.lru_cache
def codec_delay(name: str, rate: int) -> int:
    """Delay of a codec round trip in samples, measured by cross-correlation.

    libsndfile removes the delay that encoder and decoder declare, so this is 0 with the version
    measured; other versions may differ.
    """
    count = max(2_048, rate // 2)
    noise = np.random.default_rng(0).normal(0, 0.1, (2, count)).astype(np.float32)
    coded = _round_trip(noise, rate, name, CODECS[name].levels[0])
    size = 4 * count
    both = np.fft.rfft(fit(coded, 2 * count)[0], size) * np.conj(np.fft.rfft(noise[0], size))
    return int(np.argmax(np.fft.irfft(both, size)[: 2 * count]))


def _round_trip(audio: Audio, rate: int, name: str, level: float) -> Audio:
    import soundfile

    kind = CODECS[name]
    coded_rate = min(kind.rates, key=lambda r: abs(np.log(r / rate)))
    memory = io.BytesIO()
    try:
        with soundfile.SoundFile(
            memory, "w", coded_rate, 2, kind.subtype, format=kind.container, compression_level=level
        ) as file:
            for start in range(0, audio.shape[1], 32_768):  # libvorbis overflows on long blocks
                file.write(audio[:, start : start + 32_768].T)
        memory.seek(0)
        with soundfile.SoundFile(memory) as file:
            found = file.samplerate
            coded: Audio = file.read(dtype="float32", always_2d=True).T
    except (soundfile.LibsndfileError, ValueError) as error:  # ValueError: unknown to it
        raise AudioError(
            f"libsndfile {soundfile.__libsndfile_version__} cannot encode {name} at {coded_rate} "
            f"Hz ({error}); install the soundfile wheel or set codec_share to 0"
        ) from error
    if found != coded_rate:
        raise AudioError(f"{name} at {coded_rate} Hz came back at {found} Hz; set codec_share to 0")
    return coded
