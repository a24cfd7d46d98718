"""Training examples made on the fly: random vocals over random music, changed at random.

An example depends on nothing but the seed and its number, so a run that resumes at step k sees
exactly the examples that an uninterrupted run would have seen. The mixture is computed after every
change to the stems.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import soxr
from numpy.typing import NDArray

from stemwire.errors import ConfigError
from stemwire.training.data import Audio, Cache, Track

HELD_OUT = 0.15  # share at the end of each pair that only validation sees
SILENCE = 1e-4  # RMS below which an excerpt is left at its level


@dataclass(frozen=True)
class ExampleSettings:
    """What examples are made of.

    Attributes:
        seconds: length of an example.
        pair_share: share of examples that are excerpts of a real song.
        no_vocals_share: share of examples without vocals.
        ratio_db: mean and standard deviation of vocals over accompaniment in random mixes, in dB.
    """

    seconds: float = 257 * 512 / 44_100
    pair_share: float = 0.35
    no_vocals_share: float = 0.07
    ratio_db: tuple[float, float] = (-4.0, 5.0)


@dataclass(frozen=True)
class Example:
    """One example: both stems, float32 (2, n), and the bandwidth in Hz up to which they count."""

    vocals: Audio
    accompaniment: Audio
    bandwidth_hz: float


def rms(audio: Audio) -> float:
    """Root mean square over all channels."""
    return float(np.sqrt(np.mean(np.square(audio))))


class ExampleMaker:
    """Makes example number k of a seed from the tracks of a cache."""

    def __init__(self, cache: Cache, settings: ExampleSettings, rate: int, seed: int) -> None:
        self.cache, self.settings, self.rate, self.seed = cache, settings, rate, seed
        self.count = round(settings.seconds * rate)
        tracks = [t for t in cache.tracks if t.samples > 2 * self.count]
        pairs: dict[str, dict[str, Track]] = {}
        for track in tracks:
            if track.kind == "pair":
                pairs.setdefault(track.song, {})[track.role] = track
        self.pairs = [(p["vocals"], p["accompaniment"]) for p in pairs.values() if len(p) == 2]
        self.vocals = [t for t in tracks if t.role == "vocals"]
        self.music = [t for t in tracks if t.role == "accompaniment"]
        if not self.vocals or not self.music:
            raise ConfigError(
                f"{cache.folder}: {len(self.vocals)} tracks of vocals and {len(self.music)} of "
                f"music are longer than {2 * settings.seconds:.1f} s; both are needed"
            )
        self.pair_odds = self._odds([v for v, _ in self.pairs], 0.8)
        self.vocal_odds = self._odds(self.vocals, 0.35)
        self.music_odds = self._odds(self.music, 0.2)

    @staticmethod
    def _odds(tracks: list[Track], songs_share: float) -> NDArray[np.float64]:
        """Odds by length; full-band songs with stems together get `songs_share`."""
        length = np.array([t.samples for t in tracks], np.float64)
        whole = np.array([t.kind == "pair" and t.bandwidth_hz > 8000 for t in tracks])
        if whole.any() and not whole.all():
            length[whole] *= songs_share / length[whole].sum()
            length[~whole] *= (1 - songs_share) / length[~whole].sum()
        odds: NDArray[np.float64] = length / length.sum()
        return odds

    def __call__(self, number: int) -> Example:
        """Example `number`."""
        rng = np.random.default_rng((self.seed, number))
        settings = self.settings
        speed = float(np.exp(rng.uniform(-0.12, 0.12))) if rng.random() < 0.5 else 1.0
        if self.pairs and rng.random() < settings.pair_share:
            v, m = self.pairs[rng.choice(len(self.pairs), p=self.pair_odds)]
            start = self._start(rng, v, speed)
            vocals, music = (self._cut(t, start, speed) for t in (v, m))
            vocals *= 10 ** (rng.normal(0, 3) / 20)
            bandwidth = min(v.bandwidth_hz, m.bandwidth_hz) * speed
        else:
            v = self.vocals[rng.choice(len(self.vocals), p=self.vocal_odds)]
            vocals = self._cut(v, self._start(rng, v, speed), speed)
            bandwidth = v.bandwidth_hz * speed
            m = self.music[rng.choice(len(self.music), p=self.music_odds)]
            other = float(np.exp(rng.uniform(-0.12, 0.12))) if rng.random() < 0.3 else 1.0
            music = self._cut(m, self._start(rng, m, other), other)
            bandwidth = min(bandwidth, m.bandwidth_hz * other)
            vocals = self._colour(rng, self._room(rng, vocals))
            music = self._colour(rng, music)
            if rms(vocals) > SILENCE and rms(music) > SILENCE:
                ratio = np.clip(rng.normal(*settings.ratio_db), -16, 12)
                vocals *= rms(music) / rms(vocals) * 10 ** (ratio / 20)
        if rng.random() < settings.no_vocals_share:
            vocals = np.zeros_like(vocals)
        vocals, music = (self._place(rng, stem) for stem in (vocals, music))
        level = rms(vocals + music)
        gain = 10 ** (rng.uniform(-32, -12) / 20) / level if level > SILENCE else 1.0
        return Example(
            (vocals * gain).astype(np.float32), (music * gain).astype(np.float32), bandwidth
        )

    def validation(self, count: int) -> list[Example]:
        """`count` fixed excerpts of the ends of the pairs, which training never sees; unchanged.

        Empty if no pair is long enough. Music that recurs in other songs may be known.
        """
        rng = np.random.default_rng(0)
        examples = []
        pairs = [(v, m) for v, m in self.pairs if v.samples * HELD_OUT > self.count + 1]
        for index in range(count if pairs else 0):
            v, m = pairs[index % len(pairs)]
            first = round(v.samples * (1 - HELD_OUT))
            start = int(rng.integers(first, v.samples - self.count))
            vocals, music = (self.cache.read(t, start, self.count) for t in (v, m))
            examples.append(Example(vocals, music, min(v.bandwidth_hz, m.bandwidth_hz)))
        return examples

    def _start(self, rng: np.random.Generator, track: Track, speed: float) -> int:
        share = 1 - HELD_OUT if track.kind == "pair" else 1.0
        return int(rng.integers(0, max(1, int(track.samples * share - self.count * speed - 64))))

    def _cut(self, track: Track, start: int, speed: float) -> Audio:
        """Excerpt of `self.count` samples, played `speed` times as fast (pitch moves along)."""
        if speed == 1.0:
            audio = self.cache.read(track, start, self.count)
        else:
            raw = self.cache.read(track, start, int(self.count * speed) + 64)
            audio = soxr.resample(raw.T, self.rate * speed, self.rate, quality="MQ").T
        short = self.count - audio.shape[1]
        return np.pad(audio[:, : self.count], ((0, 0), (0, max(0, short))))

    def _room(self, rng: np.random.Generator, audio: Audio) -> Audio:
        """Sometimes reverberation: exponentially decaying stereo noise, for dry studio takes."""
        if rng.random() > 0.6:
            return audio
        decay = rng.uniform(0.2, 1.5)  # seconds to -60 dB
        length = int(decay * self.rate)
        tail = rng.standard_normal((2, length)) * 10 ** (-3 * np.arange(length) / length)
        tail[:, : int(rng.uniform(0.0, 0.03) * self.rate)] = 0.0  # pre-delay
        tail *= 10 ** (rng.uniform(-22, -6) / 20) / np.sqrt(np.mean(np.sum(tail**2, 1)))
        size = audio.shape[1] + length
        wet = np.fft.irfft(np.fft.rfft(audio, size) * np.fft.rfft(tail, size), size)
        return (audio + wet[:, : audio.shape[1]]).astype(np.float32)

    def _colour(self, rng: np.random.Generator, audio: Audio) -> Audio:
        """Sometimes a smooth random equaliser, at most 8 dB up or down."""
        if rng.random() > 0.4:
            return audio
        points = np.array([60, 250, 1000, 4000, 14000])
        curve = np.clip(rng.normal(0, 3, len(points)), -8, 8)
        frequency = np.fft.rfftfreq(audio.shape[1], 1 / self.rate)
        gain = 10 ** (np.interp(np.log(frequency + 1), np.log(points), curve) / 20)
        return np.fft.irfft(np.fft.rfft(audio) * gain, audio.shape[1]).astype(np.float32)

    @staticmethod
    def _place(rng: np.random.Generator, audio: Audio) -> Audio:
        """Random polarity, channels swapped at times, a little pan."""
        if rng.random() < 0.5:
            audio = audio[::-1]
        pan = 10 ** (np.clip(rng.normal(0, 1.5), -6, 6) / 40)
        sides = np.array([[pan], [1 / pan]]) * rng.choice((-1.0, 1.0))
        return np.asarray(audio * sides, np.float32)
