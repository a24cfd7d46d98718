"""pedalboard's call shape around anything that audio goes through, and chains of effects as such.

A `Line` turns `process(audio, sample_rate, buffer_size, reset)` into two simpler things that its
subclasses do: a whole song at once, and pieces of a stream that come out late by a known number of
samples. `bridge/pedalboard/separator.py` says what callers see.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from stemwire.errors import AudioError, ConfigError, StemwireError
from stemwire.extras import LIVE, extra
from stemwire.realtime.effects import Chain, parse_chain
from stemwire.realtime.ring import Audio
from stemwire.realtime.streaming import MAX_PEAK, first_invalid_sample, positive_int

BLOCK = 512  # samples that effects on a stream get at a time: plugins begin anew where it varies
AnyAudio = NDArray[np.floating[Any]]


class Layout(NamedTuple):
    """How a caller's audio lies: (n,) if flat, (n, channels) if `last`, else (channels, n)."""

    flat: bool
    last: bool
    channels: int


def arranged(audio: AnyAudio, known: Layout | None) -> tuple[Audio, Layout]:
    """float32 (channels, n) of what a caller gave, and how it lay.

    As in pedalboard the smaller dimension is the channels, unless the stream in hand tells.

    Raises:
        AudioError: for other shapes and types.
    """
    audio = np.asarray(audio)
    if audio.dtype not in (np.float32, np.float64):
        raise AudioError(
            f"audio must be float32 or float64, not {audio.dtype}; of integers, divide by full "
            "scale first"
        )
    if audio.ndim == 1:
        return np.ascontiguousarray(audio, np.float32)[None], Layout(True, False, 1)
    if audio.ndim != 2:
        raise AudioError(
            f"audio must have the shape (n,), (channels, n) or (n, channels), not {audio.shape}"
        )
    rows, columns = audio.shape
    if known and not known.flat and audio.shape[known.last] == known.channels:
        last = known.last
    elif rows == columns:
        raise AudioError(f"shape {audio.shape} does not tell channels from samples; give more")
    else:
        last = rows == 0 or 0 < columns < rows
    channels = columns if last else rows
    audio = np.ascontiguousarray(audio.T if last else audio, np.float32)
    return audio, Layout(False, last, channels)


def restored(audio: Audio, layout: Layout) -> Audio:
    """float32 (channels, n) as the caller's audio lay."""
    if layout.flat:
        audio = audio[0]
    return np.ascontiguousarray(audio.T) if layout.last else audio


class Part(ABC):
    """Something that audio goes through, all of it or piece by piece.

    Attributes:
        delay: samples that pieces come out late, once lined up.
        grain: what sizes of pieces are multiples of.
    """

    delay = 0
    grain = 1

    @abstractmethod
    def open(self, rate: int, channels: int) -> None:
        """Get ready for audio of this kind."""

    @abstractmethod
    def line_up(self) -> None:
        """Get ready for a new stream."""

    @abstractmethod
    def run_whole(self, audio: Audio, buffer_size: int) -> Audio:
        """All of a song, float32 (channels, n), aligned."""

    @abstractmethod
    def run(self, audio: Audio) -> Audio:
        """The next piece of a stream, float32 (channels, n), `delay` samples late."""

    def end(self) -> None:  # noqa: B027 - what `line_up` does anyway need not be done here
        """Forget a stream that was begun."""

    def drop(self) -> None:  # noqa: B027 - most have nothing that is open
        """Let go of what is open."""


class Board(Part):
    """Effects: a `Pedalboard`, a plugin, a list of plugins, or text as `parse_chain` takes it.

    Args:
        effects: None does nothing.
        name: for errors.

    Raises:
        ConfigError: for what is none of these, or where pedalboard is not installed.
    """

    grain = BLOCK

    def __init__(self, effects: Any, name: str) -> None:
        self.name = name
        self.board: Any = None
        self.chain: Chain | None = None
        if effects is None:
            return
        pedalboard: Any = extra("pedalboard", "a chain of effects", LIVE)
        if isinstance(effects, str):
            effects = parse_chain(effects)
        elif not isinstance(effects, Sequence | pedalboard.Pedalboard):
            effects = [effects]
        try:
            self.board = pedalboard.Pedalboard(list(effects))
        except (TypeError, ValueError, RuntimeError) as error:
            raise ConfigError(
                f"{name}: {effects!r} cannot be; expected a Pedalboard, plugins of pedalboard, or "
                "text such as 'Reverb'"
            ) from error

    def plugins(self) -> Iterator[Any]:
        """Its plugins, those in chains within it too."""
        stack = [] if self.board is None else [self.board]
        while stack:
            plugin = stack.pop()
            if hasattr(plugin, "__iter__"):
                stack += list(plugin)
            else:
                yield plugin

    def open(self, rate: int, channels: int) -> None:
        self._rate, self._channels, self.chain = rate, channels, None

    def line_up(self) -> None:
        plugins = [] if self.board is None else [self.board]
        try:
            self.chain = Chain(plugins, self._rate, self._channels, BLOCK)
        except ConfigError as error:
            raise ConfigError(f"{self.name}: {error}") from error
        self.delay = self.chain.delay

    def run_whole(self, audio: Audio, buffer_size: int) -> Audio:
        if self.board is None:
            return audio
        channels, count = audio.shape
        more = max(0, channels + 1 - count)  # so few samples pedalboard would take for channels
        audio = np.pad(audio, ((0, 0), (0, more)))
        try:
            out: Audio = self.board.process(audio, self._rate, buffer_size, True)
        except Exception as error:  # a plugin may raise anything
            reason = " ".join(str(error).split())
            raise ConfigError(f"{self.name}: {reason}; change or leave them out") from error
        if out.shape != audio.shape:
            raise ConfigError(
                f"{self.name}: gave back {out.shape[1]} of {count} samples; leave out what keeps "
                "the rest"
            )
        if not np.isfinite(out).all():
            raise ConfigError(f"{self.name}: gave NaN or Inf; change or leave them out")
        return out[:, :count]

    def run(self, audio: Audio) -> Audio:
        assert self.chain is not None
        out = np.empty_like(audio)
        for at in range(0, audio.shape[1], BLOCK):
            block = np.ascontiguousarray(audio[:, at : at + BLOCK])
            out[:, at : at + BLOCK] = self.chain.process(block)
        self.check()
        return out

    def check(self) -> None:
        """Raise `ConfigError` if the chain failed: live music goes on then, a script is told."""
        if self.chain is not None and self.chain.failures:
            raise ConfigError(
                f"{self.name}: {self.chain.problem or 'have failed'}; change or leave them out, or "
                "give the song in one piece"
            )


def no_plugin_twice(boards: Sequence[Board]) -> None:
    """Refuse a plugin that would hear two streams: what it remembers would mix them."""
    seen: list[tuple[Any, str]] = []
    for board in boards:
        for plugin in board.plugins():
            for other, name in seen:
                if plugin is other:
                    raise ConfigError(
                        f"{plugin!r} is in {name} and in {board.name}; a plugin is one stream: "
                        "make another for the second"
                    )
            seen.append((plugin, board.name))


class Line(Part):
    """A part that scripts call."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._kind: tuple[int, int] | None = None  # rate and channels that it is open for
        self._layout = Layout(False, False, 2)
        self._forget()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of connections to servers, if there are any; the next call opens others."""
        with self._lock:
            self.drop()

    def process(
        self,
        input_array: AnyAudio,
        sample_rate: float,
        buffer_size: int = 8192,
        reset: bool = True,
    ) -> Audio:
        """Process a song or, with `reset=False`, the next piece of one.

        Args:
            input_array: float32 or float64 (n,), (channels, n) or (n, channels).
            sample_rate: of the audio, Hz.
            buffer_size: samples that effects are given at a time, for a whole song.
            reset: whether the audio is a whole song.

        Returns:
            float32 of the same shape; with `reset=False` fewer samples, or none, at first.

        Raises:
            AudioError: for shapes, types and samples that cannot be; a stream stands as before.
            ConfigError: for a rate or number of channels that cannot be or that changes within a
                stream (which then stands as before), and for effects that fail.
            BridgeError: if a server cannot be reached or is gone.
        """
        with self._lock:
            rate, buffer_size = (
                positive_int("sample_rate", sample_rate),
                positive_int("buffer_size", buffer_size),
            )
            going_on = not reset and self._taken > 0
            audio, layout = arranged(input_array, self._layout if going_on else None)
            if (bad := first_invalid_sample(audio)) is not None:
                raise AudioError(
                    f"NaN, Inf or beyond {MAX_PEAK:g} at sample {bad} ({bad / rate:.3f} s); repair "
                    "the audio there"
                )
            kind = (rate, layout.channels)
            if going_on and self._kind and kind != self._kind:
                raise ConfigError(
                    f"the stream has {self._kind[0]} Hz and {self._kind[1]} channels, not {rate} "
                    f"Hz and {layout.channels}; flush() or reset() it first, or use another object "
                    "for another stream"
                )
            if reset:
                self.reset()
            self._layout = layout
            if audio.shape[1] == 0:
                return restored(audio, layout)
            try:
                if kind != self._kind:
                    self._kind = None
                    self.open(*kind)
                    self._kind = kind
                out = self.run_whole(audio, buffer_size) if reset else self._next(audio)
            except BaseException:
                self.drop()
                raise
            return restored(out, layout)

    __call__ = process

    def flush(self) -> Audio:
        """End a stream: give what was held back. The next piece begins another stream.

        Returns:
            float32, lying as the last piece did; all pieces and this are as long as what went in.
        """
        with self._lock:
            if not self._taken:
                return restored(np.zeros((self._layout.channels, 0), np.float32), self._layout)
            silence = self.delay + -(self._pending.shape[1] + self.delay) % self.grain
            try:
                self._take(np.pad(self._pending, ((0, 0), (0, silence))))
            except BaseException:
                self.drop()
                raise
            tail = self._give(self._taken - self._given)
            self.reset()
            return restored(tail, self._layout)

    def reset(self) -> None:
        """Forget the stream."""
        with self._lock:
            if self._taken:
                try:
                    self.end()
                except StemwireError:  # of a connection: with it the stream is forgotten as well
                    self.drop()
            self._forget()

    @property
    def reported_latency_samples(self) -> int:
        """Samples that a stream holds back; 0 before the first audio, which tells the rate."""
        with self._lock:
            if self._kind is None:
                return 0
            if not self._taken:
                self.line_up()
            return self.delay + self.grain - 1

    def drop(self) -> None:
        self._kind = None
        self._forget()

    def _forget(self) -> None:
        self._taken = self._given = self._late = 0
        self._pending = self._ready = np.zeros((self._layout.channels, 0), np.float32)

    def _next(self, audio: Audio) -> Audio:
        """The next piece, (channels, n): what is due for it."""
        if not self._taken:
            self.line_up()
            self._late = self.delay
            self._pending = self._ready = audio[:, :0]
        self._taken += audio.shape[1]
        audio = np.concatenate((self._pending, audio), 1)
        count = audio.shape[1] // self.grain * self.grain
        self._pending = audio[:, count:].copy()
        self._take(audio[:, :count])
        return self._give(max(0, self._taken - self.delay - self.grain + 1) - self._given)

    def _take(self, audio: Audio) -> None:
        """A multiple of the grain on its way; what comes before the first sample is dropped."""
        if audio.shape[1] == 0:
            return
        out = self.run(audio)
        dropped = min(self._late, out.shape[1])
        self._late -= dropped
        self._ready = np.concatenate((self._ready, out[:, dropped:]), 1)

    def _give(self, count: int) -> Audio:
        """The next samples that are ready."""
        out, self._ready = self._ready[:, :count].copy(), self._ready[:, count:]
        self._given += count
        return out
