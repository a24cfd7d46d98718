"""Songs below folders, found from names alone; no file is opened.

Layouts, folder by folder:

1. `manifest.csv` with the columns `path` and `kind` describes everything below its folder.
2. `mixtures/` beside `instruments/`: files matched by name, beginning, number or order; with
   `vocals/` beside `mixtures/`, those of equal names belong to them too.
3. Files of known names in one folder: `mixture`, `vocals`, `accompaniment`, or MUSDB18's `drums`,
   `bass` and `other`, whose sum is the accompaniment.
4. `*.stem.mp4`, the stem files of MUSDB18: five streams, mixture, drums, bass, other, vocals.
5. Loose files, whose kind comes from the user or from the nearest folder with a known name.

Everything below a folder called `train`, `valid`, `test` or `dev` belongs to that split.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stemwire.errors import ConfigError
from stemwire.training.data.decode import printable
from stemwire.training.data.manifest_csv import MANIFEST_CSV, read_manifest_csv
from stemwire.training.data.names import (
    FOLDER_ROLES,
    PARALLEL_ROLES,
    SPLITS,
    STEM_STREAMS,
    STEM_SUFFIX,
    SUFFIXES,
    UNSUPPORTED_SUFFIXES,
    normalised,
    role_of,
    song_fields,
    stem_of,
    suffix_of,
)

ROLE_WORD = re.compile(
    r"(?<![a-z])(?:mixtures?|mix|instrumentals?|instruments?|inst|accompaniments?|karaoke|"
    r"no[ _-]?vocals?|vocals?|vox|a[ _-]?cc?app?ellas?)(?![a-z])"
)
Inodes = set[tuple[int, int]]  # (device, inode) of folders


@dataclass(frozen=True, slots=True)
class SongFiles:
    """Files of one song; fields as in `manifest.Song`.

    `problem` is the reason why they cannot be used, or ""; a `bandwidth_hz` of 0 means not stated.
    """

    name: str
    split: str
    vocals: tuple[str, ...] = ()
    accompaniment: tuple[str, ...] = ()
    mixture: tuple[str, ...] = ()
    bandwidth_hz: float = 0.0
    boundaries: tuple[float, ...] = ()
    source: str = ""
    licence: str = ""
    problem: str = ""

    @property
    def files(self) -> tuple[str, ...]:
        """All references, vocals first."""
        return self.vocals + self.accompaniment + self.mixture

    @property
    def kind(self) -> str:
        """`pair`, or the only role."""
        roles = [r for r in ("vocals", "accompaniment", "mixture") if getattr(self, r)]
        return roles[0] if len(roles) == 1 else "pair"


@dataclass
class Survey:
    """Result of a walk through folders.

    Attributes:
        songs: songs in order of their paths.
        notes: how layouts were understood, for people.
        unknown: by folder, files of unknown kind or that libsndfile does not read.
    """

    songs: list[SongFiles] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    unknown: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))


def survey(roots: Iterable[Path], kind: str | None = None, split: str | None = None) -> Survey:
    """Find the songs below folders. Hidden files are left out, links followed, loops broken.

    Args:
        roots: folders with songs.
        kind: kind of all loose files; otherwise from the folders' names.
        split: split of all songs; otherwise from `manifest.csv` or the folders' names.

    Raises:
        ConfigError: if a root is not a folder or lies within another, the stems of pairs in a
            folder cannot be matched, or a `manifest.csv` is invalid.
    """
    result = Survey()
    for label, root in _labels(roots):
        result.songs.extend(_RootWalk(root, label, kind, split, result).songs())
    return result


def _labels(roots: Iterable[Path]) -> list[tuple[str, Path]]:
    """Each root with the shortest end of its path that distinguishes it from the others."""
    folders: list[Path] = []
    for root in roots:
        if not root.is_dir():
            raise ConfigError(
                f"{printable(str(root))}: is not a folder; give folders with audio files"
            )
        if (folder := root.resolve()) not in folders:
            folders.append(folder)
    labels = []
    for folder in folders:
        others = [other for other in folders if other != folder]
        if outer := next((other for other in others if other in folder.parents), None):
            raise ConfigError(
                f"{printable(str(folder))}: lies within {printable(str(outer))}; give one of them"
            )
        length = 1
        while any(other.parts[-length:] == folder.parts[-length:] for other in others):
            length += 1
        labels.append(("/".join(folder.parts[-length:]).strip("/") or "root", folder))
    return labels


class _RootWalk:
    """Walk through one root, which adds to a survey."""

    def __init__(
        self, root: Path, label: str, kind: str | None, split: str | None, survey: Survey
    ) -> None:
        self.root, self.label, self.kind, self.split = root, label, kind, split
        self.survey = survey
        self.seen: Inodes = set()

    def songs(self) -> Iterator[SongFiles]:
        return self._folder(self.root)

    def _folder(self, folder: Path) -> Iterator[SongFiles]:
        folders, files = self._entries(folder, self.seen)
        if MANIFEST_CSV in files:
            songs = read_manifest_csv(folder / MANIFEST_CSV)
            if songs is not None:
                for song in songs:
                    yield self._song_files(song.path, song.fields, song.split)
                return
            self.survey.notes.append(
                f"{printable(str(folder / MANIFEST_CSV))}: has no columns path and kind; not used"
            )
        paired, used = self._parallel_songs(folder, folders)
        yield from paired
        yield from self._loose_songs(folder, files)
        for name in folders:
            if name not in used:
                yield from self._folder(folder / name)

    def _entries(self, folder: Path, seen: Inodes) -> tuple[list[str], list[str]]:
        """Names of subfolders and files, none if the folder is in `seen`; adds it there."""
        try:
            status = folder.stat()
            key = (status.st_dev, status.st_ino)
            if key in seen:  # a link in a loop, or to a folder already read
                return [], []
            seen.add(key)
            with os.scandir(folder) as entries:
                listed = sorted((e.name, e.is_dir()) for e in entries if e.name[0] != ".")
        except OSError as error:
            self.survey.notes.append(f"{printable(str(folder))}: left out ({error.strerror})")
            return [], []
        return [n for n, is_dir in listed if is_dir], [n for n, is_dir in listed if not is_dir]

    def _tree(self, folder: Path, seen: Inodes) -> list[str]:
        """Audio files at any depth, as paths from the folder."""
        folders, files = self._entries(folder, seen)
        below = [f"{sub}/{name}" for sub in folders for name in self._tree(folder / sub, seen)]
        return [name for name in files if suffix_of(name) in SUFFIXES] + below

    def _parallel_songs(
        self, folder: Path, folders: Sequence[str]
    ) -> tuple[list[SongFiles], set[str]]:
        """Songs of parallel subfolders, and the subfolders that hold nothing else."""
        names = {PARALLEL_ROLES.get(normalised(name)): name for name in reversed(folders)}
        if "mixture" not in names:
            return [], set()
        base, seen = names["mixture"], set(self.seen)  # folders of pairs are not walked again
        mixtures = self._tree(folder / base, seen)
        partners: dict[str, dict[str, tuple[str]]] = {name: {} for name in mixtures}
        unmatched: list[str] = []
        used: set[str] = set()
        for role, rules in (("accompaniment", RULES), ("vocals", RULES[:1])):
            side, entered = names.get(role, ""), set(seen)
            others = self._tree(folder / side, entered) if side else []
            if not mixtures or not others:
                continue
            where = f"{printable(str(folder))}: {base}/ and {side}/"
            pairs, rule = match(mixtures, others, where, rules)
            if not pairs and role == "vocals":  # loose vocals that happen to be here
                continue
            if not pairs:
                raise ConfigError(
                    f"{where}: {len(mixtures)} and {len(others)} files whose names do not "
                    "match; give partners equal names"
                )
            for mixture, other in pairs.items():
                partners[mixture][role] = (str(folder / side / other),)
            unmatched += [f"{side}/{other}" for other in others if other not in set(pairs.values())]
            self.survey.notes.append(f"{where}: {len(pairs)} pairs matched by {rule}")
            used |= {base, side}
            seen = entered
        if not used:
            return [], set()
        self.seen |= seen
        songs = []
        for name, files in partners.items():
            problem = "" if files else "has no partner; give it one of the same name"
            fields: dict[str, Any] = {**files, "mixture": (str(folder / base / name),)}
            songs.append(self._song_files(folder / base / name, fields | {"problem": problem}))
        for name in unmatched:
            problem = f"has no partner in {base}/; give it one of the same name"
            songs.append(self._song_files(folder / name, {"problem": problem}))
        return songs, used

    def _loose_songs(self, folder: Path, files: Sequence[str]) -> Iterator[SongFiles]:
        """Songs of the files in one folder: stem files, loose files, stems by name."""
        stems: dict[str, list[str]] = defaultdict(list)
        kind = self.kind or self._nearest_label(folder, FOLDER_ROLES)
        for name in files:
            suffix, path = suffix_of(name), folder / name
            if suffix == STEM_SUFFIX:
                streams = {r: tuple(f"{path}#{k}" for k in ks) for r, ks in STEM_STREAMS.items()}
                yield self._song_files(path, streams)
            elif suffix in SUFFIXES and (role := role_of(name)):
                stems[role].append(str(path))
            elif suffix in SUFFIXES and kind:
                yield self._song_files(path, {kind: (str(path),)})
            elif suffix in SUFFIXES or suffix in UNSUPPORTED_SUFFIXES:
                self.survey.unknown[str(folder)].append(name)
        if stems:
            yield self._song_files(folder, song_fields(stems))

    def _nearest_label(self, path: Path, table: dict[str, str]) -> str | None:
        """Entry of the nearest known name, from the path up to the root."""
        names = (self.root.name, *path.relative_to(self.root).parts)
        return next(
            (role for name in reversed(names) if (role := table.get(normalised(name)))), None
        )

    def _song_files(self, path: Path, fields: Mapping[str, Any], split: str = "") -> SongFiles:
        inside = path.is_relative_to(self.root)  # a manifest.csv may name any path
        name = f"{self.label}/{path.relative_to(self.root)}" if inside else str(path)
        split = self.split or split or (inside and self._nearest_label(path, SPLITS)) or "train"
        name = name.replace(os.sep, "/").removesuffix("/.").lstrip("/")
        return SongFiles(printable(name), split, **fields)


def match(
    ones: Sequence[str], others: Sequence[str], where: str, rules: Sequence[Rule]
) -> tuple[dict[str, str], str]:
    """Partners of one folder's files in another (none if no rule fits), and the rule used.

    The first rule that matches anything is used; after all of `RULES`, the order of names, if both
    folders have as many files.

    Raises:
        ConfigError: if two files of one folder have equal names.
    """
    for rule, key in rules:
        mine, theirs = _groups(ones, key), _groups(others, key)
        common = sorted(mine.keys() & theirs.keys())
        repeated = [k for k in common if len(mine[k]) > 1 or len(theirs[k]) > 1]
        if repeated and key is _full_name:
            names = ", ".join(printable(name) for name in mine[repeated[0]] + theirs[repeated[0]])
            raise ConfigError(f"{where}: {names} have equal names; keep one in each folder")
        if common and not repeated:
            return {mine[k][0]: theirs[k][0] for k in common}, rule
    if rules is RULES and len(ones) == len(others):
        return dict(zip(sorted(ones), sorted(others), strict=True)), "order of names"
    return {}, ""


def _groups(names: Sequence[str], key: Callable[[str], str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        if text := key(name.removesuffix(Path(name).suffix).lower()):
            groups[text].append(name)
    return groups


def _full_name(stem: str) -> str:
    return stem


def _before_role_word(stem: str) -> str:
    """Part before a word such as "mix", or after it if it comes first."""
    before, *after = ROLE_WORD.split(stem, maxsplit=1)
    return before.strip(" _-.([/") or "".join(after).strip(" _-.)]/")


def _number(stem: str) -> str:
    """The file's first number."""
    numbers = re.findall(r"\d+", stem_of(stem))
    return str(int(numbers[0])) if numbers else ""


Rule = tuple[str, Callable[[str], str]]
RULES: tuple[Rule, ...] = (
    ("equal names", _full_name), ("equal beginnings", _before_role_word), ("numbers", _number),
)  # fmt: skip
