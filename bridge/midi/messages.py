"""Decoding of MIDI messages into moves of a control surface's faders, wheels and buttons.

No ports, no threads, no clock: bytes go in, moves of controls come out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

Kind = Literal["cc", "cc14", "nrpn", "bend", "note", "program"]
KINDS: tuple[Kind, ...] = get_args(Kind)
# Highest number of each kind; pitch bend and program change have none, there is one per channel.
HIGHEST: dict[Kind, int] = {
    "cc": 119,
    "cc14": 31,
    "nrpn": 16_382,
    "bend": 0,
    "note": 127,
    "program": 0,
}
FADERS: tuple[Kind, ...] = ("cc", "cc14", "nrpn", "bend")  # kinds that have a position
BUTTONS: tuple[Kind, ...] = ("cc", "note")  # kinds that can be pressed
ANY = 0  # in place of a channel: any channel

_NOTE_OFF, _NOTE_ON, _PRESSURE, _CC, _PROGRAM, _CHANNEL_PRESSURE, _BEND = range(0x80, 0xF0, 0x10)
_LENGTHS = {_PROGRAM: 2, _CHANNEL_PRESSURE: 2}  # of messages in bytes; all others have 3
_FINE = 32  # controller n + 32 is the fine half of controller n
_DATA, _DATA_FINE = 6, 38
_NRPN_FINE, _NRPN, _RPN_FINE, _RPN = range(98, 102)
_MODES = 120  # controllers from here on are channel modes: all notes off and the like


@dataclass(frozen=True)
class Source:
    """Source of moves: a kind of message, its number, and the channel 1 to 16, or `ANY`."""

    kind: Kind
    number: int = 0
    channel: int = ANY

    def __str__(self) -> str:
        name = {"cc": "CC", "cc14": "14-bit CC", "nrpn": "NRPN", "bend": "pitch bend"}
        number = f" {self.number}" if HIGHEST[self.kind] else ""
        channel = f"channel {self.channel}" if self.channel else "any channel"
        return f"{name.get(self.kind, self.kind)}{number} on {channel}"

    def overlaps(self, other: Source) -> bool:
        """Whether one message can belong to both sources."""
        if self.channel != other.channel and ANY not in (self.channel, other.channel):
            return False
        return bool(self._numbers() & other._numbers())

    def _numbers(self) -> set[tuple[str, int]]:
        if self.kind == "cc14":
            return {("cc", self.number), ("cc", self.number + _FINE)}
        return {(self.kind, self.number)}


@dataclass(frozen=True)
class Move:
    """A control that has been moved.

    Attributes:
        source: source of the move; its channel is 1 to 16.
        value: new position, 0 to 1; for a note its velocity, 0 when released; for a program change
            the number of the program.
    """

    source: Source
    value: float


class Decoder:
    """Decoder from the messages of one port to moves of its controls.

    A controller below 32 causes a move as "cc" and one as "cc14", its fine half n + 32 likewise, so
    that each can be bound. Once fine halves have arrived, "cc14" and "nrpn" wait for them, so that
    no value combines a new half with an old one. Parameter numbers (controllers 98 to 101) and
    channel modes (from 120) are not controls; neither are sysex, clock and active sensing.
    """

    def __init__(self) -> None:
        self._coarse: dict[Source, int] = {}  # newest coarse half
        self._fine: set[Source] = set()  # sources that send fine halves
        self._parameters: dict[int, list[int | None]] = {}  # channel -> NRPN's halves

    def feed(self, message: Sequence[int]) -> list[Move]:
        """Decode one message; damaged messages and those of no control give no moves."""
        parts = split(message)
        if parts is None:
            return []
        status, channel, first, second = parts
        if status == _NOTE_ON:
            return [Move(Source("note", first, channel), second / 127)]
        if status == _NOTE_OFF:
            return [Move(Source("note", first, channel), 0.0)]
        if status == _BEND:
            return [Move(Source("bend", 0, channel), (second << 7 | first) / 16_383)]
        if status == _PROGRAM:
            return [Move(Source("program", 0, channel), first)]
        if status == _CC:
            return self._controller(channel, first, second)
        return []

    def _controller(self, channel: int, number: int, value: int) -> list[Move]:
        if number >= _MODES:
            return []
        if number in (_NRPN, _NRPN_FINE):
            self._parameters.setdefault(channel, [None, None])[number == _NRPN_FINE] = value
            return []
        if number in (_RPN, _RPN_FINE):
            self._parameters.pop(channel, None)
            return []
        coarse, fine = self._parameters.get(channel, (None, None))
        if number in (_DATA, _DATA_FINE) and coarse is not None and fine is not None:
            nrpn = Source("nrpn", coarse << 7 | fine, channel)
            if nrpn.number <= HIGHEST["nrpn"]:  # the next number means "no parameter"
                return self._halves(nrpn, value, number == _DATA_FINE)
        moves = [Move(Source("cc", number, channel), value / 127)]
        if number < 2 * _FINE:
            pair = Source("cc14", number % _FINE, channel)
            moves += self._halves(pair, value, number >= _FINE)
        return moves

    def _halves(self, source: Source, value: int, fine: bool) -> list[Move]:
        if fine:
            self._fine.add(source)
            if (coarse := self._coarse.get(source)) is None:
                return []
            return [Move(source, (coarse << 7 | value) / 16_383)]
        self._coarse[source] = value
        return [] if source in self._fine else [Move(source, value / 127)]


def split(message: Sequence[int]) -> tuple[int, int, int, int] | None:
    """(status, channel 1 to 16, first, second) of a channel message; None for all others."""
    if not message or not 0x80 <= message[0] < 0xF0:
        return None
    status = message[0] & 0xF0
    data = list(message[1:])
    if len(message) != _LENGTHS.get(status, 3) or any(not 0 <= byte < 128 for byte in data):
        return None
    return status, (message[0] & 0x0F) + 1, data[0], data[1] if len(data) > 1 else 0


def describe(message: Sequence[int]) -> tuple[str, str, str, str]:
    """(kind, channel, number, value) of any message, as text; "" for a missing field."""
    parts = split(message)
    if parts is None:
        what = "system" if message and message[0] >= 0xF0 else "damaged"
        return what, "", "", bytes(byte & 0xFF for byte in message[:8]).hex(" ")
    status, channel, first, second = parts
    if status == _BEND:
        return "pitch bend", str(channel), "", str(second << 7 | first)
    if status in (_PROGRAM, _CHANNEL_PRESSURE):
        return "program" if status == _PROGRAM else "pressure", str(channel), "", str(first)
    names = {_NOTE_OFF: "note off", _NOTE_ON: "note on", _PRESSURE: "key pressure", _CC: "CC"}
    if status == _NOTE_ON and not second:
        status = _NOTE_OFF
    return names[status], str(channel), str(first), str(second)
