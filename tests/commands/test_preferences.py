from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import pytest

from stemwire.commands import preferences
from stemwire.commands.preferences import FILE, Preferences, preferences_folder
from stemwire.realtime.levels import OFF

CHOSEN = Preferences(
    input_device="Línea 1+2",
    output_device="Speakers",
    input_channels=(3, 4),
    microphone_channels=(1, 2, 5),
    output_channels=(1,),
    preset="low",
    backend="onnx",
    block_size=256,
    sample_rate=48_000,
    margin=512,
    effects={"microphone": "Reverb | Gain gain_db=3", "vocals": ""},
    vocals_db=-18.5,
    instrumental_db=OFF,
    microphone_db=3.0,
    output_db=-1.0,
    midi_port="nanoKONTROL2",
    midi_map="mackie",
)


@pytest.fixture
def warnings() -> list[str]:
    return []


def test_what_is_saved_is_loaded(tmp_path: Path, warnings: list[str]) -> None:
    assert CHOSEN.save(warnings.append, tmp_path / "new" / "folder")
    assert Preferences.load(warnings.append, tmp_path / "new" / "folder") == CHOSEN
    assert not warnings
    assert all(  # or the first assertion says nothing about a field
        getattr(CHOSEN, each.name) != getattr(Preferences(), each.name)
        for each in dataclasses.fields(Preferences)
        if each.name != "unknown"
    )


def test_every_field_can_be_read() -> None:
    types = {str(each.type) for each in dataclasses.fields(Preferences) if each.name != "unknown"}
    assert types == set(preferences._READERS)


def test_nothing_saved_gives_the_defaults_in_silence(tmp_path: Path, warnings: list[str]) -> None:
    assert Preferences.load(warnings.append, tmp_path / "none") == Preferences()
    assert not warnings
    assert not (tmp_path / "none").exists()


def test_the_folder_can_be_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEMWIRE_CONFIG_DIR", str(tmp_path))
    assert preferences_folder() == tmp_path
    CHOSEN.save()
    assert Preferences.load() == CHOSEN
    assert (tmp_path / FILE).is_file()


def test_without_a_choice_it_is_the_platforms_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    platformdirs = pytest.importorskip("platformdirs")
    monkeypatch.delenv("STEMWIRE_CONFIG_DIR", raising=False)
    expected = platformdirs.user_config_dir("stemwire", appauthor=False, roaming=True)
    assert str(preferences_folder()) == expected


def test_what_a_newer_version_wrote_is_kept(tmp_path: Path, warnings: list[str]) -> None:
    newer = {"block_size": 128, "spatial": {"wide": [1, 2.5, None]}, "mode": "duet"}
    (tmp_path / FILE).write_text(json.dumps(newer))
    loaded = Preferences.load(warnings.append, tmp_path)
    dataclasses.replace(loaded, preset="low").save(warnings.append, tmp_path)
    written = json.loads((tmp_path / FILE).read_text())
    assert written["spatial"] == newer["spatial"]
    assert written["mode"] == "duet"
    assert (written["block_size"], written["preset"]) == (128, "low")
    assert not warnings


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"[1, 2]", b'"text"', b"null", b"\xff\xfe\x00", b'{"preset": "low"',
        b"\x00" * 64, b"[" * 100_000,
    ],
)  # fmt: skip
def test_a_damaged_file_is_kept_aside(tmp_path: Path, warnings: list[str], content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    assert Preferences.load(warnings.append, tmp_path) == Preferences()
    assert len(warnings) == 1
    assert "damaged" in warnings[0]
    assert "live.damaged-1.json" in warnings[0]
    assert (tmp_path / "live.damaged-1.json").read_bytes() == content
    assert Preferences.load(warnings.append, tmp_path) == Preferences()
    assert len(warnings) == 1  # it is out of the way

    (tmp_path / FILE).write_bytes(b"again")
    Preferences.load(warnings.append, tmp_path)
    assert (tmp_path / "live.damaged-1.json").read_bytes() == content
    assert (tmp_path / "live.damaged-2.json").read_bytes() == b"again"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("preset", 3, "text"),
        ("midi_port", None, "text"),
        ("block_size", -1, "whole number"),
        ("block_size", True, "whole number"),
        ("block_size", 25.6, "whole number"),
        ("vocals_db", "loud", '"off" or decibels'),
        ("vocals_db", 400, "decibels up to 24"),
        ("vocals_db", float("nan"), "decibels"),
        ("output_db", False, "decibels"),
        ("input_channels", [0, 1], "count from 1"),
        ("output_channels", [1] * 65, "at most 64"),
        ("effects", {"drums": "Reverb"}, "drums"),
        ("effects", {"vocals": 3}, "chains by stem"),
        ("microphone_channels", "1", "list"),
        ("microphone_channels", [1.0], "count from 1"),
    ],
)
def test_a_value_that_cannot_be_falls_back_alone(
    tmp_path: Path, warnings: list[str], name: str, value: object, expected: str
) -> None:
    (tmp_path / FILE).write_text(json.dumps({"backend": "torch", name: value}))
    assert Preferences.load(warnings.append, tmp_path) == Preferences(backend="torch")
    assert len(warnings) == 1
    assert name in warnings[0]
    assert expected in warnings[0]


def test_a_byte_order_mark_does_no_harm(tmp_path: Path, warnings: list[str]) -> None:
    (tmp_path / FILE).write_text('{"preset": "low"}', encoding="utf-8-sig")
    assert Preferences.load(warnings.append, tmp_path).preset == "low"
    assert not warnings


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path, warnings: list[str]) -> None:
    (tmp_path / FILE).mkdir()
    assert Preferences.load(warnings.append, tmp_path) == Preferences()
    assert len(warnings) == 1
    assert "cannot be read" in warnings[0]


def test_a_folder_that_cannot_be_written_is_told_once(tmp_path: Path, warnings: list[str]) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("not a folder")
    for _ in range(3):
        assert not CHOSEN.save(warnings.append, in_the_way)
    assert len(warnings) == 1
    assert "STEMWIRE_CONFIG_DIR" in warnings[0]
    assert not CHOSEN.save(warnings.append, in_the_way / "deeper")  # another folder, another word
    assert len(warnings) == 2


def test_saving_is_all_or_nothing(
    tmp_path: Path, warnings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    CHOSEN.save(warnings.append, tmp_path)
    before = (tmp_path / FILE).read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert not Preferences().save(warnings.append, tmp_path)
    assert (tmp_path / FILE).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [FILE]  # nothing half-written is left
    assert "No space left" in warnings[0]


@pytest.mark.skipif(os.name != "posix", reason="links need rights elsewhere")
def test_a_link_stays_a_link(tmp_path: Path, warnings: list[str]) -> None:
    kept = tmp_path / "dotfiles.json"
    (tmp_path / FILE).symlink_to(kept)
    CHOSEN.save(warnings.append, tmp_path)
    assert (tmp_path / FILE).is_symlink()
    assert json.loads(kept.read_text())["preset"] == "low"


def test_by_default_people_are_told_on_standard_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / FILE).write_text("{")
    Preferences.load(folder=tmp_path)
    printed = capsys.readouterr()
    assert printed.err.startswith("stemwire: ")
    assert printed.out == ""
