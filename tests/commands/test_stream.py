"""`stemwire stream`: files and pipes with a real server."""

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
from support import Audio, files_below, music, noise, read_audio, write_audio
from support.bridge_server import NAME, Running, config, make_preset, running

import stemwire
from stemwire.cli import main


@pytest.fixture(scope="module")
def tiny_preset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_preset(tmp_path_factory.getbasetemp())


COMMAND = [sys.executable, "-m", "stemwire.cli", "stream"]


@pytest.fixture(scope="module")
def server(tiny_preset: Path) -> Iterator[Running]:
    with running(config(presets=(str(tiny_preset),))) as found:
        yield found


@pytest.fixture(autouse=True)
def keep_signal_handlers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """`main` installs its own."""
    before = {name: signal.getsignal(name) for name in (signal.SIGTERM, signal.SIGHUP)}
    monkeypatch.delenv("STEMWIRE_TOKEN", raising=False)
    yield
    for name, handler in before.items():
        signal.signal(name, handler)


def call(*args: Any) -> int:
    return main(["stream", *map(str, args)])


def local(preset: Path, audio: Audio, rate: int = 44_100) -> Audio:
    """Stems aligned with the mixture, float32 (2, channels, n)."""
    separator = stemwire.load(preset, rate, len(audio))
    stems = np.concatenate((separator.push(audio), separator.flush()), 2)
    return stems[..., separator.latency :]


def error_line(capfd: pytest.CaptureFixture[str]) -> str:
    out, err = capfd.readouterr()
    assert out == "" and err.startswith("stemwire: ") and err.count("\n") == 1, (out, err)
    return str(err)


# Files


@pytest.mark.parametrize("format", ["wav", "flac"])
@pytest.mark.parametrize(("rate", "channels", "samples"), [(44_100, 2, 100_000), (48_000, 1, 7)])
def test_a_file_gives_the_stems_of_separate(
    tmp_path: Path, tiny_preset: Path, server: Running, capfd: pytest.CaptureFixture[str],
    format: str, rate: int, channels: int, samples: int,
) -> None:  # fmt: skip
    song = write_audio(tmp_path / "song.wav", music(samples, rate, channels), rate, "FLOAT")
    choose = ("--format", format)
    here, there = tmp_path / "here", tmp_path / "there"
    assert (
        main(["separate", str(song), "-o", str(here), "--preset", str(tiny_preset), *choose]) == 0
    )
    capfd.readouterr()
    assert call(song, "--to", server.direct, "--preset", NAME, "-o", there, *choose) == 0
    out, err = capfd.readouterr()
    assert err == "" and str(there / "song" / f"vocals.{format}") in out
    assert "latency" in out and "MB up" in out and "1 connection\n" in out
    assert files_below(there) == [f"song/instrumental.{format}", f"song/vocals.{format}"]
    for name in files_below(there):
        # Not byte by byte: libsndfile writes the time of day into the head of a WAV file.
        one, other = soundfile.info(there / name), soundfile.info(here / name)
        assert (one.samplerate, one.subtype, one.format) == (
            other.samplerate,
            other.subtype,
            other.format,
        )
        np.testing.assert_array_equal(read_audio(there / name), read_audio(here / name))


def test_a_file_over_a_connection_that_drops(
    tmp_path: Path, tiny_preset: Path, server: Running, capfd: pytest.CaptureFixture[str]
) -> None:
    audio = music(300_000, 44_100)
    song = write_audio(tmp_path / "song.wav", audio, 44_100, "FLOAT")
    server.do(lambda: server.proxy.cuts.extend([("up", 500_000), ("down", 300_000)]))
    assert call(song, "--to", server.url, "--preset", NAME, "-o", tmp_path) == 0
    out, err = capfd.readouterr()
    assert "3 connections" in out
    assert err.count("connection lost") == 2 and err.count("connected again") == 2
    stems = [read_audio(tmp_path / "song" / f"{name}.wav") for name in ("vocals", "instrumental")]
    np.testing.assert_array_equal(np.stack(stems), local(tiny_preset, audio))


def test_invalid_files(tmp_path: Path, server: Running, capfd: pytest.CaptureFixture[str]) -> None:
    where = ("--to", server.direct, "--preset", NAME, "-o", tmp_path / "out")
    assert call(tmp_path / "none.wav", *where) == 2
    assert "none.wav: no such file" in error_line(capfd)
    seven = write_audio(tmp_path / "seven.wav", noise(100, 7), 44_100)
    assert call(seven, *where) == 2
    assert "7 channels" in error_line(capfd)
    assert not (tmp_path / "out").exists()


def test_unreachable_servers(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    song = write_audio(tmp_path / "song.wav", noise(100), 44_100)
    assert call(song, "--to", "ws://127.0.0.1:1", "-o", tmp_path / "out") == 2
    error = error_line(capfd)
    assert "song.wav: ws://127.0.0.1:1/stream: cannot be reached" in error
    assert call(song, "--to", "127.0.0.1:1", "-o", tmp_path / "out") == 2
    assert "ws://HOST:PORT" in error_line(capfd)
    assert not (tmp_path / "out").exists()


def test_tokens(
    tmp_path: Path, tiny_preset: Path, capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    song = write_audio(tmp_path / "song.wav", noise(1000), 44_100)
    file = tmp_path / "tokens"
    file.write_text("# mine\n\nsecret\nother\n")
    with running(config(presets=(str(tiny_preset),), tokens=("secret",))) as server:
        words = (song, "--to", server.direct, "--preset", NAME, "-o", tmp_path / "out")
        assert call(*words) == 2
        assert "right token" in error_line(capfd)
        assert call(*words, "--token-file", file) == 0
        monkeypatch.setenv("STEMWIRE_TOKEN", "secret")
        assert call(*words) == 0
        capfd.readouterr()
    assert call(*words, "--token-file", tmp_path / "none") == 2
    assert "none" in error_line(capfd)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["-"], "--raw"),
        (["song.wav"], "-o DIR"),
        (["song.wav", "-o", "x", "--rate", "8000"], "--rate: only for raw samples"),
        (["-", "--raw", "f32le", "-o", "x"], "--output: not for raw"),
        (["-", "--raw", "f32le", "--format", "flac"], "--format: not for raw"),
        (["-", "--raw", "f32le", "--stem", "vocals", "--vocals", "3"], "--stem mix"),
        (["..", "-o", "x"], "no name"),
    ],
)
def test_invalid_arguments(capfd: pytest.CaptureFixture[str], words: list[str], text: str) -> None:
    assert call(*words, "--to", "ws://127.0.0.1:1") == 2
    assert text in error_line(capfd)


# Raw samples


def pipe(data: bytes, *words: Any, **how: Any) -> subprocess.CompletedProcess[bytes]:
    command = [*COMMAND, "-", *map(str, words)]
    return subprocess.run(command, input=data, capture_output=True, timeout=60, check=False, **how)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("raw", ["f32le", "s16le"])
def test_raw_samples(server: Running, tiny_preset: Path, raw: str, channels: int) -> None:
    kind = {"f32le": "<f4", "s16le": "<i2"}[raw]
    scale = {"f32le": 1.0, "s16le": 32768.0}[raw]
    data = np.rint(music(30_001, 48_000, channels) * 32768) / 32768
    audio = data.astype(np.float32)
    form = ("--raw", raw, "--rate", 48_000, "--channels", channels, "--stem", "vocals")
    done = pipe(
        (audio * scale).astype(kind).T.tobytes(),
        "--to",
        server.direct,
        "--preset",
        NAME,
        *form,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    out = np.frombuffer(done.stdout, kind).reshape(-1, channels).T / scale
    vocals = local(tiny_preset, audio, 48_000)[0]
    if raw == "f32le":
        np.testing.assert_array_equal(out, vocals)
    else:
        np.testing.assert_allclose(out, np.clip(vocals, -1, 1), rtol=0, atol=1.01 / 65536)


def test_selected_stems_and_levels(server: Running, tiny_preset: Path) -> None:
    audio = music(20_000, 44_100)
    vocals, instrumental = local(tiny_preset, audio)
    words = ("--to", server.direct, "--preset", NAME, "--raw", "f32le")

    def out(*more: str) -> Audio:
        done = pipe(audio.T.tobytes(), *words, *more)
        assert (done.returncode, done.stderr) == (0, b"")
        return np.frombuffer(done.stdout, "<f4").reshape(20_000, -1).T

    np.testing.assert_array_equal(out(), instrumental)
    both = out("--stem", "instrumental", "--stem", "vocals")  # one stem after the other
    np.testing.assert_array_equal(both, np.concatenate((instrumental, vocals)))
    np.testing.assert_allclose(out("--stem", "mix")[:, 9000:], audio[:, 9000:], atol=1e-5)
    mixed = out("--vocals", "off", "--instrumental", "-6")
    gain = 10 ** (-6 / 20)
    np.testing.assert_allclose(mixed[:, 9000:], gain * instrumental[:, 9000:], atol=1e-4)


def test_stems_arrive_while_input_is_open(server: Running) -> None:
    command = [*COMMAND, "-", "--to", server.direct, "--preset", NAME, "--raw", "s16le"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(bytes(4 * 10_000))
    process.stdin.flush()
    assert len(process.stdout.read(4 * 9000)) == 4 * 9000  # while standard input is still open
    process.stdin.close()
    assert len(process.stdout.read()) == 4 * 1000
    assert process.wait(20) == 0


def test_empty_input(server: Running) -> None:
    done = pipe(b"", "--to", server.direct, "--preset", NAME, "--raw", "s16le")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_invalid_raw_samples(server: Running) -> None:
    words = ("--to", server.direct, "--preset", NAME, "--raw", "f32le")
    audio = noise(5000)
    done = pipe(audio.T.tobytes() + b"\x00" * 7, *words)
    assert done.returncode == 2 and b"ends with 7 bytes of a sample's 8" in done.stderr
    audio[1, 4321] = np.nan
    done = pipe(audio.T.tobytes(), *words)
    assert done.returncode == 2 and b"sample 4321 (0.098 s)" in done.stderr
    assert done.stderr.count(b"\n") == 1
    done = pipe(audio.T.tobytes(), "--to", "ws://127.0.0.1:1", "--raw", "f32le")
    assert done.returncode == 2 and b"cannot be reached" in done.stderr


def test_clipping_is_reported(server: Running) -> None:
    loud = np.full((5000, 2), 32767, "<i2").tobytes()
    words = ("--to", server.direct, "--preset", NAME, "--raw", "s16le", "--wire", "f32")
    done = pipe(loud, *words, "--vocals", "20")
    assert done.returncode == 0 and b"clipped" in done.stderr


unix_only = pytest.mark.skipif(sys.platform == "win32", reason="signals and shells")


@unix_only
def test_a_reader_that_stops_reading(server: Running) -> None:
    command = " ".join([*COMMAND, "-", "--to", server.direct, "--preset", NAME, "--raw", "f32le"])
    done = subprocess.run(
        f"head -c 30000000 /dev/zero 2>/dev/null | {command} | head -c 1000",
        shell=True,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr) == (bytes(1000), b"")


@unix_only
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("stalled", [False, True])
def test_ctrl_c_is_quiet(server: Running, number: int, stalled: bool) -> None:
    """Also while a stalled reader blocks everything."""
    command = [*COMMAND, "-", "--to", server.direct, "--preset", NAME, "--raw", "f32le"]
    source = subprocess.Popen(
        ["head", "-c", "30000000", "/dev/zero"] if stalled else ["sleep", "60"],
        stdout=subprocess.PIPE,
    )
    process = subprocess.Popen(
        command, stdin=source.stdout, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    end = time.monotonic() + 20
    while not server.do(lambda: len(server.server.sessions)) and time.monotonic() < end:
        time.sleep(0.05)
    time.sleep(1.0)
    process.send_signal(number)
    _, err = process.communicate(timeout=10)
    source.kill()
    source.wait()
    assert (process.returncode, err) == (130, b"")


@unix_only
@pytest.mark.skipif(shutil.which("sox") is None, reason="needs sox")
def test_the_example_with_sox(tmp_path: Path, server: Running, tiny_preset: Path) -> None:
    audio = music(48_000, 48_000)
    song = write_audio(tmp_path / "song.wav", audio, 48_000, "PCM_16")
    out = tmp_path / "vocals.wav"
    command = " ".join([*COMMAND, "-", "--to", server.direct, "--preset", NAME])
    subprocess.run(
        f"sox {song} -t raw -e signed -b 16 - rate 48000 channels 2 | {command} --raw s16le "
        f"--rate 48000 --stem vocals | sox -t raw -e signed -b 16 -r 48000 -c 2 - {out}",
        shell=True,
        check=True,
        timeout=60,
        env={**os.environ, "STEMWIRE_TOKEN": ""},
    )
    vocals = local(tiny_preset, read_audio(song), 48_000)[0]
    np.testing.assert_allclose(read_audio(out), vocals, rtol=0, atol=1.01 / 32768)


@unix_only
@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg")
def test_the_example_with_ffmpeg(tmp_path: Path, server: Running, tiny_preset: Path) -> None:
    song = write_audio(tmp_path / "song.wav", music(44_100, 44_100), 44_100, "PCM_16")
    out = tmp_path / "instrumental.wav"
    command = " ".join([*COMMAND, "-", "--to", server.direct, "--preset", NAME])
    quiet = "ffmpeg -nostdin -loglevel error"
    subprocess.run(
        f"{quiet} -i {song} -f f32le -ar 44100 -ac 2 - | {command} --raw f32le --rate 44100 "
        f"--channels 2 | {quiet} -f f32le -ar 44100 -ac 2 -i - -c:a pcm_f32le {out}",
        shell=True,
        check=True,
        timeout=60,
        env={**os.environ, "STEMWIRE_TOKEN": ""},
    )
    instrumental = local(tiny_preset, read_audio(song))[1]
    np.testing.assert_allclose(read_audio(out), instrumental, rtol=0, atol=1e-6)
