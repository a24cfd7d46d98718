"""Picture of a run's loss and validation, `learning.png`, drawn from `learning.json`.

python docs/figures/learning.py      (needs matplotlib)
"""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

HERE = Path(__file__).parent
STEP_S = 8 * 320 * 512 / 44_100  # seconds of audio in a step

if __name__ == "__main__":
    figure, (losses, scores) = pyplot.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    for name, rows in json.loads((HERE / "learning.json").read_text()).items():
        hours = [row["step"] * STEP_S / 3600 for row in rows]
        losses.plot(hours, [row["loss"] for row in rows], marker=".", label=name)
        scores.plot(hours, [row["score"] for row in rows], marker=".", label=name)
    heard = "hours of audio trained on"
    losses.set(xlabel=heard, ylabel="training loss (mean since the last point)")
    scores.set(xlabel=heard, ylabel="validation, dB (24 excerpts)")
    scores.legend(fontsize=8)
    for axes in (losses, scores):
        axes.grid(alpha=0.3)
    figure.savefig(HERE / "learning.png", dpi=130)
