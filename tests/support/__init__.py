"""What the tests share: audio, small networks with nothing at its initial value, preset folders."""

from __future__ import annotations

import csv
import json
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import soundfile
from hypothesis import strategies as st
from numpy.typing import NDArray

import stemwire
from stemwire.model.config import SeparatorConfig

if TYPE_CHECKING:
    from torch import nn

    from stemwire.model.separator import Separator
    from stemwire.training.data.manifest import Manifest

Audio = NDArray[np.float32]
ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"
PRESETS = [preset.name for preset in stemwire.presets()]
VARIANTS = ["stack", "unet", "bridge"]


def noise(samples: int, channels: int = 2, seed: int = 0, level: float = 0.1) -> Audio:
    """Gaussian noise, float32 (channels, samples)."""
    rng = np.random.default_rng(seed)
    return (level * rng.standard_normal((channels, samples))).astype(np.float32)


def music(samples: int, rate: int, channels: int = 2, seed: int = 0) -> Audio:
    """Chords that change, a gliding voice and noise: something with spectrum and dynamics."""
    time = np.arange(samples) / rate
    rng = np.random.default_rng(seed)
    out = 0.02 * rng.standard_normal((channels, samples))
    for k, pitch in enumerate((110.0, 138.6, 164.8, 220.0)):
        gate = 0.5 + 0.5 * np.sign(np.sin(2 * np.pi * (0.7 + 0.3 * k) * time))
        out += 0.08 * gate * np.sin(2 * np.pi * pitch * time + rng.uniform(0, 6, (channels, 1)))
    for k in range(1, 8):
        glide = 300 * k * time + 12 * k * np.sin(2 * np.pi * 5 * time)
        out += 0.15 / k * np.sin(2 * np.pi * glide)
    return out.astype(np.float32)


@st.composite
def partitions(draw: st.DrawFn, total: int, smallest: int = 0) -> list[int]:
    """Sizes of consecutive parts that make `total`; parts of no samples too if `smallest` is 0."""
    if smallest:
        cuts = draw(st.sets(st.integers(1, total - 1), max_size=10))
        edges = [0, *sorted(cuts), total]
    else:
        edges = [0, *sorted(draw(st.lists(st.integers(0, total), max_size=10))), total]
    return [b - a for a, b in pairwise(edges)]


def tiny_config(variant: str = "unet", **changes: Any) -> SeparatorConfig:
    """A network of a few thousand weights with all parts in it."""
    values: dict[str, Any] = {
        "variant": variant, "analysis_window": 64, "hop": 32,
        "bands": ((8, 1), (4, 2), (4, 4)), "widths": (4, 6, 8),
        "token_width": 32, "heads": 2, "window": 5, "blocks": 2,
    }  # fmt: skip
    return SeparatorConfig(**{**values, **changes})


def randomise(module: nn.Module, seed: int, scale: float = 0.15) -> nn.Module:
    """Move every parameter away from its initial value: norms, taps and position biases too."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return module.eval()


def random_separator(config: SeparatorConfig, seed: int = 0, scale: float = 0.15) -> Separator:
    """Separator with random weights throughout."""
    import torch

    from stemwire.model.separator import Separator

    torch.manual_seed(seed)
    separator = Separator(config)
    randomise(separator, seed, scale)
    return separator


def edit_header(path: Path, **changes: str | None) -> None:
    """Change entries of a safetensors file's metadata; None removes one."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    for key, value in changes.items():
        if value is None:
            del header["__metadata__"][key]
        else:
            header["__metadata__"][key] = value
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])


def random_preset(folder: Path, config: SeparatorConfig) -> Path:
    """Preset folder of a random network."""
    pytest.importorskip("torch")
    from stemwire.model.checkpoint import save_checkpoint
    from stemwire.training.trainer.export import export_preset

    save_checkpoint(random_separator(config), folder / "random.safetensors")
    card = {"description": "random weights", "licence": "MIT"}
    export_preset(folder / "random.safetensors", folder / "preset", card)
    return folder / "preset"


def write_audio(path: Path, audio: Audio, rate: int, subtype: str | None = None) -> Path:
    """Write (channels, samples) in the format that the suffix names."""
    formats = {".opus": ("OGG", "OPUS"), ".ogg": ("OGG", "VORBIS"), ".mp3": ("MP3", None)}
    container, coding = formats.get(path.suffix, (path.suffix[1:].upper(), subtype))
    soundfile.write(path, audio.T, rate, format=container, subtype=coding)
    return path


def read_audio(path: Path) -> Audio:
    """Decode a whole file in one go, float32 (channels, samples)."""
    audio, _ = soundfile.read(path, dtype="float32", always_2d=True)
    return np.ascontiguousarray(audio.T)


def files_below(folder: Path) -> list[str]:
    """Names of all files under `folder`, hidden ones too."""
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


TRAINING_RATE = 8_000


def training_config(**changes: Any) -> SeparatorConfig:
    """A small network for training on `cache`."""
    values: dict[str, Any] = {
        "sample_rate": TRAINING_RATE, "analysis_window": 256, "hop": 64,
        "bands": ((16, 2), (12, 4), (4, 12)), "widths": (4, 6),
        "token_width": 32, "heads": 2, "window": 6, "blocks": 1,
    }  # fmt: skip
    return SeparatorConfig(**{**values, **changes})


class Library:
    """A folder of recordings with a `manifest.csv`, as a user would write it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: list[dict[str, str]] = []

    def add(
        self, path: str, kind: str, audio: Audio, rate: int = TRAINING_RATE, **more: Any
    ) -> Path:
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        row = {
            "path": path, "split": "train", "kind": kind, "sample_rate": str(rate),
            "bandwidth_hz": "", "boundaries_s": "", **{k: str(v) for k, v in more.items()},
        }  # fmt: skip
        self.rows.append(row)
        return write_audio(file, audio, rate, "FLOAT" if file.suffix == ".wav" else "PCM_16")

    def pair(self, name: str, vocals: Audio, accompaniment: Audio, **more: Any) -> None:
        self.add(f"{name}/vocals.wav", "pair", vocals, **more)
        self.add(f"{name}/accompaniment.wav", "pair", accompaniment, **more)

    def write_csv(self) -> Path:
        with (self.folder / "manifest.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, self.rows[0])
            writer.writeheader()
            writer.writerows(self.rows)
        return self.folder

    def manifest(self) -> Manifest:
        from stemwire.training.data.manifest import Manifest
        from stemwire.training.data.scan import scan

        target = self.folder / "manifest.jsonl"
        scan([self.write_csv()], target)
        return Manifest(target)
