"""Quickly made training examples."""

from __future__ import annotations

from typing import Any

from stemwire.training.data.manifest import Manifest
from stemwire.training.data.reader import AudioReader
from stemwire.training.examples.examples import ExampleMaker
from stemwire.training.examples.settings import ExampleSettings

RATE = 8_000
COUNT = RATE // 2


def maker_of(manifest: Manifest, seed: int = 1, **changes: Any) -> ExampleMaker:
    settings = ExampleSettings(**{"seconds": COUNT / RATE, **changes})
    return ExampleMaker(AudioReader(manifest, RATE), settings, seed)
