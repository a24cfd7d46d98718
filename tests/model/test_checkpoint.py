"""Checkpoints: one file, whole or refused with its path in the message."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import VARIANTS, edit_header, random_separator, tiny_config

from stemwire.errors import CheckpointError
from stemwire.model.checkpoint import load_checkpoint, read_config, save_checkpoint

torch = pytest.importorskip("torch")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "network.safetensors"
    save_checkpoint(random_separator(tiny_config()), path)
    return path


def refused(path: Path, words: str, header_too: bool = True) -> None:
    """Both readers refuse `path` and say so, with its name."""
    for read in (read_config, load_checkpoint) if header_too else (load_checkpoint,):
        with pytest.raises(CheckpointError, match=words) as caught:
            read(path)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize("variant", VARIANTS)
def test_round_trip(tmp_path: Path, variant: str) -> None:
    separator = random_separator(tiny_config(variant), seed=3)
    path = tmp_path / "x.safetensors"
    save_checkpoint(separator, path, step="12", licence="MIT")
    read = load_checkpoint(path)
    assert read.config == read_config(path) == separator.config
    assert not read.training
    wanted, got = separator.state_dict(), read.state_dict()
    assert list(wanted) == list(got)
    assert all(torch.equal(wanted[name], got[name]) for name in wanted)
    assert [file.name for file in tmp_path.iterdir()] == ["x.safetensors"]


def test_notes_go_into_the_header_and_cannot_displace_what_is_needed(tmp_path: Path) -> None:
    from safetensors import safe_open

    separator = random_separator(tiny_config())
    save_checkpoint(separator, tmp_path / "x", step="12", version="99", format="x")
    with safe_open(tmp_path / "x", framework="numpy") as file:
        assert file.metadata()["step"] == "12"
    assert read_config(tmp_path / "x") == separator.config


SAVE_ON_A_FULL_DISK = """
import resource, sys
from pathlib import Path
from stemwire.model import Separator, SeparatorConfig
from stemwire.model.checkpoint import save_checkpoint
network = Separator(SeparatorConfig(widths=(4,), blocks=1, variant="stack"))
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    save_checkpoint(network, Path(sys.argv[1]))
except Exception as error:
    print("failed:", error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files")
def test_overwriting_is_all_or_nothing(path: Path) -> None:
    before = path.read_bytes()
    command = [sys.executable, "-c", SAVE_ON_A_FULL_DISK, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("failed:")
    assert path.read_bytes() == before
    load_checkpoint(path)


def test_missing(tmp_path: Path) -> None:
    refused(tmp_path / "none.safetensors", "no such")
    refused(tmp_path, "no such")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.01, 0.5, 0.999])
def test_truncated(path: Path, share: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    refused(path, "damaged")


@pytest.mark.parametrize("garbage", [b"x", b"\xff" * 4000, b"PK\x03\x04" + bytes(500), bytes(99)])
def test_garbage(path: Path, garbage: bytes) -> None:
    path.write_bytes(garbage)
    refused(path, "damaged")


def test_foreign(path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(3)}, path)  # no metadata at all
    refused(path, "not a Stemwire checkpoint")
    save_file({"weight": torch.zeros(3)}, path, {"format": "pt"})
    refused(path, "not a Stemwire checkpoint")


@pytest.mark.parametrize("version", ["1", "3", None])
def test_other_version(path: Path, version: str | None) -> None:
    edit_header(path, version=version)
    refused(path, "version")


@pytest.mark.parametrize(
    "config",
    [
        None, "", "not json", '{"hop": ', "{}x", '{"hop": -1}', '{"depth": 3}', '{"widths": 7}',
        "[]", "[1]", "null", "5", '"hop"',
    ],
)  # fmt: skip
def test_unreadable_configuration(path: Path, config: str | None) -> None:
    edit_header(path, config=config)
    refused(path, "configuration")


@pytest.mark.parametrize(
    "changes",
    [
        {"token_width": 64},
        {"blocks": 3},
        {"blocks": 1},
        {"window": 6},
        {"channels": 1},
        {"variant": "bridge"},
        {"widths": [4, 6]},
    ],
)
def test_weights_that_do_not_fit_the_configuration(path: Path, changes: dict[str, Any]) -> None:
    edit_header(path, config=json.dumps({**tiny_config().to_dict(), **changes}))
    read_config(path)
    refused(path, "do not fit", header_too=False)
