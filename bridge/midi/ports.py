"""MIDI inputs: listing them, and listening to them across unplugging and restarts.

The inputs belong to a separate process; `process.py` says why. This module starts it, restarts it
if it ends, and turns its events into lines of text.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from stemwire.bridge.midi import process as midi_process
from stemwire.errors import ConfigError

API_VARIABLE = "STEMWIRE_MIDI_API"
APIS = {  # by RtMidi's name, the label for people
    "alsa": "ALSA",
    "jack": "JACK",
    "core": "CoreMIDI",
    "winmm": "Windows MIDI",
}
VIRTUAL = "virtual"
LIST_SECONDS = 15.0  # limit for listing the ports
_JACK_ENDED = "MIDI: the JACK server has ended; looking for it"
MAX_PAUSE_SECONDS = 10.0  # between starts of a process that keeps ending

Event = dict[str, Any]
Port = int | str | None


@dataclass(frozen=True)
class Listing:
    """MIDI inputs.

    Attributes:
        api: name of the backend: "alsa", "jack", "core" or "winmm".
        ports: names of the inputs; their indices are their numbers.
        refused: backends tried before, by name, and why they do not work.
    """

    api: str
    ports: tuple[str, ...]
    refused: dict[str, str]


def list_ports(api: str | None = None) -> Listing:
    """List the MIDI inputs that exist.

    Args:
        api: name of the backend, as for `MidiControl`.

    Raises:
        ConfigError: if python-rtmidi is missing, or no backend works.
    """
    process = _start(
        {"list": True, "port": None, "api": _api(api), "look_s": 0.0, "ring": midi_process.RING}
    )
    try:
        out, _ = process.communicate(timeout=LIST_SECONDS)
    except subprocess.TimeoutExpired as error:
        process.kill()
        process.communicate()
        raise ConfigError(
            f"the MIDI system has not answered for {LIST_SECONDS:g} seconds; restart it (JACK: its "
            "server), or choose another with --api"
        ) from error
    event: Event = json.loads(out.splitlines()[-1]) if out.strip() else {"event": "error"}
    if event["event"] == "ports":
        return Listing(event["api"], tuple(event["ports"]), _plain_reasons(event["refused"]))
    if event["event"] == "missing":
        raise _missing(event["reason"])
    if event["event"] == "no api":
        raise ConfigError(no_api_text(event["refused"]))
    raise ConfigError(f"MIDI ports cannot be listed: {event.get('text', 'no answer')}")


class Ports:
    """Listens to inputs, in a thread and a process of its own, until closed.

    Args:
        port: port to listen to, as for `MidiControl`.
        api: name of the backend, as for `MidiControl`.
        on_message: callback for each message, (port, bytes), in a thread of this class.
        report: callback for a line of text for people; same thread.
        on_change: callback for the name of a port that was opened or has gone; same thread.
        on_look: callback without arguments, a few times a second; same thread.
        look_s: seconds between searches for ports.
        ring: messages of a port that are kept until they are read.

    Raises:
        ConfigError: if python-rtmidi is missing, or an argument is invalid.
    """

    def __init__(
        self,
        port: Port,
        api: str | None,
        on_message: Callable[[str, bytes], None],
        report: Callable[[str], None],
        on_change: Callable[[str], None] = lambda port: None,
        on_look: Callable[[], None] = lambda: None,
        look_s: float = 0.5,
        ring: int = midi_process.RING,
    ) -> None:
        if port == VIRTUAL and sys.platform == "win32":
            raise ConfigError(
                "Windows has no virtual MIDI ports; install a program that provides them "
                "(loopMIDI), and give the name of its port"
            )
        self.api = ""  # the backend in use, "" for none
        self.opened: tuple[str, ...] = ()
        self.messages = self.full = 0  # received; times that messages may have been lost
        self._port = port
        self._on_message, self._on_change, self._on_look = on_message, on_change, on_look
        self._report = report
        self._request: midi_process.Request = {
            "list": False,
            "port": port,
            "api": _api(api),
            "look_s": look_s,
            "ring": ring,
        }
        self._closing = threading.Event()
        self._starting = threading.Lock()  # so that no process outlives `close`
        self._last_report = ""  # newest report of why there is no port
        self._refused: dict[str, str] = {}  # reported reasons why backends do not work
        self._process = _start(self._request)
        self._thread = threading.Thread(target=self._run, name="stemwire-midi", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Close the ports and end the process; takes at most three seconds, mostly far less."""
        with self._starting:
            self._closing.set()
        _end(self._process)
        self._thread.join(1.0)

    def _run(self) -> None:
        pause = 0.0
        while True:
            started = time.monotonic()
            for event in _events(self._process):
                if not self._closing.is_set():
                    self._handle(event)
            status = self._process.wait()
            if self._closing.is_set():
                return
            self._process_ended(status == midi_process.JACK_ENDED)
            if status == midi_process.JACK_ENDED:
                pause = 0.0
            else:
                ran_long = time.monotonic() - started > MAX_PAUSE_SECONDS
                pause = 1.0 if ran_long else min(2 * pause + 1, MAX_PAUSE_SECONDS)
                self._report_change(f"MIDI has failed (status {status}) and is being restarted")
            if not self._restart(pause):
                return

    def _restart(self, pause: float) -> bool:
        """Start the process again after a pause; False if closed in the meantime."""
        while not self._closing.wait(pause):
            try:
                process = _start(self._request)
            except (OSError, ConfigError) as error:
                self._report_change(f"MIDI cannot be restarted: {error}")
                pause = MAX_PAUSE_SECONDS
                continue
            with self._starting:
                if not self._closing.is_set():
                    self._process = process
                    return True
            _end(process)
        return False

    def _handle(self, event: Event) -> None:
        kind = event["event"]
        if kind == "message":
            self.messages += 1
            self._on_message(event["port"], bytes(event["bytes"]))
        elif kind == "look":
            self._on_look()
        elif kind == "full":
            self.full += 1
            if self.full == 1:
                self._report(f"MIDI: {event['port']} sends too fast; some of it is lost")
        elif kind == "opened":
            self._last_report = ""
            self.opened = (*self.opened, event["port"])
            self._on_change(event["port"])
            what = "virtual port" if self._port == VIRTUAL else "port"
            self._report(f"MIDI: listening to {what} {event['port']} ({api_label(self.api)})")
        elif kind == "gone":
            self._port_gone(event["port"])
        elif kind == "api":
            self.api = event["api"]
            refused = _plain_reasons(event["refused"])
            if refused != self._refused:
                self._refused = refused
                for name, reason in self._refused.items():
                    here = api_label(self.api)
                    self._report(f"MIDI uses {here}, not {api_label(name)}: {reason}")
        else:
            self._handle_trouble(kind, event)

    def _handle_trouble(self, kind: str, event: Event) -> None:
        if kind == "no api" and self._last_report == _JACK_ENDED:
            pass  # the newest report says so already
        elif kind == "no api":
            self._report_change(f"{no_api_text(event['refused'])}. Trying again")
        elif kind == "absent":
            self._report_change(_absent_text(self._port, event["ports"]))
        elif kind == "failed":
            self._report(
                f"MIDI: {event['port']} cannot be opened ({event['reason']}); it may be in use by "
                "another program. Trying again"
            )
        elif kind == "unwatched":
            self._report("MIDI: libjack was not found: the end of the JACK server goes unnoticed")
        elif kind == "missing":
            self._report_change(str(_missing(event["reason"])))
        elif kind == "error":
            self._report(f"MIDI has failed; please report this: {event['text']}")

    def _report_change(self, text: str) -> None:
        """Report a line, unless it was the newest report: the process may restart many times."""
        if text != self._last_report:
            self._last_report = text
            self._report(text)

    def _port_gone(self, port: str) -> None:
        self.opened = tuple(name for name in self.opened if name != port)
        self._on_change(port)
        self._report(f"MIDI: {port} has disappeared; looking for it")

    def _process_ended(self, jack_ended: bool) -> None:
        for port in self.opened:
            self._port_gone(port)
        self.api = ""
        if jack_ended:
            self._report_change(_JACK_ENDED)


def no_api_text(refused: dict[str, str]) -> str:
    """Text that says that no backend works, why, and what to do."""
    reasons = "; ".join(
        f"{api_label(name)}: {reason}" for name, reason in _plain_reasons(refused).items()
    )
    remedies = {
        "alsa": "ALSA needs the kernel module snd-seq (sudo modprobe snd-seq)",
        "jack": "JACK needs a running server",
    }
    what = [remedies[name] for name in refused if name in remedies]
    return f"MIDI is unavailable ({reasons})" + (f"; {', '.join(what)}" if what else "")


def _plain_reasons(reasons: dict[str, str]) -> dict[str, str]:
    """RtMidi's error texts without the names of its functions."""
    return {name: re.sub(r"^\w+::\w+: ", "", text).rstrip(".") for name, text in reasons.items()}


def _absent_text(port: Port, existing: list[str]) -> str:
    names = ", ".join(existing) if existing else "none"
    what = "there is no MIDI input" if port is None else f"there is no MIDI input {port!r}"
    return f"{what} (available: {names}); it is opened as soon as it appears"


def api_label(api: str) -> str:
    """Label of a backend for people."""
    return APIS.get(api, api)


def _missing(reason: str) -> ConfigError:
    return ConfigError(f"MIDI needs python-rtmidi ({reason}): pip install 'stemwire[live]'")


def _api(name: str | None) -> str | None:
    name = name or os.environ.get(API_VARIABLE) or None
    if name is not None and name not in APIS:
        raise ConfigError(f"MIDI backend {name!r} is unknown; use one of {', '.join(APIS)}")
    return name


def _start(request: midi_process.Request) -> subprocess.Popen[bytes]:
    """Start the process that owns the ports."""
    if find_spec("rtmidi") is None:
        raise _missing("not installed")
    # By its path: as a module it would import all of stemwire, and with it NumPy. -P, so that the
    # modules beside it do not shadow installed ones.
    process = subprocess.Popen(
        [sys.executable, "-P", midi_process.__file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
    )
    assert process.stdin is not None
    with contextlib.suppress(OSError):  # it has ended already, and its status will say so
        process.stdin.write(json.dumps(request).encode() + b"\n")
        process.stdin.flush()
    return process


def _events(process: subprocess.Popen[bytes]) -> Iterator[Event]:
    assert process.stdout is not None
    for line in process.stdout:
        if line.endswith(b"\n"):  # otherwise the end of the process has cut it off
            yield json.loads(line)


def _end(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None and process.stdout is not None
    with contextlib.suppress(OSError):  # it has ended already
        process.stdin.close()
    try:
        process.wait(2.0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
