"""Training examples made on the fly ("voxaug"): random vocals over random music, augmented.

An example depends only on the seed, its number, the manifest and the settings, so a run that
resumes at step k sees exactly the examples that an uninterrupted run would have seen, whatever the
number of workers. The mixture is vocals + accompaniment, after all changes to the stems.

Drawn in this order:

1. a *scene*: with `pair_share` an excerpt of a real song, its stems kept together; otherwise loose
   vocals over loose music, augmented independently and set to a random ratio;
2. sometimes a second scene on top of it (mixup);
3. changes to both stems: polarity, channels, pan, silence, compression, codec;
4. the loudness of the mixture.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from stemwire.training.examples import augment
from stemwire.training.examples.augment import Audio, Rng, rms
from stemwire.training.examples.excerpts import Excerpts
from stemwire.training.examples.settings import ExampleSettings

if TYPE_CHECKING:
    from stemwire.training.data.reader import AudioReader

SILENCE = 1e-4  # RMS below which a stem is left at its level


@dataclasses.dataclass(frozen=True)
class Example:
    """Training example.

    Attributes:
        vocals: float32 (2, n).
        accompaniment: float32 (2, n).
        bandwidth_hz: frequency above which a loss must ignore the spectrum.
        notes: what was drawn and changed, for people.
    """

    vocals: Audio
    accompaniment: Audio
    bandwidth_hz: float
    notes: tuple[str, ...] = ()


@dataclasses.dataclass
class _Scene:
    """Stems of a mixture that is becoming an example."""

    vocals: Audio
    music: Audio
    bandwidth: float
    notes: list[str]


class ExampleMaker:
    """Maker of the numbered examples of a seed from the songs of a manifest; picklable.

    Args:
        reader: reader of the manifest's songs at the training rate.
        settings: settings of the examples.
        seed: non-negative seed.

    Raises:
        ConfigError: if the manifest has no vocals or no music to train on.
        AudioError: if libsndfile lacks a codec; while making examples, when more songs than
            `max_bad` cannot be read.
    """

    def __init__(self, reader: AudioReader, settings: ExampleSettings, seed: int) -> None:
        self.settings, self.seed = settings, seed
        self.excerpts = Excerpts(reader, settings)
        if settings.codec_share:  # report a missing codec now, not hours later
            for name in augment.CODECS:
                augment.codec_delay(name, self.rate)

    @property
    def rate(self) -> int:
        """Sample rate in Hz."""
        return self.excerpts.rate

    @property
    def count(self) -> int:
        """Samples per example."""
        return self.excerpts.count

    @property
    def skipped(self) -> dict[str, int]:
        """Unreadable songs, and how often each was met in this process."""
        return self.excerpts.skipped

    def __call__(self, number: int) -> Example:
        """Example `number`."""
        settings = self.settings
        rng = np.random.default_rng((self.seed, number))
        notes = ["no vocals"] if (silent := rng.random() < settings.no_vocals_share) else []
        scene = self._scene(rng, silent)
        notes += scene.notes
        if rng.random() < settings.mixup_share:
            other = self._scene(rng, silent)
            level, own = rms(scene.vocals + scene.music), rms(other.vocals + other.music)
            below = rng.uniform(0, 12)
            db = 20 * math.log10(level / own) - below if min(level, own) > SILENCE else -below
            scene.vocals = scene.vocals + augment.gain(other.vocals, db)
            scene.music = scene.music + augment.gain(other.music, db)
            scene.bandwidth = min(scene.bandwidth, other.bandwidth)
            notes += [f"mixup {-below:.0f} dB", *other.notes]
        stems = {"music": scene.music} if silent else {"vocals": scene.vocals, "music": scene.music}
        stems = {name: self._place(rng, stem, name, notes) for name, stem in stems.items()}
        stems = self._finish(rng, stems, notes)
        vocals, music = stems.get("vocals", scene.vocals), stems["music"]
        level = rms(vocals + music)
        db = rng.uniform(settings.quietest_db, settings.loudest_db)
        db = db - 20 * math.log10(level) if level > SILENCE else 0.0
        bandwidth = min(scene.bandwidth, self.rate / 2)
        return Example(augment.gain(vocals, db), augment.gain(music, db), bandwidth, tuple(notes))

    def validation(self, count: int) -> list[Example]:
        """`count` fixed excerpts of pairs without augmentation, the same for every seed.

        From pairs of the split "valid" if there are any, otherwise from the last 15 % of each pair,
        which training never sees; empty without pairs. Recurring music (one backing track in
        several pairs) may still be known to the network: a split by work prevents that.
        """
        return [
            Example(vocals, music, bandwidth, (note,))
            for vocals, music, bandwidth, note in self.excerpts.validation(count)
        ]

    def _scene(self, rng: Rng, silent: bool) -> _Scene:
        """A real song, or loose vocals over loose music; without its vocals if `silent`."""
        settings = self.settings
        notes: list[str] = []
        nothing = np.zeros((2, self.count), np.float32)
        pairs = self.excerpts.pairs
        if len(pairs) and rng.random() < settings.pair_share:
            roles = ("accompaniment",) if silent else ("accompaniment", "vocals")
            stems, bandwidth = self.excerpts.draw(rng, pairs, roles, "pair", notes)
            offset = int(rng.integers(0, self.count - stems[0].shape[1] + 1))
            stems = [augment.fit(stem, self.count, offset) for stem in stems]
            if silent:
                return _Scene(nothing, stems[0], bandwidth, notes)
            louder = rng.normal(0, settings.pair_ratio_sd_db)
            return _Scene(augment.gain(stems[1], louder), stems[0], bandwidth, notes)
        music, bandwidth = self.excerpts.draw_joined(
            rng, self.excerpts.music, "accompaniment", "music", notes
        )
        music = self._equalised(rng, music, "music", notes)
        if silent:
            return _Scene(nothing, music, bandwidth, notes)
        vocals, band = self._singing(rng, notes)
        if rms(vocals) > SILENCE and rms(music) > SILENCE:
            ratio = rng.normal(settings.ratio_mean_db, settings.ratio_sd_db)
            ratio = min(max(ratio, -16.0), 12.0)
            vocals = augment.gain(vocals, ratio + 20 * math.log10(rms(music) / rms(vocals)))
            notes.append(f"ratio {ratio:.1f} dB")
        return _Scene(vocals, music, min(bandwidth, band), notes)

    def _singing(self, rng: Rng, notes: list[str]) -> tuple[Audio, float]:
        """Loose vocals with a producer's effects, and their bandwidth in Hz."""
        settings, rate = self.settings, self.rate
        pool = self.excerpts.vocals
        vocals, bandwidth = self.excerpts.draw_joined(rng, pool, "vocals", "vocals", notes)
        if rng.random() < settings.pitch_share:
            semitones = rng.uniform(-settings.pitch_semitones, settings.pitch_semitones)
            vocals = augment.shift_pitch(vocals, semitones, rate)
            bandwidth *= 2 ** (semitones / 12)
            notes.append(f"vocals: pitch {semitones:+.1f} semitones")
        if rng.random() < settings.doubled_share:
            if rng.random() < 0.5:
                vocals = augment.double(vocals, rng, rate)
                notes.append("vocals: doubled")
            else:
                other, band = self.excerpts.draw_joined(rng, pool, "vocals", "second singer", notes)
                below = rng.uniform(0, 10)
                own, level = rms(other), rms(vocals)
                louder = 20 * math.log10(level / own) if min(own, level) > SILENCE else 0.0
                vocals = vocals + augment.gain(other, louder - below)
                bandwidth = min(bandwidth, band)
        vocals = self._equalised(rng, vocals, "vocals", notes)
        if rng.random() < settings.compression_share:
            vocals = self._compressed(rng, (vocals,), "vocals", notes)[0]
        if rng.random() < settings.reverb_share:
            decay, level = rng.uniform(0.2, 1.5), rng.uniform(-22, -6)
            vocals = augment.reverb(vocals, rng, rate, decay, level)
            notes.append(f"vocals: reverb {decay:.1f} s {level:.0f} dB")
        return vocals, bandwidth

    def _equalised(self, rng: Rng, audio: Audio, name: str, notes: list[str]) -> Audio:
        if rng.random() >= self.settings.equaliser_share:
            return audio
        notes.append(f"{name}: equaliser")
        return augment.equalise(audio, rng, self.rate, self.settings.equaliser_sd_db)

    def _compressed(
        self, rng: Rng, stems: Sequence[Audio], name: str, notes: list[str]
    ) -> list[Audio]:
        """Stems through one compressor keyed by their sum."""
        threshold, ratio = rng.uniform(-9, 6), rng.uniform(1.5, 6)
        notes.append(f"{name}: compression {ratio:.1f}:1 from {threshold:+.0f} dB")
        key = stems[0] if len(stems) == 1 else np.sum(stems, 0)
        return [augment.compress(stem, self.rate, threshold, ratio, key) for stem in stems]

    def _place(self, rng: Rng, audio: Audio, name: str, notes: list[str]) -> Audio:
        """Stem with random polarity, channel order and pan."""
        settings = self.settings
        if rng.random() < settings.swap_share:
            audio = augment.swap(audio)
            notes.append(f"{name}: swapped")
        if rng.random() < settings.invert_share:
            audio = augment.invert(audio)
            notes.append(f"{name}: inverted")
        return augment.pan(audio, min(max(rng.normal(0, settings.pan_sd_db), -6.0), 6.0))

    def _finish(self, rng: Rng, stems: dict[str, Audio], notes: list[str]) -> dict[str, Audio]:
        """Stems with random silence, compression of the mixture and codec."""
        settings, rate, names = self.settings, self.rate, list(stems)
        if rng.random() < settings.silence_share:
            name = names[rng.integers(len(names))]
            stems = {**stems, name: augment.silence(stems[name], rng, rate)}
            notes.append(f"{name}: silence")
        if rng.random() < settings.compression_share:
            both = self._compressed(rng, list(stems.values()), "mixture", notes)
            stems = dict(zip(names, both, strict=True))
        if rng.random() < settings.codec_share:
            kind = list(augment.CODECS)[rng.integers(len(augment.CODECS))]
            level = rng.uniform(*augment.CODECS[kind].levels)
            for name in (names[:1], names[-1:], names)[rng.integers(3)]:
                stems = {**stems, name: augment.codec(stems[name], rate, kind, level)}
                notes.append(f"{name}: {kind} {level:.2f}")
        return stems
