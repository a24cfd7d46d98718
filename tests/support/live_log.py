"""Stand-in for a live session with a few messages, which then stops."""

from __future__ import annotations

import dataclasses
from types import MappingProxyType

from stemwire.realtime.levels import OFF
from stemwire.realtime.live.panel import CONTROLS, COUNTERS, LEVELS
from stemwire.realtime.live.status import Status

PLAYING = Status(
    state="playing", preset="standard", presets=("standard", "low"), input="line", output="boxes",
    sample_rate=48_000, block_size=256, seconds=1.5, controls=MappingProxyType(CONTROLS),
    delays={"separator": 799, "worker": 256}, device_delay=0.01, microphone_delay=256,
    levels={name: (-3.0, OFF) for name in LEVELS}, counters=dict.fromkeys(COUNTERS, 2**40),
    drift_ppm=-3.5, hop_ms={"p50": 1.5, "max": float("nan")}, budget_ms=11.46, cpu_share=0.2,
    memory_bytes=10**9, recording="",
)  # fmt: skip


class Session:
    """Session that plays for a number of statuses, then has stopped."""

    def __init__(self, statuses: int = 3, news: dict[int, list[str]] | None = None) -> None:
        self.statuses, self.news, self.asked = statuses, news or {}, 0

    def status(self) -> Status:
        self.asked += 1
        ended = self.asked >= self.statuses
        return dataclasses.replace(PLAYING, state="stopped") if ended else PLAYING

    def messages(self) -> list[str]:
        return self.news.get(self.asked, [])

    def steer(self, name: str, value: float) -> None: ...

    def control(self, name: str) -> float:
        return CONTROLS[name]

    def change_preset(self, name: str) -> None: ...
