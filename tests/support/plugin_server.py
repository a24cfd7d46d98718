"""A real server in a process of its own, for the tests of the plugin.

with serving() as server:           # the presets that ship
    server.url
with serving(gain=0.25) as server:  # vocals are exactly the mixture times 0.25
    server.kill()
    server.start()                  # at the same address

`gain` replaces the server's separator by one whose stems are known at every sample, wherever a
session begins, so that separated and dry output can be distinguished. Its latency is a real one's.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

Audio = NDArray[np.float32]


class GainSeparator:
    """Stands in for a `StreamingSeparator`; its vocals are the mixture times a gain."""

    stems = ("vocals", "instrumental")
    hop = 512
    latency = 1023
    backend = stream = None
    hop_times: Any = None

    def __init__(self, gain: float, sample_rate: int, channels: int) -> None:
        self.sample_rate, self.channels, self.block_size = sample_rate, channels, None
        self._gain = np.float32(gain)
        self.reset()

    def reset(self) -> None:
        self._held = np.zeros((self.channels, self.latency), np.float32)

    def push(self, block: Audio) -> Audio:
        held = np.concatenate((self._held, block), 1)
        mixture, self._held = held[:, : block.shape[1]], held[:, block.shape[1] :].copy()
        vocals = self._gain * mixture
        return np.stack((vocals, mixture - vocals))

    def steps(self, block: Audio) -> Any:
        return self.push(block)
        yield

    def flush_steps(self, block: Audio | None = None) -> Any:
        tail = np.zeros((self.channels, self.latency), np.float32)
        stems = self.push(tail if block is None else np.concatenate((block, tail), 1))
        self.reset()
        return stems
        yield


async def serve(port: int, presets: tuple[str, ...], gain: float | None) -> None:
    from stemwire.bridge.server.config import ServerConfig
    from stemwire.bridge.server.separators import SeparatorPool
    from stemwire.bridge.server.server import Server
    from stemwire.realtime.timing import TimeHistogram

    if gain is not None:
        GainSeparator.hop_times = TimeHistogram()

        def separator(
            self: Any, preset: str, rate: int, channels: int, block: int | None
        ) -> GainSeparator:
            return GainSeparator(gain, rate, channels)

        SeparatorPool.open_separator = separator  # type: ignore[assignment,method-assign]
    # Admission, and how many cores this machine has, are not what is tested here.
    config = ServerConfig(port=port, presets=presets, threads=1, load=100.0, drain=0.5)
    async with Server(config) as server:
        print(server.port, flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


class ServerProcess:
    """Process of a server.

    Attributes:
        port: port at which it listens, also after a restart.
    """

    def __init__(self, *options: str) -> None:
        self._options = options
        self.port = 0
        self._process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    def start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__)), "--port", str(self.port), *self._options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    def stop(self) -> None:
        """Shut it down in order."""
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait(30)
            self._process = None

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(30)
            self._process = None

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)


@contextlib.contextmanager
def serving(
    presets: tuple[str, ...] = ("standard", "low"), gain: float | None = None
) -> Iterator[ServerProcess]:
    """Run a server until the `with` block ends."""
    options = [option for preset in presets for option in ("--preset", preset)]
    server = ServerProcess(*options, *(() if gain is None else ("--gain", str(gain))))
    server.start()
    try:
        yield server
    finally:
        server.kill()


def main() -> NoReturn:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--preset", action="append", default=[])
    parser.add_argument("--gain", type=float)
    args = parser.parse_args()
    asyncio.run(serve(args.port, tuple(args.preset), args.gain))
    raise SystemExit(0)


if __name__ == "__main__":
    main()
