"""The live engine: a separator beside an audio callback.

Threads:

- the *audio callback* calls `process` and nothing else. It copies, adds and multiplies one block;
  it never waits, never runs the network, and allocates no more than a few blocks;
- the *worker* (one thread) calls `run`, or `work` where there is no thread. It takes blocks from
  the callback, runs separators, effects and mixer, and stores the result for the callback;
- any other thread sets controls and reads meters through the `Panel`, and calls `prepare` (which
  loads a preset and feeds it recent input; not from the callback or the worker), `record` and
  `stop`.

Callback and worker exchange audio through `Timeline`s: samples addressed by their position since
the start, each with one writer. The output at position q belongs to the input at q - `latency`; it
must be ready when the callback asks for q. If it is not, the callback conceals the late block: it
plays the input of that position (the *aligned dry* signal), decaying into it from the last sample,
and fades back when the worker has caught up. Positions never move, so the latency never changes.

The latency is that of the separator with blocks of this size, plus that of the effects, plus
`margin` samples for the worker: by default as many as make it two hops and a block in all, so that
the worker may be late by another block where block and hop are equal.
"""

from __future__ import annotations

import _thread
import contextlib
import math
import threading
import time
from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np

from stemwire.realtime.effects import Chain
from stemwire.realtime.levels import STEMS, db_to_gain
from stemwire.realtime.live.panel import Panel
from stemwire.realtime.live.preset_stream import MAX_BLOCKS_BEHIND, PresetStream
from stemwire.realtime.mixer import RAMP_S, Mixer, Ramp
from stemwire.realtime.ring import Audio, Timeline
from stemwire.realtime.stft import MAX_HOPS
from stemwire.realtime.streaming import MAX_PEAK, StreamingSeparator, peak_of

HISTORY_S = 2.0  # how far the worker may fall behind before it skips its backlog
CATCH_UP_S = 3.0  # a new preset stops catching up after this, on a machine too slow for it
WARM_UP_S = 0.1  # extra input that a restarted separator gets before its output is played
METER_FALL_DB = 24.0  # by which the peaks of meters fall in a second
DECAY_S = 0.0015  # time constant of the decay from the last good sample to the dry signal
WORKER_POLL_S = 0.25  # the worker wakes up at least this often
MAX_BLOCKS = MAX_HOPS  # blocks that the worker takes at once when it is behind


class RecordingSink(Protocol):
    """Destination of a recording: `recorder.Recorder`."""

    def write(self, stems: Audio) -> None:
        """Take float32 (3, channels, n), vocals, instrumental and mix, without waiting."""


def usual_margin(block_size: int, hop: int) -> int:
    """Margin in samples that makes the latency two hops and a block, whatever the block size."""
    return block_size + math.gcd(block_size, hop)


class LiveEngine:
    """Separation, effects and mix of one session, without devices.

    Args:
        panel: controls, meters and counters.
        open_separator: function that opens the separator of a preset, by its name, for this rate
            and block size.
        preset: name of the first preset.
        sample_rate: sample rate in Hz.
        channels: number of channels of music and output.
        block_size: samples of each block.
        margin: samples of margin for the worker, at least one block; None is `usual_margin`.
        chains: effects of `vocals`, `instrumental` and `microphone`, for blocks of this size.

    Raises:
        StemwireError: whatever `open_separator` raises.
    """

    def __init__(
        self,
        panel: Panel,
        open_separator: Callable[[str], StreamingSeparator],
        preset: str,
        sample_rate: int,
        channels: int,
        block_size: int,
        margin: int | None = None,
        chains: Mapping[str, Chain] | None = None,
    ) -> None:
        self.panel, self._open_separator = panel, open_separator
        self.sample_rate, self.channels, self.block_size = sample_rate, channels, block_size
        self.current = self._open_preset(preset)
        self.current.separator.hop_times = panel.hop_times
        usual = usual_margin(block_size, self.current.separator.hop)
        self.margin = usual if margin is None else max(margin, block_size)
        chains = chains or {}
        none = [Chain([], sample_rate, channels, block_size) for _ in range(3)]
        self._mixer = Mixer(
            [chains.get(name, none[i]) for i, name in enumerate(STEMS)],
            sample_rate,
            channels,
            block_size,
        )
        self._microphone = chains.get("microphone", none[2])
        self.effects_delay = self._mixer.delay
        kept = round(HISTORY_S * sample_rate) + self.latency
        kept = kept // block_size * block_size + 4 * block_size
        self._input = Timeline((channels,), kept)  # written by the callback
        self._played = Timeline((channels,), kept)  # likewise
        self._mixed = Timeline((channels,), kept)  # written by the worker
        self._stems = Timeline((2, channels), kept)  # likewise
        self._mixed.write_silence(self.margin)
        self._stems.write_silence(self.margin)
        samples = max(1, round(RAMP_S * sample_rate))
        self._crossfade = Ramp(0.0, samples)
        self._output_gain, self._microphone_gain = Ramp(0.0, samples), Ramp(0.0, samples)
        self._decay = np.exp(-np.arange(1, block_size + 1) / (DECAY_S * sample_rate))
        self._decay = self._decay.astype(np.float32)
        self._offset = np.zeros((channels, 1), np.float32)  # last good sample minus the dry signal
        self._concealing = False
        self._block = np.zeros((channels, MAX_BLOCKS * block_size), np.float32)
        self._clean, self._dry = np.zeros((2, channels, block_size), np.float32)
        self._sink: RecordingSink | None = None
        self._recording_position = 0
        self._recording_block = np.zeros((3, channels, block_size), np.float32)
        self._wake_up = _thread.allocate_lock()
        self._stop = False
        self.last_error = ""  # last error that the worker recovered from
        self._prepared: PresetStream | None = None  # set by `prepare`, taken by the worker
        self._next: PresetStream | None = None

    @property
    def position(self) -> int:
        """Samples that the callback has received."""
        return self._input.written

    @property
    def _worker_position(self) -> int:
        """Input position up to which the worker has separated."""
        return self._mixed.written - self.margin

    @property
    def delays(self) -> dict[str, int]:
        """Latency of the music in samples, by stage."""
        return {
            "separator": self.current.separator.latency,
            "worker": self.margin,
            "effects": self.effects_delay,
        }

    @property
    def latency(self) -> int:
        """Total latency: input sample k is output sample k + latency."""
        return self.current.separator.latency + self.margin + self.effects_delay

    @property
    def microphone_delay(self) -> int:
        """Latency of the microphone in samples."""
        return self._microphone.delay

    def effect_problems(self) -> list[str]:
        """Failures of effects at the moment, one line per chain."""
        names, chains = (*STEMS, "microphone"), (*self._mixer.chains, self._microphone)
        pairs = zip(names, chains, strict=True)
        return [f"{name}: {chain.problem}" for name, chain in pairs if chain.problem]

    def prepare(self, preset: str) -> None:
        """Load another preset and have the worker cross-fade to it; takes a moment.

        The new separator gets the last second of input here, so that the worker runs two separators
        during the cross-fade only.

        Raises:
            StemwireError: if it cannot be loaded. The present preset then keeps playing.
        """
        prepared = self._open_preset(preset)
        prepared.restart_before(self._worker_position)
        with contextlib.suppress(BufferError):  # too slow: the worker restarts it
            end = time.monotonic() + CATCH_UP_S
            while prepared.ready_for(self._worker_position) and time.monotonic() < end:
                prepared.feed(self._input)
        self._prepared = prepared

    def _open_preset(self, preset: str) -> PresetStream:
        return PresetStream(preset, self._open_separator(preset), self.block_size)

    def record(self, sink: RecordingSink | None) -> None:
        """Send stems and output to a sink from now on; None stops that."""
        self._recording_position = self._played.written
        self._sink = sink

    # --- audio callback

    def process(self, music: Audio, out: Audio, microphone: Audio | None = None) -> None:
        """Take one block of music and fill `out`.

        Args:
            music: float32 (channels, block_size).
            out: float32 (channels, block_size), overwritten.
            microphone: float32 (channels, block_size), overwritten; None is silence.
        """
        panel, count = self.panel, music.shape[1]
        at = self._input.written
        np.copyto(self._clean, music)
        peak = self._replace_invalid(self._clean)
        self._input.write(self._clean)
        if self._wake_up.locked():
            self._wake_up.release()
        self._read_mix(at, out)
        self._update_meter("input", self._clean, peak)
        solo = panel["solo"]
        if microphone is not None:
            self._replace_invalid(microphone)
            self._microphone.process(microphone)
            self._update_meter("microphone", microphone, peak_of(microphone))
            gain = db_to_gain(panel["microphone"])
            if solo:
                gain = (gain or 1.0) if solo == 3 else 0.0
            microphone *= self._microphone_gain.to(gain, count)
            out += microphone
        out *= self._output_gain.to(0.0 if panel["mute"] else db_to_gain(panel["output"]), count)
        peak = peak_of(out)
        self._update_meter("output", out, peak)
        if not peak <= 1.0:
            panel.add("clipped", int(np.count_nonzero(np.abs(out) > 1.0)))
            np.clip(out, -1.0, 1.0, out=out)
        self._played.write(out)
        panel.add("blocks")
        panel.add("samples", count)

    def _read_mix(self, at: int, out: Audio) -> None:
        """Copy the mix from position `at` on, or the dry signal where the mix is late."""
        count = out.shape[1]
        ready = min(count, max(0, self._mixed.written - at))
        if ready == count and not self._concealing:
            self._mixed.read(at, out)
            return
        dry = self._read_dry(at, count)
        if ready == count:  # the worker has caught up: fade over the block
            shift = self._offset * self._decay[:count]
            self._mixed.read(at, out)
            out += (dry + shift - out) * np.linspace(1.0, 0.0, count, dtype=np.float32)
            self._concealing = False
            return
        self.panel.add("misses")
        begin = 0 if self._concealing else ready
        if not self._concealing:
            if ready:
                self._mixed.read(at, out[:, :ready])
            self._offset = self._last_mixed_sample(at + ready) - self._read_dry(at + ready - 1, 1)
            self._concealing = True
            dry = self._read_dry(at, count)
        out[:, begin:] = dry[:, begin:] + self._offset * self._decay[: count - begin]
        self._offset = self._offset * self._decay[count - begin - 1]
        self.panel.add("concealed", count - begin)

    def _last_mixed_sample(self, at: int) -> Audio:
        """Mixed sample before position `at`, (channels, 1)."""
        last = np.zeros((self.channels, 1), np.float32)
        self._mixed.read(at - 1, last)
        return last

    def _read_dry(self, at: int, count: int) -> Audio:
        """Input of the output positions from `at` on, at the gain of the louder stem."""
        dry = self._dry[:, :count]
        self._input.read(at - self.latency, dry)
        if not self.panel["bypass"]:
            dry *= max(self._stem_gain(index) for index in range(2))
        return dry

    def _replace_invalid(self, audio: Audio) -> float:
        """Replace NaN, Inf and absurdly large samples by silence.

        Returns:
            Peak magnitude of what is left.
        """
        peak = peak_of(audio)
        if not peak <= MAX_PEAK:
            bad = ~(np.abs(audio) <= MAX_PEAK)
            audio[bad] = 0.0
            self.panel.add("bad_input", int(np.count_nonzero(bad)))
            peak = peak_of(audio)
        return peak

    def _update_meter(self, name: str, audio: Audio, peak: float) -> None:
        flat, held = audio.ravel(), f"{name}_peak"
        # Screens are drawn less often than blocks come: a peak falls slowly enough to be seen.
        fall = 10 ** (-METER_FALL_DB * audio.shape[1] / (20 * self.sample_rate))
        self.panel[held] = max(peak, fall * self.panel[held])
        self.panel[f"{name}_rms"] = math.sqrt(float(np.dot(flat, flat)) / max(1, flat.size))

    def _stem_gain(self, index: int) -> float:
        """Gain of a stem, by the present controls."""
        gain = db_to_gain(self.panel[STEMS[index]])
        solo = self.panel["solo"]
        if solo:
            return (gain or 1.0) if solo == index + 1 else 0.0
        return gain

    # --- worker

    def run(self) -> None:
        """Work until `stop`; body of the worker thread."""
        while not self._stop:
            self._wake_up.acquire(timeout=WORKER_POLL_S)
            try:
                while not self._stop and self.work():
                    pass
            except Exception as error:  # of a backend, say: the dry signal plays meanwhile
                self.last_error = f"{type(error).__name__}: {error}"
                with contextlib.suppress(Exception):  # the backend may be gone for good
                    self._skip_backlog()

    def stop(self) -> None:
        """End `run` after the present block."""
        self._stop = True

    def start_thread(self, prepare: Callable[[], object] = lambda: None) -> threading.Thread:
        """Run the worker in a new thread, which calls `prepare` first."""

        def main() -> None:
            prepare()
            self.run()

        thread = threading.Thread(target=main, name="stemwire-worker", daemon=True)
        thread.start()
        return thread

    def work(self) -> bool:
        """Separate and mix the next step; False if its input is not complete yet.

        A worker that has fallen behind takes several steps at once, which is faster than one by
        one; otherwise that would only delay the first of them.
        """
        start = self._worker_position
        self._start_prepared(start)
        count = max(stream.step for stream in (self.current, self._next) if stream is not None)
        if self._input.written - start > self._input.capacity - 2 * count:
            self._skip_backlog()
            return True
        waiting = self._input.written - start
        if waiting < count:
            return False
        if waiting > self.block_size:
            count *= min(waiting, MAX_BLOCKS * self.block_size) // count
        block = self._block[:, :count]
        self._input.read(start, block)
        stems = self._separate(block)
        for at in range(0, count, self.block_size):
            self._mix_block(stems[..., at : at + self.block_size])
        self.panel["bad_effects"] = self._mixer.failures + self._microphone.failures
        self.panel["hops"] = self.panel.hop_times.count
        self._write_recording()
        return True

    def _mix_block(self, stems: Audio) -> None:
        """Apply effects and gains to stems and store the mix for the callback."""
        gains = [self._stem_gain(index) for index in range(2)]
        raw, shaped, mix = self._mixer.mix(stems, gains, self.panel["bypass"])
        for name, stem in zip(STEMS, shaped, strict=True):
            self._update_meter(name, stem, peak_of(stem))
        self._stems.write(raw)
        self._mixed.write(mix)

    def _start_prepared(self, start: int) -> None:
        """Make the prepared preset the next one, unless a cross-fade is under way."""
        prepared = self._prepared
        if prepared is None or self._crossfade.value > 0.0:
            return
        if (start - prepared.position) % prepared.step:
            return
        self._prepared = None
        if start - prepared.position > MAX_BLOCKS_BEHIND * self.block_size:
            prepared.restart_at(start)
        while prepared.position < start:
            prepared.feed(self._input)
        self._next = prepared

    def _separate(self, block: Audio) -> Audio:
        """Stems of a block, (2, channels, n); cross-fades to the next preset when it is due."""
        stems = self.current.separator.push(block)
        following = self._next
        if following is None:
            return stems
        other = following.separator.push(block)
        following.fed += block.shape[1]
        if following.settled:
            stems = stems + (other - stems) * self._crossfade.to(1.0, block.shape[1])
            if self._crossfade.value == 1.0:
                following.separator.hop_times = self.panel.hop_times
                self.current, self._next = following, None
                self._crossfade.value = 0.0
        return stems

    def _skip_backlog(self) -> None:
        """Skip input that is too old to catch up with, except what warms up the separator."""
        backlog = self._input.written - self._worker_position
        needed = round(WARM_UP_S * self.sample_rate) + self.latency
        lost = max(0, backlog - needed) // self.block_size * self.block_size
        for stream in (self.current, self._next):
            if stream is not None:
                stream.separator.reset()
        self._stems.write_silence(lost)
        self._mixed.write_silence(lost)
        self.panel.add("skipped", max(1, lost // self.current.separator.hop))

    def _write_recording(self) -> None:
        sink, count = self._sink, self.block_size
        if sink is None:
            return
        while min(self._played.written, self._stems.written) - self._recording_position >= count:
            try:
                self._stems.read(self._recording_position, self._recording_block[:2])
                self._played.read(self._recording_position, self._recording_block[2])
            except BufferError:  # skipped
                self._recording_block[:] = 0.0
            sink.write(self._recording_block)
            self._recording_position += count
