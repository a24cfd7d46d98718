"""Bindings of a MIDI surface's controls to targets, with soft take-over and learning.

No ports, no threads, no clock: messages and the time go in, and a `Steerable` session is steered.

Targets:
    vocals, instrumental, microphone, output: level in dB, by a fader (CC, 14-bit CC, NRPN, pitch
        bend). The bottom is off, three quarters of the travel 0 dB, the top +12 dB.
    bypass, mute, solo vocals, solo instrumental, solo microphone: by a button (note, or CC, where
        64 and above is pressed): "toggle" switches with each press, "momentary" is on while the
        button is held, or lit.
    preset next, preset previous, preset 1, preset 2, ...: by a button.
    preset: by program change; the first program is the first preset.

Soft take-over: a fader has no effect until it reaches or passes the current value, and again after
the value was changed elsewhere. So no level jumps.

The map "default" suits any controller:

    CC 7 (volume) on channels 1, 2, 3, 4    vocals, instrumental, microphone, output
    CC 80, 81, 82, 83 on any channel        bypass, mute, solo vocals, preset next
    program change on channel 16            preset

and "mackie" suits surfaces that speak Mackie Control, to which most can be switched:

    faders 1, 2, 3 and the master fader     vocals, instrumental, microphone, output
    SOLO 1, 2, 3                            solo vocals, solo instrumental, solo microphone
    MUTE 1, SELECT 1                        mute, bypass
    BANK left, right                        preset previous, preset next
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from stemwire.bridge.midi.messages import ANY, BUTTONS, FADERS, Decoder, Kind, Move, Source
from stemwire.errors import ConfigError
from stemwire.realtime.levels import LOWEST_DB, OFF
from stemwire.realtime.live.panel import CONTROLS
from stemwire.realtime.live.status import Steerable

Mode = Literal["toggle", "momentary"]
MODES: tuple[Mode, ...] = get_args(Mode)
LEVELS = tuple(name for name in CONTROLS if name not in ("bypass", "mute", "solo"))
SOLOS = {"solo vocals": 1.0, "solo instrumental": 2.0, "solo microphone": 3.0}
SWITCHES = ("bypass", "mute", *SOLOS)
TARGETS = (*LEVELS, *SWITCHES, "preset", "preset next", "preset previous", "preset N")

ZERO_DB_POSITION, TOP_DB = 0.75, 12.0  # a fader's position at 0 dB, and the level at its top
_DB_PER_DECADE = 60.0  # below 0 dB: the gain is the cube of the travel
_STEP = 1 / 127  # smallest step of a 7-bit fader
_MOVES_BEFORE_HINT = 8  # moves without effect, before a line of text says why
_PAIR_SECONDS = 0.1  # within which the fine half of a 14-bit controller follows the coarse half


def position_to_db(position: float) -> float:
    """Level in dB at a fader's position from 0 to 1; `OFF` at the bottom, 0 around its mark."""
    if abs(position - ZERO_DB_POSITION) <= _STEP / 2:  # makes 0 dB easy to reach
        return 0.0
    if position > ZERO_DB_POSITION:
        return TOP_DB * (min(position, 1.0) - ZERO_DB_POSITION) / (1.0 - ZERO_DB_POSITION)
    level = _DB_PER_DECADE * math.log10(position / ZERO_DB_POSITION) if position > 0 else OFF
    return level if level >= LOWEST_DB else OFF


def db_to_position(db: float) -> float:
    """Position of a fader at a level in dB, the inverse of `position_to_db`; 1 above `TOP_DB`."""
    if db > 0:
        return min(1.0, ZERO_DB_POSITION + (1.0 - ZERO_DB_POSITION) * db / TOP_DB)
    return 0.0 if db < LOWEST_DB else ZERO_DB_POSITION * 10.0 ** (db / _DB_PER_DECADE)


@dataclass(frozen=True)
class Binding:
    """Binding of one control of a surface to a target.

    Raises:
        ConfigError: for an unknown target, or one that this kind of control cannot steer.
    """

    source: Source
    target: str
    mode: Mode = "toggle"

    def __post_init__(self) -> None:
        kinds = kinds_for(self.target)
        if self.source.kind not in kinds:
            raise ConfigError(
                f"{self.target!r} is steered by {' or '.join(kinds)}, not by {self.source.kind}"
            )
        if self.mode not in MODES:
            raise ConfigError(f"mode must be {' or '.join(MODES)}, not {self.mode!r}")
        if self.mode == "momentary" and self.target not in SWITCHES:
            raise ConfigError(f"{self.target!r} cannot be momentary; {', '.join(SWITCHES)} can")


def kinds_for(target: str) -> tuple[Kind, ...]:
    """Kinds of sources that can steer a target; `ConfigError` if it is unknown."""
    if target in LEVELS:
        return FADERS
    if target == "preset":
        return ("program",)
    if target in SWITCHES or target in ("preset next", "preset previous"):
        return BUTTONS
    word, _, number = target.partition(" ")
    if word == "preset" and number.isdecimal() and int(number) > 0:
        return BUTTONS
    raise ConfigError(f"target {target!r} is unknown; use one of {', '.join(TARGETS)}")


@dataclass
class _Fader:
    """State of one fader.

    Attributes:
        position: newest position, 0 to 1; None before the first move.
        sent: level in dB that it has set; None while it waits for take-over.
        ignored: moves without effect.
    """

    position: float | None = None
    sent: float | None = None
    ignored: int = 0


class Mapping:
    """Bindings of a surface's controls, with the state of the controls. Not thread-safe."""

    def __init__(self, bindings: Iterable[Binding] = ()) -> None:
        self._bindings: list[Binding] = []
        self._decoders: dict[str, Decoder] = {}
        self._faders: dict[tuple[str, Source], _Fader] = {}
        self._buttons: dict[tuple[str, Source], float] = {}
        self._learning: tuple[str, Mode, float] | None = None  # target, mode, deadline
        self._just_learnt: tuple[str, Binding, float] | None = None  # port, binding, time
        for binding in bindings:
            self.bind(binding)

    @property
    def bindings(self) -> tuple[Binding, ...]:
        """All bindings, in the order in which they were made."""
        return tuple(self._bindings)

    def bind(self, binding: Binding) -> None:
        """Add a binding in place of those of the same source."""
        self._bindings = [b for b in self._bindings if not b.source.overlaps(binding.source)]
        self._bindings.append(binding)
        self._faders.clear()  # all faders need take-over again, which is quick and rare
        self._buttons.clear()

    def unbind(self, target: str) -> int:
        """Remove all bindings of a target; returns their number."""
        before = len(self._bindings)
        self._bindings = [b for b in self._bindings if b.target != target]
        return before - len(self._bindings)

    def find(self, source: Source) -> Binding | None:
        """The binding of a source that has a channel."""
        for channel in (source.channel, ANY):
            candidate = Source(source.kind, source.number, channel)
            for binding in self._bindings:
                if binding.source == candidate:
                    return binding
        return None

    def forget(self, port: str) -> None:
        """Discard the state of a port that has gone: its controls may move before it comes back."""
        self._decoders.pop(port, None)
        for states in (self._faders, self._buttons):
            for key in [key for key in states if key[0] == port]:
                del states[key]

    # Learning

    def learn(self, target: str, now: float, mode: Mode = "toggle", seconds: float = 15.0) -> None:
        """Bind the next suitable control that moves, within `seconds` of `now`, to a target.

        Until then nothing is steered.

        Raises:
            ConfigError: for an unknown target, or a mode it cannot have.
        """
        Binding(Source(kinds_for(target)[0]), target, mode)
        self._learning = (target, mode, now + seconds)

    def learning(self, now: float) -> str | None:
        """The target that waits for a control, None if there is none or its time is over."""
        if self._learning is not None and now >= self._learning[2]:
            self._learning = None
        return None if self._learning is None else self._learning[0]

    def cancel(self) -> None:
        """End learning."""
        self._learning = None

    def _learn(self, port: str, move: Move, now: float) -> list[str]:
        """Bind the control of a move to the target that is being learnt, if it is suitable."""
        assert self._learning is not None
        target, mode, _ = self._learning
        kinds = kinds_for(target)
        # A 14-bit pair shows only by its second half: see `_learn_pair`. A press binds a button.
        if move.source.kind not in kinds or move.source.kind == "cc14":
            return []
        if kinds == BUTTONS and not _pressed(move):
            return []
        binding = Binding(move.source, target, mode)
        self.bind(binding)
        self._learning = None
        if kinds == BUTTONS:
            self._buttons[port, move.source] = move.value
        else:
            self._just_learnt = (port, binding, now)
        return [f"{target} is now {move.source}"]

    def _learn_pair(self, port: str, moves: list[Move], now: float) -> list[str]:
        """Extend a binding just learnt to a 14-bit controller, if its fine half follows."""
        if self._just_learnt is None or not moves:
            return []
        learnt_port, binding, when = self._just_learnt
        self._just_learnt = None
        pair = Source("cc14", binding.source.number, binding.source.channel)
        fine = Source("cc", binding.source.number + 32, binding.source.channel)
        if binding.source.kind != "cc" or binding.source.number >= 32 or port != learnt_port:
            return []
        if moves[0].source != fine or now - when > _PAIR_SECONDS:
            return []
        self.bind(Binding(pair, binding.target))
        return [f"{binding.target} is now {pair}"]

    # Steering

    def receive(self, port: str, message: bytes, steered: Steerable, now: float = 0.0) -> list[str]:
        """Apply a message of a port.

        Args:
            port: name of the port; each port has faders of its own.
            message: one MIDI message; any bytes are accepted.
            steered: session to steer.
            now: time of a monotonic clock in seconds, for learning.

        Returns:
            Lines of text for people.

        Raises:
            StemwireError: from `steered`; the message then has no effect.
        """
        moves = self._decoders.setdefault(port, Decoder()).feed(message)
        lines = self._learn_pair(port, moves, now)
        for move in moves:
            if self.learning(now) is not None:
                lines += self._learn(port, move, now)
            elif (binding := self.find(move.source)) is not None:
                lines += self._apply(port, binding, move, steered)
        return lines

    def _apply(self, port: str, binding: Binding, move: Move, steered: Steerable) -> list[str]:
        if binding.target in LEVELS:
            return self._move_fader(port, binding.target, move, steered)
        if binding.target == "preset":
            return _to_preset(steered, int(move.value))
        key = (port, move.source)
        before, self._buttons[key] = self._buttons.get(key), move.value
        pressed = _pressed(move)
        if binding.mode == "momentary":
            _switch(steered, binding.target, pressed)
            return []
        # Faders send changes only, so a repeated value is a button that does not send its release.
        held = before is not None and _pressed(Move(move.source, before)) and before != move.value
        if not pressed or (held and move.source.kind != "note"):
            return []
        if binding.target in SWITCHES:
            _switch(steered, binding.target, None)
            return []
        return _press_preset(steered, binding.target)

    def _move_fader(self, port: str, target: str, move: Move, steered: Steerable) -> list[str]:
        fader = self._faders.setdefault((port, move.source), _Fader())
        present = steered.control(target)
        before, fader.position = fader.position, move.value
        if fader.sent is None or not _levels_equal(fader.sent, present):
            target_position = db_to_position(present)
            reached = abs(move.value - target_position) <= _STEP
            passed = (
                before is not None
                and (before - target_position) * (move.value - target_position) <= 0
            )
            if not (reached or passed):
                fader.sent, fader.ignored = None, fader.ignored + 1
                text = f"{target}: the fader takes over when it passes {_format_level(present)}"
                return [text] if fader.ignored == _MOVES_BEFORE_HINT else []
        fader.ignored = 0
        level = position_to_db(move.value)
        steered.steer(target, level)
        fader.sent = level
        return []


def _pressed(move: Move) -> bool:
    return move.value > 0 if move.source.kind == "note" else move.value >= 64 / 127


def _levels_equal(a: float, b: float) -> bool:
    return a == b or abs(a - b) < 1e-6


def _format_level(db: float) -> str:
    return "its lower end" if db == OFF else f"{db:+.1f} dB"


def _switch(steered: Steerable, target: str, on: bool | None) -> None:
    """Switch a target on or off; None toggles it."""
    name, value = ("solo", SOLOS[target]) if target in SOLOS else (target, 1.0)
    is_on = steered.control(name) == value
    turn_on = not is_on if on is None else on
    if turn_on != is_on:
        steered.steer(name, value if turn_on else 0.0)


def _press_preset(steered: Steerable, target: str) -> list[str]:
    which = target.partition(" ")[2]
    if which not in ("next", "previous"):
        return _to_preset(steered, int(which) - 1)
    status = steered.status()
    names = list(status.presets)
    if not names:
        return ["there are no presets to change to"]
    step = 1 if which == "next" else -1
    here = names.index(status.preset) if status.preset in names else (-1 if step > 0 else 0)
    return _to_preset(steered, (here + step) % len(names))


def _to_preset(steered: Steerable, index: int) -> list[str]:
    status = steered.status()
    if index >= len(status.presets):
        return [f"there is no preset {index + 1}; there are {len(status.presets)}"]
    if status.presets[index] != status.preset:
        steered.change_preset(status.presets[index])
    return []
