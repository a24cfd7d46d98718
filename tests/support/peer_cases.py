"""Peers after the handshake, and messages of the other end, for tests."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from stemwire.bridge.protocol import ClientPeer, Data, Journal, ServerPeer
from stemwire.bridge.protocol.messages import (
    HEADER,
    MIX_FRAME,
    STEMS_FRAME,
    Frame,
    Hello,
    Limits,
    Resume,
    Welcome,
    decode,
    decode_frame,
    encode,
    encode_frame,
)

KEY = "0123456789abcdef"
HELLO = Hello(version=1, rate=44_100, channels=2, stems=("vocals", "instrumental"))
LIMITS = Limits(message=2048, ahead=1000, grace=30.0, idle=60.0)
WELCOME = Welcome(version=1, session="s", key=KEY, latency=100, hop=64, limits=LIMITS)


def with_changes(message: Any, **changes: Any) -> Any:
    return msgspec.structs.replace(message, **changes)


def resuming_hello(stream: int, position: int, **changes: Any) -> Hello:
    resume = Resume(session="s", key=KEY, stream=stream, position=position)
    return with_changes(HELLO, resume=resume, **changes)  # type: ignore[no-any-return]


def welcomed_client(hello: Hello = HELLO, welcome: Welcome = WELCOME) -> ClientPeer:
    """A client that has been welcomed."""
    client = ClientPeer(hello)
    client.connect()
    assert client.receive(encode(welcome)) == (welcome, [])
    return client


def welcomed_server(hello: Hello = HELLO, welcome: Welcome = WELCOME) -> ServerPeer:
    """A server that has welcomed a new client."""
    server = ServerPeer()
    assert server.receive(encode(hello)) == hello
    journal = Journal(welcome.limits.ahead + welcome.latency)
    journal.begin(welcome.stream)
    assert server.welcome(welcome, journal) == [encode(welcome)]
    return server


def stems(position: int, count: int, sequence: int = 0, stream: int = 0) -> bytes:
    audio = np.full((2, 2, count), 0.5, np.float32)
    return encode_frame(Frame(STEMS_FRAME, stream, sequence, position, audio), "f32")


def mixture(position: int, count: int, sequence: int = 0, stream: int = 0) -> bytes:
    audio = np.full((1, 2, count), 0.5, np.float32)
    return encode_frame(Frame(MIX_FRAME, stream, sequence, position, audio), "f32")


def decode_all(data: list[Data]) -> list[Any]:
    """Decode a client's frames of mixture and its messages."""
    return [
        decode_frame(item, "f32", MIX_FRAME, 1, 2)
        if isinstance(item, bytes)
        else decode(item, True)
        for item in data
    ]


def positions(data: list[Data]) -> list[tuple[int, int]]:
    """(position, count) of the frames among messages."""
    return [HEADER.unpack_from(item)[4:6] for item in data if isinstance(item, bytes)]
