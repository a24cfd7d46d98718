"""CallbackClock drift: input and output devices whose clocks differ, joined by adaptive resampling.

Two sound cards at "44100 Hz" differ by some tens of parts per million, a block every few minutes.
`DriftCorrector` stands between them: the input's callback writes, the output's reads, and what it
reads is resampled by a ratio that keeps the delay constant.

Threads: `write` belongs to one thread and `read_into` to another. Neither waits, locks or allocates
more than a few small objects. The writer never looks at the reader; the reader sees the writer
through two attributes that are replaced whole. Everything else may be read from anywhere.

How (Adriaensen, "Using a DLL to filter time", LAC 2005, and "Controlling adaptive resampling", LAC
2012): counting samples tells the delay only to a block, and the error beats slowly with the drift,
so callbacks are timed. A delay-locked loop on each side turns the jittery times into a smooth line
from time to sample number; the delay is the distance between the two lines, known to fractions of a
sample. A PI loop of 0.03 Hz, critically damped behind two low-passes, steers the ratio by it.

The resampler is a windowed sinc of 65 taps (flat to 0.45 of the sample rate) in Farrow's form: each
tap is a polynomial of the fractional position, so the position may be any double and nothing is
tabulated. `docs/decisions.md` tells why it is not a library.
"""

from __future__ import annotations

import math
from time import perf_counter

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from stemwire.errors import ConfigError
from stemwire.realtime.ring import Audio

HALF = 32  # taps on either side of the middle one
ORDER = 9  # of the taps' polynomials
REACH = 0.65  # samples that a position may be off the middle tap
KAISER = 9.5  # side lobes of the window at -95 dB
CHUNK = 256  # samples interpolated at a time: small enough for BLAS to stay on one thread

CLOCK_BANDWIDTH = 0.1  # Hz, of the delay-locked loops once they have settled
LOOP_BANDWIDTH = 0.03  # Hz, of the loop that steers the ratio
CALM = 4e-5  # Hz times seconds: bandwidth that the loop may begin with times jitter
LIMIT = 1000e-6  # by which the ratio may differ from 1: 1.7 cents
SLEW = 200e-6  # by which it may change in a second
FADE = 0.005  # seconds that bridge a gap or a jump
AGAIN = 10.0  # seconds in which a second underrun is no accident
MARGIN = 0.005  # seconds that callbacks may be late, unless the fill is given


ClockReading = tuple[int, float, float, float]
"""A `CallbackClock`'s count, time, period and jitter: all of one moment."""


class CallbackClock:
    """A line from time to sample number, drawn through jittery callbacks by a delay-locked loop.

    It starts with a wide bandwidth that narrows as time passes. When callbacks stay on one side of
    the line, because the device has lost samples, or pause, it starts anew.

    Attributes:
        count: samples up to the last callback.
        time: of that callback, smoothed, in seconds.
        period: seconds per sample.
        jitter: seconds that callbacks are off the line on average, lately.
    """

    PATIENCE = 10  # callbacks that may stay a quarter of a block off
    PAUSE = 0.5  # seconds off at which it starts anew at once

    def __init__(self, sample_rate: float) -> None:
        self._nominal = 1.0 / sample_rate
        self.period = self._nominal
        self.count, self.time = 0, math.nan
        self.jitter = 0.0
        self._age, self._off = 0.0, 0

    def update(self, samples: int, now: float) -> bool:
        """A callback came at `now`, `samples` after the one before; False if that was long ago."""
        self.count += samples
        length = samples * self.period
        error = now - (self.time + length)
        side = 0 if abs(error) < length / 4 else 1 if error > 0 else -1
        self._off = self._off + side if side * self._off > 0 else side
        if not abs(error) < self.PAUSE or abs(self._off) == self.PATIENCE:  # NaN at the first
            self.time, self._age, self._off = now, 0.0, 0
            return abs(error) < self.PAUSE
        self._age += length
        most = max(3 * self.jitter, length / 8)  # one late callback among calm ones says nothing
        size = min(abs(error), 2 * most)
        self.jitter += length / min(self._age, 1.0) * (size - self.jitter)
        error = min(max(error, -most), most)
        omega = min(0.5, 2 * math.pi * max(CLOCK_BANDWIDTH, 0.5 / self._age) * length)
        self.time += length + math.sqrt(2) * omega * error
        self.period += omega * omega * error / samples
        self.period = min(max(self.period, 0.99 * self._nominal), 1.01 * self._nominal)
        return True


class DriftCorrector:
    """Carries audio from one clock to another at a constant delay.

    Args:
        sample_rate: of both devices by name, Hz.
        channels: of the audio.
        input_block: samples that the input's callback brings at a time.
        output_block: samples that the output asks for at a time, at most.
        target_fill: samples to keep between input and output; None is `min_fill` and 5 ms for
            late callbacks.
        max_fill: to which it grows when input is missing again and again, because blocks come in
            bursts; None is four blocks more than `target_fill`.

    Attributes:
        latency: samples of delay that it adds: more than one device would have, whose callback got
            and gave the block that is read here. The delay is held there; `fill` is what it is now.
            It starts at `target_fill`.
        underruns: times that input was missing.
        overruns: times that input was left out because the output had paused or fallen behind.
        missing: samples of silence given for want of input, since the first sound.
        skipped: samples of input left out.

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
            target_fill = least + round(MARGIN * sample_rate)
        if target_fill < least:
            raise ConfigError(
                f"a drift corrector for input blocks of {input_block} samples needs a fill of at "
                f"least {least}, not {target_fill}"
            )
        block = max(input_block, output_block)
        max_fill = target_fill + 4 * block if max_fill is None else max(max_fill, target_fill)
        self.latency, self._most = target_fill, max_fill
        self._block = output_block
        self.underruns = self.overruns = self.missing = self.skipped = 0
        self._rate = float(sample_rate)
        self._jump = block / 2  # an error beyond it is not worth steering
        # The writer's. Each sample stands twice, so that any stretch is in one piece.
        self._room = 2 * (max_fill + 4 * block + CHUNK + 2 * HALF) + sample_rate // 2
        self._ring = np.zeros((channels, 2 * self._room), np.float32)
        self._written = 0
        self._since = 0  # what was written before is from before a pause
        self._input = CallbackClock(sample_rate)
        self._mark: ClockReading | None = None  # for the reader
        # The reader's.
        self._output = CallbackClock(sample_rate)
        self._given = 0  # samples that were read last
        self._playing = self._started = False
        self._ran_dry = -math.inf  # when
        self._at, self._fraction = 0, 0.0  # position in the input of the next sample to give
        self._error = 0.0
        self._smooth = [0.0, 0.0]
        self._steady = self._drift = 0.0  # the integral, and the ratio less 1
        self._age = 0.0
        self._farrow = FarrowResampler(self._ring)
        fade = round(FADE * sample_rate)
        self._rise = (0.5 - 0.5 * np.cos(np.pi * (np.arange(fade) + 0.5) / fade)).astype(np.float32)
        self._fall = np.ascontiguousarray(self._rise[::-1])
        self._tail = np.zeros((channels, fade), np.float32)  # the last that was given
        self._echo = np.zeros((channels, fade), np.float32)  # the same mirrored, fading out
        self._echo_at = self._rise_at = fade

    @staticmethod
    def min_fill(input_block: int) -> int:
        """Samples that have to be between input and output even if callbacks are never late."""
        return input_block + HALF + 2

    @property
    def fill(self) -> float:
        """Samples between input and output now, smoothed: `latency` once settled."""
        return self.latency + self._smooth[1]

    @property
    def captured(self) -> int:
        """Samples that the input has brought."""
        return self._written

    @property
    def ppm(self) -> float:
        """By how much the input's clock is faster than the output's, parts per million."""
        return 1e6 * self._steady

    def write(self, block: Audio, now: float | None = None) -> None:
        """Bring the next input, float32 (channels, n); for the input's callback.

        Args:
            block: at most half a second.
            now: seconds at which it came, by the clock of `read_into`; None is `perf_counter`.
        """
        now = perf_counter() if now is None else now
        count = block.shape[1]
        start = self._written % self._room
        first = min(count, self._room - start)
        for base in (0, self._room):
            self._ring[:, base + start : base + start + first] = block[:, :first]
            self._ring[:, base : base + count - first] = block[:, first:]
        clock = self._input
        if not clock.update(count, now):
            self._since = self._written
        self._written += count
        self._mark = (clock.count, clock.time, clock.period, clock.jitter)

    def read_into(self, out: Audio, now: float | None = None) -> None:
        """Take the next output, float32 (channels, n), n samples; for the output's callback."""
        now = perf_counter() if now is None else now
        count = out.shape[1]
        if count == 0:
            return
        self._output.update(self._given, now)
        self._given = count
        mark = self._mark
        if mark is None:
            out[:] = 0.0
            return
        captured, when, period, jitter = mark
        captured -= self._block + self.latency  # where the output should be
        ahead = (self._output.time - when) / period
        if not self._playing:
            self._seek(captured, ahead)
            if self._at < self._since + HALF or not self._is_there(count):
                self._give_nothing(out)
                return
            self._playing = self._started = True
            self._cut()
        self._error = captured - self._at + ahead - self._fraction
        if abs(self._error) > 4 * self._jump or abs(self._smooth[1]) > self._jump:
            if self._error > 0:
                self.overruns += 1
                self.skipped += round(self._error)
            else:
                self.underruns += 1
            self._seek(captured, ahead)
            self._cut()
            self._error = 0.0
        if not self._is_there(count):
            self.underruns += 1
            self._grow(now, count)
            self._playing = False
            self._cut()
            self._give_nothing(out)
            return
        before = self._drift
        self._steer(count, jitter + self._output.jitter)
        self._farrow.interpolate(out, self._at % self._room, self._fraction, before, self._drift)
        self._advance(count * (1.0 + (before + self._drift) / 2))
        self._finish(out)

    def _seek(self, whole: int, fraction: float) -> None:
        """Go to a position, and forget what the error was at the old one."""
        self._at, self._fraction = whole, 0.0
        self._advance(fraction)
        self._smooth = [0.0, 0.0]

    def _advance(self, samples: float) -> None:
        self._fraction += samples
        whole = math.floor(self._fraction)
        self._at += whole
        self._fraction -= whole

    def _is_there(self, count: int) -> bool:
        """Whether all input is there, and not yet overwritten, that `count` samples need."""
        return self._end(count) <= self._written <= self._at - HALF - 1 + self._room * 3 // 4

    def _end(self, count: int) -> int:
        """Input up to where `count` samples need at most."""
        return self._at + math.ceil(count * (1 + LIMIT) + REACH) + HALF + 1

    def _grow(self, now: float, count: int) -> None:
        """Let the fill grow by what is missing, if that was so a short while ago."""
        if now - self._ran_dry < AGAIN:
            lack = max(0, self._end(count) - self._written)
            self.latency = min(self.latency + lack + HALF, self._most)
        self._ran_dry = now

    def _steer(self, count: int, jitter: float) -> None:
        """The PI loop: the ratio by the error of the delay. At first it is quick if it may be."""
        seconds = count / self._rate
        self._age += seconds
        width = min(0.3, 0.5 / self._age, CALM / max(jitter, CALM))
        omega = 2 * math.pi * max(LOOP_BANDWIDTH, width)
        keep = math.exp(-20 * omega * seconds)
        smooth = self._smooth
        smooth[0] = keep * smooth[0] + (1 - keep) * self._error
        smooth[1] = keep * smooth[1] + (1 - keep) * smooth[0]
        self._steady += omega * omega / self._rate * smooth[1] * seconds
        self._steady = min(max(self._steady, -LIMIT), LIMIT)
        wanted = self._steady + 2 * omega / self._rate * smooth[1]
        wanted = min(max(wanted, -LIMIT), LIMIT)
        step = SLEW * seconds
        self._drift += min(max(wanted - self._drift, -step), step)

    def _cut(self) -> None:
        """Bridge what comes next: the last output mirrored and fading, under what fades in."""
        np.multiply(self._tail[:, ::-1], self._fall, out=self._echo)
        self._echo_at = self._rise_at = 0

    def _give_nothing(self, out: Audio) -> None:
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
    """Reads a ring at fractional positions; its arrays are made once.

    Args:
        ring: float32 (C, 2 * room), each sample twice, `room` apart.
    """

    def __init__(self, ring: Audio) -> None:
        channels, size = ring.shape
        taps = 2 * HALF + 1
        shape = (channels, taps, size - taps + 1)
        # [c, k, i] is sample i + k
        self._stretches = as_strided(ring, shape, (*ring.strides, ring.strides[1]))
        self._room = size // 2
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
            # The ratio is so near 1 that one shift serves the chunk: |offset| stays below REACH.
            shift = round(float(offset[some // 2]))
            offset -= shift
            np.multiply(offset, 1 / REACH, out=self._fine[:some], casting="same_kind")
            first = (at + start + shift - HALF) % self._room
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
    """Coefficients (ORDER + 1, 2 * HALF + 1) of each tap in powers of position / REACH."""
    edge = HALF + REACH
    nodes = np.cos(np.pi * (np.arange(ORDER + 1) + 0.5) / (ORDER + 1))  # Chebyshev's
    distance = nodes[:, None] * REACH - np.arange(-HALF, HALF + 1)  # (nodes, taps)
    window = np.i0(KAISER * np.sqrt(np.maximum(0.0, 1 - (distance / edge) ** 2))) / np.i0(KAISER)
    values = np.sinc(distance) * window
    powers = np.vander(nodes, ORDER + 1, increasing=True)
    return np.ascontiguousarray(np.linalg.solve(powers, values), np.float32)
