"""The bridge to other programs: server and clients, scripts with pedalboard, MIDI and DAW plugin.

    from stemwire.bridge import StemSeparator, connect

Each name is imported when it is first used, so that importing this package needs neither the extra
`bridge` (msgspec, websockets) nor the extra `live` (pedalboard).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stemwire.bridge.client.async_separator import AsyncSeparator
    from stemwire.bridge.client.separator import RemoteSeparator, connect
    from stemwire.bridge.pedalboard.separator import Row, StemSeparator

__all__ = ["AsyncSeparator", "RemoteSeparator", "Row", "StemSeparator", "connect"]

_MODULES = {
    "AsyncSeparator": "stemwire.bridge.client.async_separator",
    "RemoteSeparator": "stemwire.bridge.client.separator",
    "Row": "stemwire.bridge.pedalboard.separator",
    "StemSeparator": "stemwire.bridge.pedalboard.separator",
    "connect": "stemwire.bridge.client.separator",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
