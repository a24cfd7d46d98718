"""Scan of folders into a manifest: find songs, measure their files, leave out bad ones."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path

from stemwire.errors import AudioError, ConfigError
from stemwire.training.data.decode import printable, split_reference
from stemwire.training.data.file_facts import Fact, FactStore
from stemwire.training.data.layouts import SongFiles, Survey, survey
from stemwire.training.data.manifest import ROLES, Manifest, Song, write_manifest

TOLERANCE = 16  # samples by which the files of a song may differ in length
MAX_BAD = 0.05
NAMED = 5  # bad songs named in an error; all of them are reported as they are met


@dataclass
class Scan:
    """Result of a scan.

    Attributes:
        songs: songs of the manifest.
        bad: songs left out, and why.
        survey: notes on layouts, and files of unknown kind.
        files: number of audio files of the songs.
        read: number of them that were new or had changed, and were read.
        copies: songs with the same audio as another, and that other song.
    """

    songs: list[Song]
    bad: dict[str, str]
    survey: Survey
    files: int
    read: int
    copies: list[tuple[Song, Song]] = field(default_factory=list)


def scan(
    roots: Iterable[Path],
    target: Path,
    *,
    kind: str | None = None,
    split: str | None = None,
    licences: Sequence[str] = (),
    valid: float = 0.0,
    max_bad: float = MAX_BAD,
    tolerance: int = TOLERANCE,
    decode_all: bool = False,
    jobs: int = 1,
    report: Callable[[str], None] = lambda text: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Scan:
    """Write the manifest of all songs below folders. Files that have not changed are not read.

    Args:
        roots: folders with songs; see `layouts`.
        target: manifest to write; an existing one is replaced once the new one is complete.
        kind: kind of all loose files; otherwise from the folders' names.
        split: split of all songs; otherwise from `manifest.csv` or the folders' names.
        licences: patterns (`*`, `?`, `[…]`; case-insensitive), of which a song's whole licence
            must match one; other songs, and those without a licence, are left out. All songs if
            there are none.
        valid: share of the training pairs that become the split `valid`, chosen by a hash of their
            names and not by order.
        max_bad: largest share of bad songs.
        tolerance: samples by which the files of a song may differ in length.
        decode_all: decode every file from start to end, and not only its end.
        jobs: files read at a time.
        report: called with each bad song and the reason, as it is met.
        progress: called with the number of files done and in all.

    Raises:
        ConfigError: if there are no songs, or an argument or layout is invalid.
        AudioError: if more songs are bad than `max_bad` allows. No manifest is written.
        OutputError: if it cannot be written.
    """
    if not (0 <= max_bad <= 1 and 0 <= valid < 1 and tolerance >= 0 and jobs >= 1):
        raise ConfigError(
            f"max_bad {max_bad} and valid {valid} must be shares, tolerance {tolerance} and jobs "
            f"{jobs} at least 0 and 1"
        )
    target = Path(target)
    if target.exists():
        Manifest(target)  # only a manifest is overwritten
    surveyed = survey(roots, kind, split)
    if not surveyed.songs:
        raise ConfigError(_no_songs_reason(surveyed))
    if licences:
        _keep_licensed(surveyed, licences)
    target.parent.mkdir(parents=True, exist_ok=True)
    facts = FactStore(target.with_name(f"{target.name}.files"))
    files = list(dict.fromkeys(_path(ref) for song in surveyed.songs for ref in song.files))
    done = 0

    def advance() -> None:
        nonlocal done
        done += 1
        progress(done, len(files))

    known = dict(facts.look_up(files, jobs, decode_all, advance))
    songs, bad = _measure_songs(surveyed.songs, known, tolerance, target, report)
    if len(bad) > max_bad * len(surveyed.songs):
        some = "; ".join(list(bad.values())[:NAMED])
        raise AudioError(
            f"{len(bad)} of {len(surveyed.songs)} songs are bad, more than the share of "
            f"{max_bad:g} that --max-bad allows: {some}{' …' if len(bad) > NAMED else ''}"
        )
    if not songs:
        raise ConfigError("all songs are bad; nothing is left for a manifest")
    songs = _hold_out(songs, valid)
    write_manifest(target, songs, roots=[str(root) for root in roots], tolerance=tolerance)
    facts.rewrite(files)
    return Scan(songs, bad, surveyed, len(files), facts.read, _copies(songs))


def _keep_licensed(surveyed: Survey, patterns: Sequence[str]) -> None:
    """Keep only songs whose licence matches a pattern, and note what is left out.

    Raises:
        ConfigError: if no song is left.
    """
    lowered = [pattern.lower() for pattern in patterns]
    kept = [
        song
        for song in surveyed.songs
        if any(fnmatchcase(song.licence.lower(), pattern) for pattern in lowered)
    ]
    left = Counter(song.licence or "not stated" for song in surveyed.songs) - Counter(
        song.licence or "not stated" for song in kept
    )
    if not kept:
        licences = ", ".join(f"{name!r}" for name, _ in left.most_common(NAMED))
        raise ConfigError(
            f"no song's licence matches {' or '.join(map(repr, patterns))}; there are {licences}"
        )
    surveyed.notes += [
        f"{count} songs left out, whose licence is {name!r}" for name, count in left.most_common()
    ]
    surveyed.songs = kept


def _no_songs_reason(surveyed: Survey) -> str:
    """Reason why a survey has no songs."""
    if not surveyed.unknown:
        return "no audio files in these folders; give folders with songs"
    folder, names = next(iter(surveyed.unknown.items()))
    return (
        f"no songs in these folders, and {sum(map(len, surveyed.unknown.values()))} audio files "
        f"of unknown kind, such as {printable(f'{folder}/{names[0]}')}; give --kind, or put them "
        "into folders called vocals, instrumental or mixture"
    )


def _path(reference: str) -> str:
    return str(split_reference(reference)[0])


def _measure_songs(
    candidates: Sequence[SongFiles],
    known: dict[str, Fact | str],
    tolerance: int,
    target: Path,
    report: Callable[[str], None],
) -> tuple[list[Song], dict[str, str]]:
    songs: list[Song] = []
    bad: dict[str, str] = {}
    names: dict[str, int] = defaultdict(int)
    folder = f"{target.resolve().parent}/"
    for candidate in candidates:
        names[candidate.name] += 1
        if (again := names[candidate.name]) > 1:  # names that differ in invalid UTF-8 alone
            candidate = replace(candidate, name=f"{candidate.name} ({again})")
        try:
            songs.append(_song(candidate, known, tolerance, folder))
        except AudioError as error:
            bad[candidate.name] = str(error)
            report(str(error))
    return songs, bad


def _song(candidate: SongFiles, known: dict[str, Fact | str], tolerance: int, folder: str) -> Song:
    """Song of measured files.

    Raises:
        AudioError: if they do not form a song.
    """
    if candidate.problem:
        raise AudioError(f"{candidate.name}: {candidate.problem}")
    facts: dict[str, Fact] = {}
    for reference in candidate.files:
        fact = known[_path(reference)]
        if isinstance(fact, str):
            raise AudioError(fact)
        facts[reference] = fact
    rates = {fact.sample_rate for fact in facts.values()}
    lengths = {fact.frames for fact in facts.values()}
    if len(rates) > 1 or max(lengths) - min(lengths) > tolerance:
        listed = ", ".join(
            f"{printable(Path(name).name)} {fact.frames} samples at {fact.sample_rate} Hz"
            for name, fact in facts.items()
        )
        raise AudioError(f"{candidate.name}: its files differ ({listed}); make them equal")
    rate, frames = rates.pop(), min(lengths)
    sums = [
        f"{role} {facts[name].sha256}#{split_reference(name)[1]}"
        for role in ROLES
        for name in getattr(candidate, role)
    ]
    return Song(
        name=candidate.name,
        kind=candidate.kind,
        vocals=_relative(candidate.vocals, folder),
        accompaniment=_relative(candidate.accompaniment, folder),
        mixture=_relative(candidate.mixture, folder),
        sample_rate=rate,
        channels=max(fact.channels for fact in facts.values()),
        frames=frames,
        bandwidth_hz=min(candidate.bandwidth_hz or rate / 2, rate / 2),
        boundaries=tuple(second for second in candidate.boundaries if second < frames / rate),
        split=candidate.split,
        source=candidate.source,
        licence=candidate.licence,
        checksum=hashlib.sha256("\n".join(sums).encode("ascii")).hexdigest(),
    )


def _relative(references: tuple[str, ...], folder: str) -> tuple[str, ...]:
    """References as in the manifest: relative to it if they are below its folder."""
    return tuple(reference.removeprefix(folder) for reference in references)


def _hold_out(songs: list[Song], share: float) -> list[Song]:
    """Songs, of whose training pairs a share moved to the split `valid`."""
    pairs = [song.name for song in songs if song.kind == "pair" and song.split == "train"]
    pairs.sort(key=lambda name: hashlib.sha256(name.encode()).digest())
    chosen = set(pairs[: max(1, round(share * len(pairs)))] if share else ())
    return [replace(song, split="valid") if song.name in chosen else song for song in songs]


def _copies(songs: Sequence[Song]) -> list[tuple[Song, Song]]:
    """Songs with the same audio as an earlier one, and that one."""
    first: dict[str, Song] = {}
    return [
        (song, first[song.checksum])
        for song in songs
        if first.setdefault(song.checksum, song) is not song
    ]
