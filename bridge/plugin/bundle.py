"""The DAW plugin's bundle: the one in this installation, and the copy that hosts load."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import sys
import tempfile
from pathlib import Path

from stemwire.errors import ConfigError, OutputError

BUNDLE = "Stemwire.vst3"
_FOLDER = Path(__file__).parent  # holds the bundle in an installed copy


def vst3_folder() -> Path:
    """The user's folder for VST3 plugins, as VST3 defines it for each platform."""
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        base = Path(local) if local else Path.home() / "AppData" / "Local"
        return base / "Programs" / "Common" / "VST3"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Audio" / "Plug-Ins" / "VST3"
    return Path.home() / ".vst3"


def plugin_bundle() -> Path:
    """Path of the VST3 plugin in this installation.

        pedalboard.load_plugin(str(stemwire.plugin_bundle()))

    Raises:
        ConfigError: if there is none, or none for this machine.
    """
    bundle = _FOLDER / BUNDLE
    if not bundle.is_dir():
        try:
            why = (_FOLDER / "absent.txt").read_text(encoding="utf-8").strip()
        except OSError:
            why = "it was built without one"
        raise ConfigError(
            f"this installation of Stemwire contains no plugin ({why}); install cmake and a C++ "
            "compiler and install Stemwire again, or build the plugin with 'make plugin' in its "
            "sources and give --from build/Stemwire.vst3"
        )
    check_bundle(bundle)
    return bundle


def check_bundle(bundle: Path) -> None:
    """Check that a folder is a plugin for this machine.

    Raises:
        ConfigError: if it is not.
    """
    if not (bundle.is_dir() and bundle.suffix == ".vst3"):
        raise ConfigError(f"{bundle}: not a VST3 bundle; expected a folder {BUNDLE}")
    machine = {"AMD64": "x86_64", "arm64": "aarch64"}.get(platform.machine(), platform.machine())
    if sys.platform == "darwin":
        binary = "Contents/MacOS/Stemwire"
    elif sys.platform == "win32":
        binary = f"Contents/{machine}-win/Stemwire.vst3"
    else:
        binary = f"Contents/{machine}-linux/Stemwire.so"
    if not (bundle / binary).is_file():
        raise ConfigError(f"{bundle}: no plugin for this machine; expected {binary}; build it here")


def _files(bundle: Path) -> list[Path]:
    return sorted(p.relative_to(bundle) for p in bundle.rglob("*") if p.is_file())


def fingerprint(bundle: Path) -> str:
    """Hash of a bundle's file names and contents, 12 hexadecimal digits.

    Raises:
        ConfigError: if it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        for name in _files(bundle):
            content = (bundle / name).read_bytes()
            digest.update(f"{name.as_posix()}\0{len(content)}\0".encode() + content)
    except OSError as error:
        raise ConfigError(f"{error.filename}: cannot be read ({error.strerror})") from error
    return digest.hexdigest()[:12]


def copy_bundle(source: Path, target: Path) -> None:
    """Copy a bundle, replacing an older copy.

    Each file of an older copy is replaced atomically, so that a host never finds a missing or
    incomplete plugin; a host that has it loaded keeps its file.

    Raises:
        ConfigError: if `source` is not a plugin for this machine.
        OutputError: if it cannot be written.
    """
    check_bundle(source)
    if target.exists() and source.resolve() == target.resolve() and not target.is_symlink():
        raise ConfigError(
            f"{source}: source and target are the same; give another source with --from"
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".stemwire-", dir=target.parent) as staging:
            fresh = Path(shutil.copytree(source, Path(staging) / "new"))
            if target.is_symlink():  # perhaps into a build, which must not be changed
                target.unlink()
            if not target.exists():
                fresh.rename(target)
                return
            old = set(_files(target))
            for name in (names := _files(fresh)):
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                os.replace(fresh / name, target / name)
            for name in old.difference(names):
                (target / name).unlink()
    except OSError as error:
        raise OutputError(
            f"{error.filename or target}: the plugin cannot be copied there ({error.strerror}); "
            "check its permissions and the space on the disk"
        ) from error
