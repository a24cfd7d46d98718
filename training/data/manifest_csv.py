"""`manifest.csv`: a description of a folder's contents.

Columns: `path` (relative to the folder of `manifest.csv`) and `kind` (`pair`, `vocals`,
`accompaniment`, `mixture`), and if known `split`, `source`, `licence`, `bandwidth_hz` and
`boundaries_s` (seconds, separated by spaces). Rows of kind `pair` in one folder belong together.
Other columns are ignored: rate, channels and length are measured.
"""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stemwire.errors import ConfigError
from stemwire.training.data.decode import printable
from stemwire.training.data.names import role_of, song_fields

MANIFEST_CSV = "manifest.csv"
SINGLE_KINDS = ("vocals", "accompaniment", "mixture")


@dataclass(frozen=True)
class ListedSong:
    """Song of a `manifest.csv`.

    Attributes:
        path: its file, or the folder of a pair.
        split: "" if not stated.
        fields: values for `layouts.SongFiles`.
    """

    path: Path
    split: str
    fields: dict[str, Any]


def read_manifest_csv(path: Path) -> list[ListedSong] | None:
    """Songs of a `manifest.csv`; None if it is of another kind (no columns `path` and `kind`).

    Raises:
        ConfigError: if it cannot be read, or a row is wrong.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            reader = csv.DictReader(file, restval="")
            if not {"path", "kind"} <= set(reader.fieldnames or ()):
                return None
            return list(_songs(path, reader))
    except (OSError, csv.Error) as error:
        raise ConfigError(
            f"{printable(str(path))}: cannot be read ({error}); correct it"
        ) from error


def _songs(path: Path, reader: csv.DictReader[str]) -> Iterator[ListedSong]:
    pairs: dict[Path, list[tuple[Path, dict[str, str]]]] = defaultdict(list)
    for row in reader:
        file, kind = path.parent / row["path"], row["kind"].strip()
        where = f"{printable(str(path))} line {reader.line_num}"
        if not row["path"].strip():
            raise ConfigError(f"{where}: no path; name a file")
        if kind == "pair":
            pairs[file.parent].append((file, row))
        elif kind in SINGLE_KINDS:
            yield ListedSong(
                file, row.get("split", ""), {kind: (str(file),), **_metadata([row], where)}
            )
        else:
            raise ConfigError(
                f"{where}: kind {kind!r} is unknown; use pair, {', '.join(SINGLE_KINDS)}"
            )
    for folder, rows in pairs.items():
        stems: dict[str, list[str]] = defaultdict(list)
        problem = ""
        for file, _ in rows:
            role = role_of(file.name)
            stems[role or ""].append(str(file))
            if role is None:
                problem = (
                    f"is a pair with a file {printable(file.name)}; call it vocals, for example"
                )
        fields = {"problem": problem} if problem else song_fields(stems)
        if not problem and len(fields.keys() & set(SINGLE_KINDS)) < 2 and "problem" not in fields:
            fields["problem"] = "is called a pair, but lacks two of vocals, accompaniment, mixture"
        splits = {row.get("split", "") for _, row in rows}
        if len(splits) > 1:
            fields["problem"] = f"has files in several splits ({', '.join(sorted(splits))})"
        metadata = _metadata(
            [row for _, row in rows], f"{printable(str(path))}, {printable(str(folder))}"
        )
        yield ListedSong(folder, splits.pop(), {**metadata, **fields})


def _metadata(rows: list[dict[str, str]], where: str) -> dict[str, Any]:
    """Metadata in the rows of one song: lowest bandwidth, all boundaries, source, licence."""
    try:
        bandwidths = [float(text) for row in rows if (text := row.get("bandwidth_hz") or "")]
        seconds = {float(text) for row in rows for text in (row.get("boundaries_s") or "").split()}
        if any(not math.isfinite(n) or n <= 0 for n in (*bandwidths, *seconds)):
            raise ValueError("numbers must be positive")
    except ValueError as error:
        raise ConfigError(
            f"{where}: bandwidth_hz and boundaries_s must be numbers: {error}"
        ) from error
    texts = {
        name: "; ".join(dict.fromkeys(row[name] for row in rows if row.get(name)))
        for name in ("source", "licence")
    }
    return {
        "bandwidth_hz": min(bandwidths, default=0.0),
        "boundaries": tuple(sorted(seconds)),
        **texts,
    }
