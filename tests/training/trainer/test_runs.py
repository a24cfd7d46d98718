"""Runs from the command line: start, interrupt, resume, inherit, several processes, export."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import TRAINING_RATE, random_separator, tiny_config, training_config
from support.runs import log_of

torch = pytest.importorskip("torch")
pytest.importorskip("lightning_fabric")

from filelock import FileLock  # noqa: E402

import stemwire  # noqa: E402
from stemwire import cli  # noqa: E402
from stemwire.errors import CheckpointError, ConfigError  # noqa: E402
from stemwire.model.checkpoint import load_checkpoint, save_checkpoint  # noqa: E402
from stemwire.training.data.manifest import Manifest  # noqa: E402
from stemwire.training.trainer.runs import build_network, find_parent, settings_for, sources_of  # noqa: E402
from stemwire.training.trainer.settings import FORMER_NAMES, RunSettings, read_run  # noqa: E402
from stemwire.training.trainer.warm_start import with_lookahead, without_lookahead  # noqa: E402

NETWORK = {k: v for k, v in training_config().to_dict().items() if k != "variant"}
SMALL = [f"--set=network.{name}={json.dumps(value)}" for name, value in NETWORK.items()]
QUICK = [*SMALL, "--set=examples.seconds=0.5", "--set=warmup_steps=2", "--set=validate_every=2",
         "--set=validation_examples=2", "--set=batch_size=4", "--accelerator=cpu", "--workers=0",
         "--threads=1"]  # fmt: skip


def stemwire_command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "stemwire.cli", *map(str, arguments)]


def finetune(manifest: Path, run: Path, *more: str | Path, steps: int = 4) -> int:
    steps_set = f"--set=steps={steps}"
    return cli.main(
        [str(x) for x in ("finetune", "--data", manifest, "-o", run, *QUICK, steps_set, *more)]
    )


def weights(run: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(run / "checkpoint.pt", weights_only=True)["network"]
    return state


def test_from_songs_to_stems(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, preset = tmp_path / "run", tmp_path / "preset"
    assert finetune(manifest, run) == 0
    described = read_run(run)
    assert RunSettings.from_dict(described["settings"]).steps == 4
    assert sum(source["songs"] for source in described["data"]["sources"]) >= 4
    assert [record["step"] for record in log_of(run)] == [2, 4]
    command = ["export", str(run), "-o", str(preset), "--description=Mine.", "--licence=CC0"]
    assert cli.main(command) == 0
    assert stemwire.load(preset, TRAINING_RATE).stems == ("vocals", "instrumental")
    card = json.loads((preset / "preset.json").read_text())
    assert card["training"][0]["settings"]["steps"] == 4
    assert str(tmp_path) not in json.dumps(card)  # nothing of this computer
    text = (preset / "README.md").read_text()
    assert "CC0" in text and "4 steps of 4 examples" in text
    assert "load it with" in capsys.readouterr().out


def test_the_same_command_does_nothing_more(manifest: Path, tmp_path: Path) -> None:
    assert finetune(manifest, tmp_path / "run") == 0
    before = weights(tmp_path / "run")
    assert finetune(manifest, tmp_path / "run") == 0
    assert all(torch.equal(before[n], w) for n, w in weights(tmp_path / "run").items())
    assert finetune(manifest, tmp_path / "run", steps=6) == 0  # more steps are no other run
    assert log_of(tmp_path / "run")[-1]["step"] == 6


def test_a_run_with_former_names_of_settings_is_resumed(manifest: Path, tmp_path: Path) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert finetune(manifest, whole, steps=6) == 0
    assert finetune(manifest, run, "--set=cooldown_steps=2", steps=4) == 0
    description = read_run(run)
    former = {new: old for old, new in FORMER_NAMES.items()}
    settings = {former.get(name, name): v for name, v in description["settings"].items()}
    assert set(FORMER_NAMES) <= set(settings)
    (run / "run.json").write_text(json.dumps({**description, "settings": settings}))
    assert finetune(manifest, run, "--set=batch=4", steps=6) == 0
    assert [record["step"] for record in log_of(run)] == [2, 4, 6]
    assert set(read_run(run)["settings"]) == set(description["settings"])
    assert find_parent(run).settings == find_parent(whole).settings


def test_a_run_with_other_settings_is_not_overwritten(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finetune(manifest, tmp_path / "run") == 0
    assert finetune(manifest, tmp_path / "run", "--set=learning_rate=1e-4") == 2
    assert "other settings: learning_rate" in capsys.readouterr().err


@pytest.mark.slow
def test_ctrl_c_saves_and_the_same_command_goes_on(manifest: Path, tmp_path: Path) -> None:
    arguments = [
        "finetune",
        "--data",
        manifest,
        *QUICK,
        "--set=steps=60",
        "--set=validate_every=60",
        "--set=save_every=1000",
        "--workers=1",
    ]
    process = subprocess.Popen(
        stemwire_command(*arguments, "-o", tmp_path / "cut"),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    events = tmp_path / "cut" / "tb"
    while process.poll() is None and not list(events.glob("events*")):
        time.sleep(0.1)
    time.sleep(1.0)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: workers get it too
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 130, stderr
    assert "interrupted and saved" in stderr and "Traceback" not in stderr
    step = torch.load(tmp_path / "cut" / "checkpoint.pt", weights_only=True)["step"]
    assert 0 < step < 60
    for run in ("cut", "whole"):
        subprocess.run(
            stemwire_command(*arguments, "-o", tmp_path / run), check=True, capture_output=True
        )
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_processes_equal_one(manifest: Path, tmp_path: Path, accumulate: int) -> None:
    assert finetune(manifest, tmp_path / "one") == 0
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--local-addr=127.0.0.1",
        "--nproc-per-node=2",
        "-m",
        "stemwire.cli",
    ]
    arguments = [
        "finetune",
        "--data",
        manifest,
        "-o",
        tmp_path / "two",
        *QUICK,
        "--set=steps=4",
        f"--set=accumulate={accumulate}",
    ]
    done = subprocess.run(
        [*launcher, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    for one, two in zip(log_of(tmp_path / "one"), log_of(tmp_path / "two"), strict=True):
        assert one["loss"] == pytest.approx(two["loss"], rel=1e-3)
        assert one["score"] == pytest.approx(two["score"], abs=0.05)
    single, shared = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name in single:
        torch.testing.assert_close(single[name], shared[name], rtol=0.05, atol=1e-3, msg=name)


def test_pretraining_passes_all_but_the_head_on(manifest: Path, tmp_path: Path) -> None:
    run = ["-o", str(tmp_path / "ddep"), "--data", str(manifest)]
    changes = ["--set=steps=2", "--set=gamma=0.9"]
    assert cli.main(["pretrain", "--objective=ddep", *run, *QUICK, *changes]) == 0
    parent = find_parent(tmp_path / "ddep")
    settings = settings_for("separation", None, parent, ["steps=3"])
    assert (settings.steps, settings.gamma, settings.network) == (3, 0.9, training_config())
    ours = build_network(settings, parent).state_dict()
    theirs = load_checkpoint(parent.checkpoint).state_dict()
    changed = {name for name in ours if not torch.equal(ours[name], theirs[name])}
    assert changed == {"head.bias", *(f"head.weights.{k}" for k in range(3))}
    assert finetune(manifest, tmp_path / "after", "--parent", tmp_path / "ddep") == 0
    history = read_run(tmp_path / "after")["history"]
    assert [run["settings"]["objective"] for run in history] == ["ddep"]


def test_a_copy_of_an_endless_run_cools_down(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, cool = tmp_path / "run", tmp_path / "cool"
    assert finetune(manifest, run, "--set=save_every=2", "--set=precision=bf16-true") == 0
    described = read_run(run)
    described["settings"]["steps"] = 0  # as in a run without an end
    (run / "run.json").write_text(json.dumps(described))
    before = (run / "checkpoint.pt").read_bytes()
    command = [
        "finetune",
        "--data",
        str(manifest),
        "--parent",
        str(run),
        "-o",
        str(cool),
        "--cooldown=4",
        "--accelerator=cpu",
        "--workers=0",
        "--threads=1",
    ]
    assert cli.main(command) == 0
    assert (run / "checkpoint.pt").read_bytes() == before
    settings = read_run(cool)["settings"]
    assert (settings["steps"], settings["cooldown_steps"]) == (8, 4)
    assert settings["network"] == described["settings"]["network"]
    assert [record["step"] for record in log_of(cool)] == [6, 8]
    assert not all(torch.equal(weights(run)[n], w) for n, w in weights(cool).items())
    assert cli.main(command) == 0  # complete: nothing more to do
    assert find_parent(cool).history[-1]["steps"] in (6, 8)
    capsys.readouterr()
    assert cli.main([*command[:5], "-o", str(tmp_path / "x"), *command[7:], "--set=seed=2"]) == 2
    assert "other settings: seed" in capsys.readouterr().err and not (tmp_path / "x").exists()
    assert cli.main([*command[:5], "-o", str(run), *command[7:]]) == 2
    assert "copy of the run" in capsys.readouterr().err
    assert cli.main([*command[:5], "-o", str(tmp_path / "x"), "--cooldown=0"]) == 2
    assert "at least one step" in capsys.readouterr().err
    assert cli.main([*command[:4], str(tmp_path), "-o", str(tmp_path / "x"), *command[7:]]) == 2
    assert "not a run's folder" in capsys.readouterr().err


def test_two_do_not_train_in_one_folder(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    with FileLock(tmp_path / "run" / ".lock"):
        assert finetune(manifest, tmp_path / "run") == 2
    assert "another process is training there" in capsys.readouterr().err
    assert finetune(manifest, tmp_path / "run") == 0


def test_a_run_with_another_network_is_not_gone_on_with(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finetune(manifest, tmp_path / "run") == 0
    assert finetune(manifest, tmp_path / "run", "--set=network.lookahead=2") == 2
    error = capsys.readouterr().err
    assert "other settings: network" in error and "Traceback" not in error
    assert finetune(manifest, tmp_path / "other", "--set=network.lookahead=6") == 2
    assert "lookahead must be 0 to 5" in capsys.readouterr().err


def test_look_ahead_starts_from_weights_without(manifest: Path, tmp_path: Path) -> None:
    assert finetune(manifest, tmp_path / "run") == 0
    parent = find_parent(tmp_path / "run")
    late = settings_for("separation", None, parent, ["network.lookahead=2"])
    network = build_network(late, parent)
    expected = with_lookahead(load_checkpoint(parent.checkpoint).state_dict(), network)
    assert all(torch.equal(expected[name], w) for name, w in network.state_dict().items())
    options = ("--parent", tmp_path / "run", "--set=network.lookahead=2")
    assert finetune(manifest, tmp_path / "wide", *options) == 0
    wide = find_parent(tmp_path / "wide")
    assert [run["steps"] for run in wide.history] == [4, 4]
    with pytest.raises(CheckpointError, match="after"):  # back again something would be lost
        build_network(settings_for("separation", None, wide, ["network.lookahead=0"]), wide)
    assert finetune(manifest, tmp_path / "both", *options, "--set=ahead_share=0.5") == 0
    both = find_parent(tmp_path / "both")  # unless it has learned to do without
    again = build_network(settings_for("separation", None, both, ["network.lookahead=0"]), both)
    kept = without_lookahead(load_checkpoint(both.checkpoint).state_dict(), 2)
    assert all(torch.equal(kept[name], weight) for name, weight in again.state_dict().items())


def test_a_checkpoint_can_be_a_parent(tmp_path: Path) -> None:
    save_checkpoint(random_separator(tiny_config()), tmp_path / "a.safetensors")
    parent = find_parent(tmp_path / "a.safetensors")
    assert settings_for("separation", None, parent, []).network == tiny_config()
    hop = settings_for("separation", None, parent, ["network.hop=16"])
    assert build_network(hop, parent).config.hop == 16
    with pytest.raises(CheckpointError, match=r"does not fit.*there, .* here"):
        build_network(settings_for("separation", None, parent, ["network.heads=4"]), parent)
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        find_parent(tmp_path / "nothing")


def test_sources_are_counted_by_licence(manifest: Path) -> None:
    sources = sources_of(Manifest(manifest))
    assert {source["kind"] for source in sources} >= {"pair", "vocals", "accompaniment"}
    assert sum(s["hours"] for s in sources) == pytest.approx((48 + 10 + 8 + 24) / 3600, rel=0.6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--set=speed=9"], "unknown settings.*speed"), (["--devices=0"], "--devices"),
        (["--accelerator=abacus"], "abacus"),
        (["--set=batch_size=3", "--set=accumulate=2"], "batch_size 3"),
        (["--parent=nowhere"], "nowhere"), (["--cache=nowhere"], "nowhere"),
    ],
)  # fmt: skip
def test_arguments_that_cannot_work(
    manifest: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    changes: list[str],
    message: str,
) -> None:
    assert finetune(manifest, tmp_path / "run", *changes) == 2
    error = capsys.readouterr().err
    assert error.startswith("stemwire: ") and "Traceback" not in error
    import re

    assert re.search(message, error), error


def test_settings_of_pretraining_do_not_freeze_finetuning() -> None:
    pretrained = settings_for("ddep", "decoder", None, [])
    assert pretrained.part == "decoder"
    from stemwire.training.trainer.runs import Parent

    after = settings_for("separation", None, Parent(Path(), pretrained, []), [])
    assert after.part == "whole" and not after.pretraining
    with pytest.raises(ConfigError, match="part"):
        settings_for("ddep", "encoder", None, [])
