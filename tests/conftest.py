"""What the tests share: audio, small networks with nothing at its initial value, preset folders."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import stemwire
from stemwire.model.config import SeparatorConfig

if TYPE_CHECKING:
    from torch import nn

    from stemwire.model.separator import Separator
    from stemwire.training.manifest import Manifest

# Programs started in the background are told to ignore Ctrl-C; those that tests start must not.
signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # small networks: more threads only wait

settings.register_profile(
    "stemwire", deadline=None, max_examples=30, print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)  # fmt: skip
settings.load_profile("stemwire")

# Files whose tests nothing else disturbs, nor they anything else; all others are marked `alone`.
BESIDE_OTHERS = (
    "audio augment backends bad_examples baselines checkpoint clips config data_commands drift "
    "evaluate examples export imports layers layouts loop manifest metrics midi midi_files native "
    "objectives pack peers peers_stateful preset preview primer protocol protocol_fuzz "
    "protocol_vectors report ring runs separate separator settings spectra stats stemwire stft "
    "streaming teacher training_export windows"
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs the machine for itself."""
    for item in items:
        if item.path.stem.removeprefix("test_") not in BESIDE_OTHERS.split():
            item.add_marker(pytest.mark.alone)


Audio = NDArray[np.float32]
ROOT = Path(__file__).parents[1]
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


@pytest.fixture
def preset_copy(tmp_path: Path) -> Path:
    """A shipped preset's folder, copied, to be damaged at will."""
    shipped = min(stemwire.presets(), key=lambda preset: preset.size)
    return Path(shutil.copytree(shipped.folder, tmp_path / "mine"))


def random_preset(folder: Path, config: SeparatorConfig) -> Path:
    """Preset folder of a random network."""
    pytest.importorskip("torch")
    from stemwire.model.checkpoint import save_checkpoint
    from stemwire.training.export import export_preset

    save_checkpoint(random_separator(config), folder / "random.safetensors")
    card = {"description": "random weights", "licence": "MIT"}
    export_preset(folder / "random.safetensors", folder / "preset", card)
    return folder / "preset"


@pytest.fixture(scope="session")
def tiny_preset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Preset folder of a tiny random network, for what need not sound."""
    return random_preset(tmp_path_factory.mktemp("tiny"), tiny_config())


@pytest.fixture(scope="session")
def ahead_preset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Likewise, of one that looks ahead and filters several frames."""
    config = tiny_config(analysis_window=512, hop=256, bands=((16, 16),), lookahead=3, taps=2)
    return random_preset(tmp_path_factory.mktemp("ahead"), config)


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
        from stemwire.training.manifest import Manifest, scan

        target = self.folder / "manifest.jsonl"
        scan([self.write_csv()], target)
        return Manifest(target)


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path / "recordings")


@pytest.fixture(scope="session")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Training data as it lies on disk: two songs, a solo voice, an instrumental, and a manifest.

    All music stays below 1200 Hz and all vocals have partials above.
    """
    library = Library(tmp_path_factory.mktemp("recordings"))
    for number, rate in enumerate((8_000, 11_025)):
        time = np.arange(24 * rate) / rate
        more = {"rate": rate, "bandwidth_hz": 3500 - 100 * number}
        stems = []
        for pitch in (1500, 300):
            tone = np.sin(2 * np.pi * (pitch + 40 * number) * time) * (1 + np.sin(3 * time)) * 0.1
            stems.append(np.stack((tone, 0.7 * tone)).astype(np.float32))
        library.pair(f"song{number}", *stems, **more)
        library.add(f"song{number}/mixture.wav", "mixture", sum(stems), **more)
    solo = music(8_000 * 10, 8_000, 1)
    library.add("solo/voice 1.wav", "vocals", solo, bandwidth_hz=2500, boundaries_s="2.5 7")
    library.add("band/tune.flac", "accompaniment", noise(8_000 * 8, 2))
    library.add("band/other.flac", "accompaniment", noise(8_000 * 8, 2), split="test")
    return library.write_csv()


@pytest.fixture(scope="session")
def manifest(recordings: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `stemwire data scan` makes of `recordings`."""
    from stemwire.training.manifest import scan

    path = tmp_path_factory.mktemp("manifest") / "songs.jsonl"
    scan([recordings], path)
    return path
