"""The `stemwire` command."""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.markup import escape
from rich.progress import TaskProgressColumn
from rich.table import Table

from stemwire import (
    __version__,
    load,
    presets,
)
from stemwire.commands import devices, live, midi, plugin, serve, stream
from stemwire.errors import ConfigError, StemwireError
from stemwire.progress import progress_bar
from stemwire.realtime.levels import STEMS
from stemwire.realtime.streaming import StreamingSeparator
from stemwire.separate import SUBTYPES, Report, same_file, separate_file
from stemwire.training.commands import data, evaluate, train

FAILED, INTERRUPTED = 2, 130  # exit statuses


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    args = _parser().parse_args(arguments)
    for name in ("SIGTERM", "SIGHUP"):  # clean up files as with Ctrl-C
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), _interrupt)
    if sys.stdout is None:  # closed by the caller
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115
    for output in (sys.stdout, sys.stderr):  # file names may not be valid text
        if isinstance(output, io.TextIOWrapper):
            output.reconfigure(errors="backslashreplace")
    try:
        run: Callable[[argparse.Namespace], int] = args.run
        status = run(args)
        sys.stdout.flush()
        return status
    except StemwireError as error:
        return _report_error(error, args.debug)
    except KeyboardInterrupt:
        print("stemwire: interrupted; nothing half-written is left", file=sys.stderr)
        return INTERRUPTED
    except OSError as error:  # of standard output: errors of files are handled where they are used
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(
            error, BrokenPipeError
        ):  # a reader that has closed the pipe needs no message
            print(f"stemwire: standard output: {error.strerror}; free some space", file=sys.stderr)
        return FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="stemwire", description="Splits music into vocals and instrumental while it plays."
    )
    parser.add_argument("--version", action="version", version=f"stemwire {__version__}")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show tracebacks of errors")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    separate = commands.add_parser(
        "separate",
        parents=[common],
        help="split audio files into stems",
        description="Write DIR/<name>/vocals.wav and instrumental.wav for each input: same length, "
        "rate and channels, sample-aligned, summing to the input.",
    )
    separate.add_argument("inputs", nargs="+", type=Path, metavar="INPUT", help="audio files")
    separate.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    separate.add_argument(
        "--preset", default="standard", help="name or folder of the preset (standard)"
    )
    separate.add_argument(
        "--backend", default="auto", help="auto, native, onnx, torch or cuda (auto)"
    )
    separate.add_argument(
        "--format",
        choices=sorted(SUBTYPES),
        default="wav",
        help="wav is 32-bit float, flac 24-bit (wav)",
    )
    separate.set_defaults(run=_separate)

    listing = commands.add_parser("presets", parents=[common], help="list the installed presets")
    listing.set_defaults(run=_presets)

    for module in (live, serve, stream, plugin, devices, midi, data, train, evaluate):
        module.add_parsers(commands, common)
    return parser


def _separate(args: argparse.Namespace) -> int:
    names = [path.stem for path in args.inputs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(
            f"several inputs are named {', '.join(twice)} and would overwrite each other's stems; "
            "separate them into different folders"
        )

    for path in args.inputs:
        if path.stem in ("", ".", ".."):
            raise ConfigError(f"{path}: has no name for its stems; rename it")
    targets = [args.output / name / f"{s}.{args.format}" for name in names for s in STEMS]
    for path in args.inputs:
        if any(same_file(target, path) for target in targets):
            raise ConfigError(f"{path}: would be overwritten by stems; choose another folder")

    def open_separator(sample_rate: int, channels: int) -> StreamingSeparator:
        return load(args.preset, sample_rate, channels, backend=args.backend)

    open_separator(44_100, 2)  # fails before any file if preset or backend cannot work
    failed = 0
    for path in args.inputs:
        try:
            with progress_bar(path.name, TaskProgressColumn()) as update:
                report = separate_file(
                    path, args.output / path.stem, open_separator, args.format, update
                )
        except StemwireError as error:
            _report_error(error, args.debug)
            failed += 1
        else:
            _describe(path, report)
    if failed and len(args.inputs) > 1:
        print(f"stemwire: {failed} of {len(args.inputs)} inputs failed", file=sys.stderr)
    return FAILED if failed else 0


def _describe(path: Path, report: Report) -> None:
    hop_ms = report.hop / report.sample_rate * 1e3
    marks = "  ".join(f"{name} {value:.2f}" for name, value in report.hop_ms.items())
    print(f"{path}: {report.seconds:.1f} s in {report.elapsed:.1f} s")
    for file in report.files:
        print(f"  {file}")
    print(
        f"  delay {report.latency} samples ({report.latency / report.sample_rate * 1e3:.1f} ms "
        f"when live; removed in the files)\n"
        f"  real-time factor {report.real_time_factor:.3f} "
        f"({1 / report.real_time_factor:.1f} times faster than real time)\n"
        f"  time per hop, ms: {marks}  (a hop lasts {hop_ms:.2f})"
    )
    if report.clipped:
        print(
            f"  {report.clipped} samples exceeded full scale and were clipped; --format wav keeps "
            "them"
        )


def _presets(args: argparse.Namespace) -> int:
    heads = ("preset", "delay", "size", "licence", "description")
    rows = [
        (
            preset.name,
            f"{preset.latency} samples, {preset.latency_ms:.1f} ms at {preset.sample_rate} Hz",
            f"{preset.size / 1e6:.1f} MB",
            preset.licence,
            preset.description,
        )
        for preset in presets()
    ]
    if sys.stdout.isatty():
        table = Table(*heads, box=None, pad_edge=False)
        for row in rows:
            table.add_row(*map(escape, row))
        Console().print(table)
    else:  # one line each, for other programs
        for row in (heads, *rows):
            print("\t".join(row))
    return 0


def _report_error(error: StemwireError, debug: bool) -> int:
    """Print a one-line error (with --debug, its traceback) and return the exit status."""
    if debug:
        traceback.print_exception(error)
    print(f"stemwire: {error}".replace("\n", " "), file=sys.stderr)
    return FAILED


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
