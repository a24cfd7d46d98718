"""VST3 plugins for tests, built with g++ from `tests/vst3`: working and broken ones.

need_vst3()
path = build(folder, "delay")        # a stereo delay of 100 samples, by a gain of 0.5
path = build(folder, "delay", "KEEPS")   # the same, which a reset does not clear
path = build(folder, "crash")        # ends the process that loads it
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[1] / "vst3"
DPF = Path("/usr/share/dpf")  # of Debian's dpf-source


def need_vst3() -> None:
    """Skip the test, or all tests of a file if called at its top, where no VST3 can be built."""

    def skip(reason: str) -> None:
        pytest.skip(reason, allow_module_level=True)

    if sys.platform != "linux":
        skip("the VST3 plugins of these tests are built on Linux")
    if shutil.which("g++") is None:
        skip("g++ is not installed: apt-get install g++")
    if not DPF.is_dir():
        skip("the DISTRHO plugin framework is not installed: apt-get install dpf-source")


def build(folder: Path, name: str, *definitions: str) -> Path:
    """Build a plugin and return the path of its bundle, `folder/NAME.vst3`."""
    bundle = folder / f"{name}.vst3"
    binary = bundle / "Contents" / f"{platform.machine()}-linux" / f"{name}.so"
    binary.parent.mkdir(parents=True)
    source = next(SOURCES.glob(f"{name}.c*"))
    command = ["g++", "-shared", "-fPIC", "-O1", "-w", *(f"-D{d}" for d in definitions)]
    if source.suffix == ".cpp":
        command += ["-std=c++17", "-fvisibility=hidden", "-DDISTRHO_PLUGIN_TARGET_VST3"]
        command += [f"-I{SOURCES}", f"-I{DPF / 'distrho'}"]
        command += [str(DPF / "distrho" / "DistrhoPluginMain.cpp")]
    done = subprocess.run(
        [*command, str(source), "-o", str(binary)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return bundle
