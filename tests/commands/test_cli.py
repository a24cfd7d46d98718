"""The `stemwire` command: its files, messages and exit statuses."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from support import (
    PRESETS,
    edit_header,
    files_below,
    music,
    noise,
    read_audio,
    write_audio,
)

import stemwire
from stemwire.cli import main

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="uses Linux's own means")
COMMAND = [sys.executable, "-m", "stemwire.cli"]
FORMATS = [
    *((".wav", rate, c) for rate in (8_000, 22_050, 44_100, 48_000, 96_000) for c in (1, 2)),
    *((".flac", rate, c) for rate in (8_000, 44_100, 96_000) for c in (1, 2)),
    *((".ogg", rate, c) for rate in (8_000, 44_100, 96_000) for c in (1, 2)),
    *((".opus", rate, c) for rate in (8_000, 24_000, 48_000) for c in (1, 2)),
    *((".mp3", rate, c) for rate in (8_000, 22_050, 44_100, 48_000) for c in (1, 2)),
]


@pytest.fixture(autouse=True)
def keep_signal_handler() -> Iterator[None]:
    """`main` takes SIGTERM for itself."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def run(*args: Any, **how: Any) -> subprocess.CompletedProcess[str]:
    """Run the real command to its end."""
    how = {"capture_output": True, "text": True, "timeout": 120, **how}
    return subprocess.run([*COMMAND, *map(str, args)], check=False, **how)


def call(*args: Any) -> int:
    """The same without a new process."""
    return main([str(arg) for arg in args])


def one_line_error(stderr: str, *names: Any) -> None:
    assert stderr.startswith("stemwire: "), stderr
    assert stderr.count("\n") == 1 and stderr.endswith("\n"), stderr
    for name in names:
        assert str(name) in stderr


@pytest.fixture(scope="module")
def song(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("songs") / "song.wav"
    return write_audio(path, music(20_000, 44_100), 44_100, "FLOAT")


@pytest.fixture(scope="module")
def long_song(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Takes a computer quite some time."""
    path = tmp_path_factory.mktemp("songs") / "song.wav"
    return write_audio(path, noise(8_000 * 600, 1), 8_000)


@pytest.mark.parametrize(("suffix", "rate", "channels"), FORMATS)
def test_every_format(tmp_path: Path, suffix: str, rate: int, channels: int) -> None:
    path = write_audio(tmp_path / f"song{suffix}", music(rate // 3, rate, channels), rate)
    assert call("separate", path, "-o", tmp_path / "out") == 0
    assert files_below(tmp_path / "out") == ["song/instrumental.wav", "song/vocals.wav"]
    files = [tmp_path / "out" / "song" / f"{name}.wav" for name in ("vocals", "instrumental")]
    audio, stems = read_audio(path), np.stack([read_audio(file) for file in files])
    assert stems.shape == (2, *audio.shape)
    for file in files:
        assert soundfile.info(file).samplerate == rate
        assert soundfile.info(file).subtype == "FLOAT"
    np.testing.assert_allclose(stems.sum(0), audio, rtol=0, atol=1e-5)
    separator = stemwire.load("standard", rate, channels)
    live = np.concatenate((separator.push(audio), separator.flush()), 2)
    live = live[..., separator.latency :]
    if suffix == ".mp3":  # its decoder rounds differently when read in blocks
        np.testing.assert_allclose(stems, live, rtol=0, atol=1e-5)
    else:
        np.testing.assert_array_equal(stems, live)


@pytest.mark.parametrize("preset", PRESETS)
def test_the_real_command(tmp_path: Path, song: Path, preset: str) -> None:
    done = run("separate", song, "-o", tmp_path, "--preset", preset, "--format", "flac")
    assert (done.returncode, done.stderr) == (0, "")
    files = [tmp_path / "song" / f"{name}.flac" for name in ("vocals", "instrumental")]
    total = read_audio(files[0]) + read_audio(files[1])
    np.testing.assert_allclose(total, read_audio(song), rtol=0, atol=1e-5)
    separator = stemwire.load(preset)
    assert str(song) in done.stdout
    assert all(str(file) in done.stdout for file in files)
    assert f"delay {separator.latency} samples" in done.stdout
    assert "real-time factor" in done.stdout and "p99.9" in done.stdout


def test_clipping_is_said(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = write_audio(tmp_path / "loud.wav", noise(9_000, level=2.0), 44_100, "FLOAT")
    assert call("separate", path, "-o", tmp_path / "out", "--format", "flac") == 0
    assert "clipped" in capfd.readouterr().out
    assert call("separate", path, "-o", tmp_path / "out") == 0
    assert "clipped" not in capfd.readouterr().out


def make_bad(folder: Path, kind: str) -> Path:
    """An input that cannot be separated."""
    path = folder / f"{kind}.wav"
    if kind == "directory":
        path.mkdir()
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("Not a song, but words about one.\n" * 99)
    elif kind == "no samples":
        write_audio(path, noise(0), 44_100)
    elif kind == "seven channels":
        write_audio(path, noise(1_000, 7), 44_100)
    elif kind in ("1 Hz", "400000 Hz"):
        write_audio(path, noise(1_000), int(kind.split()[0]))
    elif kind in ("nan", "inf"):
        audio = noise(40_000)
        audio[0, 30_000] = float(kind)
        write_audio(path, audio, 44_100, "FLOAT")
    elif kind == "long name":
        path = folder / ("n" * 300 + ".wav")
    elif kind.startswith("truncated"):
        path = write_audio(folder / kind.replace("truncated ", "cut."), noise(441_000), 44_100)
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2])
    else:
        assert kind == "missing"
    return path


BAD = [
    "missing", "directory", "empty", "text", "no samples", "seven channels", "1 Hz", "400000 Hz",
    "nan", "inf", "long name", "truncated mp3", "truncated flac", "truncated wav",
]  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_bad_input(tmp_path: Path, capfd: pytest.CaptureFixture[str], kind: str) -> None:
    path = make_bad(tmp_path, kind)
    assert call("separate", path, "-o", tmp_path / "out") == 2
    out, err = capfd.readouterr()
    one_line_error(err, path)
    assert out == ""
    assert files_below(tmp_path / "out") == []


def test_an_error_is_one_line_whatever_the_name(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert call("separate", tmp_path / "two\nlines\n.wav", "-o", tmp_path / "out") == 2
    one_line_error(capfd.readouterr().err, "lines", "no such file")


def test_a_name_that_is_not_utf8(tmp_path: Path, song: Path) -> None:
    """As old collections have them: separated, or refused in one line, but no traceback."""
    path = os.fsencode(tmp_path) + b"/caf\xe9.wav"
    shutil.copy(os.fsencode(song), path)
    done = subprocess.run(
        [*COMMAND, "separate", path, "-o", tmp_path / "out"], capture_output=True, check=False
    )
    assert done.returncode in (0, 2)
    assert b"Traceback" not in done.stderr
    if done.returncode:
        one_line_error(done.stderr.decode(errors="replace"), "caf")


def test_a_bad_input_does_not_stop_the_others(tmp_path: Path, song: Path) -> None:
    first = Path(shutil.copy(song, tmp_path / "first.wav"))
    last = Path(shutil.copy(song, tmp_path / "last.wav"))
    bad = [make_bad(tmp_path, "text"), make_bad(tmp_path, "missing")]
    done = run("separate", first, *bad, last, "-o", tmp_path / "out")
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert len(lines) == 3 and all(line.startswith("stemwire: ") for line in lines)
    assert str(bad[0]) in lines[0] and str(bad[1]) in lines[1] and "2 of 4" in lines[2]
    stems = ("instrumental.wav", "vocals.wav")
    assert files_below(tmp_path / "out") == [f"{n}/{s}" for n in ("first", "last") for s in stems]


def test_inputs_of_the_same_name_are_refused(
    tmp_path: Path, song: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other").mkdir()
    twin = shutil.copy(song, tmp_path / "other" / "song.flac")
    assert call("separate", song, twin, "-o", tmp_path / "out") == 2
    one_line_error(capfd.readouterr().err, "song")
    assert files_below(tmp_path / "out") == []


@pytest.mark.parametrize(
    ("option", "value"),
    [("--preset", "nope"), ("--preset", "n" * 300), ("--backend", "abacus")],
)
def test_settings_that_do_not_exist(
    tmp_path: Path, song: Path, capfd: pytest.CaptureFixture[str], option: str, value: str
) -> None:
    other = shutil.copy(song, tmp_path / "other.wav")
    assert call("separate", song, other, option, value, "-o", tmp_path / "out") == 2
    one_line_error(capfd.readouterr().err, value)  # said once, before any file
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "damage",
    ["missing", "truncated", "garbage", "foreign", "version", "no graph", "bad graph", "bad card"],
)
def test_damaged_presets(
    tmp_path: Path, song: Path, preset_copy: Path, capfd: pytest.CaptureFixture[str], damage: str
) -> None:
    file = preset_copy / "weights.safetensors"
    if damage == "missing":
        file.unlink()
    elif damage == "truncated":
        file.write_bytes(file.read_bytes()[:-100])
    elif damage == "garbage":
        file.write_bytes(b"garbage" * 99)
    elif damage == "foreign":
        edit_header(file, format="pt")
    elif damage == "version":
        edit_header(file, version="7")
    elif damage == "no graph":
        (file := preset_copy / "step.onnx").unlink()
    elif damage == "bad graph":
        (file := preset_copy / "step.onnx").write_bytes(b"garbage" * 99)
    else:
        (file := preset_copy / "preset.json").write_text("{")
    backend = "onnx" if damage == "bad graph" else "auto"  # others do not look at it
    command = ("separate", song, "-o", tmp_path / "out", "--preset", preset_copy)
    assert call(*command, "--backend", backend) == 2
    one_line_error(capfd.readouterr().err, file)
    assert not (tmp_path / "out").exists()


def test_debug_shows_where_an_error_arose(tmp_path: Path) -> None:
    path = make_bad(tmp_path, "text")
    done = run("separate", path, "-o", tmp_path / "out", "--debug")
    assert done.returncode == 2
    assert "Traceback" in done.stderr and "LibsndfileError" in done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"stemwire: {path}: cannot be read")


@pytest.mark.parametrize(
    "where", ["below a file", "long name", pytest.param("read-only", marks=linux_only)]
)
def test_output_that_cannot_be_written(
    tmp_path: Path, song: Path, capfd: pytest.CaptureFixture[str], where: str
) -> None:
    if where == "below a file":
        (tmp_path / "file").write_text("x")
        out = tmp_path / "file" / "out"
    elif where == "long name":
        out = tmp_path / ("n" * 300)
    else:
        out = Path("/proc/stemwire-out")  # not even the superuser writes there
    assert call("separate", song, "-o", out) == 2
    one_line_error(capfd.readouterr().err, out)
    assert files_below(tmp_path) == (["file"] if where == "below a file" else [])


def on_a_disk_of(limit: int, *args: Any) -> subprocess.CompletedProcess[str]:
    """Run the command where no file can grow beyond `limit` bytes."""
    import resource

    def fill() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return run(*args, preexec_fn=fill)


@linux_only
@pytest.mark.parametrize("form", ["wav", "flac"])
@pytest.mark.parametrize("share", [0.0, 0.0001, 0.01, 0.5, 0.99, 1.0])
def test_full_disk(tmp_path: Path, song: Path, share: float, form: str) -> None:
    args = ("separate", song, "--format", form, "-o")
    assert call(*args, tmp_path / "whole") == 0
    needed = max(file.stat().st_size for file in (tmp_path / "whole").rglob(f"*.{form}"))
    out = tmp_path / "out"
    done = on_a_disk_of(int(share * needed) - (share == 1.0), *args, out)  # a byte is enough
    assert done.returncode == 2
    one_line_error(done.stderr, out)
    assert files_below(out) == []
    assert not (out / "song").exists()
    assert on_a_disk_of(needed, *args, out).returncode == 0


def interrupted(song: Path, out: Path, number: int) -> subprocess.CompletedProcess[str]:
    """Run until a stem is being written, then send the signal."""
    command = [*COMMAND, "separate", str(song), "-o", str(out)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        for _ in range(600):
            parts = list(out.rglob("*.part")) if out.exists() else []
            if parts and min(part.stat().st_size for part in parts) > 10_000:
                break
            time.sleep(0.05)
        assert process.poll() is None, "ended before it could be interrupted"
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=30)
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interruption_leaves_nothing(tmp_path: Path, long_song: Path, number: int) -> None:
    done = interrupted(long_song, tmp_path / "out", number)
    assert done.returncode == 130
    one_line_error(done.stderr, "interrupted")
    assert files_below(tmp_path) == []
    assert not (tmp_path / "out" / "song").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interruption_leaves_what_was_there(
    tmp_path: Path, song: Path, long_song: Path, number: int
) -> None:
    assert call("separate", song, "-o", tmp_path) == 0
    before = {name: (tmp_path / name).read_bytes() for name in files_below(tmp_path)}
    assert interrupted(long_song, tmp_path, number).returncode == 130
    assert {name: (tmp_path / name).read_bytes() for name in files_below(tmp_path)} == before


@linux_only
@pytest.mark.parametrize("args", [["presets"], ["separate", "SONG", "-o", "OUT"]])
@pytest.mark.parametrize("end", ["reader gone", "closed", "full"])
def test_output_that_nobody_takes(tmp_path: Path, song: Path, args: list[str], end: str) -> None:
    """Stems are written all the same, and Python's own words are never shown."""
    args = [{"SONG": str(song), "OUT": str(tmp_path)}.get(arg, arg) for arg in args]
    read, write = os.pipe()
    os.close(read)
    with Path("/dev/full").open("w") as full:
        done = run(
            *args,
            capture_output=False,
            stderr=subprocess.PIPE,
            stdout={"reader gone": write, "closed": None, "full": full}[end],
            preexec_fn=(lambda: os.close(1)) if end == "closed" else None,
        )
    os.close(write)
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr
    assert done.stderr == "" or done.stderr.startswith("stemwire: ")
    if args[0] == "separate":
        assert files_below(tmp_path) == ["song/instrumental.wav", "song/vocals.wav"]


def test_version() -> None:
    done = run("--version")
    assert (done.returncode, done.stdout) == (0, f"stemwire {stemwire.__version__}\n")


def test_presets_are_listed() -> None:
    done = run("presets", env={**os.environ, "COLUMNS": "200"})
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert len(lines) == 1 + len(PRESETS)
    for line, preset in zip(lines[1:], stemwire.presets(), strict=True):
        assert line.startswith(preset.name)
        assert f"{preset.latency} samples" in line
        assert preset.licence in line


@pytest.mark.parametrize(
    "args", [[], ["separate"], ["separate", "x.wav"], ["frob"], ["separate", "x", "-o", "y",
                                                                 "--format", "mp3"]]
)  # fmt: skip
def test_wrong_usage(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        call(*args)
    assert caught.value.code == 2
    assert "usage: stemwire" in capsys.readouterr().err
