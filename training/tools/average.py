"""The mean of a run's weights and others' of the same network.

    python -m stemwire.training.tools.average RUN OTHER … -o OUT

Weights that lie at the ends of one path of training can be better in the middle than at either end
(Wortsman et al. 2022, "Model soups", section 3). OUT is a run's folder that `stemwire export`
takes: RUN's description, and the mean as its weights. OTHER is a run, a preset or a checkpoint.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from stemwire.errors import CheckpointError, StemwireError
from stemwire.model.checkpoint import load_checkpoint, save_checkpoint
from stemwire.training.trainer.runs import find_parent
from stemwire.training.trainer.settings import FILE, read_run


@torch.no_grad()
def average(run: Path, others: Sequence[Path], out: Path) -> None:
    """Write the mean of the last weights of `run` and those of `others` to the run folder `out`.

    Raises:
        CheckpointError: if `run` is no run, one of them has another network, or `out` is there.
    """
    read_run(run)
    if out.exists():
        raise CheckpointError(f"{out}: is there already; choose another folder")
    networks = [load_checkpoint(run / "ema.safetensors")]
    networks += [load_checkpoint(find_parent(path).checkpoint) for path in others]
    for path, network in zip(others, networks[1:], strict=True):
        if network.config != networks[0].config:
            raise CheckpointError(f"{path}: has another network than {run}; average equal ones")
    for weights in zip(*(network.parameters() for network in networks), strict=True):
        weights[0].copy_(torch.stack(list(weights)).mean(0))
    out.mkdir(parents=True)
    save_checkpoint(networks[0], out / "ema.safetensors", averaged=str(len(networks)))
    shutil.copy(run / FILE, out / FILE)


def main(argv: Sequence[str] | None = None) -> int:
    """Average, and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="stemwire.training.tools.average",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("others", type=Path, nargs="+", metavar="OTHER")
    parser.add_argument("-o", "--out", type=Path, required=True)
    args = parser.parse_args(argv)
    try:
        average(args.run, args.others, args.out)
    except StemwireError as error:
        print(f"stemwire: {error}", file=sys.stderr)
        return 2
    print(f"{args.out}: export it with stemwire export {args.out} -o PRESET …")
    return 0


if __name__ == "__main__":
    sys.exit(main())
