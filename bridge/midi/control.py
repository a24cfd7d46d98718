"""Steering a session by MIDI control surfaces.

    control surface ─ MIDI ─► process.py ─ pipe ─► thread of Ports ─► Steerable

`MidiControl` never waits for MIDI where that could delay audio: the inputs belong to a separate
process (`process.py` says why), and one thread here reads its messages, decodes them
(`messages.py`), looks up their targets (`map.py`) and steers.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from stemwire.bridge.midi.files import load_mapping, save_mapping
from stemwire.bridge.midi.map import Binding, Mapping, Mode
from stemwire.bridge.midi.messages import Source
from stemwire.bridge.midi.ports import Listing, Port, Ports, list_ports
from stemwire.errors import StemwireError
from stemwire.realtime.live.status import Steerable

__all__ = [
    "Binding",
    "Listing",
    "Mapping",
    "MidiControl",
    "Source",
    "list_ports",
    "load_mapping",
    "save_mapping",
]


class MidiControl:
    """A control surface that steers a session, until closed; a context manager.

    Args:
        steered: session to steer.
        mapping: bindings of the controls; this object owns it from now on, change it by the methods
            here.
        port: number (of `list_ports`), name or part of a name of an input; "virtual" for a port
            "Stemwire" that other programs send to; None for all inputs. A missing port is waited
            for, and one that disappears is opened again, by its name, when it comes back.
        api: name of the backend, "alsa", "jack", "core" or "winmm"; None for the one that the
            environment variable STEMWIRE_MIDI_API names, or else the first that works, which is
            then reported.
        report: callback for a line of text for people; called in a thread of this object.
        path: file that the map is saved to whenever a control was learnt, None for no file.
        look_s: seconds between searches for ports.

    Raises:
        ConfigError: if python-rtmidi is missing, or `port` or `api` is invalid.
    """

    def __init__(
        self,
        steered: Steerable,
        mapping: Mapping,
        port: Port = None,
        *,
        api: str | None = None,
        report: Callable[[str], None] = lambda text: None,
        path: Path | None = None,
        look_s: float = 0.5,
    ) -> None:
        self._steered, self._mapping, self._path = steered, mapping, path
        self._report = report
        self._lock = threading.Lock()  # of the mapping; held for microseconds
        self._was_learning: str | None = None
        self.learnt = False  # whether the map has been changed
        self._ports = Ports(
            port, api, self._receive, report, self._forget_port, self._check_learning, look_s=look_s
        )

    def __enter__(self) -> MidiControl:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the ports; nothing is steered any more."""
        self._ports.close()

    @property
    def ports(self) -> tuple[str, ...]:
        """Names of the open inputs."""
        return self._ports.opened

    @property
    def api(self) -> str:
        """Name of the backend in use; "" while there is none."""
        return self._ports.api

    @property
    def messages(self) -> int:
        """Number of messages received."""
        return self._ports.messages

    @property
    def full(self) -> int:
        """Number of times that messages may have been lost because too many came at once."""
        return self._ports.full

    @property
    def mapping(self) -> Mapping:
        """A copy of the current bindings."""
        with self._lock:
            return Mapping(self._mapping.bindings)

    def learn(self, target: str, mode: Mode = "toggle", seconds: float = 15.0) -> None:
        """Bind the next suitable control that moves to a target; see `Mapping.learn`.

        Raises:
            ConfigError: for an unknown target, or a mode it cannot have.
        """
        with self._lock:
            self._mapping.learn(target, time.monotonic(), mode, seconds)
            self._was_learning = target

    def cancel(self) -> None:
        """End learning."""
        with self._lock:
            self._mapping.cancel()
            self._was_learning = None

    @property
    def learning(self) -> str | None:
        """The target that waits for a control, or None."""
        with self._lock:
            return self._mapping.learning(time.monotonic())

    def _receive(self, port: str, message: bytes) -> None:
        with self._lock:
            before = self._mapping.bindings
            try:
                lines = self._mapping.receive(port, message, self._steered, time.monotonic())
            except StemwireError as error:  # such as a preset that cannot be loaded
                lines = [str(error)]
            learnt = self._mapping.bindings != before
            if learnt:
                self.learnt, self._was_learning = True, None
        for text in lines:
            self._report(f"MIDI: {text}")
        if learnt and self._path is not None:
            try:
                save_mapping(self.mapping, self._path)
            except StemwireError as error:
                self._report(str(error))

    def _forget_port(self, port: str) -> None:
        with self._lock:
            self._mapping.forget(port)

    def _check_learning(self) -> None:
        with self._lock:
            target = self._was_learning
            over = target is not None and self._mapping.learning(time.monotonic()) is None
            if over:
                self._was_learning = None
        if over:
            self._report(f"MIDI: no control was moved for {target}; its bindings are unchanged")
