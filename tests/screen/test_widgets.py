"""Parts of the screen that need no terminal: scales, meters, figures, steering."""

from __future__ import annotations

import dataclasses

import pytest

pytest.importorskip("textual")

from hypothesis import given
from hypothesis import strategies as st
from support.live_screen import PLAYING, Session

from stemwire.errors import StemwireError
from stemwire.realtime.levels import HIGHEST_DB, OFF, fader_level, fader_position
from stemwire.realtime.live.panel import CONTROLS
from stemwire.screen import figures
from stemwire.screen.steering import FADERS, LOADING_S, SOLOS, Steering
from stemwire.screen.widgets import (
    BLOCK,
    CLIP_TIME,
    FALL,
    HOLD,
    METERS,
    SLIM,
    Ballistics,
    bar,
    columns,
    decibels,
    fader_text,
    meter_text,
    scale_text,
)

GAINS = st.one_of(st.just(OFF), st.floats(-120, 30))


def test_faders_have_the_law_of_a_desk() -> None:
    assert [fader_position(g) for g in (OFF, -60.0, -40.0, -20.0, 0.0, 24.0)] == [
        0,
        0,
        0.2,
        0.4,
        0.75,
        1,
    ]
    assert fader_level(0.0) == fader_level(-0.3) == OFF
    assert fader_level(1.0) == fader_level(1.7) == HIGHEST_DB
    for gain in range(-59, 25):
        assert fader_level(fader_position(gain)) == gain


@given(GAINS, GAINS)
def test_a_higher_gain_is_never_further_down(a: float, b: float) -> None:
    low, high = sorted((a, b))
    assert 0.0 <= fader_position(low) <= fader_position(high) <= 1.0


@pytest.mark.parametrize(
    ("value", "text"), [(OFF, "off"), (-120.0, "off"), (float("nan"), "off"), (0.0, "0.0"),
                        (-12.34, "-12.3"), (24.0, "24.0")],
)  # fmt: skip
def test_decibels_in_words(value: float, text: str) -> None:
    assert decibels(value, "off") == text


@given(st.floats(-1, 2), st.integers(1, 300))
def test_bars_have_their_width_and_grow(share: float, width: int) -> None:
    for glyphs in (SLIM, BLOCK):
        text = bar(share, width, glyphs)
        assert len(text) == width
        filled = text.rstrip(glyphs.track)
        assert abs(len(filled) - min(max(share, 0), 1) * width) <= 1
        assert set(filled[:-1]) <= {glyphs.steps[-1]}


@given(GAINS, st.integers(6, 300))
def test_fader_shows_its_knob(gain: float, width: int) -> None:
    text = fader_text(gain, width)
    assert len(text) == width
    assert text.count("●" if gain > OFF else "○") == 1
    assert text.count("┼") <= 1


@given(st.integers(0, 400))
def test_scale_fits_every_width_and_its_labels_never_touch(width: int) -> None:
    text = scale_text(width)
    assert len(text) == width
    assert set(text.split()) <= {
        *map(str, range(-60, 1)), "peak", "RMS", "off", "+12", "+24", "dB",
    }  # fmt: skip
    at = columns(width)
    assert at.meter + at.meter_width == at.figures
    assert at.fader + at.fader_width == at.value


@given(GAINS, GAINS, GAINS, st.integers(6, 300))
def test_meters_have_their_width(rms: float, peak: float, hold: float, width: int) -> None:
    levels = Ballistics()
    levels.rms, levels.peak, levels.hold = rms, peak, hold
    for lines in METERS.values():
        for glyphs in lines:
            text = meter_text(levels, width, glyphs)
            assert len(text) == width
            assert text.count(glyphs.hold) <= 1


def test_meters_show_rms_peak_and_hold() -> None:
    levels = Ballistics()
    levels.rms, levels.peak, levels.hold = -30.0, -18.0, -6.0
    assert meter_text(levels, 10, BLOCK) == "█████━━──┃"
    assert meter_text(levels, 20, SLIM) == "▆▆▆▆▆▆▆▆▆▆▂▂▂▂▁▁▁▁▐▁"
    assert meter_text(Ballistics(), 10, BLOCK) == "─" * 10
    levels.hold = levels.peak
    assert meter_text(levels, 10, BLOCK) == "█████━━┃──"


def test_meters_rise_at_once_and_fall_slowly() -> None:
    levels = Ballistics()
    levels.feed(-6.0, -12.0, 100.0)
    assert (levels.peak, levels.hold) == (-6.0, -6.0)
    levels.feed(OFF, OFF, 100.5)
    assert levels.peak == pytest.approx(-6.0 - 0.5 * FALL)
    assert levels.hold == -6.0
    levels.feed(OFF, OFF, 100.0 + HOLD + 0.1)
    assert levels.hold == levels.peak < -6.0
    for k in range(50):
        levels.feed(OFF, OFF, 102.0 + k / 10)
    assert levels.peak == levels.hold == OFF
    assert levels.rms < -60.0
    assert levels.clipped_at is None


def test_rms_settles_on_what_it_is_told() -> None:
    levels = Ballistics()
    for k in range(60):
        levels.feed(-3.0, -20.0, k / 12)
    assert levels.rms == pytest.approx(-20.0, abs=0.01)
    levels.feed(float("nan"), float("nan"), 5.1)  # as of a device gone mad
    assert levels.rms < -20.0
    levels.feed(0.5, -20.0, 5.2)
    assert levels.clipped_at == 5.2
    assert CLIP_TIME > 0


def lines(texts: list[object]) -> str:
    return "\n".join(map(str, texts))


@pytest.mark.parametrize("width", [1, 5, 24, 80])
def test_figures_bear_any_width_and_empty_figures(width: int) -> None:
    empty = dataclasses.replace(
        PLAYING, delays={}, hop_ms={}, budget_ms=0.0, sample_rate=0, counters={}, input="",
        output="", levels={},
    )  # fmt: skip
    for status in (PLAYING, empty):
        for panel in (figures.delays, figures.hop_times, figures.health):
            assert panel(status, width)
        figures.header(status, "low", width)
        figures.rare_counters(status)
    assert "no hop yet" in lines([*figures.hop_times(empty, 30)])
    assert "no input → no output" in figures.header(empty, "", 80).plain


@pytest.mark.parametrize(
    ("p50", "p999", "longest", "words"),
    [
        (1.0, 4.0, 6.0, "well within the budget"),
        (1.0, 8.5, 9.0, "near the budget"),
        (1.0, 4.0, 12.0, "the slowest was late"),
        (1.0, 11.7, 12.0, "TOO SLOW"),
    ],
)
def test_hop_times_are_judged(p50: float, p999: float, longest: float, words: str) -> None:
    hop_ms = {"p50": p50, "p99": p50, "p99.9": p999, "max": longest}
    status = dataclasses.replace(PLAYING, hop_ms=hop_ms)
    text = lines([*figures.hop_times(status, 30)])
    assert words in text
    assert ("!" in text) == (longest >= PLAYING.budget_ms)


def test_the_newest_messages_are_whole() -> None:
    said = [(f"12:00:0{k}", f"message {k} " + "word " * 6) for k in range(5)]
    text = figures.messages(said, 30, 4).plain.splitlines()
    assert len(text) == 4
    assert "message 4" in text[-2]
    assert all(len(line) <= 30 for line in text)
    text = figures.messages([("12:00:00", "begin " + "word " * 99)], 30, 3).plain.splitlines()
    assert "begin" in text[0]
    assert text[-1].endswith("…")
    assert figures.messages(said, 30, 0).plain == ""
    assert figures.messages([], 30, 3).plain == ""


def test_clock_goes_on_for_days() -> None:
    assert figures.clock(0.9) == "0:00:00"
    assert figures.clock(3 * 86_400 + 61) == "72:01:01"


def test_steering_knows_the_controls() -> None:
    assert {*FADERS, "bypass", "mute", "solo"} == set(CONTROLS)
    assert len(SOLOS) == 4
    session = Session()
    for value, name in enumerate(SOLOS):
        session.steer("solo", float(value))
        assert name in ("none", *FADERS)


def test_what_a_session_refuses_is_told() -> None:
    class Refusing(Session):
        def steer(self, name: str, value: float) -> None:
            raise StemwireError("the session has ended; start it again")

    said: list[str] = []
    Steering(Refusing(), said.append).step("output", 1.0)
    assert said == ["the session has ended; start it again"]


def test_a_preset_that_never_comes_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("stemwire.screen.steering.time.monotonic", lambda: now)
    steering = Steering(Session(), print)
    steering.turn("preset")
    assert steering.pending_preset("standard") == "low"
    now = LOADING_S + 1.0
    assert steering.pending_preset("standard") == ""
