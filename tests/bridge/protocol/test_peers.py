"""Both peers with arbitrary input, and over long times."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import Audio, noise
from support.peer_cases import (
    HELLO,
    LIMITS,
    mixture,
    stems,
    welcomed_client,
    welcomed_server,
)
from support.protocol_messages import either, frames

from stemwire.bridge.protocol import ClientPeer, Data, ServerPeer
from stemwire.bridge.protocol.messages import Flush, Flushed, Reset, encode, encode_frame
from stemwire.errors import ProtocolError

messages = st.one_of(
    st.binary(max_size=100), st.text(max_size=100), either.map(lambda sent: encode(sent[0])),
    frames().map(lambda frame: encode_frame(frame, "f32")),
    st.builds(mixture, st.integers(0, 20), st.integers(0, 5), st.integers(0, 3), st.integers(0, 2)),
    st.builds(stems, st.integers(0, 20), st.integers(0, 5), st.integers(0, 3), st.integers(0, 2)),
    st.sampled_from([encode(Flush()), encode(Reset()), encode(Reset(stream=1))]),
    st.just(encode(Flushed(stream=1, position=9))),
)  # fmt: skip


def attempt(client: ClientPeer, server: ServerPeer, data: list[Data]) -> None:
    for item in data:
        for peer in (client, server):
            try:
                peer.receive(item)
            except ProtocolError:
                continue
    assert server.received >= 0 and client.sent - client.received <= LIMITS.ahead


@given(st.lists(messages, max_size=30), st.booleans(), st.booleans())
@settings(max_examples=200)
def test_arbitrary_input_raises_only_protocol_errors(
    data: list[Data], welcomed: bool, flushing: bool
) -> None:
    client, server = (
        (welcomed_client(), welcomed_server()) if welcomed else (ClientPeer(HELLO), ServerPeer())
    )
    if welcomed:
        client.mixture(noise(10))
        if flushing:
            client.flush()
    attempt(client, server, data)


@pytest.mark.slow
@given(st.lists(messages, max_size=30))
@settings(max_examples=2000)
def test_a_long_run_of_arbitrary_input(data: list[Data]) -> None:
    client = welcomed_client()
    client.mixture(noise(10))
    attempt(client, welcomed_server(), data)


def test_a_long_session_takes_no_more_memory() -> None:
    client, server = welcomed_client(), welcomed_server()
    block: Audio = noise(100)

    def hundred_rounds() -> None:
        for _ in range(100):
            for message in client.mixture(block):
                event = server.receive(message)
                audio = event.audio[None].repeat(2, 0)
                position = server.journal.append(audio)
                for answer in server.stems(position, audio):
                    client.receive(answer)
                server.mark_sent(0, server.journal.end)

    tracemalloc.start()
    hundred_rounds()
    before, _ = tracemalloc.get_traced_memory()
    for _ in range(5):
        hundred_rounds()
    after, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert client.received == 60_000
    assert after - before < 20_000 and most - before < 100_000
