"""`stemwire data examples` writes the examples that training uses."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import files_below, music, noise, read_audio

pytest.importorskip("matplotlib")
pytest.importorskip("soxr")
pytest.importorskip("scipy")

from support import Library
from support.examples import RATE, maker_of

from stemwire.errors import AudioError, ConfigError, OutputError
from stemwire.training.commands import examples as preview
from stemwire.training.data.manifest import Manifest


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    library = Library(tmp_path_factory.mktemp("songs"))
    library.pair("dollars $x_{1$ 歌", music(4 * RATE, RATE), noise(4 * RATE), bandwidth_hz=3000)
    library.add("voice.wav", "vocals", music(4 * RATE, RATE, 1))
    return library.manifest()


def command(manifest: Path, output: Path, *more: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    preview.add_examples_parser(parser.add_subparsers(), argparse.ArgumentParser(add_help=False))
    words = ["examples", manifest, "-o", output, "--rate", RATE, "--set", "seconds=0.5", *more]
    return parser.parse_args([str(word) for word in words])


def run(*arguments: Any) -> int:
    args = command(*arguments)
    status: int = args.run(args)
    return status


def test_examples_are_written_as_training_hears_them(
    songs: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "folder"
    assert run(songs.folder / "manifest.jsonl", out, "--count", "3", "--first", "5") == 0
    index = json.loads((out / "index.json").read_text(encoding="utf-8"))
    page = (out / "index.md").read_text(encoding="utf-8")
    printed = capsys.readouterr().out
    assert (index["seed"], index["sample_rate"]) == (1, RATE)
    names = ("accompaniment.wav", "mixture.wav", "picture.png", "vocals.wav")
    folders = [row["folder"] for row in index["examples"]]
    assert files_below(out) == [
        *(f"{folder}/{name}" for folder in folders for name in names),
        "index.json",
        "index.md",
    ]
    maker = maker_of(songs)
    for row, number in zip(index["examples"], (5, 6, 7), strict=True):
        example, folder = maker(number), out / row["folder"]
        vocals, accompaniment, mixture = (
            read_audio(folder / f"{name}.wav") for name in ("vocals", "accompaniment", "mixture")
        )
        assert np.array_equal(vocals, example.vocals)
        assert np.array_equal(accompaniment, example.accompaniment)
        assert np.array_equal(mixture, vocals + accompaniment)
        assert row["number"] == number and row["notes"] == list(example.notes)
        assert row["bandwidth_hz"] == example.bandwidth_hz
        power = [np.square(stem.astype(float)).mean() for stem in (vocals, accompaniment, mixture)]
        assert row["ratio_db"] == pytest.approx(10 * np.log10(power[0] / power[1]), abs=0.01)
        assert row["level_db"] == pytest.approx(10 * np.log10(power[2]), abs=0.01)
        assert f"{row['folder']}/picture.png" in page and row["notes"][0] in page
        assert row["summary"] in printed


def test_pictures_are_pictures(songs: Manifest, tmp_path: Path) -> None:
    from matplotlib.image import imread

    rows = preview.write_examples(maker_of(songs), range(2), tmp_path)
    images = [imread(tmp_path / row["folder"] / "picture.png") for row in rows]
    for image in images:
        assert image.shape[0] > 500 and image.shape[1] == 1500
        assert len(np.unique(image[::3, ::3, 0])) > 100
    assert images[0].shape != images[1].shape or not np.array_equal(*images)


def test_nothing_but_silence_can_be_drawn(tmp_path: Path) -> None:
    library = Library(tmp_path / "quiet")
    library.pair("rest", np.zeros((2, 2 * RATE), np.float32), np.zeros((2, 2 * RATE), np.float32))
    rows = preview.write_examples(maker_of(library.manifest()), range(2), tmp_path / "out")
    assert [row["ratio_db"] for row in rows] == [None, None]
    assert "no vocals" in rows[0]["summary"]
    assert json.loads((tmp_path / "out/index.json").read_text())


@given(
    frequency=st.floats(60, 3_900), rate=st.sampled_from([8_000, 22_050, 48_000]),
    samples=st.integers(1, 3) | st.integers(3_000, 30_000),
)  # fmt: skip
def test_spectrograms_show_a_tone_where_it_is(frequency: float, rate: int, samples: int) -> None:
    wave = np.sin(2 * np.pi * frequency * np.arange(samples) / rate).astype(np.float32)
    power, hz = preview.spectrogram(np.stack((wave, wave)), rate)
    assert power.shape[0] == len(hz) and np.isfinite(power).all()
    assert hz[-1] == pytest.approx(rate / 2)
    if samples >= 3_000 * rate / 8_000:
        peak = hz[power[:, power.shape[1] // 2].argmax()]
        assert peak == pytest.approx(frequency, rel=0.02, abs=0.6 / preview.WINDOW)
        full = 2 * (preview.WINDOW * rate / 4) ** 2  # of a tone in the middle of a bin
        assert 0.5 * full < power.max() < 1.1 * full, "no line is lost between rows"


def test_long_notes_are_wrapped_between_notes() -> None:
    notes = ["a" * 100, "b" * 70, "c" * 400, "d"]
    lines = preview._wrapped(notes).split("\n")
    assert max(map(len, lines)) <= 180
    assert lines[0] == f"{'a' * 100}  ·  {'b' * 70}"
    assert "".join(lines).count("c") == 400 and lines[-1].endswith("·  d")
    assert preview._wrapped([]) == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--count", "0"), "--count must be at least 1"),
        (("--seed", "-1"), "--seed must be at least 0"),
        (("--rate", "10"), "--rate must be at least"),
        (("--set", "reverb=1"), "reverb"),
        (("--set", "reverb_share=7"), "reverb_share"),
    ],
)
def test_what_cannot_work_is_refused(
    songs: Manifest, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        run(songs.folder / "manifest.jsonl", tmp_path, *words)
    assert files_below(tmp_path) == []


def test_a_missing_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises((AudioError, ConfigError), match=r"none\.jsonl"):
        run(tmp_path / "none.jsonl", tmp_path / "out")


def test_a_folder_that_cannot_be_written_is_named(songs: Manifest, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.write_text("a file")
    with pytest.raises(OutputError, match="taken"):
        run(songs.folder / "manifest.jsonl", taken)
