"""Reading any part of a song at the training rate, from its files or from a cache.

Only the part is resampled, on the grid of the whole file, so that an excerpt equals a slice of the
whole resampled file (to 100 dB and more), and all roles of a song stay sample-aligned.
"""

from __future__ import annotations

import json
import math
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import soxr
from numpy.typing import NDArray

from stemwire.errors import AudioError, ConfigError
from stemwire.training.data.decode import Format, decode
from stemwire.training.data.manifest import ROLES, Manifest, Song

Audio = NDArray[np.float32]

MARGIN = 256  # samples at the lower rate that the resampler sees on either side; 100 dB need 64
QUALITY = "HQ"
CACHE_FORMAT, CACHE_VERSION = "stemwire-cache", 1
CACHE_HEADER = "cache.json"


class AudioReader:
    """Reader of excerpts of a manifest's songs; picklable.

    Args:
        manifest: manifest of the songs.
        sample_rate: sample rate of the excerpts in Hz.
        cache: folder that `stemwire data cache` wrote, to read from instead of the files.

    Raises:
        ConfigError: if the sample rate is not positive, or `cache` is no cache of that rate.
    """

    def __init__(self, manifest: Manifest, sample_rate: int, cache: Path | None = None) -> None:
        if sample_rate < 1:
            raise ConfigError(f"sample rate must be a positive number of Hz, not {sample_rate}")
        self.manifest = manifest
        self.sample_rate = sample_rate
        self.cache = cache
        if cache is not None:
            check_cache(cache, sample_rate, manifest)

    def frames(self, song: Song) -> int:
        """Samples of a song at `sample_rate`, rounded."""
        return frames_at(song, self.sample_rate)

    def read(self, song: Song, role: str, start: int, count: int) -> Audio:
        """Excerpt of one role of a song, float32 (2, count); mono becomes two equal channels.

        Args:
            song: song of the manifest.
            role: `vocals`, `accompaniment` or `mixture`.
            start: first sample at `sample_rate`, at least 0.
            count: number of samples; zeros past the song's end.

        Raises:
            AudioError: if a file is missing, damaged, not finite or has changed since the scan,
                the song has no such role, or the cache lacks it.
            ValueError: for an unknown role or a negative start or count.
        """
        if role not in ROLES or start < 0 or count < 0:
            raise ValueError(f"role {role!r}, start {start}, count {count}")
        terms = terms_of(song, role)
        if self.cache is None:
            samples = self._read_files(song, terms, start, count)
        else:
            samples = self._read_cache(self.cache, song, role, start, count)
        return np.array(np.broadcast_to(samples.T, (2, count)), np.float32, order="C")

    def _read_files(
        self, song: Song, terms: list[tuple[str, int]], start: int, count: int
    ) -> NDArray[np.float32]:
        """Sum of the terms, float32 (count, channels)."""
        rate, target = song.sample_rate, self.sample_rate
        if rate == target:
            return self._sum(song, terms, start, count)
        common = math.gcd(rate, target)
        # Both the first sample read and its counterpart at the new rate are whole numbers.
        step_in, step_out = rate // common, target // common
        margin = math.ceil(MARGIN * max(1, rate / target))
        block = max(0, start * rate // target - margin) // step_in
        first, skipped = block * step_in, start - block * step_out
        last = min(song.frames, math.ceil((start + count) * rate / target) + margin)
        if last <= first:
            return np.zeros((count, 1), np.float32)
        excerpt = self._sum(song, terms, first, last - first)
        samples: NDArray[np.float32] = soxr.resample(excerpt, rate, target, QUALITY)
        samples = samples[skipped : skipped + count]
        samples = samples[: max(0, self.frames(song) - start)]
        return np.pad(samples, ((0, count - len(samples)), (0, 0)))

    def _sum(
        self, song: Song, terms: list[tuple[str, int]], start: int, count: int
    ) -> NDArray[np.float32]:
        expected = Format(song.sample_rate, song.channels, song.frames)
        total = np.zeros((count, song.channels), np.float32)
        for name, sign in terms:
            path = str(self.manifest.folder / name)
            samples = decode(path, start, count, expected, self.manifest.tolerance)
            if samples.shape[1] > song.channels:
                raise AudioError(
                    f"{path}: has changed: {samples.shape[1]} channels, {song.channels} when "
                    "scanned; scan again"
                )
            total += sign * samples
        return total

    def _read_cache(
        self, cache: Path, song: Song, role: str, start: int, count: int
    ) -> NDArray[np.float32]:
        try:
            entry = _cache_entry(cache, song.checksum)
            data = np.load(cache / f"{song.checksum}.npy", mmap_mode="r")
        except (OSError, ValueError, KeyError) as error:
            raise AudioError(
                f"{cache}: {song.name} is missing or damaged in the cache; run "
                f"{_command(self.manifest, cache, self.sample_rate)}"
            ) from error
        roles = [role] if role in entry.roles else ["vocals", "accompaniment"]
        total = np.zeros((len(data[0, start : start + count]), data.shape[2]), np.float32)
        for name in roles:
            total += data[entry.roles.index(name), start : start + count] * np.float32(entry.step)
        return np.pad(total, ((0, count - len(total)), (0, 0)))


def frames_at(song: Song, sample_rate: int) -> int:
    """Samples of a song at another rate, rounded."""
    return (2 * song.frames * sample_rate + song.sample_rate) // (2 * song.sample_rate)


def terms_of(song: Song, role: str) -> list[tuple[str, int]]:
    """Files whose signed sum is a role, each with its sign.

    Raises:
        AudioError: if the song has no such role.
    """
    vocals, accompaniment, mixture = song.vocals, song.accompaniment, song.mixture
    plus: tuple[str, ...] = getattr(song, role)
    minus: tuple[str, ...] = ()
    if role == "mixture" and vocals and accompaniment:
        plus = vocals + accompaniment
    elif not plus and song.kind == "pair":
        plus, minus = mixture, accompaniment if role == "vocals" else vocals
    if not plus:
        raise AudioError(f"{song.name}: a song of kind {song.kind} has no {role}; choose another")
    return [*((name, 1) for name in plus), *((name, -1) for name in minus)]


class CacheEntry:
    """Description of a song in a cache.

    Attributes:
        roles: stored roles, in the order of the array's first axis.
        step: amplitude of one integer step.
    """

    def __init__(self, values: dict[str, Any]) -> None:
        self.roles = tuple(map(str, values["roles"]))
        self.step = float(values["step"])


@lru_cache(maxsize=4096)
def _cache_entry(cache: Path, checksum: str) -> CacheEntry:
    return CacheEntry(json.loads((cache / f"{checksum}.json").read_text(encoding="ascii")))


def _command(manifest: Manifest, cache: Path, rate: int) -> str:
    return f"`stemwire data cache {manifest.path} -o {cache} --rate {rate}`"


def check_cache(cache: Path, sample_rate: int, manifest: Manifest) -> None:
    """Check that a folder is a cache of that rate.

    Raises:
        ConfigError: if it is not, with the command that creates one.
    """
    command = _command(manifest, cache, sample_rate)
    try:
        header = json.loads((cache / CACHE_HEADER).read_text(encoding="ascii"))
        found = header["sample_rate"]
        if (header["format"], header["version"]) != (CACHE_FORMAT, CACHE_VERSION):
            raise ValueError("another format or version")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{cache}: is not a cache ({error}); make one with {command}") from error
    if found != sample_rate:
        raise ConfigError(
            f"{cache}: is a cache at {found} Hz, and {sample_rate} Hz are needed; make another, in "
            f"another folder, with {command}"
        )
