"""Report of an evaluation: JSON with every figure, tables in Markdown, a picture.

All three show the same results; nothing is measured here.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
import shlex
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from stemwire._version import __version__
from stemwire.errors import OutputError
from stemwire.files import atomic_write
from stemwire.realtime.levels import STEMS
from stemwire.training.evaluation.drift import Drift
from stemwire.training.evaluation.evaluate import Plan, Result
from stemwire.training.evaluation.metrics import (
    BSS_EVAL,
    BSS_WINDOW,
    SILENT_LEVEL,
    SILENT_WINDOW,
    Score,
)

FILES = ("report.json", "report.md", "report.png")
PACKAGES = ("numpy", "scipy", "museval", "soxr", "soundfile", "onnxruntime", "torch", "librosa")
TITLES = {
    "pair": "Songs with vocals",
    "accompaniment": "Songs without vocals",
    "vocals": "Vocals alone",
}
Figure = Callable[[Score], float]


def columns(kind: str, stem: str, results: Sequence[Result]) -> dict[str, Figure]:
    """Meaningful figures of this kind of song: title of a column -> getter."""
    whole: dict[str, Figure] = {"song SDR": lambda score: score.sdr}
    other: dict[str, Figure] = {"leakage": lambda score: score.leakage}
    if kind != "pair":  # one stem is the whole song, the other is silent
        sounding = stem == ("instrumental" if kind == "accompaniment" else "vocals")
        return whole if sounding else other
    framewise: dict[str, Figure] = {}
    if any(result.stems[stem].bss_eval for result in results):
        framewise = {metric: lambda s, m=metric: s.bss_eval[m] for metric in BSS_EVAL}  # type: ignore[misc]
    more: dict[str, Figure] = {
        "over mixture": lambda score: score.improvement,
        "SI-SDR": lambda score: score.si_sdr,
    }
    return {**framewise, **whole, **more, **other}


def aggregate(values: Sequence[float]) -> dict[str, float]:
    """Median, mean, standard deviation (n - 1), quartiles and number of the finite values."""
    numbers = np.array([value for value in values if math.isfinite(value)])
    if not numbers.size:
        nothing = dict.fromkeys(("median", "mean", "deviation", "quartile_1", "quartile_3"), np.nan)
        return {**nothing, "count": 0}
    low, high = np.quantile(numbers, (0.25, 0.75))
    return {
        "median": float(np.median(numbers)),
        "mean": float(numbers.mean()),
        "deviation": float(numbers.std(ddof=1)) if numbers.size > 1 else math.nan,
        "quartile_1": float(low),
        "quartile_3": float(high),
        "count": int(numbers.size),
    }


def _unique(values: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(values))


def statistics(results: Sequence[Result]) -> list[dict[str, Any]]:
    """One row for each kind of song, stem and method: `aggregate` of every figure over songs."""
    rows = []
    for kind in (kind for kind in TITLES if any(r.kind == kind for r in results)):
        for stem in STEMS:
            for method in _unique([result.method for result in results]):
                mine = [r for r in results if r.kind == kind and r.method == method]
                figures = {
                    name: aggregate([get(result.stems[stem]) for result in mine])
                    for name, get in columns(kind, stem, mine).items()
                }
                rows.append({"kind": kind, "stem": stem, "method": method, "figures": figures})
    return rows


def summary(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Flat rows for a model card: medians over songs, and the mean improvement."""
    rows = []
    for row in statistics(results):
        figures = row["figures"]
        count = max(marks["count"] for marks in figures.values())
        flat = {"songs": f"{count} {row['kind']}", "stem": row["stem"], "method": row["method"]}
        medians = {name: marks["median"] for name, marks in figures.items()}
        if "over mixture" in figures:
            medians["over mixture, mean"] = figures["over mixture"]["mean"]
        rows.append(flat | {name: v for name, v in medians.items() if math.isfinite(v)})
    return rows


def notes(results: Sequence[Result]) -> list[str]:
    """Sentences about undefined figures, with the reasons."""
    sentences = []
    for method in _unique([result.method for result in results]):
        gaps, lost, total = [], 0, 0
        for result in results:
            levels = result.stems["vocals"].windows.get("SDR", [])
            if result.method != method or not levels:
                continue
            undefined = sum(map(math.isnan, levels))
            total, lost = total + len(levels), lost + undefined
            if undefined:
                gaps.append(f"{result.passage} {undefined} of {len(levels)}")
        if gaps:
            sentences.append(
                f"{method}: BSS Eval is undefined in {lost} of {total} windows, where a stem or "
                f"its estimate is silent: {'; '.join(gaps)}."
            )
    short = _unique([r.passage for r in results if r.kind == "pair" and r.seconds < BSS_WINDOW])
    if short:
        sentences.append(f"Shorter than one window of BSS Eval: {'; '.join(short)}.")
    return sentences


def report_document(
    results: Sequence[Result], drifts: Sequence[Drift], plan: Plan, data: Sequence[str]
) -> dict[str, Any]:
    """Whole report as JSON values; undefined and infinite figures are None."""
    values = {
        "format": "stemwire-evaluation",
        "version": 1,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "data": list(data),
        "sample_rate": plan.sample_rate,
        "bss_eval": {"version": 4, "window_s": BSS_WINDOW, "hop_s": BSS_WINDOW},
        "silence": {"window_s": SILENT_WINDOW, "below_mixture_db": 10 * np.log10(SILENT_LEVEL)},
        "software": {
            "stemwire": __version__,
            "python": platform.python_version(),
            **{name: _version(name) for name in PACKAGES},
        },
        "hardware": {
            "processor": processor(),
            "cores": os.cpu_count(),
            "system": platform.platform(),
        },
        "summary": summary(results),
        "statistics": statistics(results),
        "notes": notes(results),
        "results": [dataclasses.asdict(result) for result in results],
        "drift": [dataclasses.asdict(drift) | {"change": drift.change} for drift in drifts],
    }
    return {key: finite(value) for key, value in values.items()}


def finite(value: Any) -> Any:
    """Value with None for NaN and infinities, which JSON lacks."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def processor() -> str:
    """Name of the processor, if the system reports it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _cell(value: float | None, digits: int = 2) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown table; all columns but the first are flush right."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in (heads, *rows)]
    cells.insert(1, ["---", *["---:"] * (len(heads) - 1)])
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def markdown(results: Sequence[Result], drifts: Sequence[Drift], plan: Plan) -> str:
    """Report in Markdown: tables of medians, spread and single songs, explained."""
    window = f"{SILENT_WINDOW:g} s"
    lines = [
        "# Evaluation",
        f"{datetime.now(UTC):%Y-%m-%d}, stemwire {__version__}, {plan.sample_rate} Hz, "
        f"{processor()}, {os.cpu_count()} cores. All figures in dB.",
    ]
    for row_kind in _unique([row["kind"] for row in statistics(results)]):
        mine = [result for result in results if result.kind == row_kind]
        count = len(_unique([result.passage for result in mine]))
        seconds = sum({result.passage: result.seconds for result in mine}.values())
        lines.append(f"## {TITLES[row_kind]} ({count}, {seconds / 60:.1f} min)")
        for stem in STEMS:
            if tables := _stem_tables(mine, row_kind, stem):
                lines += [f"### {stem.capitalize()}", *tables]
        lines.append(_speed(mine))
    if results:
        lines.append(
            "SDR, ISR, SIR, SAR: BSS Eval v4 (museval), median over windows of 1 s, median over "
            "songs. Song SDR: 10 log10(sum ref² / sum (ref - est)²) over a whole song and both "
            "channels; over mixture: minus that of the mixture. Leakage: energy of a stem where it "
            f"should be silent ({window} windows), relative to the mixture there. Unless stated "
            "otherwise a column is the median over songs. These scales differ: never quote one as "
            "another."
        )
    lines += notes(results)
    if drifts:
        heads = (
            "method",
            "song",
            "minutes",
            "minute 1",
            "last minute",
            "largest change",
            "state, bytes",
        )
        rows = [
            (
                *(drift.method, drift.passage, str(len(drift.minutes))),
                *map(_cell, (drift.minutes[0], drift.minutes[-1])),
                _cell(drift.change, 3),
                f"{drift.state_bytes[0]} → {drift.state_bytes[1]}",
            )
            for drift in drifts
        ]
        lines += ["## Drift", "Vocals SDR of one minute of music, looped.", table(heads, rows)]
    return "\n\n".join(lines) + "\n"


def _stem_tables(results: Sequence[Result], kind: str, stem: str) -> list[str]:
    rows = [row for row in statistics(results) if row["stem"] == stem]
    names = list(rows[0]["figures"])
    compared = main_figures(names)
    body = []
    for row in rows:
        cells = [_cell(row["figures"][name]["median"]) for name in names]
        for marks in (row["figures"][name] for name in compared):
            cells += [
                f"{_cell(marks['quartile_1'])} to {_cell(marks['quartile_3'])}",
                f"{_cell(marks['mean'])} ± {_cell(marks['deviation'])}",
            ]
        body.append([row["method"], *cells])
    spread = [f"{name}: {what}" for name in compared for what in ("quartiles", "mean ± sd")]
    tables = [table(["method", *names, *spread], body)]
    songs = _unique([result.passage for result in results])
    for name in compared if len(songs) > 1 else ():
        get = columns(kind, stem, results)[name]
        by_song = {(r.passage, r.method): get(r.stems[stem]) for r in results}
        each = [[song, *(_cell(by_song[song, row["method"]]) for row in rows)] for song in songs]
        mean = ["mean", *(_cell(row["figures"][name]["mean"]) for row in rows)]
        heads = ["song", *(row["method"] for row in rows)]
        tables += [f"{name}, song by song:", table(heads, [*each, mean])]
    return tables


def main_figures(names: Sequence[str]) -> list[str]:
    """Columns by which methods are compared, most important first."""
    return [name for name in ("SDR", "over mixture") if name in names] or [names[0]]


def _speed(results: Sequence[Result]) -> str:
    parts = []
    for method in _unique([result.method for result in results]):
        mine = [result for result in results if result.method == method]
        share = sum(r.elapsed for r in mine) / sum(r.seconds for r in mine)
        parts.append(f"{method} {share:.3f}")
    return f"Time of separation per time of audio: {', '.join(parts)}."


def prepare_folder(folder: Path) -> None:
    """Create the folder and check that files can be written, before hours are spent.

    Raises:
        OutputError: if they cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".report.part"
        probe.touch()
        probe.unlink()
        if blocked := [name for name in FILES if (folder / name).is_dir()]:
            raise IsADirectoryError(0, f"{blocked[0]} is a folder")
    except OSError as error:
        raise OutputError(
            f"{folder}: the report cannot be written ({error.strerror}); choose another folder "
            "with -o"
        ) from error


def write(
    folder: Path,
    results: Sequence[Result],
    drifts: Sequence[Drift],
    plan: Plan,
    data: Sequence[str],
) -> tuple[Path, ...]:
    """Write `FILES` to `folder`, each atomically; returns the paths.

    Raises:
        OutputError: if a file cannot be written.
        ConfigError: if matplotlib is missing.
    """
    from stemwire.training.evaluation.plot import plot

    text = (
        json.dumps(report_document(results, drifts, plan, data), indent=1, allow_nan=False) + "\n"
    )
    contents = [text.encode(), markdown(results, drifts, plan).encode()]
    if results:
        contents.append(plot(results))
    paths = [folder / name for name in FILES[: len(contents)]]
    try:
        for path, content in zip(paths, contents, strict=True):
            with atomic_write(path) as file:
                file.write(content)
    except OSError as error:
        raise OutputError(
            f"{folder}: the report cannot be written ({error.strerror}); free some space, or "
            "choose another folder with -o"
        ) from error
    return tuple(paths)
