"""Export to a preset: it can be loaded, and equals the checkpoint."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from support import files_below, noise, random_separator, tiny_config

import stemwire
from stemwire import cli
from stemwire.errors import CheckpointError, StemwireError

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from stemwire.model.checkpoint import load_checkpoint, save_checkpoint  # noqa: E402
from stemwire.model.config import SeparatorConfig, config_text  # noqa: E402
from stemwire.model.export import export_onnx  # noqa: E402
from stemwire.realtime.backends.onnx_backend import OnnxBackend  # noqa: E402
from stemwire.training.trainer import export  # noqa: E402
from stemwire.training.trainer.export import export_preset, largest_difference  # noqa: E402

CARD: dict[str, object] = {"description": "A test.", "licence": "MIT"}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "trained.safetensors"
    save_checkpoint(random_separator(tiny_config()), path)
    return path


def test_a_preset_can_be_loaded_and_is_the_checkpoint(tiny_preset: Path) -> None:
    parts = ["README.md", "preset.json", "step.onnx", "weights.safetensors"]
    assert files_below(tiny_preset) == parts
    audio = noise(3000)
    onnx, other = (stemwire.load(tiny_preset, backend=kind) for kind in ("onnx", "torch"))
    assert onnx.config == tiny_config()
    stems = onnx.push(audio)
    np.testing.assert_allclose(stems, other.push(audio), atol=1e-4)
    assert np.abs(stems[0]).max() > 0.01
    assert not list(tiny_preset.parent.glob(".export-*"))


def test_weights_in_half_precision_and_card_are_those_given(
    checkpoint: Path, tmp_path: Path
) -> None:
    export_preset(checkpoint, tmp_path / "deep" / "preset", CARD)
    assert json.loads((tmp_path / "deep" / "preset" / "preset.json").read_text()) == CARD
    given = load_checkpoint(checkpoint).state_dict()
    written = load_checkpoint(tmp_path / "deep" / "preset" / "weights.safetensors").state_dict()
    assert all(torch.equal(given[name].half().float(), written[name]) for name in given)


def test_a_graph_that_differs_is_refused(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slightly_wrong(config: SeparatorConfig, path: Path) -> None:
        export_onnx(dataclasses.replace(config, compression=0.41), path)
        graph = onnx.load(path, load_external_data=False)
        onnx.helper.set_model_props(graph, {"config": config_text(config)})
        onnx.save(graph, path)

    export_preset(checkpoint, tmp_path / "preset", CARD)
    before = {
        name: (tmp_path / "preset" / name).read_bytes() for name in files_below(tmp_path / "preset")
    }
    monkeypatch.setattr(export, "export_onnx", slightly_wrong)
    for folder in ("preset", "new"):
        with pytest.raises(CheckpointError, match="differs") as caught:
            export_preset(checkpoint, tmp_path / folder, CARD)
        assert str(checkpoint) in str(caught.value)
    after = {name: (tmp_path / "preset" / name).read_bytes() for name in before}
    assert after == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["preset", "trained.safetensors"]


@pytest.mark.parametrize("bad", [float("nan"), 7e4])
def test_what_half_precision_cannot_hold_is_refused(tmp_path: Path, bad: float) -> None:
    separator = random_separator(tiny_config())
    with torch.no_grad():
        separator.head.bias[0, 0] = bad
    save_checkpoint(separator, tmp_path / "nan.safetensors")
    with pytest.raises(CheckpointError, match=r"head\.bias.*half precision"):
        export_preset(tmp_path / "nan.safetensors", tmp_path / "preset", CARD)
    assert not (tmp_path / "preset").exists()


def test_largest_difference_is_that_of_the_vocals(checkpoint: Path, tmp_path: Path) -> None:
    network = load_checkpoint(checkpoint)
    weights = tmp_path / "weights.safetensors"
    save_checkpoint(network, weights)
    export_onnx(network.config, tmp_path / "step.onnx")
    same = OnnxBackend(tmp_path / "step.onnx", network.config)
    assert largest_difference(checkpoint, same, 20) < 1e-4
    with torch.no_grad():
        network.head.weights[0].add_(0.01)
    save_checkpoint(network, weights)
    other = OnnxBackend(tmp_path / "step.onnx", network.config)
    assert largest_difference(checkpoint, other, 20) > 1e-3


@pytest.mark.parametrize("card", [{}, {"description": "No licence."}])
def test_what_could_not_be_loaded_is_not_written(
    checkpoint: Path, tmp_path: Path, card: dict[str, object]
) -> None:
    with pytest.raises(StemwireError):
        export_preset(checkpoint, tmp_path / "preset", card)
    assert not (tmp_path / "preset").exists()


def test_the_command_writes_a_card(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = tmp_path / "report.json"
    figures.write_text(json.dumps({"summary": [{"method": "mine", "sdr": 6.254}]}))
    command = [
        "export",
        str(checkpoint),
        "-o",
        str(tmp_path / "mine"),
        "--description=A test.",
        "--licence=CC0",
        f"--figures={figures}",
        "--note=Quiet music only.",
    ]
    assert cli.main(command) == 0
    assert stemwire.load(tmp_path / "mine").config == tiny_config()
    text = (tmp_path / "mine" / "README.md").read_text()
    assert text.startswith("# mine\n")
    assert "CC0" in text and "| mine | 6.25 |" in text and "Quiet music only." in text
    figures.write_text("{}")
    assert cli.main(command) == 2
    assert "no figures in it" in capsys.readouterr().err
