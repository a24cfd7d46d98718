"""Finetuning: `python -m stemwire.training.train CACHE -o RUN`; run again, it resumes to the step.

A run folder holds `state.pt` (everything needed to go on), `ema.safetensors` (the averaged weights,
which are what ships) and `log.jsonl`.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import math
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from stemwire.model import Separator, SeparatorConfig
from stemwire.model.checkpoint import load_checkpoint, save_checkpoint
from stemwire.training.data import Cache
from stemwire.training.examples import Example, ExampleMaker, ExampleSettings
from stemwire.training.spectra import Transform, band_limit, separation_loss


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """What a run does; written into its folder.

    Attributes:
        steps: optimizer steps in all; the learning rate falls to zero over them (cosine).
        batch: examples per step.
        rate: peak learning rate, reached after `warmup` steps.
        decay: weight decay of AdamW.
        ema: decay of the averaged weights.
        clip: largest gradient norm.
        bf16: bfloat16 arithmetic in the network (sums and losses stay float32).
        seed: seed of weights and examples.
        every: steps between validations and checkpoints.
    """

    steps: int = 2400
    batch: int = 4
    rate: float = 1.5e-3
    warmup: int = 100
    decay: float = 0.01
    ema: float = 0.998
    clip: float = 1.0
    bf16: bool = True
    seed: int = 1
    every: int = 100
    examples: ExampleSettings = dataclasses.field(default_factory=ExampleSettings)


class Batches(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Batch of step k: vocals and accompaniment (B, 2, n), bandwidth (B,) in Hz."""

    def __init__(self, maker: ExampleMaker, batch: int, first: int, last: int) -> None:
        self.maker, self.batch, self.first, self.last = maker, batch, first, last

    def __len__(self) -> int:
        return self.last - self.first

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        number = (self.first + index) * self.batch
        return collate([self.maker(number + i) for i in range(self.batch)])


def collate(examples: list[Example]) -> tuple[Tensor, Tensor, Tensor]:
    """Stack examples into tensors."""
    vocals = torch.from_numpy(np.stack([e.vocals for e in examples]))
    music = torch.from_numpy(np.stack([e.accompaniment for e in examples]))
    bandwidth = torch.tensor([e.bandwidth_hz for e in examples], dtype=torch.float32)
    return vocals, music, bandwidth


class Trainer:
    """A network, its average, its optimizer and the step they are at."""

    def __init__(self, network: Separator, settings: TrainSettings) -> None:
        self.settings, self.step = settings, 0
        self.network = network
        self.average = copy.deepcopy(network).requires_grad_(False)
        self.transform = Transform(network.config)
        plain = [p for p in network.parameters() if p.ndim < 2]
        decayed = [p for p in network.parameters() if p.ndim >= 2]
        self.optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": settings.decay},
             {"params": plain, "weight_decay": 0.0}],
            lr=settings.rate, betas=(0.9, 0.98),
        )  # fmt: skip

    def separate(self, network: Separator, mixture: Tensor) -> Tensor:
        """Vocals of a mixture, (B, 2, n) -> (B, 2, m), m being what whole frames give."""
        spec = self.transform(mixture)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.settings.bf16 and network.training):
            stems = network(spec)
        vocals: Tensor = self.transform.inverse(stems[:, 0])
        return vocals

    def train_step(self, vocals: Tensor, music: Tensor, bandwidth: Tensor) -> float:
        """One optimizer step; returns the loss."""
        settings = self.settings
        warm = min(1.0, (self.step + 1) / settings.warmup)
        fall = 0.5 * (1 + math.cos(math.pi * min(1.0, self.step / settings.steps)))
        for group in self.optimizer.param_groups:
            group["lr"] = settings.rate * warm * fall
        mixture = vocals + music
        estimate = self.separate(self.network, mixture)
        level = mixture.square().mean((1, 2), keepdim=True).sqrt() + 1e-4
        rate = self.network.config.sample_rate
        signals = (estimate, vocals[..., : estimate.shape[-1]], mixture[..., : estimate.shape[-1]])
        guess, truth, whole = (band_limit(s / level, bandwidth, rate) for s in signals)
        loss = separation_loss(guess, truth, whole, sizes=[512, 2048])
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), settings.clip)
        self.optimizer.step()
        self.step += 1
        with torch.no_grad():
            blend = min(settings.ema, (1 + self.step) / (10 + self.step))
            for slow, fast in zip(
                self.average.parameters(), self.network.parameters(), strict=True
            ):
                slow.lerp_(fast, 1 - blend)
        return loss.item()

    @torch.no_grad()
    def validate(self, examples: list[Example]) -> float:
        """Mean improvement in vocals SDR over the mixture, dB, of the averaged weights."""
        self.average.eval()
        gains = []
        for example in examples:
            vocals, music, _ = collate([example])
            estimate = self.separate(self.average, vocals + music)
            vocals, music = (x[..., : estimate.shape[-1]] for x in (vocals, music))
            error = (estimate - vocals).square().sum()
            if vocals.square().sum() > 1e-3 * music.square().sum():
                gains.append(10 * torch.log10(music.square().sum() / error).item())
        return float(np.mean(gains)) if gains else math.nan

    def save(self, run: Path) -> None:
        """Write the whole state, atomically, and the averaged weights."""
        state = {
            "step": self.step,
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        partial = run / "state.pt.part"
        torch.save(state, partial)
        os.replace(partial, run / "state.pt")
        save_checkpoint(self.average, run / "ema.safetensors", step=str(self.step))

    def resume(self, run: Path) -> None:
        """Go on from where `save` left off, if it did."""
        if (run / "state.pt").exists():
            state: dict[str, Any] = torch.load(run / "state.pt", weights_only=True)
            self.network.load_state_dict(state["network"])
            self.average.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step = state["step"]


def train(network: Separator, settings: TrainSettings, cache: Cache, run: Path) -> None:
    """Train until `settings.steps`, resuming what `run` holds."""
    run.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(network, settings)
    trainer.resume(run)
    settings_json = json.dumps(dataclasses.asdict(settings), indent=1)
    (run / "settings.json").write_text(settings_json)
    maker = ExampleMaker(cache, settings.examples, network.config.sample_rate, settings.seed)
    validation = maker.validation(12)
    batches = Batches(maker, settings.batch, trainer.step, settings.steps)
    losses, start = [], time.monotonic()
    network.train()
    for batch in DataLoader(batches, batch_size=None, num_workers=1, prefetch_factor=4):
        losses.append(trainer.train_step(*batch))
        if trainer.step % settings.every == 0 or trainer.step == settings.steps:
            record = {
                "step": trainer.step,
                "loss": float(np.mean(losses)),
                "validation_db": trainer.validate(validation),
                "seconds_per_step": (time.monotonic() - start) / len(losses),
            }
            trainer.save(run)
            with (run / "log.jsonl").open("a") as file:
                file.write(json.dumps(record) + "\n")
            print(record, flush=True)
            losses, start = [], time.monotonic()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cache", type=Path, help="folder that stemwire.training.data wrote")
    parser.add_argument("-o", "--run", type=Path, required=True)
    parser.add_argument("--parent", type=Path, help="checkpoint to start from")
    parser.add_argument("--config", default="{}", help="JSON: overrides of SeparatorConfig")
    parser.add_argument("--settings", default="{}", help="JSON: overrides of TrainSettings")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    changes = json.loads(args.settings)
    examples = ExampleSettings(**changes.pop("examples", {}))
    settings = TrainSettings(**changes, examples=examples)
    torch.manual_seed(settings.seed)
    overrides = json.loads(args.config)
    if args.parent is not None:
        parent = load_checkpoint(args.parent)
        network = Separator(SeparatorConfig.from_dict({**parent.config.to_dict(), **overrides}))
        network.load_state_dict(parent.state_dict())
    else:
        network = Separator(SeparatorConfig.from_dict(overrides))
    train(network, settings, Cache(args.cache), args.run)


if __name__ == "__main__":
    main()
