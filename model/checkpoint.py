"""Checkpoints: one safetensors file with the weights and, in its header, the configuration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from stemwire.errors import CheckpointError, ConfigError
from stemwire.files import atomic_write
from stemwire.model.config import SeparatorConfig, config_text

if TYPE_CHECKING:
    from stemwire.model.separator import Separator

FORMAT = "stemwire-separator"
VERSION = 2


def save_checkpoint(separator: Separator, path: Path, *, half: bool = False, **notes: str) -> None:
    """Write weights and configuration atomically; `notes` (step, licence …) go into the header.

    Args:
        separator: whose they are.
        path: of the file.
        half: round the weights to half precision.
        notes: further lines.

    Raises:
        CheckpointError: if half precision cannot hold a weight.
    """
    from safetensors.torch import save

    config = config_text(separator.config)
    header = {**notes, "format": FORMAT, "version": str(VERSION), "config": config}
    weights = {name: w.detach().cpu().contiguous() for name, w in separator.state_dict().items()}
    if half:
        weights = {name: w.half() for name, w in weights.items()}
        for name, w in weights.items():
            if not w.isfinite().all():
                raise CheckpointError(
                    f"{name} holds weights that are no numbers or too large for half precision "
                    "(above 65504); train again with a lower rate"
                )
    with atomic_write(path) as file:  # the library's own writing leaves mode 0600
        file.write(save(weights, header))


def read_config(path: Path) -> SeparatorConfig:
    """Configuration in a checkpoint's header; needs no torch.

    Raises:
        CheckpointError: as `read_notes`, or if there is none that this Stemwire knows.
    """
    try:
        return SeparatorConfig.from_dict(json.loads(read_notes(path)["config"]))
    except (KeyError, ValueError, ConfigError) as error:
        raise CheckpointError(f"{path}: its configuration cannot be read: {error}") from error


def read_notes(path: Path) -> dict[str, str]:
    """What a checkpoint's header says: configuration, step and the like; needs no torch.

    Raises:
        CheckpointError: if the file is missing, damaged, foreign or of another version.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint; give the path of a .safetensors file")
    try:
        path.open("rb").close()
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be opened ({error.strerror}); check its permissions"
        ) from error
    try:
        with safe_open(path, framework="numpy") as file:
            header: dict[str, str] = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path}: damaged or not a safetensors file ({error}); fetch it again"
        ) from error
    if header.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: not a Stemwire checkpoint (format {header.get('format')!r}, "
            f"expected {FORMAT!r}); use one that Stemwire's training wrote"
        )
    if header.get("version") != str(VERSION):
        raise CheckpointError(
            f"{path}: checkpoint version {header.get('version')}, this Stemwire reads {VERSION}, "
            "whose network is another; install the version that wrote it, or train and export again"
        )
    return header


def read_weights(path: Path) -> dict[str, NDArray[np.float32]]:
    """Tensors of a checkpoint by name, float32; needs no torch.

    Raises:
        CheckpointError: if they cannot be read.
    """
    from safetensors.numpy import load_file

    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); fetch it again") from error
    return {name: np.ascontiguousarray(value, np.float32) for name, value in tensors.items()}


def load_checkpoint(path: Path) -> Separator:
    """Network with the weights of `path`, on the CPU, in evaluation mode.

    Raises:
        CheckpointError: as `read_config`, or if weights and configuration do not fit.
    """
    from safetensors.torch import load_file

    from stemwire.model.separator import Separator

    separator = Separator(read_config(path))
    try:
        separator.load_state_dict(load_file(path))
    except (RuntimeError, SafetensorError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise CheckpointError(
            f"{path}: weights do not fit its own configuration ({reason}); fetch it again"
        ) from error
    return separator.eval()
