"""Pipeline of one session: separator, effects and mix, without sockets or threads.

A `Pipeline` takes events in order and produces results in the same order. It does not run the
network: `work` yields each step as a `Step`, and the scheduler runs the steps of many pipelines
at once.

Threads: `put` may be called from any thread; everything else belongs to the worker thread of the
scheduler that holds the pipeline.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from stemwire.bridge.protocol.messages import Control, Flush, Reset
from stemwire.errors import ConfigError, ProtocolError
from stemwire.realtime.backends.interface import Backend
from stemwire.realtime.effects import Chain, parse_chain
from stemwire.realtime.mixer import RAMP_S, Mixer, Ramp
from stemwire.realtime.ring import Audio
from stemwire.realtime.stft import Spectrum
from stemwire.realtime.streaming import Steps, StreamingSeparator

EFFECT_BLOCK = 512  # maximum samples per call of the effects
SETTLE_S = 1.0  # time for which a new stage runs before its stems are used
GAP_FADE_S = 0.0015  # time constant of the fades into and out of a gap
OFF_DB = -200.0

Opener = Callable[[str, int, int, int | None], StreamingSeparator]
"""Function (preset, sample_rate, channels, block_size) that opens a separator."""


class Step(NamedTuple):
    """A step of the network to run: one spectrum of a stream of a backend."""

    backend: Backend
    stream: Any
    frame: Spectrum


Work = Generator[Step, Spectrum, None]


class MixtureBlock(NamedTuple):
    """Event: mixture to separate.

    Attributes:
        audio: float32 (channels, n).
        gap: number of samples missing before it.
        deadline: time by which its stems are due, on the scheduler's clock.
    """

    audio: Audio
    gap: int
    deadline: float


@dataclass(frozen=True)
class StageChange:
    """Result: the stems come from another stage from a position on.

    Attributes:
        stage: the new stage.
        position: position of the first stems that are no longer the former stage's alone.
    """

    stage: Stage
    position: int


class Stage:
    """A separator with the effects and the mixer behind it.

    Args:
        opener: function that opens separators.
        preset: name of the preset.
        effects: text of each stem's effects chain, by stem (see `parse_chain`).
        names: names of these chains, by stem, as the client gave them.
        sample_rate: sample rate in Hz.
        channels: number of channels of the audio.
        block_size: promised block size, as for a separator.
        gains: initial gains of the stems in the mix.
        control: id of the `Control` that asked for this stage, 0 for none.

    Raises:
        StemwireError: if the preset or the effects cannot be loaded.
    """

    def __init__(
        self,
        opener: Opener,
        preset: str,
        effects: Mapping[str, str],
        names: Mapping[str, str],
        sample_rate: int,
        channels: int,
        block_size: int | None,
        gains: Sequence[float],
        control: int = 0,
    ) -> None:
        self.preset, self.names, self.control = preset, dict(names), control
        self.separator = opener(preset, sample_rate, channels, block_size)
        chains = [
            Chain(
                parse_chain(effects[stem]) if effects.get(stem) else [],
                sample_rate,
                channels,
                EFFECT_BLOCK,
            )
            for stem in self.separator.stems
        ]
        self.mixer = Mixer(chains, sample_rate, channels, EFFECT_BLOCK, gains)

    @property
    def latency(self) -> int:
        """Latency of stems and mix in samples."""
        return self.separator.latency + self.mixer.delay

    def mix(self, stems: Audio, gains: Sequence[float], bypass: float) -> Audio:
        """Vocals, instrumental and mix, float32 (3, channels, n), from the separator's stems."""
        out = np.empty((3, *stems.shape[1:]), np.float32)
        for at in range(0, stems.shape[2], EFFECT_BLOCK):
            part = slice(at, at + EFFECT_BLOCK)
            out[:2, :, part], _, out[2, :, part] = self.mixer.mix(stems[..., part], gains, bypass)
        return out

    def reset(self) -> None:
        """Begin a new stream."""
        self.separator.reset()
        self.mixer.reset()


@dataclass
class MixSettings:
    """Settings of the mix: levels in dB, and two switches."""

    vocals: float = OFF_DB
    instrumental: float = 0.0
    mute: bool = False
    bypass: bool = False

    def gains(self) -> tuple[float, float]:
        """Gains of vocals and instrumental."""
        if self.mute:
            return 0.0, 0.0
        first, second = (
            0.0 if level <= OFF_DB else 10.0 ** (level / 20)
            for level in (self.vocals, self.instrumental)
        )
        return first, second


class Pipeline:
    """Everything that is done with the audio of one session.

    Args:
        stage: initial stage; its gains are those of `settings`.
        stems: names of the stems that the client asked for, in its order.

    Attributes:
        stage: current stage.
        settings: settings of the mix.
        results: results that nobody has fetched yet: stems (arrays), the events `Flush`, `Reset`
            and `Control` once they have been carried out, and `StageChange`.
        position: samples of stems produced in this stream.
        misses: number of blocks finished after their deadline.
        waiting: number of samples waiting to be separated.
    """

    def __init__(self, stage: Stage, stems: Sequence[str]) -> None:
        self.stage, self.settings = stage, MixSettings()
        self.results: deque[Any] = deque()
        self.position = self.misses = self.waiting = 0
        self._events: deque[Any] = deque()
        self._lock = threading.Lock()  # guards the events; held only briefly
        self._next_stage: Stage | None = None
        self._switch_position = 0  # position at which its stems come in
        self._later_stages: deque[Stage] = deque()  # queued behind it
        separator = stage.separator
        self._rate, self._channels = separator.sample_rate, separator.channels
        self._crossfade = Ramp(0.0, max(1, round(RAMP_S * self._rate)))
        order = {"vocals": 0, "instrumental": 1, "mix": 2}
        self._order = [order[name] for name in stems]
        self._in_network_order = self._order in ([0, 1], [0, 1, 2])  # what `_mix` returns
        self._stems = tuple(stems)
        self._last_sample = np.zeros((self._channels, 1), np.float32)  # before a gap
        self._short_block: Audio | None = None  # only the last block of a stream may be short

    def put(self, event: MixtureBlock | Flush | Reset | Control | Stage) -> None:
        """Queue an event behind those before it; a reset discards the audio that still waits."""
        with self._lock:
            if isinstance(event, MixtureBlock):
                self.waiting += event.gap + event.audio.shape[1]
            elif isinstance(event, Reset) and self._events:
                current, *others = self._events
                for other in others:
                    if isinstance(other, MixtureBlock):
                        self.waiting -= other.gap + other.audio.shape[1]
                kept = [other for other in others if not isinstance(other, MixtureBlock | Flush)]
                self._events = deque([current, *kept])
            self._events.append(event)

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self._events

    @property
    def deadline(self) -> float:
        """Deadline of the next event; 0 for events that take no time."""
        try:
            event = self._events[0]
        except IndexError:
            return math.inf
        return event.deadline if isinstance(event, MixtureBlock) else 0.0

    def work(self, now: Callable[[], float]) -> Work:
        """Carry out all queued events, in order; yields the steps of the network to run.

        Args:
            now: the clock that deadlines refer to.

        Raises:
            ProtocolError: if blocks break the promise of their size.
        """
        while self._events:
            event = self._events[0]  # stays queued until it is done: `deadline` reads it
            if isinstance(event, MixtureBlock):
                yield from self._separate(event)
                if now() > event.deadline:
                    self.misses += 1
            elif isinstance(event, Flush):
                yield from self._flush()
                self.results.append(event)
                self._begin_stream()
            elif isinstance(event, Reset):
                self.results.append(event)
                self._begin_stream()
            elif isinstance(event, Control):
                for name in ("vocals", "instrumental", "mute", "bypass"):
                    if (value := getattr(event, name)) is not None:
                        setattr(self.settings, name, value)
                self.results.append(event)
            else:
                self._later_stages.append(event)
                if self.position:
                    self._begin_next_stage()
                else:
                    self._begin_stream()
            with self._lock:
                self._events.popleft()

    def _separate(self, event: MixtureBlock) -> Work:
        audio = self._fill_gap(event.audio, event.gap) if event.gap else event.audio
        count = audio.shape[1]
        if self._short_block is not None:
            raise ProtocolError(
                "state",
                f"a block of {self._short_block.shape[1]} samples breaks the promise of "
                f"block={self.stage.separator.block_size}; only the last before a flush may",
            )
        try:
            steps = self.stage.separator.steps(audio)
        except ConfigError:
            self._short_block = audio
            return
        stems = yield from self._run_stage(self.stage, steps)
        following = self._next_stage
        if following is not None:
            other = yield from self._run_stage(following, following.separator.steps(audio))
            begin = max(0, self._switch_position - self.position)
            if begin < count:
                away = (other - stems)[..., begin:]
                stems[..., begin:] += away * self._crossfade.to(1.0, count - begin)
        if count:
            self._last_sample = audio[:, -1:]
        with self._lock:
            self.waiting -= count
        self._emit(stems)
        if following is not None and self._crossfade.value == 1.0:
            self.stage, self._next_stage = following, None
            self._begin_next_stage()

    def _run_stage(self, stage: Stage, steps: Steps) -> Generator[Step, Spectrum, Audio]:
        """Run the steps of a stage; returns stems and, if the client asked for it, the mix."""
        separator = stage.separator
        try:
            frames = next(steps)
            while True:
                vocals = np.empty_like(frames)
                for k, frame in enumerate(frames):
                    vocals[k] = yield Step(separator.backend, separator.stream, frame)
                frames = steps.send(vocals)
        except StopIteration as end:
            return self._mix(stage, end.value)

    def _mix(self, stage: Stage, stems: Audio) -> Audio:
        """Stems and mix, with the latency of the effects; skips what the client did not ask for."""
        if "mix" not in self._stems and not stage.mixer.delay:
            return stems
        mixed = stage.mix(stems, self.settings.gains(), float(self.settings.bypass))
        return mixed if "mix" in self._stems else mixed[:2]

    def _flush(self) -> Work:
        if self._next_stage is not None and self._crossfade.value:  # its stems are in use already
            self.stage, self._next_stage = self._next_stage, None
        stage = self.stage
        if self._short_block is not None:
            with self._lock:
                self.waiting -= self._short_block.shape[1]
        stems = yield from self._run_stage(stage, stage.separator.flush_steps(self._short_block))
        if stems.shape[2] and stage.mixer.delay:  # held back by the effects
            silence = np.zeros((2, self._channels, stage.mixer.delay), np.float32)
            stems = np.concatenate((stems, self._mix(stage, silence)), 2)
        self._emit(stems)

    def _begin_next_stage(self) -> None:
        """Start the next queued stage; one after the other, so that announced positions hold."""
        if self._next_stage is None and self._later_stages:
            self._next_stage, self._crossfade.value = self._later_stages.popleft(), 0.0
            self._switch_position = self.position + round(SETTLE_S * self._rate)
            self.results.append(StageChange(self._next_stage, self._switch_position))

    def _begin_stream(self) -> None:
        """Begin a new stream; stages that were queued apply from its first sample on."""
        self.position = 0
        for stage in (self._next_stage, *self._later_stages):
            if stage is not None:
                self.stage = stage
                self.results.append(StageChange(stage, 0))
        self._next_stage = None
        self._later_stages.clear()
        self.stage.reset()
        self._last_sample = np.zeros((self._channels, 1), np.float32)
        self._short_block = None

    def _emit(self, stems: Audio) -> None:
        self.position += stems.shape[2]
        self.results.append(stems if self._in_network_order else stems[self._order])

    def _fill_gap(self, audio: Audio, gap: int) -> Audio:
        """Audio with silence in place of the gap, without a click at either end."""
        fade = np.exp(-np.arange(1, gap + 1) / (GAP_FADE_S * self._rate)).astype(np.float32)
        after = audio.copy()
        if audio.shape[1]:
            rise = np.exp(-np.arange(1, audio.shape[1] + 1) / (GAP_FADE_S * self._rate))
            after -= audio[:, :1] * rise.astype(np.float32)
        return np.concatenate((self._last_sample * fade, after), 1)
