"""A live session as seen by what steers and shows it: the screen, MIDI, programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

State = Literal["starting", "playing", "reconnecting", "stopped"]


@dataclass(frozen=True)
class Status:
    """Snapshot of a session.

    Attributes:
        state: what the session is doing.
        preset: name of the preset that plays.
        presets: names of the presets to choose from.
        input: name of the input device.
        output: name of the output device.
        sample_rate: sample rate in Hz.
        block_size: samples of a block.
        seconds: length of the sound since the start.
        controls: values by name, as in `panel.CONTROLS`.
        delays: latency of the music in samples, by stage in the order of the signal:
            "separator", "worker" (the margin), "effects", "resampler"; without the devices' own.
            The sum is `delay`.
        device_delay: latency in seconds that the driver reports for input and output; 0 if none.
        microphone_delay: latency of the microphone in samples, without the devices' own.
        levels: (peak, RMS) in dB of full scale, by `panel.LEVELS`; -inf if silent. Peaks fall
            slowly.
        counters: values by name, as in `panel.COUNTERS`.
        drift_ppm: drift of the input's clock against the output's, parts per million.
        hop_ms: p50, p95, p99, p99.9 and max of the processing time of a hop, ms.
        budget_ms: time available for a hop, ms.
        cpu_share: share of one core that the playing process used in the last second.
        memory_bytes: resident memory of the playing process.
        recording: folder being recorded to, or "".
    """

    state: State
    preset: str
    presets: Sequence[str]
    input: str
    output: str
    sample_rate: int
    block_size: int
    seconds: float
    controls: Mapping[str, float]
    delays: Mapping[str, int]
    device_delay: float
    microphone_delay: int
    levels: Mapping[str, tuple[float, float]]
    counters: Mapping[str, int]
    drift_ppm: float
    hop_ms: Mapping[str, float]
    budget_ms: float
    cpu_share: float
    memory_bytes: int
    recording: str

    @property
    def delay(self) -> int:
        """Latency from input to output in samples, without the devices' own."""
        return sum(self.delays.values())


class Steerable(Protocol):
    """Interface of a session for the screen and MIDI. All calls return at once."""

    def steer(self, name: str, value: float) -> None:
        """Set a control of `panel.CONTROLS`; raises `ConfigError` for invalid values."""

    def control(self, name: str) -> float:
        """Value of a control."""

    def change_preset(self, name: str) -> None:
        """Change to another preset without a gap; raises `StemwireError` if it cannot be loaded.

        Loading happens in another thread or process: later failures are reported by `messages`.
        """

    def status(self) -> Status:
        """Present status."""

    def messages(self) -> list[str]:
        """Messages for users since the last call, one line each, oldest first."""
