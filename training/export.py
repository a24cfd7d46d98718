"""Checkpoint to preset: `python -m stemwire.training.export CHECKPOINT DIR --card CARD.json`.

The ONNX graph is accepted only if it equals the checkpoint over 500 steps.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch

from stemwire.errors import CheckpointError
from stemwire.model.checkpoint import load_checkpoint, save_checkpoint
from stemwire.model.export import export_onnx
from stemwire.model.preset import read_preset
from stemwire.realtime.backends import OnnxBackend, TorchStream

STEPS, TOLERANCE = 500, 1e-3


def largest_difference(checkpoint: Path, graph: Path, steps: int = STEPS) -> float:
    """Largest difference between PyTorch and ONNX Runtime over `steps` frames of noise.

    The noise has the level of music in STFT frames; the figure is relative to its RMS.
    """
    network = load_checkpoint(checkpoint)
    config = network.config
    one, other = TorchStream(network), OnnxBackend(graph, config).open()
    rng = np.random.default_rng(0)
    level, worst = 5.0, 0.0
    for _ in range(steps):
        noise = rng.standard_normal((config.channels, config.bins + 1, 2), np.float32)
        frame = (level * noise).view(np.complex64)[..., 0]
        worst = np.maximum(worst, np.abs(one.step(frame) - other.step(frame)).max())  # keeps NaN
    return float(worst) / level


def export_preset(checkpoint: Path, folder: Path, card: dict[str, object]) -> None:
    """Write `folder` with weights, graph and card; nothing is left there if they disagree.

    Raises:
        CheckpointError: if the card lacks description or licence, or the graph differs from the
            checkpoint by more than 1e-3.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".export-") as name:
        work = Path(name)
        new = work / "preset"
        new.mkdir()
        network = load_checkpoint(checkpoint)
        save_checkpoint(network, new / "weights.safetensors")
        export_onnx(network, new / "step.onnx")
        (new / "preset.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
        read_preset(new)
        worst = largest_difference(new / "weights.safetensors", new / "step.onnx")
        if not worst <= TOLERANCE:
            raise CheckpointError(
                f"{checkpoint}: its ONNX graph differs by {worst:.2g}, more than {TOLERANCE:g}; "
                "the preset was not written"
            )
        if folder.exists():
            folder.rename(work / "replaced")  # swept away with the temporary folder
        (work / "preset").rename(folder)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--card", type=Path, required=True, help="JSON: description, licence …")
    args = parser.parse_args()
    torch.set_num_threads(1)
    export_preset(args.checkpoint, args.folder, json.loads(args.card.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
