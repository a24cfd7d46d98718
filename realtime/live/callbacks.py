"""Audio callbacks: they route the devices' channels to and from the engine."""

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
from stemwire.realtime.live.engine import LiveEngine
from stemwire.realtime.live.priority import CALLBACK, raise_priority
from stemwire.realtime.ring import Audio


class AudioCallbacks:
    """Callbacks for the streams of a session, which route channels and never wait.

    Args:
        config: settings of the session.
        engine: engine to feed.
        report_failure: called with a sentence when a callback has failed and the sound stopped.
    """

    def __init__(
        self, config: LiveConfig, engine: LiveEngine, report_failure: Callable[[str], None]
    ) -> None:
        self._engine, self._report_failure = engine, report_failure
        self._freewheel = config.freewheel
        self._seen_threads: set[int] = set()  # callback threads whose priority was raised
        self.corrector: DriftCorrector | None = None
        size = config.block_size
        self._music_channels = [channel - 1 for channel in config.music]
        self._microphone_channels = [channel - 1 for channel in config.microphone]
        self._output_channels = [channel - 1 for channel in config.outputs]
        self._music = np.zeros((engine.channels, size), np.float32)
        self._mix = np.zeros((engine.channels, size), np.float32)
        self._microphone: Audio | None = None
        if self._microphone_channels:
            self._microphone = np.zeros((engine.channels, size), np.float32)
        self._resampled = np.zeros((max((*config.music, *config.microphone)), size), np.float32)

    def duplex(self, indata: Audio, outdata: Audio, frames: int, time: Any, status: Any) -> None:
        """Input and output of one device; audio thread."""
        try:
            self._raise_priority_once()
            self._count_xruns(status)
            self._process(indata.T, outdata)
        except Exception as error:
            outdata.fill(0.0)
            self._report_failure(f"the sound stopped ({type(error).__name__}: {error})")

    def capture(self, indata: Audio, frames: int, time: Any, status: Any) -> None:
        """Input of a device with a clock of its own; audio thread of that device."""
        try:
            self._raise_priority_once()
            self._count_xruns(status)
            assert self.corrector is not None
            self.corrector.write(indata.T)
        except Exception as error:
            self._report_failure(f"the input stopped ({type(error).__name__}: {error})")

    def playback(self, outdata: Audio, frames: int, time: Any, status: Any) -> None:
        """Output of a device with a clock of its own, which drives the engine; audio thread."""
        try:
            self._raise_priority_once()
            self._count_xruns(status)
            assert self.corrector is not None
            self.corrector.read_into(self._resampled)
            self._process(self._resampled, outdata)
        except Exception as error:
            outdata.fill(0.0)
            self._report_failure(f"the sound stopped ({type(error).__name__}: {error})")

    def _process(self, captured: Audio, outdata: Audio) -> None:
        """Process one block, from (inputs, n) to (n, outputs)."""
        for row, channel in zip(self._music, self._music_channels, strict=True):
            row[:] = captured[channel]
        if self._microphone is not None:
            self._microphone[:] = captured[self._microphone_channels[0]]
            for channel in self._microphone_channels[1:]:
                self._microphone += captured[channel]
        self._engine.process(self._music, self._mix, self._microphone)
        while self._freewheel and self._engine.work():
            pass
        outdata.fill(0.0)
        for number, channel in enumerate(self._output_channels):
            outdata[:, channel] = self._mix[number % len(self._mix)]

    def _raise_priority_once(self) -> None:
        """Give the callback thread real-time priority if its driver has not."""
        thread = threading.get_ident()
        if thread not in self._seen_threads:
            self._seen_threads.add(thread)
            if not self._freewheel:
                raise_priority(CALLBACK)

    def _count_xruns(self, status: Any) -> None:
        if status and (
            status.input_overflow
            or status.output_underflow
            or status.input_underflow
            or status.output_overflow
        ):
            self._engine.panel.add("xruns")


class ProcessUsage:
    """CPU and memory that this process uses, measured once a second.

    Attributes:
        cpu_share: share of one core over the last second.
        memory_bytes: resident memory; 0 where it cannot be read.
    """

    def __init__(self) -> None:
        self._updated, self._cpu_time = time.monotonic(), time.process_time()
        self.cpu_share, self.memory_bytes = 0.0, 0

    def update(self) -> bool:
        """Measure again if a second has passed; whether there are new figures."""
        now, cpu_time = time.monotonic(), time.process_time()
        if now - self._updated < 1.0:
            return False
        self.cpu_share = (cpu_time - self._cpu_time) / (now - self._updated)
        self._updated, self._cpu_time = now, cpu_time
        statm = Path("/proc/self/statm")
        if statm.exists():
            self.memory_bytes = int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        return True
