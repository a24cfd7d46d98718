"""Settings of a run: validated, inherited, overridden by name."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import ROOT

from stemwire.errors import CheckpointError, ConfigError
from stemwire.model.config import SeparatorConfig
from stemwire.model.preset import read_preset
from stemwire.training.trainer.model_card import card_text
from stemwire.training.trainer.settings import FORMER_NAMES, RunSettings, override, read_run

PRESETS_FOLDER = ROOT / "model" / "presets"


def test_they_survive_json() -> None:
    settings = override(
        RunSettings(), ["learning_rate=1e-3", "network.widths=[8, 16]", "examples.seconds=2"]
    )
    again = RunSettings.from_dict(json.loads(json.dumps(settings.to_dict())))
    assert again == settings
    assert again.network.widths == (8, 16) and again.examples.seconds == 2


@pytest.mark.parametrize(
    "change",
    [
        {"objective": "magic"}, {"part": "encoder"}, {"precision": "16"}, {"steps": -1},
        {"cooldown_steps": -1}, {"optimizer": "sgd"},
        {"steps": 2.0}, {"batch_size": -1}, {"accumulate": 0}, {"learning_rate": -1e-3},
        {"learning_rate": "fast"},
        {"gamma": 1.0}, {"gamma": -0.1}, {"sigma": -1}, {"mask_share": 1.5}, {"ema_decay": 2},
        {"patience": -1}, {"context": -1.0}, {"seed": True},
    ],
)  # fmt: skip
def test_values_that_cannot_work_are_named(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(change))):
        dataclasses.replace(RunSettings(), **change)


@given(st.sampled_from(["steps", "batch_size", "validate_every"]), st.integers(1, 10**6))
def test_overrides_change_what_they_name_and_nothing_else(name: str, value: int) -> None:
    changed = override(RunSettings(), [f"{name}={value}"])
    assert getattr(changed, name) == value
    assert dataclasses.replace(changed, **{name: getattr(RunSettings(), name)}) == RunSettings()


def test_the_last_override_counts_and_texts_need_no_quotes() -> None:
    settings = override(RunSettings(), ["steps=5", "precision=bf16-true", "steps=7"])
    assert (settings.steps, settings.precision) == (7, "bf16-true")
    assert override(RunSettings(), ["network.hop=256"]).network == SeparatorConfig(hop=256)


def former(values: dict[str, Any]) -> dict[str, Any]:
    names = {new: old for old, new in FORMER_NAMES.items()}
    return {names.get(name, name): value for name, value in values.items()}


def test_settings_under_their_former_names_are_understood() -> None:
    fields = {field.name for field in dataclasses.fields(RunSettings)}
    assert set(FORMER_NAMES.values()) <= fields and not set(FORMER_NAMES) & fields
    numbers = [f"{name}={0.5 if 'rate' in name else 7}" for name in ("rate", "batch", "every")]
    settings = override(RunSettings(), numbers)
    assert (settings.learning_rate, settings.batch_size, settings.validate_every) == (0.5, 7, 7)
    assert RunSettings.from_dict(former(settings.to_dict())) == settings
    with pytest.raises(ConfigError, match=r"'rate'.*'learning_rate'"):
        RunSettings.from_dict({"rate": 1e-3, "learning_rate": 1e-3})


@pytest.mark.parametrize("name", ["standard", "low"])
def test_model_cards_with_former_names_are_read(name: str) -> None:
    card = json.loads((PRESETS_FOLDER / name / "preset.json").read_text())
    text = card_text(read_preset(PRESETS_FOLDER / name), card)
    for run in card["training"]:
        settings = RunSettings.from_dict(run["settings"])
        assert f"{run['steps']} steps of {settings.batch_size} examples" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("learning_rate", "NAME=VALUE"), ("lr=1", "unknown settings.*lr.*learning_rate"),
        ("examples.length=1", "examples.length"), ("network.depth=3", "depth"),
        ("steps.more=1", "no settings 'steps'"), ("nothing.here=1", "no settings 'nothing'"),
        ("examples=3", "examples"), ("network.hop=500", "analysis_window"),
    ],
)  # fmt: skip
def test_overrides_that_mean_nothing_are_refused(change: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        override(RunSettings(), [change])


def test_a_folder_that_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"not a run's folder"):
        read_run(tmp_path)
    (tmp_path / "run.json").write_text('{"settings": {"steps": "many"}}')
    with pytest.raises(CheckpointError, match=r"not a run's folder"):
        read_run(tmp_path)
