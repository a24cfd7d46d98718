"""Stemwire splits music into vocals and instrumental while it plays.

import stemwire

separator = stemwire.load("standard", sample_rate=48000)
stems = separator.push(block)   # (2, n) in, (stems, 2, n) out
tail = separator.flush()
"""

from __future__ import annotations

from pathlib import Path

from stemwire._version import __version__
from stemwire.bridge.client.separator import RemoteSeparator, connect
from stemwire.bridge.pedalboard.separator import Row, StemSeparator
from stemwire.bridge.plugin.bundle import plugin_bundle
from stemwire.errors import (
    AudioDeviceError,
    AudioError,
    BackendError,
    BridgeError,
    CheckpointError,
    ConfigError,
    OutputError,
    ProtocolError,
    StemwireError,
)
from stemwire.model.preset import Preset, find_preset, shipped_presets
from stemwire.realtime.backends import load_backend
from stemwire.realtime.live.session import LiveSession
from stemwire.realtime.streaming import StreamingSeparator

from . import model

__all__ = [
    "AudioDeviceError",
    "AudioError",
    "BackendError",
    "BridgeError",
    "CheckpointError",
    "ConfigError",
    "LiveSession",
    "OutputError",
    "Preset",
    "ProtocolError",
    "RemoteSeparator",
    "Row",
    "StemSeparator",
    "StemwireError",
    "StreamingSeparator",
    "__version__",
    "connect",
    "load",
    "model",
    "plugin_bundle",
    "presets",
]


def load(
    preset: str | Path = "standard",
    sample_rate: int = 44_100,
    channels: int = 2,
    block_size: int | None = None,
    backend: str = "auto",
) -> StreamingSeparator:
    """Open a separator for one stream of audio.

    Args:
        preset: name of a shipped preset, or path of a preset folder.
        sample_rate: sample rate of the audio, 8000 to 192000 Hz.
        channels: number of channels of the audio, 1 or 2.
        block_size: samples of every block, if known in advance: the latency is then the smallest
            possible. None accepts blocks of any size at any time.
        backend: name of the backend: `auto`, `native`, `onnx`, `torch` or `cuda`.

    Returns:
        Separator with `stems`, `latency` (samples), `push`, `flush` and `reset`.

    Raises:
        ConfigError: for invalid arguments.
        CheckpointError: for a damaged preset.
        BackendError: for a backend that cannot run here.
    """
    loaded = find_preset(preset)
    runner = load_backend(loaded, backend)
    return StreamingSeparator(runner, loaded.config, sample_rate, channels, block_size)


def presets() -> tuple[Preset, ...]:
    """Shipped presets, with latency, size and licence."""
    return shipped_presets()
