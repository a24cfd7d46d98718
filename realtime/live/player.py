"""The player of a live session: devices, streams and the engine, in either process.

`Player.run` runs in one thread until a "stop" command. It opens the devices, watches them, reopens
them when they have disappeared, and does what must not be done in the audio callback: loading
presets, starting and stopping recordings, reporting what has happened.
"""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stemwire.errors import AudioDeviceError, StemwireError
from stemwire.model.preset import find_preset
from stemwire.realtime.backends import load_backend
from stemwire.realtime.effects import Chain, parse_chain
from stemwire.realtime.levels import STEMS
from stemwire.realtime.live.callbacks import AudioCallbacks, ProcessUsage
from stemwire.realtime.live.config import DEFAULT_MICROPHONE_EFFECTS, LiveConfig
from stemwire.realtime.live.devices import (
    Device,
    close_stream,
    find_device,
    one_clock,
    plausible_latency,
    rescan,
    sounddevice,
)
from stemwire.realtime.live.drift import DriftCorrector
from stemwire.realtime.live.engine import LiveEngine
from stemwire.realtime.live.panel import LEVELS, Panel
from stemwire.realtime.live.priority import OTHERS, WORKER, RealtimeInterpreter, raise_priority
from stemwire.realtime.live.recorder import Recorder
from stemwire.realtime.streaming import StreamingSeparator

POLL_S = 0.1  # between checks of devices and commands
RETRY_S = 1.0  # between attempts to reopen lost devices
STALL_S = 2.0  # without a callback a device counts as lost
JOIN_S = 1.0  # time that the worker's last block may take


class ChangeTimer:
    """Time since a number last changed, such as the count of a device's callbacks."""

    def __init__(self) -> None:
        self._last_number, self._changed_at = -1.0, time.monotonic()

    def seconds_unchanged(self, number: float) -> float:
        """Seconds since it last changed; NaN always counts as a change."""
        now = time.monotonic()
        if number != self._last_number:
            self._last_number, self._changed_at = number, now
        return now - self._changed_at


class Player:
    """Plays until a "stop" command.

    Args:
        config: settings of the session.
        panel: controls, meters and counters.
        send: called with `(kind, content)`: ("description", dict) when a part of `Status` that is
            not in the panel has changed, ("message", str) for users, ("failed", str) if the session
            cannot start.
        own_process: whether it has the process to itself.
    """

    def __init__(
        self,
        config: LiveConfig,
        panel: Panel,
        send: Callable[[str, Any], None],
        own_process: bool = False,
    ) -> None:
        self.config, self.panel, self._send, self._own_process = config, panel, send, own_process
        self.commands: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
        self._engine: LiveEngine | None = None
        self._streams: list[Any] = []
        self._corrector: DriftCorrector | None = None
        self._recorder: Recorder | None = None
        self._state, self._recording = "starting", ""
        self._names = ("", "")
        self._device_delay = 0.0
        self._described_latency = 0
        self._interpreter: RealtimeInterpreter | None = None
        self._worker: threading.Thread | None = None
        self._loading = threading.Lock()  # presets are loaded one at a time
        self._requested_preset = ""  # newest request
        self._described_gaps = (0, 0)  # under- and overruns of the drift corrector
        self._callback_failure = ""  # set by the callback
        self._reported_problems: set[str] = set()
        self._rate = 0

    # --- life cycle

    def run(self) -> None:
        """Open the devices and play until a ("stop", "") command."""
        try:
            self._open()
            if self.config.record:
                self._record(self.config.record)
            self._watch()
        except StemwireError as error:
            self._send("failed", f"{type(error).__name__}: {error}")
        finally:
            self._close_streams()
            if self._engine is not None:
                self._engine.stop()
                if self._worker is not None:
                    self._worker.join(JOIN_S)  # it uses the panel, whose memory may be freed
                self._record("")
                self._state = "stopped"
                self._send_description()
            if self._interpreter is not None:
                self._interpreter.restore()

    def _watch(self) -> None:
        usage = ProcessUsage()
        while self._handle_command():
            self._update_gauges(usage)
            self._report_problems()
            if lost := self._loss_reason():
                self._reopen(lost)

    def _handle_command(self) -> bool:
        """Wait briefly for a command and execute it; False after "stop"."""
        try:
            what, value = self.commands.get(timeout=POLL_S)
        except queue.Empty:
            return True
        if what == "preset":
            self._prepare(value)
        elif what == "record":
            self._record(value)
        return what != "stop"

    # --- devices

    def _open(self) -> None:
        """Find the devices and start playing.

        Raises:
            AudioDeviceError: if they are missing, busy, or do not support the settings.
            StemwireError: for presets and effects that cannot be loaded.
        """
        config = self.config
        rescan()
        inputs = max((*config.music, *config.microphone))
        source = find_device(config.input, "input", inputs)
        target = find_device(config.output, "output", max(config.outputs))
        rate = self._rate or config.sample_rate or target.sample_rate
        if self._engine is None:
            self._engine = self._build(rate)
            self._rate = rate
            # Before the first callback, for its collection takes long.
            self._interpreter = RealtimeInterpreter(self._own_process)
            if not config.freewheel:
                self._worker = self._engine.start_thread(lambda: raise_priority(WORKER))
                self._raise_priority()
        self._names = (source.name, target.name)
        self._connect(source, target, rate)
        self._state = "playing"
        self._send_description()

    def _build(self, rate: int) -> LiveEngine:
        config, channels = self.config, len(self.config.music)
        chains = {}
        for name in (*STEMS, "microphone"):
            default = DEFAULT_MICROPHONE_EFFECTS if name == "microphone" else ""
            effects = config.effects.get(name, default)
            if name == "microphone" and not config.microphone:
                continue
            plugins = parse_chain(effects) if isinstance(effects, str) else list(effects)
            chains[name] = Chain(plugins, rate, channels, config.block_size)

        def open_separator(name: str) -> StreamingSeparator:
            preset = find_preset(name)
            backend = load_backend(preset, config.backend)
            return StreamingSeparator(backend, preset.config, rate, channels, config.block_size)

        return LiveEngine(
            self.panel,
            open_separator,
            config.preset,
            rate,
            channels,
            config.block_size,
            config.margin,
            chains,
        )

    def _connect(self, source: Device, target: Device, rate: int) -> None:
        sd = sounddevice()
        config = self.config
        assert self._engine is not None
        callbacks = AudioCallbacks(config, self._engine, self._on_callback_failure)
        common = {
            "samplerate": rate,
            "blocksize": config.block_size,
            "dtype": "float32",
            "latency": "low",
        }
        inputs = max((*config.music, *config.microphone))
        try:
            if one_clock(source, target):
                stream = sd.Stream(
                    device=(source.number, target.number),
                    callback=callbacks.duplex,
                    channels=(inputs, max(config.outputs)),
                    **common,
                )
                self._streams = [stream]
                self._device_delay = plausible_latency(sum(stream.latency))
            else:
                self._corrector = callbacks.corrector = DriftCorrector(
                    rate, inputs, config.block_size, config.block_size
                )
                self._described_gaps = (0, 0)
                capture = sd.InputStream(
                    device=source.number, channels=inputs, callback=callbacks.capture, **common
                )
                playback = sd.OutputStream(
                    device=target.number,
                    channels=max(config.outputs),
                    callback=callbacks.playback,
                    **common,
                )
                self._streams = [capture, playback]
                self._device_delay = plausible_latency(capture.latency + playback.latency)
            for stream in self._streams:
                stream.start()
            self._output_timer, self._input_timer = ChangeTimer(), ChangeTimer()
        except (sd.PortAudioError, ValueError) as error:
            self._close_streams()
            raise AudioDeviceError(
                f"{source.name} → {target.name}: cannot be opened at {rate} Hz with {inputs} "
                f"inputs and {max(config.outputs)} outputs ({error}); close other programs that "
                "use it, or choose others or another --rate (see `stemwire devices`)"
            ) from error

    def _close_streams(self) -> None:
        for stream in self._streams:
            try:
                close_stream(stream)
            except Exception as error:  # of a lost device's driver
                self._send("message", f"closing a device: {error}")
        self._streams, self._corrector = [], None

    def _loss_reason(self) -> str:
        """Why the devices must be reopened, or ""."""
        if self._callback_failure:
            failure, self._callback_failure = self._callback_failure, ""
            return failure
        if any(not stream.active for stream in self._streams):
            return "has stopped"
        output_idle = self._output_timer.seconds_unchanged(self.panel["blocks"])
        input_idle = self._input_timer.seconds_unchanged(
            self._corrector.captured if self._corrector else math.nan
        )
        if max(output_idle, input_idle) > STALL_S and not self.config.freewheel:
            verb = "requested" if output_idle > input_idle else "delivered"
            return f"has {verb} no audio for {STALL_S:g} s"
        return ""

    def _reopen(self, why: str) -> None:
        """Retry until the devices are back or the session ends."""
        names = " → ".join(dict.fromkeys(self._names))
        self._send("message", f"{names} {why}; looking for it again")
        self._state = "reconnecting"
        for level in LEVELS:  # no callback updates them any more
            self.panel[f"{level}_peak"] = self.panel[f"{level}_rms"] = 0.0
        self._send_description()
        self._close_streams()
        reported = ""
        while True:
            end = time.monotonic() + RETRY_S
            while time.monotonic() < end:
                if not self._handle_command():
                    self.commands.put(("stop", ""))
                    return
            try:
                self._open()
            except StemwireError as error:
                if str(error) != reported:
                    reported = str(error)
                    self._send("message", reported)
            else:
                self.panel.add("reconnects")
                self._send("message", f"{names} is back")
                return

    def _on_callback_failure(self, failure: str) -> None:
        """Note a failure that ended the stream; called from the audio callback."""
        self._callback_failure = failure

    # --- slow work

    def _prepare(self, preset: str) -> None:
        engine = self._engine
        assert engine is not None

        def load() -> None:
            self._raise_priority()
            with self._loading:
                if self._requested_preset != preset:
                    return  # another was requested meanwhile
                try:
                    engine.prepare(preset)
                except StemwireError as error:
                    self._send("message", f"cannot change to preset {preset}: {error}")
                    return
                end = time.monotonic() + 10
                while engine.current.preset != preset and time.monotonic() < end:
                    time.sleep(POLL_S)
                self._send_description()

        self._requested_preset = preset
        threading.Thread(target=load, name="stemwire-load", daemon=True).start()

    def _record(self, folder: str) -> None:
        engine = self._engine
        assert engine is not None
        if self._recorder is not None:
            engine.record(None)
            time.sleep(2 * POLL_S)  # for the worker's last block
            self._recorder.close()
            self._send("message", f"recorded to {self._recording}")
            self._recorder, self._recording = None, ""
        if folder:
            try:
                self._recorder = Recorder(
                    Path(folder),
                    self._rate,
                    engine.channels,
                    report=lambda text: self._send("message", text),
                    prepare=self._raise_priority,
                )
            except StemwireError as error:
                self._send("message", str(error))
            else:
                self._recording = str(self._recorder.folder)
                engine.record(self._recorder)
        self._send_description()

    def _report_problems(self) -> None:
        """Report once each error that the engine recovered from."""
        assert self._engine is not None
        problems = [
            f"effects of {problem}; bypassed while they fail"
            for problem in self._engine.effect_problems()
        ]
        if self._engine.last_error:
            problems.append(
                f"the separator fails ({self._engine.last_error}); the input plays meanwhile; "
                "try another --backend"
            )
        for text in problems:
            if text not in self._reported_problems:
                self._reported_problems.add(text)
                self._send("message", text)

    def _raise_priority(self) -> None:
        """Give this thread real-time priority, if the process is the player's own."""
        if self._own_process and not self.config.freewheel:
            raise_priority(OTHERS)

    def _update_gauges(self, usage: ProcessUsage) -> None:
        panel = self.panel
        if usage.update():
            panel["cpu_share"], panel["memory_bytes"] = usage.cpu_share, usage.memory_bytes
        if self._corrector is not None:
            panel["drift_ppm"] = self._corrector.ppm
            gaps = (self._corrector.underruns, self._corrector.overruns)
            panel.add("underruns", gaps[0] - self._described_gaps[0])
            panel.add("overruns", gaps[1] - self._described_gaps[1])
            self._described_gaps = gaps
            if self._corrector.latency != self._described_latency:  # callbacks come in bursts
                self._send_description()
        if self._recorder is not None:
            panel["unrecorded"] = self._recorder.lost
            if not self._recorder.recording:  # the disk is full, say; it has reported that
                self._record("")

    def _send_description(self) -> None:
        engine = self._engine
        assert engine is not None
        delays, microphone = dict(engine.delays), engine.microphone_delay
        if self._corrector is not None:
            self._described_latency = self._corrector.latency
            delays = {"resampler": round(self._described_latency), **delays}
            microphone += delays["resampler"]
        self._send(
            "description",
            {
                "state": self._state,
                "preset": engine.current.preset,
                "input": self._names[0],
                "output": self._names[1],
                "sample_rate": engine.sample_rate,
                "block_size": engine.block_size,
                "delays": delays,
                "device_delay": self._device_delay,
                "microphone_delay": microphone,
                "budget_ms": engine.current.separator.hop / engine.sample_rate * 1e3,
                "recording": self._recording,
            },
        )
