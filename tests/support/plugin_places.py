"""A temporary home folder, bundles and command calls, for tests of `stemwire plugin`."""

from __future__ import annotations

import contextlib
import json
import platform
import signal
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stemwire.cli import main

NAME = "Stemwire.vst3"
BINARY = f"Contents/{platform.machine()}-linux/Stemwire.so"


def make_bundle(folder: Path, content: bytes = b"one", **more: bytes) -> Path:
    """Create a bundle for this machine: `content` of its binary, `more` files in its Resources."""
    bundle = folder / NAME
    files = {BINARY: content} | {f"Contents/Resources/{name}": text for name, text in more.items()}
    for name, text in files.items():
        (bundle / name).parent.mkdir(parents=True, exist_ok=True)
        (bundle / name).write_bytes(text)
    (bundle / BINARY).chmod(0o755)
    return bundle


def move_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create a home folder and remove the real one from the environment."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(home / "run"))
    (home / "run").mkdir(mode=0o700)
    for name in (
        "XDG_CONFIG_HOME",
        "XDG_CACHE_HOME",
        "XDG_STATE_HOME",
        "STEMWIRE_RUNTIME_DIR",
        "STEMWIRE_PLUGIN_SERVER",
        "STEMWIRE_PLUGIN_TOKEN",
        "STEMWIRE_TOKEN",
    ):
        monkeypatch.delenv(name, raising=False)
    return home


@contextlib.contextmanager
def keep_signals() -> Iterator[None]:
    """Restore the signal handlers that `main` replaces."""
    before = {name: signal.getsignal(name) for name in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for name, handler in before.items():
        signal.signal(name, handler)


def call(*args: Any) -> int:
    return main(["plugin", *map(str, args)])


def error_line(capfd: pytest.CaptureFixture[str]) -> str:
    err = capfd.readouterr().err
    assert err.startswith("stemwire: ") and err.count("\n") == 1, err
    return str(err)


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def status(capfd: pytest.CaptureFixture[str]) -> Any:
    capfd.readouterr()
    assert call("status", "--json") == 0
    return json.loads(capfd.readouterr().out)
