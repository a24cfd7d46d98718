"""Manifest of songs, measured once by `stemwire data scan`.

A manifest is a JSON Lines file: a header, then one song per line. `write_manifest` writes it and
`Manifest` reads it. Only a few numbers per song are kept in memory, so that libraries of hundreds
of thousands of songs fit into every worker; the line of a song is read when it is asked for.
"""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from stemwire.errors import ConfigError
from stemwire.training.data.output import output_file

FORMAT, VERSION = "stemwire-manifest", 1
KINDS = ("pair", "vocals", "accompaniment", "mixture")
ROLES = ("vocals", "accompaniment", "mixture")


@dataclass(frozen=True, slots=True)
class Song:
    """Song of equally long files that play together; one line of a manifest.

    A `pair` has at least two of vocals, accompaniment and mixture. If it has vocals and
    accompaniment, the mixture is their sum, whatever the mixture's file holds; a missing stem is
    the mixture minus the other.

    Attributes:
        name: unique within the manifest; made from the path.
        kind: `pair`, `vocals`, `accompaniment` or `mixture`.
        vocals: files that sum to the vocals; a path, absolute or from the manifest's folder, or
            `song.stem.mp4#k` for stream k of a stem file.
        accompaniment: files that sum to the accompaniment.
        mixture: the mixture's file.
        sample_rate: of all files, Hz.
        channels: 1 if all files are mono, else 2.
        frames: samples of each channel, at `sample_rate`.
        bandwidth_hz: upper limit of the usable spectrum.
        boundaries: seconds at which separate recordings were joined, without start and end.
        split: `train`, `valid`, `test`, `dev` …
        source: origin, "" if not stated.
        licence: licence, "" if not stated.
        checksum: SHA-256 of all files together, hex digits.
    """

    name: str
    kind: str
    vocals: tuple[str, ...]
    accompaniment: tuple[str, ...]
    mixture: tuple[str, ...]
    sample_rate: int
    channels: int
    frames: int
    bandwidth_hz: float
    boundaries: tuple[float, ...]
    split: str
    source: str
    licence: str
    checksum: str

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return self.frames / self.sample_rate


LISTS = ("vocals", "accompaniment", "mixture", "boundaries")  # tuples, which are lists in JSON
NAMES = tuple(field.name for field in fields(Song))


class Manifest:
    """Songs of a manifest file, by index; picklable.

    Attributes:
        path: the file.
        folder: base of relative paths.
        header: values of the first line.
        tolerance: samples by which files may be longer than their song.
        kind: kinds of the songs, array of str.
        split: splits of the songs, array of str.
        seconds: their lengths, float64.
        bandwidth_hz: their bandwidths, float64.

    Raises:
        ConfigError: if the file is missing, damaged, cut short, foreign or of another version, or,
            on reading a song, if it has changed since.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path).absolute()
        self.folder = self.path.parent
        self._lines: mmap.mmap | None = None
        rows, offsets = [], []
        try:
            with self.path.open("rb") as file:
                self._stamp = _stamp(file)
                self.header = _check_header(self.path, file.readline())
                offsets.append(file.tell())
                for line in file:
                    song = json.loads(line)
                    rows.append(
                        (
                            song["kind"],
                            song["split"],
                            song["bandwidth_hz"],
                            song["frames"] / song["sample_rate"],
                        )
                    )
                    offsets.append(offsets[-1] + len(line))
            self.tolerance = int(self.header["tolerance"])
        except OSError as error:
            raise ConfigError(
                f"{path}: cannot be read ({error.strerror}); give the manifest that "
                "`stemwire data scan` wrote"
            ) from error
        except (ValueError, KeyError, TypeError, ZeroDivisionError) as error:
            raise ConfigError(
                f"{path}: damaged at line {len(rows) + 2} ({error!r}); scan again"
            ) from error
        if len(rows) != self.header.get("songs"):
            raise ConfigError(
                f"{path}: cut short: {len(rows)} of {self.header.get('songs')} songs are there; "
                "get a complete copy or scan again"
            )
        kinds, splits, bandwidths, seconds = zip(*rows, strict=True) if rows else ((),) * 4
        self.kind = np.array(kinds, np.str_)
        self.split = np.array(splits, np.str_)
        self.bandwidth_hz = np.array(bandwidths, np.float64)
        self.seconds = np.array(seconds, np.float64)
        self._offsets: NDArray[np.int64] = np.array(offsets, np.int64)

    def __len__(self) -> int:
        return len(self.kind)

    def __getitem__(self, index: int) -> Song:
        """Song at `index` (0 to length - 1).

        Raises:
            IndexError: beyond that.
            ConfigError: if the file has changed since it was opened.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"song {index} of {len(self)}")
        if self._lines is None:
            self._lines = self._map()
        values = json.loads(self._lines[self._offsets[index] : self._offsets[index + 1]])
        return song_of(values)

    def __iter__(self) -> Iterator[Song]:
        return (self[index] for index in range(len(self)))

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_lines": None}

    def _map(self) -> mmap.mmap:
        """Bytes of the file, which stay mapped even if another scan replaces the file."""
        try:
            with self.path.open("rb") as file:
                if _stamp(file) == self._stamp:
                    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise ConfigError(
                f"{self.path}: cannot be read again ({error.strerror}); restore it or scan again"
            ) from error
        raise ConfigError(f"{self.path}: was replaced while it was in use; start again")


def _stamp(file: IO[bytes]) -> tuple[int, int]:
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns


def _check_header(path: Path, line: bytes) -> dict[str, Any]:
    try:
        header = json.loads(line)
    except ValueError:
        header = None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ConfigError(f"{path}: is not a manifest; give a file that `stemwire data scan` wrote")
    if header.get("version") != VERSION:
        raise ConfigError(
            f"{path}: has version {header.get('version')!r}, this Stemwire reads {VERSION}; "
            "delete it and scan again"
        )
    return header


def song_of(values: Mapping[str, Any]) -> Song:
    """Song of the values of a manifest line."""
    known = {name: values[name] for name in NAMES}
    return Song(**known | {name: tuple(known[name]) for name in LISTS})


def write_manifest(path: Path, songs: Sequence[Song], **header: Any) -> None:
    """Write a manifest atomically: the old one stays until the new one is complete.

    Args:
        path: file to write.
        songs: songs in order.
        header: further entries of the first line.

    Raises:
        OutputError: if it cannot be written.
    """
    first = {"format": FORMAT, "version": VERSION, "songs": len(songs), **header}
    with output_file(path) as file:
        file.write(_line(first))
        for song in songs:
            file.write(_line({name: getattr(song, name) for name in NAMES}))


def _line(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values).encode("ascii") + b"\n"  # names that are not UTF-8 are escaped
