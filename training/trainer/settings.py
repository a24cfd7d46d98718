"""Settings of a run: plain data, written into its folder, inherited by the runs that follow it.

The settings of a run with a parent are the parent's plus overrides; see `runs.settings_for`.
"""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Iterable, Mapping
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

# Names of settings in runs and model cards of before 2026-12, and what they are called now.
FORMER_NAMES = {
    "batch": "batch_size",
    "rate": "learning_rate",
    "warmup": "warmup_steps",
    "cooldown": "cooldown_steps",
    "decay": "weight_decay",
    "ema": "ema_decay",
    "clip": "grad_clip",
    "every": "validate_every",
    "validation": "validation_examples",
}
CHOICES = {
    "objective": Objective,
    "part": Part,
    "precision": Precision,
    "optimizer": OptimizerName,
}
LEAST_INTEGERS = {
    **dict.fromkeys(("batch_size", "accumulate", "validate_every", "save_every", "mask_span"), 1),
    **dict.fromkeys(("steps", "cooldown_steps", "warmup_steps", "seed", "patience"), 0),
    "validation_examples": 0,
}
RANGES = {
    "learning_rate": (0, 1),
    "weight_decay": (0, 1),
    "ema_decay": (0, 1),
    "grad_clip": (0, 1e9),
    "sigma": (0, 100),
    "context": (0, 3600),
    "ahead_share": (0, 1),
    "gamma": (0, 1),
    "mask_share": (0, 1),
}


@dataclasses.dataclass(frozen=True)
class RunSettings:
    """Everything that decides what a run learns, so nothing of devices or processes.

    Attributes:
        objective: `separation` (finetuning), `ddep` or `masked` (pretraining).
        part: trained part: the `whole` network, or the `decoder` with everything before it frozen.
        steps: number of optimizer steps; 0 trains until it is stopped.
        cooldown_steps: steps at the end over which the learning rate falls to zero.
        batch_size: examples per step, over all processes and accumulated parts.
        accumulate: parts in which each process handles its share of the batch, to save memory.
        optimizer: `adamw`, or `muon` for the matrices of linear layers and AdamW for the rest.
        learning_rate: peak learning rate, reached after `warmup_steps` and kept until the cooldown.
        warmup_steps: steps over which the learning rate rises.
        weight_decay: weight decay of matrices.
        ema_decay: decay of the averaged weights, which are the ones exported.
        grad_clip: largest gradient norm.
        precision: `bf16-true` keeps the network in bfloat16 and the optimizer's copy of its weights
            in float32; spectra and losses are float32 either way.
        context: seconds before each example that run without gradient, so that training starts
            from the state of a running stream; 0 starts from zeros.
        ahead_share: share of the examples in which a network with look-ahead sees the frames ahead;
            in the others it does not, so that the weights also work without look-ahead.
        gamma: DDeP: share of the clean signal in power (Brempong et al. 2022, section 3).
        sigma: DDeP: standard deviation of the noise, for spectra scaled to at most 1.
        mask_share: masked: share of frames hidden.
        mask_span: masked: number of neighbouring frames hidden together.
        seed: seed of weights and examples.
        validate_every: steps between validations.
        save_every: steps between checkpoints.
        patience: validations without improvement before the run stops early; 0 never does.
        validation_examples: number of excerpts that a validation measures.
        examples: settings of the examples.
        network: shape of the network.

    Raises:
        ConfigError: for a value that cannot work, naming it.
    """

    objective: Objective = "separation"
    part: Part = "whole"
    steps: int = 3000
    cooldown_steps: int = 600
    batch_size: int = 4
    accumulate: int = 1
    optimizer: OptimizerName = "adamw"
    learning_rate: float = 1.5e-3
    warmup_steps: int = 100
    weight_decay: float = 0.01
    ema_decay: float = 0.998
    grad_clip: float = 1.0
    precision: Precision = "32-true"
    context: float = 0.0
    ahead_share: float = 1.0
    gamma: float = 0.95
    sigma: float = 0.4
    mask_share: float = 0.15
    mask_span: int = 4
    seed: int = 1
    validate_every: int = 100
    save_every: int = 100
    patience: int = 0
    validation_examples: int = 12
    examples: ExampleSettings = dataclasses.field(default_factory=ExampleSettings)
    network: SeparatorConfig = dataclasses.field(default_factory=SeparatorConfig)

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            value = getattr(self, name)
            if value not in typing.get_args(choices):
                raise ConfigError(
                    f"{name} {value!r} is unknown; use one of {typing.get_args(choices)}"
                )
        for name, least in LEAST_INTEGERS.items():
            value = getattr(self, name)
            expected = f"a whole number of at least {least}"
            self._check(name, type(value) is int and value >= least, expected)
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            self._check(name, number and low <= value <= high, f"between {low} and {high:g}")
        self._check("gamma", self.gamma < 1, "below 1: noise must be left to predict")

    def _check(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise ConfigError(f"setting {name} must be {expected}, not {getattr(self, name)!r}")

    @property
    def pretraining(self) -> bool:
        """Whether the head learns something other than the mask."""
        return self.objective != "separation"

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON can hold; `from_dict` reads them back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Settings of `to_dict`'s values, or of those of an older run.

        Raises:
            ConfigError: for unknown names or values that cannot work.
        """
        values = current_names(dict(values))
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


def current_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings under their current names; see `FORMER_NAMES`.

    Raises:
        ConfigError: if a setting is there under both names.
    """
    if twice := sorted(old for old, new in FORMER_NAMES.items() if {old, new} <= values.keys()):
        raise ConfigError(
            f"settings {twice} are there under their new names too: "
            f"{[FORMER_NAMES[name] for name in twice]}; give each once"
        )
    return {FORMER_NAMES.get(name, name): value for name, value in values.items()}


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
    """Settings with changes such as `learning_rate=1e-3`, `examples.seconds=6`, `network.hop=256`.

    Values are JSON, or else plain text. Former names of settings are understood.

    Raises:
        ConfigError: for a change without `=`, or an unknown name or value.
    """
    values = settings.to_dict()
    for change in changes:
        name, equals, text = change.partition("=")
        if not equals:
            raise ConfigError(
                f"--set {change!r} must look like NAME=VALUE, e.g. learning_rate=1e-3"
            )
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
        table[last if path else FORMER_NAMES.get(last, last)] = value
    return RunSettings.from_dict(values)


def read_run(folder: Path) -> dict[str, Any]:
    """Description of a run in its folder: settings, data, parent, version.

    Raises:
        CheckpointError: if the folder holds no run, or a damaged one.
    """
    try:
        description: dict[str, Any] = json.loads((folder / FILE).read_text(encoding="utf-8"))
        RunSettings.from_dict(description["settings"])
    except (OSError, ValueError, KeyError, TypeError, ConfigError) as error:
        raise CheckpointError(
            f"{folder}: not a run's folder ({FILE}: {error!r}); give one that `stemwire pretrain` "
            "or `stemwire finetune` wrote"
        ) from error
    return description
