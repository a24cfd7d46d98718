"""The example configurations of nginx and HAProxy, each in front of two servers."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support import music

pytest.importorskip("websockets")
pytest.importorskip("msgspec")

import stemwire
from stemwire.bridge.client.async_separator import AsyncSeparator
from stemwire.bridge.server.config import ServerConfig
from stemwire.bridge.server.server import Server

pytestmark = pytest.mark.slow
EXAMPLES = Path(__file__).parents[3] / "examples" / "proxies"
RATE = 44_100


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@contextlib.contextmanager
def proxy(name: str, ports: list[int], folder: Path) -> Iterator[None]:
    """Run a proxy with its example configuration, except for the ports."""
    program = shutil.which(name) or shutil.which(f"/usr/sbin/{name}")
    if program is None:
        pytest.skip(f"{name} is not installed: apt-get install {name}")
    file = folder / ("nginx.conf" if name == "nginx" else "haproxy.cfg")
    text = (EXAMPLES / file.name).read_text()
    for old, new in zip(("8080", "8765", "8766"), ports, strict=True):
        text = text.replace(old, str(new))
    file.write_text(text)
    if name == "nginx":
        settings = f"daemon off; pid {folder}/pid; error_log {folder}/error.log;"
        command = [program, "-p", str(folder), "-c", str(file), "-g", settings]
    else:
        command = [program, "-db", "-f", str(file)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            end = time.monotonic() + 15
            while True:
                with (
                    contextlib.suppress(OSError),
                    socket.create_connection(("127.0.0.1", ports[0])),
                ):
                    break
                assert process.poll() is None, f"{name} has ended: see {folder}"
                assert time.monotonic() < end
                time.sleep(0.05)
            yield
        finally:
            process.terminate()


def status(port: int, path: str) -> int:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.parametrize("name", ["nginx", "haproxy"])
def test_clients_stay_on_their_machine_and_leave_an_unhealthy_one(
    name: str, tmp_path: Path
) -> None:
    ports = free_ports(3)
    song = 0.3 * music(RATE, RATE)
    wanted = stemwire.load("standard", RATE).flush(song)

    async def work() -> None:
        loop = asyncio.get_running_loop()

        def config(port: int) -> ServerConfig:
            return ServerConfig(port=port, threads=1, load=100.0, drain=0.2, presets=("standard",))

        url = f"ws://127.0.0.1:{ports[0]}"
        one, two = Server(config(ports[1])), Server(config(ports[2]))
        async with one, two, contextlib.AsyncExitStack() as stack:
            await asyncio.sleep(4)  # until the proxy has seen that they are there
            clients: list[AsyncSeparator] = []
            while len(clients) < 6 or not (
                one.sessions and two.sessions
            ):  # chance chooses the machine of each
                assert len(clients) < 32, "all went to one machine"
                clients.append(await stack.enter_async_context(await AsyncSeparator.open(url)))
            half = song.shape[1] // 2
            firsts = [await client.push(song[:, :half]) for client in clients]
            for connection in [*one._connections, *two._connections]:
                connection.websocket.transport.abort()
            for client, first in zip(clients, firsts, strict=True):
                stems = np.concatenate((first, await client.flush(song[:, half:])), 2)
                np.testing.assert_array_equal(stems, wanted)
                assert (
                    client.statistics.connections == 2
                )  # it resumed, and did not begin a new session
            assert await loop.run_in_executor(None, status, ports[0], "/") == 200
            assert await loop.run_in_executor(None, status, ports[0], "/metrics") == 403
            await two.drain()
            await asyncio.sleep(2.5)  # until the proxy has seen it
            for _ in range(4):
                async with await AsyncSeparator.open(url) as client:
                    np.testing.assert_array_equal(await client.flush(song), wanted)

    with proxy(name, ports, tmp_path):
        asyncio.run(work())
