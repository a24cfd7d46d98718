"""The plugin and its test programs, built once for all tests of a run.

need_plugin()
built = build()             # as it ships
built = build("thread")     # with a sanitizer
built.bundle, built.module, built.program("host")
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support import ROOT

SOURCES = ROOT / "bridge" / "plugin"


def need_plugin() -> None:
    """Skip the test, or at the top of a file all its tests, where no plugin can be built."""

    def skip(reason: str) -> None:
        pytest.skip(reason, allow_module_level=True)

    if sys.platform != "linux":
        skip("the plugin is built on Linux")
    for program, package in (("cmake", "cmake"), ("c++", "g++"), ("make", "make")):
        if shutil.which(program) is None:
            skip(f"{program} is not installed: apt-get install {package}")


@dataclass(frozen=True)
class Built:
    """What was built.

    Attributes:
        folder: of the build.
    """

    folder: Path

    @property
    def bundle(self) -> Path:
        return self.folder / "Stemwire.vst3"

    @property
    def module(self) -> Path:
        return self.bundle / "Contents" / f"{platform.machine()}-linux" / "Stemwire.so"

    def program(self, name: str) -> Path:
        return self.folder / name

    def host(
        self, *options: object, environment: dict[str, str] | None = None, code: int = 0,
        timeout: float = 120,
    ) -> dict[str, Any]:  # fmt: skip
        """Run the test host; what it reports. Fails if it does not end with `code`."""
        done = subprocess.run(
            [str(self.program("host")), str(self.module), *map(str, options)],
            env={**os.environ, **(environment or {})}, capture_output=True, text=True,
            timeout=timeout, check=False,
        )  # fmt: skip
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr[-4000:])
        report: dict[str, Any] = json.loads(done.stdout)
        return report


@functools.cache
def build(sanitize: str = "") -> Built:
    """Build the plugin and its programs, warnings being errors.

    In a folder that goes with the tests, or below that of STEMWIRE_PLUGIN_BUILD, where only what
    has changed is built anew.
    """
    if kept := os.environ.get("STEMWIRE_PLUGIN_BUILD"):
        folder = Path(kept) / (sanitize or "plain")
        folder.mkdir(parents=True, exist_ok=True)
    else:
        folder = Path(tempfile.mkdtemp(prefix="stemwire-plugin-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for command in (
        ["cmake", "-S", SOURCES, "-B", folder, "-DTESTS=ON", "-DSTRICT=ON",
         f"-DSANITIZE={sanitize}"],
        ["cmake", "--build", folder, "-j", str(os.cpu_count() or 1)],
    ):  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return Built(folder)
