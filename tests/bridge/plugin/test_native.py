"""The plugin's C++ unit tests, and sanitizers on them and on a playing plugin."""

from __future__ import annotations

import subprocess
import threading
import time
from pathlib import Path

import pytest
from support.plugin_build import build, need_plugin
from support.plugin_server import serving

need_plugin()

SANITIZERS = ["address,undefined", "thread"]
# Any report fails the test; memory still held at the end of the host is a leak.
STRICT = {
    "ASAN_OPTIONS": "detect_leaks=1",
    "UBSAN_OPTIONS": "halt_on_error=1",
    "TSAN_OPTIONS": "exitcode=66",
}
pytestmark = pytest.mark.slow  # building takes a while


@pytest.fixture(autouse=True)
def strict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in STRICT.items():
        monkeypatch.setenv(name, value)
    for name in ("XDG_STATE_HOME", "XDG_CONFIG_HOME", "STEMWIRE_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))


@pytest.mark.parametrize("sanitize", ["", *SANITIZERS])
def test_units(sanitize: str) -> None:
    done = subprocess.run(
        ["ctest", "--output-on-failure"],
        cwd=build(sanitize).folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:]
    assert "100% tests passed" in done.stdout and "No tests" not in done.stdout


@pytest.mark.parametrize("sanitize", SANITIZERS)
def test_playing_while_the_server_is_killed(sanitize: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every block is separated or dry and counted, as the host checks, with two instances."""
    built = build(sanitize)
    with serving(gain=0.25) as server:
        monkeypatch.setenv("STEMWIRE_PLUGIN_SERVER", server.url)
        ended = threading.Event()

        def kill() -> None:
            while not ended.wait(2.5):
                server.kill()
                time.sleep(0.3)
                server.start()

        killer = threading.Thread(target=kill)
        killer.start()
        try:
            changes = ["100000:reset", "200000:Preset=low", "300000:pause"]
            report = built.host(
                block="128,512,37",
                seconds=12,
                instances=2,
                gain=0.75,
                set="Delay=200",
                at=[*changes, "400000:ui:Autostart=Off"],
            )
        finally:
            ended.set()
            killer.join()
    assert report["check"]["blocks"] > 0 and report["check"]["violations"] == 0
    assert int(report["reconnects"]) >= 1


@pytest.mark.parametrize("sanitize", SANITIZERS)
def test_rendering(sanitize: str, monkeypatch: pytest.MonkeyPatch) -> None:
    built = build(sanitize)
    with serving(gain=0.25) as server:
        monkeypatch.setenv("STEMWIRE_PLUGIN_SERVER", server.url)
        report = built.host("--offline", seconds=20, gain=0.75, at="300000:reset")
    assert report["check"]["violations"] == report["check"]["counted"] == 0
    monkeypatch.setenv("STEMWIRE_PLUGIN_SERVER", "ws://127.0.0.1:1")
    monkeypatch.setenv("STEMWIRE_PLUGIN_WAIT", "0.3")
    report = built.host("--offline", seconds=1, code=1)
    assert report["status"] == "render failed"
