"""Audio on disk made ready for training: manifests in, a cache of decoded tracks out.

A data folder holds `manifest.csv` (columns path, split, kind, sample_rate, bandwidth_hz,
channels, seconds, boundaries_s …) and audio that libsndfile reads. `prepare` decodes each file
once, to 16-bit samples at the network's rate that are memory-mapped from then on: an excerpt costs
one page read, and no list of samples is ever held in memory.
"""

from __future__ import annotations

import argparse
import csv
import json
import multiprocessing
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from stemwire.errors import AudioError

Audio = NDArray[np.float32]


@dataclass(frozen=True)
class Track:
    """One cached file.

    Attributes:
        file: name of the `.npy` file in the cache, int16 (samples, channels).
        kind: `vocals`, `accompaniment`, or `pair` (then `role` says which half).
        role: `vocals` or `accompaniment`.
        song: what the two halves of a pair share.
        bandwidth_hz: nothing usable lies above; a loss must ignore what does.
        boundaries: samples at which separate recordings were joined, both ends included.
    """

    file: str
    kind: str
    role: str
    song: str
    bandwidth_hz: float
    samples: int
    boundaries: tuple[int, ...]


class Cache:
    """Read access to the tracks that `prepare` wrote.

    Raises:
        AudioError: if the folder holds no prepared tracks.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        rows = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
        self.tracks = [Track(**{**row, "boundaries": tuple(row["boundaries"])}) for row in rows]
        if not self.tracks:
            raise AudioError(f"{folder}: no prepared tracks; run stemwire.training.data first")

    def read(self, track: Track, start: int, count: int) -> Audio:
        """Stereo excerpt, float32 (2, count); mono becomes two equal channels."""
        data = np.load(self.folder / track.file, mmap_mode="r")[start : start + count]
        audio = data.T / np.float32(32768)
        both: Audio = np.broadcast_to(audio, (2, audio.shape[1])).astype(np.float32)
        return both


def rows_of(folder: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    """Training rows of `folder/manifest.csv` with the path of their audio."""
    with (folder / "manifest.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if row["split"] == "train" and row["kind"] != "mixture":
                yield folder / row["path"], row


def prepare_file(path: Path, row: dict[str, str], cache: Path, rate: int) -> str:
    """Decode and resample one file into the cache unless it is there; return its name."""
    song = f"{path.parent.parent.name}-{path.parent.name}"
    name = f"{song}-{path.stem}".replace(" ", "_")
    described = cache / f"{name}.json"
    if described.exists():
        return name
    audio, source_rate = soundfile.read(path, dtype="float32", always_2d=True)
    audio = soxr.resample(audio, source_rate, rate, quality="HQ")
    samples = np.clip(np.rint(audio * 32768), -32768, 32767).astype(np.int16)
    cuts = [round(float(s) * rate) for s in row["boundaries_s"].split()]
    np.save(cache / f"{name}.npy", samples)
    track = Track(
        file=f"{name}.npy",
        kind=row["kind"],
        role="vocals" if path.stem == "vocals" or row["kind"] == "vocals" else "accompaniment",
        song=song,
        bandwidth_hz=float(row["bandwidth_hz"] or source_rate / 2),
        samples=len(samples),
        boundaries=(0, *cuts, len(samples)),
    )
    partial = described.with_suffix(".part")
    partial.write_text(json.dumps(asdict(track)))
    os.replace(partial, described)  # the description marks the track as whole
    return name


def _job(job: tuple[Path, dict[str, str], Path, int]) -> str:
    try:
        return prepare_file(*job)
    except (OSError, soundfile.LibsndfileError) as error:
        return f"{job[0]}: skipped: {error}"


def main() -> None:
    """Command line: decode data folders into a cache."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="folders with a manifest.csv")
    parser.add_argument("-o", "--cache", type=Path, required=True)
    parser.add_argument("--rate", type=int, default=44_100, help="sample rate in Hz")
    parser.add_argument("--jobs", type=int, default=1)
    args = parser.parse_args()
    args.cache.mkdir(parents=True, exist_ok=True)
    jobs = [(path, row, args.cache, args.rate) for f in args.folders for path, row in rows_of(f)]
    with multiprocessing.Pool(args.jobs) as pool:
        for done, name in enumerate(pool.imap_unordered(_job, jobs), 1):
            print(f"{done}/{len(jobs)} {name}", flush=True)


if __name__ == "__main__":
    main()
