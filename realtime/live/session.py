"""A live session: music in from a sound card, stems mixed, sound out. See `LiveSession`.

The session plays in a process of its own, unless told otherwise: whatever the program around it
does with the interpreter (a screen, a garbage collection, a loop without end) cannot make it late.
The two talk through a `Panel` in shared memory, and a pipe for what is rare.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from stemwire import errors
from stemwire.errors import AudioDeviceError, ConfigError, StemwireError
from stemwire.model.preset import find_preset, shipped_presets
from stemwire.realtime.levels import OFF, gain_to_db
from stemwire.realtime.live.config import LiveConfig
from stemwire.realtime.live.panel import CONTROLS, COUNTERS, LEVELS, Panel
from stemwire.realtime.live.player import Host
from stemwire.realtime.live.priority import OTHERS, raise_priority
from stemwire.realtime.live.signal_masks import SIGNALS, signals_held
from stemwire.realtime.live.status import Status

START_S = 30.0  # a device that has not begun by then never will
STOP_S = 5.0
MESSAGES = 100  # kept until somebody asks


class LiveSession:
    """Music through a separator, live; a context manager.

        with stemwire.LiveSession(vocals=-60) as session:
            input("Enter ends it")

    Args:
        input: device that music comes from: number, name or part of one; None is the default.
        output: device that is heard.
        preset: name or folder.
        vocals: level of the vocals, dB; -inf (karaoke) is off.
        instrumental: level of the instrumental, dB.
        microphone: level of the microphone, dB.
        process: play in a process of its own. In this one (False), effects may be plugins of
            pedalboard rather than text.
        **more: fields of `LiveConfig`: `sample_rate`, `block_size`, `microphone_channels` …

    Raises:
        ConfigError: for arguments that cannot work.
        CheckpointError, BackendError: for a preset or backend that cannot be loaded.
        AudioDeviceError: on entering, if the devices cannot be opened.
    """

    def __init__(
        self,
        input: int | str | None = None,
        output: int | str | None = None,
        preset: str | Path = "standard",
        *,
        vocals: float = OFF,
        instrumental: float = 0.0,
        microphone: float = 0.0,
        sample_rate: int | None = None,
        block_size: int = 512,
        margin: int | None = None,
        channels: Sequence[int] = (1, 2),
        microphone_channels: Sequence[int] = (),
        output_channels: Sequence[int] = (1, 2),
        effects: Mapping[str, Any] | None = None,
        record: str | Path = "",
        backend: str = "auto",
        freewheel: bool = False,
        process: bool = True,
    ) -> None:
        self.config = LiveConfig(
            input=input, output=output, preset=str(preset), backend=backend,
            sample_rate=sample_rate, block_size=block_size, margin=margin,
            music=tuple(channels), microphone=tuple(microphone_channels),
            outputs=tuple(output_channels), effects=dict(effects or {}), record=str(record),
            freewheel=freewheel,
        )  # fmt: skip
        find_preset(preset)
        if process and not all(isinstance(chain, str) for chain in self.config.effects.values()):
            raise ConfigError(
                "effects that are objects cannot go to another process; write them as text, or "
                "play in this one with process=False"
            )
        self._presets = tuple(each.name for each in shipped_presets())  # their files are read once
        self._process_wanted = process
        self._panel = Panel(shared=process)
        for name, value in (
            ("vocals", vocals), ("instrumental", instrumental), ("microphone", microphone)
        ):  # fmt: skip
            self._panel.steer(name, value)
        self._description: dict[str, Any] = {}
        self._messages: deque[str] = deque(maxlen=MESSAGES)
        self._failed = ""
        self._began, self._ended = threading.Event(), threading.Event()
        self._half: _Thread | _Process | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Open the devices and play; returns when sound comes out.

        Raises:
            StemwireError: if that is not possible.
        """
        if self._half is not None or self._ended.is_set():
            raise ConfigError("a session plays once; make another")
        try:
            with signals_held():
                self._half = (_Process if self._process_wanted else _Thread)(
                    self.config, self._panel, self._told
                )
            if not self._began.wait(START_S):
                raise AudioDeviceError(
                    f"the devices have not begun to play within {START_S:g} s; unplug and plug "
                    "them in again, or choose others (see `stemwire devices`)"
                )
            self._check()
        except BaseException:  # Ctrl-C too
            self.stop()
            raise

    def _check(self) -> None:
        """Raise what could not be played, or what ended it, if anything."""
        if self._failed:
            name, _, text = self._failed.partition(": ")
            raise getattr(errors, name, StemwireError)(text)

    def stop(self) -> None:
        """End the sound and let go of the devices; may be called twice."""
        if self._half is not None:
            self._half.stop()
            self._half = None
        self._ended.set()
        self._panel.unlink()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until the session has ended; False if it has not within `seconds`.

        Raises:
            StemwireError: what ended it, if nobody stopped it.
        """
        ended = self._ended.wait(seconds)
        self._check()
        return ended

    def steer(self, name: str, value: float) -> None:
        """Set a control: `vocals`, `instrumental`, `microphone`, `output` (dB), `bypass`, `mute`
        (0 or 1), `solo` (0 to 3). Heard within the session's delay and 20 ms.

        Raises:
            ConfigError: for an unknown control or a value that cannot be.
        """  # noqa: D205
        self._panel.steer(name, value)

    def control(self, name: str) -> float:
        """What a control is set to."""
        return self._panel[name]

    def change_preset(self, name: str) -> None:
        """Go over to another preset within about two seconds, without a gap.

        Raises:
            ConfigError: if there is none of that name.
            CheckpointError: if it is damaged.
        """
        find_preset(name)
        self._send("preset", name)

    def record(self, folder: str | Path | None) -> None:
        """Record stems and mix to a folder from now on; None ends that."""
        self._send("record", str(folder or ""))

    def messages(self) -> list[str]:
        """What has happened since the last call, a line each, oldest first."""
        said = []
        while self._messages:
            said.append(self._messages.popleft())
        return said

    def tell(self, message: str) -> None:
        """Add a line to `messages`, for those who watch the session."""
        self._messages.append(message)

    def status(self) -> Status:
        """How things stand."""
        panel, told = self._panel, self._description
        rate = told.get("sample_rate", self.config.sample_rate or 44_100)
        return Status(
            state="stopped" if self._ended.is_set() else told.get("state", "starting"),
            preset=told.get("preset", self.config.preset),
            presets=self._presets,
            input=told.get("input", ""),
            output=told.get("output", ""),
            sample_rate=rate,
            block_size=self.config.block_size,
            seconds=panel["samples"] / rate,
            controls={name: panel[name] for name in CONTROLS},
            delays=told.get("delays", {}),
            device_delay=told.get("device_delay", 0.0),
            microphone_delay=told.get("microphone_delay", 0),
            levels={
                name: (gain_to_db(panel[f"{name}_peak"]), gain_to_db(panel[f"{name}_rms"]))
                for name in LEVELS
            },
            counters={name: int(panel[name]) for name in COUNTERS},
            drift_ppm=panel["drift_ppm"],
            hop_ms=panel.hop_times.summary(),
            budget_ms=told.get("budget_ms", 0.0),
            cpu_share=panel["cpu_share"],
            memory_bytes=int(panel["memory_bytes"]),
            recording=told.get("recording", ""),
        )

    def _send(self, what: str, value: str) -> None:
        if self._half is None:
            raise AudioDeviceError("the session does not play; enter it first")
        self._half.send(what, value)

    def _told(self, kind: str, content: Any) -> None:
        """From the playing half."""
        if kind == "description":
            self._description = content
            if content["state"] == "playing":
                self._began.set()
            elif content["state"] == "stopped":
                self._ended.set()
        elif kind == "message":
            self._messages.append(content)
        elif kind == "failed":
            self._failed = content
            self._began.set()
            self._ended.set()


class _Thread:
    """The playing half in a thread of this process."""

    def __init__(self, config: LiveConfig, panel: Panel, told: Any) -> None:
        self._host = Host(config, panel, told)
        self._thread = threading.Thread(target=self._host.run, name="stemwire-host", daemon=True)
        self._thread.start()

    def send(self, what: str, value: str) -> None:
        self._host.commands.put((what, value))

    def stop(self) -> None:
        self.send("stop", "")
        self._thread.join(STOP_S)


class _Process:
    """The playing half in a process of its own."""

    def __init__(self, config: LiveConfig, panel: Panel, told: Any) -> None:
        assert panel.memory is not None
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._told, self._stopping = told, False
        self._process = context.Process(
            target=_play, args=(config, panel.memory.name, theirs), daemon=True, name="stemwire"
        )
        self._process.start()
        theirs.close()
        self._listener = threading.Thread(target=self._listen, name="stemwire-ear", daemon=True)
        self._listener.start()

    def send(self, what: str, value: str) -> None:
        with contextlib.suppress(OSError):  # it has ended; the listener tells
            self._pipe.send((what, value))

    def stop(self) -> None:
        self._stopping = True
        self.send("stop", "")
        self._process.join(STOP_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._listener.join(STOP_S)
        self._pipe.close()

    def _listen(self) -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                self._told(*self._pipe.recv())
        self._process.join(1.0)
        if not self._stopping and self._process.exitcode:
            self._told(
                "failed",
                f"AudioDeviceError: the playing process ended with {self._process.exitcode}, by a "
                "driver or a plugin perhaps; leave out effects (--effect STEM= for those that are "
                "kept), or choose other devices",
            )


def _play(config: LiveConfig, panel_name: str, pipe: Connection) -> None:
    """Main function of the playing process."""
    for number in SIGNALS:  # the program around it decides
        signal.signal(number, signal.SIG_IGN)
    panel = Panel(panel_name)

    def tell(kind: str, content: Any) -> None:
        with contextlib.suppress(OSError):
            pipe.send((kind, content))

    host = Host(config, panel, tell, alone=True)

    def listen() -> None:
        raise_priority(OTHERS)
        try:
            while True:
                host.commands.put(pipe.recv())
        except (EOFError, OSError):  # the program has gone
            host.commands.put(("stop", ""))

    threading.Thread(target=listen, name="stemwire-ear", daemon=True).start()
    try:
        host.run()
    finally:
        pipe.close()
