"""A live session: music in from a sound card, stems mixed, sound out. See `LiveSession`.

By default the session plays in a process of its own, so that nothing the calling program does with
its interpreter (a screen, a garbage collection, an endless loop) can make it late. The two
processes share a `Panel` in shared memory, and a pipe for rare messages.
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
from stemwire.realtime.live.player import Player
from stemwire.realtime.live.priority import OTHERS, raise_priority
from stemwire.realtime.live.signal_masks import SIGNALS, signals_blocked
from stemwire.realtime.live.status import Status

START_S = 30.0  # time in which the devices must start to play
STOP_S = 5.0
MAX_MESSAGES = 100  # kept until they are fetched


class LiveSession:
    """Live separation from a sound card to a sound card; a context manager.

        with stemwire.LiveSession(vocals=-60) as session:
            input("Enter ends it")

    Args:
        input: input device: number, name or part of a name; None is the default.
        output: output device, likewise.
        preset: name or folder of the preset.
        vocals: level of the vocals, dB; -inf (karaoke) is off.
        instrumental: level of the instrumental, dB.
        microphone: level of the microphone, dB.
        sample_rate: sample rate in Hz; None is the output's own.
        block_size: samples of a block.
        margin: samples of margin for the separation, at least a block; None is as many as make the
            latency two hops and a block.
        channels: channels of the input with the music, 1 or 2 of them, counted from 1.
        microphone_channels: channels of the input with the singer; may be empty.
        output_channels: channels of the output to play to.
        effects: chains of effects by `vocals`, `instrumental` and `microphone`, as text or, with
            `process=False`, as plugins of pedalboard.
        record: folder to record stems and mix to; "" is none.
        backend: `auto`, `native`, `onnx`, `torch` or `cuda`.
        freewheel: whether the audio callback waits for the separation, for sound servers that run
            faster than real time.
        process: whether to play in a process of its own.

    Raises:
        ConfigError: for invalid arguments.
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
            input=input,
            output=output,
            preset=str(preset),
            backend=backend,
            sample_rate=sample_rate,
            block_size=block_size,
            margin=margin,
            music=tuple(channels),
            microphone=tuple(microphone_channels),
            outputs=tuple(output_channels),
            effects=dict(effects or {}),
            record=str(record),
            freewheel=freewheel,
        )
        find_preset(preset)
        if process and not all(isinstance(chain, str) for chain in self.config.effects.values()):
            raise ConfigError(
                "effects that are objects cannot be sent to another process; write them as text, "
                "or play in this process with process=False"
            )
        self._presets = tuple(each.name for each in shipped_presets())  # their files are read once
        self._own_process = process
        self._panel = Panel(shared=process)
        self._panel.steer("vocals", vocals)
        self._panel.steer("instrumental", instrumental)
        self._panel.steer("microphone", microphone)
        self._description: dict[str, Any] = {}
        self._messages: deque[str] = deque(maxlen=MAX_MESSAGES)
        self._failure = ""
        self._started, self._ended = threading.Event(), threading.Event()
        self._player: _ThreadPlayer | _ProcessPlayer | None = None

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
        """Open the devices and play; returns once sound is being output.

        Raises:
            StemwireError: if the session cannot play.
        """
        if self._player is not None or self._ended.is_set():
            raise ConfigError("a session can be started only once; create another")
        try:
            with signals_blocked():
                self._player = (_ProcessPlayer if self._own_process else _ThreadPlayer)(
                    self.config, self._panel, self._receive
                )
            if not self._started.wait(START_S):
                raise AudioDeviceError(
                    f"the devices did not start to play within {START_S:g} s; unplug them and plug "
                    "them in again, or choose others (see `stemwire devices`)"
                )
            self._raise_failure()
        except BaseException:  # Ctrl-C too
            self.stop()
            raise

    def _raise_failure(self) -> None:
        """Raise the error that kept the session from playing or ended it, if any."""
        if self._failure:
            name, _, text = self._failure.partition(": ")
            raise getattr(errors, name, StemwireError)(text)

    def stop(self) -> None:
        """Stop playing and close the devices; may be called more than once."""
        if self._player is not None:
            self._player.stop()
            self._player = None
        self._ended.set()
        self._panel.unlink()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until the session has ended; False if it has not within `seconds`.

        Raises:
            StemwireError: the error that ended it, if any.
        """
        ended = self._ended.wait(seconds)
        self._raise_failure()
        return ended

    def steer(self, name: str, value: float) -> None:
        """Set a control: `vocals`, `instrumental`, `microphone`, `output` (dB), `bypass`, `mute`
        (0 or 1), `solo` (0 to 3). Audible after the session's latency and at most 20 ms more.

        Raises:
            ConfigError: for an unknown control or an invalid value.
        """  # noqa: D205
        self._panel.steer(name, value)

    def control(self, name: str) -> float:
        """Value of a control."""
        return self._panel[name]

    def change_preset(self, name: str) -> None:
        """Change to another preset within about two seconds, without a gap.

        Raises:
            ConfigError: if there is no preset of that name.
            CheckpointError: if it is damaged.
        """
        find_preset(name)
        self._send("preset", name)

    def record(self, folder: str | Path | None) -> None:
        """Start recording stems and mix to a folder; None stops it."""
        self._send("record", str(folder or ""))

    def messages(self) -> list[str]:
        """Messages since the last call, one line each, oldest first."""
        lines = []
        while self._messages:
            lines.append(self._messages.popleft())
        return lines

    def tell(self, message: str) -> None:
        """Add a line to `messages`."""
        self._messages.append(message)

    def status(self) -> Status:
        """Present status."""
        panel, description = self._panel, self._description
        rate = description.get("sample_rate", self.config.sample_rate or 44_100)
        return Status(
            state="stopped" if self._ended.is_set() else description.get("state", "starting"),
            preset=description.get("preset", self.config.preset),
            presets=self._presets,
            input=description.get("input", ""),
            output=description.get("output", ""),
            sample_rate=rate,
            block_size=self.config.block_size,
            seconds=panel["samples"] / rate,
            controls={name: panel[name] for name in CONTROLS},
            delays=description.get("delays", {}),
            device_delay=description.get("device_delay", 0.0),
            microphone_delay=description.get("microphone_delay", 0),
            levels={
                name: (gain_to_db(panel[f"{name}_peak"]), gain_to_db(panel[f"{name}_rms"]))
                for name in LEVELS
            },
            counters={name: int(panel[name]) for name in COUNTERS},
            drift_ppm=panel["drift_ppm"],
            hop_ms=panel.hop_times.summary(),
            budget_ms=description.get("budget_ms", 0.0),
            cpu_share=panel["cpu_share"],
            memory_bytes=int(panel["memory_bytes"]),
            recording=description.get("recording", ""),
        )

    def _send(self, what: str, value: str) -> None:
        if self._player is None:
            raise AudioDeviceError("the session is not playing; enter it first")
        self._player.send(what, value)

    def _receive(self, kind: str, content: Any) -> None:
        """Handle a message of the player; any thread."""
        if kind == "description":
            self._description = content
            if content["state"] == "playing":
                self._started.set()
            elif content["state"] == "stopped":
                self._ended.set()
        elif kind == "message":
            self._messages.append(content)
        elif kind == "failed":
            self._failure = content
            self._started.set()
            self._ended.set()


class _ThreadPlayer:
    """Player in a thread of this process."""

    def __init__(self, config: LiveConfig, panel: Panel, receive: Any) -> None:
        self._player = Player(config, panel, receive)
        self._thread = threading.Thread(
            target=self._player.run, name="stemwire-player", daemon=True
        )
        self._thread.start()

    def send(self, what: str, value: str) -> None:
        self._player.commands.put((what, value))

    def stop(self) -> None:
        self.send("stop", "")
        self._thread.join(STOP_S)


class _ProcessPlayer:
    """Player in a process of its own."""

    def __init__(self, config: LiveConfig, panel: Panel, receive: Any) -> None:
        assert panel.memory is not None
        context = multiprocessing.get_context("spawn")
        self._pipe, child_end = context.Pipe()
        self._receive, self._stopping = receive, False
        self._process = context.Process(
            target=_run_player,
            args=(config, panel.memory.name, child_end),
            daemon=True,
            name="stemwire",
        )
        self._process.start()
        child_end.close()
        self._listener = threading.Thread(
            target=self._listen, name="stemwire-listener", daemon=True
        )
        self._listener.start()

    def send(self, what: str, value: str) -> None:
        with contextlib.suppress(OSError):  # it has ended; the listener reports that
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
                self._receive(*self._pipe.recv())
        self._process.join(1.0)
        if not self._stopping and self._process.exitcode:
            self._receive(
                "failed",
                f"AudioDeviceError: the player ended with status {self._process.exitcode}, "
                "perhaps because of a driver or a plugin; remove effects (--effect STEM= for saved "
                "ones) or choose other devices",
            )


def _run_player(config: LiveConfig, panel_name: str, pipe: Connection) -> None:
    """Main function of the player's process."""
    for number in SIGNALS:  # the calling program decides
        signal.signal(number, signal.SIG_IGN)
    panel = Panel(panel_name)

    def tell(kind: str, content: Any) -> None:
        with contextlib.suppress(OSError):
            pipe.send((kind, content))

    player = Player(config, panel, tell, own_process=True)

    def listen() -> None:
        raise_priority(OTHERS)
        try:
            while True:
                player.commands.put(pipe.recv())
        except (EOFError, OSError):  # the calling program has ended
            player.commands.put(("stop", ""))

    threading.Thread(target=listen, name="stemwire-listener", daemon=True).start()
    try:
        player.run()
    finally:
        pipe.close()
