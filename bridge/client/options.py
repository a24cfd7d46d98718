"""Options of a stream on a server, shared by `connect` and `AsyncSeparator.open`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # needs msgspec
    from stemwire.bridge.protocol.messages import Format, Stem

STEMS: tuple[Stem, ...] = ("vocals", "instrumental")  # the stems of the local separator


def ignore(text: str) -> None:
    """Do nothing with a line of text."""


@dataclass(frozen=True, kw_only=True)
class ConnectionOptions:
    """Keyword arguments of `stemwire.connect`, which documents them; the defaults are these."""

    token: str = ""
    stems: Sequence[Stem] = STEMS
    format: Format = "f32"
    stats: float = 0.0
    ca_file: str | Path | None = None
    patience: float = 30.0
    tell: Callable[[str], None] = ignore


DEFAULTS = ConnectionOptions()
