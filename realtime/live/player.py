"""The playing half of a live session: devices, streams and the engine, in whatever process it is.

`Host.run` is called by one thread and lives until it is told to stop. It opens the devices, watches
them, opens them again when they have gone, and does what must not be done in the audio callback:
loading presets, beginning and ending recordings, telling what has happened.
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
from stemwire.realtime.live.callbacks import Patch, Usage
from stemwire.realtime.live.config import ROOM, LiveConfig
from stemwire.realtime.live.devices import (
    Device,
    believed,
    close_stream,
    find_device,
    one_clock,
    rescan,
    sounddevice,
)
from stemwire.realtime.live.drift import DriftCorrector
from stemwire.realtime.live.engine import Engine
from stemwire.realtime.live.panel import LEVELS, Panel
from stemwire.realtime.live.priority import OTHERS, WORKER, QuietMemory, raise_priority
from stemwire.realtime.live.recorder import Recorder
from stemwire.realtime.streaming import StreamingSeparator

LOOK_S = 0.1  # between looks at devices and commands
AGAIN_S = 1.0  # between tries to reach devices that have gone
SILENT_S = 2.0  # without a callback a device counts as gone
JOIN_S = 1.0  # that the worker's last block may take


class Pulse:
    """How long a number has not changed, such as that of a device's callbacks."""

    def __init__(self) -> None:
        self._number, self._since = -1.0, time.monotonic()

    def still(self, number: float) -> float:
        """Seconds since it changed; NaN always does."""
        now = time.monotonic()
        if number != self._number:
            self._number, self._since = number, now
        return now - self._since


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
        self._worker: threading.Thread | None = None
        self._loading, self._wanted = threading.Lock(), ""  # one preset at a time, the newest
        self._gaps = (0, 0)  # of the drift corrector, as they were counted last
        self._broken = ""  # what the callback met
        self._said: set[str] = set()
        self._rate = 0

    # --- life

    def run(self) -> None:
        """Open the devices and play until a ("stop", "") command."""
        try:
            self._open()
            if self.config.record:
                self._record(self.config.record)
            self._play_on()
        except StemwireError as error:
            self._tell("failed", f"{type(error).__name__}: {error}")
        finally:
            self._close_streams()
            if self._engine is not None:
                self._engine.stop()
                if self._worker is not None:
                    self._worker.join(JOIN_S)  # it uses the panel, which may go
                self._record("")
                self._state = "stopped"
                self._describe()
            if self._quiet is not None:
                self._quiet.end()

    def _play_on(self) -> None:
        usage = Usage()
        while self._obey():
            self._gauge(usage)
            self._look_for_trouble()
            if lost := self._lost():
                self._reopen(lost)

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
                self._worker = self._engine.start_thread(lambda: raise_priority(WORKER))
                self._hurry()
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
            if one_clock(source, target):
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
                self._gaps = (0, 0)
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
            self._asked, self._given = Pulse(), Pulse()
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

    def _lost(self) -> str:
        """Why the devices must be opened again, or ""."""
        if self._broken:
            broken, self._broken = self._broken, ""
            return broken
        if any(not stream.active for stream in self._streams):
            return "has stopped"
        asked = self._asked.still(self.panel["blocks"])
        given = self._given.still(self._corrector.captured if self._corrector else math.nan)
        if max(asked, given) > SILENT_S and not self.config.freewheel:
            return f"has {'asked for' if asked > given else 'given'} nothing for {SILENT_S:g} s"
        return ""

    def _reopen(self, why: str) -> None:
        """Look for the devices until they are back, or the session ends."""
        names = " → ".join(dict.fromkeys(self._names))
        self._tell("message", f"{names} {why}; looking for it again")
        self._state = "reconnecting"
        for level in LEVELS:  # no callback does it any more
            self.panel[f"{level}_peak"] = self.panel[f"{level}_rms"] = 0.0
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
            self._hurry()
            with self._loading:
                if self._wanted != preset:
                    return  # another was asked for meanwhile
                try:
                    engine.prepare(preset)
                except StemwireError as error:
                    self._tell("message", f"preset {preset} is not changed to: {error}")
                    return
                end = time.monotonic() + 10
                while engine.lane.preset != preset and time.monotonic() < end:
                    time.sleep(LOOK_S)
                self._describe()

        self._wanted = preset
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
                    report=lambda text: self._tell("message", text), prepare=self._hurry,
                )  # fmt: skip
            except StemwireError as error:
                self._tell("message", str(error))
            else:
                self._recording = str(self._recorder.folder)
                engine.record(self._recorder)
        self._describe()

    def _look_for_trouble(self) -> None:
        """Tell once of what the engine met and went on after."""
        assert self._engine is not None
        trouble = [f"effects of {problem}; played without where it fails"
                   for problem in self._engine.effect_problems()]  # fmt: skip
        if self._engine.trouble:
            trouble.append(
                f"the separator fails ({self._engine.trouble}); the input plays where it does; "
                "another --backend may help"
            )
        for text in trouble:
            if text not in self._said:
                self._said.add(text)
                self._tell("message", text)

    def _hurry(self) -> None:
        """Real-time priority for this thread, if it is of the playing process."""
        if self._alone and not self.config.freewheel:
            raise_priority(OTHERS)

    def _gauge(self, usage: Usage) -> None:
        panel = self.panel
        if usage.due():
            panel["cpu_share"], panel["memory_bytes"] = usage.cpu_share, usage.memory_bytes
        if self._corrector is not None:
            panel["drift_ppm"] = self._corrector.ppm
            gaps = (self._corrector.underruns, self._corrector.overruns)
            panel.add("underruns", gaps[0] - self._gaps[0])
            panel.add("overruns", gaps[1] - self._gaps[1])
            self._gaps = gaps
            if self._corrector.latency != self._told_latency:  # callbacks come in bursts
                self._describe()
        if self._recorder is not None:
            panel["unrecorded"] = self._recorder.lost
            if not self._recorder.recording:  # the disk is full, say; it has told
                self._record("")

    def _describe(self) -> None:
        engine = self._engine
        assert engine is not None
        delays, microphone = dict(engine.delays), engine.microphone_delay
        if self._corrector is not None:
            self._told_latency = self._corrector.latency
            delays = {"resampler": round(self._told_latency), **delays}
            microphone += delays["resampler"]
        self._tell(
            "description",
            {
                "state": self._state, "preset": engine.lane.preset, "input": self._names[0],
                "output": self._names[1], "sample_rate": engine.sample_rate,
                "block_size": engine.block_size, "delays": delays,
                "device_delay": self._device_delay, "microphone_delay": microphone,
                "budget_ms": engine.lane.separator.hop / engine.sample_rate * 1e3,
                "recording": self._recording,
            },
        )  # fmt: skip
