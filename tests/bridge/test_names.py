"""The names that `stemwire.bridge` offers, and what importing it does not import."""

from __future__ import annotations

import subprocess
import sys

import pytest

import stemwire
from stemwire import bridge


def test_all_names_exist() -> None:
    pytest.importorskip("msgspec")
    pytest.importorskip("websockets")
    assert sorted(bridge.__all__) == list(bridge.__all__)
    assert set(bridge.__all__) <= set(dir(bridge))
    for name in bridge.__all__:
        assert getattr(bridge, name).__name__ == name
    assert bridge.StemSeparator is stemwire.StemSeparator
    assert bridge.connect is stemwire.connect


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"'stemwire\.bridge' has no attribute 'nothing'"):
        _ = bridge.nothing


def test_importing_the_package_needs_no_extra() -> None:
    code = """
import sys
for name in ("msgspec", "websockets", "pedalboard"):
    sys.modules[name] = None
from stemwire.bridge import RemoteSeparator, Row, StemSeparator, connect
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
