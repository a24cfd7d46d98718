"""Clock drift: input and output devices whose clocks differ, joined by adaptive resampling.

Two sound cards at "44100 Hz" differ by some tens of parts per million, a block every few minutes.
`DriftCorrector` connects them: the input's callback writes, the output's callback reads, and what
it reads is resampled by a ratio that keeps the delay constant.

Threads: `write` belongs to one thread and `read_into` to another. Neither waits, locks or allocates
more than a few small objects. The writer never reads the reader's state; the reader sees the writer
through two attributes that are replaced atomically. Any thread may read everything else.

Method (Adriaensen, "Using a DLL to filter time", LAC 2005, and "Controlling adaptive resampling",
LAC 2012): counting samples gives the delay only to a block, with an error that beats slowly with
the drift, so callbacks are timed. A delay-locked loop on each side turns the jittery times into a
smooth line from time to sample number; the delay is the distance of the lines, to fractions of a
sample. A PI loop of 0.03 Hz, critically damped behind two low-passes, steers the ratio by it.

The resampler is a windowed sinc of 65 taps (flat to 0.45 of the sample rate) in Farrow's form: each
tap is a polynomial of the fractional position, so the position may be any double and nothing is
tabulated. `docs/decisions.md` explains why no library is used.
"""

from __future__ import annotations

import math
from time import perf_counter

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from stemwire.errors import ConfigError
from stemwire.realtime.ring import Audio

HALF_TAPS = 32  # taps on either side of the middle one
ORDER = 9  # of the taps' polynomials
REACH = 0.65  # samples by which a position may differ from the middle tap
KAISER = 9.5  # side lobes of the window at -95 dB
CHUNK = 256  # samples interpolated at a time: small enough for BLAS to stay on one thread

CLOCK_BANDWIDTH = 0.1  # Hz, of the settled delay-locked loops
LOOP_BANDWIDTH = 0.03  # Hz, of the loop that steers the ratio
MAX_WIDTH_JITTER = 4e-5  # Hz times seconds: initial bandwidth of the loop times jitter
MAX_RATIO_OFFSET = 1000e-6  # by which the ratio may differ from 1: 1.7 cents
MAX_RATIO_SLEW = 200e-6  # by which it may change per second
FADE_S = 0.005  # seconds that bridge a gap or a jump
REPEAT_S = 10.0  # seconds within which a second underrun makes the fill grow
LATE_CALLBACK_S = 0.005  # seconds by which callbacks may be late, if no fill is given


ClockReading = tuple[int, float, float, float]
"""Count, time, period and jitter of a `CallbackClock` at one moment."""


class CallbackClock:
    """Linear map from time to sample number, fitted to jittery callbacks by a delay-locked loop.

    It starts with a wide bandwidth that narrows over time. It restarts when callbacks pause, or
    stay on one side of the line because the device has lost samples.

    Attributes:
        count: samples up to the last callback.
        time: smoothed time of that callback in seconds.
        period: seconds per sample.
        jitter: recent average distance of callbacks from the line in seconds.
    """

    PATIENCE = 10  # callbacks that may stay off by a quarter of a block
    PAUSE_S = 0.5  # seconds off at which it restarts at once

    def __init__(self, sample_rate: float) -> None:
        self._nominal = 1.0 / sample_rate
        self.period = self._nominal
        self.count, self.time = 0, math.nan
        self.jitter = 0.0
        self._age, self._off = 0.0, 0

    def update(self, samples: int, now: float) -> bool:
        """Update for a callback at `now`, `samples` after the previous one; False after a pause."""
        self.count += samples
        length = samples * self.period
        error = now - (self.time + length)
        side = 0 if abs(error) < length / 4 else 1 if error > 0 else -1
        self._off = self._off + side if side * self._off > 0 else side
        if not abs(error) < self.PAUSE_S or abs(self._off) == self.PATIENCE:  # NaN at the first
            self.time, self._age, self._off = now, 0.0, 0
            return abs(error) < self.PAUSE_S
        self._age += length
        most = max(3 * self.jitter, length / 8)  # ignore a single late callback
        size = min(abs(error), 2 * most)
        self.jitter += length / min(self._age, 1.0) * (size - self.jitter)
        error = min(max(error, -most), most)
        omega = min(0.5, 2 * math.pi * max(CLOCK_BANDWIDTH, 0.5 / self._age) * length)
        self.time += length + math.sqrt(2) * omega * error
        self.period += omega * omega * error / samples
        self.period = min(max(self.period, 0.99 * self._nominal), 1.01 * self._nominal)
        return True


class DriftCorrector:
    """Transfers audio from one clock to another at a constant delay.

    Args:
        sample_rate: nominal sample rate of both devices in Hz.
        channels: number of channels of the audio.
        input_block: samples per callback of the input.
        output_block: samples per callback of the output, at most.
        target_fill: samples to keep between input and output; None is `min_fill` plus 5 ms for
            late callbacks.
        max_fill: limit to which the fill grows after repeated underruns, because blocks come in
            bursts; None is four blocks more than `target_fill`.

    Attributes:
        latency: delay in samples that it adds, compared with one device whose callback gets and
            returns the same block. It is the target of the control loop and starts at
            `target_fill`; `fill` is the present value.
        underruns: number of times that input was missing.
        overruns: number of times that input was dropped because the output had paused or fallen
            behind.
        missing: samples of silence output for lack of input, since the first sound.
        skipped: samples of input dropped.

    Raises:
        ConfigError: if the fill is less than `min_fill`.
    """

    def __init__(
        self,
        sample_rate: int,
        channels: int,
        input_block: int,
        output_block: int,
        target_fill: int | None = None,
        max_fill: int | None = None,
    ) -> None:
        least = self.min_fill(input_block)
        if target_fill is None:
            target_fill = least + round(LATE_CALLBACK_S * sample_rate)
        if target_fill < least:
            raise ConfigError(
                f"a drift corrector for input blocks of {input_block} samples needs a fill of at "
                f"least {least}, not {target_fill}"
            )
        block = max(input_block, output_block)
        max_fill = target_fill + 4 * block if max_fill is None else max(max_fill, target_fill)
        self.latency, self._max_fill = target_fill, max_fill
        self._block = output_block
        self.underruns = self.overruns = self.missing = self.skipped = 0
        self._rate = float(sample_rate)
        self._jump = block / 2  # larger errors are corrected by a jump
        # State of the writer. Each sample is stored twice, so that any stretch is contiguous.
        self._capacity = 2 * (max_fill + 4 * block + CHUNK + 2 * HALF_TAPS) + sample_rate // 2
        self._ring = np.zeros((channels, 2 * self._capacity), np.float32)
        self._written = 0
        self._since = 0  # samples before it are from before a pause
        self._input = CallbackClock(sample_rate)
        self._reading: ClockReading | None = None  # for the reader
        # State of the reader.
        self._output = CallbackClock(sample_rate)
        self._last_count = 0  # samples of the last read
        self._playing = self._started = False
        self._last_underrun = -math.inf  # when
        self._at, self._fraction = 0, 0.0  # input position of the next output sample
        self._error = 0.0
        self._smooth = [0.0, 0.0]
        self._steady = self._drift = 0.0  # integral, and the ratio minus 1
        self._age = 0.0
        self._farrow = FarrowResampler(self._ring)
        fade = round(FADE_S * sample_rate)
        self._rise = (0.5 - 0.5 * np.cos(np.pi * (np.arange(fade) + 0.5) / fade)).astype(np.float32)
        self._fall = np.ascontiguousarray(self._rise[::-1])
        self._tail = np.zeros((channels, fade), np.float32)  # last output
        self._echo = np.zeros((channels, fade), np.float32)  # last output mirrored, fading out
        self._echo_at = self._rise_at = fade

    @staticmethod
    def min_fill(input_block: int) -> int:
        """Minimum number of samples between input and output, if callbacks are never late."""
        return input_block + HALF_TAPS + 2

    @property
    def fill(self) -> float:
        """Present number of samples between input and output, smoothed: `latency` once settled."""
        return self.latency + self._smooth[1]

    @property
    def captured(self) -> int:
        """Samples that the input has delivered."""
        return self._written

    @property
    def ppm(self) -> float:
        """Drift: how much faster the input's clock is than the output's, parts per million."""
        return 1e6 * self._steady

    def write(self, block: Audio, now: float | None = None) -> None:
        """Write the next input; input's audio thread.

        Args:
            block: float32 (channels, n), at most half a second.
            now: time of the callback in seconds, by the clock of `read_into`; None is
                `perf_counter`.
        """
        now = perf_counter() if now is None else now
        count = block.shape[1]
        start = self._written % self._capacity
        first = min(count, self._capacity - start)
        for base in (0, self._capacity):
            self._ring[:, base + start : base + start + first] = block[:, :first]
            self._ring[:, base : base + count - first] = block[:, first:]
        clock = self._input
        if not clock.update(count, now):
            self._since = self._written
        self._written += count
        self._reading = (clock.count, clock.time, clock.period, clock.jitter)

    def read_into(self, out: Audio, now: float | None = None) -> None:
        """Fill `out`, float32 (channels, n), with the next output; output's audio thread."""
        now = perf_counter() if now is None else now
        count = out.shape[1]
        if count == 0:
            return
        self._output.update(self._last_count, now)
        self._last_count = count
        reading = self._reading
        if reading is None:
            out[:] = 0.0
            return
        captured, when, period, jitter = reading
        captured -= self._block + self.latency  # where the output should be
        ahead = (self._output.time - when) / period
        if not self._playing:
            self._jump_to(captured, ahead)
            if self._at < self._since + HALF_TAPS or not self._input_available(count):
                self._output_silence(out)
                return
            self._playing = self._started = True
            self._start_bridge()
        self._error = captured - self._at + ahead - self._fraction
        if abs(self._error) > 4 * self._jump or abs(self._smooth[1]) > self._jump:
            if self._error > 0:
                self.overruns += 1
                self.skipped += round(self._error)
            else:
                self.underruns += 1
            self._jump_to(captured, ahead)
            self._start_bridge()
            self._error = 0.0
        if not self._input_available(count):
            self.underruns += 1
            self._grow_fill(now, count)
            self._playing = False
            self._start_bridge()
            self._output_silence(out)
            return
        before = self._drift
        self._steer(count, jitter + self._output.jitter)
        self._farrow.interpolate(
            out, self._at % self._capacity, self._fraction, before, self._drift
        )
        self._advance(count * (1.0 + (before + self._drift) / 2))
        self._finish(out)

    def _jump_to(self, position: int, fraction: float) -> None:
        """Jump to a position and reset the filtered error."""
        self._at, self._fraction = position, 0.0
        self._advance(fraction)
        self._smooth = [0.0, 0.0]

    def _advance(self, samples: float) -> None:
        self._fraction += samples
        position = math.floor(self._fraction)
        self._at += position
        self._fraction -= position

    def _input_available(self, count: int) -> bool:
        """Whether all input for `count` samples is written and not yet overwritten."""
        return (
            self._input_end(count)
            <= self._written
            <= self._at - HALF_TAPS - 1 + self._capacity * 3 // 4
        )

    def _input_end(self, count: int) -> int:
        """End of the input that `count` samples need at most."""
        return self._at + math.ceil(count * (1 + MAX_RATIO_OFFSET) + REACH) + HALF_TAPS + 1

    def _grow_fill(self, now: float, count: int) -> None:
        """Grow the fill by what is missing, if the last underrun was a short while ago."""
        if now - self._last_underrun < REPEAT_S:
            lack = max(0, self._input_end(count) - self._written)
            self.latency = min(self.latency + lack + HALF_TAPS, self._max_fill)
        self._last_underrun = now

    def _steer(self, count: int, jitter: float) -> None:
        """PI loop: adjust the ratio by the error of the delay. It starts fast if jitter allows."""
        seconds = count / self._rate
        self._age += seconds
        width = min(0.3, 0.5 / self._age, MAX_WIDTH_JITTER / max(jitter, MAX_WIDTH_JITTER))
        omega = 2 * math.pi * max(LOOP_BANDWIDTH, width)
        keep = math.exp(-20 * omega * seconds)
        smooth = self._smooth
        smooth[0] = keep * smooth[0] + (1 - keep) * self._error
        smooth[1] = keep * smooth[1] + (1 - keep) * smooth[0]
        self._steady += omega * omega / self._rate * smooth[1] * seconds
        self._steady = min(max(self._steady, -MAX_RATIO_OFFSET), MAX_RATIO_OFFSET)
        target = self._steady + 2 * omega / self._rate * smooth[1]
        target = min(max(target, -MAX_RATIO_OFFSET), MAX_RATIO_OFFSET)
        step = MAX_RATIO_SLEW * seconds
        self._drift += min(max(target - self._drift, -step), step)

    def _start_bridge(self) -> None:
        """Bridge a jump: the last output mirrored and fading out, under the new one fading in."""
        np.multiply(self._tail[:, ::-1], self._fall, out=self._echo)
        self._echo_at = self._rise_at = 0

    def _output_silence(self, out: Audio) -> None:
        out[:] = 0.0
        if self._started:
            self.missing += out.shape[1]
        self._rise_at = len(self._rise)
        self._finish(out)

    def _finish(self, out: Audio) -> None:
        count, fade = out.shape[1], len(self._rise)
        if self._rise_at < fade:
            here = min(count, fade - self._rise_at)
            out[:, :here] *= self._rise[self._rise_at : self._rise_at + here]
            self._rise_at += here
        if self._echo_at < fade:
            here = min(count, fade - self._echo_at)
            out[:, :here] += self._echo[:, self._echo_at : self._echo_at + here]
            self._echo_at += here
        if count >= fade:
            self._tail[:] = out[:, count - fade :]
        else:
            self._tail[:, : fade - count] = self._tail[:, count:]
            self._tail[:, fade - count :] = out


class FarrowResampler:
    """Resampler that reads a ring at fractional positions; its arrays are allocated once.

    Args:
        ring: float32 (C, 2 * size), each sample stored twice, `size` apart.
    """

    def __init__(self, ring: Audio) -> None:
        channels, size = ring.shape
        taps = 2 * HALF_TAPS + 1
        shape = (channels, taps, size - taps + 1)
        # [c, k, i] is sample i + k
        self._stretches = as_strided(ring, shape, (*ring.strides, ring.strides[1]))
        self._capacity = size // 2
        self._taps = tap_polynomials()  # (ORDER + 1, taps)
        self._windows = np.zeros((channels, taps, CHUNK), np.float32)
        self._terms = np.zeros((channels, ORDER + 1, CHUNK), np.float32)
        self._sum = np.zeros((channels, CHUNK), np.float32)
        self._number = np.arange(CHUNK, dtype=np.float64)
        self._squares = self._number**2 / 2
        self._offset = np.zeros(CHUNK, np.float64)
        self._scratch = np.zeros(CHUNK, np.float64)
        self._fine = np.zeros(CHUNK, np.float32)

    def interpolate(
        self, out: Audio, at: int, fraction: float, before: float, after: float
    ) -> None:
        """Fill (C, n) from position `at + fraction` on.

        From sample to sample the position grows by 1 + `before` at first and 1 + `after` at last.
        """
        count = out.shape[1]
        grow = (after - before) / count
        for start in range(0, count, CHUNK):
            some = min(CHUNK, count - start)
            offset, scratch = self._offset[:some], self._scratch[:some]
            np.multiply(self._number[:some], before, out=offset)
            np.multiply(self._squares[:some], grow, out=scratch)
            offset += scratch
            offset += fraction
            # The ratio is near 1, so that one shift serves the chunk: |offset| stays below REACH.
            shift = round(float(offset[some // 2]))
            offset -= shift
            np.multiply(offset, 1 / REACH, out=self._fine[:some], casting="same_kind")
            first = (at + start + shift - HALF_TAPS) % self._capacity
            self._polynomials(out[:, start : start + some], first)
            fraction += before * some + grow * some * some / 2
            before += grow * some

    def _polynomials(self, out: Audio, first: int) -> None:
        some = out.shape[1]
        windows, terms = self._windows[:, :, :some], self._terms[:, :, :some]
        total, fine = self._sum[:, :some], self._fine[:some]
        windows[:] = self._stretches[:, :, first : first + some]
        np.matmul(self._taps, windows, out=terms)
        total[:] = terms[:, ORDER]
        for power in range(ORDER - 1, -1, -1):
            total *= fine
            total += terms[:, power]
        out[:] = total


def tap_polynomials() -> NDArray[np.float32]:
    """Coefficients (ORDER + 1, 2 * HALF_TAPS + 1) of each tap in powers of position / REACH."""
    edge = HALF_TAPS + REACH
    nodes = np.cos(np.pi * (np.arange(ORDER + 1) + 0.5) / (ORDER + 1))  # Chebyshev's
    distance = nodes[:, None] * REACH - np.arange(-HALF_TAPS, HALF_TAPS + 1)  # (nodes, taps)
    window = np.i0(KAISER * np.sqrt(np.maximum(0.0, 1 - (distance / edge) ** 2))) / np.i0(KAISER)
    values = np.sinc(distance) * window
    powers = np.vander(nodes, ORDER + 1, increasing=True)
    return np.ascontiguousarray(np.linalg.solve(powers, values), np.float32)
