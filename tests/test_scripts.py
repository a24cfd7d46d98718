"""The example scripts, run as people run them: what they write, what they say if they cannot."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from support import ROOT, Audio, music, noise, read_audio, write_audio

pytest.importorskip("pedalboard")

from pedalboard import HighpassFilter, Pedalboard, Reverb

from stemwire.bridge.pedalboard.separator import StemSeparator

RATE = 44_100
EXAMPLES = ROOT / "examples"
SONG = 0.5 * music(3 * RATE // 2, RATE)


@pytest.fixture(scope="module")
def song(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_audio(tmp_path_factory.mktemp("songs") / "song.wav", SONG, RATE, "FLOAT")


def run(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def written(name: str, song: Path, output: Path, *arguments: object) -> Audio:
    """What a script makes of a song: as long as it, at its rate."""
    done = run(name, song, output, *arguments)
    assert done.returncode == 0, done.stderr
    assert soundfile.info(output).samplerate == RATE
    return read_audio(output)


def test_remove_vocals(song: Path, tmp_path: Path) -> None:
    for preset in ("standard", "low"):
        found = written("remove_vocals", song, tmp_path / "out.wav", "--preset", preset)
        np.testing.assert_array_equal(found, StemSeparator(preset)(SONG, RATE))


def test_solo_vocals_with_reverb(song: Path, tmp_path: Path) -> None:
    vocals = StemSeparator(stem="vocals")(SONG, RATE)
    found = written("solo_vocals_with_reverb", song, tmp_path / "out.wav", "--room", 0.4)
    hall = Pedalboard([HighpassFilter(90), Reverb(0.4, wet_level=0.3)])
    np.testing.assert_allclose(found, hall(vocals, RATE), atol=1e-6)


@pytest.mark.parametrize(("arguments", "level"), [((), -6.0), (("--db", 20), -20.0)])
def test_duck_vocals(
    song: Path, tmp_path: Path, arguments: tuple[object, ...], level: float
) -> None:
    found = written("duck_vocals", song, tmp_path / "out.wav", *arguments)
    vocals, instrumental = (StemSeparator(stem=s)(SONG, RATE) for s in ("vocals", "instrumental"))
    wanted = instrumental + np.float32(10 ** (level / 20)) * vocals
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_batch_folder(tmp_path: Path) -> None:
    songs = tmp_path / "songs"
    songs.mkdir()
    mono = noise(RATE, 1)
    write_audio(songs / "stereo.wav", SONG, RATE, "FLOAT")
    write_audio(songs / "mono.flac", mono, 48_000, "PCM_24")
    (songs / "notes.txt").write_text("no song")
    done = run("batch_folder", songs, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1].startswith("stereo.wav: 1.5 s in ")
    assert sorted(f.name for f in (tmp_path / "out").iterdir()) == ["mono.wav", "stereo.wav"]
    separator = StemSeparator()
    np.testing.assert_array_equal(
        read_audio(tmp_path / "out" / "stereo.wav"), separator(SONG, RATE)
    )
    read = read_audio(songs / "mono.flac")
    np.testing.assert_array_equal(
        read_audio(tmp_path / "out" / "mono.wav"), separator(read, 48_000)
    )
    (songs / "broken.wav").write_bytes(b"no song")
    again = run("batch_folder", songs, tmp_path / "out")
    assert again.returncode == 2 and "broken.wav" in again.stderr
    assert "stereo.wav exists already" in again.stdout and "Traceback" not in again.stderr


def missing(folder: Path) -> list[tuple[str, list[object]]]:
    nothing, out = folder / "nothing.wav", folder / "out.wav"
    songs = [(name, [nothing, out]) for name in ("remove_vocals", "duck_vocals")]
    return [
        *songs,
        ("solo_vocals_with_reverb", [nothing, out]),
        ("batch_folder", [nothing, out]),
        ("render_through_vst3", [nothing, nothing, out]),
    ]


@pytest.mark.parametrize("number", range(5))
def test_what_cannot_be_done_is_said_in_one_line(tmp_path: Path, number: int) -> None:
    name, arguments = missing(tmp_path)[number]
    done = run(name, *arguments)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ") and "nothing.wav" in done.stderr


def test_more_that_cannot_be_done(song: Path, tmp_path: Path) -> None:
    done = run("remove_vocals", song, song)
    assert done.returncode == 2 and "overwrite" in done.stderr
    np.testing.assert_array_equal(read_audio(song), SONG)
    done = run("remove_vocals", song, tmp_path / "out.wav", "--preset", "nothing")
    assert done.returncode == 1 and done.stderr.startswith("error: ")
    five = write_audio(tmp_path / "five.wav", noise(RATE, 5), RATE, "FLOAT")
    done = run("duck_vocals", five, tmp_path / "out.wav")
    assert done.returncode == 1 and "5 channels" in done.stderr


@pytest.mark.parametrize("name", [path.stem for path in sorted(EXAMPLES.glob("*.py"))])
def test_scripts_are_short_and_say_how_to_run_them(name: str) -> None:
    text = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")
    doc = ast.get_docstring(ast.parse(text))
    assert doc is not None and f"python examples/{name}.py" in doc
    lines = text[text.index('"""', 3) + 3 :].splitlines()
    assert sum(bool(line.strip()) for line in lines) <= 45
