"""Presets: a folder of data that makes a separator. Shipped ones lie in `presets/` beside this.

A preset folder holds `preset.json` (description, licence, training, data), `step.onnx` and
`weights.safetensors`, whose header is the one place where the configuration stands.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from stemwire.errors import CheckpointError, ConfigError
from stemwire.model.checkpoint import read_config
from stemwire.model.config import SeparatorConfig

SHIPPED = Path(__file__).parent / "presets"


@dataclass(frozen=True)
class Preset:
    """What can be loaded.

    Attributes:
        name: what `stemwire.load` takes.
        description: one sentence.
        licence: of the weights.
        latency: delay in samples at `sample_rate`, for blocks of any size.
        sample_rate: rate the network was trained at, Hz; any rate can be processed.
        size: bytes on disk.
        folder: where it lies.
        config: of the network.
    """

    name: str
    description: str
    licence: str
    latency: int
    sample_rate: int
    size: int
    folder: Path
    config: SeparatorConfig

    @property
    def latency_ms(self) -> float:
        """Delay in milliseconds."""
        return self.latency / self.sample_rate * 1e3


def read_preset(folder: Path) -> Preset:
    """Read a preset folder.

    Raises:
        CheckpointError: if a file is missing, damaged, foreign or of another version.
    """
    config = read_config(folder / "weights.safetensors")
    try:
        card = json.loads((folder / "preset.json").read_text(encoding="utf-8"))
        texts = [str(card[key]) for key in ("description", "licence")]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{folder / 'preset.json'}: cannot be read ({error!r}); export the preset again"
        ) from error
    files = [folder / name for name in ("preset.json", "step.onnx", "weights.safetensors")]
    if not files[1].is_file():
        raise CheckpointError(f"{files[1]}: missing; export the preset again")
    return Preset(
        name=folder.name,
        description=texts[0],
        licence=texts[1],
        latency=config.latency,
        sample_rate=config.sample_rate,
        size=sum(file.stat().st_size for file in folder.iterdir() if file.is_file()),
        folder=folder,
        config=config,
    )


def shipped_presets() -> tuple[Preset, ...]:
    """Presets that came with this installation, slowest and best first."""
    folders = sorted(path.parent for path in SHIPPED.glob("*/preset.json"))
    return tuple(sorted(map(read_preset, folders), key=lambda preset: -preset.latency))


def find_preset(name: str | Path) -> Preset:
    """Preset by shipped name, or by the path of its folder.

    Raises:
        ConfigError: if there is none.
        CheckpointError: if it is damaged.
    """
    if not isinstance(name, str | Path) or not str(name):
        raise ConfigError(f"preset {name!r} is neither a name nor the path of a preset's folder")
    try:
        shipped, folder = SHIPPED / name, Path(name)
        if shipped.parent == SHIPPED and (shipped / "preset.json").is_file():
            return read_preset(shipped)
        if folder.is_dir():
            return read_preset(folder.resolve())
    except OSError as error:
        raise ConfigError(
            f"preset {str(name)!r} is unknown: cannot be opened ({error.strerror}); "
            "check path and permissions"
        ) from error
    known = ", ".join(sorted(path.parent.name for path in SHIPPED.glob("*/preset.json")))
    raise ConfigError(
        f"preset {str(name)!r} is unknown; use one of: {known}; or the path of a preset's folder"
    )
