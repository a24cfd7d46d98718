"""`stemwire data scan` and `stemwire data cache`; `stemwire data examples` is `preview`'s."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from stemwire.extras import extra
from stemwire.training.commands.examples import add_examples_parser

if TYPE_CHECKING:
    from stemwire.training.data.layouts import Survey
    from stemwire.training.data.scan import Scan

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

KINDS = ("vocals", "accompaniment", "mixture")
NAMED = 3  # files of unknown kind that are named, of each folder


def add_parsers(commands: Commands, common: argparse.ArgumentParser) -> None:
    """Add `data` to the `stemwire` command."""
    data = commands.add_parser("data", help="prepare recordings for training and evaluation")
    below = data.add_subparsers(metavar="COMMAND", required=True)
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(
        "--jobs",
        type=int,
        default=os.cpu_count() or 1,
        metavar="N",
        help="files read at a time (one per CPU)",
    )
    shared.add_argument(
        "--max-bad",
        type=float,
        default=0.05,
        metavar="SHARE",
        help="share of the songs that may be bad (0.05)",
    )

    scan = below.add_parser(
        "scan",
        parents=[common, shared],
        help="make a manifest of the songs in folders",
        description="Find the songs in folders, measure their files and write a manifest. What has "
        "not changed since the last scan is not read again. Understood are folders of mixture, "
        "vocals, accompaniment or drums, bass, other; mixtures/ beside instruments/; MUSDB18 and "
        "MUSDB18-HQ; a manifest.csv; and loose files in folders called vocals, instrumental, "
        "mixture and the like.",
    )
    scan.add_argument("roots", nargs="+", type=Path, metavar="DIR", help="folders")
    scan.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="MANIFEST",
        help="file to write, such as manifest.jsonl",
    )
    scan.add_argument("--kind", choices=KINDS, help="of all loose files (told by folders' names)")
    scan.add_argument(
        "--split", metavar="NAME", help="of all songs: train, valid, test … (told by folders)"
    )
    scan.add_argument(
        "--licence",
        action="append",
        default=[],
        metavar="PATTERN",
        help="only songs of this licence, as 'CC0*'; repeatable (all)",
    )
    scan.add_argument(
        "--valid",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="share of the training pairs kept for validation (0)",
    )
    scan.add_argument(
        "--tolerance",
        type=int,
        default=16,
        metavar="SAMPLES",
        help="by which the files of a song may differ in length (16)",
    )
    scan.add_argument(
        "--decode", action="store_true", help="decode all of every file, not only its end"
    )
    scan.set_defaults(run=_scan)

    cache = below.add_parser(
        "cache",
        parents=[common, shared],
        help="decode and resample once, for faster training",
        description="Write the songs of a manifest as 16-bit samples at one rate. Interrupted, the "
        "same command goes on. A minute of stereo takes 10 MB at 44.1 kHz, of a pair 21 MB.",
    )
    cache.add_argument(
        "manifest", type=Path, metavar="MANIFEST", help="what `stemwire data scan` wrote"
    )
    cache.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    cache.add_argument("--rate", type=int, default=44_100, help="sample rate in Hz (44100)")
    cache.set_defaults(run=_cache)

    add_examples_parser(below, common)


def _scan(args: argparse.Namespace) -> int:
    extra("soundfile", "stemwire data")
    from stemwire.training.data.scan import scan

    with _progress("files") as (update, say):
        result = scan(
            args.roots,
            args.output,
            kind=args.kind,
            split=args.split,
            licences=args.licence,
            valid=args.valid,
            max_bad=args.max_bad,
            tolerance=args.tolerance,
            decode_all=args.decode,
            jobs=args.jobs,
            report=lambda text: say(f"bad: {text}"),
            progress=update,
        )
    _print_notes(result.survey)
    _print_copies(result)
    _print_totals(result)
    print(
        f"{args.output}: {len(result.songs)} songs, {len(result.bad)} bad; {result.files} files, "
        f"{result.read} of them new or changed"
    )
    return 0


def _print_notes(survey: Survey) -> None:
    from stemwire.training.data.decode import shown

    for note in survey.notes:
        print(note)
    for folder, names in survey.unknown.items():
        some = ", ".join(shown(name) for name in names[:NAMED])
        print(
            f"{shown(folder)}: {len(names)} files left out, whose kind nothing says or that "
            f"libsndfile does not read ({some}{' …' if len(names) > NAMED else ''}); see --kind"
        )


def _print_copies(result: Scan) -> None:
    for song, first in result.copies:
        if song.split != first.split:
            print(
                f"warning: {song.name} ({song.split}) is the same recording as {first.name} "
                f"({first.split}); take one of them away"
            )
    if result.copies:
        print(f"{len(result.copies)} songs are copies of others")


def _print_totals(result: Scan) -> None:
    """Songs and hours by split and kind."""
    totals: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0, 0.0])
    for song in result.songs:
        total = totals[song.split, song.kind]
        total[0] += 1
        total[1] += song.seconds / 3600
    heads = ("split", "kind", "songs", "hours")
    rows = [
        (*key, f"{songs:.0f}", f"{hours:.2f}") for key, (songs, hours) in sorted(totals.items())
    ]
    if sys.stdout.isatty():
        table = Table(box=None, pad_edge=False)
        for number, head in enumerate(heads):
            table.add_column(head, justify="right" if number > 1 else "left")
        for row in rows:
            table.add_row(*row)
        Console().print(table)
    else:  # one line each, for other programs
        for row in (heads, *rows):
            print("\t".join(row))


def _cache(args: argparse.Namespace) -> int:
    extra("soxr", "stemwire data cache")
    from stemwire.training.data.cache import write_cache
    from stemwire.training.data.manifest import Manifest

    manifest = Manifest(args.manifest)
    with _progress("songs") as (update, say):
        result = write_cache(
            manifest,
            args.output,
            args.rate,
            jobs=args.jobs,
            max_bad=args.max_bad,
            report=lambda text: say(f"bad: {text}"),
            progress=update,
        )
    print(
        f"{args.output}: {result.made} songs written, {result.kept} there already, "
        f"{len(result.bad)} bad; {result.size / 1e9:.2f} GB at {args.rate} Hz"
    )
    return 0


@contextlib.contextmanager
def _progress(what: str) -> Iterator[tuple[Callable[[int, int], None], Callable[[str], None]]]:
    """Progress bar on standard error, if that is a terminal, and a way to print beside it."""
    # A copy of the stream, because what the MP3 decoder says is kept from the original.
    with contextlib.ExitStack() as stack:
        stream = sys.stderr
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream = stack.enter_context(
                os.fdopen(os.dup(sys.stderr.fileno()), "w", errors="backslashreplace")
            )
        console = Console(file=stream)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        bar = stack.enter_context(
            Progress(
                *columns,
                TimeRemainingColumn(),
                console=console,
                transient=True,
                disable=not console.is_terminal,
            )
        )
        task = bar.add_task(what, total=None)
        yield (
            lambda done, total: bar.update(task, completed=done, total=total),
            lambda text: console.print(text, markup=False, highlight=False, soft_wrap=True),
        )
