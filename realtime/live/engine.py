"""The live engine: a separator beside an audio callback.

Who may call what, from where:

- the *audio callback* calls `process`, and nothing else. It copies, adds and multiplies one block;
  it never waits, never runs the network, and allocates no more than a few blocks;
- the *worker* (one thread) calls `run`, or `work` where there is no thread. It takes blocks from
  the callback, runs separators, effects and mix, and puts the result where the callback finds it;
- anybody else sets controls and reads meters through the `Panel`, calls `prepare` (it loads a
  preset, and lets it hear the input that is kept; not from the callback or the worker), `record`,
  and `stop`.

Between callback and worker lie `Timeline`s: samples by their position since the start, each with
one writer. What is to be heard at output position q was input at q - `latency`; it must be there
when the callback comes for q. If it is not, the callback plays the input of that very position (the
*aligned dry* signal) instead, glides into it from the last sample, and fades back when the worker
has caught up. Positions never move for it: the delay is the same for ever.

The delay is that of the separator with blocks of this size, plus that of the effects, plus `margin`
samples for the worker: unless stated otherwise as many as make it two hops and a block in all, so
that the worker may be late by another block where block and hop are the same.
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
from stemwire.realtime.live.lane import CLOSE, Lane
from stemwire.realtime.live.panel import Panel
from stemwire.realtime.mixer import RAMP_S, Mixer, Ramp
from stemwire.realtime.ring import Audio, Timeline
from stemwire.realtime.stft import TOGETHER
from stemwire.realtime.streaming import LOUDEST, StreamingSeparator, peak_of

KEPT_S = 2.0  # seconds that a worker may be late before it gives up what it has missed
CHASE_S = 3.0  # that a new preset tries to come up with what plays, on a machine too slow for it
WARM_S = 0.1  # a separator that begins anew hears that much more before it is heard itself
FALL_DB = 24.0  # that meters' peaks fall in a second
GLIDE_S = 0.0015  # time constant of the way from the last good sample to the dry signal
WAIT_S = 0.25  # the worker looks up at least that often
MOST = TOGETHER  # blocks that a worker takes at once when it is behind


class Sink(Protocol):
    """What takes a recording: `recorder.Recorder`."""

    def write(self, stems: Audio) -> None:
        """Take float32 (vocals, instrumental, mix; channels; n) at once."""


def usual_margin(block_size: int, hop: int) -> int:
    """Samples for the worker with which the delay is two hops and a block, whatever the block."""
    return block_size + math.gcd(block_size, hop)


class Engine:
    """Separation, effects and mix of one session; knows no devices.

    Args:
        panel: controls, meters and counters.
        opener: gives a separator for a preset's name, made for this rate and block size.
        preset: to begin with.
        sample_rate: in Hz.
        channels: of music and output.
        block_size: samples of each block.
        margin: samples that the worker has, at least one block; None is `usual_margin`.
        chains: effects of `vocals`, `instrumental` and `microphone`, for blocks of this size.

    Raises:
        StemwireError: as the opener does.
    """

    def __init__(
        self,
        panel: Panel,
        opener: Callable[[str], StreamingSeparator],
        preset: str,
        sample_rate: int,
        channels: int,
        block_size: int,
        margin: int | None = None,
        chains: Mapping[str, Chain] | None = None,
    ) -> None:
        self.panel, self._opener = panel, opener
        self.sample_rate, self.channels, self.block_size = sample_rate, channels, block_size
        self.lane = self._open(preset)
        self.lane.separator.hop_times = panel.hop_times
        usual = usual_margin(block_size, self.lane.separator.hop)
        self.margin = usual if margin is None else max(margin, block_size)
        chains = chains or {}
        none = [Chain([], sample_rate, channels, block_size) for _ in range(3)]
        self._mixer = Mixer(
            [chains.get(name, none[i]) for i, name in enumerate(STEMS)],
            sample_rate, channels, block_size,
        )  # fmt: skip
        self._microphone = chains.get("microphone", none[2])
        self.effects_delay = self._mixer.delay
        kept = round(KEPT_S * sample_rate) + self.latency
        kept = kept // block_size * block_size + 4 * block_size
        self._input = Timeline((channels,), kept)  # written by the callback
        self._played = Timeline((channels,), kept)  # likewise
        self._wet = Timeline((channels,), kept)  # written by the worker
        self._stems = Timeline((2, channels), kept)  # likewise
        self._wet.write_silence(self.margin)
        self._stems.write_silence(self.margin)
        samples = max(1, round(RAMP_S * sample_rate))
        self._change = Ramp(0.0, samples)
        self._loud, self._sung = Ramp(0.0, samples), Ramp(0.0, samples)
        self._glide = np.exp(-np.arange(1, block_size + 1) / (GLIDE_S * sample_rate))
        self._glide = self._glide.astype(np.float32)
        self._away = np.zeros((channels, 1), np.float32)  # concealed: from the dry signal
        self._concealing = False
        self._block = np.zeros((channels, MOST * block_size), np.float32)
        self._clean, self._dry = np.zeros((2, channels, block_size), np.float32)
        self._recorded: Sink | None = None
        self._record_from = 0
        self._take = np.zeros((3, channels, block_size), np.float32)
        self._bell = _thread.allocate_lock()
        self._stop = False
        self.trouble = ""  # what the worker met last and went on after
        self._prepared: Lane | None = None  # given by `prepare`, taken by the worker
        self._next: Lane | None = None

    @property
    def position(self) -> int:
        """Samples that the callback has been given."""
        return self._input.written

    @property
    def _start(self) -> int:
        """Position up to which the worker is done."""
        return self._wet.written - self.margin

    @property
    def delays(self) -> dict[str, int]:
        """Samples that music is late, by stage."""
        return {
            "separator": self.lane.separator.latency,
            "worker": self.margin,
            "effects": self.effects_delay,
        }

    @property
    def latency(self) -> int:
        """Their sum: input sample k is heard at output sample k + latency."""
        return self.lane.separator.latency + self.margin + self.effects_delay

    @property
    def microphone_delay(self) -> int:
        """Samples that the microphone is late."""
        return self._microphone.delay

    def effect_problems(self) -> list[str]:
        """What is wrong with effects at the moment."""
        named = {
            **dict(zip(STEMS, self._mixer.chains, strict=True)),
            "microphone": self._microphone,
        }
        return [f"{name}: {chain.problem}" for name, chain in named.items() if chain.problem]

    def prepare(self, preset: str) -> None:
        """Load another preset and let the worker go over to it; takes a moment.

        The new separator hears the last second here, so that the worker need not run two at a time
        but for the blocks in which it goes over.

        Raises:
            StemwireError: if it cannot be loaded. What plays goes on.
        """
        lane = self._open(preset)
        lane.look_back(self._start)
        with contextlib.suppress(BufferError):  # too slow: the worker lets it begin anew
            end = time.monotonic() + CHASE_S
            while lane.at + lane.step <= self._start and time.monotonic() < end:
                lane.listen(self._input)
        self._prepared = lane

    def _open(self, preset: str) -> Lane:
        return Lane(preset, self._opener(preset), self.block_size)

    def record(self, sink: Sink | None) -> None:
        """Give everything that is heard from now on to a sink; None ends that."""
        self._record_from = self._played.written
        self._recorded = sink

    # --- the callback

    def process(self, music: Audio, out: Audio, microphone: Audio | None = None) -> None:
        """One block: take the music, fill `out`. For the audio callback.

        Args:
            music: float32 (channels, block_size).
            out: float32 (channels, block_size), overwritten.
            microphone: float32 (channels, block_size), overwritten; None is silence.
        """
        panel, count = self.panel, music.shape[1]
        at = self._input.written
        np.copyto(self._clean, music)
        peak = self._repair(self._clean)
        self._input.write(self._clean)
        if self._bell.locked():
            self._bell.release()
        self._music(at, out)
        self._level("input", self._clean, peak)
        solo = panel["solo"]
        if microphone is not None:
            self._repair(microphone)
            self._microphone.process(microphone)
            self._level("microphone", microphone, peak_of(microphone))
            gain = db_to_gain(panel["microphone"])
            if solo:
                gain = (gain or 1.0) if solo == 3 else 0.0
            microphone *= self._sung.to(gain, count)
            out += microphone
        out *= self._loud.to(0.0 if panel["mute"] else db_to_gain(panel["output"]), count)
        peak = peak_of(out)
        self._level("output", out, peak)
        if not peak <= 1.0:
            panel.add("clipped", int(np.count_nonzero(np.abs(out) > 1.0)))
            np.clip(out, -1.0, 1.0, out=out)
        self._played.write(out)
        panel.add("blocks")
        panel.add("samples", count)

    def _music(self, at: int, out: Audio) -> None:
        """What is to be heard from position `at`, or the dry signal in its place."""
        count = out.shape[1]
        ready = min(count, max(0, self._wet.written - at))
        if ready == count and not self._concealing:
            self._wet.read(at, out)
            return
        dry = self._dry_from(at, count)
        if ready == count:  # back again: from one to the other over the block
            shift = self._away * self._glide[:count]
            self._wet.read(at, out)
            out += (dry + shift - out) * np.linspace(1.0, 0.0, count, dtype=np.float32)
            self._concealing = False
            return
        self.panel.add("misses")
        begin = 0 if self._concealing else ready
        if not self._concealing:
            if ready:
                self._wet.read(at, out[:, :ready])
            self._away = self._last(at + ready) - self._dry_from(at + ready - 1, 1)
            self._concealing = True
            dry = self._dry_from(at, count)
        out[:, begin:] = dry[:, begin:] + self._away * self._glide[: count - begin]
        self._away = self._away * self._glide[count - begin - 1]
        self.panel.add("concealed", count - begin)

    def _last(self, at: int) -> Audio:
        """The separated sample before position `at`, (channels, 1)."""
        last = np.zeros((self.channels, 1), np.float32)
        self._wet.read(at - 1, last)
        return last

    def _dry_from(self, at: int, count: int) -> Audio:
        """The input that belongs to output positions from `at` on, at the stems' level."""
        dry = self._dry[:, :count]
        self._input.read(at - self.latency, dry)
        if not self.panel["bypass"]:
            dry *= max(self._gain(index) for index in range(2))
        return dry

    def _repair(self, audio: Audio) -> float:
        """Silence in place of what is no number, or so large that it would not end.

        Returns:
            The largest magnitude that is left.
        """
        peak = peak_of(audio)
        if not peak <= LOUDEST:
            bad = ~(np.abs(audio) <= LOUDEST)
            audio[bad] = 0.0
            self.panel.add("bad_input", int(np.count_nonzero(bad)))
            peak = peak_of(audio)
        return peak

    def _level(self, name: str, audio: Audio, peak: float) -> None:
        flat, held = audio.ravel(), f"{name}_peak"
        # Screens look less often than blocks come: a peak falls slowly enough to be seen.
        fall = 10 ** (-FALL_DB * audio.shape[1] / (20 * self.sample_rate))
        self.panel[held] = max(peak, fall * self.panel[held])
        self.panel[f"{name}_rms"] = math.sqrt(float(np.dot(flat, flat)) / max(1, flat.size))

    def _gain(self, index: int) -> float:
        """Factor of a stem, as the controls stand."""
        gain = db_to_gain(self.panel[STEMS[index]])
        solo = self.panel["solo"]
        if solo:
            return (gain or 1.0) if solo == index + 1 else 0.0
        return gain

    # --- the worker

    def run(self) -> None:
        """Work until `stop`; for the worker's thread."""
        while not self._stop:
            self._bell.acquire(timeout=WAIT_S)
            try:
                while not self._stop and self.work():
                    pass
            except Exception as error:  # of a backend, say: the input plays, and it is tried again
                self.trouble = f"{type(error).__name__}: {error}"
                with contextlib.suppress(Exception):  # the backend may be gone for good
                    self._give_up()

    def stop(self) -> None:
        """End `run`, once the block in hand is done."""
        self._stop = True

    def start_thread(self, prepare: Callable[[], object] = lambda: None) -> threading.Thread:
        """`run` in a thread of its own, which calls `prepare` first."""

        def whole() -> None:
            prepare()
            self.run()

        thread = threading.Thread(target=whole, name="stemwire-worker", daemon=True)
        thread.start()
        return thread

    def work(self) -> bool:
        """Separate and mix the next step, if it is there; says whether it was.

        A worker that has fallen behind takes several steps at once, which takes less time than one
        by one; one that has not would only have the first of them later.
        """
        start = self._start
        self._take_prepared(start)
        count = max(lane.step for lane in (self.lane, self._next) if lane is not None)
        if self._input.written - start > self._input.capacity - 2 * count:
            self._give_up()
            return True
        waiting = self._input.written - start
        if waiting < count:
            return False
        if waiting > self.block_size:
            count *= min(waiting, MOST * self.block_size) // count
        block = self._block[:, :count]
        self._input.read(start, block)
        stems = self._separate(block)
        for at in range(0, count, self.block_size):
            self._give(stems[..., at : at + self.block_size])
        self.panel["bad_effects"] = self._mixer.failures + self._microphone.failures
        self.panel["hops"] = self.panel.hop_times.count
        self._record()
        return True

    def _give(self, stems: Audio) -> None:
        """Effects and mix of stems, to where the callback finds them."""
        gains = [self._gain(index) for index in range(2)]
        raw, shaped, mix = self._mixer.mix(stems, gains, self.panel["bypass"])
        for name, stem in zip(STEMS, shaped, strict=True):
            self._level(name, stem, peak_of(stem))
        self._stems.write(raw)
        self._wet.write(mix)

    def _take_prepared(self, start: int) -> None:
        """Go over to what was prepared, unless it is going over to another already."""
        lane = self._prepared
        if lane is None or self._change.value > 0.0 or (start - lane.at) % lane.step:
            return
        self._prepared = None
        if start - lane.at > CLOSE * self.block_size:
            lane.begin(start)
        while lane.at < start:
            lane.listen(self._input)
        self._next = lane

    def _separate(self, block: Audio) -> Audio:
        """Stems of a block, (2, channels, n); changes the preset when that is due."""
        stems = self.lane.separator.push(block)
        following = self._next
        if following is None:
            return stems
        other = following.separator.push(block)
        following.heard += block.shape[1]
        if following.settled:
            stems = stems + (other - stems) * self._change.to(1.0, block.shape[1])
            if self._change.value == 1.0:
                following.separator.hop_times = self.panel.hop_times
                self.lane, self._next = following, None
                self._change.value = 0.0
        return stems

    def _give_up(self) -> None:
        """Leave out what is too old to be caught up with, but for what warms up the separator."""
        backlog = self._input.written - self._start
        needed = round(WARM_S * self.sample_rate) + self.latency
        lost = max(0, backlog - needed) // self.block_size * self.block_size
        for lane in (self.lane, self._next):
            if lane is not None:
                lane.separator.reset()
        self._stems.write_silence(lost)
        self._wet.write_silence(lost)
        self.panel.add("skipped", max(1, lost // self.lane.separator.hop))

    def _record(self) -> None:
        sink, count = self._recorded, self.block_size
        if sink is None:
            return
        while min(self._played.written, self._stems.written) - self._record_from >= count:
            try:
                self._stems.read(self._record_from, self._take[:2])
                self._played.read(self._record_from, self._take[2])
            except BufferError:  # skipped
                self._take[:] = 0.0
            sink.write(self._take)
            self._record_from += count
