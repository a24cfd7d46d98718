"""Methods to evaluate: presets and checkpoints, baselines, stems of other programs.

Presets and checkpoints always run as streams. Methods are plain data, so that each worker process
opens its own.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Protocol

import numpy as np

from stemwire.errors import AudioError, ConfigError
from stemwire.model.preset import find_preset
from stemwire.realtime.backends import load_backend
from stemwire.realtime.backends.interface import Backend
from stemwire.realtime.backends.torch_backend import TorchBackend
from stemwire.realtime.streaming import StreamingSeparator
from stemwire.training.data.names import STEM_SUFFIX, SUFFIXES, suffix_of
from stemwire.training.evaluation.baselines import BASELINES, ORACLES, baseline_stems
from stemwire.training.evaluation.metrics import Audio

if TYPE_CHECKING:
    from stemwire.training.data.manifest import Song
    from stemwire.training.data.reader import AudioReader

BLOCKS = (1021, 4093, 61, 2053, 331)  # samples: no block lines up with a hop
STEM_NAMES = (("vocals",), ("instrumental", "accompaniment"))


@dataclass(frozen=True)
class Passage:
    """Song or excerpt with its true stems.

    Attributes:
        name: name of the song and, for an excerpt, its seconds.
        song: song of the manifest.
        start: first sample within the song, at `sample_rate`.
        sample_rate: sample rate of the evaluation in Hz.
        references: float32 (2, channels, n): vocals, instrumental; zeros where the song has none.
    """

    name: str
    song: Song
    start: int
    sample_rate: int
    references: Audio

    @property
    def mixture(self) -> Audio:
        """Sum of the stems, float32 (channels, n)."""
        mixture: Audio = self.references.sum(0)
        return mixture


class Method(Protocol):
    """Separation method for passages; picklable."""

    @property
    def name(self) -> str:
        """Name in tables."""

    def check(self, sample_rate: int) -> None:
        """Raise a `StemwireError` if the method cannot work, before any song is read."""

    def stems(self, passage: Passage, reader: AudioReader) -> Audio:
        """Vocals and instrumental, shaped as `passage.references`; `reader` decodes files."""


@dataclass(frozen=True)
class Streamed:
    """Preset or checkpoint, run as a stream.

    Attributes:
        source: name or folder of a preset, or a checkpoint's .safetensors file.
        checkpoint: whether it is a checkpoint: weights without a graph, run by PyTorch.
        backend: as for `stemwire.load`; checkpoints run on `cuda` or else in PyTorch on the CPU.
    """

    source: str
    checkpoint: bool = False
    backend: str = "auto"

    @property
    def name(self) -> str:
        return self.source

    def open(self, sample_rate: int, channels: int) -> StreamingSeparator:
        """New separator that takes blocks of any size.

        Raises:
            CheckpointError, ConfigError, BackendError: if it cannot be opened.
        """
        if self.checkpoint:
            device = "cuda" if self.backend == "cuda" else "cpu"
            torch_backend = TorchBackend(Path(self.source), device)
            backend: Backend = torch_backend
            config = torch_backend.network.config
        else:
            preset = find_preset(self.source)
            backend, config = load_backend(preset, self.backend), preset.config
        return StreamingSeparator(backend, config, sample_rate, channels, None)

    def check(self, sample_rate: int) -> None:
        self.open(sample_rate, 1)

    def stems(self, passage: Passage, reader: AudioReader) -> Audio:
        separator = self.open(passage.sample_rate, passage.references.shape[1])
        return stream(separator, passage.mixture)


def stream(separator: StreamingSeparator, mixture: Audio) -> Audio:
    """Aligned stems (2, channels, n) of a mixture (channels, n) pushed in blocks of odd sizes."""
    parts, at = [], 0
    for size in itertools.cycle(BLOCKS):
        if at >= mixture.shape[1]:
            break
        parts.append(separator.push(mixture[:, at : at + size]))
        at += size
    parts.append(separator.flush())
    return np.concatenate(parts, axis=2)[:, :, separator.latency :]


@dataclass(frozen=True)
class Baseline:
    """Baseline out of `BASELINES` or `ORACLES`."""

    name: str

    def check(self, sample_rate: int) -> None:
        if self.name not in (known := (*BASELINES, *ORACLES)):
            raise ConfigError(f"baseline {self.name!r} is unknown; use one of {', '.join(known)}")
        rng = np.random.default_rng(0)
        # Long enough for all baselines; finds missing packages and unsupported rates.
        probe = rng.standard_normal((2, 2, 5 * sample_rate), np.float32)
        baseline_stems(self.name, probe, sample_rate)

    def stems(self, passage: Passage, reader: AudioReader) -> Audio:
        return baseline_stems(self.name, passage.references, passage.sample_rate)


@dataclass(frozen=True)
class StemFolder:
    """Stems by any program: `folder/SONG/vocals.wav`, `instrumental.wav` or both.

    SONG is one of the song's `names_of`. `accompaniment` may replace `instrumental`; a missing stem
    is the mixture minus the other. Files have the length of the song, at its own rate or at that of
    the evaluation.
    """

    folder: Path

    @property
    def name(self) -> str:
        return str(self.folder)

    def check(self, sample_rate: int) -> None:
        if not self.folder.is_dir():
            raise ConfigError(f"{self.folder}: no such folder of stems; check the path")

    def stems(self, passage: Passage, reader: AudioReader) -> Audio:
        song, mixture = passage.song, passage.mixture
        for name in names_of(song.name):
            files = [_file(self.folder / name, stems) for stems in STEM_NAMES]
            if any(files):
                break
        else:
            raise AudioError(
                f"{self.folder / name}: neither vocals nor instrumental (.wav, .flac …) of song "
                f"{song.name!r} are there; separate it too, or evaluate other songs"
            )
        if name != song.name and sum(name in names_of(s.name) for s in reader.manifest) > 1:
            raise AudioError(
                f"{self.folder / name}: {name!r} is the name of several songs; put the stems of "
                f"{song.name!r} into {self.folder / song.name}"
            )
        vocals, rest = (self._read(file, passage, reader) if file else None for file in files)
        # At least one is there; the other is the rest of the mixture.
        vocals = mixture - rest if vocals is None and rest is not None else vocals
        rest = mixture - vocals if rest is None and vocals is not None else rest
        return np.array((vocals, rest), np.float32)

    def _read(self, path: Path, passage: Passage, reader: AudioReader) -> Audio:
        """Passage of a stem, (channels, n), decoded as the references are."""
        from stemwire.training.data.decode import inspect
        from stemwire.training.data.reader import AudioReader

        song, channels = passage.song, passage.references.shape[1]
        format = inspect(str(path))
        lengths = {passage.sample_rate: reader.frames(song), song.sample_rate: song.frames}
        if format.sample_rate not in lengths:
            raise AudioError(
                f"{path}: is at {format.sample_rate} Hz, song {song.name!r} at {song.sample_rate} "
                f"Hz; expected that rate, or the evaluation's {passage.sample_rate} Hz"
            )
        if format.frames != lengths[format.sample_rate]:
            raise AudioError(
                f"{path}: has {format.frames} samples, song {song.name!r} has "
                f"{lengths[format.sample_rate]} at {format.sample_rate} Hz; separate the whole song"
            )
        stem = replace(
            song,
            name=str(path),
            kind="vocals",
            vocals=(str(path.resolve()),),
            accompaniment=(),
            mixture=(),
            sample_rate=format.sample_rate,
            frames=format.frames,
            channels=format.channels,
            boundaries=(),
            checksum="",
        )
        files = AudioReader(reader.manifest, reader.sample_rate)  # `reader` may have a cache
        audio = files.read(stem, "vocals", passage.start, passage.references.shape[2])
        return audio if channels == 2 else audio.mean(0, keepdims=True)


def names_of(song: str) -> tuple[str, ...]:
    """Names of a song: its own and the ends of that, with and without an audio suffix.

    `a/b.wav` may be called `a/b.wav`, `a/b`, `b.wav` or `b`.
    """
    suffix = suffix_of(song)
    bare = song[: -len(suffix)] if suffix in (*SUFFIXES, STEM_SUFFIX) else song
    parts = [PurePosixPath(name).parts for name in dict.fromkeys((song, bare))]
    return tuple("/".join(name[k:]) for k in range(len(parts[0])) for name in parts)


def _file(folder: Path, names: tuple[str, ...]) -> Path | None:
    """First file with one of these names and an audio suffix."""
    paths = [folder / f"{name}{suffix}" for name in names for suffix in sorted(SUFFIXES)]
    return next((path for path in paths if path.is_file()), None)
