from __future__ import annotations

import asyncio
import re

import pytest

pytest.importorskip("textual")

from support.live_screen import Session, in_order, run, see, until
from textual.events import MouseScrollDown, MouseScrollUp
from textual.pilot import Pilot

from stemwire.errors import ConfigError
from stemwire.realtime.levels import OFF
from stemwire.realtime.live.panel import CONTROLS
from stemwire.screen.screen import run_screen
from stemwire.screen.widgets import ChannelRow, columns


class Learner:
    """Ties nothing to anything, but knows what it was asked for."""

    learning: str | None = None

    def learn(self, target: str) -> None:
        if target == "output":
            raise ConfigError("output cannot be learnt")
        self.learning = target

    def cancel(self) -> None:
        self.learning = None


REQUIRED = (
    ("stemwire", "▶ playing", "1:02:05", "standard", "● REC", "tapes"),
    ("Line in → Boxes", "44,100 Hz, blocks of 256"),
    ("-60", "-40", "-20", "0", "peak", "RMS", "dB"),
    ("Input", "▆", "-12.5", "-21.5"),
    ("1 Vocals", "▆", "-12.5", "-21.5", "○", "off"),
    ("2 Instrumental", "▆", "-12.5", "-21.5", "●", "0.0"),
    ("3 Microphone", "▆", "-12.5", "-21.5", "●", "0.0"),
    ("4 Output", "▆", "-12.5", "-21.5", "●", "0.0"),
    ("b A/B A stems", "m mute off", "s solo none", "p preset standard"),
    ("DELAY", "ms samples", "HOP TIME", "of 11.61 ms", "HEALTH"),
    ("separator", "17.4", "768", "p50", "1.66", "14%", "xruns", "0"),
    ("worker", "5.8", "256", "p99", "2.99", "26%", "misses", "0"),
    ("effects", "0.0", "0", "p99.9", "4.21", "36%", "concealed", "0"),
    ("resampler", "1.0", "46", "max", "6.87", "59%", "drift", "-12.3 ppm"),
    ("sum", "24.3", "1,070", "well within the budget", "CPU", "24% of a core"),
    ("+ devices", "11.6", "512", "memory", "182 MB"),
    ("microphone", "5.9", "261"),
    ("! also: 7 samples clipped · 2 reconnects",),
    ("first news",),
    ("second news",),
    ("↑↓ choose", "←→ dB", "o off", "b A/B", "m mute", "s solo", "p preset", "l learn", "? help",
     "q quit"),
)  # fmt: skip


def test_all_figures_are_on_a_terminal_of_80_by_24() -> None:
    session = Session(recording="tapes")
    session.counters |= {"reconnects": 2, "clipped": 7}
    session.news = ["first news", "second news"]

    async def steps(pilot: Pilot[str], session: Session) -> None:
        text = await see(pilot, "▆", "-21.5", "-21.5", "-21.5", "-21.5", "-21.5")
        lines = iter(text.splitlines())
        for words in REQUIRED:  # each on a line of its own, in this order
            assert any(in_order(line, *words) for line in lines), (words, text)

    run(steps, session)


STEPS = [
    (["2", "left"], "instrumental", -1.0),
    (["2", "right", "right"], "instrumental", 2.0),
    (["3", "shift+left"], "microphone", -0.1),
    (["3", "shift+right", "shift+right", "shift+right"], "microphone", 0.3),
    (["4", "pagedown", "left"], "output", -7.0),
    (["4", *["pageup"] * 9], "output", 24.0),
    (["4", *["pagedown"] * 10], "output", -60.0),
    (["4", *["pagedown"] * 11], "output", OFF),
    (["4", *["pagedown"] * 11, "left", "left"], "output", OFF),
    (["1", "right"], "vocals", -60.0),
    (["1", "0"], "vocals", 0.0),
    (["2", "pagedown", "o"], "instrumental", OFF),
    (["2", "pagedown", "o", "o"], "instrumental", -6.0),
    (["1", "o"], "vocals", 0.0),
    (["1", "down", "left"], "instrumental", -1.0),
    (["2", "tab", "left"], "microphone", -1.0),
    (["2", "up", "0", "left"], "vocals", -1.0),
    (["b"], "bypass", 1.0),
    (["b", "b"], "bypass", 0.0),
    (["m"], "mute", 1.0),
    (["1", "s"], "solo", 1.0),
    (["2", "s"], "solo", 2.0),
    (["3", "s", "s"], "solo", 0.0),
    (["3", "s", "2", "s"], "solo", 2.0),
    (["4", "s"], "solo", 0.0),
    (["3", "s", "4", "s"], "solo", 0.0),
    (["4", "tab", "enter"], "bypass", 1.0),
    (["4", "tab", "tab", "tab", "right", "right"], "solo", 2.0),
    (["4", "tab", "tab", "tab", "left"], "solo", 3.0),
]


def test_keys_move_the_right_control_by_the_right_step() -> None:
    async def steps(pilot: Pilot[str], session: Session) -> None:
        for keys, control, expected in STEPS:
            for name, value in CONTROLS.items():
                session.steer(name, value)
            await pilot.press(*keys)
            assert session.control(control) == pytest.approx(expected, abs=1e-9), keys
            changed = {name for name in CONTROLS if session.control(name) != CONTROLS[name]}
            assert changed <= {control} | ({"vocals"} if "0" in keys else set()), keys

    run(steps)


def test_the_screen_says_how_controls_are() -> None:
    async def steps(pilot: Pilot[str], session: Session) -> None:
        await pilot.press("2", "shift+left", "s", "b", "m")
        await see(pilot, "▶2 Instrumental", "●", "-0.1 S")
        await see(pilot, "A/B B input", "mute MUTED", "solo instrumental")
        session.steer("microphone", -33.3)  # as MIDI does
        await see(pilot, "Microphone", "-33.3")

    run(steps)


def test_faders_follow_the_mouse() -> None:
    async def steps(pilot: Pilot[str], session: Session) -> None:
        row = pilot.app.query_one("#instrumental", ChannelRow)
        at = columns(row.size.width)
        await pilot.mouse_down(row, offset=(at.fader, 0))
        assert session.control("instrumental") == OFF
        assert pilot.app.focused is row
        await pilot.hover(row, offset=(at.fader + at.fader_width - 1, 0))
        assert session.control("instrumental") == 24.0
        await pilot.mouse_up(row, offset=(at.fader + at.fader_width - 1, 0))
        await pilot.hover(row, offset=(at.fader + 1, 0))
        assert session.control("instrumental") == 24.0
        for kind, expected in ((MouseScrollDown, 23.0), (MouseScrollUp, 24.0)):
            row.post_message(kind(row, 1, 0, 0, 0, 0, False, False, False))
            await pilot.pause()
            assert session.control("instrumental") == expected
        await pilot.click("#mute")
        assert session.control("mute") == 1.0
        await pilot.click("#input", offset=(at.fader + 3, 0))  # has no fader

    run(steps)


def test_presets_change_in_turn() -> None:
    session = Session(presets=("standard", "low", "broken"))

    async def steps(pilot: Pilot[str], session: Session) -> None:
        await pilot.press("p")
        assert session.asked == ["low"]
        await see(pilot, "standard → low …")
        session.changes["preset"] = "low"
        await until(pilot, lambda text: "→ low" not in text and "preset low" in text)
        await pilot.press("P")
        assert session.asked == ["low", "standard"]
        await see(pilot, "low → standard …")
        await pilot.press("P")  # before it has loaded
        assert session.asked == ["low", "standard", "broken"]
        await see(pilot, "its weights are damaged; install it again")

    run(steps, session)


def test_a_preset_from_elsewhere_leads_to_those_there_are() -> None:
    async def steps(pilot: Pilot[str], session: Session) -> None:
        await pilot.press("p")

    session = Session(preset="./mine")
    run(steps, session)
    assert session.asked == ["standard"]
    session = Session(presets=("standard",))
    run(steps, session)
    assert session.asked == []


def test_trouble_is_said_in_words() -> None:
    session = Session(
        state="reconnecting", device_delay=0.0, cpu_share=0.97,
        hop_ms={"p50": 8.4, "p99": 12.0, "p99.9": 13.0, "max": 119.0},
    )  # fmt: skip
    session.counters |= {"xruns": 3, "misses": 12, "concealed": 6144, "unrecorded": 9}
    session.news = ["Line in has gone; waiting for it to come back: plug it in again"]

    async def steps(pilot: Pilot[str], session: Session) -> None:
        await see(pilot, "↻ RECONNECTING", "not recording", "p50", "72%", "! xruns", "3")
        await see(pilot, "103%!", "! misses", "12", "112%!", "! concealed", "6,144", "1025%!")
        await see(pilot, "TOO SLOW", "97% of a core", "devices (unknown)", "! also: 9 not recorded")
        await see(pilot, "plug it in again")

    run(steps, session)


def test_clip_lamps_light_up_and_remember() -> None:
    async def steps(pilot: Pilot[str], session: Session) -> None:
        session.levels["input"] = (0.1, -3.0)
        session.counters["clipped"] += 5  # which the screen may not have met as a peak
        await see(pilot, "Input", "CLIP", "Output", "CLIP")
        session.levels["input"] = (-20.0, -30.0)
        await see(pilot, "Input", "clip", "Output", "clip")
        await pilot.press("c")
        await until(pilot, lambda text: "clip" not in text.split("DELAY")[0].lower())

    run(steps)


def test_midi_learn() -> None:
    learner = Learner()

    async def steps(pilot: Pilot[str], session: Session) -> None:
        await pilot.press("3", "l")
        assert learner.learning == "microphone"
        await see(pilot, "Microphone", "♪?", "move a control for microphone; Esc cancels")
        learner.learning = None  # as when a control was moved
        await until(pilot, lambda text: "♪" not in text)
        for keys, target in (("1", "vocals"), ("tab", "instrumental")):
            await pilot.press(keys, "l")
            assert learner.learning == target
            await pilot.press("escape")
            assert learner.learning is None
        await pilot.press("4", "l")
        await see(pilot, "output cannot be learnt")
        targets = ["bypass", "mute", "solo vocals", "preset next"]
        for target in targets:
            await pilot.press("tab", "l")
            assert learner.learning == target
            await pilot.press("l")
            assert learner.learning is None

    run(steps, midi=learner)


def test_without_midi_there_is_nothing_to_learn_from() -> None:
    async def steps(pilot: Pilot[str], session: Session) -> None:
        await pilot.press("l", "escape")
        await see(pilot, "MIDI is off", "--midi")

    run(steps)


def test_help_explains_and_takes_no_other_keys() -> None:
    async def steps(pilot: Pilot[str], session: Session) -> None:
        await pilot.press("2", "question_mark")
        text = await see(pilot, "Keys", "Figures", "any other key closes")
        for key in ("1 2 3 4", "0.1 dB", "MIDI learn", "p99.9", "xruns", "misses", "drift"):
            assert key in text
        await pilot.press("left")
        assert session.control("instrumental") == 0.0
        await see(pilot, "HEALTH")
        await pilot.press("left")
        assert session.control("instrumental") == -1.0

    run(steps)


@pytest.mark.parametrize(
    "keys", [["q"], ["ctrl+c"], ["question_mark", "q"], ["question_mark", "ctrl+c"]]
)
def test_leaving(keys: list[str]) -> None:
    async def steps(pilot: Pilot[str], session: Session) -> None:
        await pilot.press(*keys)

    assert run(steps).return_value == ""


def test_it_ends_when_the_session_has_stopped() -> None:
    async def steps(pilot: Pilot[str], session: Session) -> None:
        session.changes["state"] = "stopped"
        while pilot.app.is_running:
            await asyncio.sleep(0.05)

    assert run(steps).return_value == ""


def test_without_colours_all_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")

    async def steps(pilot: Pilot[str], session: Session) -> None:
        session.steer("mute", 1.0)
        await see(pilot, "↻ RECONNECTING", "▆", "mute MUTED")
        style = pilot.app.export_screenshot().split("<style>")[1].split("</style>")[0]
        colours = set(re.findall(r"fill: #(..)(..)(..)", style))
        assert {
            pair
            for pair in colours
            if max(int(x, 16) for x in pair) - min(int(x, 16) for x in pair) > 3
        } <= {("c5", "c8", "c6")}  # the picture's own

    run(steps, Session(state="reconnecting"))


def test_without_a_terminal_there_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/null") as nothing:  # noqa: PTH123
        monkeypatch.setattr("sys.__stdin__", nothing)
        assert "--no-ui" in run_screen(Session())
