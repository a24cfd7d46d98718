"""The screen of a live session without sound, driven by Textual's pilot."""

from __future__ import annotations

import asyncio
import dataclasses
import html
import re
from collections.abc import Awaitable, Callable
from typing import Any

from textual.pilot import Pilot

from stemwire.errors import CheckpointError
from stemwire.realtime.live.panel import CONTROLS, COUNTERS, LEVELS, Panel
from stemwire.realtime.live.status import Status
from stemwire.screen.screen import LiveScreen

CHARACTER, LINE = 12.2, 24.4  # of an exported picture, in its units

PLAYING = Status(
    state="playing", preset="standard", presets=("standard", "low"), input="Line in",
    output="Boxes", sample_rate=44_100, block_size=256, seconds=3725.0, controls={},
    delays={"separator": 768, "worker": 256, "effects": 0, "resampler": 46}, device_delay=0.0116,
    microphone_delay=261, levels={}, counters={}, drift_ppm=-12.3,
    hop_ms={"p50": 1.66, "p95": 2.16, "p99": 2.99, "p99.9": 4.21, "max": 6.87}, budget_ms=11.61,
    cpu_share=0.24, memory_bytes=182_000_000, recording="",
)  # fmt: skip


class Session:
    """Session without sound: real controls, figures set by the test."""

    def __init__(self, **changes: Any) -> None:
        self.panel = Panel()
        self.changes: dict[str, Any] = changes
        self.levels = dict.fromkeys(LEVELS, (-12.5, -21.5))
        self.counters = dict.fromkeys(COUNTERS, 0)
        self.news: list[str] = []
        self.asked: list[str] = []  # presets

    def steer(self, name: str, value: float) -> None:
        self.panel.steer(name, value)

    def control(self, name: str) -> float:
        return self.panel[name]

    def change_preset(self, name: str) -> None:
        self.asked.append(name)
        if name == "broken":
            raise CheckpointError("preset broken: its weights are damaged; install it again")

    def messages(self) -> list[str]:
        news, self.news = self.news, []
        return news

    def status(self) -> Status:
        controls = {name: self.panel[name] for name in CONTROLS}
        return dataclasses.replace(
            PLAYING,
            **{"controls": controls, "levels": self.levels, "counters": self.counters}
            | self.changes,
        )


Steps = Callable[[Pilot[str], Session], Awaitable[None]]


def run(
    steps: Steps, session: Session | None = None, size: tuple[int, int] = (80, 24), **settings: Any
) -> LiveScreen:
    """Run the screen through some steps."""
    session = session or Session()
    app = LiveScreen(session, **settings)

    async def whole() -> None:
        async with app.run_test(size=size) as pilot:
            await pilot.pause()
            await steps(pilot, session)

    asyncio.run(whole())
    return app


def shown(app: LiveScreen) -> list[str]:
    """Lines of the screen, from an exported picture."""
    lines: dict[int, dict[int, str]] = {}
    picture = app.export_screenshot()
    for x, y, text in re.findall(
        r'<text class="[^"]*-r\d+" x="([\d.]+)" y="([\d.]+)"[^>]*>([^<]*)</text>', picture
    ):
        line = lines.setdefault(round((float(y) - 20) / LINE), {})
        for i, character in enumerate(html.unescape(text)):
            line[round(float(x) / CHARACTER) + i] = character.replace("\xa0", " ")
    return [
        "".join(line.get(i, " ") for i in range(app.size.width))
        for line in (lines.get(y, {}) for y in range(app.size.height))
    ]


async def until(pilot: Pilot[str], right: Callable[[str], bool]) -> str:
    """Wait until the screen satisfies a condition; return its text."""
    for _ in range(300):
        text = "\n".join(shown(pilot.app))  # type: ignore[arg-type]
        if right(text):
            return text
        await pilot.pause(0.05)
    raise AssertionError(text)


def in_order(text: str, *words: str) -> bool:
    """Whether text holds all of these, one after another."""
    for word in words:
        _, found, text = text.partition(word)
        if not found:
            return False
    return True


async def see(pilot: Pilot[str], *words: str) -> str:
    """Wait until all of these are shown, in this order."""
    return await until(pilot, lambda text: in_order(text, *words))
