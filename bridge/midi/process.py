"""The process that has the MIDI ports; run as a program by `midi_ports`, never imported for it.

Why a process of its own: when a JACK server has ended, closing what RtMidi had opened on it crashes
the process; the libraries below RtMidi print to the terminal; macOS tells only the main thread of
new ports. Here none of this reaches the audio. It imports the standard library and rtmidi alone.

Why no callbacks: RtMidi makes them in JACK's own thread, which then waits for the interpreter, and
all sound on that server with it (`benchmarks/midi_inputs.py` counts the xruns). Without one, RtMidi
puts messages into a ring of bounded size; one thread here empties the rings every 10 ms. A ring
found full may have lost messages, and is counted.

On standard input: one line of JSON (see `Request`); when it closes, this process ends. On standard
output: lines of JSON, "event" and

    ports       api, ports, refused   all inputs there are (the answer to "list"; then it ends)
    api         api, refused          what is used, and why others are not, by name
    no api      refused               no MIDI system works; looked for again, told once
    opened      port                  listens to it
    gone        port                  it has vanished; looked for again
    absent      ports                 what is wanted isn't there; told when what is there changes
    failed      port, reason          it is there but cannot be opened; tried again, told once
    message     port, bytes           as it came
    full        port                  a ring was full: messages may be lost
    look        -                     it lives; every time it has looked for ports
    unwatched   -                     an end of the JACK server will not be noticed
    missing     reason                rtmidi cannot be imported; it ends
    error       text                  a bug; it ends
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import signal
import sys
import threading
import time
import traceback
from importlib import import_module
from typing import Any, BinaryIO, TypedDict

CLIENT = "Stemwire"  # our name to other programs, and of the virtual port
PROBE, WATCH = f"{CLIENT} looks", f"{CLIENT} watches"  # of what has no ports
RING = 1024  # messages in one port's ring
POLL_SECONDS = 0.01  # between emptying rings
JACK_ENDED = 75  # exit status: start again, see `_exit_with_jack`
SELF_MADE = ("Midi Through",)  # inputs that are no instruments: what programs send comes back


class Request(TypedDict):
    """What is wanted.

    `list`: name the ports and end. `port`: number, name, part of a name, "virtual", or None for all
    inputs there are. `api`: name of RtMidi's backend, None for the first that works. `look_s`:
    seconds between looking for ports. `ring`: messages a port's ring holds.
    """

    list: bool
    port: int | str | None
    api: str | None
    look_s: float
    ring: int


class NoApi(Exception):  # noqa: N818 - no error: nothing is there yet
    """No backend works; `refused` says why."""

    def __init__(self, refused: dict[str, str]) -> None:
        super().__init__(refused)
        self.refused = refused


def unique(names: list[str]) -> list[str]:
    """Tell ports of one name apart: the second becomes "name (2)"."""
    return [
        name if (count := names[:i].count(name)) == 0 else f"{name} ({count + 1})"
        for i, name in enumerate(names)
    ]


def lasting(name: str) -> str:
    """What stays of a port's name when it is plugged in again: ALSA adds numbers that may not."""
    return re.sub(r" \d+:\d+$", "", name)


def wanted(port: int | str | None, names: list[str]) -> list[str]:
    """Those of the ports that are asked for: by number, exact or partial name, or all."""
    if port is None:
        return [name for name in names if not name.startswith(SELF_MADE)]
    if isinstance(port, int):
        return names[port : port + 1] if port >= 0 else []
    for fits in (str.__eq__, lambda p, name: p == lasting(name),
                 lambda p, name: p.casefold() in name.casefold()):  # fmt: skip
        if found := [name for name in names if fits(port, name)]:
            return found[:1]
    return []


class Unread(Exception):  # noqa: N818 - the way this process ends
    """Whoever started this process reads no more."""


class Tell:
    """Writes events to a file descriptor, whole lines at a time; raises `Unread`."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __call__(self, event: str, **values: Any) -> None:
        line = json.dumps({"event": event, **values}).encode() + b"\n"
        try:
            while line:
                line = line[os.write(self._descriptor, line) :]
        except OSError as error:
            raise Unread from error


class Listener:
    """Opens the ports that are wanted, whenever they are there, and passes on what comes."""

    def __init__(self, rtmidi: Any, request: Request, tell: Tell) -> None:
        self._rtmidi, self._request, self._tell = rtmidi, request, tell
        self._probe: Any = None  # looks for ports
        self._open: dict[str, Any] = {}
        self._has_opened = False
        self._port = request["port"]
        self._told: dict[str, object] = {}  # what was told, so that it is told once

    def run(self, ended: threading.Event) -> None:
        """Go on until `ended`."""
        next_look = 0.0
        while not ended.is_set():
            if time.monotonic() >= next_look:
                self._look()
                self._tell("look")
                next_look = time.monotonic() + self._request["look_s"]
            for port, midi_in in self._open.items():
                self._drain(port, midi_in)
            time.sleep(POLL_SECONDS if self._open else min(0.1, self._request["look_s"]))

    def close(self) -> None:
        """Let go of all ports."""
        for midi_in in (*self._open.values(), self._probe):
            if midi_in is not None:
                midi_in.delete()

    def _drain(self, port: str, midi_in: Any) -> None:
        count, room = 0, self._request["ring"] - 1  # RtMidi leaves one place free
        while count < room and (event := midi_in.get_message()) is not None:
            self._tell("message", port=port, bytes=list(event[0]))
            count += 1
        if count == room:
            self._tell("full", port=port)

    def _look(self) -> None:
        if self._probe is None and not self._find_api():
            return
        if self._port == "virtual":
            if not self._open:
                self._open_port(CLIENT, None)
            return
        names = unique(self._probe.get_ports())
        for port in [port for port in self._open if port not in names]:
            self._open.pop(port).delete()
            self._tell("gone", port=port)
        chosen = wanted(self._port, names)
        if isinstance(self._port, int) and chosen:
            self._port = lasting(chosen[0])  # numbers change when others come and go
        for name in chosen:
            if name not in self._open:
                self._open_port(name, names.index(name))
        if not (chosen or self._open or self._has_opened):  # else "gone" has told it
            self._tell_once("absent", "absent", ports=names)

    def _find_api(self) -> bool:
        try:
            api, self._probe, refused = pick_api(self._rtmidi, self._request)
        except NoApi as nothing:
            self._tell_once("api", "no api", refused=nothing.refused)
            return False
        self._tell("api", api=api, refused=refused)
        if api == "jack" and not _exit_with_jack():
            self._tell("unwatched")
        return True

    def _open_port(self, name: str, number: int | None) -> None:
        midi_in = None
        try:
            midi_in = new_input(self._rtmidi, self._probe.get_current_api(), self._request["ring"])
            if number is None:
                midi_in.open_virtual_port(name)
            else:
                midi_in.open_port(number, "in")
        except (self._rtmidi.RtMidiError, NotImplementedError) as error:
            if midi_in is not None:
                midi_in.delete()
            self._tell_once(f"failed {name}", "failed", port=name, reason=str(error))
            return
        self._open[name] = midi_in
        self._has_opened = True
        self._told.pop(f"failed {name}", None)
        self._tell("opened", port=name)

    def _tell_once(self, what: str, event: str, **values: Any) -> None:
        if self._told.get(what) != values:
            self._told[what] = values
            self._tell(event, **values)


def new_input(rtmidi: Any, api: int, ring: int, name: str = CLIENT) -> Any:
    """An input without a port that leaves out sysex, clock and active sensing."""
    midi_in = rtmidi.MidiIn(rtapi=api, name=name, queue_size_limit=ring)
    midi_in.ignore_types(sysex=True, timing=True, active_sense=True)
    return midi_in


def pick_api(rtmidi: Any, request: Request) -> tuple[str, Any, dict[str, str]]:
    """(name, an input of it, why those before it are not) of the first backend that works.

    Raises:
        NoApi: if none does.
    """
    built = {rtmidi.get_api_name(api): api for api in rtmidi.get_compiled_api()}
    names = [request["api"]] if request["api"] else [name for name in built if name != "dummy"]
    refused: dict[str, str] = {}
    for name in names:
        if name not in built:
            refused[name] = f"python-rtmidi was built without it, but with {', '.join(built)}"
            continue
        try:
            return name, new_input(rtmidi, built[name], request["ring"], PROBE), refused
        except rtmidi.RtMidiError as error:
            refused[name] = str(error)
    raise NoApi(refused)


def _exit_with_jack() -> bool:
    """End this process when its JACK server does; False if that cannot be known.

    RtMidi doesn't notice, its ports stay dead when a new server starts, and closing them crashes.
    libjack tells a client of its own, which is never activated and takes no part in the sound.
    """
    jack = None
    for name in ("libjack.so.0", "libjack.0.dylib", "libjack64.dll"):
        with contextlib.suppress(OSError):
            jack = ctypes.CDLL(name)
            break
    if jack is None:
        return False
    jack.jack_client_open.restype = ctypes.c_void_p
    jack.jack_client_open.argtypes = (ctypes.c_char_p, ctypes.c_int, ctypes.c_void_p)
    jack.jack_on_shutdown.argtypes = (ctypes.c_void_p, _SHUTDOWN, ctypes.c_void_p)
    no_start_server = 1
    client = jack.jack_client_open(WATCH.encode(), no_start_server, None)
    if client:
        jack.jack_on_shutdown(client, _ON_SHUTDOWN, None)
    return bool(client)


_SHUTDOWN = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_ON_SHUTDOWN = _SHUTDOWN(lambda _: os._exit(JACK_ENDED))  # kept here, for libjack doesn't


def _await_end(stream: BinaryIO, ended: threading.Event) -> None:
    """Whoever started this process has closed its end, or is no more."""
    with contextlib.suppress(OSError, ValueError):
        while stream.read(1):
            pass
    ended.set()
    time.sleep(1.0)  # closing ports takes less, if it isn't stuck
    os._exit(0)


def main() -> int:
    """Do what the first line of standard input says."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for whoever started this
    tell = Tell(os.dup(1))
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):  # libraries print to both
        os.dup2(nowhere, descriptor)
    request: Request = json.loads(sys.stdin.buffer.readline())
    try:
        rtmidi = import_module("rtmidi")
    except ImportError as error:
        tell("missing", reason=str(error))
        return 1
    try:
        if request["list"]:
            try:
                api, probe, refused = pick_api(rtmidi, request)
            except NoApi as nothing:
                tell("no api", refused=nothing.refused)
                return 0
            tell("ports", api=api, ports=unique(probe.get_ports()), refused=refused)
            probe.delete()
            return 0
        ended = threading.Event()
        threading.Thread(target=_await_end, args=(sys.stdin.buffer, ended), daemon=True).start()
        listener = Listener(rtmidi, request, tell)
        listener.run(ended)
        listener.close()
    except Unread:
        pass
    except Exception:
        with contextlib.suppress(Unread):
            tell("error", text=traceback.format_exc())
        return 1
    return 0


if __name__ == "__main__":
    status = main()
    os._exit(status)  # not waiting for the thread that reads
