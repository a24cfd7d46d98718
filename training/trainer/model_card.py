"""Model card: what a preset is, how it was trained and under which terms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stemwire.model.preset import Preset
from stemwire.training.trainer.settings import current_names


def card_text(preset: Preset, card: Mapping[str, Any]) -> str:
    """Model card in Markdown, with the content of `preset.json`.

    Args:
        preset: as returned by `read_preset`.
        card: content of `preset.json`: `description`, `licence` and, where known, `notes`,
            `training` (runs, oldest first, as returned by
            `stemwire.training.trainer.runs.history`) and `figures` (the summary of
            `stemwire evaluate`).
    """
    config = preset.config
    lines = [
        f"# {preset.name}",
        "",
        str(card["description"]),
        "",
        f"- **Licence of the weights:** {card['licence']}",
        f"- **Delay:** {preset.latency} samples ({preset.latency_ms:.1f} ms) at "
        f"{preset.sample_rate} Hz, for blocks of any size",
        f"- **Network:** {config.variant}, analysis window {config.analysis_window}, hop "
        f"{config.hop}, look-ahead {config.lookahead} frames, attention over {config.window}",
        "- **Use:** splitting music into vocals and instrumental. Not meant for speech.",
        *(f"- {note}" for note in card.get("notes", ())),
        "",
    ]
    for number, run in enumerate(card.get("training", ()), 1):
        lines += _run(number, run)
    if figures := card.get("figures"):
        lines += ["## Figures", "", *_table(figures), ""]
    return "\n".join(lines)


def _run(number: int, run: Mapping[str, Any]) -> list[str]:
    if "settings" not in run:  # started from a preset that came with its own card
        card = run.get("preset", {})
        return [f"## {number}. Started from a preset", "", str(card.get("description", "")), ""]
    settings = current_names(run["settings"])
    steps = run.get("steps", settings["steps"])
    seconds = steps * settings["batch_size"] * settings["examples"]["seconds"]
    lines = [
        f"## {number}. {settings['objective']}",
        "",
        f"{steps} steps of {settings['batch_size']} examples of "
        f"{settings['examples']['seconds']:.2f} s ({seconds / 3600:.1f} hours of audio), "
        f"{settings['precision']}, Stemwire {run['stemwire']}.",
        "",
        "| source | licence | kind | songs | hours |",
        "|---|---|---|---|---|",
    ]
    for row in run["data"]["sources"]:
        cells = (row["source"] or "not stated", row["licence"] or "not stated", row["kind"])
        lines.append(f"| {' | '.join(cells)} | {row['songs']} | {row['hours']} |")
    return [*lines, ""]


def _table(figures: Any) -> list[str]:
    """Markdown table of figures: a list of flat rows, or one row."""
    rows = figures if isinstance(figures, list) else [figures]
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"]
    for row in rows:
        cells = [row.get(name, "") for name in names]
        texts = (f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in cells)
        lines.append(f"| {' | '.join(texts)} |")
    return lines
