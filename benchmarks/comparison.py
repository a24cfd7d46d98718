"""Which variant, which pretraining? Every cell with the same small budget, data and seeds.

    python benchmarks/comparison.py MANIFEST DEV -o OUT [--cache DIR] [--seeds 1 2]

Cells: the variants `stack`, `unet` and `bridge` from random weights, and `unet` after pretraining
by masked frames, by DDeP of the whole network, and by DDeP of the decoder alone (as in the paper
its encoder is trained with labels first, for half of the pretraining's steps). Pretrained cells
train for PRETRAINING steps more than the others, so `unet` is also there with as many steps in all.
The figure is the improvement in vocals SDR over the mixture on the four development windows,
as a stream. After an interruption the same command resumes.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from quality import WINDOWS

from stemwire.training.data.manifest import Manifest
from stemwire.training.data.scan import scan
from stemwire.training.evaluation.evaluate import Plan, choose_excerpts, evaluate
from stemwire.training.evaluation.methods import Streamed
from stemwire.training.trainer.export import export_run
from stemwire.training.trainer.runs import find_parent, run, settings_for

STEPS, PRETRAINING = 200, 100
RATE = 22_050  # Hz
NETWORK = {  # half the presets' bandwidth, and narrow, so that small budgets go further
    "sample_rate": 22_050, "analysis_window": 1024, "hop": 256,
    "bands": [[32, 2], [16, 8], [16, 20]], "widths": [16, 24, 32], "token_width": 64,
}  # fmt: skip
COMMON = {
    "batch_size": 4, "learning_rate": 2e-3, "warmup_steps": 30, "ema_decay": 0.98,
    "validate_every": 75, "save_every": 75,
    "precision": "bf16-true", "examples.seconds": 2.0,
}  # fmt: skip
Results = dict[str, dict[str, dict[str, Any]]]  # cell -> seed -> figures
# Cell -> stages; each starts from the weights of the one before.
Stage = tuple[str, str, int]  # objective, part, steps
CELLS: dict[str, tuple[str, list[Stage]]] = {
    "stack": ("stack", [("separation", "whole", STEPS)]),
    "unet": ("unet", [("separation", "whole", STEPS)]),
    "bridge": ("bridge", [("separation", "whole", STEPS)]),
    "unet, as long in all": ("unet", [("separation", "whole", STEPS + PRETRAINING)]),
    "unet, masked": ("unet", [("masked", "whole", PRETRAINING), ("separation", "whole", STEPS)]),
    "unet, DDeP": ("unet", [("ddep", "whole", PRETRAINING), ("separation", "whole", STEPS)]),
    "unet, DDeP decoder": (
        "unet",
        [
            ("separation", "whole", PRETRAINING // 2),
            ("ddep", "decoder", PRETRAINING - PRETRAINING // 2),
            ("separation", "whole", STEPS),
        ],
    ),
}


def train_cell(
    name: str, seed: int, data: Path, cache: Path | None, out: Path, steps_share: float
) -> Path:
    """Run all stages of a cell; returns the folder of the last."""
    variant, stages = CELLS[name]
    folder = None
    for number, (objective, part, steps) in enumerate(stages, 1):
        parent = find_parent(folder) if folder else None
        changes = [f"network.{k}={json.dumps(v)}" for k, v in NETWORK.items()]
        changes += [f"{k}={json.dumps(v)}" for k, v in COMMON.items()]
        changes += [f"network.variant={variant}", f"seed={seed}"]
        changes += [f"steps={max(1, round(steps * steps_share))}"]
        folder = out / f"{name.replace(', ', '-').replace(' ', '-')}-{seed}" / str(number)
        settings = settings_for(objective, part, parent, changes)
        run(settings, parent, data, folder, cache=cache, accelerator="cpu", workers=0)
    assert folder is not None
    return folder


def measure(folder: Path, dev: Manifest) -> list[float]:
    """Improvement in dB in each of the development windows."""
    preset = folder / "preset"
    if not preset.exists():
        export_run(folder, preset, "comparison", "not for use")
    method = Streamed(str(preset), False, "auto")
    plan = Plan(dev, (method,), RATE, with_bss_eval=False)
    results = evaluate(choose_excerpts(dev, excerpts=WINDOWS), plan)
    return [result.stems["vocals"].improvement for result in results]


def describe(folder: Path) -> dict[str, Any]:
    """Validation scores and seconds per step of a finished run."""
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return {
        "validation_db": log[-1]["score"],
        "curve": [(r["step"], r["score"]) for r in log],
        "seconds_per_step": float(np.median([r["seconds_per_step"] for r in log])),
    }


def table(results: Results) -> str:
    """Markdown: one row for each cell."""
    lines = [
        "| cell | seeds | dev SDR improvement, dB | each seed | validation, dB |",
        "|---|---|---|---|---|",
    ]
    for name, seeds in results.items():
        dev = [float(np.mean(r["dev_db"])) for r in seeds.values()]
        validation = np.mean([float(r["validation_db"]) for r in seeds.values()])
        spread = (max(dev) - min(dev)) / 2
        each = ", ".join(f"{x:.2f}" for x in dev)
        lines.append(
            f"| {name} | {len(dev)} | {np.mean(dev):.2f} ± {spread:.2f} | {each} "
            f"| {validation:.2f} |"
        )
    return "\n".join(lines) + "\n"


def plot(results: Results, path: Path) -> None:
    """Left, a row for each cell and a dot for each seed; right, validation over the last stage."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    size = (11, 0.45 * len(results) + 1.6)
    figure, (axes, curves) = pyplot.subplots(1, 2, figsize=size, layout="constrained")
    for row, (name, seeds) in enumerate(results.items()):
        dev = [float(np.mean(r["dev_db"])) for r in seeds.values()]
        axes.plot(dev, [row] * len(dev), "o", color="C0", alpha=0.7)
        axes.plot([np.mean(dev)], [row], "|", color="k", markersize=16)
        steps = [step for step, _ in next(iter(seeds.values()))["curve"]]
        mean = np.mean([[score for _, score in r["curve"]] for r in seeds.values()], axis=0)
        curves.plot(steps, mean, marker=".", label=name)
    axes.set_yticks(range(len(results)), list(results))
    axes.invert_yaxis()
    axes.set_xlabel("development windows: vocals SDR over the mixture's, dB")
    axes.set_title("dots: seeds, bar: mean", fontsize=9)
    curves.set(xlabel="steps with labels", ylabel="validation, dB", title="mean of seeds")
    curves.legend(fontsize=7)
    curves.grid(alpha=0.3)
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def main() -> None:
    """Train, measure and tabulate all cells."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("data", type=Path, metavar="MANIFEST")
    parser.add_argument("dev", type=Path, metavar="DEV")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument(
        "--share", type=float, default=1.0, help="share of the steps, to try it out (default: 1)"
    )
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    import torch

    args.out.mkdir(parents=True, exist_ok=True)
    scan([args.dev], args.out / "dev.jsonl")
    dev = Manifest(args.out / "dev.jsonl")
    results: Results = {}
    for seed in args.seeds:
        for name in CELLS:
            torch.set_num_threads(args.threads)
            started = time.monotonic()
            folder = train_cell(name, seed, args.data, args.cache, args.out, args.share)
            figures = {**describe(folder), "dev_db": measure(folder, dev)}
            results.setdefault(name, {})[str(seed)] = figures
            (args.out / "comparison.json").write_text(json.dumps(results, indent=1) + "\n")
            mean, elapsed = float(np.mean(figures["dev_db"])), time.monotonic() - started
            print(f"{name}, seed {seed}: dev {mean:.2f} dB, {elapsed:.0f} s", flush=True)
    text = table(results)
    (args.out / "comparison.md").write_text(text)
    plot(results, args.out / "comparison.png")
    print(text)


if __name__ == "__main__":
    main()
