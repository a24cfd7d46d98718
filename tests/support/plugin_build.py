"""The plugin and its test programs, built once per test run.

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
    """Skip the test, or all tests of a file if called at its top, where no plugin can be built."""

    def skip(reason: str) -> None:
        pytest.skip(reason, allow_module_level=True)

    if sys.platform != "linux":
        skip("the plugin is built on Linux")
    for program, package in (("cmake", "cmake"), ("c++", "g++"), ("make", "make")):
        if shutil.which(program) is None:
            skip(f"{program} is not installed: apt-get install {package}")


@dataclass(frozen=True)
class Built:
    """A build of the plugin and its test programs.

    Attributes:
        folder: build folder.
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
        self,
        *flags: str,
        environment: dict[str, str] | None = None,
        code: int = 0,
        **options: object,
    ) -> dict[str, Any]:
        """Run the test host and return its report; fails unless it exits with `code`.

        Args:
            flags: options without a value, such as "--offline".
            environment: additional variables.
            code: expected exit status.
            options: options with a value; a list repeats the option.
        """
        words = [str(self.program("host")), str(self.module), *flags]
        for name, values in options.items():
            for value in values if isinstance(values, list) else [values]:
                words += [f"--{name.replace('_', '-')}", str(value)]
        done = subprocess.run(
            words,
            env={**os.environ, **(environment or {})},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr[-4000:])
        report: dict[str, Any] = json.loads(done.stdout)
        return report


@functools.cache
def build(sanitize: str = "") -> Built:
    """Build the plugin and its programs, with warnings as errors.

    The folder is temporary, or below STEMWIRE_PLUGIN_BUILD, where builds are incremental.

    Args:
        sanitize: sanitizers as -fsanitize takes them, or "".
    """
    if kept := os.environ.get("STEMWIRE_PLUGIN_BUILD"):
        folder = Path(kept) / (sanitize or "plain")
        folder.mkdir(parents=True, exist_ok=True)
    else:
        folder = Path(tempfile.mkdtemp(prefix="stemwire-plugin-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    options = ["-DTESTS=ON", "-DSTRICT=ON", f"-DSANITIZE={sanitize}"]
    for command in (
        ["cmake", "-S", SOURCES, "-B", folder, *options],
        ["cmake", "--build", folder, "-j", str(os.cpu_count() or 1)],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return Built(folder)
