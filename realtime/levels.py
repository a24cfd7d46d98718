"""Levels: names of the stems, decibels and gains, and how a fader on the screen is divided.

A gain is a linear factor, a level is in dB. Three kinds of faders divide their travel differently,
each for its own reason, and each in one place only:

- the terminal screen: `fader_level` and `fader_position` here, up to `HIGHEST_DB`;
- MIDI surfaces: `bridge.midi.map`, up to +12 dB, as the scale printed on most of them;
- the browser page: a linear `<input type="range">` in `bridge/web/index.html`.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Final

STEMS: Final = ("vocals", "instrumental")
OFF = -math.inf  # dB
LOWEST_DB, HIGHEST_DB = -90.0, 24.0  # range of a control; a lower level counts as `OFF`
SCALE_BOTTOM_DB = -60.0  # of the screen: below it a fader is off and a meter empty
# (position, level) along a fader of the screen, as on a mixing desk: most travel around 0 dB.
FADER_POINTS = (
    (0.0, SCALE_BOTTOM_DB),
    (0.2, -40.0),
    (0.4, -20.0),
    (0.75, 0.0),
    (1.0, HIGHEST_DB),
)


def db_to_gain(level: float) -> float:
    """Gain of a level in dB; 0 for `OFF`."""
    return 0.0 if level == OFF else 10.0 ** (level / 20)


def gain_to_db(gain: float) -> float:
    """Level in dB of a gain; `OFF` for 0."""
    return 20 * math.log10(gain) if gain > 0 else OFF


def fader_position(level: float) -> float:
    """Position along a fader, 0 to 1, of a level in dB."""
    if level <= SCALE_BOTTOM_DB:
        return 0.0
    for (x0, level0), (x1, level1) in pairwise(FADER_POINTS):
        if level <= level1:
            return x0 + (x1 - x0) * (level - level0) / (level1 - level0)
    return 1.0


def fader_level(position: float) -> float:
    """Level in whole dB at a position along a fader; `OFF` at its lower end."""
    if position <= 0.0:
        return OFF
    for (x0, level0), (x1, level1) in pairwise(FADER_POINTS):
        if position <= x1:
            return float(round(level0 + (level1 - level0) * (position - x0) / (x1 - x0)))
    return HIGHEST_DB
