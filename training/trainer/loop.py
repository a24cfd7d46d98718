"""The training loop: one path for a CPU, a GPU, many of them, and many machines.

Lightning Fabric places the work; the result depends only on settings, manifest and step. Step
k takes examples k * batch_size to (k + 1) * batch_size, divided evenly among processes and
accumulated parts.
A run folder holds

    run.json            settings, parent, data
    checkpoint.pt       everything needed to resume, replaced atomically
    ema.safetensors     averaged weights of the last checkpoint, the ones that are exported
    best.safetensors    averaged weights of the best validation
    log.jsonl, tb/      curves, for programs and for TensorBoard
"""

from __future__ import annotations

import copy
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from stemwire.errors import CheckpointError, ConfigError, OutputError, StemwireError, TrainingError
from stemwire.files import atomic_write
from stemwire.model import Separator
from stemwire.model.checkpoint import save_checkpoint
from stemwire.training.examples.clips import ClipMaker
from stemwire.training.examples.examples import Example, ExampleMaker
from stemwire.training.trainer.logbook import Logbook, Sample
from stemwire.training.trainer.objectives import (
    OBJECTIVES,
    Batch,
    Objective,
    Separation,
    collate,
    freeze_encoder,
)
from stemwire.training.trainer.optimizers import Optimizers
from stemwire.training.trainer.settings import RunSettings

SAMPLES = 2  # validation excerpts that can be heard and seen

Maker = ExampleMaker | ClipMaker
LocalBatch = tuple[list[Batch], dict[str, int]]
"""Parts to accumulate, and how often each unreadable song was skipped so far."""


class LocalBatches(Dataset[LocalBatch | StemwireError]):
    """Part of the batch that one process trains on, for each step from `first` on.

    An error comes as a value: raised in a worker it would arrive wrapped in tracebacks.
    """

    def __init__(self, maker: Maker, settings: RunSettings, fabric: Fabric, first: int) -> None:
        parts = fabric.world_size * settings.accumulate
        if settings.batch_size % parts:
            raise ConfigError(
                f"batch_size {settings.batch_size} cannot be divided among {fabric.world_size} "
                f"processes and {settings.accumulate} accumulated parts; make it a multiple of "
                f"{parts}"
            )
        self.maker, self.settings, self.first = maker, settings, first
        self.size = settings.batch_size // parts
        self.offset = fabric.global_rank * settings.accumulate * self.size

    def __len__(self) -> int:
        return self.settings.steps - self.first if self.settings.steps else sys.maxsize

    def __getitem__(self, index: int) -> LocalBatch | StemwireError:
        start = (self.first + index) * self.settings.batch_size + self.offset
        parts = []
        try:
            for part in range(self.settings.accumulate):
                numbers = [start + part * self.size + i for i in range(self.size)]
                parts.append(collate([self.maker(n) for n in numbers], numbers))
        except StemwireError as error:
            return error
        return parts, dict(self.maker.skipped)


class Trainer:
    """Network, its average, its optimizers and the current step.

    Args:
        fabric: launched Fabric.
        network: network to train; moved to the fabric's device.
        settings: settings of the run.
    """

    def __init__(self, fabric: Fabric, network: Separator, settings: RunSettings) -> None:
        self.fabric, self.settings = fabric, settings
        self.step, self.best, self.stale = 0, -math.inf, 0
        network.train()
        if settings.part == "decoder":
            freeze_encoder(network)
        self.average = copy.deepcopy(network).requires_grad_(False).eval().to(fabric.device)
        network.to(fabric.device)
        self.optimizers = Optimizers(network, settings)
        kind = OBJECTIVES[settings.objective]
        self.network = network
        self.objective = fabric.setup(kind(network, settings))
        self.ema_objective: Objective = kind(self.average, settings).to(fabric.device)

    def learning_rate(self) -> float:
        """Learning rate of the next step: linear warm-up, constant, then a fall to zero.

        It falls as one minus a square root (Hägele et al. 2024, "Scaling laws and compute-optimal
        training beyond fixed training durations", section 3).
        """
        settings = self.settings
        warm = min(1.0, (self.step + 1) / max(1, settings.warmup_steps))
        cooldown = min(settings.cooldown_steps, settings.steps)
        past = self.step - (settings.steps - cooldown)
        if cooldown and past > 0:
            warm *= max(0.0, 1 - math.sqrt(past / cooldown))
        return settings.learning_rate * warm

    def train_step(self, parts: list[Batch], bad_batch: Path | None = None) -> float:
        """One optimizer step over all processes; returns the mean loss of the whole batch.

        Args:
            parts: this process's part of the batch, split for gradient accumulation.
            bad_batch: file to save this process's part to if its loss is not finite.

        Raises:
            TrainingError: if the loss is not finite, or memory runs out.
        """
        total = torch.zeros((), device=self.fabric.device)
        try:
            for index, part in enumerate(parts):
                waiting = index < len(parts) - 1
                with self.fabric.no_backward_sync(self.objective, enabled=waiting):
                    loss = self.objective(self.fabric.to_device(part)).mean() / len(parts)
                    self._check(loss, part, bad_batch)
                    self.fabric.backward(loss)
                total += loss.detach()
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not isinstance(error, RuntimeError) or "memory" in str(error).lower():
                share = len(parts[0].numbers)
                raise TrainingError(
                    f"out of memory with {share} examples at a time in each process; raise "
                    "accumulate, or lower batch_size, examples.seconds or context (--set "
                    "NAME=VALUE)"
                ) from error
            raise
        self.optimizers.step(self.learning_rate())
        self.step += 1
        self._update_average()
        reduced = self.fabric.all_reduce(total, reduce_op="mean")
        return float(reduced.item()) if isinstance(reduced, Tensor) else float(total.item())

    def _check(self, loss: Tensor, part: Batch, bad_batch: Path | None) -> None:
        if torch.isfinite(loss):
            return
        saved = ""
        if bad_batch is not None:
            torch.save({"step": self.step, **part._asdict()}, bad_batch)
            saved = f"; the examples are in {bad_batch}"
        raise TrainingError(
            f"the loss of step {self.step} is {loss.item()}{saved}; look at them, and lower the "
            "learning rate (--set learning_rate=VALUE) or train in float32 (--set "
            "precision=32-true)"
        )

    @torch.no_grad()
    def _update_average(self) -> None:
        blend = min(self.settings.ema_decay, (1 + self.step) / (10 + self.step))
        for name, slow in self.average.named_parameters():
            slow.lerp_(self.optimizers.weights[name], 1 - blend)

    @torch.no_grad()
    def validate(self, examples: list[Example]) -> float:
        """Score of the averaged weights; higher is better, NaN if there is nothing to measure.

        For separation it is the mean improvement in vocals SDR over the mixture, in dB, of the
        examples with vocals; for pretraining the negative mean loss.
        """
        scores = []
        for number, example in enumerate(examples):
            batch = self.fabric.to_device(collate([example], [number]))
            if self.settings.pretraining:
                scores.append(-self.ema_objective(batch).item())
                continue
            vocals, music = (self.ema_objective.audio(x) for x in (batch.vocals, batch.music))
            assert isinstance(self.ema_objective, Separation)
            estimate = self.ema_objective.estimate(vocals + music)
            vocals, music = (x[..., : estimate.shape[-1]] for x in (vocals, music))
            error = (estimate - vocals).square().sum()
            if vocals.square().sum() > 1e-3 * music.square().sum():
                scores.append(10 * torch.log10(music.square().sum() / error).item())
        return sum(scores) / len(scores) if scores else math.nan

    @torch.no_grad()
    def samples(self, examples: list[Example]) -> list[Sample]:
        """Validation excerpts as the averaged weights separate them.

        Mixture and true vocals, which never change, are among the sounds up to the first
        validation only.
        """
        samples = []
        transform = self.ema_objective.transform
        for number, example in enumerate(examples):
            batch = self.fabric.to_device(collate([example], [number]))
            mixture = self.ema_objective.audio(batch.vocals + batch.music)
            spec = transform(mixture)
            estimate = self.average(spec)[:, 0]
            truth = transform(self.ema_objective.audio(batch.vocals))
            spectra = tuple(x[0].mean(0) for x in (spec, estimate, truth))
            sounds = {"vocals": transform.inverse(estimate)[0].mean(0)}
            if self.step <= self.settings.validate_every:
                sounds |= {"mixture": mixture[0].mean(0), "truth": batch.vocals[0].mean(0)}
            samples.append(Sample(spectra, sounds))
        return samples

    def state(self) -> dict[str, Any]:
        """Everything needed to resume."""
        return {
            "step": self.step,
            "best": self.best,
            "stale": self.stale,
            "network": {name: w.detach() for name, w in self.optimizers.weights.items()},
            "average": self.average.state_dict(),
            "optimizer": self.optimizers.state(),
        }

    def save(self, folder: Path) -> None:
        """Write checkpoint and averaged weights; the previous ones stay until both are complete.

        Raises:
            OutputError: if they cannot be written, for instance on a full disk.
        """
        try:
            with atomic_write(folder / "checkpoint.pt") as file:
                torch.save(self.state(), file)
                save_checkpoint(self.average, folder / "ema.safetensors", step=str(self.step))
        except (OSError, RuntimeError) as error:  # torch.save turns some of the first into others
            raise OutputError(
                f"{folder}: the checkpoint of step {self.step} cannot be written ({error}); the "
                "previous one is kept; free space and run the same command again"
            ) from error

    def resume(self, folder: Path) -> bool:
        """Resume from the checkpoint in `folder`; False if there is none.

        Raises:
            CheckpointError: if the checkpoint is damaged or of another network.
        """
        path = folder / "checkpoint.pt"
        if not path.exists():
            return False
        try:
            state = torch.load(path, map_location=self.fabric.device, weights_only=True)
            self.optimizers.load(state["network"], state["optimizer"])
            self.average.load_state_dict(state["average"])
            self.step, self.best, self.stale = state["step"], state["best"], state["stale"]
        except Exception as error:  # a damaged pickle may raise anything
            raise CheckpointError(
                f"{path}: cannot be resumed ({error!r}); start another run, with this one's "
                "ema.safetensors as --parent"
            ) from error
        return True


def train(
    trainer: Trainer, maker: Maker, folder: Path, logbook: Logbook, workers: int, stop: list[int]
) -> bool:
    """Train until the last step, early stopping, or until a signal is in `stop`.

    Returns:
        Whether the run is complete.
    """
    fabric, settings = trainer.fabric, trainer.settings
    if trainer.resume(folder):
        fabric.print(f"resuming at step {trainer.step} of {settings.steps}")
    if 0 < settings.patience <= trainer.stale:
        return True
    examples = maker.validation(settings.validation_examples)
    batches = LocalBatches(maker, settings, fabric, trainer.step)
    bad_batch = folder / f"bad-batch-{fabric.global_rank}.pt"
    logbook.open_curves(trainer.step)
    for parts, skipped in _prefetch(batches, workers, fabric):
        logbook.log_examples_ready()
        loss = trainer.train_step(parts, bad_batch)
        logbook.log_step(trainer.step, loss, trainer.learning_rate(), skipped)
        halt = _any_process(fabric, bool(stop))
        last = trainer.step == settings.steps
        if trainer.step % settings.validate_every == 0 or last:
            _validate(trainer, examples, folder, logbook)
        early = 0 < settings.patience <= trainer.stale
        if fabric.is_global_zero and (
            trainer.step % settings.save_every == 0 or last or halt or early
        ):
            trainer.save(folder)
        if early:
            fabric.print(f"stopped early: no improvement in {trainer.stale} validations")
            return True
        if halt:
            return False
    return True


def _prefetch(batches: LocalBatches, workers: int, fabric: Fabric) -> Iterator[LocalBatch]:
    loader = DataLoader(
        batches,
        batch_size=None,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        pin_memory=fabric.device.type == "cuda",
    )
    for item in loader:
        if isinstance(item, StemwireError):
            raise item
        yield item


def _any_process(fabric: Fabric, flag: bool) -> bool:
    """Whether the flag is set in any process: all must stop at the same step."""
    if fabric.world_size == 1:
        return flag
    total = fabric.all_reduce(torch.tensor(float(flag), device=fabric.device), reduce_op="sum")
    return bool(total)


def _validate(trainer: Trainer, examples: list[Example], folder: Path, logbook: Logbook) -> None:
    """Validate the averaged weights and keep the best. Every process does the same."""
    started = time.monotonic()
    score = trainer.validate(examples)
    if score > trainer.best:
        trainer.best, trainer.stale = score, 0
        if trainer.fabric.is_global_zero:
            save_checkpoint(trainer.average, folder / "best.safetensors", step=str(trainer.step))
    else:
        trainer.stale += 1
    seconds = time.monotonic() - started
    shown = logbook.active and not trainer.settings.pretraining
    samples = trainer.samples(examples[:SAMPLES]) if shown else []
    logbook.log_validation(trainer.step, score, seconds, samples)
