"""Recording to disks that are full, slow or removed: aligned, readable, never blocking."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from support import TESTS, Audio
from support.recording import HOP, RATE, feed, stems

from stemwire.errors import OutputError
from stemwire.realtime.live import recorder as module
from stemwire.realtime.live.recorder import TRACKS, Recorder, WavFile

resource = pytest.importorskip("resource")  # so not on Windows


def read(recorder: Recorder) -> Audio:
    """What is in the files, (3, channels, n), which are of one length."""
    takes = []
    for name in TRACKS:
        audio, rate = soundfile.read(
            recorder.folder / f"{name}.wav", dtype="float32", always_2d=True
        )
        assert rate == RATE
        takes.append(audio.T)
    return np.stack(takes)


def patiently(done: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("count", [0, 1, HOP - 1, 40 * RATE + 17])
def test_what_came_in_is_in_the_files(tmp_path: Path, channels: int, count: int) -> None:
    said: list[str] = []
    with Recorder(tmp_path / "new", RATE, channels, seconds_of_buffer=60, report=said.append) as it:
        feed(it, count, channels=channels)
        assert it.recording
    assert (it.position, it.lost, it.recording) == (count, 0, False)
    np.testing.assert_array_equal(read(it), stems(0, count, channels))
    info = soundfile.info(it.folder / "mix.wav")
    assert (info.format, info.subtype, info.channels) == ("WAV", "FLOAT", channels)
    assert said == []


def test_what_is_written_is_a_copy(tmp_path: Path) -> None:
    with Recorder(tmp_path, RATE, 2) as recorder:
        hop = stems(0, HOP)
        recorder.write(hop)
        hop[:] = 9.0
    np.testing.assert_array_equal(read(recorder), stems(0, HOP))


def test_takes_are_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "take-007").mkdir()
    (tmp_path / "take-old").mkdir()
    (tmp_path / "take-009").write_text("a file in the way")
    folders = []
    for turn in range(3):
        with Recorder(tmp_path, RATE, 2) as recorder:
            feed(recorder, HOP * (turn + 1))
        folders.append(recorder.folder.name)
    assert folders == ["take-010", "take-011", "take-012"]
    assert soundfile.info(tmp_path / "take-010" / "vocals.wav").frames == HOP


def test_no_folder_no_take(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match=r"file: cannot record there .* choose another folder"):
        Recorder(tmp_path / "file", RATE, 2)
    with pytest.raises(OutputError, match="cannot record there"):
        Recorder("/proc/nowhere", RATE, 2)


class StuckDisk:
    """All writing waits until `go` is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go = threading.Event()
        self.go.set()
        put = WavFile._write_bytes

        def wait_and_put(file: WavFile, data: memoryview) -> None:
            self.go.wait()
            put(file, data)

        monkeypatch.setattr(WavFile, "_write_bytes", wait_and_put)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[StuckDisk]:
    stuck = StuckDisk(monkeypatch)
    yield stuck
    stuck.go.set()


def test_a_disk_that_stalls_leaves_a_hole_of_the_right_length(
    tmp_path: Path, disk: StuckDisk
) -> None:
    said: list[str] = []
    recorder = Recorder(tmp_path, RATE, 2, seconds_of_buffer=2.0, report=said.append)
    at = feed(recorder, RATE)
    patiently(lambda: recorder._saved == at)
    for _ in range(2):
        disk.go.clear()
        slowest = 0.0
        for _ in range(5 * RATE // HOP):  # five seconds come, two fit
            before = time.thread_time()
            recorder.write(stems(at, HOP))
            slowest = max(slowest, time.thread_time() - before)
            at += HOP
        assert slowest < 0.005
        disk.go.set()
        patiently(lambda: recorder._written - recorder._saved < HOP)
    at = feed(recorder, RATE, at)
    recorder.close()
    assert recorder.position == at
    assert 2 * 2.5 * RATE < recorder.lost < 2 * 3.5 * RATE
    audio, wanted = read(recorder), stems(0, at)
    assert audio.shape == wanted.shape
    hole = (audio == 0).all((0, 1))
    assert hole.sum() == recorder.lost
    assert np.count_nonzero(np.diff(hole.astype(int)) == 1) == 2  # holes
    np.testing.assert_array_equal(audio[:, :, ~hole], wanted[:, :, ~hole])
    assert len(said) == 2 and "too slow" in said[0] and "7.0 s" not in said[0]
    assert f"of {at / RATE:.1f} s are missing" in said[1]


def test_a_hole_at_the_end_counts_too(tmp_path: Path, disk: StuckDisk) -> None:
    recorder = Recorder(tmp_path, RATE, 2, seconds_of_buffer=1.0)
    disk.go.clear()
    at = feed(recorder, 3 * RATE)
    disk.go.set()
    recorder.close()
    audio = read(recorder)
    assert audio.shape[2] == at
    kept = at - recorder.lost
    np.testing.assert_array_equal(audio[:, :, :kept], stems(0, kept))
    assert not audio[:, :, kept:].any()


def test_many_small_holes_need_no_more_memory(
    tmp_path: Path, disk: StuckDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_GAPS", 3)
    recorder = Recorder(tmp_path, RATE, 2, seconds_of_buffer=4 * HOP / RATE)
    disk.go.clear()
    at = feed(recorder, HOP)
    patiently(lambda: recorder._thread.is_alive())
    time.sleep(3 * module.POLL_S)  # the writer waits in the middle of the first hop
    for turn in range(10):
        at = feed(recorder, 4 * HOP, at)
        assert len(recorder._gaps) <= 3
        recorder._saved += HOP * (turn < 5)  # what the writer would do, and undoes below
    recorder._saved -= 5 * HOP
    assert len(recorder._gaps) == 3
    disk.go.set()
    recorder.close()
    assert read(recorder).shape[2] == recorder.position == at


def test_a_disk_that_hangs_does_not_hang_the_end(tmp_path: Path, disk: StuckDisk) -> None:
    said: list[str] = []
    recorder = Recorder(tmp_path, RATE, 2, report=said.append)
    disk.go.clear()
    feed(recorder, RATE)
    before = time.monotonic()
    recorder.close(timeout=0.3)
    assert time.monotonic() - before < 2
    assert said == [f"{recorder.folder}: the disk does not answer; the recording may lack its end"]


def check_stopped(recorder: Recorder, said: list[str], at: int, reason: str) -> Audio:
    """Recording has stopped, was told once, and audio goes on."""
    patiently(lambda: not recorder.recording)
    lost = recorder.lost
    for _ in range(100):
        recorder.write(stems(at, HOP))
    assert recorder.lost == lost + 100 * HOP
    recorder.close()
    assert len(said) == 1 and reason in said[0] and "recording has stopped after" in said[0]
    if not (recorder.folder / "mix.wav").exists():
        return np.zeros((3, 2, 0), np.float32)
    audio = read(recorder)
    assert audio.shape[2] + recorder.lost == recorder.position
    np.testing.assert_array_equal(audio, stems(0, audio.shape[2]))
    return audio


@pytest.fixture
def small_files() -> Iterator[int]:
    """No file may be longer than this: what a full disk does, to those that have no such disk."""
    limit, before = 300_000, resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_files_that_can_grow_no_more(tmp_path: Path, small_files: int) -> None:
    said: list[str] = []
    recorder = Recorder(tmp_path, RATE, 2, report=said.append)
    at = feed(recorder, 9 * RATE)
    audio = check_stopped(recorder, said, at, "File too large")
    assert 0 < audio.shape[2] <= (small_files - WavFile.HEADER.size) // 8


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root can mount a small disk")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk(small_disk: Path) -> None:
    said: list[str] = []
    recorder = Recorder(small_disk, RATE, 2, seconds_of_buffer=30, report=said.append)
    at = 0
    for _ in range(20):  # in real time's order: pieces, each written before the next
        at = feed(recorder, RATE, at)
        time.sleep(0.02)
    audio = check_stopped(recorder, said, at, "No space left on device")
    assert audio.shape[2] > RATE


@pytest.mark.parametrize("again", [False, True])
def test_a_folder_that_is_removed(tmp_path: Path, again: bool) -> None:
    said: list[str] = []
    recorder = Recorder(tmp_path, RATE, 2, report=said.append)
    at = feed(recorder, RATE)
    patiently(lambda: recorder._saved == at)
    shutil.rmtree(recorder.folder)
    if again:  # somebody else's files of the same names
        recorder.folder.mkdir()
        for name in TRACKS:
            (recorder.folder / f"{name}.wav").write_text("mine")
    at = feed(recorder, 2 * RATE, at)
    if again:
        patiently(lambda: not recorder.recording)
        recorder.close()
        assert (recorder.folder / "mix.wav").read_text() == "mine"
        assert "replaced" in said[0]
    else:
        check_stopped(recorder, said, at, "No such file")


RECORD = """
import sys, time
sys.path.insert(0, {tests!r})
from support.recording import RATE, Recorder, feed
recorder = Recorder({folder!r}, RATE, 2)
at = 0
while True:
    at = feed(recorder, RATE // 10, at)
    if at == 3 * RATE: print("three seconds", flush=True)
    time.sleep(0.02)
"""


def test_files_can_be_read_after_a_crash(tmp_path: Path) -> None:
    code = RECORD.format(tests=str(TESTS), folder=str(tmp_path))
    program = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert program.stdout is not None and program.stdout.readline()
    program.send_signal(signal.SIGKILL)
    program.wait()
    for number, name in enumerate(TRACKS):
        audio, _ = soundfile.read(
            tmp_path / "take-001" / f"{name}.wav", dtype="float32", always_2d=True
        )
        assert len(audio) >= 2 * RATE
        np.testing.assert_array_equal(audio.T, stems(0, len(audio))[number])


def test_positions_beyond_32_bits(tmp_path: Path, disk: StuckDisk) -> None:
    recorder = Recorder(tmp_path, RATE, 2, seconds_of_buffer=1.0)
    far = (1 << 33) - 5 * HOP
    recorder.position = recorder._written = recorder._saved = far
    at = feed(recorder, RATE)
    patiently(lambda: recorder._saved == far + at)
    disk.go.clear()
    at = feed(recorder, 2 * RATE, at)
    disk.go.set()
    patiently(lambda: recorder._saved == recorder._written)
    at = feed(recorder, RATE, at)
    recorder.close()
    assert recorder.position == far + at
    audio = read(recorder)
    there = audio.any((0, 1))
    assert audio.shape[2] == at and (~there).sum() == recorder.lost > 0
    np.testing.assert_array_equal(audio[:, :, there], stems(0, at)[:, :, there])


def test_files_beyond_four_gigabytes(tmp_path: Path) -> None:
    file = WavFile(tmp_path / "long.wav", RATE, 2)
    begin, end = stems(0, 1000)[0], stems(1000, 1000)[0]
    file.write(begin.T)
    file.frames = (1 << 29) + 12_345  # a hole, which needs no space on the disk
    file._file.truncate(file.HEADER.size + 8 * file.frames)
    file.update_header()
    file.write(end.T)
    file.close(file.frames)
    assert file.path.stat().st_size == file.HEADER.size + 8 * file.frames
    with soundfile.SoundFile(file.path) as sound:
        assert (sound.format, sound.frames) == ("RF64", (1 << 29) + 13_345)
        np.testing.assert_array_equal(sound.read(1000, "float32").T, begin)
        sound.seek(-1000, soundfile.SEEK_END)
        np.testing.assert_array_equal(sound.read(1000, "float32").T, end)
