"""Actions of the terminal screen's keys on a session; nothing here draws."""

from __future__ import annotations

import time
from collections.abc import Callable

from stemwire.errors import StemwireError
from stemwire.realtime.levels import HIGHEST_DB, OFF, SCALE_BOTTOM_DB
from stemwire.realtime.live.status import Steerable

FADERS = ("vocals", "instrumental", "microphone", "output")
SOLOS = ("none", "vocals", "instrumental", "microphone")  # by value of the control
LOADING_S = 10.0  # for which a requested preset is shown as pending


class Steering:
    """Moves faders and switches in steps.

    Args:
        session: session to steer.
        report: called with a sentence about what could not be done.
    """

    def __init__(self, session: Steerable, report: Callable[[str], None]) -> None:
        self._session = session
        self._report = report
        self._level_before_off = dict.fromkeys(FADERS, 0.0)
        self._pending_preset, self._pending_until = "", 0.0

    def set(self, control: str, value: float) -> None:
        """Set a control of `panel.CONTROLS`; the level of a fader is limited to its maximum."""
        try:
            self._session.steer(control, min(value, HIGHEST_DB) if control in FADERS else value)
        except StemwireError as error:
            self._report(str(error))

    def step(self, fader: str, by: float) -> None:
        """Move a fader by some dB; below the lowest level it is off, and returns from there."""
        gain = self._session.control(fader)
        if gain == OFF:
            gain = SCALE_BOTTOM_DB if by > 0 else OFF
        else:
            gain = round(gain + by, 1)
            gain = OFF if gain < SCALE_BOTTOM_DB and by < 0 else gain
        self.set(fader, gain)

    def off(self, fader: str) -> None:
        """Turn a fader off, or back to its previous level."""
        gain = self._session.control(fader)
        if gain > OFF:
            self._level_before_off[fader] = gain
        self.set(fader, OFF if gain > OFF else self._level_before_off[fader])

    def solo(self, channel: str) -> None:
        """Solo a channel, or none if it was soloed already or cannot be."""
        now = self._session.control("solo")
        target = float(SOLOS.index(channel)) if channel in SOLOS else 0.0
        if target or now:
            self.set("solo", 0.0 if now == target else target)
        else:
            self._report("solo: choose vocals, instrumental or microphone first (keys 1 to 3)")

    def turn(self, switch: str, by: int = 1) -> None:
        """Change bypass, mute, solo or preset to its next value, or the previous with -1."""
        if switch == "preset":
            self._change_preset(by)
        elif switch == "solo":
            self.set("solo", (int(self._session.control("solo")) + by) % len(SOLOS))
        else:
            self.set(switch, 0.0 if self._session.control(switch) else 1.0)

    def pending_preset(self, preset: str) -> str:
        """Requested preset while it does not play yet; else ""."""
        if self._pending_preset == preset or time.monotonic() > self._pending_until:
            self._pending_preset = ""
        return self._pending_preset

    def _change_preset(self, by: int) -> None:
        status = self._session.status()
        names = list(status.presets)
        now = self.pending_preset(status.preset) or status.preset
        others = [name for name in names if name != now]
        if not others:
            self._report("there is no other preset to change to")
            return
        target = names[(names.index(now) + by) % len(names)] if now in names else others[0]
        try:
            self._session.change_preset(target)
        except StemwireError as error:
            self._report(str(error))
        else:
            self._pending_preset, self._pending_until = target, time.monotonic() + LOADING_S
