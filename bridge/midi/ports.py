"""MIDI inputs: which there are, and listening to them; kept open through unplugging and restarts.

The inputs themselves belong to another process, `midi_process`, which says why. Here it is started,
started again should it end, and what it tells is made into words.
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
APIS = {  # RtMidi's names -> what people call them
    "alsa": "ALSA",
    "jack": "JACK",
    "core": "CoreMIDI",
    "winmm": "Windows MIDI",
}
VIRTUAL = "virtual"
LIST_SECONDS = 15.0  # that naming the ports may take
_JACK_ENDED = "MIDI: the JACK server has ended; looking for it"
LONGEST_PAUSE = 10.0  # seconds between starts of a process that keeps ending

Event = dict[str, Any]
Port = int | str | None


@dataclass(frozen=True)
class Listing:
    """MIDI inputs.

    Attributes:
        api: the backend that was asked: "alsa", "jack", "core" or "winmm".
        ports: names of the inputs; their places are their numbers.
        refused: backends tried before, and why they don't work.
    """

    api: str
    ports: tuple[str, ...]
    refused: dict[str, str]


def list_ports(api: str | None = None) -> Listing:
    """Name the MIDI inputs that are there.

    Args:
        api: as of `MidiControl`.

    Raises:
        ConfigError: if python-rtmidi is missing, or there is no MIDI to be had.
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
        return Listing(event["api"], tuple(event["ports"]), _plain(event["refused"]))
    if event["event"] == "missing":
        raise _missing(event["reason"])
    if event["event"] == "no api":
        raise ConfigError(no_api_text(event["refused"]))
    raise ConfigError(f"MIDI ports cannot be listed: {event.get('text', 'no answer')}")


class Ports:
    """Listens to inputs, in a thread and a process of its own, until closed.

    Args:
        port: as of `MidiControl`.
        api: as of `MidiControl`.
        on_message: gets (port, bytes) of each message, in a thread of this class.
        on_change: gets a port's name when it has been opened or has gone; same thread.
        on_look: called a few times a second; same thread.
        report: gets what is to be told to people, a line each; same thread.
        look_s: seconds between looking for ports.
        ring: messages of a port that are kept until they are read.

    Raises:
        ConfigError: if python-rtmidi is missing, or an argument cannot be.
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
                "Windows has no virtual MIDI ports; install a program that makes them (loopMIDI), "
                "and give the name of its port"
            )
        self.api = ""  # the backend in use, when there is one
        self.opened: tuple[str, ...] = ()
        self.messages = self.full = 0  # received; times that some may have been lost
        self._port = port
        self._on_message, self._on_change, self._on_look = on_message, on_change, on_look
        self._report = report
        self._request: midi_process.Request = {
            "list": False, "port": port, "api": _api(api), "look_s": look_s, "ring": ring,
        }  # fmt: skip
        self._closing = threading.Event()
        self._starting = threading.Lock()  # so that no process is started and forgotten
        self._told = ""  # the last word on why there is no port
        self._refused: dict[str, str] = {}  # what was told of backends that don't work
        self._process = _start(self._request)
        self._thread = threading.Thread(target=self._run, name="stemwire-midi", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Close the ports and end the process; returns within three seconds, mostly at once."""
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
            self._all_gone(status == midi_process.JACK_ENDED)
            if status == midi_process.JACK_ENDED:
                pause = 0.0
            else:
                pause = 1.0 if time.monotonic() - started > LONGEST_PAUSE else min(
                    2 * pause + 1, LONGEST_PAUSE)  # fmt: skip
                self._tell_again(f"MIDI has failed (status {status}) and is started again")
            if not self._start_again(pause):
                return

    def _start_again(self, pause: float) -> bool:
        """Start the process after a pause; False if closed meanwhile."""
        while not self._closing.wait(pause):
            try:
                process = _start(self._request)
            except (OSError, ConfigError) as error:
                self._tell_again(f"MIDI cannot be started again: {error}")
                pause = LONGEST_PAUSE
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
            self._told = ""
            self.opened = (*self.opened, event["port"])
            self._on_change(event["port"])
            what = "virtual port" if self._port == VIRTUAL else "port"
            self._report(f"MIDI: listening to {what} {event['port']} ({called(self.api)})")
        elif kind == "gone":
            self._gone(event["port"])
        elif kind == "api":
            self.api = event["api"]
            refused = _plain(event["refused"])
            if refused != self._refused:
                self._refused = refused
                for name, reason in self._refused.items():
                    here = called(self.api)
                    self._report(f"MIDI goes through {here}, not {called(name)}: {reason}")
        else:
            self._handle_trouble(kind, event)

    def _handle_trouble(self, kind: str, event: Event) -> None:
        if kind == "no api" and self._told == _JACK_ENDED:
            pass  # that says it
        elif kind == "no api":
            self._tell_again(f"{no_api_text(event['refused'])}. Looking for it")
        elif kind == "absent":
            self._tell_again(_absent_text(self._port, event["ports"]))
        elif kind == "failed":
            self._report(
                f"MIDI: {event['port']} cannot be opened ({event['reason']}); it may be in use by "
                "another program. Trying again"
            )
        elif kind == "unwatched":
            self._report("MIDI: libjack is not found, so an end of the JACK server goes unnoticed")
        elif kind == "missing":
            self._tell_again(str(_missing(event["reason"])))
        elif kind == "error":
            self._report(f"MIDI has failed; please report this: {event['text']}")

    def _tell_again(self, text: str) -> None:
        """Tell people, but not what they heard last: the process may start many times."""
        if text != self._told:
            self._told = text
            self._report(text)

    def _gone(self, port: str) -> None:
        self.opened = tuple(name for name in self.opened if name != port)
        self._on_change(port)
        self._report(f"MIDI: {port} has gone; looking for it")

    def _all_gone(self, with_jack: bool) -> None:
        for port in self.opened:
            self._gone(port)
        self.api = ""
        if with_jack:
            self._tell_again(_JACK_ENDED)


def no_api_text(refused: dict[str, str]) -> str:
    """That no backend works, why, and what to do."""
    reasons = "; ".join(f"{called(name)}: {reason}" for name, reason in _plain(refused).items())
    remedies = {
        "alsa": "ALSA needs the kernel module snd-seq (sudo modprobe snd-seq)",
        "jack": "JACK needs a running server",
    }
    what = [remedies[name] for name in refused if name in remedies]
    return f"there is no MIDI here ({reasons})" + (f"; {', '.join(what)}" if what else "")


def _plain(reasons: dict[str, str]) -> dict[str, str]:
    """RtMidi's words without the names of its functions."""
    return {name: re.sub(r"^\w+::\w+: ", "", text).rstrip(".") for name, text in reasons.items()}


def _absent_text(port: Port, there: list[str]) -> str:
    names = ", ".join(there) if there else "none"
    what = "no MIDI input is there" if port is None else f"MIDI input {port!r} is not there"
    return f"{what} (there are: {names}); it is opened when it comes"


def called(api: str) -> str:
    """What people call a backend."""
    return APIS.get(api, api)


def _missing(reason: str) -> ConfigError:
    return ConfigError(f"MIDI needs python-rtmidi ({reason}): pip install 'stemwire[live]'")


def _api(name: str | None) -> str | None:
    name = name or os.environ.get(API_VARIABLE) or None
    if name is not None and name not in APIS:
        raise ConfigError(f"MIDI backend {name!r} is unknown; use one of {', '.join(APIS)}")
    return name


def _start(request: midi_process.Request) -> subprocess.Popen[bytes]:
    """Start the process of `midi_process`."""
    if find_spec("rtmidi") is None:
        raise _missing("not installed")
    # By its path: as a module it would import all of stemwire, and with it NumPy. -P: so that it
    # doesn't find our modules as if they were installed ones.
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
        if line.endswith(b"\n"):  # else its end cut it
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
