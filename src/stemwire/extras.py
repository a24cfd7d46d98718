"""Third-party packages: optional imports with a helpful error, and noisy libraries silenced."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from stemwire.errors import ConfigError

TRAINING = "pip install 'stemwire[train]'"
LIVE = "pip install 'stemwire[live]'"
BRIDGE = "pip install 'stemwire[bridge]'"


def extra(name: str, purpose: str, install: str = TRAINING) -> ModuleType:
    """Import an optional package.

    Raises:
        ConfigError: if it is not installed.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{purpose} needs {error.name}, which is not installed: {install}"
        ) from error


@lru_cache(maxsize=8)
def lone_module(package: str, name: str, purpose: str, install: str = TRAINING) -> ModuleType:
    """Load `package/name.py` without running the package's own `__init__`.

    For packages whose `__init__` requires programs and libraries that this module does not need.

    Raises:
        ConfigError: if the package, or one that the module imports, is not installed.
    """
    try:
        spec = spec_from_file_location(f"_{package}_{name}", package_folder(package) / f"{name}.py")
        if spec is None or spec.loader is None:
            raise ModuleNotFoundError(name=package)
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
    except (ModuleNotFoundError, FileNotFoundError) as error:
        missing = getattr(error, "name", None) or f"{package} with {name}.py"
        raise ConfigError(
            f"{purpose} needs {missing}, which is not installed: {install}"
        ) from error
    return module


def package_folder(package: str) -> Path:
    """Folder of an installed package, found without importing it.

    Raises:
        ModuleNotFoundError: if it is not installed.
    """
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(name=package)
    return Path(spec.origin).parent


@contextlib.contextmanager
def silent_stderr() -> Iterator[None]:
    """Discard what C libraries print to stderr; our own errors say what matters."""
    try:
        saved = os.dup(2)
    except OSError:  # no stderr
        yield
        return
    try:
        if sys.stderr is not None:
            sys.stderr.flush()
        with Path(os.devnull).open("wb") as null:
            os.dup2(null.fileno(), 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
