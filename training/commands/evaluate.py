"""`stemwire evaluate`: quality of presets, checkpoints, other programs' stems and baselines."""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import MofNCompleteColumn

from stemwire.errors import AudioError, ConfigError
from stemwire.progress import progress_bar

if TYPE_CHECKING:
    from stemwire.training.data.manifest import Manifest
    from stemwire.training.evaluation.drift import Drift
    from stemwire.training.evaluation.evaluate import Excerpt, Plan
    from stemwire.training.evaluation.methods import Method

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

SAMPLE_RATE = 44_100  # Hz, the rate of music test sets


def add_parsers(commands: Commands, common: argparse.ArgumentParser) -> None:
    """Add `evaluate` to the `stemwire` command."""
    parser = commands.add_parser(
        "evaluate",
        parents=[common],
        help="measure how well songs with known stems are separated",
        description="Separate songs whose stems are known, as streams, and measure: "
        "BSS Eval v4 as in SiSEC, SDR of whole songs, SI-SDR, leakage into silent parts. "
        "If no method is given, the shipped presets are measured.",
    )
    parser.add_argument(
        "data",
        nargs="+",
        type=Path,
        metavar="DATA",
        help="folders of songs, or the manifest that `stemwire data scan` wrote",
    )
    methods = parser.add_argument_group("methods, all repeatable")
    methods.add_argument("--preset", action="append", default=[], help="name or folder of a preset")
    methods.add_argument(
        "--checkpoint",
        action="append",
        default=[],
        metavar="FILE",
        help="weights (.safetensors); needs PyTorch",
    )
    methods.add_argument(
        "--stems",
        action="append",
        default=[],
        type=Path,
        metavar="DIR",
        help="stems by any program: DIR/SONG/vocals.wav, instrumental.wav",
    )
    methods.add_argument(
        "--baseline",
        action="append",
        default=[],
        metavar="NAME",
        help="mixture, centre, repet-sim, irm (ideal ratio mask, an upper bound) or spleeter",
    )
    parser.add_argument(
        "--backend", default="auto", help="auto, native, onnx, torch or cuda (default: auto)"
    )
    which = parser.add_argument_group("songs")
    which.add_argument("--split", help="only songs of this split, such as test")
    which.add_argument(
        "--excerpt",
        action="append",
        default=[],
        metavar="SONG:START:SECONDS",
        help="only this part of a song; repeatable",
    )
    which.add_argument("--seconds", type=float, help="only the middle of each song")
    which.add_argument(
        "--rate",
        type=int,
        default=SAMPLE_RATE,
        help=f"sample rate of the evaluation in Hz (default: {SAMPLE_RATE})",
    )
    which.add_argument(
        "--cache", type=Path, metavar="DIR", help="cache that `stemwire data cache` wrote"
    )
    parser.add_argument(
        "--no-bss-eval",
        action="store_true",
        help="leave out BSS Eval, which takes most of the time",
    )
    parser.add_argument(
        "--drift",
        type=int,
        metavar="MINUTES",
        help="instead, loop a minute of each song for so many minutes and compare them",
    )
    parser.add_argument("--jobs", type=int, default=1, help="songs at a time (default: 1)")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="OUT",
        help="folder for the report: JSON, Markdown and a picture",
    )
    parser.set_defaults(run=_evaluate)


def _evaluate(args: argparse.Namespace) -> int:
    from stemwire.extras import extra
    from stemwire.training.evaluation.evaluate import Plan, choose_excerpts, evaluate
    from stemwire.training.evaluation.report import markdown, prepare_folder, write

    if args.jobs < 1:
        raise ConfigError(f"jobs must be positive, not {args.jobs}")
    extra("soxr", "reading songs")
    if args.output:
        extra("matplotlib", "the plot")  # now rather than after the last song
        prepare_folder(args.output)
    with _open(args.data) as manifest:
        excerpts = choose_excerpts(manifest, args.split, args.excerpt, args.seconds)
        plan = Plan(manifest, _methods(args), args.rate, args.cache, not args.no_bss_eval)
        if args.drift is None:
            with progress_bar("songs", MofNCompleteColumn()) as update:
                results, drifts = evaluate(excerpts, plan, args.jobs, update), []
        else:
            results, drifts = [], _measure_drifts(excerpts, plan, args.drift)
    print(markdown(results, drifts, plan))
    if args.output:
        for path in write(args.output, results, drifts, plan, [str(path) for path in args.data]):
            print(path)
    return 0


@contextlib.contextmanager
def _open(paths: Sequence[Path]) -> Iterator[Manifest]:
    """Given manifest, or one of the given folders that exists during the block."""
    from stemwire.training.data.manifest import Manifest
    from stemwire.training.data.scan import scan

    files = [path for path in paths if not path.is_dir()]
    if files and len(paths) > 1:
        raise ConfigError(f"{files[0]}: is not a folder; give folders of songs, or one manifest")
    if files:
        yield Manifest(files[0])
        return
    with tempfile.TemporaryDirectory(prefix="stemwire-") as name:
        target = Path(name) / "manifest.jsonl"
        result = scan(paths, target, max_bad=1.0)
        if result.bad:
            first = next(iter(result.bad.values()))
            raise AudioError(
                f"{len(result.bad)} songs cannot be used, the first: {first} (to leave them out, "
                "with `stemwire data scan`, and evaluate the manifest)"
            )
        yield Manifest(target)


def _methods(args: argparse.Namespace) -> tuple[Method, ...]:
    from stemwire.model.preset import shipped_presets
    from stemwire.training.evaluation.methods import Baseline, StemFolder, Streamed

    streamed = [
        *(Streamed(name, False, args.backend) for name in args.preset),
        *(Streamed(name, True, args.backend) for name in args.checkpoint),
    ]
    others: list[Method] = [
        *(StemFolder(path) for path in args.stems),
        *(Baseline(n) for n in args.baseline),
    ]
    if not streamed and not others:
        streamed = [Streamed(preset.name, False, args.backend) for preset in shipped_presets()]
    return (*others, *streamed)


def _measure_drifts(excerpts: Sequence[Excerpt], plan: Plan, minutes: int) -> list[Drift]:
    from stemwire.training.evaluation.drift import measure_drift
    from stemwire.training.evaluation.evaluate import read_passage
    from stemwire.training.evaluation.methods import Streamed

    if minutes < 2:
        raise ConfigError(f"drift needs two minutes or more to compare, not {minutes}")
    methods = [method for method in plan.methods if isinstance(method, Streamed)]
    if len(methods) < len(plan.methods):
        raise ConfigError("drift is measured for presets and checkpoints; leave out the others")
    reader, drifts = plan.reader(), []
    for excerpt in excerpts:
        song = plan.manifest[excerpt.index]
        if song.kind != "pair":
            raise ConfigError(
                f"song {song.name!r} is not a pair of stems; choose others with --excerpt"
            )
        passage = read_passage(excerpt, song, reader, plan.sample_rate)
        for method in methods:
            with progress_bar(
                f"{method.name}, {passage.name}, minutes", MofNCompleteColumn()
            ) as update:
                drifts.append(measure_drift(method, passage, minutes, update))
    return drifts
