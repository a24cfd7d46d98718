"""A proxy on loopback between client and server that imitates a bad network.

    async with TcpProxy(server.port) as proxy:
        proxy.cuts.append(("down", 5000))  # the next connection ends after 5000 bytes to the client
        await open_something(f"ws://127.0.0.1:{proxy.port}")

It counts the bytes, and runs on the event loop that enters it.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from types import TracebackType
from typing import Literal, Self

Way = Literal["up", "down"]  # from the client, to the client
CHUNK = 1 << 16


class _Passage:
    """A client's connection and its connection to the server."""

    def __init__(self, *writers: asyncio.StreamWriter) -> None:
        self.writers = writers
        self.open = asyncio.Event()  # cleared: nothing passes, without notice
        self.open.set()

    def abort(self) -> None:
        for writer in self.writers:
            writer.transport.abort()


class TcpProxy:
    """Proxy that delays, limits and cuts connections.

    Args:
        port: port of the server.
        delay: delay in seconds, each way.
        jitter: maximum additional delay in seconds, random; the order stays.
        rate: maximum bytes per second, each way; 0 is unlimited.
        seed: seed of the random numbers.

    Attributes:
        port: port to connect to.
        cuts: for each connection to come, the direction and number of bytes after which both of
            its sides are reset; further connections are left alone.
        refusing: whether new connections are reset at once.
        bytes: bytes that have passed, by direction.
        connections: number of connections so far.
    """

    def __init__(
        self, port: int, delay: float = 0.0, jitter: float = 0.0, rate: float = 0.0, seed: int = 0
    ) -> None:
        self._target = port
        self._delay, self._jitter, self._rate = delay, jitter, rate
        self._random = random.Random(seed)
        self._passages: set[_Passage] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        self.cuts: deque[tuple[Way, int]] = deque()
        self.refusing = False
        self.bytes: dict[Way, int] = {"up": 0, "down": 0}
        self.connections = 0

    def cut(self) -> None:
        """Reset all connections now."""
        for passage in list(self._passages):
            passage.abort()

    def freeze(self) -> None:
        """Let nothing pass on the current connections, which stay open."""
        for passage in self._passages:
            passage.open.clear()

    def thaw(self) -> None:
        """Let everything pass again."""
        for passage in self._passages:
            passage.open.set()

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=CHUNK)
        self.port = self._listener.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._listener.close()
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        passage = _Passage(writer)
        try:
            if self.refusing:
                return
            to_server = await asyncio.open_connection("127.0.0.1", self._target, limit=CHUNK)
            passage = _Passage(writer, to_server[1])
            self._passages.add(passage)
            way, left = self.cuts.popleft() if self.cuts else ("up", -1)
            ends = {"up": (reader, to_server[1]), "down": (to_server[0], writer)}
            async with asyncio.TaskGroup() as both:
                for name, (source, sink) in ends.items():
                    both.create_task(
                        self._forward(passage, name, source, sink, left if name == way else -1)
                    )
        except* (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            passage.abort()
            self._passages.discard(passage)
            self._tasks.discard(task)

    async def _forward(
        self,
        passage: _Passage,
        way: Way,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        left: int,
    ) -> None:
        """Forward bytes, only `left` of them if that is not negative; then raise."""
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(64)
        loop = asyncio.get_running_loop()

        async def deliver() -> None:
            nonlocal left
            while True:
                due, data = await under_way.get()
                if due > loop.time():
                    await asyncio.sleep(due - loop.time())
                await passage.open.wait()
                part = data if left < 0 else data[:left]
                sink.write(part)
                await sink.drain()
                self.bytes[way] += len(part)
                if 0 <= left <= len(data):
                    raise ConnectionResetError("cut")
                left -= len(data) if left >= 0 else 0
                if not data:
                    raise ConnectionResetError("ended")
                if self._rate:
                    await asyncio.sleep(len(data) / self._rate)

        async def take() -> None:
            due = 0.0
            while True:
                await passage.open.wait()
                data = await source.read(CHUNK)
                late = self._delay + self._random.uniform(0.0, self._jitter)
                due = max(due, loop.time() + late)
                await under_way.put((due, data))
                if not data:
                    return

        async with asyncio.TaskGroup() as group:
            group.create_task(deliver())
            group.create_task(take())
