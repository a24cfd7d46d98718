"""One client's way through a server's desk: separator, effects and mix, without sockets or threads.

A `Strip` takes events in their order and gives results in theirs. The network's steps are not taken
here: `work` gives each as a `Step`, and the scheduler takes those of many strips at once.

Threads: `put` may be called from anywhere; everything else belongs to the scheduler's thread that
has the strip in hand.
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

PIECE = 512  # samples that effects are given at a time
SETTLE_S = 1.0  # a new separator listens that long before it is heard
GLIDE_S = 0.0015  # time constant of the way into and out of a gap
SILENT_DB = -200.0

Opener = Callable[[str, int, int, int | None], StreamingSeparator]
"""(preset, sample_rate, channels, block_size) -> a separator."""


class Step(NamedTuple):
    """A step of the network that is to be taken."""

    backend: Backend
    stream: Any
    frame: Spectrum


Work = Generator[Step, Spectrum, None]


class Arrived(NamedTuple):
    """Mixture to be separated; `gap` samples before it never came.

    Attributes:
        deadline: when its stems are to be there, in the scheduler's time.
    """

    audio: Audio
    gap: int
    deadline: float


@dataclass(frozen=True)
class Chosen:
    """Result: another voice is heard from a position on.

    Attributes:
        voice: that is heard.
        position: of the first stems that are not the former's alone.
    """

    voice: Voice
    position: int


class Voice:
    """A separator, and the effects and levels behind it.

    Args:
        opener: of separators.
        preset: that separates.
        effects: text of each stem's chain by its name (see `parse_chain`).
        names: of the chains, as the client gave them.
        sample_rate: in Hz.
        channels: of the audio.
        block_size: as for a separator.
        gains: factors of the stems to begin with.
        control: number of the message that asked for it.

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
            Chain(parse_chain(effects[stem]) if effects.get(stem) else [], sample_rate, channels,
                  PIECE)
            for stem in self.separator.stems
        ]  # fmt: skip
        self.mixer = Mixer(chains, sample_rate, channels, PIECE, gains)

    @property
    def latency(self) -> int:
        """Samples that stems and mix are late."""
        return self.separator.latency + self.mixer.delay

    def mixed(self, stems: Audio, gains: Sequence[float], bypass: float) -> Audio:
        """Vocals, instrumental and mix, (3, channels, n), of the separator's stems."""
        out = np.empty((3, *stems.shape[1:]), np.float32)
        for at in range(0, stems.shape[2], PIECE):
            part = slice(at, at + PIECE)
            out[:2, :, part], _, out[2, :, part] = self.mixer.mix(stems[..., part], gains, bypass)
        return out

    def reset(self) -> None:
        """Forget what was heard."""
        self.separator.reset()
        self.mixer.reset()


@dataclass
class Settings:
    """How a client's mix is set."""

    vocals: float = SILENT_DB
    instrumental: float = 0.0
    mute: bool = False
    bypass: bool = False

    def gains(self) -> tuple[float, float]:
        """Factors of vocals and instrumental."""
        if self.mute:
            return 0.0, 0.0
        first, second = (
            0.0 if level <= SILENT_DB else 10.0 ** (level / 20)
            for level in (self.vocals, self.instrumental)
        )
        return first, second


class Strip:
    """What is done with one client's audio.

    Args:
        voice: to begin with; its gains are those of `settings`.
        stems: names that the client wants, in its order.

    Attributes:
        voice: that is heard.
        settings: of the mix.
        results: what has come of the work and nobody has fetched: stems (arrays), and the events
            `Flush`, `Reset` and `Control` once they are done, and `Chosen`.
        position: samples of stems given in this stream.
        misses: blocks that were done after their deadline.
        waiting: samples that wait for their separation.
    """

    def __init__(self, voice: Voice, stems: Sequence[str]) -> None:
        self.voice, self.settings = voice, Settings()
        self.results: deque[Any] = deque()
        self.position = self.misses = self.waiting = 0
        self._events: deque[Any] = deque()
        self._lock = threading.Lock()  # of the events, held for a moment
        self._next: Voice | None = None
        self._switch = 0  # position at which it begins to be heard
        self._later: deque[Voice] = deque()  # that come after it
        separator = voice.separator
        self._rate, self._channels = separator.sample_rate, separator.channels
        self._change = Ramp(0.0, max(1, round(RAMP_S * self._rate)))
        order = {"vocals": 0, "instrumental": 1, "mix": 2}
        self._order = [order[name] for name in stems]
        self._as_is = self._order in ([0, 1], [0, 1, 2])  # `_mixed` gives no others
        self._stems = tuple(stems)
        self._last = np.zeros((self._channels, 1), np.float32)  # sample before a gap
        self._short: Audio | None = None  # a block that only the last of a stream may be

    def put(self, event: Arrived | Flush | Reset | Control | Voice) -> None:
        """Something to be done after all that was put before; a reset does away with audio."""
        with self._lock:
            if isinstance(event, Arrived):
                self.waiting += event.gap + event.audio.shape[1]
            elif isinstance(event, Reset) and self._events:
                in_hand, *others = self._events
                for other in others:
                    if isinstance(other, Arrived):
                        self.waiting -= other.gap + other.audio.shape[1]
                kept = [other for other in others if not isinstance(other, Arrived | Flush)]
                self._events = deque([in_hand, *kept])
            self._events.append(event)

    @property
    def idle(self) -> bool:
        """Whether there is nothing to be done."""
        return not self._events

    @property
    def deadline(self) -> float:
        """When the next thing is to be done; 0 for what takes no time."""
        try:
            event = self._events[0]
        except IndexError:
            return math.inf
        return event.deadline if isinstance(event, Arrived) else 0.0

    def work(self, now: Callable[[], float]) -> Work:
        """Do all that was put, in order; gives the steps that somebody must take.

        Raises:
            ProtocolError: for blocks that break the promise of their size.
        """
        while self._events:
            event = self._events[0]  # it stays until it is done: `deadline` is its own
            if isinstance(event, Arrived):
                yield from self._separate(event)
                if now() > event.deadline:
                    self.misses += 1
            elif isinstance(event, Flush):
                yield from self._flush()
                self.results.append(event)
                self._begin()
            elif isinstance(event, Reset):
                self.results.append(event)
                self._begin()
            elif isinstance(event, Control):
                for name in ("vocals", "instrumental", "mute", "bypass"):
                    if (value := getattr(event, name)) is not None:
                        setattr(self.settings, name, value)
                self.results.append(event)
            else:
                self._later.append(event)
                if self.position:
                    self._come_in()
                else:
                    self._begin()
            with self._lock:
                self._events.popleft()

    def _separate(self, event: Arrived) -> Work:
        audio = self._bridge_gap(event.audio, event.gap) if event.gap else event.audio
        count = audio.shape[1]
        if self._short is not None:
            raise ProtocolError(
                "state",
                f"a block of {self._short.shape[1]} samples breaks the promise of "
                f"block={self.voice.separator.block_size}; only the last before a flush may",
            )
        try:
            steps = self.voice.separator.steps(audio)
        except ConfigError:
            self._short = audio
            return
        stems = yield from self._voiced(self.voice, steps)
        following = self._next
        if following is not None:
            other = yield from self._voiced(following, following.separator.steps(audio))
            begin = max(0, self._switch - self.position)
            if begin < count:
                away = (other - stems)[..., begin:]
                stems[..., begin:] += away * self._change.to(1.0, count - begin)
        if count:
            self._last = audio[:, -1:]
        with self._lock:
            self.waiting -= count
        self._give(stems)
        if following is not None and self._change.value == 1.0:
            self.voice, self._next = following, None
            self._come_in()

    def _voiced(self, voice: Voice, steps: Steps) -> Generator[Step, Spectrum, Audio]:
        """Stems, and mix if it is wanted, of what steps give."""
        separator = voice.separator
        try:
            frames = next(steps)
            while True:
                vocals = np.empty_like(frames)
                for k, frame in enumerate(frames):
                    vocals[k] = yield Step(separator.backend, separator.stream, frame)
                frames = steps.send(vocals)
        except StopIteration as end:
            return self._mixed(voice, end.value)

    def _mixed(self, voice: Voice, stems: Audio) -> Audio:
        """Stems and mix, as late as the effects make them; no more work than is wanted."""
        if "mix" not in self._stems and not voice.mixer.delay:
            return stems
        mixed = voice.mixed(stems, self.settings.gains(), float(self.settings.bypass))
        return mixed if "mix" in self._stems else mixed[:2]

    def _flush(self) -> Work:
        if self._next is not None and self._change.value:  # it is heard already
            self.voice, self._next = self._next, None
        voice = self.voice
        if self._short is not None:
            with self._lock:
                self.waiting -= self._short.shape[1]
        stems = yield from self._voiced(voice, voice.separator.flush_steps(self._short))
        if stems.shape[2] and voice.mixer.delay:  # what the effects hold back
            silence = np.zeros((2, self._channels, voice.mixer.delay), np.float32)
            stems = np.concatenate((stems, self._mixed(voice, silence)), 2)
        self._give(stems)

    def _come_in(self) -> None:
        """The next voice begins to listen; one after the other, so that what is said holds."""
        if self._next is None and self._later:
            self._next, self._change.value = self._later.popleft(), 0.0
            self._switch = self.position + round(SETTLE_S * self._rate)
            self.results.append(Chosen(self._next, self._switch))

    def _begin(self) -> None:
        """A new stream; voices that were to come are there from its first sample on."""
        self.position = 0
        for voice in (self._next, *self._later):
            if voice is not None:
                self.voice = voice
                self.results.append(Chosen(voice, 0))
        self._next = None
        self._later.clear()
        self.voice.reset()
        self._last = np.zeros((self._channels, 1), np.float32)
        self._short = None

    def _give(self, stems: Audio) -> None:
        self.position += stems.shape[2]
        self.results.append(stems if self._as_is else stems[self._order])

    def _bridge_gap(self, audio: Audio, gap: int) -> Audio:
        """Silence in place of what never came, without a click at either end."""
        fade = np.exp(-np.arange(1, gap + 1) / (GLIDE_S * self._rate)).astype(np.float32)
        after = audio.copy()
        if audio.shape[1]:
            rise = np.exp(-np.arange(1, audio.shape[1] + 1) / (GLIDE_S * self._rate))
            after -= audio[:, :1] * rise.astype(np.float32)
        return np.concatenate((self._last * fade, after), 1)
