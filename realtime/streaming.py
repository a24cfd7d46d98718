"""The streaming separator: blocks of any size in, stems of the same size out, at a fixed delay.

One block's way: input ring -> whole hops -> analysis window and FFT -> network step -> inverse FFT,
synthesis window, overlap-add -> vocals; instrumental = delayed mixture - vocals -> output ring.

The delay has three parts, in samples at the host's rate: one hop, until overlap-add completes what
a frame adds to (the network's frame itself ends with the newest sample); a hop for each frame that
the network looks ahead; and the priming of the output ring, `hop - gcd(block_size, hop)`, the least
that never runs dry.
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
"""Work in which the network's steps are somebody else's: gives mixture frames, (n, C, bins), and
takes the vocal frames, for every hop or several at once; returns the stems."""

MAX_PEAK = 1e6  # of full scale; far beyond, the network's numbers overflow and stay so


def peak_of(audio: Audio) -> float:
    """The largest magnitude; 0 of nothing, NaN if there is one."""
    return float(np.maximum.reduce(np.abs(audio), axis=None, initial=0.0))


def first_invalid_sample(block: Audio) -> int | None:
    """Index of the first sample that is NaN, Inf or beyond `MAX_PEAK`; None if all are good."""
    # In one call, for audio waits for it: no bad sample leaves a sum of squares this small.
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


class StreamingSeparator:
    """Separates a stream. Plain arrays, one thread at a time, no devices.

    Args:
        backend: runs the network.
        config: of the network.
        sample_rate: of the audio, Hz.
        channels: of the audio, 1 or 2.
        block_size: if every block will have this many samples (or a multiple of its greatest
            common divisor with the hop), the delay is as small as that allows. None: blocks of any
            size at any time.
        together: hops of a long block that go through the network in one go, up to `MAX_HOPS`.

    Raises:
        ConfigError: for a rate, channel count or block size that cannot work.

    Attributes:
        stream: the network on its way through this audio.
        stems: names of the stems, in the order of the output.
        latency: delay in samples at `sample_rate`, buffering included. Sample k of the input is
            sample k + latency of the output.
        hop_times: time each hop took; those that went together share theirs evenly.
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
        sample_rate, channels = (
            positive_int("sample_rate", sample_rate),
            positive_int("channels", channels),
        )
        block_size = None if block_size is None else positive_int("block_size", block_size)
        if not 1 <= channels <= config.channels:
            raise ConfigError(
                f"{channels} channels cannot be separated; expected 1 to {config.channels}: "
                "mix them down"
            )
        self.config, self.backend = config, backend
        self.sample_rate, self.channels, self.block_size = sample_rate, channels, block_size
        self.stems = config.stems
        geometry = FrameGeometry.at(config, sample_rate)
        self.hop = geometry.hop
        self._grain = math.gcd(block_size or 1, self.hop)
        self._priming = self.hop - self._grain
        self._late = config.lookahead * self.hop  # samples that the network looks ahead
        self.latency = self._late + self.hop + self._priming
        self.hop_times = TimeHistogram()
        stft = StreamingSTFT if native_problem() else NativeSTFT
        self._stft = stft(geometry, config.channels)
        self.stream = backend.open()
        self._room = together * self.hop
        # What vocals are still to come of, the oldest next, then the hops that are filling up.
        self._waiting = self._late + self.hop
        self._input = np.zeros((channels, self._waiting + self._room), np.float32)
        self._separated = np.zeros((len(self.stems), channels, self._room), np.float32)
        self._output = Ring((len(self.stems), channels), self.hop + self._room)
        self.reset()

    def push(self, block: Audio) -> Audio:
        """Take the next block, give as much of the stems.

        Args:
            block: float32 (channels, n), n >= 0.

        Returns:
            float32 (stems, channels, n), `latency` samples behind; stems sum to the mixture.

        Raises:
            AudioError: for a wrong shape or type, or NaN or Inf; the stream then stands as before.
            ConfigError: if n does not fit the `block_size` that was promised.
        """
        return self._run(self.steps(self._checked(block)))

    def steps(self, block: Audio) -> Steps:
        """As `push`, for those who run the network's steps on `stream` themselves.

        They see to it that the block has its shape and type and no NaN or Inf: a server knows when
        it has read it. A wrong size is raised at once; from then on the work is to be finished
        before the next call.
        """
        count = block.shape[1]
        if (self._filled + count) % self._grain:
            raise ConfigError(
                f"a block of {count} samples breaks the promise of block_size={self.block_size}: "
                f"expected multiples of {self._grain}; push a shorter last block with "
                "flush(block), or load with block_size=None"
            )
        return self._advance(block)

    def flush(self, block: Audio | None = None) -> Audio:
        """End the stream: give what is still inside, then be ready for the next song.

        Args:
            block: the last block, if it is to be pushed first; of any size.

        Returns:
            float32 (stems, channels, n + latency); (stems, channels, 0) if nothing was ever pushed.

        Raises:
            AudioError: as `push`.
        """
        return self._run(self.flush_steps(None if block is None else self._checked(block)))

    def flush_steps(self, block: Audio | None = None) -> Steps:
        """As `flush`, for those who run the network's steps on `stream` themselves; see `steps`."""
        return self._end(np.zeros((self.channels, 0), np.float32) if block is None else block)

    def _end(self, last: Audio) -> Steps:
        if self._pushed + last.shape[1] == 0:
            return np.zeros((len(self.stems), self.channels, 0), np.float32)
        wanted = last.shape[1] + self.latency
        silence = self.latency + -(self._filled + wanted) % self._grain
        stems = yield from self._advance(np.pad(last, ((0, 0), (0, silence))))
        self.reset()
        return stems[..., :wanted]

    def reset(self) -> None:
        """Forget the stream; `hop_times` goes on."""
        self._stft.reset()
        self.stream.reset()
        self._output.reset(zeros=self._priming)
        self._input[:] = 0.0
        self._filled = 0
        self._pushed = 0

    def _checked(self, block: Audio) -> Audio:
        if not isinstance(block, np.ndarray) or block.dtype != np.float32:
            kind = getattr(block, "dtype", type(block).__name__)
            raise AudioError(f"a block must be a float32 array, not {kind}; convert it first")
        if block.ndim != 2 or block.shape[0] != self.channels:
            raise AudioError(
                f"a block must have shape ({self.channels}, n), not {block.shape}; "
                "channels come first"
            )
        if (bad := first_invalid_sample(block)) is not None:
            raise AudioError(
                f"NaN, Inf or beyond {MAX_PEAK:g} at sample {bad} of a block; nothing of it was "
                "taken: repair it and push again"
            )
        return block

    def _run(self, steps: Steps) -> Audio:
        """Take the steps one by one."""
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
            part = min(self._room - self._filled, count - at)
            end = self._waiting + self._filled + part
            self._input[:, end - part : end] = block[:, at : at + part]
            self._filled += part
            if whole := self._filled // self.hop * self.hop:
                yield from self._separate(whole)
                self._filled -= whole
                self._input[:, : end - whole] = self._input[:, whole:end]
            self._output.read_into(out[..., at : at + part])
            at += part
        self._pushed += count
        return out

    def _separate(self, count: int) -> Generator[Spectrum, Spectrum, None]:
        """Hops of so many samples through the network, into the output ring."""
        start = time.perf_counter()
        # Mono becomes two equal channels.
        frames = self._stft.analyse(self._input[:, self._waiting : self._waiting + count])
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
