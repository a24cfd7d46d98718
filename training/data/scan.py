"""From folders to a manifest: find the songs, measure their files, leave out what is bad."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path

from stemwire.errors import AudioError, ConfigError
from stemwire.training.data.decode import shown, split_reference
from stemwire.training.data.file_facts import Fact, Facts
from stemwire.training.data.layouts import Found, Survey, survey
from stemwire.training.data.manifest import ROLES, Manifest, Song, write_manifest

TOLERANCE = 16  # samples by which the files of a song may differ in length
MAX_BAD = 0.05
NAMED = 5  # bad songs that an error names; all are reported as they are met


@dataclass
class Scan:
    """What a scan found.

    Attributes:
        songs: those of the manifest.
        bad: songs left out, and why.
        survey: notes on layouts, and files of unknown kind.
        files: audio files of the songs.
        read: those of them that were new or had changed, and were read.
        copies: names of songs whose audio is another's, and that one's name.
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
        roots: folders; `layouts` says what is understood.
        target: the manifest; one that is there is replaced when the new one is whole.
        kind: of all loose files; otherwise the folders' names tell.
        split: of all songs; otherwise `manifest.csv` or the folders' names tell.
        licences: patterns (`*`, `?`, `[…]`; case does not matter), of which a song's whole licence
            must match one; other songs, and those whose licence nobody said, are left out. All
            songs if there are none.
        valid: share of the training pairs that become the split `valid`; which ones is decided by
            a hash of their names, not by order.
        max_bad: share of the songs that may be bad.
        tolerance: samples by which the files of a song may differ in length.
        decode_all: decode every file from start to end, and not only its end.
        jobs: files read at a time.
        report: called with each bad song and why, as it is met.
        progress: called with files done and in all.

    Raises:
        ConfigError: if there are no songs, or an argument or layout cannot work.
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
        Manifest(target)  # nothing but a manifest is overwritten
    found = survey(roots, kind, split)
    if not found.found:
        raise ConfigError(_nothing(found))
    if licences:
        _keep_licensed(found, licences)
    target.parent.mkdir(parents=True, exist_ok=True)
    facts = Facts(target.with_name(f"{target.name}.files"))
    files = list(dict.fromkeys(_path(ref) for song in found.found for ref in song.files))
    done = 0

    def advance() -> None:
        nonlocal done
        done += 1
        progress(done, len(files))

    known = dict(facts.of(files, jobs, decode_all, advance))
    songs, bad = _measured(found.found, known, tolerance, target, report)
    if len(bad) > max_bad * len(found.found):
        some = "; ".join(list(bad.values())[:NAMED])
        raise AudioError(
            f"{len(bad)} of {len(found.found)} songs are bad, more than the share of {max_bad:g} "
            f"that --max-bad allows: {some}{' …' if len(bad) > NAMED else ''}"
        )
    if not songs:
        raise ConfigError("all songs are bad; nothing is left for a manifest")
    songs = _hold_out(songs, valid)
    write_manifest(target, songs, roots=[str(root) for root in roots], tolerance=tolerance)
    facts.keep(files)
    return Scan(songs, bad, found, len(files), facts.read, _copies(songs))


def _keep_licensed(found: Survey, patterns: Sequence[str]) -> None:
    """Leave only songs in a survey whose licence matches a pattern, and note what was left out.

    Raises:
        ConfigError: if no song is left.
    """
    lowered = [pattern.lower() for pattern in patterns]
    kept = [
        song
        for song in found.found
        if any(fnmatchcase(song.licence.lower(), pattern) for pattern in lowered)
    ]
    left = Counter(song.licence or "not stated" for song in found.found) - Counter(
        song.licence or "not stated" for song in kept
    )
    if not kept:
        there = ", ".join(f"{name!r}" for name, _ in left.most_common(NAMED))
        raise ConfigError(
            f"no song's licence matches {' or '.join(map(repr, patterns))}; there are {there}"
        )
    found.notes += [
        f"{count} songs left out, whose licence is {name!r}" for name, count in left.most_common()
    ]
    found.found = kept


def _nothing(found: Survey) -> str:
    """Why a survey without songs has none."""
    if not found.unknown:
        return "no audio files in these folders; give folders with songs"
    folder, names = next(iter(found.unknown.items()))
    return (
        f"no songs in these folders, and {sum(map(len, found.unknown.values()))} audio files that "
        f"nothing says the kind of, such as {shown(f'{folder}/{names[0]}')}; give --kind, or put "
        "them into folders called vocals, instrumental or mixture"
    )


def _path(reference: str) -> str:
    return str(split_reference(reference)[0])


def _measured(
    found: Sequence[Found],
    known: dict[str, Fact | str],
    tolerance: int,
    target: Path,
    report: Callable[[str], None],
) -> tuple[list[Song], dict[str, str]]:
    songs: list[Song] = []
    bad: dict[str, str] = {}
    names: dict[str, int] = defaultdict(int)
    folder = f"{target.resolve().parent}/"
    for candidate in found:
        names[candidate.name] += 1
        if (again := names[candidate.name]) > 1:  # names that only bytes told apart, listed twice
            candidate = replace(candidate, name=f"{candidate.name} ({again})")
        try:
            songs.append(_song(candidate, known, tolerance, folder))
        except AudioError as error:
            bad[candidate.name] = str(error)
            report(str(error))
    return songs, bad


def _song(found: Found, known: dict[str, Fact | str], tolerance: int, folder: str) -> Song:
    """The song of measured files.

    Raises:
        AudioError: if they do not make one.
    """
    if found.problem:
        raise AudioError(f"{found.name}: {found.problem}")
    facts: dict[str, Fact] = {}
    for reference in found.files:
        fact = known[_path(reference)]
        if isinstance(fact, str):
            raise AudioError(fact)
        facts[reference] = fact
    rates = {fact.sample_rate for fact in facts.values()}
    lengths = {fact.frames for fact in facts.values()}
    if len(rates) > 1 or max(lengths) - min(lengths) > tolerance:
        said = ", ".join(
            f"{shown(Path(name).name)} {fact.frames} samples at {fact.sample_rate} Hz"
            for name, fact in facts.items()
        )
        raise AudioError(f"{found.name}: its files differ ({said}); make them equal")
    rate, frames = rates.pop(), min(lengths)
    sums = [
        f"{role} {facts[name].sha256}#{split_reference(name)[1]}"
        for role in ROLES
        for name in getattr(found, role)
    ]
    return Song(
        name=found.name,
        kind=found.kind,
        vocals=_relative(found.vocals, folder),
        accompaniment=_relative(found.accompaniment, folder),
        mixture=_relative(found.mixture, folder),
        sample_rate=rate,
        channels=max(fact.channels for fact in facts.values()),
        frames=frames,
        bandwidth_hz=min(found.bandwidth_hz or rate / 2, rate / 2),
        boundaries=tuple(second for second in found.boundaries if second < frames / rate),
        split=found.split,
        source=found.source,
        licence=found.licence,
        checksum=hashlib.sha256("\n".join(sums).encode("ascii")).hexdigest(),
    )


def _relative(references: tuple[str, ...], folder: str) -> tuple[str, ...]:
    """References as the manifest has them: what moves with it is relative to it."""
    return tuple(reference.removeprefix(folder) for reference in references)


def _hold_out(songs: list[Song], share: float) -> list[Song]:
    """Songs with that share of the training pairs moved to the split `valid`."""
    pairs = [song.name for song in songs if song.kind == "pair" and song.split == "train"]
    pairs.sort(key=lambda name: hashlib.sha256(name.encode()).digest())
    chosen = set(pairs[: max(1, round(share * len(pairs)))] if share else ())
    return [replace(song, split="valid") if song.name in chosen else song for song in songs]


def _copies(songs: Sequence[Song]) -> list[tuple[Song, Song]]:
    """Songs that are another, and the first of them."""
    first: dict[str, Song] = {}
    return [
        (song, first[song.checksum])
        for song in songs
        if first.setdefault(song.checksum, song) is not song
    ]
