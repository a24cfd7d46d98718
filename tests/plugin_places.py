"""A home of its own, and bundles, for tests of `stemwire plugin`."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

NAME = "Stemwire.vst3"
BINARY = f"Contents/{platform.machine()}-linux/Stemwire.so"


def make_bundle(folder: Path, content: bytes = b"one", **more: bytes) -> Path:
    """A bundle for this machine whose binary is `content`; `more` are files in its Resources."""
    bundle = folder / NAME
    files = {BINARY: content} | {f"Contents/Resources/{name}": text for name, text in more.items()}
    for name, text in files.items():
        (bundle / name).parent.mkdir(parents=True, exist_ok=True)
        (bundle / name).write_bytes(text)
    (bundle / BINARY).chmod(0o755)
    return bundle


def move_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A new home folder, with nothing of the real one in the environment."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(home / "run"))
    (home / "run").mkdir(mode=0o700)
    for name in (
        "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME", "STEMWIRE_RUNTIME_DIR",
        "STEMWIRE_PLUGIN_SERVER", "STEMWIRE_PLUGIN_TOKEN", "STEMWIRE_TOKEN",
    ):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    return home
