"""Optimizers of a run, and the float32 weights that they update.

bfloat16 is too coarse for the small steps of training: adding a thousandth changes nothing. So the
optimizers update float32 copies of the weights, which are rounded into the network after each step
(Micikevicius et al. 2018, "Mixed precision training", section 3.1).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from stemwire.training.trainer.settings import RunSettings

BETAS = (0.9, 0.98)


class Optimizers:
    """Optimizers of a network's weights.

    Args:
        network: network in float32; converted to `settings.precision` here.
        settings: settings of the run.

    Attributes:
        weights: float32 weights by name; the network's own parameters if it stays in float32.
    """

    def __init__(self, network: nn.Module, settings: RunSettings) -> None:
        self.grad_clip = settings.grad_clip
        self.weights = dict(network.named_parameters())
        self.rounded: list[nn.Parameter] = []
        if settings.precision == "bf16-true":
            self.weights = {
                name: nn.Parameter(p.detach().clone(), requires_grad=p.requires_grad)
                for name, p in self.weights.items()
            }
            self.rounded = list(network.to(torch.bfloat16).parameters())
        learning = {n: p for n, p in self.weights.items() if p.requires_grad}
        kinds = {n: type(network.get_submodule(n.rpartition(".")[0])) for n in learning}
        plain = {n for n in learning if "bias" in n or issubclass(kinds[n], nn.LayerNorm)}
        linear = {n for n in learning if issubclass(kinds[n], nn.Linear)} - plain
        by_muon = sorted(linear) if settings.optimizer == "muon" else []
        by_adamw = [n for n in learning if n not in plain and n not in by_muon]
        groups = [
            {"params": [learning[n] for n in by_adamw], "weight_decay": settings.weight_decay},
            {"params": [learning[n] for n in sorted(plain)], "weight_decay": 0.0},
        ]
        self.parts: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(groups, lr=settings.learning_rate, betas=BETAS)
        ]
        if by_muon:  # Jordan et al. 2024; steps as large as AdamW's (Liu et al. 2025, section 2.2)
            self.parts.append(
                torch.optim.Muon(
                    [learning[n] for n in by_muon],
                    lr=settings.learning_rate,
                    weight_decay=settings.weight_decay,
                    adjust_lr_fn="match_rms_adamw",
                )
            )

    def step(self, learning_rate: float) -> None:
        """Update the weights from the network's gradients, and clear these."""
        if self.rounded:
            for weight, rounded in zip(self.weights.values(), self.rounded, strict=True):
                weight.grad = None if rounded.grad is None else rounded.grad.float()
                rounded.grad = None
        torch.nn.utils.clip_grad_norm_(self.weights.values(), self.grad_clip)
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = learning_rate
            part.step()
            part.zero_grad()
        self._round()

    @torch.no_grad()
    def _round(self) -> None:
        for weight, rounded in zip(self.weights.values(), self.rounded, strict=bool(self.rounded)):
            rounded.copy_(weight)

    def state(self) -> list[dict[str, Any]]:
        """State of the optimizers."""
        return [part.state_dict() for part in self.parts]

    @torch.no_grad()
    def load(self, weights: dict[str, Tensor], state: list[dict[str, Any]]) -> None:
        """Restore weights and optimizer state.

        Raises:
            KeyError: if a weight is missing.
            RuntimeError: if one has another shape.
            ValueError: if the state belongs to other optimizers.
        """
        for name, weight in self.weights.items():
            weight.copy_(weights[name])
        for part, own in zip(self.parts, state, strict=True):
            part.load_state_dict(own)
        self._round()
