"""Cache of a manifest's songs, decoded and resampled to memory-mapped 16-bit samples.

A cache is a folder with `cache.json`, and two files per song, named by its checksum: an array
`.npy`, int16 (roles, frames, channels), and a `.json` that describes it and, being written
last, shows that it is complete. Existing songs are not written again.

A pair is stored as vocals and accompaniment, even if its files are a mixture and one of them, so
the mixture is their sum exactly. An integer step is 1/32768, or larger in songs that exceed full
scale: both roles share it, so nothing is clipped and levels are kept.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from stemwire.errors import AudioError, ConfigError
from stemwire.training.data.manifest import Manifest, Song
from stemwire.training.data.output import output_file
from stemwire.training.data.reader import (
    CACHE_FORMAT,
    CACHE_HEADER,
    CACHE_VERSION,
    AudioReader,
    check_cache,
)

SECONDS = 60  # decoded at a time
LARGEST = 32767  # integer
STEP = 1 / 32768


@dataclass
class CacheResult:
    """Result of writing a cache.

    Attributes:
        written: number of songs written now.
        existing: number of songs that were there already.
        bad: names of unreadable songs, and the reasons.
        size: size of the manifest's songs in bytes.
    """

    written: int = 0
    existing: int = 0
    bad: dict[str, str] = field(default_factory=dict)
    size: int = 0


def write_cache(
    manifest: Manifest,
    folder: Path,
    sample_rate: int,
    *,
    jobs: int = 1,
    max_bad: float = 0.05,
    report: Callable[[str], None] = lambda text: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> CacheResult:
    """Write the songs of a manifest that a cache lacks; an interrupted call can be repeated.

    Args:
        manifest: manifest of the songs.
        folder: folder of the cache; created if missing.
        sample_rate: sample rate of the cache in Hz.
        jobs: number of songs at a time.
        max_bad: largest share of unreadable songs.
        report: called with each unreadable song and the reason.
        progress: called with the number of songs done and in all.

    Raises:
        ConfigError: if an argument is invalid, or the folder is a cache of another rate or holds
            other files.
        AudioError: if more songs are unreadable than `max_bad` allows.
        OutputError: if the cache cannot be written; complete songs stay.
    """
    if jobs < 1 or not 0 <= max_bad <= 1:
        raise ConfigError(
            f"jobs must be at least 1, not {jobs}, and max_bad a share, not {max_bad}"
        )
    reader = AudioReader(manifest, sample_rate)
    _open_cache(folder, manifest, sample_rate)
    songs = {song.checksum: song for song in manifest}  # one of several copies
    result = CacheResult()
    pool = ThreadPoolExecutor(jobs)  # decoding and resampling let other threads run
    try:
        tasks: dict[Future[bool], Song] = {
            pool.submit(_write_song, reader, song, folder): song for song in songs.values()
        }
        for done, task in enumerate(as_completed(tasks), 1):
            song = tasks[task]
            try:
                written = task.result()
            except AudioError as error:
                result.bad[song.name] = str(error)
                report(str(error))
                if len(result.bad) > max_bad * len(songs):
                    raise AudioError(
                        f"{len(result.bad)} of {len(songs)} songs could not be read, more than the "
                        f"share of {max_bad:g} that --max-bad allows, the last because {error}"
                    ) from error
            else:
                result.written += written
                result.existing += not written
                result.size += (folder / f"{song.checksum}.npy").stat().st_size
            progress(done, len(songs))
    finally:
        pool.shutdown(cancel_futures=True)
    return result


def _open_cache(folder: Path, manifest: Manifest, sample_rate: int) -> None:
    header = folder / CACHE_HEADER
    if header.exists():
        check_cache(folder, sample_rate, manifest)
        return
    if folder.is_dir() and any(folder.iterdir()):
        raise ConfigError(f"{folder}: holds other files; choose a folder of its own for the cache")
    values = {"format": CACHE_FORMAT, "version": CACHE_VERSION, "sample_rate": sample_rate}
    with output_file(header) as file:
        file.write(json.dumps(values).encode("ascii"))


def _write_song(reader: AudioReader, song: Song, folder: Path) -> bool:
    """Write one song unless it is there; returns whether it was written.

    Raises:
        AudioError: if it cannot be read.
        OutputError: if it cannot be written.
    """
    described, array = (folder / f"{song.checksum}{suffix}" for suffix in (".json", ".npy"))
    if described.exists() and array.exists():
        return False
    roles = ["vocals", "accompaniment"] if song.kind == "pair" else [song.kind]
    step = STEP
    while (peak := _write_array(reader, song, roles, step, array)) > LARGEST * step:
        step = peak / LARGEST * (1 + 1e-6)
    values = {
        "name": song.name,
        "checksum": song.checksum,
        "sample_rate": reader.sample_rate,
        "roles": roles,
        "step": step,
    }
    with output_file(described) as file:
        file.write(json.dumps(values).encode("ascii"))
    return True


def _write_array(
    reader: AudioReader, song: Song, roles: list[str], step: float, path: Path
) -> float:
    """Write the roles in integer steps of `step`, clipped; returns their peak."""
    frames, block = reader.frames(song), SECONDS * reader.sample_rate
    header = {"descr": "<i2", "fortran_order": False, "shape": (len(roles), frames, song.channels)}
    peak = 0.0
    with output_file(path) as file:
        np.lib.format.write_array_header_1_0(file, header)
        for role in roles:
            for start in range(0, frames, block):
                audio = reader.read(song, role, start, min(block, frames - start))
                peak = max(peak, float(np.abs(audio).max(initial=0.0)))
                integers = np.clip(np.rint(audio[: song.channels].T / step), -32768, LARGEST)
                file.write(np.ascontiguousarray(integers, "<i2").data)
    return peak
