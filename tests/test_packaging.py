"""The way of what is compiled from the sources through sdist and wheel into an installation."""

from __future__ import annotations

import os
import platform
import shutil
import stat
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from support import ROOT
from support.plugin_places import BINARY, NAME

pytest.importorskip("build", reason="builds sdists and wheels")
pytest.importorskip("setuptools", "77", reason="builds without a network")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="native code is built for Linux only"),
    pytest.mark.skipif(not shutil.which("cmake"), reason="needs cmake (apt-get install cmake)"),
    pytest.mark.skipif(not shutil.which("g++"), reason="needs a compiler (apt-get install g++)"),
]

INSIDE = f"stemwire/bridge/plugin/{NAME}/{BINARY}"
STEP = "stemwire/realtime/backends/native/libstemwire_step.so"


def build(folder: Path, kind: str, plugin: str = "", **environment: str) -> Path:
    """Run the build; the only file of that kind that comes of it."""
    shutil.rmtree(folder / "dist", ignore_errors=True)
    done = attempt(folder, kind, plugin, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = (folder / "dist").iterdir()
    return found


def attempt(
    folder: Path, kind: str, plugin: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    more = {"STEMWIRE_PLUGIN": plugin, "STEMWIRE_NATIVE": "skip", **environment}
    command = [sys.executable, "-m", "build", f"--{kind}", "--no-isolation"]
    return subprocess.run(
        command, cwd=folder, env={**os.environ, **more}, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree = tmp_path_factory.mktemp("sources") / "tree"
    tree.mkdir()
    junk = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("model", "realtime", "bridge", "training", "src"):
        shutil.copytree(ROOT / name, tree / name, ignore=junk)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    return build(tree, "sdist", "skip")


@pytest.fixture
def unpacked(sdist: Path, tmp_path: Path) -> Path:
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (folder,) = tmp_path.iterdir()
    return folder


def no_cmake(folder: Path) -> dict[str, str]:
    """A search path on which there is no cmake."""
    return {"PATH": str(folder / "nowhere")}


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def said(wheel: Path, folder: Path, code: str) -> str:
    """What a program prints where nothing of ours but the wheel is installed."""
    target = folder / "installed"
    install = ["pip", "install", "--quiet", "--no-deps", "--target", str(target), str(wheel)]
    subprocess.run([sys.executable, "-m", *install], check=True)
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], env={**os.environ, "PYTHONPATH": str(target)},
        capture_output=True, text=True, check=True, cwd=folder,
    )  # fmt: skip
    return done.stdout


def test_the_sdist_holds_the_sources(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        found = {name.partition("/")[2] for name in archive.getnames()}
    assert {"setup.py", "bridge/plugin/CMakeLists.txt", "bridge/web/index.html"} <= found
    folder = "realtime/backends/native"
    native = {f"{folder}/{p.name}" for p in (ROOT / folder).glob("*.[ch]*")}
    assert native <= found and len(native) > 3
    assert any(name.startswith("bridge/plugin") and name.endswith(".cpp") for name in found)
    assert not any(NAME in name or name.endswith(("absent.txt", ".so")) for name in found)


def test_a_wheel_carries_the_plugin_and_an_installation_finds_it(
    unpacked: Path, tmp_path: Path
) -> None:
    wheel = build(unpacked, "wheel", "require")
    assert wheel.name.endswith("-py3-none-linux_x86_64.whl"), wheel.name
    with zipfile.ZipFile(wheel) as archive:
        entry = archive.getinfo(INSIDE)
        assert archive.read(entry)[:4] == b"\x7fELF"
        assert entry.external_attr >> 16 & 0o111 == 0o111
        (told,) = (archive.read(n) for n in archive.namelist() if n.endswith(".dist-info/WHEEL"))
    assert b"Root-Is-Purelib: false" in told and b"Tag: py3-none-linux_x86_64" in told
    assert not any(n.endswith((".cpp", ".h", "CMakeLists.txt")) for n in names(wheel))
    assert "stemwire/bridge/plugin/absent.txt" not in names(wheel)
    assert "stemwire/bridge/web/index.html" in names(wheel)

    code = "import stemwire; print(stemwire.plugin_bundle())"
    binary = Path(said(wheel, tmp_path, code).strip()) / BINARY
    assert binary == tmp_path / "installed" / INSIDE
    assert stat.S_IMODE(binary.stat().st_mode) & 0o111 == 0o111

    # In the same folder, without: what was built before must not get in.
    pure = build(unpacked, "wheel", "skip")
    assert pure.name.endswith("-py3-none-any.whl")
    assert INSIDE not in names(pure)


def test_without_cmake_there_is_a_wheel_that_says_so(unpacked: Path, tmp_path: Path) -> None:
    wheel = build(unpacked, "wheel", **no_cmake(tmp_path))
    assert wheel.name.endswith("-py3-none-any.whl")
    assert INSIDE not in names(wheel)
    with zipfile.ZipFile(wheel) as archive:
        assert archive.read("stemwire/bridge/plugin/absent.txt").startswith(b"no cmake was found")


def test_require_means_it(unpacked: Path, tmp_path: Path) -> None:
    done = attempt(unpacked, "wheel", "require", **no_cmake(tmp_path))
    assert done.returncode != 0
    assert "STEMWIRE_PLUGIN=require, but no cmake was found" in done.stdout + done.stderr
    done = attempt(unpacked, "wheel", "", CXX="no-such-compiler")
    assert done.returncode == 0
    assert "no C++ compiler was found" in done.stdout + done.stderr
    done = attempt(unpacked, "wheel", "perhaps")
    assert done.returncode != 0 and "expected 'require' or 'skip'" in done.stdout + done.stderr


def test_a_plugin_that_does_not_compile_stops_the_build(unpacked: Path) -> None:
    first, *others = sorted((unpacked / "bridge/plugin/src").rglob("*.cpp"))
    first.write_text("this is no C++")
    for other in others:  # so that it is found at once
        other.unlink()
    done = attempt(unpacked, "wheel", "")
    assert done.returncode != 0
    assert "STEMWIRE_PLUGIN=skip installs Stemwire without it" in done.stdout + done.stderr


def test_a_wheel_carries_the_step_and_an_installation_uses_it(
    unpacked: Path, tmp_path: Path
) -> None:
    wheel = build(unpacked, "wheel", "skip", STEMWIRE_NATIVE="require")
    assert wheel.name.endswith(f"-py3-none-linux_{platform.machine()}.whl"), wheel.name
    assert STEP in names(wheel) and INSIDE not in names(wheel)
    assert not any(n.endswith((".cpp", ".h")) for n in names(wheel))

    code = "import stemwire; print(stemwire.load().backend.name, stemwire.__file__)"
    backend, file = said(wheel, tmp_path, code).split()
    assert backend == "native" and Path(file).is_relative_to(tmp_path / "installed")

    # In the same folder, without: what was built before must not get in.
    pure = build(unpacked, "wheel", "skip")
    assert pure.name.endswith("-py3-none-any.whl") and STEP not in names(pure)


def test_without_a_compiler_an_installation_says_so_and_separates(
    unpacked: Path, tmp_path: Path
) -> None:
    wheel = build(unpacked, "wheel", "skip", STEMWIRE_NATIVE="", **no_cmake(tmp_path))
    assert wheel.name.endswith("-py3-none-any.whl")
    code = (
        "import stemwire\n"
        "print(stemwire.load().backend.name)\n"
        "try: stemwire.load(backend='native')\n"
        "except stemwire.StemwireError as error: print(error)\n"
    )
    name, error = said(wheel, tmp_path, code).splitlines()
    assert name == "onnx" and "no C++ compiler was found to build it" in error

    done = attempt(unpacked, "wheel", "skip", STEMWIRE_NATIVE="require", CXX="no-such-compiler")
    assert done.returncode != 0
    assert "STEMWIRE_NATIVE=require, but no C++ compiler" in done.stdout + done.stderr


def test_a_step_that_does_not_compile_stops_the_build(unpacked: Path) -> None:
    (unpacked / "realtime/backends/native/step.cpp").write_text("this is no C++")
    done = attempt(unpacked, "wheel", "skip", STEMWIRE_NATIVE="")
    assert done.returncode != 0
    assert "STEMWIRE_NATIVE=skip installs Stemwire without it" in done.stdout + done.stderr
