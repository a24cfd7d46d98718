"""A real server for tests: in their event loop, or in a thread behind a proxy."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from stemwire.bridge.server.config import ServerConfig
from stemwire.bridge.server.server import Server
from support import random_separator, tiny_config
from support.tcp_proxy import TcpProxy

T = TypeVar("T")
NAME = "small"  # name of the preset that is served


def config(**changes: Any) -> ServerConfig:
    """Settings for tests: a free port, short times, no refusals because the machine is busy."""
    return ServerConfig(**{"port": 0, "threads": 1, "drain": 0.5, "load": 100.0, **changes})


@functools.cache
def make_preset(temporary: Path) -> Path:
    """Preset as `tiny_preset`, but with longer hops, or tests would take thousands of them."""
    pytest.importorskip("torch")
    folder = temporary / "served"
    folder.mkdir()
    from stemwire.model.checkpoint import save_checkpoint
    from stemwire.training.trainer.export import export_preset

    network = tiny_config(analysis_window=512, hop=256, bands=((16, 16),))
    save_checkpoint(random_separator(network), folder / "tiny.safetensors")
    card = {"description": "random weights", "licence": "MIT"}
    export_preset(folder / "tiny.safetensors", folder / NAME, card)
    return folder / NAME


@contextlib.asynccontextmanager
async def serving(preset: Path, **changes: Any) -> AsyncIterator[tuple[Server, str]]:
    async with Server(config(presets=(str(preset),), **changes)) as server:
        yield server, f"ws://127.0.0.1:{server.port}"


def with_server(
    preset: Path, work: Callable[[Server, str], Awaitable[None]], **changes: Any
) -> None:
    """Run `work(server, url)`, for a minute at most."""

    async def run() -> None:
        async with asyncio.timeout(60), serving(preset, **changes) as (server, url):
            await work(server, url)

    asyncio.run(run())


class Running:
    """A running server and its proxy.

    Attributes:
        url: address through the proxy.
        direct: address without the proxy.
    """

    def __init__(self, server: Server, proxy: TcpProxy) -> None:
        self.server, self.proxy = server, proxy
        self.url = f"ws://127.0.0.1:{proxy.port}"
        self.direct = f"ws://127.0.0.1:{server.port}"
        self._loop = asyncio.get_running_loop()

    def do(self, work: Callable[[], T]) -> T:
        """Call a function in the server's thread."""

        async def call() -> T:
            return work()

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result(10)


@contextlib.contextmanager
def running(server_config: ServerConfig | None = None, **network: Any) -> Iterator[Running]:
    """Run a server and a proxy; `network` are arguments of `TcpProxy`."""
    ready = threading.Event()
    found: list[Running] = []
    failures: list[BaseException] = []
    ended: asyncio.Event
    loop: asyncio.AbstractEventLoop

    async def serve() -> None:
        nonlocal ended, loop
        ended, loop = asyncio.Event(), asyncio.get_running_loop()
        async with (
            Server(server_config or config()) as server,
            TcpProxy(server.port, **network) as proxy,
        ):
            found.append(Running(server, proxy))
            ready.set()
            await ended.wait()

    def run() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:
            failures.append(error)
        ready.set()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    ready.wait(60)
    if failures:
        raise failures[0]
    try:
        yield found[0]
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join(30)
    if failures:
        raise failures[0]
