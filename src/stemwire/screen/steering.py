"""What the keys of the terminal screen do to a session; nothing here draws."""

from __future__ import annotations

import time
from collections.abc import Callable

from stemwire.errors import StemwireError
from stemwire.realtime.levels import HIGHEST_DB, OFF, SCALE_BOTTOM_DB
from stemwire.realtime.live.status import Steerable

FADERS = ("vocals", "instrumental", "microphone", "output")
SOLOS = ("none", "vocals", "instrumental", "microphone")  # by value of the control
LOADING = 10.0  # seconds that a preset asked for is shown as coming


class Steering:
    """Turns faders and switches by steps.

    Args:
        session: to steer.
        tell: is told, in a sentence, what could not be done.
    """

    def __init__(self, session: Steerable, tell: Callable[[str], None]) -> None:
        self._session = session
        self._tell = tell
        self._before_off = dict.fromkeys(FADERS, 0.0)
        self._wanted, self._until = "", 0.0

    def set(self, control: str, value: float) -> None:
        """Set a control of `panel.CONTROLS`; a fader's value is kept within what it can be."""
        try:
            self._session.steer(control, min(value, HIGHEST_DB) if control in FADERS else value)
        except StemwireError as error:
            self._tell(str(error))

    def step(self, fader: str, by: float) -> None:
        """Move a fader by so many dB; below the lowest it is off, and comes back from there."""
        gain = self._session.control(fader)
        if gain == OFF:
            gain = SCALE_BOTTOM_DB if by > 0 else OFF
        else:
            gain = round(gain + by, 1)
            gain = OFF if gain < SCALE_BOTTOM_DB and by < 0 else gain
        self.set(fader, gain)

    def off(self, fader: str) -> None:
        """Turn a fader off, or back to where it was."""
        gain = self._session.control(fader)
        if gain > OFF:
            self._before_off[fader] = gain
        self.set(fader, OFF if gain > OFF else self._before_off[fader])

    def solo(self, channel: str) -> None:
        """Solo a channel, or none if that one was alone or cannot be."""
        now = self._session.control("solo")
        wanted = float(SOLOS.index(channel)) if channel in SOLOS else 0.0
        if wanted or now:
            self.set("solo", 0.0 if now == wanted else wanted)
        else:
            self._tell("solo: choose vocals, instrumental or microphone first (keys 1 to 3)")

    def turn(self, switch: str, by: int = 1) -> None:
        """Turn bypass, mute, solo or preset on to its next value, or back with -1."""
        if switch == "preset":
            self._change_preset(by)
        elif switch == "solo":
            self.set("solo", (int(self._session.control("solo")) + by) % len(SOLOS))
        else:
            self.set(switch, 0.0 if self._session.control(switch) else 1.0)

    def coming(self, preset: str) -> str:
        """The preset that was asked for, while it is not yet the one that plays; else ""."""
        if self._wanted == preset or time.monotonic() > self._until:
            self._wanted = ""
        return self._wanted

    def _change_preset(self, by: int) -> None:
        status = self._session.status()
        names = list(status.presets)
        now = self.coming(status.preset) or status.preset
        others = [name for name in names if name != now]
        if not others:
            self._tell("there is no other preset to change to")
            return
        wanted = names[(names.index(now) + by) % len(names)] if now in names else others[0]
        try:
            self._session.change_preset(wanted)
        except StemwireError as error:
            self._tell(str(error))
        else:
            self._wanted, self._until = wanted, time.monotonic() + LOADING
