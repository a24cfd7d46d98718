"""Numbers shared with the audio threads: controls one way, meters and counters the other.

One block of 8-byte numbers, in this process or in shared memory. Every number has one writer. Loads
and stores of aligned 8-byte numbers are atomic on the supported processors, so no thread waits for
another; two numbers may be from different moments, which meters and faders tolerate.
"""

from __future__ import annotations

import contextlib
from multiprocessing.shared_memory import SharedMemory

import numpy as np

from stemwire.errors import ConfigError
from stemwire.realtime.levels import HIGHEST_DB, LOWEST_DB, OFF
from stemwire.realtime.timing import TimeHistogram

CONTROLS: dict[str, float] = {  # name -> initial value; written by what steers the session
    "vocals": OFF,  # dB
    "instrumental": 0.0,  # dB
    "microphone": 0.0,  # dB
    "output": 0.0,  # dB, of everything
    "bypass": 0.0,  # 1: the input unchanged, with the latency of the stems
    "mute": 0.0,  # 1: silence
    "solo": 0.0,  # 0: none, 1: vocals, 2: instrumental, 3: microphone
}
# Each has a peak, which falls by 24 dB per second, and the RMS of the last block.
LEVELS = ("input", "vocals", "instrumental", "microphone", "output")
COUNTERS = (  # since the start; written by the audio threads
    "blocks",  # requested by the device
    "samples",  # of those blocks
    "hops",  # separated
    "xruns",  # reported by the device: input or output lost
    "misses",  # late blocks
    "concealed",  # samples of dry signal played in place of late blocks
    "skipped",  # hops not separated because the worker was too far behind
    "bad_input",  # samples that were NaN or Inf, replaced by silence
    "bad_effects",  # blocks in which an effect failed and was bypassed
    "clipped",  # samples of the output beyond full scale
    "unrecorded",  # samples that were not recorded: disk too slow or full
    "reconnects",  # of a device that had disappeared
    "underruns",  # gaps of an input with its own clock, filled with silence
    "overruns",  # times that its samples were dropped because the output had paused
)
GAUGES = ("drift_ppm", "cpu_share", "memory_bytes")


class Panel:
    """The shared numbers by name.

    Args:
        name: name of another process's panel to open; None creates a new one.
        shared: whether other processes can open a new one.
    """

    def __init__(self, name: str | None = None, *, shared: bool = False) -> None:
        names = [*CONTROLS, *COUNTERS, *GAUGES]
        names += [f"{level}_{what}" for level in LEVELS for what in ("peak", "rms")]
        self._index = {key: i for i, key in enumerate(names)}
        bins = TimeHistogram.size()
        size = 8 * (len(names) + bins)
        self.memory = SharedMemory(name, create=name is None, size=size) if shared or name else None
        data = np.ndarray(size // 8, np.float64, self.memory.buf if self.memory else None)
        self._numbers, times = data[: len(names)], data[len(names) :]
        if name is None:
            data[:] = 0.0
            for key, value in CONTROLS.items():
                self._numbers[self._index[key]] = value
        self.hop_times = TimeHistogram(times)

    def unlink(self) -> None:
        """Remove the name of the shared memory, which lives on while a process has it open."""
        if self.memory is not None:
            with contextlib.suppress(FileNotFoundError):
                self.memory.unlink()

    def __getitem__(self, name: str) -> float:
        return float(self._numbers[self._index[name]])

    def __setitem__(self, name: str, value: float) -> None:
        self._numbers[self._index[name]] = value

    def add(self, name: str, count: int = 1) -> None:
        """Increase a counter; for its only writer."""
        self._numbers[self._index[name]] += count

    def steer(self, name: str, value: float) -> None:
        """Set a control.

        Raises:
            ConfigError: for an unknown control or an invalid value.
        """
        if name not in CONTROLS:
            raise ConfigError(f"control {name!r} is unknown; use one of {', '.join(CONTROLS)}")
        value = float(value)
        if name in ("bypass", "mute"):
            good, expected = value in (0.0, 1.0), "0 or 1"
        elif name == "solo":
            good, expected = value in (0.0, 1.0, 2.0, 3.0), "0 to 3"
        else:
            good = value == OFF or value <= HIGHEST_DB
            expected = f"-inf, or decibels up to {HIGHEST_DB:g}"
            value = OFF if value < LOWEST_DB else value
        if not good:
            raise ConfigError(f"{name} must be {expected}, not {value:g}")
        self[name] = value
