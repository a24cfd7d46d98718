"""Evaluation of every method on every passage.

Each passage is one task: its true stems are read, every method separates their sum, and the stems
are measured. Tasks go to worker processes; the results do not depend on how many there are.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stemwire.errors import ConfigError, StemwireError
from stemwire.realtime.levels import STEMS
from stemwire.training.evaluation.methods import Method, Passage, names_of
from stemwire.training.evaluation.metrics import Score, scores

if TYPE_CHECKING:
    from stemwire.training.data.manifest import Manifest, Song
    from stemwire.training.data.reader import AudioReader

KINDS = ("pair", "accompaniment", "vocals")  # a `mixture` has no true stems


@dataclass(frozen=True)
class Excerpt:
    """Part of a song to evaluate: `seconds` from `start`, or all of it if None."""

    index: int  # of the song in the manifest
    name: str
    start: float = 0.0
    seconds: float | None = None


@dataclass(frozen=True)
class Result:
    """Figures of one method on one passage.

    Attributes:
        method: name of the method.
        passage: name of the passage.
        kind: `pair`, `accompaniment` (no vocals) or `vocals` (no accompaniment).
        seconds: length of the passage.
        elapsed: seconds that the separation took.
        stems: scores by stem.
    """

    method: str
    passage: str
    kind: str
    seconds: float
    elapsed: float
    stems: dict[str, Score]


@dataclass(frozen=True)
class Plan:
    """Plan of an evaluation, for worker processes.

    Attributes:
        manifest: manifest of the songs.
        methods: methods to measure.
        sample_rate: sample rate of the evaluation in Hz.
        cache: folder of decoded songs, if there is one.
        with_bss_eval: whether to compute BSS Eval.
    """

    manifest: Manifest
    methods: tuple[Method, ...]
    sample_rate: int
    cache: Path | None = None
    with_bss_eval: bool = True

    def reader(self) -> AudioReader:
        """Decoder of the manifest's songs at `sample_rate`."""
        from stemwire.training.data.reader import AudioReader

        return AudioReader(self.manifest, self.sample_rate, self.cache)


def choose_excerpts(
    manifest: Manifest,
    split: str | None = None,
    excerpts: Sequence[str] = (),
    seconds: float | None = None,
) -> list[Excerpt]:
    """Passages to evaluate.

    Args:
        manifest: manifest of the songs.
        split: use only songs of this split.
        excerpts: SONG:START:SECONDS each, where SONG is one of its `names_of`; empty for whole
            songs.
        seconds: longest part used, from the middle of each whole song.

    Raises:
        ConfigError: for unknown or ambiguous songs, an excerpt that does not lie within its song,
            or if nothing is left to measure.
    """
    if seconds is not None and not (seconds > 0 and math.isfinite(seconds)):
        raise ConfigError(f"seconds must be positive, not {seconds:g}")
    songs = {
        index: manifest[index].name
        for index in range(len(manifest))
        if manifest.kind[index] in KINDS and split in (None, manifest.split[index])
    }
    if not songs:
        splits = ", ".join(sorted(map(str, set(manifest.split)))) or "none"
        raise ConfigError(
            f"no song with stems among {len(manifest)}"
            + (f" of split {split!r} (there are: {splits})" if split else "")
            + "; expected pairs, instrumentals or solo vocals"
        )
    if excerpts:
        return [_excerpt(text, manifest, songs) for text in excerpts]
    chosen = []
    for index, name in songs.items():
        length = float(manifest.seconds[index])
        if seconds is None or seconds >= length:
            chosen.append(Excerpt(index, name))
        else:
            chosen.append(Excerpt(index, name, (length - seconds) / 2, seconds))
    return chosen


def _excerpt(text: str, manifest: Manifest, songs: dict[int, str]) -> Excerpt:
    song, *numbers = text.rsplit(":", 2)
    try:
        start, seconds = map(float, numbers)
    except ValueError as error:
        raise ConfigError(f"excerpt {text!r} is not SONG:START:SECONDS") from error
    exact = [index for index, name in songs.items() if name == song]
    found = exact or [index for index, name in songs.items() if song in names_of(name)]
    if len(found) != 1:
        names = [songs[index] for index in found or list(songs)[:10]]
        what = "means several songs" if found else "is unknown"
        raise ConfigError(f"song {song!r} {what}; use one of: {', '.join(names)}")
    length = float(manifest.seconds[found[0]])
    if not (start >= 0 and seconds > 0 and start + seconds <= length + 1e-6):
        raise ConfigError(
            f"excerpt {text!r} does not lie within song {songs[found[0]]!r}, 0 to {length:g} s"
        )
    return Excerpt(found[0], f"{songs[found[0]]} {start:g}-{start + seconds:g} s", start, seconds)


def read_passage(excerpt: Excerpt, song: Song, reader: AudioReader, sample_rate: int) -> Passage:
    """Read the true stems of an excerpt; a mono song stays mono.

    Raises:
        AudioError: for unreadable files or non-finite samples.
    """
    start = round(excerpt.start * sample_rate)
    count = reader.frames(song) - start
    if excerpt.seconds is not None:
        count = min(count, round(excerpt.seconds * sample_rate))
    channels = min(song.channels, 2)
    references = np.zeros((len(STEMS), channels, count), np.float32)
    for stem, role in zip(references, ("vocals", "accompaniment"), strict=True):
        if song.kind in ("pair", role):
            stem[:] = reader.read(song, role, start, count)[:channels]
    return Passage(excerpt.name, song, start, sample_rate, references)


def measure_passage(excerpt: Excerpt, plan: Plan) -> list[Result]:
    """Results of every method on one passage.

    Raises:
        StemwireError: for a passage that cannot be read, separated or measured, naming method and
            song.
    """
    reader, song = plan.reader(), plan.manifest[excerpt.index]
    passage = read_passage(excerpt, song, reader, plan.sample_rate)
    results = []
    for method in plan.methods:
        begin = time.perf_counter()
        try:
            stems = method.stems(passage, reader)
            elapsed = time.perf_counter() - begin
            bss = plan.with_bss_eval and song.kind == "pair"  # it needs two sources
            found = scores(passage.references, stems, plan.sample_rate, bss)
        except StemwireError as error:
            raise type(error)(f"{method.name} on {passage.name}: {error}") from error
        seconds = passage.references.shape[2] / plan.sample_rate
        results.append(Result(method.name, passage.name, song.kind, seconds, elapsed, found))
    return results


def evaluate(
    excerpts: Sequence[Excerpt],
    plan: Plan,
    jobs: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Result]:
    """Results of every method on every passage, in the order of passages and methods.

    Args:
        excerpts: as returned by `choose_excerpts`.
        plan: songs, methods and rate.
        jobs: passages at a time, each in its own process if there are several.
        progress: called with the number of passages done and in all.

    Raises:
        ConfigError: for invalid or repeated methods, or none.
        StemwireError: for the first passage that cannot be measured: figures over fewer songs
            would not be comparable.
    """
    names = [method.name for method in plan.methods]
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"methods must be given, each once, not {', '.join(names) or 'none'}")
    for method in plan.methods:
        method.check(plan.sample_rate)
    task = partial(measure_passage, plan=plan)
    results: list[Result] = []

    def collect(found: Iterable[list[Result]]) -> list[Result]:
        for done, part in enumerate(found, 1):
            results.extend(part)
            progress(done, len(excerpts))
        return results

    if min(jobs, len(excerpts)) <= 1:
        return collect(map(task, excerpts))
    # Spawned, because forks of a process with threads of NumPy or PyTorch may hang.
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the workers: one core each
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(jobs, len(excerpts)), context) as pool:
        try:
            return collect(pool.map(task, excerpts))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
