"""What a live session is asked to be: plain data, checked once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from stemwire.errors import ConfigError
from stemwire.realtime.levels import STEMS

ROOM = (  # the microphone's effects unless others are asked for
    "HighpassFilter cutoff_frequency_hz=80 | Compressor threshold_db=-20 ratio=3 | "
    "Reverb room_size=0.3 wet_level=0.12 dry_level=0.9"
)

LONGEST_MARGIN = 96_000  # samples


@dataclass(frozen=True)
class LiveConfig:
    """What a session is; plain data that another process can be given.

    Attributes:
        input: device of music and microphone: number, name, part of one; None is the default.
        output: device that is heard, likewise.
        preset: name or folder.
        backend: as `stemwire.load` takes it.
        sample_rate: in Hz; None is the output's own.
        block_size: samples that the devices ask for at a time.
        margin: samples that the worker has; None is `engine.usual_margin`.
        music: channels of the input that are separated, 1 or 2 of them, counted from 1.
        microphone: channels of the input that the singer is on; may be none.
        outputs: channels of the output that are played to.
        effects: chains by `vocals`, `instrumental` and `microphone`, as `effects.parse_chain` reads
            them, or plugins in a list if the session plays in this process.
        record: folder to record to, or "".
        freewheel: the callback does the worker's work and waits for it. For sound servers that run
            faster than time; on a real device it would stall the sound.
    """

    input: int | str | None = None
    output: int | str | None = None
    preset: str = "standard"
    backend: str = "auto"
    sample_rate: int | None = None
    block_size: int = 512
    margin: int | None = None
    music: tuple[int, ...] = (1, 2)
    microphone: tuple[int, ...] = ()
    outputs: tuple[int, ...] = (1, 2)
    effects: Mapping[str, Any] = field(default_factory=dict)
    record: str = ""
    freewheel: bool = False

    def __post_init__(self) -> None:
        for name, most in (("music", 2), ("microphone", 64), ("outputs", 64)):
            channels = getattr(self, name)
            whole = all(isinstance(c, int) and 1 <= c <= 256 for c in channels)
            least = 0 if name == "microphone" else 1
            if not (whole and least <= len(channels) <= most):
                raise ConfigError(
                    f"{name} channels must be {least} to {most} numbers from 1 on, not {channels}"
                )
        if not 16 <= self.block_size <= 8192:
            raise ConfigError(f"block size must be 16 to 8192 samples, not {self.block_size}")
        if self.margin is not None and not 1 <= self.margin <= LONGEST_MARGIN:
            raise ConfigError(
                f"the margin must be 1 to {LONGEST_MARGIN} samples, not {self.margin}; leave it "
                "out for the usual one"
            )
        if unknown := set(self.effects) - {*STEMS, "microphone"}:
            raise ConfigError(f"no effects for {', '.join(unknown)}; use {STEMS} or microphone")
