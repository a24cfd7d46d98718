"""Websockets that hand on what comes: every message, in order, whichever way it takes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosedError, ConnectionClosedOK

from stemwire.bridge.wire import Prompt, ServerWire

Message = tuple[str, bytes, int, bool]  # kind, content, size of the pieces or 0, pause after it
Hear = Callable[[str | bytes], bool]


@contextlib.asynccontextmanager
async def listening(
    hear: Hear, before: float = 0.0
) -> AsyncIterator[tuple[ClientConnection, asyncio.Future[BaseException | None]]]:
    """A client, and how the listening at the other end ends, which begins a while after `before`.

    What comes before the listening waits in the queue.
    """
    ended: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()

    async def handle(websocket: ServerConnection) -> None:
        assert isinstance(websocket, Prompt)
        assert await websocket.message() == "hello"
        await asyncio.sleep(before)
        try:
            await websocket.listen(hear)
        except Exception as error:
            ended.set_result(error)
        else:
            ended.set_result(None)

    async with (
        asyncio.timeout(20),
        serve(handle, "127.0.0.1", 0, create_connection=ServerWire, compression=None) as server,
        connect(
            f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}", compression=None
        ) as client,
    ):
        await client.send("hello")
        yield client, ended


def text_or_bytes(kind: str, content: bytes) -> str | bytes:
    return content.hex() if kind == "text" else content


messages = st.lists(
    st.tuples(
        st.sampled_from(["text", "binary"]), st.binary(max_size=600), st.sampled_from([0, 100]),
        st.booleans(),
    )
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(messages, st.sampled_from([0.0, 0.01]))
def test_all_messages_in_their_order(sent: list[Message], before: float) -> None:
    heard: list[str | bytes] = []

    async def run() -> None:
        async with listening(lambda data: bool(heard.append(data)), before) as (client, ended):
            for kind, content, piece, pause in sent:
                data = text_or_bytes(kind, content)
                if piece and data:
                    await client.send([data[at : at + piece] for at in range(0, len(data), piece)])
                else:
                    await client.send(data)
                if pause:
                    await asyncio.sleep(0)  # what was sent may be read now
            await client.close()
            assert isinstance(await ended, ConnectionClosedOK)

    asyncio.run(run())
    assert heard == [text_or_bytes(kind, content) for kind, content, *_ in sent]


@pytest.mark.parametrize("bad", ["bad", b"bad"])
@pytest.mark.parametrize("before", [0.0, 0.05])
def test_an_error_ends_the_listening(bad: str | bytes, before: float) -> None:
    heard: list[str | bytes] = []

    def hear(data: str | bytes) -> bool:
        heard.append(data)
        if data == bad:
            raise ValueError("that was bad")
        return False

    async def run() -> None:
        async with listening(hear, before) as (client, ended):
            for data in ("one", b"two", bad, b"three", "four"):
                await client.send(data)
            error = await ended
            assert isinstance(error, ValueError) and str(error) == "that was bad"

    asyncio.run(run())
    assert heard == ["one", b"two", bad]


@pytest.mark.parametrize("last", ["last", b"last"])
@pytest.mark.parametrize("before", [0.0, 0.05])
def test_nothing_is_heard_after_the_last(last: str | bytes, before: float) -> None:
    heard: list[str | bytes] = []

    def hear(data: str | bytes) -> bool:
        heard.append(data)
        return data == last

    async def run() -> None:
        async with listening(hear, before) as (client, ended):
            for data in (b"one", last, b"three"):
                await client.send(data)
            assert await ended is None

    asyncio.run(run())
    assert heard == [b"one", last]


def test_a_broken_connection_is_told() -> None:
    heard: list[str | bytes] = []

    async def run() -> None:
        async with listening(lambda data: bool(heard.append(data))) as (client, ended):
            await client.send(b"one")
            await asyncio.sleep(0.05)
            client.transport.abort()
            assert isinstance(await ended, ConnectionClosedError)

    asyncio.run(run())
    assert heard == [b"one"]
