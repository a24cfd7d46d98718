"""Several server processes behind one port, and the signals that end them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from support import music
from support.server_calls import RATE, Audio, offline, run

pytest.importorskip("websockets")
pytest.importorskip("msgspec")

from stemwire.bridge.client.async_separator import AsyncSeparator
from stemwire.bridge.server.config import ServerConfig
from stemwire.bridge.server.separators import SeparatorPool, available_cores
from stemwire.errors import BridgeError


class Serving:
    """`stemwire serve` in processes of its own group, as a terminal starts it."""

    def __init__(self, *options: str) -> None:
        command = [sys.executable, "-m", "stemwire.cli", "serve", "--port", "0", *options]
        self.process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if line.startswith("stemwire: serving at"):
                self.port = int(line.rstrip("/\n").rpartition(":")[2])
                break

    def signal(self, number: int) -> None:
        """As a terminal does at Ctrl-C: to all processes at once."""
        os.killpg(self.process.pid, number)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_lets_streams_end_and_a_second_one_ends_at_once(workers: int, number: int) -> None:
    """One signal that reaches any number of processes, and is forwarded by the supervisor."""
    serving = Serving("--workers", str(workers), "--threads", "1", "--drain", "60")
    song = 0.3 * music(RATE, RATE)

    async def work() -> tuple[Audio, str]:
        url = f"ws://127.0.0.1:{serving.port}"
        async with await AsyncSeparator.open(url) as one:
            first = await one.push(song[:, :9999])
            serving.signal(number)
            await asyncio.sleep(2.5)
            assert serving.process.poll() is None
            rest = await one.flush(song[:, 9999:])
            serving.signal(number)
            with pytest.raises(BridgeError) as error:
                async with asyncio.timeout(30):
                    while True:
                        await one.push(song)
            return np.concatenate((first, rest), 2), str(error.value)

    try:
        stems, reason = run(work())
        assert serving.process.wait(20) == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            serving.signal(signal.SIGKILL)
        serving.process.wait()
        serving.process.stderr.close()
    np.testing.assert_array_equal(stems, offline(song))
    assert "ended the session" in reason or "lost" in reason


def test_workers_share_the_machine() -> None:
    whole = SeparatorPool(ServerConfig(threads=0, workers=1, presets=("standard",)))
    parts = [
        SeparatorPool(ServerConfig(threads=threads, workers=4, presets=("standard",)))
        for threads in (0, 1)
    ]
    given = [len(pool.scheduler._threads) * pool.scheduler._max_load for pool in (whole, *parts)]
    for pool in (whole, *parts):
        pool.close()
    assert len(whole.scheduler._threads) == available_cores()
    assert given[0] == pytest.approx(0.85 * available_cores())
    assert max(given[1:]) <= given[0] / 4 + 1e-9
