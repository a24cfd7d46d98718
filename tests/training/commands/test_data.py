"""`stemwire data scan` and `stemwire data cache` from the command line."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import files_below, noise, write_audio

pytest.importorskip("soxr")

from stemwire.cli import main
from stemwire.training.data.manifest import Manifest

RATE = 8_000


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "songs"
    for number, name in enumerate(
        (
            "one/vocals.wav",
            "one/accompaniment.wav",
            "test/two/vocals.wav",
            "test/two/drums.wav",
            "acapella/solo.wav",
            "odd/what.wav",
        )
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_audio(folder / name, noise(RATE * 9, 2, number), RATE)
    return folder


def test_scan_and_cache(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target, cache = str(tmp_path / "manifest.jsonl"), str(tmp_path / "cache")
    assert main(["data", "scan", str(root), "-o", target, "--jobs", "2"]) == 0
    said = capsys.readouterr()
    rows = [line.split("\t") for line in said.out.splitlines() if "\t" in line]
    assert rows == [
        ["split", "kind", "songs", "hours"],
        ["test", "pair", "1", "0.00"],
        ["train", "pair", "1", "0.00"],
        ["train", "vocals", "1", "0.00"],
    ]
    assert "odd: 1 files left out" in said.out and "what.wav" in said.out and not said.err
    assert f"{target}: 3 songs, 0 bad; 5 files, 5 of them new or changed" in said.out
    assert main(["data", "scan", str(root), "-o", target, "--kind", "accompaniment"]) == 0
    assert "4 songs, 0 bad; 6 files, 1 of them new or changed" in capsys.readouterr().out
    for made, kept in ((4, 0), (0, 4)):
        assert main(["data", "cache", target, "-o", cache, "--rate", "4000"]) == 0
        assert f"{made} songs written, {kept} there already, 0 bad" in capsys.readouterr().out


def test_options_reach_the_scan(root: Path, tmp_path: Path) -> None:
    target = tmp_path / "manifest.jsonl"
    write_audio(root / "one/vocals.wav", noise(RATE * 9 + 40, 2), RATE)
    options = ["--split", "mine", "--tolerance", "40", "--decode"]
    assert main(["data", "scan", str(root), "-o", str(target), *options]) == 0
    assert set(Manifest(target).split) == {"mine"} and len(Manifest(target)) == 3
    assert main(["data", "scan", str(root), "-o", str(target), "--max-bad", "0.5"]) == 0
    assert len(Manifest(target)) == 2
    assert main(["data", "scan", str(root), "-o", str(target), "--licence", "MIT"]) == 2
    options = ["--valid", "0.5", "--tolerance", "40"]
    assert main(["data", "scan", str(root), "-o", str(target), *options]) == 0
    assert sorted(Manifest(target).split) == ["test", "train", "valid"]


def test_bad_songs_are_named_on_standard_error(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "acapella/broken.wav").write_bytes(b"no audio")
    target = str(tmp_path / "manifest.jsonl")
    assert main(["data", "scan", str(root), "-o", target]) == 2
    assert "1 of 4 songs are bad" in capsys.readouterr().err
    assert not Path(target).exists()


def test_bad_songs_within_the_share(root: Path, tmp_path: Path) -> None:
    (root / "acapella/broken.wav").write_bytes(b"no audio")
    command = [
        sys.executable,
        "-m",
        "stemwire.cli",
        "data",
        "scan",
        str(root),
        "-o",
        str(tmp_path / "m.jsonl"),
        "--max-bad",
        "0.3",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("bad: ") and "broken.wav" in done.stderr
    assert len(done.stderr.splitlines()) == 1 and "3 songs, 1 bad" in done.stdout


def test_the_same_song_in_two_splits_is_a_warning(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "test/one").mkdir()
    for name in ("vocals", "accompaniment"):
        (root / f"test/one/{name}.wav").write_bytes((root / f"one/{name}.wav").read_bytes())
    assert main(["data", "scan", str(root), "-o", str(tmp_path / "m.jsonl")]) == 0
    assert "warning: songs/test/one (test) is the same recording" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [
    ["scan", "nowhere", "-o", "m.jsonl"], ["cache", "nowhere.jsonl", "-o", "c"],
])  # fmt: skip
def test_missing_inputs_are_one_line_on_standard_error(
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["data", *arguments]) == 2
    said = capsys.readouterr().err
    assert "nowhere" in said and len(said.splitlines()) == 1
    assert files_below(tmp_path) == []


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_leaves_the_old_manifest(root: Path, tmp_path: Path) -> None:
    target = tmp_path / "manifest.jsonl"
    command = [sys.executable, "-m", "stemwire.cli", "data", "scan", str(root), "-o", str(target)]
    subprocess.run(command, check=True, capture_output=True)
    before = target.read_bytes()
    long = write_audio(root / "acapella/long.ogg", noise(RATE * 60, 1), RATE)
    for number in range(600):
        shutil.copy(long, root / f"acapella/{number}.ogg")
    with subprocess.Popen([*command, "--decode", "--jobs", "1"], stderr=subprocess.PIPE) as scan:
        log = target.with_name("manifest.jsonl.files")
        size, until = log.stat().st_size, time.monotonic() + 60
        while log.stat().st_size < size + 1 and scan.poll() is None and time.monotonic() < until:
            time.sleep(0.02)
        scan.send_signal(signal.SIGINT)
        _, said = scan.communicate(timeout=60)
    assert scan.returncode == 130 and b"interrupted" in said and b"Traceback" not in said
    assert target.read_bytes() == before
