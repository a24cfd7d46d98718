"""The streaming separator: blocks of any size in, stems of the same size out, at a fixed latency.

Path of a block: input buffer -> complete hops -> analysis window and FFT -> network step ->
inverse FFT, synthesis window, overlap-add -> vocals; instrumental = delayed mixture - vocals ->
output ring.

The latency has three parts, in samples at the caller's rate: one hop, until overlap-add completes
the samples that a frame contributes to (the network's frame itself ends with the newest sample); a
hop for each frame of lookahead; and the priming of the output ring, `hop - gcd(block_size, hop)`,
the minimum with which it never runs dry.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator

import numpy as np

from stemwire.errors import AudioError, ConfigError
from stemwire.model.config import SeparatorConfig
from stemwire.realtime.backends.interface import Backend
from stemwire.realtime.backends.native_library import native_problem
from stemwire.realtime.backends.native_stft import NativeSTFT
from stemwire.realtime.ring import Audio, Ring
from stemwire.realtime.stft import MAX_HOPS, FrameGeometry, Spectrum, StreamingSTFT
from stemwire.realtime.timing import TimeHistogram

Steps = Generator[Spectrum, Spectrum, Audio]
"""Generator that leaves the network's steps to its caller: it yields mixture frames, (n, C, bins),
is sent the vocal frames, for one hop or several at once, and returns the stems."""

MAX_PEAK = 1e6  # times full scale; far beyond, the network's state overflows for good


def peak_of(audio: Audio) -> float:
    """Largest magnitude; 0 for empty audio, NaN if any sample is."""
    return float(np.maximum.reduce(np.abs(audio), axis=None, initial=0.0))


def first_invalid_sample(block: Audio) -> int | None:
    """Index of the first sample that is NaN, Inf or beyond `MAX_PEAK`; None if all are good."""
    # One call, because this is in the audio path: a bad sample makes the sum of squares larger.
    if np.vdot(block, block) <= MAX_PEAK**2 or peak_of(block) <= MAX_PEAK:
        return None
    return int(np.flatnonzero(~(np.abs(block) <= MAX_PEAK).all(0))[0])


def positive_int(name: str, value: object) -> int:
    """Positive whole number, or a `ConfigError` that names the setting."""
    number = value.item() if isinstance(value, np.generic) else value
    if isinstance(number, bool) or not isinstance(number, int | float) or number != number // 1:
        raise ConfigError(f"{name} must be a whole number, not {value!r}")
    if number < 1:
        raise ConfigError(f"{name} must be positive, not {value!r}")
    return int(number)


def check_channels(channels: int, most: int) -> None:
    """Refuse a number of channels that cannot be separated.

    Raises:
        ConfigError: if it is not 1 to `most`.
    """
    if not 1 <= channels <= most:
        raise ConfigError(
            f"{channels} channels cannot be separated; expected 1 to {most}: mix them down"
        )


def check_block(block: Audio, channels: int) -> None:
    """Refuse a block that cannot be separated; local and remote separators share this check.

    Args:
        block: the block, expected as float32 (channels, n).
        channels: channels of the stream.

    Raises:
        AudioError: for a wrong shape or type, or samples that are NaN, Inf or beyond `MAX_PEAK`.
    """
    if not isinstance(block, np.ndarray) or block.dtype != np.float32:
        kind = getattr(block, "dtype", type(block).__name__)
        raise AudioError(f"a block must be a float32 array, not {kind}; convert it first")
    if block.ndim != 2 or block.shape[0] != channels:
        raise AudioError(
            f"a block must have shape ({channels}, n), not {block.shape}; channels come first"
        )
    if (bad := first_invalid_sample(block)) is not None:
        raise AudioError(
            f"NaN, Inf or beyond {MAX_PEAK:g} at sample {bad} of a block; nothing of it was taken: "
            "repair it and push again"
        )


def block_size_error(count: int, block_size: int | None, grain: int) -> ConfigError:
    """Error for a block of `count` samples that breaks the promise of `block_size`."""
    return ConfigError(
        f"a block of {count} samples breaks the promise of block_size={block_size}: expected "
        f"multiples of {grain}; push a shorter last block with flush(block), or load with "
        "block_size=None"
    )


class StreamingSeparator:
    """Separates a stream of plain arrays, without devices; for one thread at a time.

    Args:
        backend: backend that runs the network.
        config: configuration of the network.
        sample_rate: sample rate of the audio in Hz.
        channels: number of channels of the audio, 1 or 2.
        block_size: samples of every block (or a divisor: multiples of its greatest common divisor
            with the hop are accepted), which minimizes the latency. None accepts blocks of any
            size at any time.
        together: hops of a long block that go through the network at once, up to `MAX_HOPS`.

    Raises:
        ConfigError: for an invalid rate, channel count or block size.

    Attributes:
        stream: state of the network for this audio.
        stems: names of the stems, in the order of the output.
        latency: samples from input to the same output, buffering included: sample k of the input
            is sample k + latency of the output.
        hop_times: processing time of each hop; hops processed together share theirs evenly.
    """

    def __init__(
        self,
        backend: Backend,
        config: SeparatorConfig,
        sample_rate: int,
        channels: int,
        block_size: int | None,
        together: int = MAX_HOPS,
    ) -> None:
        sample_rate = positive_int("sample_rate", sample_rate)
        channels = positive_int("channels", channels)
        block_size = None if block_size is None else positive_int("block_size", block_size)
        check_channels(channels, config.channels)
        self.config, self.backend = config, backend
        self.sample_rate, self.channels, self.block_size = sample_rate, channels, block_size
        self.stems = config.stems
        geometry = FrameGeometry.at(config, sample_rate)
        self.hop = geometry.hop
        self._granularity = math.gcd(block_size or 1, self.hop)
        self._priming = self.hop - self._granularity
        self._lookahead = config.lookahead * self.hop  # in samples
        self.latency = self._lookahead + self.hop + self._priming
        self.hop_times = TimeHistogram()
        stft = StreamingSTFT if native_problem() else NativeSTFT
        self._stft = stft(geometry, config.channels)
        self.stream = backend.open()
        self._capacity = together * self.hop
        # Input whose vocals are still to come, oldest first, then the hops that are being filled.
        self._delayed = self._lookahead + self.hop
        self._input = np.zeros((channels, self._delayed + self._capacity), np.float32)
        self._separated = np.zeros((len(self.stems), channels, self._capacity), np.float32)
        self._output = Ring((len(self.stems), channels), self.hop + self._capacity)
        self.reset()

    def push(self, block: Audio) -> Audio:
        """Separate the next block.

        Args:
            block: float32 (channels, n), n >= 0.

        Returns:
            Stems, float32 (stems, channels, n), `latency` samples late; they sum to the mixture.

        Raises:
            AudioError: for a wrong shape or type, or NaN or Inf; the stream is then unchanged.
            ConfigError: if n does not fit the `block_size` of the separator.
        """
        check_block(block, self.channels)
        return self._run(self.steps(block))

    def steps(self, block: Audio) -> Steps:
        """As `push`, for callers that run the network's steps on `stream` themselves.

        They must have checked shape and type of the block, and that it has no NaN or Inf. A wrong
        size is raised at once; otherwise the generator must be exhausted before the next call.
        """
        count = block.shape[1]
        if (self._filled + count) % self._granularity:
            raise block_size_error(count, self.block_size, self._granularity)
        return self._advance(block)

    def flush(self, block: Audio | None = None) -> Audio:
        """End the stream: return what is still inside, and be ready for the next stream.

        Args:
            block: last block, of any size, to separate first; None is none.

        Returns:
            Stems, float32 (stems, channels, n + latency), or (stems, channels, 0) if nothing was
            pushed.

        Raises:
            AudioError: as `push`.
        """
        if block is not None:
            check_block(block, self.channels)
        return self._run(self.flush_steps(block))

    def flush_steps(self, block: Audio | None = None) -> Steps:
        """As `flush`, for callers that run the network's steps themselves; see `steps`."""
        return self._flush(np.zeros((self.channels, 0), np.float32) if block is None else block)

    def _flush(self, last: Audio) -> Steps:
        if self._pushed + last.shape[1] == 0:
            return np.zeros((len(self.stems), self.channels, 0), np.float32)
        length = last.shape[1] + self.latency
        silence = self.latency + -(self._filled + length) % self._granularity
        stems = yield from self._advance(np.pad(last, ((0, 0), (0, silence))))
        self.reset()
        return stems[..., :length]

    def reset(self) -> None:
        """Discard the stream; `hop_times` is kept."""
        self._stft.reset()
        self.stream.reset()
        self._output.reset(zeros=self._priming)
        self._input[:] = 0.0
        self._filled = 0
        self._pushed = 0

    def _run(self, steps: Steps) -> Audio:
        """Run the generator with this stream's network steps."""
        try:
            frames = next(steps)
            while True:
                frames = steps.send(self.stream.run(frames))
        except StopIteration as end:
            stems: Audio = end.value
            return stems

    def _advance(self, block: Audio) -> Steps:
        count = block.shape[1]
        out = np.empty((len(self.stems), self.channels, count), np.float32)
        at = 0
        while at < count:
            part = min(self._capacity - self._filled, count - at)
            end = self._delayed + self._filled + part
            self._input[:, end - part : end] = block[:, at : at + part]
            self._filled += part
            if complete := self._filled // self.hop * self.hop:
                yield from self._separate(complete)
                self._filled -= complete
                self._input[:, : end - complete] = self._input[:, complete:end]
            self._output.read_into(out[..., at : at + part])
            at += part
        self._pushed += count
        return out

    def _separate(self, count: int) -> Generator[Spectrum, Spectrum, None]:
        """Separate `count` samples, whole hops, into the output ring."""
        start = time.perf_counter()
        # Mono becomes two equal channels.
        frames = self._stft.analyse(self._input[:, self._delayed : self._delayed + count])
        vocals = self._stft.synthesise((yield frames))
        if self.channels < len(vocals):
            vocals = vocals.mean(0, keepdims=True)
        stems = self._separated[..., :count]
        stems[0] = vocals
        np.subtract(self._input[:, :count], vocals, out=stems[1])
        self._output.write(stems)
        hops = count // self.hop
        share = (time.perf_counter() - start) / hops
        for _ in range(hops):
            self.hop_times.add(share)
