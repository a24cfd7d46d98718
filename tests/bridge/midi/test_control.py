"""Messages, bindings, soft take-over and learning; ports are tested in test_ports.py."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.midi import Session, Surface, bend, cc, note, nrpn

from stemwire.bridge.midi.map import (
    LEVELS,
    SOLOS,
    Binding,
    Mapping,
    db_to_position,
    position_to_db,
)
from stemwire.bridge.midi.messages import Decoder, Move, Source, describe
from stemwire.errors import ConfigError
from stemwire.realtime.levels import HIGHEST_DB, LOWEST_DB, OFF
from stemwire.realtime.live.panel import Panel

STEP = 1 / 127
levels = st.one_of(st.just(OFF), st.floats(LOWEST_DB, HIGHEST_DB))


# Messages


@pytest.mark.parametrize(
    ("message", "move"),
    [
        (cc(70, 127, 16), Move(Source("cc", 70, 16), 1.0)),
        (note(60, 127), Move(Source("note", 60, 1), 1.0)),
        (note(60, 0), Move(Source("note", 60, 1), 0.0)),
        (bytes((0x83, 60, 64)), Move(Source("note", 60, 4), 0.0)),
        (bend(16_383, 9), Move(Source("bend", 0, 9), 1.0)),
        (bend(8_192, 2), Move(Source("bend", 0, 2), 8_192 / 16_383)),
        (bytes((0xC0, 5)), Move(Source("program", 0, 1), 5.0)),
    ],
)
def test_messages_are_moves(message: bytes, move: Move) -> None:
    assert Decoder().feed(message) == [move]


@pytest.mark.parametrize(
    "message",
    [
        b"", b"\xb0", b"\xb0\x07", b"\xb0\x07\x80", b"\xb0\x07\x01\x02", b"\x07\x40",  # damaged
        b"\xf0\x7e\x06\x01\xf7", b"\xf8", b"\xfe", b"\xff", b"\xf2\x01\x02",  # system
        b"\xd0\x40", b"\xa0\x40\x01", cc(123, 0), cc(98, 3), cc(101, 0),  # no controls
    ],
)  # fmt: skip
def test_other_messages_move_nothing(message: bytes) -> None:
    assert Decoder().feed(message) == []


@given(st.lists(st.binary(max_size=5)))
def test_any_bytes_are_accepted(messages: list[bytes]) -> None:
    mapping, session = Mapping([Binding(Source("cc", 7), "vocals")]), Session()
    for message in messages:
        describe(message)
        mapping.receive("port", message, session)  # type: ignore[arg-type]
    assert not math.isnan(session.control("vocals"))


def test_describe() -> None:
    assert describe(cc(7, 100, 3)) == ("CC", "3", "7", "100")
    assert describe(note(60, 0)) == ("note off", "1", "60", "0")
    assert describe(bend(8_192)) == ("pitch bend", "1", "", "8192")
    assert describe(b"\xc1\x05") == ("program", "2", "", "5")
    assert describe(b"\xf8") == ("system", "", "", "f8")
    assert describe(b"\xb0\x07") == ("damaged", "", "", "b0 07")


@given(st.lists(st.integers(0, 16_383), min_size=2))
def test_fourteen_bits_are_never_mixed(values: list[int]) -> None:
    """No value combines a new half with an old one."""
    decoder, source, got = Decoder(), Source("cc14", 7, 1), []
    for value in values:
        for message in (cc(7, value >> 7), cc(39, value & 127)):
            got += [move.value for move in decoder.feed(message) if move.source == source]
    assert got[0] == pytest.approx((values[0] >> 7) / 127)  # no fine half has arrived yet
    assert got[1:] == [value / 16_383 for value in values]


def test_nrpn() -> None:
    decoder = Decoder()
    moves = [move for message in nrpn(300, 9_999) for move in decoder.feed(message)]
    assert moves[-1] == Move(Source("nrpn", 300, 1), 9_999 / 16_383)
    assert {move.source.kind for move in moves} == {"nrpn"}
    assert decoder.feed(cc(6, 64, 2))[0] == Move(Source("cc", 6, 2), 64 / 127)  # another channel
    for end in (cc(101, 127), cc(100, 127)):
        decoder.feed(end)
    assert decoder.feed(cc(6, 64))[0].source == Source("cc", 6, 1)


# The fader law


def test_fader_law_at_its_marks() -> None:
    assert [position_to_db(x) for x in (0.0, 0.75, 95 / 127, 1.0)] == [OFF, 0.0, 0.0, 12.0]
    assert [db_to_position(db) for db in (OFF, 0.0, 12.0, 24.0)] == [0.0, 0.75, 1.0, 1.0]
    assert position_to_db(1 / 127) == OFF  # a fader that does not quite reach its end


@given(st.floats(0, 1), st.floats(0, 1))
def test_fader_law_is_monotonic_and_within_range(a: float, b: float) -> None:
    assert position_to_db(min(a, b)) <= position_to_db(max(a, b))
    Panel().steer("vocals", position_to_db(a))
    assert position_to_db(a) == OFF or position_to_db(a) >= LOWEST_DB


@given(st.floats(LOWEST_DB, 12.0))
def test_fader_law_has_an_inverse(db: float) -> None:
    assert position_to_db(db_to_position(db)) == pytest.approx(
        db, abs=0.2
    )  # around 0 dB it is 0 dB
    assert db_to_position(position_to_db(db_to_position(db))) == pytest.approx(
        db_to_position(db), abs=STEP / 2
    )


# Soft take-over

FADER = Binding(Source("cc", 20, 1), "instrumental")


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("fader"), st.integers(0, 127)),
            st.tuples(st.just("screen"), levels),
        ),
        max_size=30,
    )
)
def test_a_fader_never_makes_a_value_jump(events: list[tuple[str, float]]) -> None:
    surface, before, follows = Surface(FADER), None, False
    for who, value in events:
        there = surface["instrumental"]
        if who == "screen":
            surface["instrumental"] = value
            follows = follows and surface["instrumental"] == there
            continue
        surface.send(cc(20, int(value)))
        position, here = value / 127, db_to_position(there)
        low, high = sorted((position if before is None else before, position))
        level = surface["instrumental"]
        if level != there:  # only where the fader has been
            assert level == position_to_db(position)
            assert follows or low - STEP <= here <= high + STEP
        assert not follows or level == position_to_db(position)
        follows = follows or level != there
        before = position


@given(levels, st.booleans())
def test_a_full_sweep_takes_over(start: float, upwards: bool) -> None:
    surface = Surface(FADER)
    surface["instrumental"] = start
    surface.send(*(cc(20, value if upwards else 127 - value) for value in range(128)))
    assert surface["instrumental"] == (12.0 if upwards else OFF)


def test_a_fast_fader_takes_over_in_passing() -> None:
    surface = Surface(FADER)
    lines = surface.send(*(cc(20, value) for value in range(10, 30)))
    assert surface["instrumental"] == 0.0
    assert lines == ["instrumental: the fader takes over when it passes +0.0 dB"]  # once
    assert surface.send(cc(20, 120)) == []
    assert surface["instrumental"] == position_to_db(120 / 127)
    surface["instrumental"] = -20.0  # on the screen
    assert len(surface.send(*(cc(20, value) for value in range(119, 100, -1)))) == 1
    assert surface["instrumental"] == -20.0


def test_faders_of_two_ports_are_two_faders() -> None:
    surface = Surface(FADER)
    surface.send(cc(20, 95), cc(20, 90), port="one")
    level = surface["instrumental"]
    surface.send(cc(20, 20), port="two")
    assert surface["instrumental"] == level
    surface.send(cc(20, 100), port="two")
    assert surface["instrumental"] == position_to_db(100 / 127)
    surface.send(cc(20, 89), port="one")  # it passes the value that the other has set
    assert surface["instrumental"] == position_to_db(100 / 127)
    surface.send(cc(20, 101), port="one")
    assert surface["instrumental"] == position_to_db(101 / 127)


def test_a_fader_moved_while_unplugged_causes_no_jump() -> None:
    surface = Surface(FADER)
    surface.send(cc(20, 95), cc(20, 90))
    level = surface["instrumental"]
    surface.mapping.forget("surface")
    surface.send(cc(20, 30), cc(20, 31))
    assert surface["instrumental"] == level


@pytest.mark.parametrize("target", LEVELS)
def test_every_gain_by_every_kind_of_fader(target: str) -> None:
    top = {
        "cc": [cc(20, 127)], "cc14": [cc(20, 127), cc(52, 127)], "bend": [bend(16_383)],
        "nrpn": nrpn(20, 16_383),
    }  # fmt: skip
    zero = {
        "cc": [cc(20, 0)],
        "cc14": [cc(20, 0), cc(52, 0)],
        "bend": [bend(0)],
        "nrpn": nrpn(20, 0),
    }
    for kind, messages in top.items():
        source = Source(kind, 0 if kind == "bend" else 20)  # type: ignore[arg-type]
        surface = Surface(Binding(source, target))
        surface.send(*zero[kind], *messages)
        assert surface[target] == 12.0, kind


# Buttons


@pytest.mark.parametrize("target", ["bypass", "mute"])
def test_a_note_toggles(target: str) -> None:
    surface = Surface(Binding(Source("note", 16), target))
    got = []
    for message in (note(16, 1), note(16, 0), note(16, 99), bytes((0x80, 16, 0)), note(16, 9)):
        surface.send(message)
        got.append(surface[target])
    assert got == [1, 1, 0, 0, 1]
    surface.send(note(16, 50))  # without a note off between
    assert surface[target] == 0
    surface.send(note(17, 50))
    assert surface[target] == 0


@pytest.mark.parametrize(
    ("values", "states"),
    [
        ((127, 0, 127, 0), (1, 1, 0, 0)),  # pressed and released
        ((127, 127, 127), (1, 0, 1)),  # sends presses only
        ((63, 64, 0), (0, 1, 1)),
        ((40, 70, 90, 127, 90, 30), (0, 1, 1, 1, 1, 1)),  # a knob, through the middle
    ],
)
def test_a_controller_toggles(values: tuple[int, ...], states: tuple[int, ...]) -> None:
    surface = Surface(Binding(Source("cc", 64), "mute"))
    got = []
    for value in values:
        surface.send(cc(64, value))
        got.append(surface["mute"])
    assert tuple(got) == states


def test_momentary_is_on_while_held() -> None:
    surface = Surface(
        Binding(Source("note", 1), "mute", "momentary"),
        Binding(Source("note", 2), "solo vocals", "momentary"),
    )
    surface.send(note(1, 100), note(2, 100))
    assert (surface["mute"], surface["solo"]) == (1, 1)
    surface.send(note(1, 0))
    surface["solo"] = 3  # changed on the screen in the meantime
    surface.send(note(2, 0))
    assert (surface["mute"], surface["solo"]) == (0, 3)


def test_solo_buttons_exclude_each_other() -> None:
    surface = Surface(*(Binding(Source("note", int(n)), name) for name, n in SOLOS.items()))
    got = []
    for number in (1, 2, 2, 3, 1):
        surface.send(note(number, 100), note(number, 0))
        got.append(surface["solo"])
    assert got == [1, 2, 0, 3, 1]


def test_presets() -> None:
    surface = Surface(
        Binding(Source("note", 1), "preset next"),
        Binding(Source("note", 2), "preset previous"),
        Binding(Source("note", 3), "preset 3"),
        Binding(Source("note", 9), "preset 9"),
        Binding(Source("program"), "preset"),
    )
    got = []
    for message in (note(1, 1), note(1, 1), note(1, 1), note(2, 1), note(2, 1), note(3, 1)):
        surface.send(message, bytes((0x80, message[1], 0)))
        got.append(surface.session.preset)
    assert got == ["low", "mine", "standard", "mine", "low", "mine"]
    assert surface.send(bytes((0xC0, 1))) == []
    assert surface.session.preset == "low"
    there = "there is no preset 9; there are 3"
    assert surface.send(note(9, 1), bytes((0xC0, 8))) == [there, there]
    surface.session.preset = "/somewhere/else"
    surface.send(note(2, 1))
    assert surface.session.preset == "mine"
    surface.session.presets = ()
    assert surface.send(note(1, 1)) == ["there are no presets to change to"]


# Learning


@pytest.mark.parametrize(
    ("target", "messages", "source"),
    [
        ("vocals", [cc(20, 5, 3)], Source("cc", 20, 3)),
        ("vocals", [note(104, 127), cc(99, 1), cc(20, 5)], Source("cc", 20, 1)),  # touched, moved
        ("vocals", [cc(20, 5), cc(52, 9)], Source("cc14", 20, 1)),
        ("vocals", [cc(20, 5), cc(20, 6), cc(52, 9)], Source("cc", 20, 1)),  # two controls
        ("output", nrpn(500, 77), Source("nrpn", 500, 1)),
        ("microphone", [bend(100, 4)], Source("bend", 0, 4)),
        ("mute", [bend(3), note(5, 0), cc(9, 10), note(6, 3, 2)], Source("note", 6, 2)),
        ("solo vocals", [cc(30, 127)], Source("cc", 30, 1)),
        ("preset 2", [note(7, 7)], Source("note", 7, 1)),
        ("preset", [note(7, 7), cc(0, 1), bytes((0xC3, 2))], Source("program", 0, 4)),
    ],
)
def test_learning(target: str, messages: list[bytes], source: Source) -> None:
    surface = Surface()
    surface.mapping.learn(target, 10.0)
    assert surface.mapping.learning(10.0) == target
    lines = surface.send(*messages, now=10.01)
    assert surface.mapping.bindings == (Binding(source, target),)
    assert f"{target} is now {source}" in lines
    assert surface.mapping.learning(10.0) is None


def test_learning_steers_nothing_and_replaces() -> None:
    surface = Surface(Binding(Source("cc", 7), "vocals"), Binding(Source("note", 1), "mute"))
    surface.mapping.learn("output", 0.0)
    surface.send(note(1, 100), cc(7, 0, 2))
    assert surface.session.steered == 0
    assert surface.mapping.bindings[1:] == (Binding(Source("cc", 7, 2), "output"),)
    surface.mapping.bind(Binding(Source("cc14", 7, 2), "vocals"))  # made of CC 7 and 39
    assert len(surface.mapping.bindings) == 2
    assert surface.mapping.unbind("vocals") == 1


def test_learning_a_button_does_not_press_it() -> None:
    surface = Surface()
    surface.mapping.learn("mute", 0.0, "momentary")
    surface.send(cc(30, 127))
    assert surface["mute"] == 0
    surface.send(cc(30, 0), cc(30, 127))
    assert surface["mute"] == 1


def test_learning_ends_by_time_and_by_hand() -> None:
    surface = Surface()
    surface.mapping.learn("vocals", 0.0, seconds=5.0)
    assert surface.mapping.learning(4.9) == "vocals"
    surface.send(cc(1, 1), now=5.0)
    assert surface.mapping.learning(5.0) is None and surface.mapping.bindings == ()
    surface.mapping.learn("vocals", 6.0)
    surface.mapping.cancel()
    surface.send(cc(1, 1), now=6.0)
    assert surface.mapping.bindings == ()


@pytest.mark.parametrize(
    ("target", "mode", "text"),
    [
        ("volume", "toggle", "'volume' is unknown; use one of vocals, instrumental"),
        ("preset 0", "toggle", "'preset 0' is unknown"),
        ("vocals", "momentary", "cannot be momentary"),
        ("mute", "often", "toggle or momentary"),
    ],
)
def test_invalid_targets_for_learning(target: str, mode: Any, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        Mapping().learn(target, 0.0, mode)


def test_a_source_that_cannot_steer_a_target() -> None:
    with pytest.raises(ConfigError, match="'vocals' is steered by cc or cc14 or nrpn or bend, not"):
        Binding(Source("note", 3), "vocals")
