"""Separation quality on the development windows, through the streaming engine.

    python benchmarks/quality.py DEV [--rate 44100] [--preset P ...] [--baselines] [--json FILE]

DEV holds the songs `2.Lithium` and `6.Caesium` of the album *Everything is Free* (CC0), each a
folder with `vocals` and `accompaniment`. Four windows of 30 s, resampled; mixture := vocals +
accompaniment. Whole-window SDR = 10 log10(sum ref^2 / sum (ref - est)^2) over both channels,
average over the windows. Both songs are by the artist of a part of the training data, so the
figures say little about other music; nothing was tuned on them.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

import stemwire

Audio = NDArray[np.float32]
WINDOWS = (("2.Lithium", 275), ("2.Lithium", 217), ("6.Caesium", 182), ("6.Caesium", 112))
SECONDS = 30


def read_window(folder: Path, song: str, start: int, rate: int) -> tuple[Audio, Audio]:
    """Vocals and accompaniment of one window, float32 (2, n) at `rate` Hz."""
    stems = []
    for name in ("vocals", "accompaniment"):
        with soundfile.SoundFile(folder / song / f"{name}.opus") as file:
            file.seek(start * file.samplerate)
            audio = file.read(SECONDS * file.samplerate, dtype="float32", always_2d=True)
            stems.append(soxr.resample(audio, file.samplerate, rate, quality="VHQ").T)
    return stems[0], stems[1]


def sdr(reference: Audio, estimate: Audio) -> float:
    """Signal-to-distortion ratio in dB over all samples and channels."""
    error = np.sum(np.square(reference - estimate, dtype=np.float64))
    return float(10 * np.log10(np.sum(np.square(reference, dtype=np.float64)) / error))


def stream(preset: str, rate: int) -> Callable[[Audio, int], Audio]:
    """Vocals by a preset, pushed in blocks of 1024 through the public API."""

    def separate(mixture: Audio, _: int) -> Audio:
        separator = stemwire.load(preset, rate, 2)
        blocks = [mixture[:, at : at + 1024] for at in range(0, mixture.shape[1], 1024)]
        stems = [separator.push(np.ascontiguousarray(block)) for block in blocks]
        return np.concatenate([*stems, separator.flush()], 2)[0, :, separator.latency :]

    return separate


def main() -> None:
    """Print a table of SDR for each method."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path, metavar="DEV")
    parser.add_argument("--rate", type=int, default=44_100, help="sample rate in Hz")
    parser.add_argument("--preset", action="append", help="name or folder; default: all shipped")
    parser.add_argument("--baselines", action="store_true", help="also the offline baselines")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    args = parser.parse_args()
    methods = {
        f"stemwire {name}": stream(name, args.rate)
        for name in args.preset or [preset.name for preset in stemwire.presets()]
    }
    if args.baselines:
        from stemwire.training.baselines import BASELINES

        methods = {**BASELINES, **methods}
    windows = [(f"{song} {at} s", *read_window(args.folder, song, at, args.rate))
               for song, at in WINDOWS]  # fmt: skip
    print(f"vocals SDR improvement over the mixture, dB; {args.rate} Hz, {time.strftime('%F')}")
    print(f"{'':24}", *(f"{name:>16}" for name, *_ in windows), f"{'average':>9}")
    figures = {}
    for name, method in methods.items():
        gains = []
        for _, vocals, music in windows:
            mixture = vocals + music
            gains.append(sdr(vocals, method(mixture, args.rate)) - sdr(vocals, mixture))
        mean = float(np.mean(gains))
        print(f"{name:24}", *(f"{gain:16.2f}" for gain in gains), f"{mean:9.2f}", flush=True)
        figures[name] = {"windows": gains, "average": mean}
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
