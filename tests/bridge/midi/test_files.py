"""MIDI maps as files, and the built-in ones."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.midi import Surface, bend, cc, note

from stemwire.bridge.midi.files import BUILT_IN, load_mapping, save_mapping
from stemwire.bridge.midi.map import LEVELS, SWITCHES, Binding, Mapping, kinds_for
from stemwire.bridge.midi.messages import HIGHEST, Source
from stemwire.errors import ConfigError, OutputError


@st.composite
def bindings(draw: st.DrawFn) -> Binding:
    target = draw(st.sampled_from((*LEVELS, *SWITCHES, "preset", "preset next", "preset 12")))
    kind = draw(st.sampled_from(kinds_for(target)))
    source = Source(kind, draw(st.integers(0, HIGHEST[kind])), draw(st.integers(0, 16)))
    modes = ["toggle", "momentary"] if target in SWITCHES else ["toggle"]
    return Binding(source, target, draw(st.sampled_from(modes)))  # type: ignore[arg-type]


@given(st.lists(bindings()))
def test_what_is_saved_is_loaded(tmp_path: Path, several: list[Binding]) -> None:
    mapping, path = Mapping(several), tmp_path / "new folder" / "map.json"
    save_mapping(mapping, path)
    assert load_mapping(path).bindings == mapping.bindings
    assert [file.name for file in path.parent.iterdir()] == ["map.json"]


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_maps_can_be_saved(name: str, tmp_path: Path) -> None:
    save_mapping(load_mapping(name), tmp_path / "map.json")
    assert load_mapping(tmp_path / "map.json").bindings == BUILT_IN[name]().bindings


def test_the_default_map_does_what_its_table_says() -> None:
    surface = Surface(*load_mapping("default").bindings)
    for channel, level in enumerate(LEVELS, 1):
        surface.send(cc(7, 0, channel), cc(7, 127, channel))
        assert surface[level] == 12.0
    surface.send(cc(80, 127, 5), cc(81, 127, 6), cc(82, 127, 7), cc(83, 127, 8))
    assert [surface[name] for name in ("bypass", "mute", "solo")] == [1, 1, 1]
    assert surface.session.preset == "low"
    surface.send(bytes((0xCF, 0)))
    assert surface.session.preset == "standard"


def test_the_mackie_map_does_what_its_table_says() -> None:
    surface = Surface(*load_mapping("mackie").bindings)
    for channel, level in zip((1, 2, 3, 9), LEVELS, strict=True):
        surface.send(bend(0, channel), bend(16_383, channel))
        assert surface[level] == 12.0
    surface.send(*(note(number, 127) for number in (9, 16, 24, 47)))
    assert [surface[name] for name in ("solo", "mute", "bypass")] == [2, 1, 1]
    assert surface.session.preset == "low"


def entry(**changes: Any) -> dict[str, Any]:
    values = {"source": "cc", "number": 7, "channel": 1, "target": "vocals", **changes}
    return {key: value for key, value in values.items() if value != "absent"}


GOOD = {"format": "stemwire midi map", "version": 1}


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        (entry(number=128), r"number of cc must be 0 to 119, not 128"),
        (entry(number="absent"), r"number of cc must be 0 to 119, not nothing"),
        (entry(number=True), r"number of cc must be 0 to 119, not true"),
        (entry(source="cc14", number=40), r"number of cc14 must be 0 to 31, not 40"),
        (entry(source="knob"), r'source must be cc, .* or program, not "knob"'),
        (entry(source=["cc"]), r"source must be"),
        (entry(channel=17), r'channel must be 1 to 16 or "any", not 17'),
        (entry(channel=0), r"channel must be"),
        (entry(target="drums"), r"target 'drums' is unknown; use one of vocals, "),
        (entry(target=3), r"target must be one of vocals, .*, not 3"),
        (entry(target="mute", mode="hold"), r"mode must be toggle or momentary, not 'hold'"),
        (entry(target="mute", mode=["toggle"]), r"mode must be toggle or momentary"),
        (entry(mode="momentary"), r"'vocals' cannot be momentary"),
        (entry(source="note"), r"'vocals' is steered by cc .*, not by note"),
        (entry(colour="red"), r"'colour' is unknown; expected source, number, channel"),
        ("cc 7", r"expected an object with source, .*, not text"),
        (entry(source="cc14", channel="any"), r"14-bit CC 7 on any channel is bound by binding 1"),
    ],
)
def test_a_bad_entry_is_named(bad: object, text: str, tmp_path: Path) -> None:
    path = tmp_path / "surface.json"
    path.write_text(json.dumps({**GOOD, "bindings": [entry(channel=2), bad]}))
    with pytest.raises(ConfigError, match=r"surface\.json: binding 2: " + text) as error:
        load_mapping(path)
    assert str(error.value).endswith("; correct or remove it")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"{", "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "not a MIDI map"),
        (b'{"format": "other"}', "not a MIDI map"),
        (json.dumps({**GOOD, "version": 2}).encode(), "version 2 of MIDI maps"),
        (json.dumps({**GOOD, "bindings": {}}).encode(), "bindings must be a list, not an object"),
        (json.dumps(GOOD).encode(), "bindings must be a list, not nothing"),
        (None, "No such file or directory; name a MIDI map's file, or default or mackie"),
    ],
)
def test_bad_files(content: bytes | None, text: str, tmp_path: Path) -> None:
    path = tmp_path / "surface.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"surface\.json: .*{text}"):
        load_mapping(path)


def test_saving_that_fails_leaves_what_was(tmp_path: Path) -> None:
    path = tmp_path / "map.json"
    save_mapping(load_mapping("default"), path)
    before = path.read_bytes()
    (tmp_path / f".map.json.{os.getpid()}.part").mkdir()  # in the way
    with pytest.raises(OutputError, match=r"map\.json: the MIDI map cannot be saved: .*; free"):
        save_mapping(load_mapping("mackie"), path)
    assert path.read_bytes() == before
    with pytest.raises(OutputError, match="cannot be saved"):
        save_mapping(load_mapping("mackie"), path / "below a file" / "map.json")
