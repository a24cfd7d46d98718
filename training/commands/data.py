"""`stemwire data scan` and `stemwire data cache`; `stemwire data examples` is in `examples`."""

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
NAMED = 3  # files of unknown kind named per folder


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
        help="files read at a time (default: one per CPU)",
    )
    shared.add_argument(
        "--max-bad",
        type=float,
        default=0.05,
        metavar="SHARE",
        help="largest share of bad songs (default: 0.05)",
    )

    scan = below.add_parser(
        "scan",
        parents=[common, shared],
        help="write a manifest of the songs in folders",
        description="Find the songs in folders, measure their files and write a manifest. Files "
        "unchanged since the last scan are not read again. Supported layouts: folders of mixture, "
        "vocals, accompaniment or drums, bass, other; mixtures/ beside instruments/; MUSDB18 and "
        "MUSDB18-HQ; a manifest.csv; and loose files in folders called vocals, instrumental, "
        "mixture and the like.",
    )
    scan.add_argument("roots", nargs="+", type=Path, metavar="DIR", help="folders with songs")
    scan.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="MANIFEST",
        help="file to write, such as manifest.jsonl",
    )
    scan.add_argument(
        "--kind", choices=KINDS, help="kind of all loose files (default: from folders' names)"
    )
    scan.add_argument(
        "--split",
        metavar="NAME",
        help="split of all songs: train, valid, test … (default: from folders' names)",
    )
    scan.add_argument(
        "--licence",
        action="append",
        default=[],
        metavar="PATTERN",
        help="only songs of this licence, such as 'CC0*'; repeatable (default: all)",
    )
    scan.add_argument(
        "--valid",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="share of the training pairs kept for validation (default: 0)",
    )
    scan.add_argument(
        "--tolerance",
        type=int,
        default=16,
        metavar="SAMPLES",
        help="largest difference in length of a song's files (default: 16)",
    )
    scan.add_argument(
        "--decode", action="store_true", help="decode whole files, not only their ends"
    )
    scan.set_defaults(run=_scan)

    cache = below.add_parser(
        "cache",
        parents=[common, shared],
        help="decode and resample once, for faster training",
        description="Write the songs of a manifest as 16-bit samples at one rate. After an "
        "interruption the same command resumes. A minute of stereo takes 10 MB at 44.1 kHz, of a "
        "pair 21 MB.",
    )
    cache.add_argument(
        "manifest", type=Path, metavar="MANIFEST", help="manifest that `stemwire data scan` wrote"
    )
    cache.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    cache.add_argument(
        "--rate", type=int, default=44_100, help="sample rate in Hz (default: 44100)"
    )
    cache.set_defaults(run=_cache)

    add_examples_parser(below, common)


def _scan(args: argparse.Namespace) -> int:
    extra("soundfile", "stemwire data")
    from stemwire.training.data.scan import scan

    with _progress("files") as (update, print_line):
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
            report=lambda text: print_line(f"bad: {text}"),
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
    from stemwire.training.data.decode import printable

    for note in survey.notes:
        print(note)
    for folder, names in survey.unknown.items():
        some = ", ".join(printable(name) for name in names[:NAMED])
        print(
            f"{printable(folder)}: {len(names)} files left out, of unknown kind or not readable "
            f"by libsndfile ({some}{' …' if len(names) > NAMED else ''}); see --kind"
        )


def _print_copies(result: Scan) -> None:
    for song, first in result.copies:
        if song.split != first.split:
            print(
                f"warning: {song.name} ({song.split}) is the same recording as {first.name} "
                f"({first.split}); remove one of them"
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
    else:  # one line per row, for other programs
        for row in (heads, *rows):
            print("\t".join(row))


def _cache(args: argparse.Namespace) -> int:
    extra("soxr", "stemwire data cache")
    from stemwire.training.data.cache import write_cache
    from stemwire.training.data.manifest import Manifest

    manifest = Manifest(args.manifest)
    with _progress("songs") as (update, print_line):
        result = write_cache(
            manifest,
            args.output,
            args.rate,
            jobs=args.jobs,
            max_bad=args.max_bad,
            report=lambda text: print_line(f"bad: {text}"),
            progress=update,
        )
    print(
        f"{args.output}: {result.written} songs written, {result.existing} there already, "
        f"{len(result.bad)} bad; {result.size / 1e9:.2f} GB at {args.rate} Hz"
    )
    return 0


@contextlib.contextmanager
def _progress(what: str) -> Iterator[tuple[Callable[[int, int], None], Callable[[str], None]]]:
    """Progress bar on standard error, if it is a terminal, and a function to print above it."""
    # A copy of the stream, because the original is muted while the MP3 decoder runs.
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
