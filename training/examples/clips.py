"""Clips for pretraining: excerpts of any music, with or without stems."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from stemwire.errors import AudioError, ConfigError
from stemwire.training.examples.examples import Example
from stemwire.training.examples.settings import ExampleSettings

if TYPE_CHECKING:
    from stemwire.training.data.reader import AudioReader

HELD_OUT = 0.1  # share at the end of each song reserved for validation
TRIES = 20


class ClipMaker:
    """Maker of the numbered clips of a seed, each in the accompaniment of an `Example`.

    Songs are drawn in proportion to their length; a clip is of the mixture, or of the only stem.
    Level and channels are changed at random. A clip depends only on seed, number and manifest.

    Raises:
        ConfigError: if the manifest holds no song that is long enough.
    """

    def __init__(self, reader: AudioReader, settings: ExampleSettings, seed: int) -> None:
        self.reader, self.seed = reader, seed
        self.count = round(settings.seconds * reader.sample_rate)
        self.skipped: dict[str, int] = {}
        manifest = reader.manifest
        usable = (manifest.split == "train") & (manifest.seconds > 2 * settings.seconds)
        self.songs = np.flatnonzero(usable)
        if not len(self.songs):
            raise ConfigError(
                f"{manifest.folder}: no song of split 'train' is longer than "
                f"{2 * settings.seconds:.1f} s; add music or lower examples.seconds"
            )
        self.odds = manifest.seconds[self.songs] / manifest.seconds[self.songs].sum()
        self.max_bad = max(1, round(settings.max_bad * len(self.songs)))

    def __call__(self, number: int) -> Example:
        """Clip `number`, from the part of a song that is not held out."""
        rng = np.random.default_rng((self.seed, number))
        clip = self._clip(rng, (0.0, 1 - HELD_OUT))
        gain = 10 ** (rng.uniform(-8, 8) / 20) * rng.choice((-1.0, 1.0))
        music = clip.accompaniment[:: rng.choice((-1, 1))] * np.float32(gain)
        return dataclasses.replace(clip, accompaniment=np.ascontiguousarray(music))

    def validation(self, count: int) -> list[Example]:
        """`count` fixed clips from the ends of songs, unchanged."""
        rng = np.random.default_rng(0)
        return [self._clip(rng, (1 - HELD_OUT, 1.0)) for _ in range(count)]

    def _clip(self, rng: np.random.Generator, part: tuple[float, float]) -> Example:
        for _ in range(TRIES):
            song = self.reader.manifest[int(rng.choice(self.songs, p=self.odds))]
            role = song.kind if song.kind in ("vocals", "accompaniment") else "mixture"
            frames = self.reader.frames(song)
            first, last = round(part[0] * frames), round(part[1] * frames) - self.count
            start = int(rng.integers(max(0, min(first, last)), max(1, last + 1)))
            try:
                audio = self.reader.read(song, role, start, self.count)
            except AudioError as error:
                self.skipped[song.name] = self.skipped.get(song.name, 0) + 1
                if len(self.skipped) > self.max_bad:
                    raise AudioError(
                        f"{len(self.skipped)} songs could not be read, the last because {error}; "
                        "scan the data again"
                    ) from error
                continue
            return Example(np.zeros_like(audio), audio, song.bandwidth_hz)
        raise AudioError(f"{TRIES} songs in a row could not be read; scan the data again")
