"""Presets: shipped ones can be read, damaged ones are refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import PRESETS, edit_header, noise

import stemwire
from stemwire.errors import CheckpointError, ConfigError
from stemwire.model.preset import find_preset, read_preset

HOPS = {"standard": 512, "low": 256}


def test_standard_is_shipped() -> None:
    assert "standard" in PRESETS
    assert len(set(PRESETS)) == len(PRESETS)


@pytest.mark.parametrize("name", PRESETS)
def test_shipped_preset(name: str) -> None:
    preset = find_preset(name)
    assert preset.name == name
    assert preset.config.hop == HOPS.get(name, preset.config.hop)
    assert preset.sample_rate == preset.config.sample_rate == 44_100
    assert preset.latency == preset.config.latency
    assert preset.latency == stemwire.load(name).latency
    assert preset.latency_ms == pytest.approx(1e3 * preset.latency / 44_100)
    assert preset.size == sum(file.stat().st_size for file in preset.folder.iterdir())
    assert preset.description and preset.licence


def test_all_of_them_together_are_small() -> None:
    """A wheel holds them all; and a graph has no second copy of the weights."""
    assert sum(preset.size for preset in stemwire.presets()) < 60e6
    for preset in stemwire.presets():
        assert (preset.folder / "step.onnx").stat().st_size < 1e6


def test_slowest_comes_first() -> None:
    latencies = [preset.latency for preset in stemwire.presets()]
    assert latencies == sorted(latencies, reverse=True)


@pytest.mark.parametrize("name", ["nope", "Standard", "standard/x", "a\0b", "../presets/standard"])
def test_unknown_name_lists_the_known(name: str) -> None:
    with pytest.raises(ConfigError, match="standard") as caught:
        find_preset(name)
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize("name", ["n" * 300, "", None, 5])
def test_what_cannot_be_a_name_is_refused(name: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        find_preset(name)
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize("as_text", [False, True])
def test_own_folder_by_path(preset_copy: Path, as_text: bool) -> None:
    preset = find_preset(str(preset_copy) if as_text else preset_copy)
    assert (preset.name, preset.folder) == ("mine", preset_copy)
    separator = stemwire.load(str(preset_copy) if as_text else preset_copy)
    shipped = stemwire.load(min(stemwire.presets(), key=lambda p: p.size).name)
    audio = noise(3000)
    np.testing.assert_array_equal(separator.push(audio), shipped.push(audio))


def test_own_folder_by_relative_path(preset_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(preset_copy.parent)
    assert find_preset("mine").folder == preset_copy
    monkeypatch.chdir(preset_copy)
    assert find_preset(".").folder == preset_copy


@pytest.mark.parametrize(
    "card", [b"", b"{", b"[]", b"null", b"5", b"{}", b'{"description": "x"}', b"\xff\xfe", b"\0"]
)
def test_damaged_card(preset_copy: Path, card: bytes) -> None:
    (preset_copy / "preset.json").write_bytes(card)
    with pytest.raises(CheckpointError) as caught:
        read_preset(preset_copy)
    assert str(preset_copy / "preset.json") in str(caught.value)


@pytest.mark.parametrize("file", ["preset.json", "step.onnx", "weights.safetensors"])
def test_missing_file(preset_copy: Path, file: str) -> None:
    (preset_copy / file).unlink()
    with pytest.raises(CheckpointError) as caught:
        stemwire.load(preset_copy)
    assert str(preset_copy / file) in str(caught.value)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
@pytest.mark.parametrize("file", ["step.onnx", "weights.safetensors"])
def test_truncated_file(preset_copy: Path, file: str, share: float) -> None:
    data = (preset_copy / file).read_bytes()
    (preset_copy / file).write_bytes(data[: int(share * len(data))])
    with pytest.raises(CheckpointError) as caught:
        stemwire.load(preset_copy, backend="onnx" if file == "step.onnx" else "auto")
    assert str(preset_copy / file) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("change", [{"version": "1"}, {"format": "pt"}, {"config": "{"}])
def test_foreign_weights(preset_copy: Path, change: dict[str, str]) -> None:
    edit_header(preset_copy / "weights.safetensors", **change)
    with pytest.raises(CheckpointError, match=r"weights\.safetensors"):
        stemwire.load(preset_copy)


def test_a_replaced_preset_is_not_served_from_memory(preset_copy: Path) -> None:
    stemwire.load(preset_copy, backend="onnx")
    (preset_copy / "step.onnx").write_bytes(b"damaged since")
    with pytest.raises(CheckpointError, match=r"step\.onnx"):
        stemwire.load(preset_copy, backend="onnx")
