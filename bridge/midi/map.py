"""Which control of a MIDI surface does what: bindings, soft take-over, learning, files.

No ports, no threads, no clock: messages and the time go in, a `Steerable` session is steered.

Targets:
    vocals, instrumental, microphone, output: gain in dB, by a fader (CC, 14-bit CC, NRPN, pitch
        bend). The bottom is off, three quarters of the way 0 dB, the top +12 dB.
    bypass, mute, solo vocals, solo instrumental, solo microphone: by a button (note, or CC with 64
        and above as pressed): "toggle" changes over with each press, "momentary" is on while the
        button is held, or lit.
    preset next, preset previous, preset 1, preset 2, ...: by a button.
    preset: by program change; the first program is the first preset.

Soft take-over: a fader does nothing until it has met or passed the present value, and again when
that has been changed by something else. So nothing jumps.

The map "default" is for any controller:

    CC 7 (volume) on channels 1, 2, 3, 4    vocals, instrumental, microphone, output
    CC 80, 81, 82, 83 on any channel        bypass, mute, solo vocals, preset next
    program change on channel 16            preset

and "mackie" for surfaces that speak Mackie Control, as most can be switched to:

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

MARK, TOP_DB = 0.75, 12.0  # where a fader stands at 0 dB, and what its top is
_BELOW = 60.0  # dB for each tenfold below the mark: the gain is the cube of the way
_STEP = 1 / 127  # of a 7-bit fader
_PATIENCE = 8  # moves without effect, after which people are told why
_PAIR_SECONDS = 0.1  # within which the finer half of a 14-bit controller follows the coarse one


def to_db(position: float) -> float:
    """Decibels of a fader's position from 0 to 1; `OFF` at the bottom, 0 around `MARK`."""
    if abs(position - MARK) <= _STEP / 2:  # so that 0 dB is met, and easily
        return 0.0
    if position > MARK:
        return TOP_DB * (min(position, 1.0) - MARK) / (1.0 - MARK)
    level = _BELOW * math.log10(position / MARK) if position > 0 else OFF
    return level if level >= LOWEST_DB else OFF


def to_position(db: float) -> float:
    """Where a fader stands at this gain: the inverse of `to_db`; above `TOP_DB` it is the top."""
    if db > 0:
        return min(1.0, MARK + (1.0 - MARK) * db / TOP_DB)
    return 0.0 if db < LOWEST_DB else MARK * 10.0 ** (db / _BELOW)


@dataclass(frozen=True)
class Binding:
    """One control of a surface and what it does.

    Raises:
        ConfigError: for a target that is unknown, or that this kind of control cannot steer.
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
    """Of one fader: where it stands, and the dB that it has set, None if it waits."""

    position: float | None = None
    sent: float | None = None
    waits: int = 0  # moves without effect


class Mapping:
    """Bindings of a surface's controls, and where these stand.

    Not for several threads at a time.
    """

    def __init__(self, bindings: Iterable[Binding] = ()) -> None:
        self._bindings: list[Binding] = []
        self._decoders: dict[str, Decoder] = {}
        self._faders: dict[tuple[str, Source], _Fader] = {}
        self._buttons: dict[tuple[str, Source], float] = {}
        self._learning: tuple[str, Mode, float] | None = None  # target, mode, until when
        self._fresh: tuple[str, Binding, float] | None = None  # port, binding just learnt, when
        for binding in bindings:
            self.bind(binding)

    @property
    def bindings(self) -> tuple[Binding, ...]:
        """All, in the order in which they were bound."""
        return tuple(self._bindings)

    def bind(self, binding: Binding) -> None:
        """Add a binding in place of those of the same source."""
        self._bindings = [b for b in self._bindings if not b.source.overlaps(binding.source)]
        self._bindings.append(binding)
        self._faders.clear()  # all have to be met again: a moment, and rare
        self._buttons.clear()

    def unbind(self, target: str) -> int:
        """Take away all bindings of a target; says how many there were."""
        before = len(self._bindings)
        self._bindings = [b for b in self._bindings if b.target != target]
        return before - len(self._bindings)

    def find(self, source: Source) -> Binding | None:
        """The binding of a source that has a channel."""
        for channel in (source.channel, ANY):
            wanted = Source(source.kind, source.number, channel)
            for binding in self._bindings:
                if binding.source == wanted:
                    return binding
        return None

    def forget(self, port: str) -> None:
        """A port has gone: nobody knows where its controls will stand when it comes back."""
        self._decoders.pop(port, None)
        for states in (self._faders, self._buttons):
            for key in [key for key in states if key[0] == port]:
                del states[key]

    # Learning

    def learn(self, target: str, now: float, mode: Mode = "toggle", seconds: float = 15.0) -> None:
        """Bind the next fitting control that is moved, within `seconds` of `now`, to a target.

        Until then nothing is steered.

        Raises:
            ConfigError: for an unknown target, or a mode it cannot have.
        """
        Binding(Source(kinds_for(target)[0]), target, mode)
        self._learning = (target, mode, now + seconds)

    def learning(self, now: float) -> str | None:
        """The target that waits for a control, None if none does any more."""
        if self._learning is not None and now >= self._learning[2]:
            self._learning = None
        return None if self._learning is None else self._learning[0]

    def cancel(self) -> None:
        """End learning."""
        self._learning = None

    def _learn(self, port: str, move: Move, now: float) -> list[str]:
        """Take a move for the target that is being learnt, if it fits."""
        assert self._learning is not None
        target, mode, _ = self._learning
        kinds = kinds_for(target)
        # A 14-bit pair shows by its second half only: see `_pair`. A button is taken when pressed.
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
            self._fresh = (port, binding, now)
        return [f"{target} is now {move.source}"]

    def _pair(self, port: str, moves: list[Move], now: float) -> list[str]:
        """Whether what was learnt just now is the coarse half of a 14-bit controller."""
        if self._fresh is None or not moves:
            return []
        learnt_port, binding, when = self._fresh
        self._fresh = None
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
        """Do what a message of a port says.

        Args:
            port: its name; ports are told apart, for each has faders of its own.
            message: one MIDI message; any bytes may come.
            steered: what is steered.
            now: seconds of a clock that only goes forward; wanted for learning.

        Returns:
            what is to be told to people, a line each.

        Raises:
            StemwireError: what `steered` raises, and then this message does nothing.
        """
        moves = self._decoders.setdefault(port, Decoder()).feed(message)
        told = self._pair(port, moves, now)
        for move in moves:
            if self.learning(now) is not None:
                told += self._learn(port, move, now)
            elif (binding := self.find(move.source)) is not None:
                told += self._apply(port, binding, move, steered)
        return told

    def _apply(self, port: str, binding: Binding, move: Move, steered: Steerable) -> list[str]:
        if binding.target in LEVELS:
            return self._fade(port, binding.target, move, steered)
        if binding.target == "preset":
            return _to_preset(steered, int(move.value))
        key = (port, move.source)
        before, self._buttons[key] = self._buttons.get(key), move.value
        pressed = _pressed(move)
        if binding.mode == "momentary":
            _switch(steered, binding.target, pressed)
            return []
        # Faders send changes only, so what comes again is a button that doesn't tell its release.
        held = before is not None and _pressed(Move(move.source, before)) and before != move.value
        if not pressed or (held and move.source.kind != "note"):
            return []
        if binding.target in SWITCHES:
            _switch(steered, binding.target, None)
            return []
        return _press_preset(steered, binding.target)

    def _fade(self, port: str, target: str, move: Move, steered: Steerable) -> list[str]:
        fader = self._faders.setdefault((port, move.source), _Fader())
        present = steered.control(target)
        before, fader.position = fader.position, move.value
        if fader.sent is None or not _same(fader.sent, present):
            there = to_position(present)
            met = abs(move.value - there) <= _STEP
            passed = before is not None and (before - there) * (move.value - there) <= 0
            if not (met or passed):
                fader.sent, fader.waits = None, fader.waits + 1
                text = f"{target}: the fader takes over when it passes {_written(present)}"
                return [text] if fader.waits == _PATIENCE else []
        fader.waits = 0
        level = to_db(move.value)
        steered.steer(target, level)
        fader.sent = level
        return []


def _pressed(move: Move) -> bool:
    return move.value > 0 if move.source.kind == "note" else move.value >= 64 / 127


def _same(a: float, b: float) -> bool:
    return a == b or abs(a - b) < 1e-6


def _written(db: float) -> str:
    return "its lower end" if db == OFF else f"{db:+.1f} dB"


def _switch(steered: Steerable, target: str, on: bool | None) -> None:
    """Switch on or off; None changes over."""
    name, value = ("solo", SOLOS[target]) if target in SOLOS else (target, 1.0)
    is_on = steered.control(name) == value
    wanted = not is_on if on is None else on
    if wanted != is_on:
        steered.steer(name, value if wanted else 0.0)


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
