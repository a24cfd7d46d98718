"""Between the devices and the engine: the audio callbacks."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from stemwire.realtime.live.config import LiveConfig
from stemwire.realtime.live.drift import DriftCorrector
from stemwire.realtime.live.engine import Engine
from stemwire.realtime.live.priority import CALLBACK, raise_priority
from stemwire.realtime.ring import Audio


class Patch:
    """The audio callbacks: which channel goes where. Nothing here waits."""

    def __init__(self, config: LiveConfig, engine: Engine, note: Callable[[str], None]) -> None:
        self._engine, self._note, self._freewheel = engine, note, config.freewheel
        self._hurried: set[int] = set()  # callback threads that have been looked at
        self.corrector: DriftCorrector | None = None
        size = config.block_size
        self._music = [channel - 1 for channel in config.music]
        self._sung = [channel - 1 for channel in config.microphone]
        self._heard = [channel - 1 for channel in config.outputs]
        self._in = np.zeros((engine.channels, size), np.float32)
        self._out = np.zeros((engine.channels, size), np.float32)
        self._voice = np.zeros((engine.channels, size), np.float32) if self._sung else None
        self._taken = np.zeros((max((*config.music, *config.microphone)), size), np.float32)

    def duplex(self, indata: Audio, outdata: Audio, frames: int, time: Any, status: Any) -> None:
        """Input and output of one device."""
        try:
            self._hurry()
            self._count(status)
            self._play(indata.T, outdata)
        except Exception as error:
            outdata.fill(0.0)
            self._note(f"the sound stopped ({type(error).__name__}: {error})")

    def take(self, indata: Audio, frames: int, time: Any, status: Any) -> None:
        """Input of a device with a clock of its own."""
        try:
            self._hurry()
            self._count(status)
            assert self.corrector is not None
            self.corrector.write(indata.T)
        except Exception as error:
            self._note(f"the input stopped ({type(error).__name__}: {error})")

    def give(self, outdata: Audio, frames: int, time: Any, status: Any) -> None:
        """Output of a device with a clock of its own; this is the clock that counts."""
        try:
            self._hurry()
            self._count(status)
            assert self.corrector is not None
            self.corrector.read_into(self._taken)
            self._play(self._taken, outdata)
        except Exception as error:
            outdata.fill(0.0)
            self._note(f"the sound stopped ({type(error).__name__}: {error})")

    def _play(self, taken: Audio, outdata: Audio) -> None:
        """From (inputs, n) to (n, outputs)."""
        for row, channel in zip(self._in, self._music, strict=True):
            row[:] = taken[channel]
        if self._voice is not None:
            self._voice[:] = taken[self._sung[0]]
            for channel in self._sung[1:]:
                self._voice += taken[channel]
        self._engine.process(self._in, self._out, self._voice)
        while self._freewheel and self._engine.work():
            pass
        outdata.fill(0.0)
        for number, channel in enumerate(self._heard):
            outdata[:, channel] = self._out[number % len(self._out)]

    def _hurry(self) -> None:
        """Real-time priority for a callback thread whose driver has not seen to it."""
        thread = threading.get_ident()
        if thread not in self._hurried:
            self._hurried.add(thread)
            if not self._freewheel:
                raise_priority(CALLBACK)

    def _count(self, status: Any) -> None:
        if status and (status.input_overflow or status.output_underflow or status.input_underflow
                       or status.output_overflow):  # fmt: skip
            self._engine.panel.add("xruns")


class Usage:
    """Share of a core that this process takes, and its memory, once a second."""

    def __init__(self) -> None:
        self._at, self._used = time.monotonic(), time.process_time()
        self.cpu_share, self.memory_bytes = 0.0, 0

    def due(self) -> bool:
        """Whether there are new figures."""
        now, used = time.monotonic(), time.process_time()
        if now - self._at < 1.0:
            return False
        self.cpu_share = (used - self._used) / (now - self._at)
        self._at, self._used = now, used
        statm = Path("/proc/self/statm")
        if statm.exists():
            self.memory_bytes = int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        return True
