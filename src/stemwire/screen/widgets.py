"""Widgets of the terminal screen: channel rows with meter and fader, switches, panels of text.

Nothing here knows the session: rows and switches post messages, and `show` sets their content.
Colours only emphasize what characters and words say, so that all can be read without them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Any

from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual import events
from textual.geometry import Region
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

from stemwire.realtime.levels import (
    HIGHEST_DB,
    OFF,
    SCALE_BOTTOM_DB,
    fader_level,
    fader_position,
)

BACK, RAISED, FOCUS = "#10141b", "#1a212c", "#24384d"
INK, MUTED, FAINT, ACCENT = "#dce3ea", "#8a96a5", "#3a4554", "#62c6f2"
GREEN, YELLOW, RED = "#4cc36f", "#e6b545", "#ff7368"

YELLOW_FROM, RED_FROM = -18.0, -3.0  # dB
HOLD = 1.5  # seconds for which a peak is marked
FALL = 20.0  # dB per second by which a peak falls
RMS_TIME = 0.3  # seconds
CLIP_TIME = 3.0  # seconds for which a clip lamp is bright
NEAR = 0.7  # share of the budget above which a hop time counts as near it


@dataclass(frozen=True)
class Glyphs:
    """Characters of one line of a meter.

    Attributes:
        steps: stages of a character that fills up; the last is full.
        peak: character between RMS and peak.
        hold: character of the held peak.
        track: character of the empty part.
    """

    steps: str
    peak: str
    hold: str
    track: str


SLIM = Glyphs("▂▃▄▅▆", "▂", "▐", "▁")  # so that adjacent rows do not touch
BLOCK = Glyphs("▏▎▍▌▋▊▉█", "━", "┃", "─")
# By the number of lines of a row; text is on the middle one of three.
METERS = {
    1: (SLIM,),
    2: (BLOCK,),
    3: (Glyphs("▖▄", " ", "╻", " "), Glyphs("▌█", "━", "┃", "─"), Glyphs("▘▀", " ", "╹", " ")),
}


def decibels(value: float, off: str = "-∞") -> str:
    """A level as text: one decimal, or `off` for silence."""
    return off if value < -99.9 or math.isnan(value) else f"{value:.1f}"


def bar(share: float, width: int, glyphs: Glyphs = SLIM) -> str:
    """A bar of `width` characters, `share` (0 to 1) of it filled, the last one in steps."""
    steps = len(glyphs.steps)
    whole, part = divmod(round(min(max(share, 0.0), 1.0) * width * steps), steps)
    filled = glyphs.steps[-1] * whole + (glyphs.steps[part - 1] if part else "")
    return filled + glyphs.track * (width - len(filled))


class Ballistics:
    """Ballistics of a meter: quick to rise, slow to fall.

    Attributes:
        peak: peak in dB, falling by `FALL` per second.
        rms: RMS in dB, over about `RMS_TIME`.
        hold: the highest peak of the last `HOLD` seconds, dB.
        clipped_at: time of the last sample at full scale, seconds of the caller's clock, or None.
    """

    def __init__(self) -> None:
        self.peak = self.rms = self.hold = OFF
        self.clipped_at: float | None = None
        self._held_at = self._at = 0.0

    def feed(self, peak: float, rms: float, now: float) -> None:
        """Take the peak and RMS in dB at `now`, seconds of a monotonic clock."""
        peak, rms = (OFF if math.isnan(value) else value for value in (peak, rms))
        elapsed = min(max(now - self._at, 0.0), 1.0)
        self._at = now
        fallen = self.peak - FALL * elapsed
        self.peak = max(peak, fallen if fallen > SCALE_BOTTOM_DB else OFF)
        if self.peak >= self.hold or now - self._held_at > HOLD:
            self.hold, self._held_at = self.peak, now
        share = 1.0 - math.exp(-elapsed / RMS_TIME)
        power = (1.0 - share) * 10 ** (self.rms / 10) + share * 10 ** (rms / 10)
        self.rms = 10 * math.log10(power) if power > 1e-10 else OFF
        if peak >= 0.0:
            self.clipped_at = now


@dataclass(frozen=True)
class Columns:
    """Layout of a row: first column and width of each part."""

    meter: int
    meter_width: int
    figures: int
    fader: int
    fader_width: int
    value: int


@lru_cache(maxsize=8)
def columns(width: int) -> Columns:
    """Layout of a row of `width` characters."""
    label, figures, value = 16, 18, 9
    room = max(width - label - figures - value, 12)
    fader = min(max(room * 2 // 5, 6), 48)
    meter = room - fader
    after = label + meter
    return Columns(label, meter, after, after + figures, fader, after + figures + fader)


def meter_text(levels: Ballistics, width: int, glyphs: Glyphs) -> str:
    """RMS as a thick bar, peak as a thin one beyond it, held peak as a mark.

    Returns:
        `width` characters.
    """

    def reach(level: float) -> float:  # characters
        return (
            min(max(1.0 - level / SCALE_BOTTOM_DB, 0.0), 1.0) * width
            if level > SCALE_BOTTOM_DB
            else 0.0
        )

    line = bar(reach(levels.rms) / width, width, glyphs)
    start = len(line.rstrip(glyphs.track))
    end = max(min(round(reach(levels.peak)), width), start)
    line = line[:start] + glyphs.peak * (end - start) + line[end:]
    held = min(math.floor(reach(levels.hold)), width - 1)
    if levels.hold > SCALE_BOTTOM_DB and held >= end:
        line = line[:held] + glyphs.hold + line[held + 1 :]
    return line


def fader_text(gain: float, width: int) -> str:
    """A fader of `width` characters: knob, track, and a mark at 0 dB."""
    cells = ["─"] * width
    cells[round(fader_position(0.0) * (width - 1))] = "┼"
    knob = round(fader_position(gain) * (width - 1))
    cells[:knob] = "━" * knob
    cells[knob] = "●" if gain > OFF else "○"
    return "".join(cells)


def scale_text(width: int) -> str:
    """Line above the rows: words and numbers of the scales of meters and faders."""
    at = columns(width)
    cells = [" "] * width

    def put(text: str, middle: float, first: int = 0, last: int = width) -> None:
        start = min(max(round(middle - (len(text) - 1) / 2), first), last - len(text))
        end = start + len(text)
        if start >= 0 and end <= width and not "".join(cells[max(start - 1, 0) : end + 1]).strip():
            cells[start:end] = text

    step = 20 if at.meter_width < 34 else 10 if at.meter_width < 70 else 6
    for level in range(0, int(SCALE_BOTTOM_DB) - 1, -step):
        middle = at.meter + (1 - level / SCALE_BOTTOM_DB) * at.meter_width
        put(str(level), middle, at.meter, at.meter + at.meter_width)
    put("peak", at.figures + 4)
    put("RMS", at.figures + 10.5)
    wide = at.fader_width >= 24
    for gain in (SCALE_BOTTOM_DB, -40.0, -20.0, 0.0, 12.0, HIGHEST_DB) if wide else (0.0,):
        text = "off" if gain == SCALE_BOTTOM_DB else f"{gain:+.0f}" if gain > 0 else f"{gain:.0f}"
        put(text, at.fader + fader_position(gain) * (at.fader_width - 1), at.fader, at.value)
    put("dB", at.value + 4.5)
    return "".join(cells)


class TextLine(Widget):
    """One or more lines of text, redrawn only when they have changed."""

    DEFAULT_CSS = "TextLine { height: 1; text-wrap: nowrap; text-overflow: ellipsis; }"

    def __init__(self, text: Text | None = None, **settings: Any) -> None:
        super().__init__(**settings)
        self.text = text or Text()

    def show(self, text: Text) -> None:
        """Set the text."""
        if text != self.text or text.spans != self.text.spans:
            self.text = text
            self.refresh(layout=self.styles.auto_dimensions)

    def render(self) -> Text:
        return self.text


class Scale(Widget):
    """Scales of meters and faders, above the rows."""

    DEFAULT_CSS = f"Scale {{ height: 1; color: {MUTED}; }}"

    def render(self) -> Text:
        return Text(scale_text(self.size.width), no_wrap=True)


class ChannelRow(Widget, can_focus=True):
    """Row of a channel: name, meter, figures, and the fader if it has one.

    Attributes:
        channel: name of the channel, as in `panel.LEVELS`.
    """

    DEFAULT_CSS = f"""
    ChannelRow {{ height: 1; color: {INK}; }}
    ChannelRow:focus {{ background: {FOCUS}; }}
    """

    @dataclass
    class Moved(Message):
        """Request to move the fader to a level in dB."""

        row: ChannelRow
        gain: float

    @dataclass
    class Stepped(Message):
        """Request to move the fader by some dB."""

        row: ChannelRow
        by: float

    def __init__(self, channel: str, number: int) -> None:
        super().__init__(id=channel)
        self.channel = channel
        self.number = number  # key that selects it; 0: no fader
        self.can_focus = number > 0
        self.levels = Ballistics()
        self.gain = OFF
        self.tag = ""  # at the end of the row: solo, learning
        self._figures = ("", "", "")
        self._meter: list[str] = []
        self._shape: object = None  # layout that the meter was drawn for
        self._drawn: object = None

    def show(self, gain: float, tag: str, now: float, figures: bool) -> None:
        """Set the fader's level in dB, the tag and the meter; the figures only if due."""
        self.gain, self.tag = gain, tag
        if figures or not self._figures[0]:
            levels = self.levels
            clipped = "" if levels.clipped_at is None else "clip"
            if clipped and now - (levels.clipped_at or 0.0) < CLIP_TIME:
                clipped = "CLIP"
            self._figures = (decibels(levels.hold), decibels(levels.rms), clipped)
        self._measure()
        drawn = (self._meter, self._figures, gain, tag)
        if drawn != self._drawn:
            self._drawn = drawn
            self.refresh(
                Region(0, 0, self.size.width, len(self._meter))
            )  # without the empty lines below

    def _measure(self) -> None:
        """Draw the lines of the meter for the present levels."""
        self._shape = width, meters = columns(self.size.width).meter_width, self._meters
        self._meter = [meter_text(self.levels, width, glyphs) for glyphs in meters]

    @property
    def _meters(self) -> tuple[Glyphs, ...]:
        return METERS.get(self.size.height, METERS[1])

    def render_line(self, y: int) -> Strip:
        width, base = self.size.width, self.rich_style
        at = columns(width)
        meters = self._meters
        if y >= len(meters):
            return Strip([Segment(" " * width, style_of(f"on {BACK}"))], width)
        written = y == len(meters) // 2
        parts: list[tuple[str, str]] = [(" " * at.meter, INK)]
        if written:
            marker = "▶" if self.has_focus else " "
            parts = [(f"{marker}{self.number or ' '} ", ACCENT)]
            parts.append((f"{self.channel.capitalize():<13}", f"bold {INK}"))
        if self._shape != (at.meter_width, meters):  # the row was resized
            self._measure()
        meter = self._meter[y]
        edges = (
            0,
            *(round((1 - x / SCALE_BOTTOM_DB) * at.meter_width) for x in (YELLOW_FROM, RED_FROM)),
        )
        for start, end, colour in zip(edges, (*edges[1:], None), (GREEN, YELLOW, RED), strict=True):
            for empty, cells in groupby(meter[start:end], meters[y].track.__eq__):
                parts.append(("".join(cells), FAINT if empty else colour))
        if written:
            peak, rms, clipped = self._figures
            parts.append((f"{peak:>6}{rms:>7} ", INK))
            parts.append((f"{clipped:<4}", f"bold reverse {RED}" if clipped == "CLIP" else RED))
        if written and self.number:
            fader = fader_text(self.gain, at.fader_width)
            knob = max(fader.find("●"), fader.find("○"))
            parts += [(fader[:knob], ACCENT), (fader[knob], f"bold {INK}")]
            parts.append((fader[knob + 1 :], MUTED))
            parts.append((f"{decibels(self.gain, 'off'):>6} ", f"bold {INK}"))
            parts.append((f"{self.tag:<2}", f"bold {YELLOW}"))
        segments = [Segment(text, base + style_of(style)) for text, style in parts if text]
        return Strip(segments).adjust_cell_length(width, base)

    def on_mouse_down(self, event: events.MouseDown) -> None:
        at = columns(self.size.width)
        if event.x >= at.fader and self.number:
            self.capture_mouse()
            self._point(event.x)
        elif event.x < at.fader:
            self.levels.clipped_at = None

    def on_mouse_move(self, event: events.MouseMove) -> None:
        if self.app.mouse_captured is self:
            self._point(event.x)

    def on_mouse_up(self, event: events.MouseUp) -> None:
        self.release_mouse()

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        self._turn(event, 1.0)

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        self._turn(event, -1.0)

    def _turn(self, event: events.MouseEvent, by: float) -> None:
        event.stop()
        if self.number:
            self.post_message(self.Stepped(self, by))

    def _point(self, x: int) -> None:
        at = columns(self.size.width)
        if x < at.value:
            self.post_message(self.Moved(self, fader_level((x - at.fader) / (at.fader_width - 1))))


class Switch(Widget, can_focus=True):
    """Setting with a few values; Enter or a click selects the next one."""

    DEFAULT_CSS = f"""
    Switch {{ height: 1; width: 3fr; background: {RAISED}; margin: 0 1 0 0; }}
    Switch {{ text-wrap: nowrap; text-overflow: ellipsis; }}
    Switch:focus {{ background: {FOCUS}; }}
    """

    @dataclass
    class Pressed(Message):
        """The switch was pressed."""

        switch: Switch

    def __init__(self, control: str, key: str, label: str) -> None:
        super().__init__(id=control)
        self.control, self.key, self.label = control, key, label
        self.value, self.on = "", False

    def show(self, value: str, on: bool) -> None:
        """Set the value in words; `on` highlights it."""
        if (value, on) != (self.value, self.on):
            self.value, self.on = value, on
            self.refresh()

    def render(self) -> Text:
        marker = "▶" if self.has_focus else " "
        style = f"bold reverse {YELLOW}" if self.on else INK
        return Text.assemble(
            (f"{marker}{self.key} ", f"bold {ACCENT}"),
            (f"{self.label} ", MUTED),
            (self.value, style),
        )

    def on_click(self) -> None:
        self.post_message(self.Pressed(self))

    def key_enter(self) -> None:
        self.post_message(self.Pressed(self))


@lru_cache(maxsize=64)
def style_of(text: str) -> Style:
    """Style from its description, cached."""
    return Style.parse(text)
