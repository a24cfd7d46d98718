"""What the audio and those who steer it share: controls one way, meters and counters the other.

One block of 8-byte numbers, in this process or in memory shared with another. Every number has one
writer. Loads and stores of aligned 8-byte numbers are whole on the processors we run on, so nobody
waits for anybody; two numbers may be of different moments, which meters and faders bear.
"""

from __future__ import annotations

import contextlib
from multiprocessing.shared_memory import SharedMemory

import numpy as np

from stemwire.errors import ConfigError
from stemwire.realtime.levels import HIGHEST_DB, LOWEST_DB, OFF
from stemwire.realtime.timing import TimeHistogram

CONTROLS: dict[str, float] = {  # name -> value at the start; written by those who steer
    "vocals": OFF,  # dB
    "instrumental": 0.0,  # dB
    "microphone": 0.0,  # dB
    "output": 0.0,  # dB, of everything
    "bypass": 0.0,  # 1: the input as it came, as late as the stems
    "mute": 0.0,  # 1: silence
    "solo": 0.0,  # 0: none, 1: vocals, 2: instrumental, 3: microphone
}
# Each has a peak, which falls by 24 dB a second, and the RMS of the last block.
LEVELS = ("input", "vocals", "instrumental", "microphone", "output")
COUNTERS = (  # since the start; written by the audio
    "blocks",  # that the device asked for
    "samples",  # that it gave
    "hops",  # separated
    "xruns",  # that the device told of: input or output lost
    "misses",  # blocks that were not all there in time
    "concealed",  # samples of dry signal played in their place
    "skipped",  # hops given up because the separator was too far behind
    "bad_input",  # samples that were NaN or Inf, and taken as silence
    "bad_effects",  # blocks in which an effect failed, and was left out
    "clipped",  # samples of the output beyond full scale
    "unrecorded",  # samples that the disk was too slow or too full for
    "reconnects",  # of a device that had gone
    "underruns",  # times that an input with its own clock had nothing, and silence played
    "overruns",  # times that its sound was left out, because the output had paused
)
GAUGES = ("drift_ppm", "cpu_share", "memory_bytes")


class Panel:
    """The shared numbers by name.

    Args:
        name: of another process's panel to open; None makes a new one.
        shared: whether a new one can be opened by other processes.
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
        """Remove the name of the shared memory, which lives as long as somebody has it."""
        if self.memory is not None:
            with contextlib.suppress(FileNotFoundError):
                self.memory.unlink()

    def __getitem__(self, name: str) -> float:
        return float(self._numbers[self._index[name]])

    def __setitem__(self, name: str, value: float) -> None:
        self._numbers[self._index[name]] = value

    def add(self, name: str, count: int = 1) -> None:
        """Raise a counter; only its one writer may."""
        self._numbers[self._index[name]] += count

    def steer(self, name: str, value: float) -> None:
        """Set a control.

        Raises:
            ConfigError: for an unknown control or a value that cannot be.
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
