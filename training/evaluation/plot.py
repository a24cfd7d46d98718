"""Picture of an evaluation: a dot per song, the median per method."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stemwire.extras import extra
from stemwire.training.evaluation.baselines import BASELINES, ORACLES
from stemwire.training.evaluation.evaluate import Result
from stemwire.training.evaluation.metrics import Levels, Score, median

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OURS, THEIRS, INK = "#1f6fb2", "#8a8a8a", "#222222"
LONGEST = 28  # characters of a method's name
ROW = 0.26  # half the height of the dots of a row


@dataclass(frozen=True)
class Panel:
    """One figure of one stem: values over songs by method."""

    title: str
    unit: str
    values: dict[str, list[float]]


def panels(results: Sequence[Result]) -> list[Panel]:
    """Panels of the measured figures; empty ones are left out."""

    def panel(title: str, unit: str, kind: str, stem: str, get: str) -> Panel:
        values: dict[str, list[float]] = {}
        for result in results:
            if result.kind == kind:
                value = _value(result.stems[stem], get)
                values.setdefault(result.method, []).append(value)
        return Panel(title, unit, values)

    framewise = "BSS Eval SDR, dB (median of windows)"
    candidates = [
        panel("Vocals", framewise, "pair", "vocals", "SDR"),
        panel("Instrumental", framewise, "pair", "instrumental", "SDR"),
        panel("Vocals, whole songs", "SDR over the mixture's, dB", "pair", "vocals", "improvement"),
        panel(
            "Songs without vocals",
            "SDR of the instrumental, dB",
            "accompaniment",
            "instrumental",
            "sdr",
        ),
        panel("Vocals alone", "SDR of the vocals, dB", "vocals", "vocals", "sdr"),
    ]
    return [
        panel
        for panel in candidates
        if any(math.isfinite(value) for values in panel.values.values() for value in values)
    ]


def _value(score: Score, name: str) -> float:
    return score.bss_eval.get("SDR", math.nan) if name == "SDR" else float(getattr(score, name))


def label(method: str) -> str:
    """Name of a method, shortened for an axis: the end of a path."""
    parts = Path(method).parts
    name = "/".join(parts[-2:]) if len(parts) > 2 else method
    return name if len(name) <= LONGEST else f"…{name[1 - LONGEST :]}"


def spread(values: Levels, width: float) -> Levels:
    """Heights for dots at `values`, so that close ones lie beside each other (a swarm).

    Args:
        values: (n,) positions along the axis.
        width: of a dot, in the same unit.

    Returns:
        (n,) from -1 to 1; alone 0, neighbours alternately above and below.
    """
    heights = np.zeros(len(values))
    placed: list[int] = []
    steps = [0.0, *(sign * k / 6 for k in range(1, 7) for sign in (1, -1))]
    for index in np.argsort(values, kind="stable"):
        taken = {heights[i] for i in placed if abs(values[i] - values[index]) < width}
        # If the full height is taken, dots overlap.
        heights[index] = next((s for s in steps if s not in taken), steps[len(placed) % len(steps)])
        placed.append(int(index))
    return heights


def plot(results: Sequence[Result]) -> bytes:
    """PNG with a panel per figure: dots are songs, bars and numbers are medians.

    Raises:
        ConfigError: if matplotlib is not installed.
    """
    figure_module = extra("matplotlib.figure", "the plot")
    shown = panels(results)
    methods = list(dict.fromkeys(result.method for result in results))
    if shown:  # best method of the first panel on top
        order = {m: median(shown[0].values.get(m, [])) for m in methods}
        methods.sort(key=lambda m: order[m] if math.isfinite(order[m]) else -math.inf)
    width, height = 1.9 + 3.4 * max(1, len(shown)), 1.25 + 0.42 * len(methods)
    # Without pyplot no window system is needed, and no figure is kept open.
    figure = figure_module.Figure(figsize=(width, height), dpi=150, layout="constrained")
    axes = figure.subplots(1, max(1, len(shown)), sharey=True, squeeze=False)[0]
    for ax, panel in zip(axes, shown, strict=False):
        _draw(ax, panel, methods)
    axes[0].set_yticks(range(len(methods)), [label(method) for method in methods])
    for text, method in zip(axes[0].get_yticklabels(), methods, strict=True):
        text.set_color(THEIRS if method in BASELINES or method in ORACLES else OURS)
    axes[0].set_ylim(-0.6, len(methods) - 0.4)
    if not shown:
        axes[0].set_title("nothing could be measured")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _draw(ax: Axes, panel: Panel, methods: Sequence[str]) -> None:
    finite = {
        m: np.array([v for v in panel.values.get(m, []) if math.isfinite(v)]) for m in methods
    }
    every = np.concatenate(list(finite.values()))
    low, high = min(0.0, float(every.min())), max(0.0, float(every.max()))
    room = 0.06 * (high - low or 1.0)
    ax.set_xlim(low - room, high + 3.5 * room)  # to the right there is room for the number
    ax.axvline(0, color=INK, linewidth=0.8)
    for row, method in enumerate(methods):
        values = finite[method]
        if not values.size:
            ax.text(room, row, "undefined", va="center", fontsize=8, color=THEIRS, style="italic")
            continue
        colour = THEIRS if method in BASELINES or method in ORACLES else OURS
        heights = row + ROW * spread(values, room / 2)
        middle = median(values)
        ax.scatter(values, heights, s=16, color=colour, alpha=0.6, linewidths=0)
        ax.plot(
            [middle, middle],
            [row - 0.36, row + 0.36],
            color=INK,
            linewidth=2.2,
            solid_capstyle="butt",
        )
        ax.annotate(
            f"{middle:.1f}",
            (max(float(values.max()), middle), row),
            (6, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            color=INK,
        )
    count = max(len(values) for values in panel.values.values())
    ax.set_title(f"{panel.title} (n = {count})", fontsize=10)
    ax.set_xlabel(panel.unit, fontsize=9)
    ax.tick_params(axis="x", labelsize=8)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x", color="#dddddd", linewidth=0.6)
    ax.set_axisbelow(True)
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)
