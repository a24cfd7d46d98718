"""What pyproject.toml cannot say: CMake builds the DAW plugin, and a wheel with it is a platform's.

STEMWIRE_PLUGIN=require makes it an error if the plugin cannot be built here; =skip leaves it out.
Without either it is built where cmake and a C++ compiler are found; where not, a note of it goes
into the wheel in its place, which `stemwire plugin install` reads out.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Command, Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build import build
from setuptools.errors import SetupError

SOURCES, BUILD, BUNDLE = Path("bridge/plugin"), Path("build"), "Stemwire.vst3"


def obstacle() -> str:
    """Why the plugin is not built here; "" if it is."""
    wish = os.environ.get("STEMWIRE_PLUGIN", "")
    if wish not in ("", "require", "skip"):
        raise SetupError(f"STEMWIRE_PLUGIN is {wish!r}; expected 'require' or 'skip'")
    compilers = [os.environ["CXX"].split()[0]] if os.environ.get("CXX") else ["c++", "g++"]
    if wish == "skip":
        return "STEMWIRE_PLUGIN=skip left it out"
    if not sys.platform.startswith("linux"):
        reason = f"it is built for Linux so far, not for {sys.platform}"
    elif not shutil.which("cmake"):
        reason = "no cmake was found to build it"
    elif not any(map(shutil.which, compilers)):
        reason = "no C++ compiler was found to build it"
    else:
        return ""
    if wish == "require":
        raise SetupError(f"STEMWIRE_PLUGIN=require, but {reason}")
    return reason


class BuildPlugin(Command):
    """Build the bundle as `make plugin` does, and put it into the package."""

    description = "build the DAW plugin"
    user_options = ()
    editable_mode = False

    def initialize_options(self) -> None:
        self.build_lib = ""

    def finalize_options(self) -> None:
        self.build_lib = self.get_finalized_command("build_py").build_lib

    def run(self) -> None:
        target = SOURCES if self.editable_mode else Path(self.build_lib, "stemwire", SOURCES)
        shutil.rmtree(target / BUNDLE, ignore_errors=True)  # of an earlier build
        (target / "absent.txt").unlink(missing_ok=True)
        if reason := obstacle():
            print(f"stemwire: the DAW plugin is not built: {reason}", file=sys.stderr)
            target.mkdir(parents=True, exist_ok=True)
            (target / "absent.txt").write_text(f"{reason}\n", encoding="utf-8")
            return
        make = ["cmake", "--build", str(BUILD / "plugin"), "--parallel", str(os.cpu_count() or 1)]
        configure = ["cmake", "-S", str(SOURCES), "-B", str(BUILD / "plugin")]
        try:
            subprocess.run([*configure, f"-DBUNDLE_DIR={BUILD.resolve()}"], check=True)
            subprocess.run(make, check=True)
        except subprocess.CalledProcessError as error:
            raise SetupError(
                "the DAW plugin cannot be built; what cmake said is above. STEMWIRE_PLUGIN=skip "
                "installs Stemwire without it"
            ) from error
        shutil.copytree(BUILD / BUNDLE, target / BUNDLE)

    def get_source_files(self) -> list[str]:
        files = {p for p in SOURCES.rglob("*") if p.is_file()}
        ours = {SOURCES / "absent.txt", *(SOURCES / BUNDLE).rglob("*")}  # of an editable install
        return sorted(map(str, files - ours))

    def get_outputs(self) -> list[str]:
        folder = Path(self.build_lib, "stemwire", SOURCES)
        return [str(path) for path in folder.rglob("*") if path.is_file()]

    def get_output_mapping(self) -> dict[str, str]:
        return {}


class Build(build):
    """The usual, and the plugin."""

    sub_commands = [*build.sub_commands, ("build_plugin", None)]  # noqa: RUF012


class Wheel(bdist_wheel):
    """A wheel for any Python: of this platform with the plugin, of all without."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


class Platform(Distribution):
    """Tells setuptools whether there is machine code in it."""

    def has_ext_modules(self) -> bool:
        return not obstacle()


setup(
    distclass=Platform,
    cmdclass={"build": Build, "build_plugin": BuildPlugin, "bdist_wheel": Wheel},
)
