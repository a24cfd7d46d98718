"""The user's own server, which plugins find and start."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support import files_below, music
from support.plugin_places import call, error_line, keep_signals, mode, move_home, read, status

import stemwire
from stemwire.bridge.plugin.settings import (
    LocalServer,
    make_runtime_folder,
    runtime_folder,
    server_lock,
)

pytest.importorskip("websockets")
pytest.importorskip("msgspec")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the plugin is Linux's so far")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with keep_signals():
        yield move_home(tmp_path, monkeypatch)


# --- the runtime folder


def test_location_of_the_runtime_folder(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert runtime_folder() == home / "run/stemwire"
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert runtime_folder() == home / ".cache/stemwire/run"
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
    assert runtime_folder() == home / "cache/stemwire/run"
    monkeypatch.setenv("STEMWIRE_RUNTIME_DIR", str(home / "mine"))
    assert runtime_folder() == home / "mine"
    assert make_runtime_folder() == home / "mine" and mode(home / "mine") == 0o700


def test_a_folder_that_others_can_read_is_refused(
    home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    runtime_folder().mkdir(mode=0o755)
    assert call("serve") == 2
    error = error_line(capfd)
    assert "mode 755" in error and "chmod 700" in error
    assert files_below(runtime_folder()) == []


def test_the_lock_has_one_holder(home: Path) -> None:
    folder = make_runtime_folder()
    with server_lock(folder) as first, server_lock(folder) as second:
        assert first and not second
    with server_lock(folder) as again:
        assert again
    assert mode(folder / "server.lock") == 0o600


# --- the server


@contextlib.contextmanager
def serving(*args: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Run the real command; yields its process once it reports its address."""
    command = [sys.executable, "-m", "stemwire.cli", "plugin", "serve", "--threads", "1", *args]
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "STEMWIRE_LOAD": "100", "STEMWIRE_HOST": "0.0.0.0", **environment},
    )
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if line.startswith("stemwire: serving"):
                break
        else:
            pytest.fail(f"it ended with {process.wait()}")
        yield process
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def wait_for_end(process: subprocess.Popen[str], seconds: float = 30) -> int:
    assert process.stderr is not None
    process.stderr.read()
    return process.wait(seconds)


@pytest.mark.slow
def test_one_server_for_a_user(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    make_runtime_folder()
    LocalServer("ws://127.0.0.1:1", "old", 2**22 + 1).save(runtime_folder())  # left by a crash
    before = status(capfd)["servers"][0]
    assert before["url"] == "ws://127.0.0.1:8765" and "is gone" in before["from"]

    with serving() as process:
        file = runtime_folder() / "server.json"
        found = read(file)
        assert mode(file) == 0o600 and found["pid"] == process.pid
        assert found["url"].startswith("ws://127.0.0.1:") and len(found["token"]) >= 32
        song = music(30_000, 44_100)
        with stemwire.connect(found["url"], token=found["token"]) as separator:
            stems = separator.flush(song)
        np.testing.assert_array_equal(stems, stemwire.load().flush(song))
        for token in ("", "old"):
            with pytest.raises(stemwire.BridgeError, match="access denied"):
                stemwire.connect(found["url"], token=token)

        start = time.monotonic()
        assert call("serve") == 0  # a second one
        assert time.monotonic() - start < 5
        assert f"served already, at {found['url']}" in error_line(capfd)
        assert read(file) == found

        here = status(capfd)["servers"][0]
        assert here["answers"] and here["latency"] == 1023 and here["from"] == str(file)
        assert here["has_token"] and found["token"] not in json.dumps(here)
        assert call("status") == 0
        assert "1023 samples of latency" in capfd.readouterr().out

        process.send_signal(signal.SIGTERM)
        assert wait_for_end(process) == 0
        assert not file.exists()
    log = home / ".local/state/stemwire/server.log"
    assert "listening" in log.read_text() and found["token"] not in log.read_text()


@pytest.mark.slow
def test_several_started_at_once_leave_one(home: Path) -> None:
    command = [sys.executable, "-m", "stemwire.cli", "plugin", "serve", "--threads", "1"]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    try:
        deadline = time.monotonic() + 60
        while sum(p.poll() is None for p in processes) > 1 and time.monotonic() < deadline:
            time.sleep(0.05)
        (first,) = [p for p in processes if p.poll() is None]
        found = LocalServer.load(runtime_folder())
        assert found is not None and found.pid == first.pid
        for other in processes:
            if other is not first:
                out = other.communicate()[1]
                assert other.returncode == 0 and f"served already, at {found.url}" in out
    finally:
        for process in processes:
            if process.returncode is None:
                process.kill()
                process.communicate()


@pytest.mark.slow
def test_it_ends_when_idle(home: Path) -> None:
    with serving("--idle-exit", "1") as process:
        found = LocalServer.load(runtime_folder())
        assert found is not None and found.alive
        with stemwire.connect(found.url, token=found.token):
            time.sleep(2.5)
            assert process.poll() is None  # in use
        start = time.monotonic()
        assert wait_for_end(process) == 0
        assert time.monotonic() - start > 0.5
        assert LocalServer.load(runtime_folder()) is None and not found.alive


@pytest.mark.slow
def test_it_starts_after_a_crash(home: Path) -> None:
    with serving() as process:
        process.send_signal(signal.SIGKILL)
        wait_for_end(process)
        left = LocalServer.load(runtime_folder())
        assert left is not None and not left.alive
    with serving():
        now = LocalServer.load(runtime_folder())
        assert now is not None and now.alive and now.token != left.token


def test_a_failed_start_is_logged(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    lines = logging.getLogger("stemwire").handlers
    assert call("serve", "--preset", "nosuch") == 2
    assert logging.getLogger("stemwire").handlers is lines
    assert "nosuch" in capfd.readouterr().err
    assert "nosuch" in (home / ".local/state/stemwire/server.log").read_text()
    assert not (runtime_folder() / "server.json").exists()
    for wrong in ("-1", "nan", "inf"):
        assert call("serve", f"--idle-exit={wrong}") == 2
        assert "idle_exit" in capfd.readouterr().err
