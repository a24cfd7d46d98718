"""Imports run one way, and what runs without torch never asks for it."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support import PRESETS, ROOT

PARTS = {
    "stemwire": ROOT / "src" / "stemwire",
    **{f"stemwire.{name}": ROOT / name for name in ("model", "realtime", "bridge", "training")},
}
WITH_TORCH = {
    f"stemwire.model.{name}" for name in ("layers", "primer", "separator", "export")
}  # fmt: skip
# What each part may import of the others: at module level, and inside functions too.
ALLOWED = {
    "stemwire.model": (set(), set()),
    "stemwire.realtime": (
        {f"stemwire.model.{name}" for name in ("checkpoint", "config", "preset")},
        {"stemwire.model.layers"},
    ),
    "stemwire.bridge": (
        {"stemwire.realtime", "stemwire.model.config", "stemwire.model.preset"},
        set(),
    ),
    "stemwire.training": ({"stemwire.model", "stemwire.realtime"}, set()),
}


@dataclass(frozen=True)
class Import:
    """One imported module: `deep` inside a function, `typing` for annotations alone."""

    module: str
    deep: bool
    typing: bool
    line: int


def modules() -> dict[str, Path]:
    """All modules of the package, by name."""
    found = {}
    for package, folder in PARTS.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            found[".".join((package, *parts)).removesuffix(".__init__")] = path
    return found


MODULES = modules()


def imports_of(name: str) -> list[Import]:
    path = MODULES[name]
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]

    def walk(node: ast.AST, deep: bool, typing: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, deep, typing, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join((*above, *([base] if base else [])))
            for alias in node.names:
                full = f"{base}.{alias.name}"
                module = full if full in MODULES or full == "safetensors.torch" else base
                yield Import(module, deep, typing, node.lineno)
        else:
            deep = deep or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            condition = isinstance(node, ast.If) and ast.unparse(node.test).endswith(
                "TYPE_CHECKING"
            )
            for child in ast.iter_child_nodes(node):
                inside = condition and child in node.body  # type: ignore[attr-defined]
                yield from walk(child, deep, typing or inside)

    return list(walk(ast.parse(path.read_text(encoding="utf-8")), False, False))


def below(module: str, names: set[str]) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in names)


def test_there_is_something_to_look_at() -> None:
    assert {"stemwire.cli", "stemwire.model.layers", "stemwire.realtime.streaming"} <= set(MODULES)
    seen = imports_of("stemwire.realtime.backends.torch_backend")
    assert any(i.module == "stemwire.model.checkpoint" and i.deep for i in seen)
    assert any(i.module == "torch" and i.typing for i in seen)
    assert any(i.module == "numpy" and not i.deep and not i.typing for i in seen)


@pytest.mark.parametrize("name", [m for m in MODULES if below(m, set(ALLOWED))])
def test_imports_run_one_way(name: str) -> None:
    part = next(part for part in ALLOWED if below(name, {part}))
    anywhere, in_functions = ALLOWED[part]
    for found in imports_of(name):
        if not below(found.module, {"stemwire"}) or below(found.module, {part}):
            continue
        allowed = {
            "stemwire.errors",
            "stemwire._version",
            "stemwire.extras",
            "stemwire.files",
            "stemwire.progress",
        } | anywhere
        allowed |= in_functions if found.deep or found.typing else set()
        allowed |= {"stemwire.model.preset"} if found.typing else set()  # a name for mypy
        assert below(found.module, allowed), f"{MODULES[name]}:{found.line} imports {found.module}"


def circles(package: str) -> list[list[str]]:
    """Groups of modules of a package that import each other, if need be by way of others.

    Imports inside functions and for annotations alone count as well.
    """
    inside = [name for name in MODULES if below(name, {package})]
    reached = {name: {i.module for i in imports_of(name)} & set(inside) for name in inside}
    for through in inside:  # Warshall's transitive closure
        for name in inside:
            if through in reached[name]:
                reached[name] |= reached[through]
    groups = {
        tuple(other for other in inside if other in reached[name] and name in reached[other])
        for name in inside
        if name in reached[name]
    }
    return sorted(map(list, groups))


@pytest.mark.parametrize(
    "package", ["stemwire.model", "stemwire.realtime", "stemwire.bridge", "stemwire.training"]
)
def test_no_modules_import_each_other(package: str) -> None:
    assert any(below(name, {package}) for name in MODULES)
    assert circles(package) == []


# Folders of a part, lowest first: a module imports from its own folder and those before it alone.
# Modules that lie in no folder are named where they belong.
LAYERS = {
    "stemwire.realtime": (
        ("levels", "timing", "ring", "windows", "stft"),
        ("backends",),
        ("streaming",),
        ("effects", "mixer"),
        ("live",),
    ),
    "stemwire.bridge": (
        ("protocol", "midi"),
        ("websocket",),
        ("client", "server"),
        ("pedalboard", "plugin"),
    ),
    "stemwire.training": (
        ("data",),
        ("examples",),
        ("trainer",),
        ("evaluation",),
        ("tools", "commands"),
    ),
}


def layer(part: str, module: str) -> int | None:
    """Number of the layer that a module belongs to; None outside of the part, and for its door."""
    for number, names in enumerate(LAYERS[part]):
        if below(module, {f"{part}.{name}" for name in names}):
            return number
    return None


@pytest.mark.parametrize("part", LAYERS)
def test_folders_build_on_one_another(part: str) -> None:
    inside = [name for name in MODULES if below(name, {part}) and name != part]
    assert [name for name in inside if layer(part, name) is None] == []
    for name in inside:
        own = layer(part, name)
        for found in imports_of(name):
            other = layer(part, found.module)
            if own is not None and other is not None:
                assert other <= own, f"{MODULES[name]}:{found.line} imports {found.module}"


# What the `stemwire` command imports of training at every start, and so must be light.
COMMANDS = {
    f"stemwire.training.commands.{name}" for name in ("data", "train", "evaluate", "examples")
}


@pytest.mark.parametrize("name", [m for m in MODULES if not below(m, {"stemwire.training"})])
def test_nothing_but_the_command_imports_training(name: str) -> None:
    found = {i.module for i in imports_of(name) if below(i.module, {"stemwire.training"})}
    assert found <= (COMMANDS if name == "stemwire.cli" else set())


without_torch = pytest.mark.parametrize(
    "name",
    [
        m for m in MODULES
        if m not in WITH_TORCH and (m in COMMANDS or not below(m, {"stemwire.training"}))
    ],
)  # fmt: skip


@without_torch
def test_torch_is_imported_where_it_may_be(name: str) -> None:
    for found in imports_of(name):
        if not found.deep and not found.typing:
            torch = {"torch", "safetensors.torch", *WITH_TORCH}
            assert not below(found.module, torch), f"{MODULES[name]}:{found.line}"


@pytest.mark.parametrize("name", MODULES)
def test_the_roots_are_never_imported_by_their_folders_names(name: str) -> None:
    assert not any(
        below(found.module, {"model", "realtime", "bridge", "training"})
        for found in imports_of(name)
    )


# The screen, which the command imports inside a function.
WITH_TEXTUAL = {f"stemwire.screen.{name}" for name in ("figures", "help", "screen", "widgets")}


def networked() -> set[str]:
    """Modules that need the extra `bridge`: what imports its packages, and what imports those."""
    found: set[str] = set()
    while True:
        more = {
            name for name in MODULES
            if any(
                not i.deep and not i.typing
                and (below(i.module, {"msgspec", "websockets"}) or i.module in found)
                for i in imports_of(name)
            )
        }  # fmt: skip
        if more == found:
            return found
        found = more


NETWORKED = networked()


def test_only_the_bridge_needs_the_network() -> None:
    assert all(below(name, {"stemwire.bridge"}) for name in NETWORKED)
    asked_first = {
        "midi.control",
        "midi.process",
        "pedalboard.separator",
        "client.separator",
        "server.config",
    }
    assert not NETWORKED & {f"stemwire.bridge.{name}" for name in asked_first}


@without_torch
def test_what_runs_needs_only_what_is_declared(name: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {text.split(">=")[0].lower() for text in project["dependencies"]}
    for found in imports_of(name):
        top = found.module.split(".")[0]
        if not found.deep and not found.typing:
            more = {"textual"} if name in WITH_TEXTUAL else set()
            more |= {"msgspec", "websockets"} if name in NETWORKED else set()
            assert top in sys.stdlib_module_names | declared | {"stemwire"} | more, found
            assert name in WITH_TEXTUAL or not below(found.module, WITH_TEXTUAL), found


FOLDERS = (*PARTS.values(), *(ROOT / name for name in ("tests", "benchmarks", "examples")))


@pytest.mark.parametrize(
    "path",
    sorted(path for folder in FOLDERS for path in folder.rglob("*.py")),
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_no_file_is_long(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 450


WITHOUT_TORCH = """
import importlib.machinery
finder = importlib.machinery.PathFinder
find = finder.find_spec
def hide(name, path=None, target=None):
    return None if name.split(".")[0] in ("torch", "onnx", "soxr") else find(name, path, target)
finder.find_spec = hide
import sys
import numpy as np
import stemwire
"""


def python(code: str) -> str:
    command = [sys.executable, "-c", WITHOUT_TORCH + code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("preset", PRESETS)
def test_separation_without_torch(preset: str) -> None:
    python(f"""
separator = stemwire.load({preset!r})
stems = np.concatenate((separator.push(np.ones((2, 3000), np.float32)), separator.flush()), 2)
assert stems.shape == (2, 2, 3000 + separator.latency)
np.testing.assert_allclose(stems.sum(0)[:, separator.latency:], 1, atol=1e-5)
import stemwire.cli
assert "torch" not in sys.modules
""")


@pytest.mark.parametrize("backend", ["torch", "cuda"])
def test_torch_backends_without_torch_say_what_to_install(backend: str) -> None:
    assert "pip install 'stemwire[gpu]'" in python(f"""
try:
    stemwire.load(backend={backend!r})
except stemwire.BackendError as error:
    print(error)
""")


def test_importing_stemwire_imports_no_torch_even_where_it_is() -> None:
    code = "import sys, stemwire.cli; stemwire.load(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
