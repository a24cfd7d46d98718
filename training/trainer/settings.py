"""Settings of a run: plain data, written into its folder, inherited by the runs that follow it.

A finetuning run is its parent's settings plus overrides; see `inherit`.
"""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, Self

from stemwire.errors import CheckpointError, ConfigError
from stemwire.model.config import SeparatorConfig
from stemwire.training.examples.settings import ExampleSettings

Objective = Literal["separation", "ddep", "masked"]
Part = Literal["whole", "decoder"]
Precision = Literal["32-true", "bf16-true"]
OptimizerName = Literal["adamw", "muon"]
FILE = "run.json"


@dataclasses.dataclass(frozen=True)
class RunSettings:
    """All that decides what a run learns; where it runs (devices, processes) does not belong here.

    Attributes:
        objective: `separation` (finetuning), `ddep` or `masked` (pretraining).
        part: what learns: the `whole` network, or the `decoder` with everything before it frozen.
        steps: optimizer steps in all; 0 goes on until it is stopped.
        cooldown: steps at the end over which the learning rate falls to zero.
        batch: examples per step, over all processes and accumulated parts.
        accumulate: parts in which each process works off its share of the batch, to save memory.
        optimizer: `adamw`, or `muon` for the matrices of linear layers and AdamW for all else.
        rate: learning rate, reached after `warmup` steps and kept.
        warmup: steps over which the learning rate rises.
        decay: weight decay of matrices.
        ema: decay of the averaged weights, which are what ships.
        clip: largest gradient norm.
        precision: `bf16-true` keeps the network in bfloat16 and what the optimizer adds to in
            float32; spectra and losses are float32 either way.
        context: seconds before each example that run without gradient, so that learning starts
            from the state of a stream that has been running; 0 starts from zeros.
        ahead_share: share of the examples that are shown the frames ahead, where the network looks
            ahead; the others are not, so that the weights serve without look-ahead as well.
        gamma: DDeP: share of the clean signal in power (Brempong et al. 2022, section 3).
        sigma: DDeP: standard deviation of the noise, for spectra scaled to at most 1.
        mask_share: masked: share of frames hidden.
        mask_span: masked: neighbouring frames hidden together.
        seed: seed of weights and examples.
        every: steps between validations.
        save_every: steps between checkpoints.
        patience: validations without improvement before the run stops early; 0 never does.
        validation: excerpts that a validation measures.
        examples: what examples are made of.
        network: shape of the network.

    Raises:
        ConfigError: for a value that cannot work, naming it.
    """

    objective: Objective = "separation"
    part: Part = "whole"
    steps: int = 3000
    cooldown: int = 600
    batch: int = 4
    accumulate: int = 1
    optimizer: OptimizerName = "adamw"
    rate: float = 1.5e-3
    warmup: int = 100
    decay: float = 0.01
    ema: float = 0.998
    clip: float = 1.0
    precision: Precision = "32-true"
    context: float = 0.0
    ahead_share: float = 1.0
    gamma: float = 0.95
    sigma: float = 0.4
    mask_share: float = 0.15
    mask_span: int = 4
    seed: int = 1
    every: int = 100
    save_every: int = 100
    patience: int = 0
    validation: int = 12
    examples: ExampleSettings = dataclasses.field(default_factory=ExampleSettings)
    network: SeparatorConfig = dataclasses.field(default_factory=SeparatorConfig)

    def __post_init__(self) -> None:
        choices = {"objective": Objective, "part": Part, "precision": Precision,
                   "optimizer": OptimizerName}  # fmt: skip
        for name, kind in choices.items():
            if getattr(self, name) not in typing.get_args(kind):
                raise ConfigError(
                    f"{name} {getattr(self, name)!r} is unknown; use one of {typing.get_args(kind)}"
                )
        for name in ("batch", "accumulate", "every", "save_every", "mask_span"):
            self._check(name, type(getattr(self, name)) is int and getattr(self, name) >= 1,
                        "a whole number of at least 1")  # fmt: skip
        for name in ("steps", "cooldown", "warmup", "seed", "patience", "validation"):
            self._check(name, type(getattr(self, name)) is int and getattr(self, name) >= 0,
                        "a whole number of at least 0")  # fmt: skip
        for name, low, high in (
            *(("rate", 0, 1), ("decay", 0, 1), ("ema", 0, 1), ("clip", 0, 1e9), ("sigma", 0, 100)),
            *(("context", 0, 3600), ("ahead_share", 0, 1), ("gamma", 0, 1), ("mask_share", 0, 1)),
        ):
            value = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            self._check(name, number and low <= value <= high, f"between {low} and {high:g}")
        self._check("gamma", self.gamma < 1, "below 1: noise must be left to predict")

    def _check(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise ConfigError(f"setting {name} must be {expected}, not {getattr(self, name)!r}")

    @property
    def pretraining(self) -> bool:
        """Whether the head learns something else than the mask."""
        return self.objective != "separation"

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON can hold; `from_dict` reads them back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Build settings from `to_dict`'s values.

        Raises:
            ConfigError: for unknown names or values that cannot work.
        """
        values = dict(values)
        if values.get("precision") == "bf16-mixed":  # what it was called when autocast did it
            values["precision"] = "bf16-true"
        examples = values.pop("examples", {})
        network = SeparatorConfig.from_dict(values.pop("network", {}))
        _refuse_unknown(cls, values, "")
        _refuse_unknown(ExampleSettings, examples, "examples.")
        pairs: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in examples.items()
        }
        try:
            return cls(**values, examples=ExampleSettings(**pairs), network=network)
        except TypeError as error:
            raise ConfigError(f"settings have a value of the wrong type: {error}") from error


def _refuse_unknown(kind: type[Any], values: Any, prefix: str) -> None:
    if not isinstance(values, dict):
        raise ConfigError(f"{prefix or 'settings'} must be a table of names and values")
    known = {field.name for field in dataclasses.fields(kind)}
    if unknown := sorted(set(values) - known):
        raise ConfigError(
            f"unknown settings {[prefix + name for name in unknown]}; "
            f"known are {sorted(prefix + name for name in known)}"
        )


def override(settings: RunSettings, changes: Iterable[str]) -> RunSettings:
    """Settings with changes such as `rate=1e-3`, `examples.seconds=6`, `network.hop=256`.

    Values are JSON; what is not is taken as text.

    Raises:
        ConfigError: for a change without `=`, or an unknown name or value.
    """
    values = settings.to_dict()
    for change in changes:
        name, equals, text = change.partition("=")
        if not equals:
            raise ConfigError(f"--set {change!r} must look like NAME=VALUE, e.g. rate=1e-3")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        table = values
        *path, last = name.strip().split(".")
        for part in path:
            if not isinstance(table.get(part), dict):
                raise ConfigError(f"--set {change!r}: there are no settings {part!r}")
            table = table[part]
        table[last] = value
    return RunSettings.from_dict(values)


def read_run(folder: Path) -> dict[str, Any]:
    """What a run's folder says of it: settings, data, parent, version.

    Raises:
        CheckpointError: if the folder holds no run, or a damaged one.
    """
    try:
        found = json.loads((folder / FILE).read_text(encoding="utf-8"))
        RunSettings.from_dict(found["settings"])
    except (OSError, ValueError, KeyError, TypeError, ConfigError) as error:
        raise CheckpointError(
            f"{folder}: not a run's folder ({FILE}: {error!r}); give one that `stemwire pretrain` "
            "or `stemwire finetune` wrote"
        ) from error
    description: dict[str, Any] = found
    return description
