"""Separators of a server: backends, presets, effects, and the scheduler that runs them."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from stemwire.bridge.protocol.messages import Control, Hello, frame_bytes
from stemwire.bridge.server.config import ServerConfig
from stemwire.bridge.server.pipeline import Pipeline, Stage
from stemwire.bridge.server.scheduler import Scheduler
from stemwire.errors import ConfigError, ProtocolError
from stemwire.model.preset import Preset, find_preset
from stemwire.realtime.backends import load_backend
from stemwire.realtime.streaming import StreamingSeparator

TIMED_STEPS = 40  # steps that are timed before the first client connects


def available_cores() -> int:
    """Number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class SeparatorPool:
    """Opens pipelines and has a scheduler run them.

    Args:
        config: settings of the server.
        realtime_priority: as for a `Scheduler`.

    Raises:
        StemwireError: if a preset or the backend cannot be loaded.
    """

    def __init__(self, config: ServerConfig, realtime_priority: bool = False) -> None:
        self._config = config
        self._presets: dict[str, Preset] = {}
        for name in config.presets:
            preset = find_preset(name)
            self._presets[preset.name] = preset
        cores = available_cores() / config.workers  # the workers share the machine
        # A GPU runs one step after the other, so all streams that are ready should share it.
        self._threads = config.threads or (1 if config.backend == "cuda" else max(1, int(cores)))
        for preset in self._presets.values():
            load_backend(preset, config.backend)  # once, before each thread would load it
        # All threads at once, as in operation: they share memory, caches and the interpreter.
        with ThreadPoolExecutor(self._threads) as pool:
            presets = [p for p in self._presets.values() for _ in range(self._threads)]
            steps = list(pool.map(self._time_step, presets))
        max_load = config.load * min(1.0, cores / self._threads)
        self._scheduler = Scheduler(
            self._threads, config.batch, max(steps), max_load, realtime_priority
        )

    def _time_step(self, preset: Preset) -> float:
        """Median duration of a step in seconds; the first steps also warm up the backend."""
        separator = self.open_separator(preset.name, preset.config.sample_rate, 2, None)
        noise = np.random.default_rng(0).standard_normal((2, separator.hop)).astype(np.float32)
        times = []
        for _ in range(TIMED_STEPS):
            start = time.perf_counter()
            separator.push(0.1 * noise)
            times.append(time.perf_counter() - start)
        return float(np.median(times))

    @property
    def presets(self) -> tuple[str, ...]:
        """Names of the presets that clients may ask for."""
        return tuple(self._presets)

    @property
    def load(self) -> float:
        """Load of all pipelines, as a share of what the threads can do."""
        return self._scheduler.load

    @property
    def scheduler(self) -> Scheduler:
        """The scheduler, for health and metrics."""
        return self._scheduler

    def open_separator(
        self, preset: str, sample_rate: int, channels: int, block_size: int | None
    ) -> StreamingSeparator:
        """Open a separator of one of the server's presets.

        Raises:
            ConfigError: if the preset is not served, or the audio settings are invalid.
        """
        if preset not in self._presets:
            raise ConfigError(
                f"preset {preset!r} is not served here; ask for one of {', '.join(self._presets)}"
            )
        served = self._presets[preset]
        backend = load_backend(served, self._config.backend)
        return StreamingSeparator(  # hop by hop: other streams fill the rounds
            backend, served.config, sample_rate, channels, block_size, together=1
        )

    def open_pipeline(self, hello: Hello) -> Pipeline:
        """Open the pipeline of a new session.

        Raises:
            ConfigError: if the client asks for something invalid.
            ProtocolError: `too_many`, if there is no room.
        """
        preset = self._presets.get(hello.preset)
        if preset is not None and not self._scheduler.has_room(
            preset.config.sample_rate / preset.config.hop
        ):  # checked first: a refused client should cost the others nothing
            raise self._too_many()
        block_size = hello.block or None
        stage = Stage(
            self.open_separator,
            hello.preset,
            {},
            {},
            hello.rate,
            hello.channels,
            block_size,
            gains=(0.0, 1.0),
        )
        grain = math.gcd(hello.block or 1, stage.separator.hop)
        if frame_bytes(hello.format, 1, hello.channels, grain) > self._config.message_bytes:
            raise ConfigError(
                f"block {hello.block} needs frames of {grain} samples, which do not fit into a "
                f"message of {self._config.message_bytes} bytes; give another block size, or 0"
            )
        return Pipeline(stage, hello.stems)

    def open_stage(
        self, hello: Hello, hop: int, before: Stage, gains: Sequence[float], control: Control
    ) -> Stage:
        """Open the stage that a control of a session asks for.

        Args:
            hello: hello of the session.
            hop: hop in samples by which the client's frames are promised to end.
            before: stage that the control changes.
            gains: initial gains of the stems in the mix.
            control: the control.

        Raises:
            StemwireError: if the stage cannot be loaded.
        """
        changed = {str(stem): name for stem, name in (control.effects or {}).items()}
        names = before.names | changed
        if unknown := sorted({name for name in names.values() if name} - set(self._config.effects)):
            known = ", ".join(self._config.effects) or "none"
            raise ConfigError(f"effects {', '.join(unknown)} are unknown here; use one of: {known}")
        effects = {stem: self._config.effects[name] for stem, name in names.items() if name}
        block_size = math.gcd(hello.block, hop) if hello.block else None
        return Stage(
            self.open_separator,
            control.preset or before.preset,
            effects,
            names,
            hello.rate,
            hello.channels,
            block_size,
            gains,
            control.id,
        )

    def add(self, pipeline: Pipeline, deliver: Callable[[Exception | None], None]) -> None:
        """Serve a pipeline from now on.

        Args:
            pipeline: pipeline to serve.
            deliver: as for `Scheduler.add`; called by a worker thread.

        Raises:
            ProtocolError: `too_many`, if there is no room.
        """
        separator = pipeline.stage.separator
        if not self._scheduler.add(pipeline, separator.sample_rate / separator.hop, deliver):
            raise self._too_many()

    def _too_many(self) -> ProtocolError:
        return ProtocolError(
            "too_many",
            f"one more stream would make the others late (load {self.load:.0%} of what this "
            "machine can do); try later, or another server",
        )

    def wake(self, pipeline: Pipeline) -> None:
        """Schedule a pipeline that was given something to do."""
        self._scheduler.wake(pipeline)

    def remove(self, pipeline: Pipeline) -> None:
        """Stop serving a pipeline."""
        self._scheduler.remove(pipeline)

    def close(self) -> None:
        """Stop the threads."""
        self._scheduler.close()
