"""Pack training data into Opus files, in parts of limited size.

For training on a machine that is rented for minutes and has no network: each part is transferred
by itself, and `stemwire data scan` of the parts that have arrived writes the manifest there::

    python -m stemwire.training.tools.pack songs.jsonl -o packed --megabytes 40 --music-hours 6

Pairs come first, then singing, then music; music comes from all sources in turn. Opus keeps what
the network learns from in a tenth of the space; the mixture is made after decoding, so a pair's
stems still sum to it.
"""

from __future__ import annotations

import argparse
import csv
import itertools
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile

from stemwire.errors import ConfigError
from stemwire.training.data.manifest import Manifest, Song
from stemwire.training.data.reader import AudioReader

RATE = 48_000  # Hz, the rate of Opus
COLUMNS = ("path", "split", "kind", "source", "licence", "bandwidth_hz", "boundaries_s")
ORDER = ("pair", "vocals", "accompaniment")
LOWEST, HIGHEST = 6_000, 256_000  # bits per second between which libsndfile's levels lie


def packing_order(manifest: Manifest, music_hours: float) -> Iterator[Song]:
    """Training songs, most valuable first, with at most `music_hours` of music without vocals."""
    songs = [manifest[i] for i in range(len(manifest)) if manifest.split[i] == "train"]
    for kind in ORDER[:2]:
        yield from (song for song in songs if song.kind == kind)
    by_source: dict[str, list[Song]] = defaultdict(list)
    for song in songs:
        if song.kind == "accompaniment":
            by_source[song.source].append(song)
    left = music_hours * 3600
    for song in itertools.chain.from_iterable(itertools.zip_longest(*by_source.values())):
        if song is not None and left > 0:
            left -= song.seconds
            yield song


def write_song(song: Song, reader: AudioReader, folder: Path, kbps: float) -> list[dict[str, str]]:
    """Write a song's stems to `folder`; returns their rows of `manifest.csv`."""
    roles = ("vocals", "accompaniment") if song.kind == "pair" else (song.kind,)
    count, channels = reader.frames(song), song.channels
    rows = []
    for role in roles:
        path = folder / song.checksum[:16] / f"{role}.opus"
        path.parent.mkdir(parents=True, exist_ok=True)
        rate = kbps * 1000 if channels == 2 else kbps * 600
        level = float(np.clip((HIGHEST - rate) / (HIGHEST - LOWEST), 0, 1))
        coding = {"format": "OGG", "subtype": "OPUS", "compression_level": level}
        with soundfile.SoundFile(path, "w", RATE, channels, **coding) as file:
            for start in range(0, count, RATE * 10):
                audio = reader.read(song, role, start, min(RATE * 10, count - start))
                file.write(np.clip(audio[:channels].T, -1, 1))
        rows.append(
            {
                "path": f"{path.parent.name}/{path.name}",
                "split": song.split,
                "kind": song.kind,
                "source": song.source,
                "licence": song.licence,
                "bandwidth_hz": f"{song.bandwidth_hz:.0f}",
                "boundaries_s": " ".join(f"{second:g}" for second in song.boundaries),
            }
        )
    return rows


def pack(
    manifest: Manifest, target: Path, megabytes: float, kbps: float, music_hours: float
) -> int:
    """Write `target/part-1`, `part-2` …, none larger than `megabytes`; returns how many.

    Raises:
        ConfigError: if a single song is larger than a part, or `target` has parts already.
    """
    if list(target.glob("part-*")):
        raise ConfigError(f"{target}: has parts already; choose an empty folder")
    reader = AudioReader(manifest, RATE)
    part, held, rows = 1, 0, list[dict[str, str]]()
    for song in packing_order(manifest, music_hours):
        folder = target / f"part-{part}"
        new = write_song(song, reader, folder, kbps)
        paths = [folder / row["path"] for row in new]
        size = sum(path.stat().st_size for path in paths)
        if size > megabytes * 1e6:
            raise ConfigError(f"{song.name}: {size / 1e6:.3g} MB alone; allow larger parts")
        if held + size > megabytes * 1e6:
            _describe(folder, rows)
            part, held, rows = part + 1, 0, []
            moved = target / f"part-{part}"
            moved.mkdir()
            paths[0].parent.rename(moved / paths[0].parent.name)
        held, rows = held + size, rows + new
    _describe(target / f"part-{part}", rows)
    return part


def _describe(folder: Path, rows: list[dict[str, str]]) -> None:
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, metavar="MANIFEST")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument(
        "--megabytes", type=float, default=40, help="largest size of a part (default: 40)"
    )
    parser.add_argument(
        "--kbps",
        type=float,
        default=64,
        help="bit rate of stereo; mono uses 0.6 of it (default: 64)",
    )
    parser.add_argument(
        "--music-hours", type=float, default=6, help="hours of music without vocals (default: 6)"
    )
    args = parser.parse_args()
    parts = pack(Manifest(args.data), args.out, args.megabytes, args.kbps, args.music_hours)
    print(f"{args.out}: {parts} parts")


if __name__ == "__main__":
    main()
