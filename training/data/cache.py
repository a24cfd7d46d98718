"""A manifest's songs decoded and resampled once, as 16-bit samples that are memory-mapped.

A cache is a folder with `cache.json`, and two files per song, named by its checksum: an array
`.npy`, int16 (roles, frames, channels), and a `.json` that says what it holds and, being written
last, that it is whole. A song that is there is not made again.

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
class Cached:
    """What became of a manifest's songs.

    Attributes:
        made: songs written now.
        kept: songs that were there.
        bad: names of songs that could not be read, and why.
        size: bytes that the songs of the manifest take.
    """

    made: int = 0
    kept: int = 0
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
) -> Cached:
    """Write the songs of a manifest that a cache lacks. Interrupted, it goes on where it stopped.

    Args:
        manifest: the songs.
        folder: of the cache; made if missing.
        sample_rate: of the cache, Hz.
        jobs: songs at a time.
        max_bad: share of the songs that may be unreadable.
        report: called with each unreadable song and why.
        progress: called with songs done and in all.

    Raises:
        ConfigError: if an argument cannot work, or the folder is a cache of another rate, or holds
            other things.
        AudioError: if more songs are unreadable than `max_bad` allows.
        OutputError: if the cache cannot be written; what is whole stays.
    """
    if jobs < 1 or not 0 <= max_bad <= 1:
        raise ConfigError(
            f"jobs must be at least 1, not {jobs}, and max_bad a share, not {max_bad}"
        )
    reader = AudioReader(manifest, sample_rate)
    _open_cache(folder, manifest, sample_rate)
    songs = {song.checksum: song for song in manifest}  # of copies, one
    result = Cached()
    pool = ThreadPoolExecutor(jobs)  # decoding and resampling let other threads run
    try:
        tasks: dict[Future[bool], Song] = {
            pool.submit(_write_song, reader, song, folder): song for song in songs.values()
        }
        for done, task in enumerate(as_completed(tasks), 1):
            song = tasks[task]
            try:
                made = task.result()
            except AudioError as error:
                result.bad[song.name] = str(error)
                report(str(error))
                if len(result.bad) > max_bad * len(songs):
                    raise AudioError(
                        f"{len(result.bad)} of {len(songs)} songs could not be read, more than the "
                        f"share of {max_bad:g} that --max-bad allows, the last because {error}"
                    ) from error
            else:
                result.made += made
                result.kept += not made
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
        raise ConfigError(f"{folder}: holds other things; choose a folder of its own for the cache")
    values = {"format": CACHE_FORMAT, "version": CACHE_VERSION, "sample_rate": sample_rate}
    with output_file(header) as file:
        file.write(json.dumps(values).encode("ascii"))


def _write_song(reader: AudioReader, song: Song, folder: Path) -> bool:
    """Write one song unless it is there; whether it was written.

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
    """Write the roles in steps of `step`, clipped; return their peak."""
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
