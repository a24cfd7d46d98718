"""Websockets that pass messages on: every message, in order, whichever path it takes."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import weakref
from collections.abc import AsyncIterator, Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve

from stemwire.bridge.websocket import DirectConnection, ServerWebSocket

Message = tuple[str, bytes, int, bool]  # kind, content, size of the pieces or 0, pause after it
MessageHandler = Callable[[str | bytes], bool]


@contextlib.asynccontextmanager
async def listening(
    begin: Callable[[], MessageHandler], before: float = 0.0
) -> AsyncIterator[tuple[ClientConnection, asyncio.Future[str]]]:
    """A client, and the way in which the listening at the other end ends.

    It begins `before` seconds late; messages that arrive earlier wait in the queue.
    """
    ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def handle(websocket: ServerConnection) -> None:
        assert isinstance(websocket, DirectConnection)
        assert await websocket.next_message() == "hello"
        await asyncio.sleep(before)
        try:
            await websocket.listen(begin())
        except Exception as error:
            ended.set_result(f"{type(error).__name__}: {error}")
        else:
            ended.set_result("the last")

    async with (
        asyncio.timeout(20),
        serve(
            handle, "127.0.0.1", 0, create_connection=ServerWebSocket, compression=None
        ) as server,
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
    received: list[str | bytes] = []

    async def run() -> None:
        async with listening(lambda: lambda data: bool(received.append(data)), before) as (
            client,
            ended,
        ):
            for kind, content, piece, pause in sent:
                data = text_or_bytes(kind, content)
                if piece and data:
                    await client.send([data[at : at + piece] for at in range(0, len(data), piece)])
                else:
                    await client.send(data)
                if pause:
                    await asyncio.sleep(0)  # what was sent may be read now
            await client.close()
            assert (await ended).startswith("ConnectionClosedOK")

    asyncio.run(run())
    assert received == [text_or_bytes(kind, content) for kind, content, *_ in sent]


@pytest.mark.parametrize("bad", ["bad", b"bad"])
@pytest.mark.parametrize("before", [0.0, 0.05])
@pytest.mark.parametrize("pause", [0.0, 0.1])  # then all comes at once to one who listens
def test_an_error_ends_the_listening(bad: str | bytes, before: float, pause: float) -> None:
    received: list[str | bytes] = []

    def hear(data: str | bytes) -> bool:
        received.append(data)
        if data == bad:
            raise ValueError("that was bad")
        return False

    async def run() -> None:
        async with listening(lambda: hear, before) as (client, ended):
            await asyncio.sleep(pause)
            for data in (b"one", b"two", bad, "three", b"four"):
                await client.send(data)
            assert await ended == "ValueError: that was bad"

    asyncio.run(run())
    assert received == [b"one", b"two", bad]


@pytest.mark.parametrize("last", ["last", b"last"])
@pytest.mark.parametrize("before", [0.0, 0.05])
@pytest.mark.parametrize("pause", [0.0, 0.1])  # then all comes at once to one who listens
def test_the_handler_is_not_called_after_the_last_message(
    last: str | bytes, before: float, pause: float
) -> None:
    received: list[str | bytes] = []

    def hear(data: str | bytes) -> bool:
        received.append(data)
        return data == last

    async def run() -> None:
        async with listening(lambda: hear, before) as (client, ended):
            await asyncio.sleep(pause)
            for data in (b"one", last, "two", b"three"):
                await client.send(data)
            assert await ended == "the last"

    asyncio.run(run())
    assert received == [b"one", last]


def test_a_broken_connection_ends_the_listening() -> None:
    received: list[str | bytes] = []

    async def run() -> None:
        async with listening(lambda: lambda data: bool(received.append(data))) as (client, ended):
            await client.send(b"one")
            await asyncio.sleep(0.05)
            client.transport.abort()
            assert (await ended).startswith("ConnectionClosedError")

    asyncio.run(run())
    assert received == [b"one"]


@pytest.mark.parametrize("end", ["close", "abort", "error", "last"])
def test_an_ended_connection_is_freed(end: str) -> None:
    """Sessions are large: ended ones must be freed without the garbage collector."""

    class Session:
        def hear(self, data: str | bytes) -> bool:
            if data == b"error":
                raise ValueError("that was bad")
            return data == b"last"

    async def run() -> None:
        kept: list[weakref.ref[Session]] = []

        def begin() -> MessageHandler:
            session = Session()
            kept.append(weakref.ref(session))
            return session.hear

        async with listening(begin) as (client, ended):
            await client.send(b"one")
            await asyncio.sleep(0.05)
            if end == "close":
                await client.close()
            elif end == "abort":
                client.transport.abort()
            else:
                await client.send(end.encode())
            await ended
        assert [session() for session in kept] == [None]

    gc.disable()
    try:
        asyncio.run(run())
    finally:
        gc.enable()
