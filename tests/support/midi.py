"""MIDI messages, a control surface in another process, and a session to steer."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

from stemwire.bridge.midi.map import Binding, Mapping
from stemwire.realtime.live.panel import Panel

SENDER = """
import rtmidi, sys
out = rtmidi.MidiOut(rtapi=rtmidi.API_UNIX_JACK, name=sys.argv[1])
if len(sys.argv) > 2:
    out.open_port([sys.argv[2] in name for name in out.get_ports()].index(True))
else:
    out.open_virtual_port("faders")
print("ready", flush=True)
for line in sys.stdin:
    out.send_message(list(bytes.fromhex(line)))
out.delete()
"""


class Session:
    """A `Steerable` session with the real panel."""

    def __init__(self, presets: tuple[str, ...] = ("standard", "low", "mine")) -> None:
        self.panel = Panel()
        self.preset, self.presets = presets[0] if presets else "", presets
        self.steered = 0

    def steer(self, name: str, value: float) -> None:
        self.panel.steer(name, value)
        self.steered += 1

    def control(self, name: str) -> float:
        return self.panel[name]

    def change_preset(self, name: str) -> None:
        self.preset = name

    def status(self) -> Any:
        return SimpleNamespace(preset=self.preset, presets=self.presets)

    def messages(self) -> list[str]:
        return []


def cc(number: int, value: int, channel: int = 1) -> bytes:
    return bytes((0xB0 + channel - 1, number, value))


def note(number: int, velocity: int, channel: int = 1) -> bytes:
    return bytes((0x90 + channel - 1, number, velocity))


def bend(value: int, channel: int = 1) -> bytes:
    return bytes((0xE0 + channel - 1, value & 127, value >> 7))


def nrpn(number: int, value: int) -> list[bytes]:
    return [cc(99, number >> 7), cc(98, number & 127), cc(6, value >> 7), cc(38, value & 127)]


class Surface:
    """A mapping with one port, and the session that it steers."""

    def __init__(self, *bindings: Binding, **session: Any) -> None:
        self.mapping, self.session = Mapping(bindings), Session(**session)

    def send(self, *messages: bytes, port: str = "surface", now: float = 0.0) -> list[str]:
        lines = []
        for message in messages:
            lines += self.mapping.receive(port, message, self.session, now)  # type: ignore[arg-type]
        return lines

    def __getitem__(self, name: str) -> float:
        return self.session.control(name)

    def __setitem__(self, name: str, value: float) -> None:
        self.session.panel.steer(name, value)


class Controller:
    """A control surface: a process with a MIDI output, virtual or connected to an input."""

    def __init__(self, name: str, *to: str) -> None:
        self.name = f"{name}:faders"
        self.process = subprocess.Popen(
            [sys.executable, "-c", SENDER, name, *to],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def __enter__(self) -> Controller:
        return self

    def __exit__(self, *_: object) -> None:
        self.unplug()

    def send(self, *messages: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("".join(f"{message.hex()}\n" for message in messages))
        self.process.stdin.flush()

    def unplug(self) -> None:
        if self.process.poll() is None:
            assert self.process.stdin is not None and self.process.stdout is not None
            self.process.stdin.close()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:  # closing is stuck when the server was killed
                self.process.kill()
                self.process.wait()
            self.process.stdout.close()
