"""The network: configuration, layers, checkpoints, ONNX export and the shipped presets.

Importing this package needs no torch; the names that do are loaded when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stemwire.model.config import SeparatorConfig

if TYPE_CHECKING:
    from stemwire.model.separator import Separator

__all__ = ["Separator", "SeparatorConfig"]


def __getattr__(name: str) -> Any:
    if name == "Separator":
        from stemwire.model.separator import Separator

        return Separator
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
