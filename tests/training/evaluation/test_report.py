"""Reports of an evaluation: figures, sentences, files and the picture."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import stemwire
from stemwire.errors import OutputError
from stemwire.training.evaluation.drift import Drift
from stemwire.training.evaluation.evaluate import Plan, Result
from stemwire.training.evaluation.metrics import BSS_EVAL, Levels, Score
from stemwire.training.evaluation.plot import label, panels, plot, spread
from stemwire.training.evaluation.report import (
    FILES,
    aggregate,
    finite,
    markdown,
    notes,
    prepare_folder,
    report_document,
    statistics,
    summary,
    table,
    write,
)

PLAN = cast(Plan, SimpleNamespace(sample_rate=44_100))
NAN = math.nan


def score(level: float, windows: list[float] | None = None) -> Score:
    if windows is None:
        return Score(level, level + 1, level - 1, -30.0, 2.5)
    return Score(
        level,
        level + 1,
        level - 1,
        -30.0,
        2.5,
        {metric: level + 2 for metric in BSS_EVAL},
        {metric: windows for metric in BSS_EVAL},
    )


def pair(method: str, song: str, level: float, windows: list[float] | None = None) -> Result:
    stems = {"vocals": score(level, windows), "instrumental": score(level + 5, windows)}
    return Result(method, song, "pair", 30.0, 3.0, stems)


def band(method: str, song: str, level: float) -> Result:
    undefined = Score(-math.inf, NAN, NAN, -level, 30.0)
    stems = {"vocals": undefined, "instrumental": Score(level, -math.inf, level, NAN, 0.0)}
    return Result(method, song, "accompaniment", 30.0, 3.0, stems)


def results() -> list[Result]:
    found = []
    for song, shift in (("one", 0.0), ("two", 1.0), ("three", 5.0)):
        found.append(pair("mixture", song, -4 + shift, [1.0, NAN]))
        found.append(pair("standard", song, 4 + shift, [2.0, 3.0]))
    found += [band("mixture", "tune", math.inf), band("standard", "tune", 17.0)]
    return found


class TestAggregate:
    def test_known(self) -> None:
        marks = aggregate([1.0, 2.0, 3.0, 10.0, NAN, math.inf])
        assert marks == {
            "median": 2.5,
            "mean": 4.0,
            "quartile_1": 1.75,
            "quartile_3": 4.75,
            "count": 4,
            "deviation": pytest.approx(np.std([1, 2, 3, 10], ddof=1)),
        }

    def test_one_and_none(self) -> None:
        assert aggregate([3.0])["median"] == 3.0 and math.isnan(aggregate([3.0])["deviation"])
        assert aggregate([NAN])["count"] == 0 and math.isnan(aggregate([])["median"])


def test_statistics_of_each_method_kind_and_stem() -> None:
    rows = {(r["kind"], r["stem"], r["method"]): r["figures"] for r in statistics(results())}
    assert len(rows) == 8
    vocals = rows["pair", "vocals", "standard"]
    assert vocals["SDR"]["median"] == 7.0 and vocals["song SDR"]["median"] == 5.0
    assert vocals["over mixture"]["mean"] == pytest.approx(7.0)
    assert vocals["leakage"]["median"] == -30.0
    instrumental = rows["accompaniment", "instrumental", "standard"]
    assert list(instrumental) == ["song SDR"] and instrumental["song SDR"]["median"] == 17.0
    assert list(rows["accompaniment", "vocals", "standard"]) == ["leakage"]


def test_without_bss_eval_there_are_no_such_columns() -> None:
    figures = statistics([pair("low", "one", 3.0)])[0]["figures"]
    assert list(figures) == ["song SDR", "over mixture", "SI-SDR", "leakage"]


def test_summary_is_flat_and_defined() -> None:
    rows = summary(results())
    assert rows[1]["method"] == "standard" and rows[1]["songs"] == "3 pair"
    assert rows[1]["over mixture, mean"] == pytest.approx(7.0)
    values = [v for row in rows for v in row.values() if not isinstance(v, str)]
    assert all(map(math.isfinite, values))


def test_undefined_windows_are_counted_and_named() -> None:
    said = notes(results())
    assert len(said) == 1
    assert said[0].startswith("mixture: BSS Eval is undefined in 3 of 6 windows")
    assert "one 1 of 2; two 1 of 2; three 1 of 2." in said[0]
    short = Result("low", "blip", "pair", 0.4, 0.1, pair("low", "blip", 1.0, [1.0]).stems)
    assert notes([short]) == ["Shorter than one window of BSS Eval: blip."]


@given(st.recursive(st.floats() | st.text() | st.none(), lambda v: st.lists(v) | st.tuples(v, v)))
def test_json_has_no_nan(value: object) -> None:
    json.dumps(finite(value), allow_nan=False)


def test_document() -> None:
    drift = Drift("standard", "one", [5.0, 5.1, 4.95], (1000, 1000))
    told = json.loads(
        json.dumps(report_document(results(), [drift], PLAN, ["songs"]), allow_nan=False)
    )
    assert told["software"]["stemwire"] == stemwire.__version__
    assert told["software"]["museval"] and told["hardware"]["cores"] and told["command"]
    assert told["data"] == ["songs"] and told["sample_rate"] == 44_100
    assert told["results"][0]["stems"]["vocals"]["windows"]["SIR"] == [1.0, None]
    assert told["drift"][0]["change"] == pytest.approx(0.1)


def test_table() -> None:
    assert table(["a", "b"], [["x|y", "1"]]) == "| a | b |\n| --- | ---: |\n| x\\|y | 1 |"


def test_markdown() -> None:
    text = markdown(results(), [Drift("low", "one", [5.0, 4.9], (10, 10))], PLAN)
    assert "## Songs with vocals (3, 1.5 min)" in text
    assert "## Songs without vocals (1, 0.5 min)" in text
    assert "| standard | 7.00 | 7.00 | 7.00 | 7.00 | 5.00 | 6.00 | 4.00 | -30.00 |" in text
    assert "6.50 to 9.00 | 8.00 ± 2.65" in text
    assert "| two | -1.00 | 7.00 |" in text and "| mean | 0.00 | 8.00 |" in text  # SDR by song
    assert "| low | one | 2 | 5.00 | 4.90 | -0.100 | 10 → 10 |" in text
    assert "nan" not in text and "inf" not in text.replace("infinit", "")


class TestPicture:
    def test_panels_are_of_what_was_measured(self) -> None:
        titles = [panel.title for panel in panels(results())]
        assert titles == ["Vocals", "Instrumental", "Vocals, whole songs", "Songs without vocals"]
        assert [p.title for p in panels([pair("low", "one", 3.0)])] == ["Vocals, whole songs"]

    def test_png(self) -> None:
        pytest.importorskip("matplotlib")
        first = plot(results())
        assert first.startswith(b"\x89PNG") and len(first) > 5000
        assert plot(results()) == first

    @pytest.mark.parametrize("found", [[], [band("mixture", "tune", math.inf)]])
    def test_nothing_to_show(self, found: list[Result]) -> None:
        pytest.importorskip("matplotlib")
        assert plot(found).startswith(b"\x89PNG")

    def test_labels(self) -> None:
        assert label("repet-sim") == "repet-sim" and label("runs/a") == "runs/a"
        assert label("/very/long/way/runs/first/best.safetensors") == "first/best.safetensors"
        assert len(label("x" * 100)) == 28

    @given(st.lists(st.floats(-10, 10), max_size=20))
    def test_dots_do_not_hide_each_other(self, values: list[float]) -> None:
        heights = spread(np.array(values), 0.5)
        assert np.abs(heights).max(initial=0) <= 1
        dots: list[tuple[float, float]] = list(zip(values, heights.tolist(), strict=True))
        if len(values) <= 13:  # as many as there are heights
            for k, (x, y) in enumerate(dots):
                assert all(abs(x - a) >= 0.5 or y != b for a, b in dots[:k])

    def test_a_dot_alone_lies_in_the_middle(self) -> None:
        heights: Levels = spread(np.array([1.0, 5.0, 9.0]), 0.5)
        assert not heights.any()


class TestFiles:
    def test_written_whole(self, tmp_path: Path) -> None:
        pytest.importorskip("matplotlib")
        paths = write(tmp_path, results(), [], PLAN, ["songs"])
        assert [path.name for path in paths] == list(FILES)
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FILES)
        assert json.loads(paths[0].read_text())["format"] == "stemwire-evaluation"
        assert paths[1].read_text(encoding="utf-8").startswith("# Evaluation")

    def test_folders_are_made_and_left_clean(self, tmp_path: Path) -> None:
        prepare_folder(tmp_path / "a" / "b")
        assert not list((tmp_path / "a" / "b").iterdir())

    def test_a_file_in_the_way(self, tmp_path: Path) -> None:
        (tmp_path / "out").write_text("mine")
        with pytest.raises(OutputError, match="cannot be written"):
            prepare_folder(tmp_path / "out")
        (tmp_path / "report.png").mkdir()
        with pytest.raises(OutputError, match=r"report\.png is a folder"):
            prepare_folder(tmp_path)

    @pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
    def test_no_permission(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o500)
        with pytest.raises(OutputError, match="Permission denied"):
            prepare_folder(tmp_path / "out")
