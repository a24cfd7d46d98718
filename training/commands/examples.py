"""`stemwire data examples`: training examples written to disk with pictures, to be checked.

Each example gets a folder with its stems, its mixture and a picture; `index.md` shows them all, and
`index.json` has the same for programs.
"""

from __future__ import annotations

import argparse
import json
import math
import textwrap
import warnings
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stemwire.errors import ConfigError, OutputError
from stemwire.extras import extra
from stemwire.training.examples.augment import Audio, rms
from stemwire.training.examples.examples import Example, ExampleMaker

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WINDOW = 4096 / 44_100  # seconds
LOWEST = 40.0  # Hz, the lowest frequency in pictures
FLOOR_DB = -80.0
INAUDIBLE_DB = -100.0  # largest RMS of a stem that counts as absent, dB of full scale
PICTURE = "picture.png"


def add_examples_parser(
    commands: argparse._SubParsersAction[Any], common: argparse.ArgumentParser
) -> None:
    """Add `stemwire data examples`."""
    parser = commands.add_parser(
        "examples",
        parents=[common],
        help="write training examples with pictures, to check them",
        description="Write training examples into DIR/<number>/: vocals.wav, "
        "accompaniment.wav, mixture.wav (32-bit float) and picture.png; DIR/index.md shows all of "
        "them with their augmentations, DIR/index.json is the same for programs.",
    )
    parser.add_argument(
        "manifest", type=Path, metavar="MANIFEST", help="manifest that `stemwire data scan` wrote"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--count", type=int, default=12, help="number of examples (default: 12)")
    parser.add_argument(
        "--first", type=int, default=0, metavar="K", help="number of the first example (default: 0)"
    )
    parser.add_argument(
        "--seed", type=int, default=1, help="seed, as for a training run (default: 1)"
    )
    parser.add_argument(
        "--rate", type=int, default=44_100, help="sample rate in Hz (default: 44100)"
    )
    parser.add_argument(
        "--cache", type=Path, metavar="DIR", help="cache that `stemwire data cache` wrote"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        dest="changes",
        help="setting of the examples to change, e.g. seconds=6",
    )
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    for name in ("soxr", "scipy", "matplotlib"):
        extra(name, "stemwire data examples")
    from stemwire.training.data.manifest import Manifest
    from stemwire.training.data.reader import AudioReader
    from stemwire.training.trainer.settings import RunSettings, override

    for name, low in (("count", 1), ("first", 0), ("seed", 0), ("rate", 1_000)):
        if getattr(args, name) < low:
            raise ConfigError(f"--{name} must be at least {low}, not {getattr(args, name)}")
    changes = [f"examples.{change}" for change in args.changes]
    settings = override(RunSettings(), changes).examples
    reader = AudioReader(Manifest(args.manifest), args.rate, args.cache)
    maker = ExampleMaker(reader, settings, args.seed)
    numbers = range(args.first, args.first + args.count)
    for row in write_examples(maker, numbers, args.output):
        print(f"{args.output / row['folder']}: {row['summary']}")
    for song, times in maker.skipped.items():
        print(f"skipped {song}: could not be read ({times} times)")
    print(f"{args.output / 'index.md'} shows them")
    return 0


def write_examples(
    maker: ExampleMaker, numbers: Sequence[int], folder: Path
) -> list[dict[str, Any]]:
    """Write examples, their pictures and both indices into `folder`; returns the rows of the index.

    Raises:
        OutputError: if `folder` cannot be written.
        AudioError: if too many songs cannot be read.
    """
    import soundfile

    rows = []
    for number in numbers:
        example = maker(number)
        row = describe(example, number)
        stems = {
            "vocals": example.vocals,
            "accompaniment": example.accompaniment,
            "mixture": example.vocals + example.accompaniment,
        }
        target = folder / row["folder"]
        try:
            target.mkdir(parents=True, exist_ok=True)
            for name, audio in stems.items():
                soundfile.write(target / f"{name}.wav", audio.T, maker.rate, "FLOAT")
            with warnings.catch_warnings():  # names of songs may be in any script
                warnings.filterwarnings("ignore", "Glyph .* missing")
                picture(stems, maker.rate, row).savefig(target / PICTURE)
        except (OSError, soundfile.LibsndfileError) as error:
            raise _unwritable(target, error) from error
        rows.append(row)
    index = {"seed": maker.seed, "sample_rate": maker.rate, "examples": rows}
    try:
        (folder / "index.json").write_text(json.dumps(index, indent=1), encoding="utf-8")
        (folder / "index.md").write_text(_page(rows, maker), encoding="utf-8")
    except OSError as error:
        raise _unwritable(folder, error) from error
    return rows


def describe(example: Example, number: int) -> dict[str, Any]:
    """What an example is, as plain values: levels in dB, bandwidth in Hz, what was done."""
    vocals, music = example.vocals, example.accompaniment
    sung, played, level = (_db(rms(audio)) for audio in (vocals, music, vocals + music))
    ratio = sung - played if min(sung, played) > INAUDIBLE_DB else None
    words = [
        "no vocals"
        if sung <= INAUDIBLE_DB
        else "no accompaniment"
        if ratio is None
        else f"vocals {ratio:+.1f} dB over accompaniment",
        f"mixture {level:.1f} dBFS",
        f"bandwidth {example.bandwidth_hz / 1000:.1f} kHz",
    ]
    return {
        "number": number,
        "folder": f"{number:06d}",
        "summary": ", ".join(words),
        "ratio_db": ratio,
        "level_db": level,
        "bandwidth_hz": example.bandwidth_hz,
        "notes": list(example.notes),
    }


def picture(stems: dict[str, Audio], rate: int, row: dict[str, Any]) -> Figure:
    """Waveform and spectrogram of each stem beside each other, with what was done below them.

    Frequency is logarithmic. All share one scale in dB, 0 being the loudest bin of the mixture; a
    dashed line marks the bandwidth, above which a loss looks at nothing.
    """
    from matplotlib.figure import Figure

    notes = _wrapped(row["notes"])
    lines = notes.count("\n") + 1
    height = 5.6 + 0.19 * lines
    figure = Figure(figsize=(15, height), dpi=100)
    grid = figure.add_gridspec(
        2,
        4,
        height_ratios=(1, 4),
        width_ratios=(1, 1, 1, 0.035),
        hspace=0.08,
        wspace=0.06,
        left=0.065,
        right=0.95,
        top=1 - 0.75 / height,
        bottom=(0.75 + 0.19 * lines) / height,
    )
    spectra = {name: spectrogram(audio, rate) for name, audio in stems.items()}
    top = max(float(power.max()) for power, _ in spectra.values()) + 1e-12
    peak = max(float(np.abs(audio).max()) for audio in stems.values()) + 1e-6
    seconds = next(iter(stems.values())).shape[1] / rate
    ticks = [hz for hz in (50, 100, 200, 500, 1e3, 2e3, 5e3, 10e3, 20e3) if hz <= rate / 2]
    image = None
    for column, (name, audio) in enumerate(stems.items()):
        wave = figure.add_subplot(grid[0, column])
        time, low, high = _envelope(audio, rate)
        for side, color in enumerate(("tab:blue", "tab:orange")):
            wave.fill_between(
                time,
                low[side],
                high[side],
                color=color,
                lw=0.5,
                alpha=0.7**side,
                label=("left", "right")[side],
            )
        wave.set(xlim=(0, seconds), ylim=(-1.05 * peak, 1.05 * peak), title=name)
        wave.tick_params(labelbottom=False, labelleft=column == 0)

        power, hz = spectra[name]
        axes = figure.add_subplot(grid[1, column])
        db = 10 * np.log10(power / top + 1e-12)
        image = axes.imshow(
            db,
            origin="lower",
            aspect="auto",
            cmap="magma",
            vmin=FLOOR_DB,
            vmax=0,
            extent=(0, seconds, math.log10(hz[0]), math.log10(hz[-1])),
            interpolation="nearest",
        )
        axes.set_yticks(np.log10(ticks), [f"{tick / 1000:g}" for tick in ticks])
        axes.set_xlabel("time in s")
        axes.tick_params(labelleft=column == 0)
        if column == 0:
            wave.set_ylabel("amplitude")
            wave.legend(loc="upper right", fontsize="x-small", ncols=2)
            axes.set_ylabel("frequency in kHz")
        if row["bandwidth_hz"] < 0.98 * rate / 2:
            axes.axhline(math.log10(row["bandwidth_hz"]), color="white", linestyle="--", lw=0.8)
    assert image is not None  # three stems were drawn
    figure.align_ylabels()
    figure.colorbar(image, cax=figure.add_subplot(grid[1, 3]), label="dB")
    title = f"Example {row['number']}: {row['summary']}"
    figure.text(0.065, 1 - 0.28 / height, title, fontsize=13, va="center")
    figure.text(
        0.065, 0.1 / height, notes, fontsize=9, va="bottom", linespacing=1.3, parse_math=False
    )
    return figure


def spectrogram(audio: Audio, rate: int, rows: int = 320) -> tuple[NDArray[Any], NDArray[Any]]:
    """Power of both channels on a logarithmic axis: (rows, frames), and the rows' Hz.

    Hann windows of 93 ms, overlapped by three quarters. A row is interpolated between bins where
    these are wider than rows, and the largest of them where several fall into it.
    """
    size = 2 * round(WINDOW * rate / 2)
    hop = size // 4
    frames = -(-audio.shape[1] // hop)
    padded = np.pad(audio, ((0, 0), (size // 2, size // 2 + frames * hop - audio.shape[1])))
    windows = np.lib.stride_tricks.sliding_window_view(padded, size, axis=1)[
        :, : frames * hop : hop
    ]
    power = np.square(np.abs(np.fft.rfft(windows * np.hanning(size)))).sum(0).T  # (bins, frames)
    hz = np.geomspace(min(LOWEST, rate / 8), rate / 2, rows)
    places = hz * size / rate
    below = np.floor(places).astype(int).clip(0, size // 2 - 1)
    part = (places - below)[:, None]
    smooth = (1 - part) * power[below] + part * power[below + 1]
    edges = np.append(below, size // 2 + 1)
    largest = np.stack([power[a : max(a + 1, b)].max(0) for a, b in pairwise(edges)])
    wide = np.diff(edges) > 1
    return np.where(wide[:, None], largest, smooth), hz


def _envelope(audio: Audio, rate: int, columns: int = 800) -> tuple[NDArray[Any], ...]:
    """Times in s, and the smallest and largest samples around each, (2, m)."""
    step = -(-audio.shape[1] // columns)
    blocks = np.pad(audio, ((0, 0), (0, -audio.shape[1] % step)), "edge").reshape(2, -1, step)
    return np.arange(blocks.shape[1]) * step / rate, blocks.min(2), blocks.max(2)


def _wrapped(notes: Sequence[str], width: int = 180) -> str:
    """Notes in lines of at most `width` characters, broken between notes if possible."""
    lines = [""]
    for note in notes:
        for part in textwrap.wrap(note, width):
            joined = f"{lines[-1]}  ·  {part}" if lines[-1] else part
            lines = [*lines[:-1], joined] if len(joined) <= width else [*lines, part]
    return "\n".join(lines)


def _page(rows: Sequence[dict[str, Any]], maker: ExampleMaker) -> str:
    parts = [
        f"# Training examples\n\nSeed {maker.seed}, {maker.count} samples at {maker.rate} Hz.\n"
    ]
    for row in rows:
        folder = row["folder"]
        files = ", ".join(
            f"[{name}]({folder}/{name}.wav)" for name in ("vocals", "accompaniment", "mixture")
        )
        notes = "\n".join(f"- {note}" for note in row["notes"])
        parts.append(
            f"## {row['number']}\n\n{row['summary']}. {files}\n\n"
            f"![Example {row['number']}]({folder}/{PICTURE})\n\n{notes}\n"
        )
    return "\n".join(parts)


def _db(level: float) -> float:
    return 20 * math.log10(max(level, 1e-10))


def _unwritable(path: Path, error: Exception) -> OutputError:
    return OutputError(f"{path}: cannot be written ({error}); choose another folder or free space")
