"""Speed of training, time of its parts, and share of the processor's peak.

    python benchmarks/training.py MANIFEST [--cache DIR] [--steps 10] [--set NAME=VALUE ...]

Examples are made first, one after the other on one core, and timed apart: in a run they are made by
other processes while the network learns. Then the parts of a step are timed, on a GPU with its
queue emptied before each clock reading. Hours of audio per hour count the examples' seconds, and
the processor time of both: that of a step on all its threads, and that of making its examples.

Operations are those of matrix products and convolutions, forward and backward, as PyTorch counts
them. The peak beside them is that of the product of two matrices of 4096 x 4096 in the precision of
the run, on as many threads, on the same device.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch.utils.flop_counter import FlopCounterMode

from stemwire.training.data.manifest import Manifest
from stemwire.training.data.reader import AudioReader
from stemwire.training.evaluation.report import processor
from stemwire.training.examples.examples import ExampleMaker
from stemwire.training.trainer.loop import Trainer
from stemwire.training.trainer.objectives import Batch, collate
from stemwire.training.trainer.runs import build_network, keep_memory
from stemwire.training.trainer.settings import RunSettings, override

WARM_UP = 2  # steps
PEAK_SIZE = 4096


class Clock:
    """Clock for the parts of a step, in milliseconds, on any device."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.parts = device, dict[str, list[float]]()

    def __call__(self, name: str, part: Callable[[], Any]) -> Any:
        self._synchronise()
        start = time.perf_counter()
        result = part()
        self._synchronise()
        self.parts.setdefault(name, []).append((time.perf_counter() - start) * 1e3)
        return result

    def _synchronise(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def operations(trainer: Trainer, batch: Batch) -> int:
    """Floating-point operations of a step's matrix products and convolutions."""
    with FlopCounterMode(display=False) as counter:
        trainer.fabric.backward(trainer.objective(trainer.fabric.to_device(batch)).mean())
    trainer.network.zero_grad()
    return int(counter.get_total_flops())


def peak(device: torch.device, kind: torch.dtype) -> float:
    """Operations per second of a large matrix product, the best of several."""
    a, b = torch.randn(2, PEAK_SIZE, PEAK_SIZE, device=device).to(kind)
    clock = Clock(device)
    for _ in range(4):
        clock("product", lambda: a @ b)
    return 2 * PEAK_SIZE**3 / min(clock.parts["product"]) * 1e3


def one_step(trainer: Trainer, batch: Batch, clock: Clock) -> None:
    """Train one step like `Trainer.train_step`, timing each part."""
    fabric = trainer.fabric
    batch = clock("to the device", lambda: fabric.to_device(batch))
    loss = clock("forward and loss", lambda: trainer.objective(batch).mean())
    clock("backward", lambda: fabric.backward(loss))

    def update() -> None:
        trainer.optimizers.step(trainer.learning_rate())
        trainer._update_average()

    clock("clipping, update, average", update)


def main() -> None:
    """Print the time of each part, and hours of audio per hour."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("data", type=Path, metavar="MANIFEST")
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--accelerator", default="auto")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--set", dest="changes", action="append", default=[])
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keep_memory()
    settings = override(RunSettings(), args.changes)
    reader = AudioReader(Manifest(args.data), settings.network.sample_rate, args.cache)
    seconds = settings.examples.seconds + settings.context
    maker = ExampleMaker(reader, dataclasses.replace(settings.examples, seconds=seconds), 1)
    fabric = Fabric(accelerator=args.accelerator, devices=1)
    trainer = Trainer(fabric, build_network(settings, None), settings)
    clock, making = Clock(fabric.device), []
    for step in range(WARM_UP + args.steps):
        numbers = [step * settings.batch_size + i for i in range(settings.batch_size)]
        start = time.perf_counter()
        batch = collate([maker(number) for number in numbers], numbers)
        making.append((time.perf_counter() - start) * 1e3 / settings.batch_size)
        one_step(trainer, batch, clock)
    count = operations(trainer, batch)
    print(
        f"{processor()}, {fabric.device}, {args.threads} threads, {settings.precision}, "
        f"{time.strftime('%F')}: {args.steps} steps of {settings.batch_size} examples of "
        f"{settings.examples.seconds:.2f} s"
    )
    total = np.zeros(args.steps)
    for name, times in clock.parts.items():
        total += times[WARM_UP:]
        print(
            f"{name:28} p50 {np.median(times[WARM_UP:]):9.1f} ms  max {max(times[WARM_UP:]):9.1f}"
        )
    print(f"{'a step':28} p50 {np.median(total):9.1f} ms  max {total.max():9.1f}")
    print(
        f"{'an example, one core':28} p50 {np.median(making[WARM_UP:]):9.1f} ms  "
        f"max {max(making[WARM_UP:]):9.1f}"
    )
    spent = np.median(total) + np.median(making[WARM_UP:]) * settings.batch_size / args.threads
    audio_s = settings.batch_size * settings.examples.seconds
    print(
        f"hours of audio per hour: {audio_s / np.median(total) * 1e3:.1f} trained on, "
        f"{settings.examples.seconds / np.median(making[WARM_UP:]) * 1e3:.1f} made per core; "
        f"{audio_s / spent * 1e3:.1f} on {args.threads} cores that do both"
    )
    kind = next(trainer.network.parameters()).dtype
    reached, possible = count / np.median(total) * 1e3, peak(fabric.device, kind)
    print(
        f"{count / audio_s / 1e9:.1f} GFLOP for a second of audio: {reached / 1e9:.0f} GFLOP/s, "
        f"{reached / possible:.0%} of the {possible / 1e9:.0f} of a large product in {kind}"
    )


if __name__ == "__main__":
    main()
