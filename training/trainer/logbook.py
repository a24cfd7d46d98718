"""Progress of a run as it trains: a status line, curves, sounds and pictures."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

FLOOR_DB = -80.0


class Sample(NamedTuple):
    """A validation excerpt to hear and to see.

    Attributes:
        spectra: of mixture, estimated and true vocals; complex (F, T) each.
        sounds: mono signals by name, (n,).
    """

    spectra: tuple[torch.Tensor, ...]
    sounds: dict[str, torch.Tensor]


class Logbook:
    """Progress on standard error, `log.jsonl` and TensorBoard events in a run's folder.

    Only the first process writes. Use as a context manager.

    Args:
        folder: folder of the run.
        steps: number of steps in all, or 0 for a run without an end.
        batch_s: seconds of audio in the examples of one step, over all processes.
        sample_rate: of the sounds in a `Sample`, Hz.
        active: whether this process writes.
    """

    def __init__(
        self, folder: Path, steps: int, batch_s: float, sample_rate: int, active: bool
    ) -> None:
        self.folder, self.steps, self.batch_s, self.active = folder, steps, batch_s, active
        self.sample_rate = sample_rate
        self.losses: list[float] = []
        self.data_s = self.step_s = 0.0  # since the last validation
        self.mark = time.monotonic()
        self.writer: Any = None
        self.status: dict[str, str] = {}
        self.console = Console(stderr=True)
        self.live = active and self.console.is_terminal
        self.progress = Progress(
            BarColumn(),
            TextColumn("{task.completed}/{task.total}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}", markup=False),
            console=self.console,
            disable=not self.live,
        )
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

    def open_curves(self, step: int) -> None:
        """Start or resume the curves at `step`; what was logged of later steps is cut off."""
        if self.active:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(self.folder / "tb", purge_step=step)
            log = self.folder / "log.jsonl"
            if log.exists():
                records = map(json.loads, log.read_text().splitlines())
                kept = [record for record in records if record["step"] <= step]
                log.write_text("".join(json.dumps(record) + "\n" for record in kept))
        self.progress.update(self.task, completed=step)
        self.mark = time.monotonic()

    def log_examples_ready(self) -> None:
        """Count the time since the last call as waiting for the next step's examples."""
        now = time.monotonic()
        self.data_s, self.mark = self.data_s + now - self.mark, now

    def log_step(
        self, step: int, loss: float, learning_rate: float, skipped: dict[str, int]
    ) -> None:
        """Log a step.

        Args:
            step: number of steps so far.
            loss: mean over the batch.
            learning_rate: of the next step.
            skipped: names of songs that could not be read, and how often that happened.
        """
        now = time.monotonic()
        self.step_s, self.mark = self.step_s + now - self.mark, now
        self.losses.append(loss)
        self.status["loss"] = f"{np.mean(self.losses[-20:]):.4f}"
        if skipped:
            self.status["unreadable"] = f"{len(skipped)} songs"
        self.progress.update(self.task, completed=step, text=self._text())
        if self.active:
            self.writer.add_scalar("loss", loss, step)
            self.writer.add_scalar("learning_rate", learning_rate, step)

    def log_validation(
        self, step: int, score: float, seconds: float, samples: Sequence[Sample] = ()
    ) -> None:
        """Log a validation and the steps since the last one.

        Args:
            step: number of steps so far.
            score: of the averaged weights; higher is better.
            seconds: time that the validation took.
            samples: excerpts to hear and to see.
        """
        spent = max(1e-9, self.data_s + self.step_s)
        record = {
            "step": step,
            "loss": float(np.mean(self.losses)),
            "score": score,
            "audio_hours_per_hour": len(self.losses) * self.batch_s / spent,
            "seconds_per_step": spent / len(self.losses),
            "share_waiting_for_examples": self.data_s / spent,
            "validation_seconds": seconds,
        }
        self.status["score"] = f"{score:.3f}"
        self.status["speed"] = f"{record['audio_hours_per_hour']:.1f} h/h"
        if self.active:
            with (self.folder / "log.jsonl").open("a") as file:
                file.write(json.dumps(record) + "\n")
            for name in ("score", "audio_hours_per_hour", "share_waiting_for_examples"):
                self.writer.add_scalar(name, record[name], step)
            for number, sample in enumerate(samples):
                self._add_sample(step, number, sample)
            if not self.live:
                print(
                    f"step {step}/{self.steps or '∞'}  {self._text()}", file=sys.stderr, flush=True
                )
        self.losses, self.data_s, self.step_s = [], 0.0, 0.0
        self.progress.update(self.task, text=self._text())
        self.mark = time.monotonic()

    def _text(self) -> str:
        return "  ".join(f"{name} {value}" for name, value in self.status.items())

    def _add_sample(self, step: int, number: int, sample: Sample) -> None:
        images = [spectrogram_image(spectrum) for spectrum in sample.spectra]
        image = torch.cat(images, 1).flip(0)[None]  # side by side, low notes below
        self.writer.add_image(f"{number} mixture, estimate, truth", image, step)
        for name, sound in sample.sounds.items():
            sound = sound.clamp(-1, 1).cpu()
            self.writer.add_audio(f"{number} {name}", sound, step, self.sample_rate)


def spectrogram_image(spec: torch.Tensor) -> torch.Tensor:
    """Complex (F, T) -> grey levels from 0 to 1: the 80 dB below the loudest bin."""
    power = 20 * torch.log10(spec.abs() + 1e-6)
    grey: torch.Tensor = ((power - power.max()).clamp(FLOOR_DB, 0) / -FLOOR_DB + 1).cpu()
    return grey
