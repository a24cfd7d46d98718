"""Messages that a server accepts, refuses and sends again, case by case."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from support import noise
from support.peer_cases import (
    HELLO,
    LIMITS,
    WELCOME,
    mixture,
    positions,
    resuming_hello,
    stems,
    welcomed_client,
    welcomed_server,
    with_changes,
)
from support.protocol_messages import refused

from stemwire.bridge.protocol import Data, Mixture, ServerPeer
from stemwire.bridge.protocol.messages import (
    STREAM_MODULUS,
    Flush,
    Flushed,
    Hello,
    Message,
    Ping,
    Reset,
    encode,
)


def test_a_server_expects_hello_first() -> None:
    server = ServerPeer()
    for data in (encode(Ping()), '{"type":"sing"}', mixture(0, 1)):
        with refused("state"):
            server.receive(data)
    server.receive(encode(HELLO))
    for data in (encode(Ping()), encode(HELLO), mixture(0, 1)):
        with refused("state"):
            server.receive(data)


def test_a_server_sends_stems_in_frames_within_the_limit() -> None:
    server, audio = welcomed_server(), noise(400)[None].repeat(2, 0)
    data = server.stems(server.journal.append(audio), audio)
    assert positions(data) == [(0, 126), (126, 126), (252, 126), (378, 22)]
    assert max(map(len, data)) <= LIMITS.message
    assert server.sent_frames == 4


def test_a_client_is_ahead_of_the_stems_sent() -> None:
    server, audio = welcomed_server(), np.zeros((2, 2, 200), np.float32)
    for k in range(5):
        server.receive(mixture(200 * k, 200, k))
    server.journal.append(audio)
    server.stems(0, audio)
    with refused("too_fast"):  # the stems are there, but still wait to be sent
        server.receive(mixture(1000, 1, 5))
    server.mark_sent(0, 200)
    assert server.receive(mixture(1000, 200, 5)).audio.shape == (2, 200)
    with refused("too_fast"):
        server.receive(mixture(1200, 1, 6))
    server.receive(encode(Reset()))
    assert server.receive(mixture(0, 200, 6, stream=1)).gap == 0


def after(*messages: Message | bytes, **of_welcome: Any) -> ServerPeer:
    """A server's end of a connection that broke after a client's messages."""
    server = welcomed_server(welcome=with_changes(WELCOME, **of_welcome))
    for message in messages:
        server.receive(message if isinstance(message, bytes) else encode(message))
    return server


def resume_and_welcome(before: ServerPeer, hello: Hello) -> tuple[tuple[int, int], list[Data]]:
    """Stream and position of the resume, and the messages after the welcome."""
    server = ServerPeer()
    server.receive(encode(hello))
    stream, position = server.resume_position(before)
    welcome = with_changes(WELCOME, stream=stream, position=position)
    data = server.welcome(welcome, before.journal)
    assert data[0] == encode(welcome)
    return (stream, position), data[1:]


def separated(server: ServerPeer, count: int) -> None:
    audio = np.zeros((2, 2, count), np.float32)
    server.stems(server.journal.append(audio), audio)


def test_a_server_sends_lost_stems_again() -> None:
    before = after(mixture(0, 200))
    separated(before, 150)
    place, data = resume_and_welcome(before, resuming_hello(0, 60))
    assert place == (0, 200) and positions(data) == [(60, 90)]
    assert resume_and_welcome(before, resuming_hello(0, 150)) == ((0, 200), [])


def test_stems_sent_again_make_room() -> None:
    before = after(mixture(0, 200))
    separated(before, 200)
    server = ServerPeer()
    server.receive(encode(resuming_hello(0, 0)))
    server.resume_position(before)
    server.welcome(with_changes(WELCOME, position=200), before.journal)
    for k in range(5):
        server.receive(mixture(200 + 200 * k, 200, k))


@pytest.mark.parametrize(
    "hello",
    [
        resuming_hello(0, 151),
        resuming_hello(0, 19),
        resuming_hello(0, 60, rate=8000),
        resuming_hello(0, 60, channels=1),
        resuming_hello(0, 60, format="s16"),
        resuming_hello(0, 60, block=64),
        resuming_hello(0, 60, stems=("mix",)),
    ],
)
def test_a_server_that_cannot_resume_raises(hello: Hello) -> None:
    before = after(mixture(0, 200))
    separated(before, 150)
    before.journal.forget(20)
    server = ServerPeer()
    server.receive(encode(hello))
    with refused("resume"):
        server.resume_position(before)


def test_a_flush_completes_wherever_the_connection_broke() -> None:
    before = after(mixture(0, 200))  # the flush itself was lost
    assert resume_and_welcome(before, resuming_hello(0, 0))[0] == (0, 200)
    before = after(mixture(0, 200), Flush())  # its work is not done yet
    separated(before, 150)
    place, data = resume_and_welcome(before, resuming_hello(0, 60))
    assert place == (1, 0) and positions(data) == [(60, 90)]
    separated(before, 150)
    before.journal.finish()  # it is done, and its end was lost
    place, data = resume_and_welcome(before, resuming_hello(0, 200))
    assert place == (1, 0) and positions(data) == [(200, 100)]
    assert data[-1] == encode(Flushed(stream=1, position=300))
    assert resume_and_welcome(before, resuming_hello(1, 0)) == ((1, 0), [])  # nothing was lost
    server = ServerPeer()
    server.receive(encode(resuming_hello(1, 5)))
    with refused("resume"):
        server.resume_position(before)


def test_flushed_is_sent_once_and_only_while_awaited() -> None:
    server = after(mixture(0, 10), Flush())
    assert server.flushing and server.flushed() == []
    separated(server, 110)
    server.journal.finish()
    assert server.flushed() == [encode(Flushed(stream=1, position=110))]
    assert not server.flushing and server.flushed() == []
    server.receive(mixture(0, 10, 1, stream=1))
    server = after(mixture(0, 10), Flush(), Reset())
    server.journal.finish()
    assert server.flushed() == []


def test_a_lost_reset_takes_effect_on_resume() -> None:
    before = after(mixture(0, 200))
    separated(before, 100)
    for stream in (1, 2):  # and one that called off a flush
        assert resume_and_welcome(before, resuming_hello(stream, 0)) == ((stream, 0), [])
    before = after(mixture(0, 200), Reset())  # or it came, and its work is not done yet
    separated(before, 100)
    assert resume_and_welcome(before, resuming_hello(1, 0)) == ((1, 0), [])


def test_stems_of_a_stream_that_the_client_left_are_not_sent() -> None:
    server = after(mixture(0, 200), Reset())
    audio = np.zeros((2, 2, 10), np.float32)
    assert server.stems(server.journal.append(audio), audio) == []
    server.journal.begin(1)
    assert positions(server.stems(server.journal.append(audio), audio)) == [(0, 10)]


def test_streams_wrap() -> None:
    last = STREAM_MODULUS - 1
    before = after(mixture(0, 10, stream=last), Flush(), stream=last)
    assert before.stream == 0
    separated(before, 110)
    before.journal.finish()
    place, data = resume_and_welcome(before, resuming_hello(last, 0))
    assert place == (0, 0) and data[-1] == encode(Flushed(stream=0, position=110))
    client = welcomed_client(welcome=with_changes(WELCOME, stream=last))
    client.mixture(noise(10))
    client.flush()
    client.receive(stems(0, 110, stream=last))
    client.receive(encode(Flushed(stream=0, position=110)))
    assert client.stream == 0
    assert json.loads(str(client.connect()[0]))["resume"]["stream"] == 0


def test_a_gap_is_an_event() -> None:
    server = welcomed_server()
    first = server.receive(mixture(0, 10))
    assert isinstance(first, Mixture) and first.gap == 0
    assert server.receive(mixture(25, 0, 1)).gap == 15
    assert server.receive(mixture(30, 5, 2)).gap == 5
    assert server.received == 35
