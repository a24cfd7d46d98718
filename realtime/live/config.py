"""Settings of a live session: plain data, checked once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from stemwire.errors import ConfigError
from stemwire.realtime.levels import STEMS

DEFAULT_MICROPHONE_EFFECTS = (  # the microphone's effects by default
    "HighpassFilter cutoff_frequency_hz=80 | Compressor threshold_db=-20 ratio=3 | "
    "Reverb room_size=0.3 wet_level=0.12 dry_level=0.9"
)

MAX_MARGIN = 96_000  # samples


@dataclass(frozen=True)
class LiveConfig:
    """Settings of a session; plain data that can be sent to another process.

    Attributes:
        input: device of music and microphone: number, name or part of a name; None is the default.
        output: device to play to, likewise.
        preset: name or folder of the preset.
        backend: name of the backend, as for `stemwire.load`.
        sample_rate: sample rate in Hz; None is the output's own.
        block_size: samples of a block.
        margin: samples of margin for the worker; None is `engine.usual_margin`.
        music: channels of the input to separate, 1 or 2 of them, counted from 1.
        microphone: channels of the input with the singer; may be empty.
        outputs: channels of the output to play to.
        effects: chains by `vocals`, `instrumental` and `microphone`, as text for
            `effects.parse_chain`, or lists of plugins if the session plays in this process.
        record: folder to record to, or "" for none.
        freewheel: whether the callback does the worker's work and waits for it, for sound servers
            that run faster than real time; on a real device it would stall the sound.
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
            valid = all(isinstance(c, int) and 1 <= c <= 256 for c in channels)
            least = 0 if name == "microphone" else 1
            if not (valid and least <= len(channels) <= most):
                raise ConfigError(
                    f"{name} channels must be {least} to {most} numbers from 1 on, not {channels}"
                )
        if not 16 <= self.block_size <= 8192:
            raise ConfigError(f"block size must be 16 to 8192 samples, not {self.block_size}")
        if self.margin is not None and not 1 <= self.margin <= MAX_MARGIN:
            raise ConfigError(
                f"the margin must be 1 to {MAX_MARGIN} samples, not {self.margin}; leave it "
                "out for the usual one"
            )
        if unknown := set(self.effects) - {*STEMS, "microphone"}:
            raise ConfigError(f"no effects for {', '.join(unknown)}; use {STEMS} or microphone")
