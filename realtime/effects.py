"""Chains of effects on a stream: plugins of pedalboard, VST3 plugins, objects of a program.

pedalboard returns what is available: with `reset=False` a chain with latency returns nothing at
first and keeps up with its input afterwards. A `Chain` returns as many samples as it gets, delayed
by a fixed number that is measured when it is loaded.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from stemwire.errors import ConfigError
from stemwire.realtime.ring import Audio, Ring

PROBE_S = 1.0  # time in which a chain must return something
CHAIN_SYNTAX = "NAME or NAME key=value …, parts of a chain separated by '|'"


def parse_chain(text: str) -> list[Any]:
    """Plugins of pedalboard from text such as `HighpassFilter cutoff_frequency_hz=90 | Reverb`.

    A part that ends in `.vst3` (or `.component` on macOS) is the path of a plugin.

    Raises:
        ConfigError: for an unknown effect or a plugin that cannot be loaded.
    """
    if importlib.util.find_spec("pedalboard") is None:
        raise ConfigError("effects need pedalboard: pip install 'stemwire[live]'")
    pedalboard: Any = import_module("pedalboard")
    plugins = []
    for part in filter(None, (part.strip() for part in text.split("|"))):
        if part.endswith((".vst3", ".component")):
            plugins.append(_load_plugin(Path(part)))
            continue
        name, *settings = part.split()
        kind = getattr(pedalboard, name, None)
        if not (isinstance(kind, type) and issubclass(kind, pedalboard.Plugin)):
            raise ConfigError(f"effect {name!r} is unknown; a chain is {CHAIN_SYNTAX}, e.g. Reverb")
        try:
            values = dict(setting.split("=", 1) for setting in settings)
            plugins.append(kind(**{key: ast.literal_eval(v) for key, v in values.items()}))
        except (ValueError, SyntaxError, TypeError) as error:
            reason = str(error).splitlines()[0]
            raise ConfigError(f"effect {part!r}: {reason}; a chain is {CHAIN_SYNTAX}") from error
    return plugins


def _load_plugin(path: Path) -> Any:
    pedalboard: Any = import_module("pedalboard")
    if not path.exists():
        raise ConfigError(f"{path}: no such plugin; give the path of a VST3")
    try:
        plugin = pedalboard.load_plugin(str(path))
    except Exception as error:  # a plugin may raise anything
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path}: cannot be loaded ({reason}); try it in another host") from error
    if plugin.is_instrument:
        raise ConfigError(f"{path}: is an instrument; give an effect")
    return plugin


class Chain:
    """Effects in series, with as many samples out as in, delayed by `delay` samples.

    Args:
        plugins: plugins in order; empty changes nothing.
        sample_rate: sample rate of the audio in Hz.
        channels: number of channels of the audio.
        block_size: largest number of samples of a block.

    Raises:
        ConfigError: if it fails, or returns nothing within a second.

    Attributes:
        latency: latency of the effects in samples.
        delay: total delay in samples, at least `latency`.
        failures: blocks in which it failed and passed the audio unchanged.
        problem: last failure, "" while the effects work.
    """

    def __init__(
        self, plugins: Sequence[Any], sample_rate: int, channels: int, block_size: int
    ) -> None:
        self._sample_rate, self._block = sample_rate, block_size
        self._board: Any = None
        self._plugins: list[Any] = []
        self.latency = self.failures = self._probed_latency = 0
        self._refilling = 0  # samples of silence to come after a failure
        self._failed_for_good = False  # it failed and cannot be reset
        self.problem = ""
        if plugins:
            pedalboard: Any = import_module("pedalboard")
            self._board = pedalboard.Pedalboard(list(plugins))
            self._plugins = _flatten(self._board)
            self.latency = self._probe(channels)
            self._probed_latency = self._reported_latency()
        self._channels = channels
        self.align(self.latency)

    def align(self, delay: int) -> None:
        """Set the delay, at least `latency`, to align parallel chains; resets the chain."""
        if delay < self.latency:
            raise ConfigError(f"a chain {self.latency} samples late cannot be {delay} late")
        self.delay = delay
        self._fifo = Ring((self._channels,), 2 * (delay + self._block) + 4096)
        self._dry = Ring((self._channels,), delay + self._block)
        self._spare = np.zeros((self._channels, self._block), np.float32)
        self.reset()

    def _probe(self, channels: int) -> int:
        """Measured latency of the chain in samples."""
        rng = np.random.default_rng(0)
        block = (0.1 * rng.standard_normal((channels, self._block))).astype(np.float32)
        rounds = max(8, round(PROBE_S * self._sample_rate / self._block))
        held, before = 0, -1
        try:
            self._board.reset()  # a VST3 may have processed audio when it was loaded
            for _ in range(rounds):
                before = held
                held += self._block - self._run(block).shape[-1]
            self._board.reset()
        except Exception as error:
            reason = " ".join(str(error).split())
            raise ConfigError(f"the effects fail ({reason}); change or remove them") from error
        if held != before:
            raise ConfigError(
                f"the effects return nothing within {PROBE_S:g} s in blocks of {self._block}; "
                "they cannot be played live: remove them"
            )
        return held

    def _run(self, block: Audio) -> Audio:
        processed: Audio = self._board.process(
            block, self._sample_rate, buffer_size=self._block, reset=False
        )
        return processed

    def _reported_latency(self) -> int:
        """Latency that VST3s report; changing it does not change the number of samples returned."""
        return sum(getattr(plugin, "reported_latency_samples", 0) for plugin in self._plugins)

    def process(self, block: Audio) -> Audio:
        """Process a block, float32 (channels, n), n <= block_size, in place, and return it.

        If a plugin raises, gives NaN or changes its latency, the audio passes dry with the usual
        delay, which is counted; if it then cannot be reset, the chain is bypassed for good.
        """
        if self._board is None:
            if self.delay:
                self._fifo.write(block)
                self._fifo.read_into(block)
            return block
        self._dry.write(block)
        if self._failed_for_good:
            self.failures += 1
            self._dry.read_into(block)
            return block
        try:
            processed = self._run(block)
            good = bool(np.isfinite(processed).all())
            self.problem = "" if good else "gives NaN or Inf"
            if good and self._reported_latency() != self._probed_latency:
                self.problem, good = "has changed its latency", False
        except Exception as error:  # a plugin may raise anything
            self.problem, good = " ".join(str(error).split()), False
        if good and self._fifo.available + processed.shape[-1] <= self._fifo.capacity:
            self._fifo.write(processed)
        if good and self._fifo.available >= block.shape[-1]:
            self._fifo.read_into(block)
            spare = self._spare[:, : block.shape[-1]]
            self._dry.read_into(spare)
            if self._refilling > 0:  # the first output after a failure is silence
                self._refilling -= block.shape[-1]
                block[:] = spare
            return block
        if good:
            self.problem = "has changed its latency"
        self.failures += 1
        self._dry.read_into(block)
        try:
            self._board.reset()
        except Exception as error:  # some plugins can be reset only in the thread that loaded them
            self.problem += f", and cannot be reset ({' '.join(str(error).split())})"
            self._failed_for_good = True
        self._fifo.reset(zeros=self.delay)
        self._refilling = self.delay
        return block

    def reset(self) -> None:
        """Discard the past audio."""
        if self._board is not None:
            self._board.reset()
        self._failed_for_good = False
        self._fifo.reset(zeros=self.delay)
        self._dry.reset(zeros=self.delay)
        self._refilling = 0


def _flatten(board: Any) -> list[Any]:
    """Plugins of a chain and of nested chains."""
    parts = [_flatten(part) if hasattr(part, "__iter__") else [part] for part in board]
    return [plugin for part in parts for plugin in part]
