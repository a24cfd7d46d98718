"""Score of checkpoints on the ends of a manifest's songs, which training never sees.

    python benchmarks/validation.py songs.jsonl A.safetensors B.safetensors [--count 40]

Like the validation of `stemwire finetune`, but with any number and length of excerpts: the dozen of
a run is too few to distinguish good weights from lucky ones. The figure is the improvement in
vocals SDR over the mixture, dB, of the excerpts with vocals.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from lightning_fabric import Fabric

from stemwire.model.checkpoint import load_checkpoint
from stemwire.training.data.manifest import Manifest
from stemwire.training.data.reader import AudioReader
from stemwire.training.examples.examples import ExampleMaker
from stemwire.training.examples.settings import ExampleSettings
from stemwire.training.trainer.loop import Trainer
from stemwire.training.trainer.settings import RunSettings


def main() -> None:
    """Print a line for each checkpoint."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("data", type=Path, metavar="MANIFEST")
    parser.add_argument("checkpoints", type=Path, nargs="+", metavar="CHECKPOINT")
    parser.add_argument("--count", type=int, default=40, help="number of excerpts (default: 40)")
    parser.add_argument(
        "--seconds", type=float, default=6.0, help="length of an excerpt (default: 6)"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    fabric = Fabric(accelerator="auto", devices=1)
    for path in args.checkpoints:
        network = load_checkpoint(path)
        rate = network.config.sample_rate
        maker = ExampleMaker(
            AudioReader(Manifest(args.data), rate), ExampleSettings(seconds=args.seconds), 1
        )
        trainer = Trainer(fabric, network, RunSettings(network=network.config))
        score = trainer.validate(maker.validation(args.count))
        print(f"{path}: {score:.2f} dB, {args.count} excerpts of {args.seconds:g} s", flush=True)


if __name__ == "__main__":
    main()
