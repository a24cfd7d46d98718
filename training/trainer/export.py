"""Export of a checkpoint to a preset, accepted only if all backends agree."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from stemwire.errors import CheckpointError, ConfigError
from stemwire.model.checkpoint import load_checkpoint, read_config, save_checkpoint
from stemwire.model.export import export_onnx
from stemwire.model.preset import read_preset
from stemwire.realtime.backends.interface import Backend
from stemwire.realtime.backends.native_backend import NativeBackend
from stemwire.realtime.backends.native_library import native_problem
from stemwire.realtime.backends.onnx_backend import OnnxBackend
from stemwire.realtime.backends.torch_backend import TorchStream
from stemwire.training.trainer.model_card import card_text
from stemwire.training.trainer.runs import find_parent

STEPS, TOLERANCE = 500, 1e-3


def largest_difference(checkpoint: Path, backend: Backend, steps: int = STEPS) -> float:
    """Largest difference between PyTorch and another backend over `steps` frames of noise.

    The noise has the level of music in STFT frames; the figure is relative to its RMS.
    """
    network = load_checkpoint(checkpoint)
    config = network.config
    one, other = TorchStream(network), backend.open()
    rng = np.random.default_rng(0)
    level, worst = 5.0, 0.0
    for _ in range(steps):
        noise = rng.standard_normal((config.channels, config.bins + 1, 2), np.float32)
        frame = (level * noise).view(np.complex64)[..., 0]
        worst = np.maximum(worst, np.abs(one.step(frame) - other.step(frame)).max())  # keeps NaN
    return float(worst) / level


def export_preset(checkpoint: Path, folder: Path, card: dict[str, object]) -> None:
    """Write `folder` with weights, graph and card, but nothing if the backends disagree.

    The weights are rounded to half precision: the file has half the size, and a step on the CPU
    reads half as many bytes.

    Raises:
        CheckpointError: if the card lacks description or licence, a weight exceeds the range
            of half precision, or a backend differs from PyTorch by more than 1e-3.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".export-") as name:
        work = Path(name)
        new = work / "new" / folder.name  # a preset has the name of its folder
        new.mkdir(parents=True)
        # The file defines the preset: every backend starts from the rounded weights.
        network = load_checkpoint(checkpoint)
        try:
            save_checkpoint(network, new / "weights.safetensors", half=True)
        except CheckpointError as error:
            raise CheckpointError(f"{checkpoint}: {error}") from error
        export_onnx(network.config, new / "step.onnx")
        (new / "preset.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
        (new / "README.md").write_text(card_text(read_preset(new), card), encoding="utf-8")
        _check(checkpoint, new)
        if folder.exists():
            folder.rename(work / "replaced")  # removed with the temporary folder
        new.rename(folder)


def _check(checkpoint: Path, folder: Path) -> None:
    """Raise `CheckpointError` if a CPU backend differs from PyTorch."""
    weights = folder / "weights.safetensors"
    config = read_config(weights)
    backends: list[Backend] = [OnnxBackend(folder / "step.onnx", config)]
    if not native_problem():
        backends.append(NativeBackend(weights, config))
    for backend in backends:
        worst = largest_difference(weights, backend)
        if not worst <= TOLERANCE:
            raise CheckpointError(
                f"{checkpoint}: backend {backend.name} differs by {worst:.2g}, more than "
                f"{TOLERANCE:g}; the preset was not written"
            )


def export_run(
    source: Path,
    folder: Path,
    description: str,
    licence: str,
    figures: Path | None = None,
    notes: Sequence[str] = (),
) -> None:
    """Export a run (its best weights) or a checkpoint, with a model card.

    Args:
        source: a run's folder, a preset's folder or a `.safetensors` file.
        folder: folder of the preset to write.
        description: one sentence about the preset.
        licence: licence of the weights.
        figures: JSON that `stemwire evaluate` wrote.
        notes: further lines of the card.

    Raises:
        ConfigError: if the figures cannot be read.
        CheckpointError: as `export_preset`.
    """
    torch.set_num_threads(1)
    parent = find_parent(source)
    card: dict[str, object] = {"description": description, "licence": licence}
    if notes:
        card["notes"] = list(notes)
    card["training"] = parent.history
    if figures is not None:
        try:
            card["figures"] = json.loads(figures.read_text(encoding="utf-8"))["summary"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"{figures}: no figures in it ({error!r}); give the JSON that `stemwire evaluate` "
                "wrote"
            ) from error
    export_preset(parent.checkpoint, folder, card)
