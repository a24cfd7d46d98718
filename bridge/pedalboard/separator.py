"""A separator with the call shape of pedalboard's plugins, and rows of both.

    quieter = StemSeparator(stem="mix", vocals_db=-6, effects={"vocals": "Reverb"})
    mix = quieter(song, 44_100)
    row = Row([Pedalboard([Compressor()]), StemSeparator(stem="vocals"), Pedalboard([Reverb()])])
    wet = row(song, 44_100)

A `Pedalboard` holds no Python objects, so a separator stands beside it: between two calls, or in a
`Row`. As with pedalboard, audio may lie as (n,), (channels, n) or (n, channels), and what comes
back lies likewise, in float32.

With `reset=True` a call is a whole song: what comes back is as long as the song and aligned with
it, and nothing is carried over to the next call. With `reset=False` a call is the next piece of a
stream. Then, as with pedalboard's plugins, the first `reported_latency_samples` samples are held
back: nothing comes out until so many are in, and from then on as many as go in. The pieces put
together are aligned with the song and lack its end, which `flush` gives; pedalboard's own plugins
keep theirs.

One object is one stream, of one rate and number of channels; threads take turns.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from stemwire.bridge.pedalboard.streaming import BLOCK, Board, Line, Part, no_plugin_twice
from stemwire.errors import ConfigError
from stemwire.model.preset import find_preset
from stemwire.realtime.backends import load_backend
from stemwire.realtime.levels import STEMS, db_to_gain
from stemwire.realtime.mixer import Mixer
from stemwire.realtime.ring import Audio
from stemwire.realtime.streaming import StreamingSeparator


class Separator(Protocol):
    """What separates, here or on a server; see `StreamingSeparator`."""

    @property
    def stems(self) -> tuple[str, ...]:
        """Names of the stems, in the order of the output."""

    @property
    def latency(self) -> int:
        """Samples that stems are late."""

    def push(self, block: Audio) -> Audio:
        """float32 (channels, n) to (stems, channels, n)."""

    def flush(self, block: Audio | None = None) -> Audio:
        """The end of a stream, and what was held back of it."""

    def reset(self) -> None:
        """Forget the stream."""


class StemSeparator(Line):
    """A stem of the music, or all stems mixed anew, with pedalboard's call shape.

    Args:
        preset: name, or path of a preset's folder; on a server, a name that it knows.
        stem: what comes out: `vocals`, `instrumental`, or both together: `mix`.
        vocals_db: level of the vocals, -inf is off. May be changed later, within a stream too: it
            is then reached in at most 20 ms.
        instrumental_db: level of the instrumental, likewise.
        effects: by stem, before the level: a `Pedalboard`, a plugin, a list of plugins, or text
            such as `"Reverb room_size=0.5"` or the path of a VST3. Stems stay together, whatever
            the latencies of their effects.
        backend: as `stemwire.load` takes it.
        url: of a server that separates in place of this machine, `ws://HOST:PORT`.
        **connection: more for `stemwire.connect`, such as `token`.

    Raises:
        ConfigError: for arguments that cannot work, and effects where pedalboard is not installed.
        CheckpointError: for a preset that is damaged.
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
        self._heard = STEMS if stem == "mix" else (stem,)
        self._backend, self._url, self._connection = backend, url, connection
        if connection and not url:
            raise ConfigError(f"{', '.join(connection)}: only for a server; give its url too")
        self._found = None if url else find_preset(preset)
        self._separator: Separator | None = None
        self._mixer: Mixer | None = None
        self._early = 0  # samples to come that are before the first of the stream
        self._levels = dict.fromkeys(STEMS, 0.0)
        self.vocals_db, self.instrumental_db = vocals_db, instrumental_db
        effects = {name: given for name, given in (effects or {}).items() if given is not None}
        for name in effects:
            if name not in STEMS:
                raise ConfigError(f"no effects for {name!r}; use {' or '.join(STEMS)}")
            self._must_be_heard(name, "effects")
        self._boards = [Board(effects.get(name), f"effects of {name}") for name in self._heard]
        no_plugin_twice(self._boards)
        self.grain = BLOCK if any(board.board is not None for board in self._boards) else 1

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
            self._must_be_heard(name, f"{name}_db")
        self._levels[name] = float(value)

    def _must_be_heard(self, name: str, setting: str) -> None:
        if name not in self._heard:
            raise ConfigError(
                f"{setting} for {name} would not be heard with stem={self.stem!r}; use stem='mix'"
            )

    def _gains(self) -> list[float]:
        """Factors of the stems that are heard."""
        return [db_to_gain(self._levels[name]) for name in self._heard]

    # --- as a part: see `Part`

    def open(self, rate: int, channels: int) -> None:
        self._close_separator()
        if self._found is None:
            from stemwire.bridge.client.separator import connect

            wanted: Any = self._heard
            self._separator = connect(
                str(self._url), self.preset, rate, channels, stems=wanted, **self._connection
            )
        else:
            backend = load_backend(self._found, self._backend)
            self._separator = StreamingSeparator(backend, self._found.config, rate, channels, None)
        self._rate, self._channels = rate, channels
        for board in self._boards:
            board.open(rate, channels)

    def line_up(self) -> None:
        assert self._separator is not None
        chains = []
        for board in self._boards:
            board.line_up()
            assert board.chain is not None
            chains.append(board.chain)
        self._mixer = Mixer(chains, self._rate, self._channels, BLOCK, self._gains())
        self.delay = self._separator.latency + self._mixer.delay
        self._early = self._separator.latency

    def run_whole(self, audio: Audio, buffer_size: int) -> Audio:
        separator = self._separator
        assert separator is not None
        stems = separator.flush(audio)[..., separator.latency :]
        out = np.zeros_like(audio)
        heard = zip(self._heard, self._boards, self._gains(), strict=True)
        for name, board, gain in heard:
            stem = board.run_whole(stems[separator.stems.index(name)], buffer_size)
            out += stem * np.float32(gain)
        return out

    def run(self, audio: Audio) -> Audio:
        separator, mixer = self._separator, self._mixer
        assert separator is not None and mixer is not None
        order = [separator.stems.index(name) for name in self._heard]
        stems, gains = separator.push(audio)[order], self._gains()
        early = min(self._early, audio.shape[1])
        stems[..., :early] = 0.0  # no music: effects are not to answer it
        self._early -= early
        out = np.empty_like(audio)
        for at in range(0, audio.shape[1], BLOCK):
            block = slice(at, at + BLOCK)
            out[:, block] = mixer.mix(stems[..., block], gains, 0.0)[2]
        for board in self._boards:
            board.check()
        return out

    def end(self) -> None:
        if self._separator is not None:
            self._separator.reset()

    def drop(self) -> None:
        super().drop()
        self._close_separator()

    def _close_separator(self) -> None:
        separator, self._separator = self._separator, None
        close = getattr(separator, "close", None)
        if close is not None:
            close()


class Row(Line):
    """Separators and chains of pedalboard in a row, with pedalboard's call shape.

    Args:
        parts: in their order: `StemSeparator`, `Pedalboard`, a plugin, a list of plugins, text as
            `StemSeparator` takes it, a `Row`.

    Raises:
        ConfigError: for what is none of these, or is there twice.
    """

    def __init__(self, parts: Sequence[Any]) -> None:
        super().__init__()
        self._parts: list[Part] = [
            part if isinstance(part, Line) else Board(part, f"part {number} of the row")
            for number, part in enumerate(parts, 1)
        ]
        lines = [part for part in self._parts if isinstance(part, Line)]
        if len({id(part) for part in lines}) < len(lines):
            raise ConfigError("a separator is in the row twice; an object is one stream: make two")
        no_plugin_twice([part for part in self._parts if isinstance(part, Board)])
        self.grain = max((part.grain for part in self._parts), default=1)

    def __repr__(self) -> str:
        return f"<Row of {len(self._parts)}>"

    def open(self, rate: int, channels: int) -> None:
        for part in self._parts:
            part.open(rate, channels)

    def line_up(self) -> None:
        for part in self._parts:
            part.line_up()
        self.delay = sum(part.delay for part in self._parts)

    def run_whole(self, audio: Audio, buffer_size: int) -> Audio:
        for part in self._parts:
            audio = part.run_whole(audio, buffer_size)
        return audio

    def run(self, audio: Audio) -> Audio:
        for part in self._parts:
            audio = part.run(audio)
        return audio

    def end(self) -> None:
        for part in self._parts:
            part.end()

    def drop(self) -> None:
        super().drop()
        for part in self._parts:
            part.drop()
