"""A live session as those see it who steer it and look at it: the screen, MIDI, programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

State = Literal["starting", "playing", "reconnecting", "stopped"]


@dataclass(frozen=True)
class Status:
    """A moment of a session.

    Attributes:
        state: what it is doing.
        preset: what separates.
        presets: names that can be changed to.
        input: name of the input device.
        output: name of the output device.
        sample_rate: in Hz.
        block_size: samples that the device asks for at a time.
        seconds: of sound since the start.
        controls: as `panel.CONTROLS`.
        delays: samples at `sample_rate` that each stage adds to music, in the order that it passes
            them: "separator", "worker" (blocks between callback and worker), "effects",
            "resampler"; the devices' own are not among them. The sum is `delay`.
        device_delay: seconds that the driver says it adds (input and output), 0 if it says nothing.
        microphone_delay: samples that the microphone is late, apart from the devices'.
        levels: (peak, RMS) in dB of full scale by `panel.LEVELS`, -inf if silent; peaks fall in
            seconds.
        counters: as `panel.COUNTERS`.
        drift_ppm: by how much the input's clock is faster than the output's.
        hop_ms: p50, p95, p99, p99.9 and max of the time a hop took, ms.
        budget_ms: time a hop may take.
        cpu_share: of one core, of the last second; of the process that plays.
        memory_bytes: resident, of the process that plays.
        recording: folder that is recorded to, or "".
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
        """Samples from input to output, without the devices' own."""
        return sum(self.delays.values())


class Steered(Protocol):
    """What the screen and MIDI need of a session. All calls return at once."""

    def steer(self, name: str, value: float) -> None:
        """Set a control of `panel.CONTROLS`; raises `ConfigError` for what cannot be."""

    def control(self, name: str) -> float:
        """What a control is set to."""

    def change_preset(self, name: str) -> None:
        """Go over to another preset without a gap; raises `StemwireError` if it cannot be loaded.

        Loading happens elsewhere: what fails later is told by `messages`.
        """

    def status(self) -> Status:
        """How things stand now."""

    def messages(self) -> list[str]:
        """What has happened since the last call, for people: a line each, oldest first."""
