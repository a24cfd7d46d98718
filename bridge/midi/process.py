"""The process that owns the MIDI ports; run as a program by `ports.py`, never imported to run.

Why a separate process: after a JACK server has ended, closing what RtMidi had opened on it crashes
the process; the libraries below RtMidi print to the terminal; macOS reports new ports only to the
main thread. In this process none of that reaches the audio. It imports only the standard library
and rtmidi.

Why no callbacks: RtMidi calls them in JACK's own thread, which then waits for the interpreter, and
all audio on that server with it (`benchmarks/midi_inputs.py` counts the xruns). Without a callback,
RtMidi puts messages into a ring of bounded size; one thread here empties the rings every 10 ms. A
ring that is found full may have lost messages, and is counted.

Standard input: one line of JSON (see `Request`); when it is closed, this process ends. Standard
output: lines of JSON, "event" and

    ports       api, ports, refused   all inputs (the answer to "list"; the process then ends)
    api         api, refused          backend in use, and by name why the others are not
    no api      refused               no MIDI backend works; tried again, reported once
    opened      port                  listening to it
    gone        port                  it has disappeared; looked for again
    absent      ports                 no selected port exists; reported when `ports` changes
    failed      port, reason          it exists but cannot be opened; tried again, reported once
    message     port, bytes           a message as received
    full        port                  a ring was full: messages may be lost
    look        -                     heartbeat, after each search for ports
    unwatched   -                     the end of the JACK server will go unnoticed
    missing     reason                rtmidi cannot be imported; the process ends
    error       text                  a bug; the process ends
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

CLIENT = "Stemwire"  # client name that other programs see, and name of the virtual port
PROBE, WATCH = f"{CLIENT} looks", f"{CLIENT} watches"  # names of clients without ports
RING = 1024  # capacity of one port's ring, messages
POLL_SECONDS = 0.01  # between two rounds of emptying the rings
JACK_ENDED = 75  # exit status that asks for a restart, see `_exit_with_jack`
LOOPBACK_PORTS = ("Midi Through",)  # not instruments: they return what programs send


class Request(TypedDict):
    """The task of the process.

    Attributes:
        list: whether to list the ports and end.
        port: number, name or part of a name of an input, "virtual", or None for all inputs.
        api: name of RtMidi's backend, None for the first that works.
        look_s: seconds between searches for ports.
        ring: capacity of a port's ring, messages.
    """

    list: bool
    port: int | str | None
    api: str | None
    look_s: float
    ring: int


class NoApi(Exception):  # noqa: N818 - not an error: a backend may appear
    """No backend works; `refused` says why."""

    def __init__(self, refused: dict[str, str]) -> None:
        super().__init__(refused)
        self.refused = refused


def unique_names(names: list[str]) -> list[str]:
    """EventWriter ports of one name apart: the second becomes "name (2)"."""
    return [
        name if (count := names[:i].count(name)) == 0 else f"{name} ({count + 1})"
        for i, name in enumerate(names)
    ]


def stable_name(name: str) -> str:
    """Name of a port without ALSA's numbers, which may change when it is plugged in again."""
    return re.sub(r" \d+:\d+$", "", name)


def select_ports(port: int | str | None, names: list[str]) -> list[str]:
    """Ports that match a request: by number, by exact or partial name, or all of them."""
    if port is None:
        return [name for name in names if not name.startswith(LOOPBACK_PORTS)]
    if isinstance(port, int):
        return names[port : port + 1] if port >= 0 else []
    for matches in (
        str.__eq__,
        lambda p, name: p == stable_name(name),
        lambda p, name: p.casefold() in name.casefold(),
    ):
        if selected := [name for name in names if matches(port, name)]:
            return selected[:1]
    return []


class ReaderGone(Exception):  # noqa: N818 - how this process ends
    """The parent process has stopped reading."""


class EventWriter:
    """Writes events to a file descriptor, one complete line each; raises `ReaderGone`."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __call__(self, event: str, **values: Any) -> None:
        line = json.dumps({"event": event, **values}).encode() + b"\n"
        try:
            while line:
                line = line[os.write(self._descriptor, line) :]
        except OSError as error:
            raise ReaderGone from error


class Listener:
    """Opens the selected ports whenever they exist, and passes their messages on."""

    def __init__(self, rtmidi: Any, request: Request, write: EventWriter) -> None:
        self._rtmidi, self._request, self._write = rtmidi, request, write
        self._probe: Any = None  # an input that searches for ports
        self._open: dict[str, Any] = {}
        self._has_opened = False
        self._port = request["port"]
        self._reported: dict[str, object] = {}  # newest values by subject, reported once

    def run(self, ended: threading.Event) -> None:
        """Run until `ended` is set."""
        next_look = 0.0
        while not ended.is_set():
            if time.monotonic() >= next_look:
                self._update_ports()
                self._write("look")
                next_look = time.monotonic() + self._request["look_s"]
            for port, midi_in in self._open.items():
                self._drain(port, midi_in)
            time.sleep(POLL_SECONDS if self._open else min(0.1, self._request["look_s"]))

    def close(self) -> None:
        """Close all ports."""
        for midi_in in (*self._open.values(), self._probe):
            if midi_in is not None:
                midi_in.delete()

    def _drain(self, port: str, midi_in: Any) -> None:
        count, room = 0, self._request["ring"] - 1  # RtMidi leaves one slot free
        while count < room and (event := midi_in.get_message()) is not None:
            self._write("message", port=port, bytes=list(event[0]))
            count += 1
        if count == room:
            self._write("full", port=port)

    def _update_ports(self) -> None:
        if self._probe is None and not self._find_api():
            return
        if self._port == "virtual":
            if not self._open:
                self._open_port(CLIENT, None)
            return
        names = unique_names(self._probe.get_ports())
        for port in [port for port in self._open if port not in names]:
            self._open.pop(port).delete()
            self._write("gone", port=port)
        chosen = select_ports(self._port, names)
        if isinstance(self._port, int) and chosen:
            self._port = stable_name(chosen[0])  # numbers change as other ports come and go
        for name in chosen:
            if name not in self._open:
                self._open_port(name, names.index(name))
        if not (chosen or self._open or self._has_opened):  # otherwise "gone" has reported it
            self._write_once("absent", "absent", ports=names)

    def _find_api(self) -> bool:
        try:
            api, self._probe, refused = pick_api(self._rtmidi, self._request)
        except NoApi as error:
            self._write_once("api", "no api", refused=error.refused)
            return False
        self._write("api", api=api, refused=refused)
        if api == "jack" and not _exit_with_jack():
            self._write("unwatched")
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
            self._write_once(f"failed {name}", "failed", port=name, reason=str(error))
            return
        self._open[name] = midi_in
        self._has_opened = True
        self._reported.pop(f"failed {name}", None)
        self._write("opened", port=name)

    def _write_once(self, what: str, event: str, **values: Any) -> None:
        if self._reported.get(what) != values:
            self._reported[what] = values
            self._write(event, **values)


def new_input(rtmidi: Any, api: int, ring: int, name: str = CLIENT) -> Any:
    """An input without a port that ignores sysex, clock and active sensing."""
    midi_in = rtmidi.MidiIn(rtapi=api, name=name, queue_size_limit=ring)
    midi_in.ignore_types(sysex=True, timing=True, active_sense=True)
    return midi_in


def pick_api(rtmidi: Any, request: Request) -> tuple[str, Any, dict[str, str]]:
    """(name, an input, reasons why earlier ones fail) of the first backend that works.

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
    """End this process when its JACK server ends; False if that cannot be detected.

    RtMidi does not notice, its ports stay dead when a new server starts, and closing them crashes.
    libjack notifies a separate client, which is never activated and takes no part in the audio.
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
_ON_SHUTDOWN = _SHUTDOWN(lambda _: os._exit(JACK_ENDED))  # libjack keeps no reference


def _exit_with_parent(stream: BinaryIO, ended: threading.Event) -> None:
    """Set `ended` when the parent process has closed standard input, or has ended."""
    with contextlib.suppress(OSError, ValueError):
        while stream.read(1):
            pass
    ended.set()
    time.sleep(1.0)  # closing ports takes less, unless it is stuck
    os._exit(0)


def main() -> int:
    """Carry out the request on the first line of standard input."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent process
    write = EventWriter(os.dup(1))
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):  # libraries print to both
        os.dup2(nowhere, descriptor)
    request: Request = json.loads(sys.stdin.buffer.readline())
    try:
        rtmidi = import_module("rtmidi")
    except ImportError as error:
        write("missing", reason=str(error))
        return 1
    try:
        if request["list"]:
            try:
                api, probe, refused = pick_api(rtmidi, request)
            except NoApi as error:
                write("no api", refused=error.refused)
                return 0
            write("ports", api=api, ports=unique_names(probe.get_ports()), refused=refused)
            probe.delete()
            return 0
        ended = threading.Event()
        threading.Thread(
            target=_exit_with_parent, args=(sys.stdin.buffer, ended), daemon=True
        ).start()
        listener = Listener(rtmidi, request, write)
        listener.run(ended)
        listener.close()
    except ReaderGone:
        pass
    except Exception:
        with contextlib.suppress(ReaderGone):
            write("error", text=traceback.format_exc())
        return 1
    return 0


if __name__ == "__main__":
    status = main()
    os._exit(status)  # without waiting for the reading thread
