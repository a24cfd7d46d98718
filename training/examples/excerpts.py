"""Excerpts of random songs, as they are on disk or slightly faster or slower.

Songs are drawn by weight, an excerpt stays within one recording if one is long enough, and
unreadable songs are counted and replaced.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from stemwire.errors import AudioError, ConfigError
from stemwire.training.examples import augment
from stemwire.training.examples.augment import Audio, Rng

if TYPE_CHECKING:
    from stemwire.training.data.manifest import Song
    from stemwire.training.data.reader import AudioReader
    from stemwire.training.examples.settings import ExampleSettings

HELD_OUT = 0.15  # share at the end of each pair reserved for validation
VALIDATION = "valid"  # split whose pairs validation uses instead, if there are any
PIECES = 12  # most short recordings joined to fill an example
JOIN = 0.005  # seconds of fade where they meet


class Pool:
    """Songs to draw from: indices into the manifest and the relative odds of each."""

    def __init__(self, songs: NDArray[np.int64], odds: NDArray[np.float64]) -> None:
        self.songs, self.odds = songs, odds
        self.ends = _ends(odds)

    def __len__(self) -> int:
        return len(self.songs)

    def draw(self, rng: Rng, without: Sequence[int]) -> int | None:
        """Index of a song that is not in `without`; None if no other is left."""
        ends = self.ends
        if without:
            odds = np.where(np.isin(self.songs, without), 0.0, self.odds)
            if not odds.any():
                return None
            ends = _ends(odds)
        return int(self.songs[np.searchsorted(ends, rng.random(), side="right")])


def _ends(odds: NDArray[np.float64]) -> NDArray[np.float64]:
    total: NDArray[np.float64] = np.cumsum(odds)
    return total / total[-1] if len(total) else total


class Excerpts:
    """Source of excerpts of a manifest's songs, `count` samples long.

    Attributes:
        pairs: songs whose stems play together.
        vocals: songs with vocals.
        music: songs with accompaniment.
        skipped: how often each song could not be read.

    Raises:
        ConfigError: if the manifest has no vocals or no music to train on.
        AudioError: while drawing, when more songs than `max_bad` cannot be read.
    """

    def __init__(self, reader: AudioReader, settings: ExampleSettings) -> None:
        self.reader, self.settings = reader, settings
        self.rate = reader.sample_rate
        self.count = max(1, round(settings.seconds * self.rate))
        self.skipped: dict[str, int] = {}
        self.manifest = manifest = reader.manifest
        kind, split = np.asarray(manifest.kind), np.asarray(manifest.split)
        training, pair = split == "train", kind == "pair"
        full_band = pair & (np.asarray(manifest.bandwidth_hz) > settings.full_band_hz)
        seconds = np.asarray(manifest.seconds, np.float64)

        def pool(chosen: NDArray[np.bool_], share: float) -> Pool:
            songs = np.flatnonzero(chosen & training)
            odds, full = seconds[songs], full_band[songs]
            if full.any() and not full.all():
                odds[full] *= share / odds[full].sum()
                odds[~full] *= (1 - share) / odds[~full].sum()
            return Pool(songs, odds)

        self.pairs = pool(pair, settings.full_band_pairs)
        self.vocals = pool(pair | (kind == "vocals"), settings.full_band_vocals)
        self.music = pool(pair | (kind == "accompaniment"), settings.full_band_music)
        self.validation_pairs = np.flatnonzero(pair & (split == VALIDATION))
        if not len(self.vocals) or not len(self.music):
            raise ConfigError(
                f"{manifest.folder}: the training split has {len(self.vocals)} songs with vocals "
                f"and {len(self.music)} with music; both are needed, as pairs or as files of each"
            )
        songs = len(self.vocals) + len(self.music) - len(self.pairs)
        self.max_skipped = max(1, int(settings.max_bad * songs))

    def draw(
        self, rng: Rng, pool: Pool, roles: Sequence[str], name: str, notes: list[str]
    ) -> tuple[list[Audio], float]:
        """The same stretch of a random song for each role, and its bandwidth in Hz.

        Shorter than an example if the song is. An unreadable song is replaced by another, so the
        result depends on the generator and the files alone. `name` is its name in `notes`.
        """
        settings = self.settings
        tried: list[int] = []
        reason = ""
        while (index := pool.draw(rng, tried)) is not None:
            tried.append(index)
            song = self.manifest[index]
            factor = 1.0
            if rng.random() < settings.speed_share:
                factor = math.exp(rng.uniform(-settings.speed_range, settings.speed_range))
            needed = self.count if factor == 1.0 else math.ceil(self.count * factor) + 1
            try:
                start, length = self._stretch(rng, song, needed)
                stems = [self.reader.read(song, role, start, length) for role in roles]
            except AudioError as error:
                self._skip(song, error)
                reason = str(error)
                continue
            note = f"{name}: {song.name} at {start / self.rate:.1f} s"
            if factor != 1.0:
                note += f", speed {factor:.2f}"
                size = min(self.count, max(1, round(length / factor)))
                stems = [augment.fit(augment.resample(stem, factor), size) for stem in stems]
            notes.append(note)
            return stems, min(song.bandwidth_hz, self.rate / 2) * factor
        raise AudioError(
            f"none of the {len(pool)} songs that could be the {name} can be read ({reason}); "
            "repair or remove them and scan again"
        )

    def draw_joined(
        self, rng: Rng, pool: Pool, role: str, name: str, notes: list[str]
    ) -> tuple[Audio, float]:
        """Audio of the full length, joined from short recordings, and its bandwidth in Hz."""
        (audio,), bandwidth = self.draw(rng, pool, (role,), name, notes)
        if audio.shape[1] == self.count:
            return audio, bandwidth
        edge = round(JOIN * self.rate)
        pieces, length = [augment.fade(audio, edge)], audio.shape[1]
        while length < self.count and len(pieces) < PIECES:
            (audio,), band = self.draw(rng, pool, (role,), name, notes)
            pieces.append(augment.fade(audio, edge))
            length += audio.shape[1]
            bandwidth = min(bandwidth, band)
        return augment.fit(np.concatenate(pieces, 1), self.count), bandwidth

    def _stretch(self, rng: Rng, song: Song, needed: int) -> tuple[int, int]:
        """Start and length of an excerpt, within one recording where one is long enough."""
        frames = self.reader.frames(song)
        if song.kind == "pair" and not len(self.validation_pairs):
            frames -= round(frames * HELD_OUT)
        if frames <= needed:
            return 0, max(1, frames)
        cuts = (round(second * self.rate) for second in song.boundaries)
        edges = [0, *(cut for cut in cuts if 0 < cut < frames), frames]
        starts = np.array([max(0, b - a - needed + 1) for a, b in pairwise(edges)])
        if not starts.any():
            edges, starts = [0], np.array([frames - needed + 1])
        ends = np.cumsum(starts)
        spot = int(rng.integers(ends[-1]))
        part = int(np.searchsorted(ends, spot, side="right"))
        return edges[part] + spot - int(ends[part] - starts[part]), needed

    def validation(self, count: int) -> list[tuple[Audio, Audio, float, str]]:
        """Vocals, accompaniment, bandwidth in Hz and a note of `count` fixed excerpts of songs.

        From pairs of the split "valid" if there are any, otherwise from the last 15 % of each pair,
        which `draw` never reads; empty without pairs. Songs take turns, only those that are long
        enough if there are any; shorter ones are padded with zeros.
        """
        rng = np.random.default_rng(0)
        songs, share = self.pairs.songs, HELD_OUT
        if len(self.validation_pairs):
            songs, share = self.validation_pairs, 1.0
        long = np.asarray(self.manifest.seconds)[songs] * share > self.settings.seconds + 0.01
        songs = songs[long] if long.any() else songs
        if len(songs) > count > 0:
            songs = songs[np.linspace(0, len(songs) - 1, count).round().astype(int)]
        queue = songs.tolist()
        found: list[tuple[Audio, Audio, float, str]] = []
        while queue and len(found) < count:
            song = self.manifest[queue[len(found) % len(queue)]]
            try:
                frames = self.reader.frames(song)
                first = frames - round(frames * share)
                start = int(rng.integers(first, max(first, frames - self.count) + 1))
                vocals, music = (
                    self.reader.read(song, role, start, self.count)
                    for role in ("vocals", "accompaniment")
                )
            except AudioError as error:
                self._skip(song, error)
                del queue[len(found) % len(queue)]
                continue
            note = f"pair: {song.name} at {start / self.rate:.1f} s"
            found.append((vocals, music, min(song.bandwidth_hz, self.rate / 2), note))
        return found

    def _skip(self, song: Song, error: AudioError) -> None:
        """Count an unreadable song; too many of them are an error."""
        self.skipped[song.name] = self.skipped.get(song.name, 0) + 1
        if len(self.skipped) > self.max_skipped:
            raise AudioError(
                f"{len(self.skipped)} songs could not be read, more than the "
                f"{self.max_skipped} that max_bad allows: {', '.join(self.skipped)}; "
                f"repair or remove them and scan again "
                f"(the last one: {error})"
            ) from error
