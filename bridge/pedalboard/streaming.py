"""Processors with the call signature of pedalboard's plugins, and chains of effects as processors.

A `StreamProcessor` reduces `process(audio, sample_rate, buffer_size, reset)` to two simpler
operations of its subclasses: processing a whole song, and processing pieces of a stream with a
known delay. `bridge/pedalboard/separator.py` describes the behaviour for callers.
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

BLOCK = 512  # samples per call of effects on a stream: plugins start over if it varies
AnyAudio = NDArray[np.floating[Any]]


class Layout(NamedTuple):
    """Layout of a caller's audio.

    Attributes:
        flat: whether its shape is (n,).
        channels_last: whether its shape is (n, channels); else, if not flat, (channels, n).
        channels: number of channels.
    """

    flat: bool
    channels_last: bool
    channels: int


def to_channels_first(audio: AnyAudio, known: Layout | None) -> tuple[Audio, Layout]:
    """Convert a caller's audio to float32 (channels, n); returns it and its original layout.

    As in pedalboard, the smaller dimension holds the channels, unless `known`, the layout of the
    current stream, decides.

    Raises:
        AudioError: for other shapes and types.
    """
    audio = np.asarray(audio)
    if audio.dtype not in (np.float32, np.float64):
        raise AudioError(
            f"audio must be float32 or float64, not {audio.dtype}; divide integers by full "
            "scale first"
        )
    if audio.ndim == 1:
        return np.ascontiguousarray(audio, np.float32)[None], Layout(True, False, 1)
    if audio.ndim != 2:
        raise AudioError(
            f"audio must have the shape (n,), (channels, n) or (n, channels), not {audio.shape}"
        )
    rows, columns = audio.shape
    if known and not known.flat and audio.shape[known.channels_last] == known.channels:
        channels_last = known.channels_last
    elif rows == columns:
        raise AudioError(
            f"shape {audio.shape} does not tell channels from samples; give more samples"
        )
    else:
        channels_last = rows == 0 or 0 < columns < rows
    channels = columns if channels_last else rows
    audio = np.ascontiguousarray(audio.T if channels_last else audio, np.float32)
    return audio, Layout(False, channels_last, channels)


def to_layout(audio: Audio, layout: Layout) -> Audio:
    """Convert float32 (channels, n) back to the layout of the caller's audio."""
    if layout.flat:
        audio = audio[0]
    return np.ascontiguousarray(audio.T) if layout.channels_last else audio


class Processor(ABC):
    """A processor of audio, of whole songs or of streams piece by piece.

    Attributes:
        delay: delay of a stream in samples, known once it has started.
        grain: samples of which the sizes of pieces must be multiples.
    """

    delay = 0
    grain = 1

    @abstractmethod
    def prepare(self, rate: int, channels: int) -> None:
        """Prepare for audio of this sample rate and number of channels."""

    @abstractmethod
    def start_stream(self) -> None:
        """Prepare for a new stream."""

    @abstractmethod
    def process_song(self, audio: Audio, buffer_size: int) -> Audio:
        """Process a whole song, float32 (channels, n); the result is aligned with it."""

    @abstractmethod
    def process_piece(self, audio: Audio) -> Audio:
        """Process the next piece of a stream, float32 (channels, n); the result is delayed."""

    def discard_stream(self) -> None:  # noqa: B027 - optional: `start_stream` follows
        """Discard a stream that has started."""

    def release(self) -> None:  # noqa: B027 - most hold no resources
        """Release open resources."""


class EffectsProcessor(Processor):
    """A chain of effects as a processor.

    Args:
        effects: `Pedalboard`, plugin, list of plugins, or text in the form of `parse_chain`; None
            passes audio through.
        name: name of the chain in errors.

    Raises:
        ConfigError: for anything else, or if pedalboard is not installed.
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
                f"{name}: {effects!r} is invalid; expected a Pedalboard, plugins of pedalboard, or "
                "text such as 'Reverb'"
            ) from error

    def plugins(self) -> Iterator[Any]:
        """All plugins, including those in nested chains."""
        stack = [] if self.board is None else [self.board]
        while stack:
            plugin = stack.pop()
            if hasattr(plugin, "__iter__"):
                stack += list(plugin)
            else:
                yield plugin

    def prepare(self, rate: int, channels: int) -> None:
        self._rate, self._channels, self.chain = rate, channels, None

    def start_stream(self) -> None:
        plugins = [] if self.board is None else [self.board]
        try:
            self.chain = Chain(plugins, self._rate, self._channels, BLOCK)
        except ConfigError as error:
            raise ConfigError(f"{self.name}: {error}") from error
        self.delay = self.chain.delay

    def process_song(self, audio: Audio, buffer_size: int) -> Audio:
        if self.board is None:
            return audio
        channels, count = audio.shape
        padding = max(0, channels + 1 - count)  # or pedalboard takes the samples for channels
        audio = np.pad(audio, ((0, 0), (0, padding)))
        try:
            out: Audio = self.board.process(audio, self._rate, buffer_size, True)
        except Exception as error:  # a plugin may raise anything
            reason = " ".join(str(error).split())
            raise ConfigError(f"{self.name}: {reason}; change or remove them") from error
        if out.shape != audio.shape:
            raise ConfigError(
                f"{self.name}: returned {out.shape[1]} of {count} samples; remove the effect that "
                "keeps the rest"
            )
        if not np.isfinite(out).all():
            raise ConfigError(f"{self.name}: returned NaN or Inf; change or remove them")
        return out[:, :count]

    def process_piece(self, audio: Audio) -> Audio:
        assert self.chain is not None
        out = np.empty_like(audio)
        for at in range(0, audio.shape[1], BLOCK):
            block = np.ascontiguousarray(audio[:, at : at + BLOCK])
            out[:, at : at + BLOCK] = self.chain.process(block)
        self.raise_failure()
        return out

    def raise_failure(self) -> None:
        """Raise `ConfigError` if the chain failed; live, the music would go on without it."""
        if self.chain is not None and self.chain.failures:
            raise ConfigError(
                f"{self.name}: {self.chain.problem or 'have failed'}; change or remove them, or "
                "process the song in one piece"
            )


def check_plugins_are_distinct(chains: Sequence[EffectsProcessor]) -> None:
    """Refuse a plugin in two places: its state would mix the two streams."""
    seen: list[tuple[Any, str]] = []
    for chain in chains:
        for plugin in chain.plugins():
            for other, name in seen:
                if plugin is other:
                    raise ConfigError(
                        f"{plugin!r} is in {name} and in {chain.name}; a plugin processes one "
                        "stream: make another for the second"
                    )
            seen.append((plugin, chain.name))


class StreamProcessor(Processor):
    """A processor that scripts call as they call pedalboard's plugins."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._prepared_for: tuple[int, int] | None = None  # rate and channels
        self._layout = Layout(False, False, 2)
        self._clear_stream()

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
        """Close connections to servers, if there are any; the next call opens new ones."""
        with self._lock:
            self.release()

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
            sample_rate: sample rate of the audio, Hz.
            buffer_size: samples per call of effects, for a whole song.
            reset: whether the audio is a whole song.

        Returns:
            float32 of the same shape; with `reset=False` fewer samples, or none, at first.

        Raises:
            AudioError: for invalid shapes, types and samples; a stream is then unchanged.
            ConfigError: for a rate or number of channels that is invalid or that changes within a
                stream (which is then unchanged), and for effects that fail.
            BridgeError: if a server cannot be reached, or its session is lost.
        """
        with self._lock:
            rate = positive_int("sample_rate", sample_rate)
            buffer_size = positive_int("buffer_size", buffer_size)
            continues = not reset and self._received > 0
            audio, layout = to_channels_first(input_array, self._layout if continues else None)
            if (bad := first_invalid_sample(audio)) is not None:
                raise AudioError(
                    f"NaN, Inf or beyond {MAX_PEAK:g} at sample {bad} ({bad / rate:.3f} s); repair "
                    "the audio there"
                )
            stream = rate, layout.channels
            if continues and self._prepared_for and stream != self._prepared_for:
                stream_rate, stream_channels = self._prepared_for
                raise ConfigError(
                    f"the stream has {stream_rate} Hz and {stream_channels} channels, not {rate} "
                    f"Hz and {layout.channels}; flush() or reset() it first, or use another object "
                    "for another stream"
                )
            if reset:
                self.reset()
            self._layout = layout
            if audio.shape[1] == 0:
                return to_layout(audio, layout)
            try:
                if stream != self._prepared_for:
                    self._prepared_for = None
                    self.prepare(*stream)
                    self._prepared_for = stream
                out = self.process_song(audio, buffer_size) if reset else self._next(audio)
            except BaseException:
                self.release()
                raise
            return to_layout(out, layout)

    __call__ = process

    def flush(self) -> Audio:
        """End a stream and return what was held back; the next piece starts another stream.

        Returns:
            float32 in the layout of the last piece; all pieces and this have the length of the
            input together.
        """
        with self._lock:
            if not self._received:
                return to_layout(np.zeros((self._layout.channels, 0), np.float32), self._layout)
            silence = self.delay + -(self._pending.shape[1] + self.delay) % self.grain
            try:
                self._process_grains(np.pad(self._pending, ((0, 0), (0, silence))))
            except BaseException:
                self.release()
                raise
            tail = self._take_ready(self._received - self._returned)
            self.reset()
            return to_layout(tail, self._layout)

    def reset(self) -> None:
        """Discard the stream."""
        with self._lock:
            if self._received:
                try:
                    self.discard_stream()
                except StemwireError:  # of a connection, without which there is no stream
                    self.release()
            self._clear_stream()

    @property
    def reported_latency_samples(self) -> int:
        """Samples that a stream holds back; 0 before the first audio, which sets the rate."""
        with self._lock:
            if self._prepared_for is None:
                return 0
            if not self._received:
                self.start_stream()
            return self.delay + self.grain - 1

    def release(self) -> None:
        self._prepared_for = None
        self._clear_stream()

    def _clear_stream(self) -> None:
        self._received = self._returned = self._delay_left = 0
        self._pending = self._ready = np.zeros((self._layout.channels, 0), np.float32)

    def _next(self, audio: Audio) -> Audio:
        """Take the next piece, (channels, n), and return the samples that are due."""
        if not self._received:
            self.start_stream()
            self._delay_left = self.delay
            self._pending = self._ready = audio[:, :0]
        self._received += audio.shape[1]
        audio = np.concatenate((self._pending, audio), 1)
        count = audio.shape[1] // self.grain * self.grain
        self._pending = audio[:, count:].copy()
        self._process_grains(audio[:, :count])
        return self._take_ready(
            max(0, self._received - self.delay - self.grain + 1) - self._returned
        )

    def _process_grains(self, audio: Audio) -> None:
        """Process a multiple of the grain; samples before the first of the stream are dropped."""
        if audio.shape[1] == 0:
            return
        out = self.process_piece(audio)
        dropped = min(self._delay_left, out.shape[1])
        self._delay_left -= dropped
        self._ready = np.concatenate((self._ready, out[:, dropped:]), 1)

    def _take_ready(self, count: int) -> Audio:
        """Take the next samples that are ready."""
        out, self._ready = self._ready[:, :count].copy(), self._ready[:, count:]
        self._returned += count
        return out
