"""A separator with the call signature of pedalboard's plugins, and rows of both.

    quieter = StemSeparator(stem="mix", vocals_db=-6, effects={"vocals": "Reverb"})
    mix = quieter(song, 44_100)
    row = Row([Pedalboard([Compressor()]), StemSeparator(stem="vocals"), Pedalboard([Reverb()])])
    wet = row(song, 44_100)

A `Pedalboard` cannot hold Python objects, so a separator is used beside it: between two calls, or
in a `Row`. As with pedalboard, audio may have the shape (n,), (channels, n) or (n, channels); the
result has the same shape, in float32.

With `reset=True`, a call processes a whole song: the result has the length of the song and is
aligned with it, and nothing is carried over to the next call. With `reset=False`, a call processes
the next piece of a stream. Then, as with pedalboard's plugins, the first `reported_latency_samples`
samples are held back: nothing is returned until as many have been passed in, and from then on each
call returns as many samples as it gets. The pieces put together are aligned with the song and lack
its end, which `flush` returns; pedalboard's own plugins keep theirs.

One object is one stream, of one sample rate and number of channels; threads take turns.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from stemwire.bridge.pedalboard.streaming import (
    BLOCK,
    EffectsProcessor,
    Processor,
    StreamProcessor,
    check_plugins_are_distinct,
)
from stemwire.errors import ConfigError
from stemwire.model.preset import find_preset
from stemwire.realtime.backends import load_backend
from stemwire.realtime.levels import STEMS, db_to_gain
from stemwire.realtime.mixer import Mixer
from stemwire.realtime.ring import Audio
from stemwire.realtime.streaming import StreamingSeparator


class Separator(Protocol):
    """A separator, here or on a server; see `StreamingSeparator`."""

    @property
    def stems(self) -> tuple[str, ...]:
        """Names of the stems, in the order of the output."""

    @property
    def latency(self) -> int:
        """Delay of the stems in samples."""

    def push(self, block: Audio) -> Audio:
        """Separate the next block, float32 (channels, n), into (stems, channels, n)."""

    def flush(self, block: Audio | None = None) -> Audio:
        """End the stream and return its remaining stems, (stems, channels, n + latency)."""

    def reset(self) -> None:
        """Discard the stream."""


class StemSeparator(StreamProcessor):
    """A stem of the music, or a new mix of the stems, called as pedalboard's plugins are.

    Args:
        preset: name of a preset, or path of a preset's folder; with `url`, a name that the server
            has.
        stem: stem to return: `vocals`, `instrumental`, or `mix` for both together.
        vocals_db: level of the vocals in dB, -inf for off. It may be changed later, also within a
            stream, where the new level is reached in at most 20 ms.
        instrumental_db: level of the instrumental in dB, likewise.
        effects: by stem, the effects before the level: a `Pedalboard`, a plugin, a list of plugins,
            or text such as `"Reverb room_size=0.5"` or the path of a VST3. The stems stay aligned,
            whatever the latencies of their effects.
        backend: name of the backend, as for `stemwire.load`.
        url: URL of a server that separates instead of this machine, `ws://HOST:PORT`.
        **connection: further arguments of `stemwire.connect`, such as `token`.

    Raises:
        ConfigError: for invalid arguments, and for effects if pedalboard is not installed.
        CheckpointError: for a damaged preset.
    """

    def __init__(
        self,
        preset: str | Path = "standard",
        stem: str = "instrumental",
        *,
        vocals_db: float = 0.0,
        instrumental_db: float = 0.0,
        effects: Mapping[str, Any] | None = None,
        backend: str = "auto",
        url: str | None = None,
        **connection: Any,
    ) -> None:
        super().__init__()
        if stem not in (*STEMS, "mix"):
            raise ConfigError(f"stem {stem!r} is unknown; use {', '.join(STEMS)} or mix")
        self.preset, self.stem = str(preset), stem
        self._stems = STEMS if stem == "mix" else (stem,)
        self._backend, self._url, self._connection = backend, url, connection
        if connection and not url:
            raise ConfigError(f"{', '.join(connection)}: only for a server; give its url too")
        self._preset = None if url else find_preset(preset)
        self._separator: Separator | None = None
        self._mixer: Mixer | None = None
        self._latency_left = 0  # samples still to come before the first of the stream
        self._levels = dict.fromkeys(STEMS, 0.0)
        self.vocals_db, self.instrumental_db = vocals_db, instrumental_db
        effects = {name: chain for name, chain in (effects or {}).items() if chain is not None}
        for name in effects:
            if name not in STEMS:
                raise ConfigError(f"no effects for {name!r}; use {' or '.join(STEMS)}")
            self._check_audible(name, "effects")
        self._chains = [
            EffectsProcessor(effects.get(name), f"effects of {name}") for name in self._stems
        ]
        check_plugins_are_distinct(self._chains)
        self.grain = BLOCK if any(chain.board is not None for chain in self._chains) else 1

    def __repr__(self) -> str:
        where = f" at {self._url}" if self._url else ""
        return f"<StemSeparator {self.stem} preset={self.preset}{where}>"

    @property
    def vocals_db(self) -> float:
        """Level of the vocals, dB."""
        return self._levels["vocals"]

    @vocals_db.setter
    def vocals_db(self, value: float) -> None:
        self._set_level("vocals", value)

    @property
    def instrumental_db(self) -> float:
        """Level of the instrumental, dB."""
        return self._levels["instrumental"]

    @instrumental_db.setter
    def instrumental_db(self, value: float) -> None:
        self._set_level("instrumental", value)

    def _set_level(self, name: str, value: float) -> None:
        if math.isnan(value) or value == math.inf:
            raise ConfigError(f"{name}_db must be a number of dB, or -inf, not {value}")
        if value:
            self._check_audible(name, f"{name}_db")
        self._levels[name] = float(value)

    def _check_audible(self, name: str, setting: str) -> None:
        if name not in self._stems:
            raise ConfigError(
                f"{setting} for {name} would be inaudible with stem={self.stem!r}; use stem='mix'"
            )

    def _gains(self) -> list[float]:
        """Gains of the stems that are mixed."""
        return [db_to_gain(self._levels[name]) for name in self._stems]

    # --- the processor: see `Processor`

    def prepare(self, rate: int, channels: int) -> None:
        self._close_separator()
        if self._preset is None:
            from stemwire.bridge.client.separator import connect

            stems: Any = self._stems
            self._separator = connect(
                str(self._url), self.preset, rate, channels, stems=stems, **self._connection
            )
        else:
            backend = load_backend(self._preset, self._backend)
            self._separator = StreamingSeparator(backend, self._preset.config, rate, channels, None)
        self._rate, self._channels = rate, channels
        for chain in self._chains:
            chain.prepare(rate, channels)

    def start_stream(self) -> None:
        assert self._separator is not None
        chains = []
        for chain in self._chains:
            chain.start_stream()
            assert chain.chain is not None
            chains.append(chain.chain)
        self._mixer = Mixer(chains, self._rate, self._channels, BLOCK, self._gains())
        self.delay = self._separator.latency + self._mixer.delay
        self._latency_left = self._separator.latency

    def process_song(self, audio: Audio, buffer_size: int) -> Audio:
        separator = self._separator
        assert separator is not None
        stems = separator.flush(audio)[..., separator.latency :]
        out = np.zeros_like(audio)
        for name, chain, gain in zip(self._stems, self._chains, self._gains(), strict=True):
            stem = chain.process_song(stems[separator.stems.index(name)], buffer_size)
            out += stem * np.float32(gain)
        return out

    def process_piece(self, audio: Audio) -> Audio:
        separator, mixer = self._separator, self._mixer
        assert separator is not None and mixer is not None
        order = [separator.stems.index(name) for name in self._stems]
        stems, gains = separator.push(audio)[order], self._gains()
        silent = min(self._latency_left, audio.shape[1])
        stems[..., :silent] = 0.0  # before the stream: effects must not react to it
        self._latency_left -= silent
        out = np.empty_like(audio)
        for at in range(0, audio.shape[1], BLOCK):
            block = slice(at, at + BLOCK)
            out[:, block] = mixer.mix(stems[..., block], gains, 0.0)[2]
        for chain in self._chains:
            chain.raise_failure()
        return out

    def discard_stream(self) -> None:
        if self._separator is not None:
            self._separator.reset()

    def release(self) -> None:
        super().release()
        self._close_separator()

    def _close_separator(self) -> None:
        separator, self._separator = self._separator, None
        close = getattr(separator, "close", None)
        if close is not None:
            close()


class Row(StreamProcessor):
    """Separators and chains of effects in series, with the call signature of pedalboard's plugins.

    Args:
        parts: parts in their order, each a `StemSeparator`, a `Pedalboard`, a plugin, a list of
            plugins, text as for `StemSeparator`, or a `Row`.

    Raises:
        ConfigError: for anything else, or a part that occurs twice.
    """

    def __init__(self, parts: Sequence[Any]) -> None:
        super().__init__()
        self._parts: list[Processor] = [
            part
            if isinstance(part, StreamProcessor)
            else EffectsProcessor(part, f"part {number} of the row")
            for number, part in enumerate(parts, 1)
        ]
        processors = [part for part in self._parts if isinstance(part, StreamProcessor)]
        if len({id(part) for part in processors}) < len(processors):
            raise ConfigError("a separator is in the row twice; an object is one stream: make two")
        check_plugins_are_distinct(
            [part for part in self._parts if isinstance(part, EffectsProcessor)]
        )
        self.grain = max((part.grain for part in self._parts), default=1)

    def __repr__(self) -> str:
        return f"<Row of {len(self._parts)}>"

    def prepare(self, rate: int, channels: int) -> None:
        for part in self._parts:
            part.prepare(rate, channels)

    def start_stream(self) -> None:
        for part in self._parts:
            part.start_stream()
        self.delay = sum(part.delay for part in self._parts)

    def process_song(self, audio: Audio, buffer_size: int) -> Audio:
        for part in self._parts:
            audio = part.process_song(audio, buffer_size)
        return audio

    def process_piece(self, audio: Audio) -> Audio:
        for part in self._parts:
            audio = part.process_piece(audio)
        return audio

    def discard_stream(self) -> None:
        for part in self._parts:
            part.discard_stream()

    def release(self) -> None:
        super().release()
        for part in self._parts:
            part.release()
