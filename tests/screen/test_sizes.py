"""The screen of a live session in terminals of all sizes."""

from __future__ import annotations

import pytest

pytest.importorskip("textual")

from support.live_screen import Session, run, see, shown
from textual.pilot import Pilot

from stemwire.screen.widgets import ChannelRow, columns


def test_any_size_of_terminal_will_do() -> None:
    session = Session(state="reconnecting")
    session.news = ["a sentence " * 40]

    async def steps(pilot: Pilot[str], session: Session) -> None:
        await pilot.press("right", "b", "m")
        for size in ((3, 2), (20, 6), (40, 100), (140, 45), (300, 9), (79, 23)):
            await pilot.resize_terminal(*size)
            await pilot.press("question_mark", "down", "escape")
        await pilot.resize_terminal(80, 24)
        await see(pilot, "RECONNECTING", "B input", "MUTED")

    run(steps, session, (1, 1))


def test_more_room_is_used() -> None:
    heights, widths = [], []

    async def steps(pilot: Pilot[str], session: Session) -> None:
        row = pilot.app.query_one("#vocals", ChannelRow)
        heights.append(row.size.height)
        widths.append(columns(row.size.width).meter_width)
        assert all("●" in line or "─" in line for line in shown(pilot.app) if "Output" in line)  # type: ignore[arg-type]

    for size in ((80, 24), (100, 32), (160, 48)):
        run(steps, size=size)
    assert heights == [1, 2, 3]
    assert widths == sorted(set(widths))


def test_a_row_that_changes_its_height_is_drawn_right_at_once() -> None:
    async def steps(pilot: Pilot[str], session: Session) -> None:
        app = pilot.app
        await see(pilot, "▆▁")
        for row in app.query(ChannelRow):
            row.show = lambda *_: None  # type: ignore[method-assign]
        for height, steps, others in ((32, "█", "▆▁"), (24, "▆▁", "█")):
            await pilot.resize_terminal(100, height)
            await pilot.pause()
            text = "\n".join(line for line in shown(app) if "Vocals" in line)  # type: ignore[arg-type]
            assert text and set(steps) <= set(text) and not set(others) & set(text)

    run(steps, size=(100, 24))
