"""The playing half of a live session: devices, streams and the engine, in whatever process it is.

`Host.run` is called by one thread and lives until it is told to stop. It opens the devices, watches
them, opens them again when they have gone, and does what must not be done in the audio callback:
loading presets, beginning and ending recordings, telling what has happened.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stemwire.errors import AudioDeviceError, StemwireError
from stemwire.model.preset import find_preset
from stemwire.realtime.backends import load_backend
from stemwire.realtime.clock import DriftCorrector
from stemwire.realtime.devices import (
    Device,
    believed,
    close_stream,
    find_device,
    rescan,
    sounddevice,
)
from stemwire.realtime.effects import Chain, parse_chain
from stemwire.realtime.engine import STEMS, Engine
from stemwire.realtime.live_config import ROOM, LiveConfig
from stemwire.realtime.panel import Panel
from stemwire.realtime.patch import (
    JACK,
    OTHERS,
    WORKER,
    Patch,
    QuietMemory,
    Usage,
    raise_priority,
)
from stemwire.realtime.recorder import Recorder
from stemwire.realtime.streaming import StreamingSeparator

LOOK_S = 0.1  # between looks at devices and commands
AGAIN_S = 1.0  # between tries to reach devices that have gone
SILENT_S = 2.0  # without a callback a device counts as gone


class Host:
    """Plays until told to stop.

    Args:
        config: of the session.
        panel: controls, meters and counters.
        tell: called with `(kind, content)`: ("description", dict) when something of `Status` that
            the panel does not hold has changed, ("message", str) for people, ("failed", str) if the
            session cannot begin.
        alone: whether it has the process to itself.
    """

    def __init__(
        self,
        config: LiveConfig,
        panel: Panel,
        tell: Callable[[str, Any], None],
        alone: bool = False,
    ) -> None:
        self.config, self.panel, self._tell, self._alone = config, panel, tell, alone
        self.commands: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
        self._engine: Engine | None = None
        self._streams: list[Any] = []
        self._corrector: DriftCorrector | None = None
        self._recorder: Recorder | None = None
        self._state, self._recording = "starting", ""
        self._names = ("", "")
        self._device_delay = 0.0
        self._told_latency = 0
        self._quiet: QuietMemory | None = None
        self._broken = ""  # what the callback met
        self._said: set[str] = set()
        self._rate = 0

    # --- life

    def run(self) -> None:
        """Open the devices and play until a ("stop", "") command."""
        try:
            self._open()
        except StemwireError as error:
            self._tell("failed", f"{type(error).__name__}: {error}")
            return
        if self.config.record:
            self._record(self.config.record)
        usage, heard, since = Usage(), -1.0, time.monotonic()
        try:
            while self._obey():
                blocks, now = self.panel["blocks"], time.monotonic()
                if blocks != heard:
                    heard, since = blocks, now
                self._gauge(usage)
                self._look_at_effects()
                lost = self._lost(now - since)
                if lost:
                    self._reopen(lost)
                    since = time.monotonic()
        finally:
            self._close_streams()
            if self._engine is not None:
                self._engine.stop()
            self._record("")
            if self._quiet is not None:
                self._quiet.end()
            self._state = "stopped"
            self._describe()

    def _obey(self) -> bool:
        """Wait a little for commands and do them; False after "stop"."""
        try:
            what, value = self.commands.get(timeout=LOOK_S)
        except queue.Empty:
            return True
        if what == "preset":
            self._prepare(value)
        elif what == "record":
            self._record(value)
        return what != "stop"

    # --- devices

    def _open(self) -> None:
        """Find the devices and begin to play.

        Raises:
            AudioDeviceError: if they are not there, busy, or cannot do what is asked.
            StemwireError: for presets and effects that cannot be loaded.
        """
        config = self.config
        rescan()
        wanted = max((*config.music, *config.microphone))
        source = find_device(config.input, "input", wanted)
        target = find_device(config.output, "output", max(config.outputs))
        rate = self._rate or config.sample_rate or target.sample_rate
        if self._engine is None:
            self._engine = self._build(rate)
            self._rate = rate
            self._quiet = QuietMemory(
                self._alone
            )  # before the first callback: collecting takes long
            if not config.freewheel:
                self._engine.start_thread(lambda: raise_priority(WORKER))
                if self._alone:
                    raise_priority(OTHERS)
        self._names = (source.name, target.name)
        self._connect(source, target, rate)
        self._state = "playing"
        self._describe()

    def _build(self, rate: int) -> Engine:
        config, channels = self.config, len(self.config.music)
        chains = {}
        for name in (*STEMS, "microphone"):
            effects = config.effects.get(name, ROOM if name == "microphone" else "")
            if name == "microphone" and not config.microphone:
                continue
            plugins = parse_chain(effects) if isinstance(effects, str) else list(effects)
            chains[name] = Chain(plugins, rate, channels, config.block_size)

        def opener(preset: str) -> StreamingSeparator:
            found = find_preset(preset)
            backend = load_backend(found, config.backend)
            return StreamingSeparator(backend, found.config, rate, channels, config.block_size)

        return Engine(self.panel, opener, config.preset, rate, channels, config.block_size,
                      config.margin, chains)  # fmt: skip

    def _connect(self, source: Device, target: Device, rate: int) -> None:
        sd = sounddevice()
        config = self.config
        assert self._engine is not None
        io = Patch(config, self._engine, self._note)
        common = {"samplerate": rate, "blocksize": config.block_size, "dtype": "float32",
                  "latency": "low"}  # fmt: skip
        wanted = max((*config.music, *config.microphone))
        try:
            if source.number == target.number or source.host_api == target.host_api == JACK:
                stream = sd.Stream(
                    device=(source.number, target.number), callback=io.duplex,
                    channels=(wanted, max(config.outputs)), **common,
                )  # fmt: skip
                self._streams = [stream]
                self._device_delay = believed(sum(stream.latency))
            else:
                self._corrector = io.corrector = DriftCorrector(
                    rate, wanted, config.block_size, config.block_size
                )
                taking = sd.InputStream(
                    device=source.number, channels=wanted, callback=io.take, **common
                )
                giving = sd.OutputStream(
                    device=target.number, channels=max(config.outputs), callback=io.give, **common
                )
                self._streams = [taking, giving]
                self._device_delay = believed(taking.latency + giving.latency)
            for stream in self._streams:
                stream.start()
        except (sd.PortAudioError, ValueError) as error:
            self._close_streams()
            raise AudioDeviceError(
                f"{source.name} → {target.name}: cannot be opened at {rate} Hz with {wanted} "
                f"inputs and {max(config.outputs)} outputs ({error}); close other programs that "
                "use it, or choose others or another --rate (see `stemwire devices`)"
            ) from error

    def _close_streams(self) -> None:
        for stream in self._streams:
            try:
                close_stream(stream)
            except Exception as error:  # of a driver that has gone
                self._tell("message", f"closing a device: {error}")
        self._streams, self._corrector = [], None

    def _lost(self, silent: float) -> str:
        """Why the devices must be opened again, or ""."""
        if self._broken:
            broken, self._broken = self._broken, ""
            return broken
        if any(not stream.active for stream in self._streams):
            return "has stopped"
        if silent > SILENT_S and not self.config.freewheel:
            return f"has asked for nothing for {SILENT_S:g} s"
        return ""

    def _reopen(self, why: str) -> None:
        """Look for the devices until they are back, or the session ends."""
        names = " → ".join(dict.fromkeys(self._names))
        self._tell("message", f"{names} {why}; looking for it again")
        self._state = "reconnecting"
        self._describe()
        self._close_streams()
        said = ""
        while True:
            end = time.monotonic() + AGAIN_S
            while time.monotonic() < end:
                if not self._obey():
                    self.commands.put(("stop", ""))
                    return
            try:
                self._open()
            except StemwireError as error:
                if str(error) != said:
                    said = str(error)
                    self._tell("message", said)
            else:
                self.panel.add("reconnects")
                self._tell("message", f"{names} is back")
                return

    def _note(self, trouble: str) -> None:
        """From the callback: something that ends the stream."""
        self._broken = trouble

    # --- what is slow

    def _prepare(self, preset: str) -> None:
        engine = self._engine
        assert engine is not None

        def load() -> None:
            try:
                engine.prepare(preset)
            except StemwireError as error:
                self._tell("message", f"preset {preset} is not changed to: {error}")
                return
            end = time.monotonic() + 10
            while engine.lane.preset != preset and time.monotonic() < end:
                time.sleep(LOOK_S)
            self._describe()

        threading.Thread(target=load, name="stemwire-load", daemon=True).start()

    def _record(self, folder: str) -> None:
        engine = self._engine
        assert engine is not None
        if self._recorder is not None:
            engine.record(None)
            time.sleep(2 * LOOK_S)  # the worker's last block
            self._recorder.close()
            self._tell("message", f"recorded to {self._recording}")
            self._recorder, self._recording = None, ""
        if folder:
            try:
                self._recorder = Recorder(
                    Path(folder), self._rate, engine.channels,
                    report=lambda text: self._tell("message", text),
                )  # fmt: skip
            except StemwireError as error:
                self._tell("message", str(error))
            else:
                self._recording = str(self._recorder.folder)
                engine.record(self._recorder)
        self._describe()

    def _look_at_effects(self) -> None:
        assert self._engine is not None
        for problem in self._engine.effect_problems():
            if problem not in self._said:
                self._said.add(problem)
                self._tell("message", f"effects of {problem}; played without where it fails")

    def _gauge(self, usage: Usage) -> None:
        panel = self.panel
        if usage.due():
            panel["cpu_share"], panel["memory_bytes"] = usage.cpu_share, usage.memory_bytes
        if self._corrector is not None:
            panel["drift_ppm"] = self._corrector.ppm
            panel["resampler_fill"] = self._corrector.fill
            if self._corrector.latency != self._told_latency:  # callbacks come in bursts
                self._describe()
        if self._recorder is not None:
            panel["unrecorded"] = self._recorder.lost

    def _describe(self) -> None:
        engine = self._engine
        assert engine is not None
        delays = dict(engine.delays)
        if self._corrector is not None:
            self._told_latency = self._corrector.latency
            delays = {"resampler": round(self._told_latency), **delays}
        self._tell(
            "description",
            {
                "state": self._state, "preset": engine.lane.preset, "input": self._names[0],
                "output": self._names[1], "sample_rate": engine.sample_rate,
                "block_size": engine.block_size, "delays": delays,
                "device_delay": self._device_delay, "microphone_delay": engine.microphone_delay,
                "budget_ms": engine.lane.separator.hop / engine.sample_rate * 1e3,
                "recording": self._recording,
            },
        )  # fmt: skip
