"""Training loop: resumed equals uninterrupted, parts equal the whole, failures are survived."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import music, noise, training_config
from support.runs import log_of

torch = pytest.importorskip("torch")
pytest.importorskip("lightning_fabric")

from lightning_fabric import Fabric  # noqa: E402

from stemwire.errors import (  # noqa: E402
    AudioError,
    CheckpointError,
    ConfigError,
    OutputError,
    TrainingError,
)
from stemwire.model.checkpoint import load_checkpoint  # noqa: E402
from stemwire.model.separator import Separator  # noqa: E402
from stemwire.training.examples.examples import Example  # noqa: E402
from stemwire.training.examples.settings import ExampleSettings  # noqa: E402
from stemwire.training.trainer.logbook import Logbook  # noqa: E402
from stemwire.training.trainer.loop import LocalBatches, Trainer, train  # noqa: E402
from stemwire.training.trainer.objectives import Separation, collate  # noqa: E402
from stemwire.training.trainer.settings import RunSettings  # noqa: E402

CONFIG = training_config()
SETTINGS = RunSettings(
    steps=8, cooldown_steps=4, batch_size=4, warmup_steps=2, validate_every=4, save_every=4,
    ema_decay=0.9, network=CONFIG, examples=ExampleSettings(seconds=0.5), validation_examples=2,
)  # fmt: skip


class Tones:
    """Numbered examples without files; picklable, as the real makers are."""

    def __init__(self, spoil: Callable[[int, Example], Example] | None = None) -> None:
        self.spoil, self.skipped, self.count = spoil, {"broken": 3}, 4000

    def __call__(self, number: int) -> Example:
        example = Example(music(4000, 8000, seed=number), noise(4000, seed=number), 4000.0)
        return self.spoil(number, example) if self.spoil else example

    def validation(self, count: int) -> list[Example]:
        return [Tones()(10**6 + k) for k in range(count)]


def fabric() -> Fabric:
    return Fabric(accelerator="cpu", devices=1)


def trainer(changes: dict[str, Any] | None = None) -> Trainer:
    torch.manual_seed(3)
    return Trainer(fabric(), Separator(CONFIG), dataclasses.replace(SETTINGS, **(changes or {})))


def learn(
    folder: Path, changes: dict[str, Any] | None = None, maker: Any = None, until: int | None = None
) -> Trainer:
    """Train in `folder`, interrupted before step `until` is over if that is given."""
    folder.mkdir(exist_ok=True)
    one = trainer(changes)
    stop: list[int] = []
    if until is not None:
        ordinary = one.train_step

        def step(*args: Any) -> float:
            loss = ordinary(*args)
            if one.step == until:
                stop.append(2)
            return loss

        one.train_step = step  # type: ignore[method-assign]
    with Logbook(folder, one.settings.steps, 2.0, 8000, active=True) as logbook:
        complete = train(one, maker or Tones(), folder, logbook, 0, stop)
    assert complete is (until is None)
    return one


def same(one: Trainer, other: Trainer) -> None:
    for part in ("network", "average"):
        ours, theirs = one.state()[part], other.state()[part]
        for name in ours:
            torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=0, msg=name)


@pytest.mark.parametrize("kind", ["separation", "ddep", "masked"])
def test_it_learns(tmp_path: Path, kind: str) -> None:
    one = trainer({"objective": kind, "steps": 30, "learning_rate": 5e-3})
    parts = [collate([Tones()(k) for k in range(4)], [0, 1, 2, 3])]
    losses = [one.train_step(parts) for _ in range(30)]
    assert all(map(math.isfinite, losses))
    assert losses[-1] < 0.9 * losses[0]


def test_checkpoints_keep_their_layout(tmp_path: Path) -> None:
    """Checkpoints of other versions of Stemwire can be resumed only if it stays."""
    learn(tmp_path)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert set(state) == {"step", "best", "stale", "network", "average", "optimizer"}
    assert (
        state["network"].keys() == state["average"].keys() == Separator(CONFIG).state_dict().keys()
    )


@settings(max_examples=3)
@given(step=st.integers(1, 7))
def test_resumed_equals_uninterrupted(tmp_path_factory: pytest.TempPathFactory, step: int) -> None:
    tmp_path = tmp_path_factory.mktemp("resume")
    whole = learn(tmp_path / "whole")
    learn(tmp_path / "parts", until=step)
    resumed = learn(tmp_path / "parts")
    same(whole, resumed)
    for one, other in zip(log_of(tmp_path / "whole"), log_of(tmp_path / "parts"), strict=True):
        assert (one["step"], one["score"]) == (other["step"], other["score"])
    assert log_of(tmp_path / "whole")[-1]["loss"] == pytest.approx(
        log_of(tmp_path / "parts")[-1]["loss"], rel=0.2 if step > 4 else 1e-6
    )


def test_accumulated_parts_equal_the_whole_batch(tmp_path: Path) -> None:
    one, other = trainer(), trainer({"accumulate": 2})
    for index in range(3):
        losses = []
        for each in (one, other):
            share = LocalBatches(Tones(), each.settings, each.fabric, 0)[index]
            assert isinstance(share, tuple)
            losses.append(each.train_step(share[0]))
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    for a, b in zip(one.network.parameters(), other.network.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=2e-2, atol=2e-4)


@given(world=st.sampled_from([1, 2, 4]), accumulate=st.sampled_from([1, 2]), step=st.integers(0, 9))
def test_every_example_of_a_step_is_worked_off_once(world: int, accumulate: int, step: int) -> None:
    chosen = dataclasses.replace(SETTINGS, batch_size=16, accumulate=accumulate, steps=10)
    numbers = []
    for rank in range(world):
        place = type("Place", (), {"world_size": world, "global_rank": rank})()
        share = LocalBatches(Tones(), chosen, place, 0)[step]
        assert isinstance(share, tuple) and len(share[0]) == accumulate
        numbers += [int(n) for part in share[0] for n in part.numbers]
    assert sorted(numbers) == list(range(step * 16, step * 16 + 16))


def test_a_batch_that_cannot_be_divided_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"batch_size 4.*multiple of 3"):
        LocalBatches(Tones(), dataclasses.replace(SETTINGS, accumulate=3), fabric(), 0)


def test_rate_rises_then_falls_to_zero() -> None:
    rates = rates_of(steps=20, warmup_steps=4, cooldown_steps=10)
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4:11] == [1.0] * 7
    assert all(a > b for a, b in pairwise(rates[10:])) and rates[-1] < 0.06
    longer_than_the_run = rates_of(steps=10, warmup_steps=0, cooldown_steps=600)
    assert longer_than_the_run[0] == 1.0


def rates_of(**changes: int) -> list[float]:
    one = trainer(changes)
    rates: list[float] = []
    for one.step in range(20):
        rates.append(round(one.learning_rate() / one.settings.learning_rate, 9))
    return rates


def test_a_run_without_an_end_keeps_its_rate(tmp_path: Path) -> None:
    assert rates_of(steps=0, warmup_steps=2, cooldown_steps=5) == [0.5] + [1.0] * 19
    one = learn(tmp_path, {"steps": 0}, until=6)
    assert one.step == 6 and [r["step"] for r in log_of(tmp_path)] == [4]
    assert learn(tmp_path, {"steps": 0}, until=9).step == 9


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_only_matrices_decay(name: str) -> None:
    one = trainer({"optimizer": name}).optimizers
    plain = {
        id(p)
        for part in one.parts
        for group in part.param_groups
        for p in group["params"]
        if not group["weight_decay"]
    }
    for name, weight in one.weights.items():
        assert (id(weight) in plain) == ("bias" in name or "norm" in name), name
    moved = [p for part in one.parts for group in part.param_groups for p in group["params"]]
    assert sorted(map(id, moved)) == sorted(map(id, one.weights.values()))  # each once


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_bfloat16_learns_as_float32_does(name: str) -> None:
    """Steps too small for a weight in bfloat16 add up in its float32 copy."""
    parts = [collate([Tones()(k) for k in range(4)], [0, 1, 2, 3])]
    losses, moved = {}, {}
    for precision in ("32-true", "bf16-true"):
        changes = {"optimizer": name, "precision": precision, "steps": 30, "learning_rate": 2e-4}
        one = trainer(changes)
        before = {n: w.detach().clone() for n, w in one.optimizers.weights.items()}
        losses[precision] = [one.train_step(parts) for _ in range(30)]
        moved[precision] = torch.cat(
            [(w.detach() - before[n]).flatten() for n, w in one.optimizers.weights.items()]
        )
        kinds = {p.dtype for p in one.network.parameters()}
        assert kinds == {torch.bfloat16 if precision == "bf16-true" else torch.float32}
        for n, p in one.network.named_parameters():
            assert torch.equal(p, one.optimizers.weights[n].to(p.dtype))
    assert losses["bf16-true"][-1] == pytest.approx(losses["32-true"][-1], abs=0.02)
    assert losses["bf16-true"][-1] < losses["bf16-true"][0] - 0.02
    one, other = moved.values()
    assert torch.nn.functional.cosine_similarity(one, other, 0) > 0.8


@pytest.mark.parametrize("changes", [{"optimizer": "muon"}, {"precision": "bf16-true"}])
def test_whatever_the_optimizer_resumed_equals_uninterrupted(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    whole = learn(tmp_path / "whole", changes)
    learn(tmp_path / "parts", changes, until=5)
    same(whole, learn(tmp_path / "parts", changes))


def test_decoder_training_leaves_the_encoder(tmp_path: Path) -> None:
    one = learn(tmp_path, {"objective": "ddep", "part": "decoder", "steps": 2})
    torch.manual_seed(3)
    before = Separator(CONFIG).state_dict()
    moved = {
        n.split(".")[0]
        for n, p in one.network.state_dict().items()
        if not torch.equal(p, before[n])
    }
    assert moved == {"decoders", "head", "head_norm", "head_unit"}


def test_what_a_run_leaves_can_be_loaded(tmp_path: Path) -> None:
    one = learn(tmp_path)
    for name in ("ema", "best"):
        assert load_checkpoint(tmp_path / f"{name}.safetensors").config == CONFIG
    ema = load_checkpoint(tmp_path / "ema.safetensors").state_dict()
    assert all(torch.equal(ema[n], p) for n, p in one.average.state_dict().items())
    assert [r["step"] for r in log_of(tmp_path)] == [4, 8]
    assert log_of(tmp_path)[0]["audio_hours_per_hour"] > 0
    assert list((tmp_path / "tb").glob("events.*"))
    assert not list(tmp_path.glob("*.part"))


def test_curves_hold_sound_and_pictures(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    learn(tmp_path)
    events = EventAccumulator(str(tmp_path / "tb"), {"images": 9, "audio": 9, "scalars": 99})
    events.Reload()
    tags = events.Tags()
    assert {"loss", "learning_rate", "score"} <= set(tags["scalars"])
    assert [e.step for e in events.Scalars("loss")] == list(range(1, 9))
    assert len(tags["images"]) == 2 and {"0 vocals", "0 mixture", "0 truth"} <= set(tags["audio"])


def test_training_stops_when_it_gets_no_better(tmp_path: Path) -> None:
    changes = {"learning_rate": 0.0, "validate_every": 1, "patience": 3, "steps": 50}
    one = learn(tmp_path, {**changes, "ema_decay": 0.0})
    assert one.step == 4  # the first is the best, and three more are no better
    assert learn(tmp_path, changes).step == 4


def test_a_loss_that_is_not_finite_stops_with_the_batch_saved(tmp_path: Path) -> None:
    def spoil(number: int, example: Example) -> Example:
        bad = np.full_like(example.vocals, np.nan)
        return dataclasses.replace(example, vocals=bad) if number == 22 else example

    with pytest.raises(TrainingError, match=r"loss of step 5 is nan.*bad-batch-0\.pt.*rate"):
        learn(tmp_path, maker=Tones(spoil))
    saved = torch.load(tmp_path / "bad-batch-0.pt", weights_only=True)
    assert saved["step"] == 5 and saved["numbers"].tolist() == [20, 21, 22, 23]
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert state["step"] == 4
    assert all(torch.isfinite(t).all() for t in state["network"].values())


def test_running_out_of_memory_says_what_to_lower(monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(self: Any, batch: Any) -> Any:
        raise RuntimeError(message)

    monkeypatch.setattr(Separation, "forward", explode)
    parts = [collate([Tones()(0), Tones()(1)], [0, 1])]
    message = "DefaultCPUAllocator: can't allocate memory: you tried"
    with pytest.raises(TrainingError, match=r"out of memory with 2 examples.*accumulate.*seconds"):
        trainer().train_step(parts)
    message = "shapes do not match"
    with pytest.raises(RuntimeError, match="shapes"):
        trainer().train_step(parts)


def test_errors_of_workers_arrive_as_they_are(tmp_path: Path) -> None:
    def spoil(number: int, example: Example) -> Example:
        raise AudioError("song.wav: gone; scan again")

    one = trainer()
    with (
        Logbook(tmp_path, 8, 2.0, 8000, active=True) as logbook,
        pytest.raises(AudioError, match=r"^song.wav: gone; scan again$"),
    ):
        train(one, Tones(spoil), tmp_path, logbook, 0, [])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_leaves_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = learn(tmp_path)
    before = (tmp_path / "checkpoint.pt").read_bytes()
    one.step = 99
    temporary = tmp_path / f".checkpoint.pt.{os.getpid()}.part"
    temporary.symlink_to("/dev/full")
    with pytest.raises(OutputError, match=r"step 99 cannot be written.*previous one is kept"):
        one.save(tmp_path)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    assert not temporary.is_symlink()
    assert trainer().resume(tmp_path)


@pytest.mark.parametrize("damage", [b"", b"not a checkpoint", b"PK\x03\x04 cut short"])
def test_a_damaged_checkpoint_is_named(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(damage)
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt.*cannot be resumed"):
        trainer().resume(tmp_path)
