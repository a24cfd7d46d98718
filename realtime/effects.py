"""Chains of effects on a stream: those of pedalboard, VST3 plugins, what a program brings along.

pedalboard gives back what it has: with `reset=False` a chain with latency returns nothing at first
and is in step with its input afterwards. A `Chain` evens that out: as many samples as went in, late
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

PROBE_S = 1.0  # time in which a chain must give something back
MODULES = "NAME or NAME key=value …, parts of a chain separated by '|'"


def parse_chain(text: str) -> list[Any]:
    """Plugins of pedalboard from a line such as `HighpassFilter cutoff_frequency_hz=90 | Reverb`.

    A part that ends in `.vst3` (or `.component` on macOS) is a plugin's file.

    Raises:
        ConfigError: for what pedalboard does not have or a plugin that cannot be loaded.
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
            raise ConfigError(f"effect {name!r} is unknown; a chain is {MODULES}, e.g. Reverb")
        try:
            values = dict(setting.split("=", 1) for setting in settings)
            plugins.append(kind(**{key: ast.literal_eval(v) for key, v in values.items()}))
        except (ValueError, SyntaxError, TypeError) as error:
            reason = str(error).splitlines()[0]
            raise ConfigError(f"effect {part!r}: {reason}; a chain is {MODULES}") from error
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
    """Effects in a row, as many samples out as in, `delay` samples late.

    Args:
        plugins: in their order; empty does nothing.
        sample_rate: of the audio, Hz.
        channels: of the audio.
        block_size: samples in every block to come, at most.

    Raises:
        ConfigError: if it fails, or gives nothing back within a second.

    Attributes:
        latency: samples that the effects hold back.
        delay: samples that it is late in all.
        failures: blocks in which it failed and let the audio pass as it was.
    """

    def __init__(
        self, plugins: Sequence[Any], sample_rate: int, channels: int, block_size: int
    ) -> None:
        self._sample_rate, self._block = sample_rate, block_size
        self._board: Any = None
        self._plugins: list[Any] = []
        self.latency = self.failures = self._reported = 0
        self._refilling = 0  # samples to come that are silence, after a failure
        self._lost = False  # it failed and cannot be reset
        self.problem = ""  # the last failure
        if plugins:
            pedalboard: Any = import_module("pedalboard")
            self._board = pedalboard.Pedalboard(list(plugins))
            self._plugins = _flat(self._board)
            self.latency = self._probe(channels)
            self._reported = self._report()
        self._channels = channels
        self.align(self.latency)

    def align(self, delay: int) -> None:
        """Be `delay` samples late, at least `latency`, so that chains side by side stay together.

        What was heard is forgotten.
        """
        if delay < self.latency:
            raise ConfigError(f"a chain {self.latency} samples late cannot be {delay} late")
        self.delay = delay
        self._fifo = Ring((self._channels,), 2 * (delay + self._block) + 4096)
        self._dry = Ring((self._channels,), delay + self._block)
        self._spare = np.zeros((self._channels, self._block), np.float32)
        self.reset()

    def _probe(self, channels: int) -> int:
        """Samples that the chain holds back, once it gives any."""
        rng = np.random.default_rng(0)
        block = (0.1 * rng.standard_normal((channels, self._block))).astype(np.float32)
        rounds = max(8, round(PROBE_S * self._sample_rate / self._block))
        held, before = 0, -1
        try:
            self._board.reset()  # of what it heard before: a VST3 when it was loaded, for one
            for _ in range(rounds):
                before = held
                held += self._block - self._run(block).shape[-1]
            self._board.reset()
        except Exception as error:
            reason = " ".join(str(error).split())
            raise ConfigError(f"the effects fail ({reason}); change or leave them out") from error
        if held != before:
            raise ConfigError(
                f"the effects give nothing back within {PROBE_S:g} s in blocks of {self._block}; "
                "they cannot be played live: leave them out"
            )
        return held

    def _run(self, block: Audio) -> Audio:
        found: Audio = self._board.process(
            block, self._sample_rate, buffer_size=self._block, reset=False
        )
        return found

    def _report(self) -> int:
        """Latency as VST3s tell it: one that changes it goes on giving as much as went in."""
        return sum(getattr(plugin, "reported_latency_samples", 0) for plugin in self._plugins)

    def process(self, block: Audio) -> Audio:
        """Effects on a block, float32 (channels, n), n <= block_size -> the same, in place.

        A plugin that raises, gives NaN or changes its latency lets the audio pass dry, as late as
        always, and is counted; one that cannot be reset then, for good.
        """
        if self._board is None:
            if self.delay:
                self._fifo.write(block)
                self._fifo.read_into(block)
            return block
        self._dry.write(block)
        if self._lost:
            self.failures += 1
            self._dry.read_into(block)
            return block
        try:
            found = self._run(block)
            good = bool(np.isfinite(found).all())
            self.problem = "" if good else "gives NaN or Inf"
            if good and self._report() != self._reported:
                self.problem, good = "has changed its latency", False
        except Exception as error:  # a plugin may raise anything; the music goes on
            self.problem, good = " ".join(str(error).split()), False
        if good and self._fifo.available + found.shape[-1] <= self._fifo.capacity:
            self._fifo.write(found)
        if good and self._fifo.available >= block.shape[-1]:
            self._fifo.read_into(block)
            spare = self._spare[:, : block.shape[-1]]
            self._dry.read_into(spare)
            if self._refilling > 0:  # what comes out first after a failure is silence
                self._refilling -= block.shape[-1]
                block[:] = spare
            return block
        if good:
            self.problem = "has changed its latency"
        self.failures += 1
        self._dry.read_into(block)
        try:
            self._board.reset()
        except Exception as error:  # some plugins only can be where they were loaded
            self.problem += f", and cannot be reset ({' '.join(str(error).split())})"
            self._lost = True
        self._fifo.reset(zeros=self.delay)
        self._refilling = self.delay
        return block

    def reset(self) -> None:
        """Forget what was heard."""
        if self._board is not None:
            self._board.reset()
        self._lost = False
        self._fifo.reset(zeros=self.delay)
        self._dry.reset(zeros=self.delay)
        self._refilling = 0


def _flat(board: Any) -> list[Any]:
    """Plugins of a chain, and of chains in it."""
    parts = [_flat(part) if hasattr(part, "__iter__") else [part] for part in board]
    return [plugin for part in parts for plugin in part]
