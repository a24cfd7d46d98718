"""What a server separates with: backends, presets, effects and the scheduler."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from stemwire.bridge.protocol.messages import Control, Hello, frame_bytes
from stemwire.bridge.server.config import ServerConfig
from stemwire.bridge.server.pipeline import Strip, Voice
from stemwire.bridge.server.scheduler import Scheduler
from stemwire.bridge.server.session import Session
from stemwire.errors import ConfigError, ProtocolError
from stemwire.model.preset import Preset, find_preset
from stemwire.realtime.backends import load_backend
from stemwire.realtime.streaming import StreamingSeparator

TRIALS = 40  # steps that are timed before the first client comes


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Desk:
    """Opens strips and has them served.

    Args:
        config: of the server.
        hurry: as for a `Scheduler`.

    Raises:
        StemwireError: if a preset or the backend cannot be loaded.
    """

    def __init__(self, config: ServerConfig, hurry: bool = False) -> None:
        self._config = config
        self._presets: dict[str, Preset] = {}
        for name in config.presets:
            preset = find_preset(name)
            self._presets[preset.name] = preset
        mine = cores() / config.workers  # the workers share the machine
        # A GPU takes one step after the other, so all who are ready should be in it.
        self._threads = config.threads or (1 if config.backend == "cuda" else max(1, int(mine)))
        for preset in self._presets.values():
            load_backend(preset, config.backend)  # before threads do, each for itself
        # All threads at once, as they will work: they share memory, caches and the interpreter.
        with ThreadPoolExecutor(self._threads) as pool:
            presets = [p for p in self._presets.values() for _ in range(self._threads)]
            steps = list(pool.map(self._time, presets))
        full = config.load * min(1.0, mine / self._threads)
        self._scheduler = Scheduler(self._threads, config.batch, max(steps), full, hurry)

    def _time(self, preset: Preset) -> float:
        """Median time of a step; the first ones also warm up the backend."""
        separator = self.separator(preset.name, preset.config.sample_rate, 2, None)
        noise = np.random.default_rng(0).standard_normal((2, separator.hop)).astype(np.float32)
        times = []
        for _ in range(TRIALS):
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
        """What the sessions need of what there is."""
        return self._scheduler.load

    @property
    def scheduler(self) -> Scheduler:
        """For those who count."""
        return self._scheduler

    def separator(
        self, preset: str, sample_rate: int, channels: int, block_size: int | None
    ) -> StreamingSeparator:
        """A separator of a preset that clients may have.

        Raises:
            ConfigError: if it is none, or the audio cannot be.
        """
        if preset not in self._presets:
            raise ConfigError(
                f"preset {preset!r} is not served here; ask for one of {', '.join(self._presets)}"
            )
        found = self._presets[preset]
        backend = load_backend(found, self._config.backend)
        return StreamingSeparator(  # hop by hop: other streams fill the rounds
            backend, found.config, sample_rate, channels, block_size, together=1
        )

    def open(self, hello: Hello) -> Strip:
        """A strip for a new client.

        Raises:
            ConfigError: if it asks for what cannot be.
            ProtocolError: `too_many`, if there is no room.
        """
        preset = self._presets.get(hello.preset)
        if preset is not None and not self._scheduler.room(
            preset.config.sample_rate / preset.config.hop
        ):  # whoever is refused should cost the others nothing
            raise self._full()
        voice = Voice(
            self.separator, hello.preset, {}, {}, hello.rate, hello.channels, hello.block or None,
            (0.0, 1.0),
        )  # fmt: skip
        grain = math.gcd(hello.block or 1, voice.separator.hop)
        if frame_bytes(hello.format, 1, hello.channels, grain) > self._config.message_bytes:
            raise ConfigError(
                f"block {hello.block} needs frames of {grain} samples, more than "
                f"{self._config.message_bytes} bytes of a message hold; give another, or 0"
            )
        return Strip(voice, hello.stems)

    def voice(self, session: Session, control: Control) -> Voice:
        """Another voice for a session, as a control asks.

        Raises:
            StemwireError: if it cannot be loaded.
        """
        strip, hello, before = session.strip, session.hello, session.wished
        asked: dict[str, str] = {str(stem): name for stem, name in (control.effects or {}).items()}
        names = before.names | asked
        if unknown := sorted({name for name in names.values() if name} - set(self._config.effects)):
            known = ", ".join(self._config.effects) or "none"
            raise ConfigError(
                f"effects {', '.join(unknown)} are not known here; there are: {known}"
            )
        return Voice(
            self.separator, control.preset or before.preset,
            {stem: self._config.effects[name] for stem, name in names.items() if name}, names,
            hello.rate, hello.channels, math.gcd(hello.block, session.hop) if hello.block else None,
            strip.settings.gains(), control.id,
        )  # fmt: skip

    def serve(self, strip: Strip, deliver: Callable[[Exception | None], None]) -> None:
        """Have a strip served; `deliver` is called in a thread.

        Raises:
            ProtocolError: `too_many`, if there is no room.
        """
        separator = strip.voice.separator
        if not self._scheduler.add(strip, separator.sample_rate / separator.hop, deliver):
            raise self._full()

    def _full(self) -> ProtocolError:
        return ProtocolError(
            "too_many",
            f"one more stream would make the others late (load {self.load:.0%} of what this "
            "machine can do); try later, or another server",
        )

    def wake(self, strip: Strip) -> None:
        """Something was put into a strip."""
        self._scheduler.wake(strip)

    def remove(self, strip: Strip) -> None:
        """Serve it no more."""
        self._scheduler.remove(strip)

    def close(self) -> None:
        """End the threads."""
        self._scheduler.close()
