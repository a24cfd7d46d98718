"""What pyproject.toml cannot say: what is compiled, and that a wheel with it is a platform's.

Two parts are native code: the network's step with its STFT (`realtime/backends/native`) and the
DAW plugin (`bridge/plugin`, by CMake). For each a variable, STEMWIRE_NATIVE and STEMWIRE_PLUGIN,
says what is wanted: `require` makes it an error if it cannot be built here, `skip` leaves it out.
Without either it is built where the tools for it are found; where not, a note of why goes into the
wheel in its place, which Stemwire shows when that part is asked for.
"""

import os
import platform
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Command, Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build import build
from setuptools.errors import SetupError

BUILD = Path("build")
# Vectors of eight floats in one register; whether there are any is asked before the first step.
PROCESSOR = {"x86_64": ["-mavx2", "-mfma", "-mf16c"]}


def compiler() -> list[str]:
    """The C++ compiler and its first arguments; empty if there is none."""
    wish = shlex.split(os.environ.get("CXX", ""))
    return next((w for w in ([wish] if wish else [["c++"], ["g++"]]) if shutil.which(w[0])), [])


class Part(Command):
    """Something compiled into a folder of the package."""

    user_options = ()
    editable_mode = False

    name = variable = ""
    sources, result = Path(), ""  # a folder, and the file or folder that comes to lie in it

    @classmethod
    def obstacle(cls) -> str:
        """Why it is not built here; "" if it is."""
        wish = os.environ.get(cls.variable, "")
        if wish not in ("", "require", "skip"):
            raise SetupError(f"{cls.variable} is {wish!r}; expected 'require' or 'skip'")
        if wish == "skip":
            return f"{cls.variable}=skip left it out"
        if not sys.platform.startswith("linux"):
            reason = f"it is built for Linux so far, not for {sys.platform}"
        else:
            reason = cls.missing()
        if wish == "require" and reason:
            raise SetupError(f"{cls.variable}=require, but {reason}")
        return reason

    @classmethod
    def missing(cls) -> str:
        """What this machine lacks."""
        if compiler():
            return ""
        named = f" (CXX is {os.environ['CXX']!r})" if os.environ.get("CXX") else ""
        return f"no C++ compiler was found to build it{named}"

    def make(self, target: Path) -> None:
        """Build `result` into the folder `target`; raises CalledProcessError."""
        raise NotImplementedError

    def initialize_options(self) -> None:
        self.build_lib = ""

    def finalize_options(self) -> None:
        self.build_lib = self.get_finalized_command("build_py").build_lib

    def run(self) -> None:
        target = self.sources if self.editable_mode else self.built()
        shutil.rmtree(target / self.result, ignore_errors=True)  # of an earlier build
        for old in (self.result, "absent.txt"):
            if (target / old).is_file():
                (target / old).unlink()
        target.mkdir(parents=True, exist_ok=True)
        if reason := self.obstacle():
            print(f"stemwire: {self.name} is not built: {reason}", file=sys.stderr)
            (target / "absent.txt").write_text(f"{reason}\n", encoding="utf-8")
            return
        try:
            self.make(target)
        except (subprocess.CalledProcessError, OSError) as error:
            raise SetupError(
                f"{self.name} cannot be built; what the tools said is above. {self.variable}=skip "
                "installs Stemwire without it"
            ) from error

    def built(self) -> Path:
        return Path(self.build_lib, "stemwire", self.sources)

    def get_source_files(self) -> list[str]:
        files = {p for p in self.sources.rglob("*") if p.is_file()}
        result = self.sources / self.result  # of an editable install
        return sorted(map(str, files - {self.sources / "absent.txt", result, *result.rglob("*")}))

    def get_outputs(self) -> list[str]:
        return [str(path) for path in self.built().rglob("*") if path.is_file()]

    def get_output_mapping(self) -> dict[str, str]:
        return {}


class BuildNative(Part):
    """The network's step and the STFT, as a library that Python calls through ctypes."""

    description = "build the network's step and the STFT"
    name, variable = "the network's step and the STFT in native code", "STEMWIRE_NATIVE"
    sources, result = Path("realtime/backends/native"), "libstemwire_step.so"

    @classmethod
    def missing(cls) -> str:
        if platform.machine() not in PROCESSOR:
            return f"it is built for {' and '.join(PROCESSOR)} so far, not {platform.machine()}"
        return super().missing()

    def make(self, target: Path) -> None:
        # Without errno, square roots are one instruction.
        options = ["-std=c++17", "-O3", "-fno-math-errno", *PROCESSOR[platform.machine()]]
        options += ["-shared", "-fPIC", "-fvisibility=hidden"]
        wished = [shlex.split(os.environ.get(name, "")) for name in ("CXXFLAGS", "LDFLAGS")]
        ends = [*wished[0], str(self.sources / "step.cpp"), *wished[1], "-o"]
        subprocess.run([*compiler(), *options, *ends, str(target / self.result)], check=True)


class BuildPlugin(Part):
    """The bundle that `make plugin` builds."""

    description = "build the DAW plugin"
    name, variable = "the DAW plugin", "STEMWIRE_PLUGIN"
    sources, result = Path("bridge/plugin"), "Stemwire.vst3"

    @classmethod
    def missing(cls) -> str:
        return super().missing() if shutil.which("cmake") else "no cmake was found to build it"

    def make(self, target: Path) -> None:
        make = ["cmake", "--build", str(BUILD / "plugin"), "--parallel", str(os.cpu_count() or 1)]
        configure = ["cmake", "-S", str(self.sources), "-B", str(BUILD / "plugin")]
        subprocess.run([*configure, f"-DBUNDLE_DIR={BUILD.resolve()}"], check=True)
        subprocess.run(make, check=True)
        shutil.copytree(BUILD / self.result, target / self.result)


class Build(build):
    """The usual, and what is compiled."""

    sub_commands = [*build.sub_commands, ("build_native", None), ("build_plugin", None)]  # noqa: RUF012


class Wheel(bdist_wheel):
    """A wheel for any Python: for this platform with native code, for all without."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


class Platform(Distribution):
    """Tells setuptools whether it contains native code."""

    def has_ext_modules(self) -> bool:
        return not (BuildNative.obstacle() and BuildPlugin.obstacle())


setup(
    distclass=Platform,
    cmdclass={
        "build": Build,
        "build_native": BuildNative,
        "build_plugin": BuildPlugin,
        "bdist_wheel": Wheel,
    },
)
