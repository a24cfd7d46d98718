"""`stemwire pretrain`, `stemwire finetune` and `stemwire export`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from stemwire.errors import ConfigError
from stemwire.extras import extra

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

INTERRUPTED = 130  # exit status
NEEDED = ("torch", "lightning_fabric", "soxr", "tensorboard")


def add_parsers(commands: Commands, common: argparse.ArgumentParser) -> None:
    """Add the three commands to the `stemwire` command."""
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="MANIFEST",
        help="manifest that `stemwire data scan` wrote",
    )
    shared.add_argument(
        "--cache", type=Path, metavar="DIR", help="cache that `stemwire data cache` wrote"
    )
    shared.add_argument(
        "-o",
        "--run",
        dest="folder",
        type=Path,
        required=True,
        metavar="RUN",
        help="folder of the run; an existing run is resumed",
    )
    shared.add_argument("--parent", type=Path, help="run, preset or checkpoint to start from")
    shared.add_argument(
        "--set",
        dest="changes",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="setting to change: learning_rate=1e-3, examples.seconds=6 …",
    )
    shared.add_argument("--accelerator", default="auto", help="auto, cpu or cuda (default: auto)")
    shared.add_argument(
        "--devices", type=int, default=1, help="number of devices (default: 1); see also torchrun"
    )
    shared.add_argument(
        "--workers",
        type=int,
        default=1,
        help="processes that make examples, per device (default: 1)",
    )
    shared.add_argument("--threads", type=int, help="CPU threads per process (default: all)")

    pretrain = commands.add_parser(
        "pretrain",
        parents=[common, shared],
        help="train on music without stems",
        description="Pretrain a network on all music in the manifest: by denoising (ddep) or by "
        "filling in hidden frames (masked).",
    )
    pretrain.add_argument("--objective", choices=("ddep", "masked"), required=True)
    pretrain.add_argument(
        "--part",
        choices=("whole", "decoder"),
        help="decoder: leave the encoder unchanged (default: whole)",
    )
    pretrain.set_defaults(run=_train, cooldown=None)

    finetune = commands.add_parser(
        "finetune",
        parents=[common, shared],
        help="train a separator",
        description="Train a separator, from random weights or from a parent. Settings are the "
        "parent's, changed by --set. After an interruption the same command resumes the run.",
    )
    finetune.add_argument(
        "--cooldown",
        type=int,
        metavar="STEPS",
        help="train a copy of the run --parent while its learning rate falls to zero over so "
        "many steps: weights to ship, while that run continues",
    )
    finetune.set_defaults(run=_train, objective="separation", part=None)

    export = commands.add_parser(
        "export",
        parents=[common],
        help="export a run or checkpoint as a preset",
        description="Write a preset's folder: weights, ONNX graph (accepted only if its output "
        "equals PyTorch's), preset.json and a model card. Load the preset by its path.",
    )
    export.add_argument("source", type=Path, metavar="RUN|CHECKPOINT")
    export.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    export.add_argument("--description", required=True, help="one sentence about the preset")
    export.add_argument(
        "--licence", required=True, help="licence of the weights, which the data determines"
    )
    export.add_argument(
        "--figures", type=Path, metavar="JSON", help="report.json that `stemwire evaluate` wrote"
    )
    export.add_argument(
        "--note", action="append", default=[], help="further line of the model card; repeatable"
    )
    export.set_defaults(run=_export)


def _train(args: argparse.Namespace) -> int:
    for name in NEEDED:
        extra(name, "training")
    import torch

    from stemwire.training.trainer.runs import find_parent, prepare_cooldown, run, settings_for

    for name in ("workers", "devices", "threads"):
        value = getattr(args, name)
        if value is not None and value < (0 if name == "workers" else 1):
            raise ConfigError(f"--{name} must be a positive number, not {value}")
    torch.set_num_threads(args.threads or os.cpu_count() or 1)
    if args.cooldown is not None:
        if args.parent is None or args.cooldown < 1:
            raise ConfigError(
                "--cooldown needs at least one step, and a run to cool down: --parent RUN"
            )
        parent = None
        settings = prepare_cooldown(args.parent, args.folder, args.cooldown, args.changes)
    else:
        parent = find_parent(args.parent) if args.parent else None
        settings = settings_for(args.objective, args.part, parent, args.changes)
    complete = run(
        settings,
        parent,
        args.data,
        args.folder,
        cache=args.cache,
        accelerator=args.accelerator,
        devices=args.devices,
        workers=args.workers,
        command=sys.argv[1:],
    )
    if not complete:
        print(
            f"stemwire: interrupted and saved; the same command resumes {args.folder}",
            file=sys.stderr,
        )
        return INTERRUPTED
    print(f"{args.folder}: complete; listen with: stemwire export {args.folder} -o PRESET …")
    return 0


def _export(args: argparse.Namespace) -> int:
    for name in ("torch", "onnx", "lightning_fabric"):
        extra(name, "export")
    from stemwire.training.trainer.export import export_run

    export_run(args.source, args.output, args.description, args.licence, args.figures, args.note)
    print(f"{args.output}: load it with stemwire.load({str(args.output)!r}) or --preset")
    return 0
