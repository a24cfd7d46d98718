"""What a run tells while it goes on: a live line, curves, sounds and pictures."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from stemwire.training.examples.examples import Example
from stemwire.training.trainer.objectives import collate

if TYPE_CHECKING:
    from stemwire.training.trainer.loop import Trainer

SAMPLES = 2  # validation excerpts that can be heard and seen
FLOOR_DB = -80.0


class Logbook:
    """Progress on standard error, `log.jsonl` and TensorBoard events in a run's folder.

    Only the first process writes. Use as a context manager.

    Args:
        folder: of the run.
        steps: in all.
        example_s: seconds of audio learned from in one step, over all processes.
        active: whether this process writes.
    """

    def __init__(self, folder: Path, steps: int, example_s: float, active: bool) -> None:
        self.folder, self.steps, self.example_s, self.active = folder, steps, example_s, active
        self.losses: list[float] = []
        self.data_s = self.step_s = 0.0
        self.mark = time.monotonic()
        self.writer: Any = None
        self.line: dict[str, str] = {}
        self.console = Console(stderr=True)
        self.live = active and self.console.is_terminal
        self.progress = Progress(
            BarColumn(), TextColumn("{task.completed}/{task.total}"), TimeRemainingColumn(),
            TextColumn("{task.fields[text]}", markup=False),
            console=self.console, disable=not self.live,
        )  # fmt: skip
        self.task = self.progress.add_task("train", total=steps or None, text="")

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.progress.stop()
        if self.writer is not None:
            self.writer.close()

    def start(self, step: int) -> None:
        """Begin, or go on, at `step`; curves of a future that was lost are cut off."""
        if self.active:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(self.folder / "tb", purge_step=step)
            log = self.folder / "log.jsonl"
            if log.exists():
                kept = [r for r in map(json.loads, log.read_text().splitlines())
                        if r["step"] <= step]  # fmt: skip
                log.write_text("".join(json.dumps(record) + "\n" for record in kept))
        self.progress.update(self.task, completed=step)
        self.mark = time.monotonic()

    def waited(self) -> None:
        """The examples of the next step are here."""
        now = time.monotonic()
        self.data_s, self.mark = self.data_s + now - self.mark, now

    def stepped(self, step: int, loss: float, rate: float, skipped: dict[str, int]) -> None:
        """One step is done."""
        now = time.monotonic()
        self.step_s, self.mark = self.step_s + now - self.mark, now
        self.losses.append(loss)
        self.line["loss"] = f"{np.mean(self.losses[-20:]):.4f}"
        if skipped:
            self.line["unreadable"] = f"{len(skipped)} songs"
        self.progress.update(self.task, completed=step, text=self._text())
        if self.active:
            self.writer.add_scalar("loss", loss, step)
            self.writer.add_scalar("learning_rate", rate, step)

    def validated(
        self, step: int, score: float, trainer: Trainer, examples: list[Example], seconds: float
    ) -> None:
        """A validation is done: log what happened since the last one."""
        spent = max(1e-9, self.data_s + self.step_s)
        record = {
            "step": step,
            "loss": float(np.mean(self.losses)),
            "score": score,
            "audio_hours_per_hour": len(self.losses) * self.example_s / spent,
            "seconds_per_step": spent / len(self.losses),
            "share_waiting_for_examples": self.data_s / spent,
            "validation_seconds": seconds,
        }
        self.line["score"] = f"{score:.3f}"
        self.line["speed"] = f"{record['audio_hours_per_hour']:.1f} h/h"
        if self.active:
            with (self.folder / "log.jsonl").open("a") as file:
                file.write(json.dumps(record) + "\n")
            for name in ("score", "audio_hours_per_hour", "share_waiting_for_examples"):
                self.writer.add_scalar(name, record[name], step)
            if not trainer.settings.pretraining:
                self._samples(step, trainer, examples[:SAMPLES])
            if not self.live:
                print(
                    f"step {step}/{self.steps or '∞'}  {self._text()}", file=sys.stderr, flush=True
                )
        self.losses, self.data_s, self.step_s = [], 0.0, 0.0
        self.progress.update(self.task, text=self._text())
        self.mark = time.monotonic()

    def _text(self) -> str:
        return "  ".join(f"{name} {value}" for name, value in self.line.items())

    @torch.no_grad()
    def _samples(self, step: int, trainer: Trainer, examples: list[Example]) -> None:
        """Mixture, estimate and truth of some validation excerpts, to hear and to see."""
        rate = trainer.network.config.sample_rate
        for number, example in enumerate(examples):
            batch = trainer.fabric.to_device(collate([example], [number]))
            mixture = trainer.measure.audio(batch.vocals + batch.music)
            spec = trainer.measure.transform(mixture)
            estimate = trainer.average(spec)[:, 0]
            truth = trainer.measure.transform(trainer.measure.audio(batch.vocals))
            pictures = [decibels(x[0].mean(0)) for x in (spec, estimate, truth)]
            picture = torch.cat(pictures, 1).flip(0)[None]  # side by side, low notes below
            self.writer.add_image(f"{number} mixture, estimate, truth", picture, step)
            audio = trainer.measure.transform.inverse(estimate)[0].mean(0)
            self.writer.add_audio(f"{number} vocals", audio.clamp(-1, 1).cpu(), step, rate)
            if step <= trainer.settings.every:
                for name, signal in (("mixture", mixture), ("truth", batch.vocals)):
                    sound = signal[0].mean(0).clamp(-1, 1).cpu()
                    self.writer.add_audio(f"{number} {name}", sound, step, rate)


def decibels(spec: torch.Tensor) -> torch.Tensor:
    """Complex (F, T) -> grey levels 0 to 1 over 80 dB below the loudest bin."""
    power = 20 * torch.log10(spec.abs() + 1e-6)
    grey: torch.Tensor = ((power - power.max()).clamp(FLOOR_DB, 0) / -FLOOR_DB + 1).cpu()
    return grey
