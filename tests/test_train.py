"""Training: it learns, and an interrupted run goes on as if nothing had happened."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import random_separator, training_config

torch = pytest.importorskip("torch")
pytest.importorskip("soxr")

from stemwire.model.checkpoint import load_checkpoint, save_checkpoint  # noqa: E402
from stemwire.model.separator import Separator  # noqa: E402
from stemwire.training.data import Cache  # noqa: E402
from stemwire.training.examples import ExampleMaker, ExampleSettings  # noqa: E402
from stemwire.training.train import Batches, Trainer, TrainSettings, collate, train  # noqa: E402

CONFIG = training_config()
SHORT = ExampleSettings(seconds=0.5)
SETTINGS = TrainSettings(steps=6, batch=2, warmup=2, every=2, bf16=False, examples=SHORT)


def fresh() -> Separator:
    torch.manual_seed(3)
    return Separator(CONFIG)


def maker_of(cache: Path) -> ExampleMaker:
    return ExampleMaker(Cache(cache), SHORT, CONFIG.sample_rate, 1)


def weights_of(run: Path) -> dict:
    state = torch.load(run / "state.pt", weights_only=True)
    return {
        "step": state["step"],
        **{f"network.{k}": v for k, v in state["network"].items()},
        **{f"average.{k}": v for k, v in state["average"].items()},
    }


@pytest.mark.parametrize("bf16", [False, True])
def test_a_few_steps_on_one_batch_reduce_its_loss(cache: Path, bf16: bool) -> None:
    settings = dataclasses.replace(SETTINGS, steps=40, warmup=5, bf16=bf16, rate=3e-3)
    trainer = Trainer(fresh().train(), settings)
    batch = collate([maker_of(cache)(k) for k in (1, 2, 3)])
    losses = [trainer.train_step(*batch) for _ in range(40)]
    assert all(np.isfinite(losses))
    assert losses[-1] < 0.85 * losses[0]
    assert trainer.step == 40


def test_rate_rises_then_falls_to_zero(cache: Path) -> None:
    settings = dataclasses.replace(SETTINGS, steps=10, warmup=4)
    trainer = Trainer(fresh().train(), settings)
    batch = collate([maker_of(cache)(1)])
    rates = []
    for _ in range(10):
        trainer.train_step(*batch)
        rates.append(trainer.optimizer.param_groups[0]["lr"] / settings.rate)
    assert int(np.argmax(rates)) in (3, 4)
    assert rates[0] < 0.3 and rates[-1] < 0.05 and max(rates) > 0.7


def test_only_matrices_decay() -> None:
    decayed, plain = Trainer(fresh(), SETTINGS).optimizer.param_groups
    assert decayed["weight_decay"] == SETTINGS.decay and plain["weight_decay"] == 0
    assert {p.ndim for p in plain["params"]} == {1}
    count = len(decayed["params"]) + len(plain["params"])
    assert count == len(list(fresh().parameters()))


def test_the_average_follows_slowly(cache: Path) -> None:
    trainer = Trainer(fresh().train(), SETTINGS)
    batch = collate([maker_of(cache)(1)])
    name = "head.conv.weight"
    start = trainer.network.state_dict()[name].clone()
    for _ in range(3):
        trainer.train_step(*batch)
    moved = (trainer.network.state_dict()[name] - start).norm()
    behind = (trainer.average.state_dict()[name] - trainer.network.state_dict()[name]).norm()
    assert 0 < behind < moved
    assert not any(p.requires_grad for p in trainer.average.parameters())


def test_batches_go_on_where_a_run_stopped(cache: Path) -> None:
    whole, rest = (Batches(maker_of(cache), 2, first, 5) for first in (0, 3))
    assert (len(whole), len(rest)) == (5, 2)
    for one, other in zip(whole[4], rest[1], strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(whole[3][0], whole[4][0])
    vocals, music, bandwidth = whole[0]
    assert vocals.shape == music.shape == (2, 2, 4000)
    assert bandwidth.shape == (2,)


def test_validation_measures_the_gain_over_the_mixture(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, examples = Trainer(fresh(), SETTINGS), maker_of(cache).validation(3)
    answers = {
        "mixture": lambda network, mixture: mixture,
        "half": lambda network, mixture: mixture - 0.5 * music_of[0],
    }
    music_of = []

    def answer(kind: str) -> float:
        def separate(network: object, mixture: torch.Tensor) -> torch.Tensor:
            number = next(
                e for e in examples
                if torch.equal(torch.from_numpy(e.vocals + e.accompaniment)[None], mixture)
            )  # fmt: skip
            music_of[:] = [torch.from_numpy(number.accompaniment)[None]]
            return answers[kind](network, mixture)

        monkeypatch.setattr(trainer, "separate", separate)
        return trainer.validate(examples)

    assert answer("mixture") == pytest.approx(0, abs=1e-3)
    assert answer("half") == pytest.approx(20 * np.log10(2), abs=1e-3)


def test_a_run_folder_holds_what_it_should(cache: Path, tmp_path: Path) -> None:
    train(fresh(), SETTINGS, Cache(cache), tmp_path / "run")
    names = sorted(file.name for file in (tmp_path / "run").iterdir())
    assert names == ["ema.safetensors", "log.jsonl", "settings.json", "state.pt"]
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").open()]
    assert [record["step"] for record in log] == [2, 4, 6]
    assert all(np.isfinite(list(record.values())).all() for record in log)
    saved = load_checkpoint(tmp_path / "run" / "ema.safetensors")
    assert saved.config == CONFIG
    average = {k: v for k, v in weights_of(tmp_path / "run").items() if k.startswith("average.")}
    assert all(torch.equal(average[f"average.{k}"], v) for k, v in saved.state_dict().items())
    assert json.loads((tmp_path / "run" / "settings.json").read_text())["steps"] == 6


class StoppedError(Exception):
    """Stands for whatever ends a run."""


@pytest.mark.parametrize("bf16", [False, True])
def test_an_interrupted_run_equals_an_uninterrupted_one(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bf16: bool
) -> None:
    settings = dataclasses.replace(SETTINGS, bf16=bf16)
    train(fresh(), settings, Cache(cache), tmp_path / "whole")

    def stop_at_four(trainer: Trainer, examples: list) -> float:
        if trainer.step == 4:
            raise StoppedError
        return 0.0

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "validate", stop_at_four)
        with pytest.raises(StoppedError):
            train(fresh(), settings, Cache(cache), tmp_path / "broken")
    assert weights_of(tmp_path / "broken")["step"] == 2
    torch.manual_seed(99)  # a new process starts from other weights; the run's own count
    train(Separator(CONFIG), settings, Cache(cache), tmp_path / "broken")
    whole, resumed = weights_of(tmp_path / "whole"), weights_of(tmp_path / "broken")
    assert whole.pop("step") == resumed.pop("step") == 6
    for name, weight in whole.items():
        torch.testing.assert_close(resumed[name], weight, atol=1e-7, rtol=1e-6, msg=name)


def test_a_finished_run_stays_as_it_is(cache: Path, tmp_path: Path) -> None:
    train(fresh(), SETTINGS, Cache(cache), tmp_path)
    before = (tmp_path / "state.pt").read_bytes()
    train(fresh(), SETTINGS, Cache(cache), tmp_path)
    assert (tmp_path / "state.pt").read_bytes() == before


def command(cache: Path, run: Path, settings: dict, *more: str) -> subprocess.CompletedProcess[str]:
    """The real training command."""
    config = json.dumps(CONFIG.to_dict()) if "--parent" not in more else "{}"
    return subprocess.run(
        [
            sys.executable, "-m", "stemwire.training.train", str(cache), "-o", str(run),
            "--config", config, "--settings", json.dumps(settings), "--threads", "1", *more,
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_the_command_trains_and_finetunes_a_parent(cache: Path, tmp_path: Path) -> None:
    few = {"steps": 2, "batch": 1, "every": 1, "warmup": 1}
    done = command(cache, tmp_path / "first", few)
    assert done.returncode == 0, done.stderr
    parent = tmp_path / "first" / "ema.safetensors"
    none = {**few, "rate": 0.0, "decay": 0.0}
    done = command(cache, tmp_path / "second", none, "--parent", str(parent))
    assert done.returncode == 0, done.stderr
    child = load_checkpoint(tmp_path / "second" / "ema.safetensors")
    assert child.config == CONFIG
    for name, weight in load_checkpoint(parent).state_dict().items():
        torch.testing.assert_close(child.state_dict()[name], weight)


def test_the_command_takes_example_settings_too(cache: Path, tmp_path: Path) -> None:
    settings = {"steps": 1, "batch": 1, "every": 1, "examples": {"seconds": 0.5}}
    done = command(cache, tmp_path / "run", settings)
    assert done.returncode == 0, done.stderr
    saved = json.loads((tmp_path / "run" / "settings.json").read_text())
    assert saved["examples"]["seconds"] == 0.5
    assert saved["examples"]["pair_share"] == ExampleSettings().pair_share


def test_a_parent_with_other_weights_is_refused(cache: Path, tmp_path: Path) -> None:
    save_checkpoint(random_separator(CONFIG), tmp_path / "parent.safetensors")
    (tmp_path / "parent.safetensors").write_bytes(b"damaged")
    done = command(cache, tmp_path / "run", {}, "--parent", str(tmp_path / "parent.safetensors"))
    assert done.returncode != 0
    assert "parent.safetensors" in done.stderr
    assert not (tmp_path / "run").exists()
