"""`stemwire live --check`: which settings will work on this computer."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stemwire.errors import StemwireError
from stemwire.model.preset import Preset, shipped_presets
from stemwire.realtime.backends import load_backend
from stemwire.realtime.live.devices import (
    Device,
    close_stream,
    find_device,
    list_devices,
    one_clock,
    plausible_latency,
    sounddevice,
)
from stemwire.realtime.live.drift import DriftCorrector
from stemwire.realtime.live.engine import usual_margin
from stemwire.realtime.ring import Audio
from stemwire.realtime.streaming import StreamingSeparator
from stemwire.realtime.timing import TimeHistogram

BLOCKS = (64, 128, 256, 512, 1024)
TIMING_S = 10.0
LOOP_BLOCK = 512  # for measuring the devices' latency
SAFETY = 1.5  # factor of safety on the slowest hop measured
LISTEN_S = 1.5
COUNT_S = 0.4  # time for counting blocks
MIN_CORRELATION = 0.4  # of the played and the recorded sweep, 0 to 1


@dataclass(frozen=True)
class Loop:
    """Measured loop from output to input.

    Attributes:
        delay: round trip in samples; None if no signal came back.
        reported: latency that the driver reports, in samples; 0 if unknown.
    """

    delay: int | None
    reported: int


def sweep(rate: int, seconds: float = 0.25) -> Audio:
    """Quiet sine sweep, float32 (n,), to measure a delay by correlation."""
    time_s = np.arange(round(rate * seconds)) / rate
    low, high = 300.0, min(8000.0, 0.4 * rate)
    phase = 2 * np.pi * seconds * low / np.log(high / low)
    wave = np.sin(phase * np.expm1(time_s / seconds * np.log(high / low)))
    tone: Audio = (0.2 * wave * np.hanning(len(wave))).astype(np.float32)
    return tone


def find_delay(played: Audio, recorded: Audio) -> int | None:
    """Delay in samples of `played` (n,) in `recorded` (m,); None if it is not found."""
    size = 1 << (len(played) + len(recorded)).bit_length()
    spectrum = np.fft.rfft(recorded, size) * np.conj(np.fft.rfft(played, size))
    found = np.abs(np.fft.irfft(spectrum, size)[: len(recorded)])
    # Normalized by the recorded energy, for music may be playing at the input.
    energy = np.cumsum(np.pad(np.square(recorded, dtype=np.float64), (1, len(played))))
    there = energy[len(played) : len(played) + len(recorded)] - energy[: len(recorded)]
    correlation = found / np.sqrt(np.square(played).sum() * (there + 1e-6))
    best = int(np.argmax(correlation))
    return best if correlation[best] > MIN_CORRELATION else None


def measure_loop(source: Device, target: Device, rate: int, block: int) -> Loop:
    """Measure the latency of devices and the cable between them, by playing a sweep.

    Raises:
        sounddevice.PortAudioError: if they cannot be opened together.
    """
    sd = sounddevice()
    tone = sweep(rate)
    play = np.zeros(round(rate * LISTEN_S), np.float32)
    play[: len(tone)] = tone
    recorded_block = np.zeros_like(play)
    at = 0

    def callback(indata: Audio, outdata: Audio, frames: int, *_: object) -> None:
        nonlocal at
        count = min(frames, len(play) - at)
        outdata.fill(0.0)
        if count > 0:
            outdata[:count] = play[at : at + count, None]
            recorded_block[at : at + count] = indata[:count].sum(1)
            at += count

    stream = sd.Stream(
        samplerate=rate,
        blocksize=block,
        device=(source.number, target.number),
        channels=(min(2, source.inputs), min(2, target.outputs)),
        dtype="float32",
        latency="low",
        callback=callback,
    )
    try:
        stream.start()
        end = time.monotonic() + 3 * LISTEN_S
        while at < len(play) and time.monotonic() < end:
            time.sleep(0.05)
        reported = plausible_latency(sum(stream.latency)) * rate
    finally:
        close_stream(stream)
    return Loop(find_delay(tone, recorded_block), round(reported))


def samples_per_request(
    source: Device, target: Device, rate: int, block: int, seconds: float = COUNT_S
) -> int | None:
    """Samples that the output requests at a time; None if it does not open with this block.

    More than a block if the system uses larger ones: then blocks come in bursts.
    """
    sd = sounddevice()
    times: list[float] = []

    def duplex(indata: Audio, outdata: Audio, *_: object) -> None:
        times.append(time.perf_counter())
        outdata.fill(0.0)

    def playback(outdata: Audio, *_: object) -> None:
        times.append(time.perf_counter())
        outdata.fill(0.0)

    common = {"samplerate": rate, "blocksize": block, "dtype": "float32", "latency": "low"}
    channels = min(2, source.inputs), min(2, target.outputs)
    try:
        if one_clock(source, target):
            devices = (source.number, target.number)
            stream = sd.Stream(device=devices, channels=channels, callback=duplex, **common)
        else:
            stream = sd.OutputStream(
                device=target.number, channels=channels[1], callback=playback, **common
            )
    except (sd.PortAudioError, ValueError):
        return None
    try:
        stream.start()
        time.sleep(max(seconds, 20 * block / rate))
    except sd.PortAudioError:
        return None
    finally:
        close_stream(stream)
    return block * blocks_per_burst(times, block / rate)


def blocks_per_burst(times: Sequence[float], length: float) -> int:
    """Usual number of blocks per burst, from the times of callbacks in seconds."""
    begins = np.flatnonzero(np.diff(times, prepend=-np.inf) > length / 2)
    sizes = np.diff(begins)[1:]  # the first burst may belong to the start, the last be incomplete
    return max(1, round(float(np.median(sizes)))) if len(sizes) else 1


def time_preset(preset: Preset, rate: int, seconds: float = TIMING_S) -> TimeHistogram:
    """Time every hop of `seconds` of noise in real time, so that caches go cold between hops."""
    backend = load_backend(preset, "auto")
    separator = StreamingSeparator(backend, preset.config, rate, 2, None)
    hop = separator.hop
    rng = np.random.default_rng(0)
    block = (0.1 * rng.standard_normal((2, hop))).astype(np.float32)
    for _ in range(8):
        separator.push(block)
    separator.hop_times = TimeHistogram()
    due = time.perf_counter()
    for _ in range(round(seconds * rate / hop)):
        separator.push(block)
        due += hop / rate
        time.sleep(max(0.0, due - time.perf_counter()))
    return separator.hop_times


def margin_left(block: int, hop: int, at_once: int) -> int:
    """Margin in samples that is left when `at_once` samples are requested at a time."""
    return usual_margin(block, hop) // at_once * at_once


def smallest_block(
    times: TimeHistogram, hop: int, rate: int, at_once: Mapping[int, int | None]
) -> int | None:
    """Smallest block size with which hops are on time; None if there is none.

    Args:
        times: processing times of hops.
        hop: hop in samples.
        rate: sample rate in Hz.
        at_once: by block size, result of `samples_per_request`.
    """
    needed = SAFETY * times.percentile(99.9) * rate
    if times.percentile(99) * rate > 0.8 * hop:
        return None
    for block, samples in at_once.items():
        if samples is not None and margin_left(block, hop, samples) >= needed:
            return block
    return None


def reason_against(
    block: int, times: TimeHistogram, hop: int, rate: int, at_once: int | None
) -> str:
    """Reason why a block size does not work."""
    if at_once is None:
        return "the devices cannot be opened with it"
    slowest = times.percentile(99.9) * 1e3
    left = margin_left(block, hop, at_once) / rate * 1e3
    burst = f", as {at_once // block} of them come at once" if at_once > block else ""
    return (
        f"the slowest hops took {slowest:.1f} ms, with safety {SAFETY * slowest:.1f}, and blocks "
        f"of {block} leave {left:.1f} ms{burst}"
    )


def _find_devices(which: Sequence[str | int | None]) -> tuple[Device | None, Device | None]:
    found: list[Device | None] = []
    for name, direction in zip(which, ("input", "output"), strict=True):
        try:
            found.append(find_device(name, direction))  # type: ignore[arg-type]
        except StemwireError as error:
            print(f"{direction}: {error}")
            found.append(None)
    return found[0], found[1]


def check(
    input: int | str | None = None,
    output: int | str | None = None,
    sample_rate: int | None = None,
    seconds: float = TIMING_S,
) -> int:
    """Check devices and presets, print what will work, return an exit status (0 or 2)."""
    print(f"{len(list_devices())} sound devices.")
    source, target = _find_devices((input, output))
    rate = sample_rate or (target.sample_rate if target else 44_100)
    at_once: dict[int, int | None] = {block: block for block in BLOCKS}
    if source and target:
        print(f"Music would come from {source} and go to {target}, at {rate} Hz.")
        _print_loop_delay(source, target, rate)
        at_once = {block: samples_per_request(source, target, rate, block) for block in BLOCKS}
    working = []
    for preset in shipped_presets():
        times = time_preset(preset, rate, seconds)
        separator = StreamingSeparator(load_backend(preset, "auto"), preset.config, rate, 2, None)
        hop, marks = separator.hop, times.summary()
        print(
            f"{preset.name}: a hop lasts {hop / rate * 1e3:.1f} ms; it took "
            + ", ".join(f"{name} {value:.1f}" for name, value in marks.items())
            + " ms"
        )
        block = smallest_block(times, hop, rate, at_once)
        if block is None and times.percentile(99) * rate <= 0.8 * hop:
            reason = reason_against(BLOCKS[-1], times, hop, rate, at_once[BLOCKS[-1]])
            print(f"  will not work even with --block-size {BLOCKS[-1]}: {reason}")
            continue
        if block is None:
            print(
                f"  too slow: this computer needs {marks['p99']:.1f} ms where there are "
                f"{hop / rate * 1e3:.1f}; close other programs, or take a preset with longer hops"
            )
            continue
        exact = StreamingSeparator(
            load_backend(preset, "auto"), preset.config, rate, 2, block
        ).latency
        if source and target and not one_clock(source, target):
            exact += DriftCorrector(rate, 1, block, block).latency
        delay = (exact + usual_margin(block, hop)) / rate * 1e3
        working.append((delay, preset.name, block))
        smaller = BLOCKS[BLOCKS.index(block) - 1] if block > BLOCKS[0] else None
        print(
            f"  will work with --block-size {block} and more: {delay:.1f} ms from input to output"
        )
        if smaller:
            print(f"  not {smaller}: {reason_against(smaller, times, hop, rate, at_once[smaller])}")
    if not (working and source and target):
        print("Live separation will not work yet; see above.")
        return 2
    delay, name, block = min(working)
    print(f"Lowest latency: stemwire live --preset {name} --block-size {block}  ({delay:.1f} ms)")
    return 0


def _print_loop_delay(source: Device, target: Device, rate: int) -> None:
    """Measure and print the latency of the devices."""
    if not one_clock(source, target):
        print(
            "Each has its own clock. The latency below includes the correction of their drift, but "
            "not the latency of the devices themselves."
        )
        return
    sd = sounddevice()
    try:
        loop = measure_loop(source, target, rate, LOOP_BLOCK)
    except (sd.PortAudioError, ValueError) as error:
        print(
            f"The devices cannot be opened together at {rate} Hz ({error}); another program may "
            "be using them, or they need another rate (see `stemwire devices`)."
        )
        return
    if loop.delay is None:
        print(
            f"No signal came back. To measure the devices' own latency, connect output 1 of "
            f"{target.name} to input 1 of {source.name} with a cable, turn the input up and check "
            f"again. {_driver_latency(loop, rate)}"
        )
        return
    print(
        f"Round-trip latency of the devices, measured: {loop.delay} samples, "
        f"{loop.delay / rate * 1e3:.1f} ms. {_driver_latency(loop, rate)}"
    )


def _driver_latency(loop: Loop, rate: int) -> str:
    if not loop.reported:
        return "The driver reports no latency."
    return f"The driver reports {loop.reported / rate * 1e3:.1f} ms."
