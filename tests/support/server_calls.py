"""Requests to a server in the same event loop, for tests."""

from __future__ import annotations

import asyncio
import contextlib
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("websockets")
pytest.importorskip("msgspec")

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

import stemwire
from stemwire.bridge.client.async_separator import AsyncSeparator
from stemwire.bridge.protocol.messages import (
    MIX_FRAME,
    SUBPROTOCOL,
    Error,
    Frame,
    Hello,
    decode,
    encode,
    encode_frame,
)
from stemwire.bridge.server.server import Server

RATE = 44_100
Audio = np.ndarray[Any, np.dtype[np.float32]]


def run(work: Any) -> Any:
    async def bounded() -> Any:
        async with asyncio.timeout(120):
            return await work

    return asyncio.run(bounded())


def hello(**changes: Any) -> Hello:
    fields: dict[str, Any] = {
        "version": 1,
        "rate": RATE,
        "channels": 2,
        "stems": ("vocals", "instrumental"),
    }
    return Hello(**{**fields, **changes})


@contextlib.asynccontextmanager
async def websocket_to(server: Server, **more: Any) -> AsyncIterator[ClientConnection]:
    url = f"ws://127.0.0.1:{server.port}/stream"
    async with connect(url, subprotocols=[SUBPROTOCOL], compression=None, **more) as websocket:
        yield websocket


async def request(websocket: ClientConnection, message: Any) -> Any:
    """Send a message; returns the answer."""
    await websocket.send(encode(message) if not isinstance(message, str | bytes) else message)
    return decode(await websocket.recv(), from_client=False)


async def error_code(websocket: ClientConnection, *messages: Any) -> str:
    """Error code with which a server closes the connection after these messages."""
    code = ""
    with contextlib.suppress(ConnectionClosed):
        for message in messages:
            await websocket.send(message if isinstance(message, str | bytes) else encode(message))
        while True:
            data = await websocket.recv()
            if isinstance(data, str):
                message = decode(data, from_client=False)
                code = message.code if isinstance(message, Error) else code
    assert websocket.close_code in (1001, 1008, 1009), (websocket.close_code, code)
    return code


def frame(position: int, audio: Audio, sequence: int = 0, stream: int = 0) -> bytes:
    return encode_frame(Frame(MIX_FRAME, stream, sequence, position, audio[None]), "f32")


def offline(song: Audio, preset: str = "standard", block: int | None = None) -> Audio:
    return stemwire.load(preset, RATE, song.shape[0], block).flush(song)


async def stems_of(server: Server, song: Audio, seed: int, **more: Any) -> Audio:
    """Stems of a song that the server separates in blocks of random sizes."""
    rng = np.random.default_rng(seed)
    url = f"ws://127.0.0.1:{server.port}"
    async with await AsyncSeparator.open(url, sample_rate=RATE, **more) as separator:
        parts, at = [], 0
        while at < song.shape[1]:
            count = int(rng.integers(1, 3000))
            parts.append(await separator.push(song[:, at : at + count]))
            at += count
        parts.append(await separator.flush())
    return np.concatenate(parts, 2)


def get(server: Server, path: str, **headers: str) -> tuple[int, str, Any]:
    request = urllib.request.Request(f"http://127.0.0.1:{server.port}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode(), answer.headers
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(), error.headers
