"""Training runs that differ in one thing, each with the same budget of processor time.

    python benchmarks/cells.py songs.jsonl CELLS.json -o OUT [--cache DIR] [--minutes 40] [--jobs 2]

A cell is a `stemwire finetune` without an end, on one thread, that is stopped when its processes
have used up the budget: time on a shared machine says less. Cells take turns in the order of the
file, all with the first seed before any with the second, `--jobs` side by side. Interrupted, the
same command resumes each where it was. CELLS.json:

    {"seeds": [1, 2],
     "common": {"batch": 8, "precision": "bf16-true"},
     "cells": {"one unit": {"set": {"network.units": 1}},
               "from standard": {"set": {}, "parent": "model/presets/standard"}}}

OUT gets `cells.json` (validations of each with the seconds and hours heard until then), `cells.md`
(a table with the spread of the seeds) and `cells.png` (curves). The score is that of the run:
improvement in vocals SDR over the mixture, dB, on the ends of training songs that no run hears.
Needs Linux.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

POLL_S = 2.0
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Cell:
    """One run: what distinguishes it, and how far it is.

    Attributes:
        name: of the cell, the same for all its seeds.
        seed: of weights and examples.
        settings: changes by name, as for `--set`.
        parent: run, preset or checkpoint to start from; "" for random weights.
        folder: of the run.
        used_s: processor time used until the last start, seconds.
        curve: (processor seconds, step, hours heard, score in dB) of each validation.
    """

    name: str
    seed: int
    settings: dict[str, Any]
    parent: str
    folder: Path
    used_s: float = 0.0
    curve: list[tuple[float, int, float, float]] = field(default_factory=list)

    def command(self, data: Path, cache: Path | None) -> list[str]:
        """Command that starts or resumes the run."""
        command = [sys.executable, "-m", "stemwire.cli", "finetune", "--data", str(data),
                   "-o", str(self.folder), "--accelerator", "cpu", "--threads", "1"]  # fmt: skip
        command += ["--cache", str(cache)] if cache else []
        command += ["--parent", self.parent] if self.parent else []
        for name, value in {"steps": 0, "seed": self.seed, **self.settings}.items():
            command += ["--set", f"{name}={json.dumps(value)}"]
        return command

    @property
    def state(self) -> Path:
        """File beside the run that keeps the time it has used."""
        return self.folder.with_suffix(".json")

    def load(self) -> None:
        """Take up the time used and the curve of an earlier call."""
        if self.state.exists():
            kept = json.loads(self.state.read_text())
            self.used_s, self.curve = kept["used_s"], [tuple(row) for row in kept["curve"]]

    def note(self, used_s: float) -> None:
        """Keep the time used, and date the validations that are new in the run's log."""
        log = self.folder / "log.jsonl"
        records = (
            [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        )
        heard_h = 0.0
        for index, record in enumerate(records):
            steps = record["step"] - (records[index - 1]["step"] if index else 0)
            heard_h += steps * record["seconds_per_step"] * record["audio_hours_per_hour"] / 3600
            if index >= len(self.curve):
                self.curve.append((used_s, record["step"], heard_h, record["score"]))
        self.state.write_text(json.dumps({"used_s": used_s, "curve": self.curve}))


def processor_seconds(session: int) -> float:
    """Processor time of all processes of a session, and of those they have waited for, seconds."""
    total = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended meanwhile
            continue
        if int(fields[3]) == session:
            total += sum(map(int, fields[11:15]))
    return total / TICKS


def run_cells(
    cells: list[Cell], data: Path, cache: Path | None, budget_s: float, jobs: int
) -> None:
    """Run all cells to the end of their budget, `jobs` at a time.

    Raises:
        RuntimeError: if a run fails; its last words are in `RUN.log` beside it.
    """
    waiting = [cell for cell in cells if cell.used_s < budget_s]
    running: dict[subprocess.Popen[bytes], tuple[Cell, float]] = {}
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                cell = waiting.pop(0)
                with cell.folder.with_suffix(".log").open("ab") as log:
                    process = subprocess.Popen(
                        cell.command(data, cache), stdout=log, stderr=log, env=environment,
                        start_new_session=True,
                    )  # fmt: skip
                running[process] = (cell, cell.used_s)
            time.sleep(POLL_S)
            for process, (cell, before_s) in list(running.items()):
                over = process.poll() is not None
                if not over:
                    cell.used_s = before_s + processor_seconds(process.pid)
                    cell.note(cell.used_s)
                    if cell.used_s >= budget_s:
                        process.send_signal(signal.SIGINT)
                        process.wait()
                        over = True
                if over:
                    del running[process]
                    if cell.used_s < budget_s:
                        log = cell.folder.with_suffix(".log")
                        raise RuntimeError(f"{cell.name}, seed {cell.seed}: ended early; see {log}")
                    heard = cell.curve[-1] if cell.curve else None
                    print(f"{cell.name}, seed {cell.seed}: {heard}", flush=True)
    finally:
        for process, (cell, _) in running.items():
            process.send_signal(signal.SIGINT)
            process.wait()
            cell.note(cell.used_s)


def by_name(cells: list[Cell]) -> dict[str, list[Cell]]:
    """Cells with a validation, by name."""
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        if cell.curve:
            groups.setdefault(cell.name, []).append(cell)
    return groups


def table(cells: list[Cell]) -> str:
    """Markdown: a row for each name; ± is half the distance between the lowest and highest seed."""
    lines = ["| cell | steps | hours heard | score, dB | each seed |", "|---|---|---|---|---|"]
    for name, group in by_name(cells).items():
        scores = [cell.curve[-1][3] for cell in group]
        steps, heard = (np.mean([cell.curve[-1][i] for cell in group]) for i in (1, 2))
        spread = (max(scores) - min(scores)) / 2
        each = ", ".join(f"{score:.2f}" for score in scores)
        score = f"{np.mean(scores):.2f} ± {spread:.2f}"
        lines.append(f"| {name} | {steps:.0f} | {heard:.1f} | {score} | {each} |")
    return "\n".join(lines) + "\n"


def plot(cells: list[Cell], path: Path) -> None:
    """Scores over processor time and over hours heard, a line for each run."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.5), sharey=True, layout="constrained")
    for number, (name, group) in enumerate(by_name(cells).items()):
        for index, cell in enumerate(group):
            used, _, heard, score = zip(*cell.curve, strict=True)
            label = name if not index else None
            axes[0].plot(np.divide(used, 60), score, f"C{number % 10}", label=label)
            axes[1].plot(heard, score, f"C{number % 10}", label=label)
    axes[0].set(xlabel="minutes of one core", ylabel="validation, dB")
    axes[1].set(xlabel="hours heard")
    for axis in axes:
        axis.grid(alpha=0.3)
    axes[1].legend(fontsize=7)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def main() -> None:
    """Run and tabulate all cells."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("data", type=Path, metavar="MANIFEST")
    parser.add_argument("cells", type=Path, metavar="CELLS.json")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--minutes", type=float, default=40.0, help="of one core, a cell (40)")
    parser.add_argument("--jobs", type=int, default=2, help="cells side by side (2)")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    plan = json.loads(args.cells.read_text())
    cells = [
        Cell(
            name, seed, {**plan.get("common", {}), **cell.get("set", {})}, cell.get("parent", ""),
            args.out / f"{''.join(c if c.isalnum() else '-' for c in name)}-{seed}",
        )
        for seed in plan["seeds"]
        for name, cell in plan["cells"].items()
    ]  # fmt: skip
    for cell in cells:
        cell.load()
    run_cells(cells, args.data, args.cache, 60 * args.minutes, args.jobs)
    results: dict[str, dict[int, Any]] = {}
    for cell in cells:
        results.setdefault(cell.name, {})[cell.seed] = cell.curve
    (args.out / "cells.json").write_text(json.dumps({"plan": plan, "results": results}) + "\n")
    (args.out / "cells.md").write_text(table(cells))
    plot(cells, args.out / "cells.png")
    print(table(cells))


if __name__ == "__main__":
    main()
