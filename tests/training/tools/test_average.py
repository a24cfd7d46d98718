"""The mean of several weights, as a run that can be exported."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from support import random_separator, training_config

torch = pytest.importorskip("torch")
pytest.importorskip("lightning_fabric")

from stemwire.model.checkpoint import load_checkpoint, save_checkpoint  # noqa: E402
from stemwire.training.tools.average import main  # noqa: E402
from stemwire.training.trainer.runs import find_parent  # noqa: E402
from stemwire.training.trainer.settings import RunSettings  # noqa: E402

CONFIG = training_config()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    settings = dataclasses.replace(RunSettings(), network=CONFIG)
    about = {"settings": settings.to_dict(), "stemwire": "0", "history": [], "parent": None,
             "data": {"sources": [{"source": "mine"}]}}  # fmt: skip
    (folder / "run.json").write_text(json.dumps(about))
    save_checkpoint(random_separator(CONFIG, 1), folder / "ema.safetensors", step="7")
    return folder


def test_the_mean_is_a_run_with_the_same_history(run: Path, tmp_path: Path) -> None:
    others = []
    for seed in (2, 3):
        others.append(tmp_path / f"{seed}.safetensors")
        save_checkpoint(random_separator(CONFIG, seed), others[-1])
    assert main([str(run), *map(str, others), "-o", str(tmp_path / "mean")]) == 0
    parent = find_parent(tmp_path / "mean")
    found = load_checkpoint(parent.checkpoint).state_dict()
    states = [random_separator(CONFIG, seed).state_dict() for seed in (1, 2, 3)]
    for name, weight in found.items():
        torch.testing.assert_close(weight, sum(state[name] for state in states) / 3)
    assert parent.history[-1]["data"]["sources"] == [{"source": "mine"}]


def test_other_networks_and_folders_in_the_way_are_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_checkpoint(random_separator(training_config(blocks=2)), tmp_path / "a.safetensors")
    command = [str(run), str(tmp_path / "a.safetensors"), "-o", str(tmp_path / "mean")]
    assert main(command) == 2
    assert "a.safetensors: has another network" in capsys.readouterr().err
    assert not (tmp_path / "mean").exists()
    assert main([str(run), str(run), "-o", str(run)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert main([str(tmp_path), str(run), "-o", str(tmp_path / "mean")]) == 2
    assert "not a run" in capsys.readouterr().err
