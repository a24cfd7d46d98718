"""Messages that a client sends, accepts and refuses, case by case."""

from __future__ import annotations

import numpy as np
import pytest
from support import noise
from support.peer_cases import (
    HELLO,
    LIMITS,
    WELCOME,
    decode_all,
    mixture,
    positions,
    resuming_hello,
    stems,
    welcomed_client,
    with_changes,
)
from support.protocol_messages import refused

from stemwire.bridge.protocol import ClientPeer, Data, ReceivedStems
from stemwire.bridge.protocol.messages import (
    Control,
    Error,
    Flush,
    Flushed,
    Goodbye,
    Ping,
    Pong,
    Reset,
    State,
    Welcome,
    decode,
    encode,
    encode_frame,
)


def test_a_client_sends_mixture_in_frames_within_the_limit() -> None:
    client, audio = welcomed_client(), noise(600)
    sent = decode_all(client.mixture(audio[:, :500]) + client.mixture(audio[:, 500:]))
    assert [frame.sequence for frame in sent] == [0, 1, 2]
    assert all(len(encode_frame(frame, "f32")) <= LIMITS.message for frame in sent)
    np.testing.assert_array_equal(np.concatenate([frame.audio[0] for frame in sent], 1), audio)
    assert (client.sent, client.room) == (600, 400)
    assert client.mixture(audio[:, :0]) == []


def test_a_client_does_not_send_what_a_server_would_refuse() -> None:
    client = ClientPeer(HELLO)
    for call in (lambda: client.mixture(noise(1)), lambda: client.skip(1)):
        with refused("too_fast"):
            call()
    for end in (client.flush, client.reset):
        with refused("state"):
            end()
    client = welcomed_client()
    client.mixture(noise(990))
    for call in (lambda: client.mixture(noise(11)), lambda: client.skip(11)):
        with refused("too_fast"):
            call()
    for bad in (np.nan, np.inf, 2e6):
        with refused("audio"):
            client.mixture(np.full((2, 1), bad, np.float32))
    assert client.sent == 990
    assert decode_all(client.mixture(noise(10)))[0].position == 990  # nothing has happened
    client.flush()
    with refused("state"):
        client.flush()
    with refused("too_fast"):
        client.mixture(noise(1))


def test_a_client_keeps_its_promise_of_blocks() -> None:
    client = welcomed_client(with_changes(HELLO, block=480))  # hops of 64: multiples of 32
    sent = client.mixture(noise(960))
    assert positions(sent) == [(0, 224), (224, 224), (448, 224), (672, 224), (896, 64)]
    client.receive(stems(0, 960))
    client.mixture(noise(33))
    for call in (lambda: client.mixture(noise(1)), lambda: client.skip(32)):
        with refused("state"):
            call()
    client.flush()


def test_a_client_detects_violations_by_the_server() -> None:
    for code, data in {
        "sequence": [stems(0, 1), stems(1, 1)],
        "position": [stems(0, 5), stems(4, 1, 1)],
        "malformed": [mixture(0, 1)],
        "state": [encode(WELCOME)],
    }.items():
        client = welcomed_client()
        client.mixture(noise(100))
        for item in data[:-1]:
            client.receive(item)
        with refused(code):
            client.receive(data[-1])
    cases: list[tuple[str, Data]] = [
        ("sequence", stems(0, 1, stream=1)),
        ("position", stems(0, 101)),
        ("state", encode(Flushed(stream=1, position=0))),
        ("state", encode(HELLO)),
    ]
    for code, message in cases:
        client = welcomed_client()
        client.mixture(noise(100))
        with refused(code):
            client.receive(message)


def test_before_the_welcome_a_client_accepts_only_errors_and_goodbyes() -> None:
    for message in (stems(0, 1), encode(Flushed(stream=1, position=0)), encode(Ping())):
        client = ClientPeer(HELLO)
        client.connect()
        with refused("state"):
            client.receive(message)
    client = ClientPeer(HELLO)
    client.connect()
    assert client.receive(encode(Goodbye(reason="later"))) == (Goodbye(reason="later"), [])
    assert client.receive('{"type":"sing"}') == (None, [])
    with refused("config"):
        client.receive(encode(Error(code="config", text="no such preset")))
    with refused("position"):
        client.receive(encode(with_changes(WELCOME, position=1)))


def test_errors_end_a_client_except_for_an_invalid_control() -> None:
    client = welcomed_client()
    soft = Error(code="config", text="no such preset", id=4)
    assert client.receive(encode(soft)) == (soft, [])
    for code in ("internal", "moon"):
        with refused(code):
            client.receive(encode(Error(code=code, text="oh")))


def test_lost_stems_are_counted() -> None:
    client = welcomed_client()
    client.mixture(noise(300))
    event, _ = client.receive(stems(100, 50))
    assert (event.position, event.gap, client.lost, client.received) == (100, 100, 100, 150)
    client.flush()
    assert client.receive(stems(150, 200, 1))[0].gap == 0
    with refused("position"):
        client.receive(encode(Flushed(stream=1, position=349)))
    client.receive(encode(Flushed(stream=1, position=400)))
    assert (client.lost, client.stream, client.sent, client.received) == (150, 1, 0, 0)


def test_a_client_answers_pings_and_follows_the_latency() -> None:
    client = welcomed_client()
    assert client.receive(encode(Ping(id=3, time=1.5)))[1] == [encode(Pong(id=3, time=1.5))]
    assert client.latency == 100
    state = State(
        vocals=0,
        instrumental=0,
        mute=False,
        bypass=False,
        preset="low",
        effects={},
        latency=50,
        position=0,
    )
    assert client.receive(encode(state)) == (state, [])
    assert client.latency == 50


def test_the_journal_does_not_share_memory_with_the_caller() -> None:
    client, audio = welcomed_client(), noise(1000)
    wanted = audio.copy()
    client.mixture(audio[:, :600])
    client.mixture(audio[:, 600:], checked=True)
    audio[:] = -1.0
    client.connect()
    _, answers = client.receive(encode(with_changes(WELCOME, position=0)))
    again = np.concatenate([frame.audio[0] for frame in decode_all(answers)], 1)
    np.testing.assert_array_equal(again, wanted)


def test_the_caller_may_write_to_stems() -> None:
    client = welcomed_client()
    client.mixture(noise(300))
    event, _ = client.receive(stems(0, 50))
    event.audio[:] = 1.0


def test_a_gap_is_announced_at_once_and_again_after_a_resume() -> None:
    client = welcomed_client()
    client.mixture(noise(10))
    assert positions(client.skip(20)) == [(30, 0)]
    assert positions(client.mixture(noise(5))) == [(30, 5)]
    assert positions(client.skip(7)) == [(42, 0)]
    assert client.skip(0) == []
    assert client.room == LIMITS.ahead - 42
    client.connect()
    _, answers = client.receive(encode(with_changes(WELCOME, position=20)))
    assert positions(answers) == [(30, 5), (42, 0)]


def test_settings_are_repeated_one_by_one() -> None:
    client = ClientPeer(HELLO)
    assert client.control(Control(id=1, vocals=-10, mute=True)) == []
    client.connect()
    _, answers = client.receive(encode(WELCOME))
    assert decode_all(answers) == [Control(vocals=-10), Control(id=1, mute=True)]
    second = Control(id=2, vocals=-20, effects={"vocals": "hall"})
    assert decode_all(client.control(second)) == [second]
    client.control(Control(id=3, effects={"instrumental": "room"}))
    for begin in (client.connect, client.start_new_session):
        begin()
        client.connect()
        _, answers = client.receive(encode(WELCOME))
        assert decode_all(answers) == [
            Control(vocals=-20),
            Control(mute=True),
            Control(id=3, effects={"vocals": "hall", "instrumental": "room"}),
        ]


def test_a_client_resumes_and_sends_missing_mixture_again() -> None:
    client, audio = welcomed_client(), noise(300)
    client.mixture(audio[:, :200])
    client.receive(stems(0, 120))
    client.mixture(audio[:, 200:])
    wanted = audio.copy()
    audio[:] = 0.0  # the caller's array is the caller's
    hello = decode(str(client.connect()[0]), True)
    assert hello == resuming_hello(0, 120)
    assert client.room == 0
    _, answers = client.receive(encode(with_changes(WELCOME, position=150)))
    sent = decode_all(answers)
    assert sent[0].position == 150 and sent[0].sequence == 0
    np.testing.assert_array_equal(
        np.concatenate([part.audio[0] for part in sent], 1), wanted[:, 150:]
    )
    assert (client.connections, client.room) == (2, 1000 - 180)


def test_a_flush_that_was_lost_is_sent_again() -> None:
    client = welcomed_client()
    client.mixture(noise(200))
    client.flush()
    client.connect()
    _, answers = client.receive(encode(with_changes(WELCOME, position=150)))
    assert positions(answers) == [(150, 50)] and decode_all(answers)[1:] == [Flush()]
    client.connect()
    assert client.receive(encode(with_changes(WELCOME, stream=1)))[1] == []  # all has come
    client.receive(stems(0, 300))
    client.receive(encode(Flushed(stream=1, position=300)))
    assert (client.stream, client.lost, client.flushing) == (1, 0, False)


@pytest.mark.parametrize(("stream", "resets"), [(0, 2), (1, 1)])
def test_a_reset_between_hello_and_welcome_is_sent_after_it(stream: int, resets: int) -> None:
    """Two resets if the server has also missed the flush that began a stream."""
    client = welcomed_client()
    client.mixture(noise(200))
    client.flush()
    client.connect()
    assert client.reset() == []
    _, answers = client.receive(encode(with_changes(WELCOME, stream=stream)))
    assert decode_all(answers) == [Reset()] * resets
    assert client.receive(stems(0, 5, stream=stream)) == (None, [])
    assert positions(client.mixture(noise(5))) == [(0, 5)]
    assert client.receive(encode(Reset(stream=2)))[0] == Reset(stream=2)
    assert isinstance(client.receive(stems(0, 5, 1, stream=2))[0], ReceivedStems)


@pytest.mark.parametrize(
    "welcome",
    [
        with_changes(WELCOME, position=119),
        with_changes(WELCOME, position=201),
        with_changes(WELCOME, stream=1),
        with_changes(WELCOME, session="t", position=120),
    ],
)
def test_a_client_that_cannot_resume_raises(welcome: Welcome) -> None:
    client = welcomed_client()
    client.mixture(noise(200))
    client.receive(stems(0, 120))
    client.connect()
    with refused("resume"):
        client.receive(encode(welcome))
    client.start_new_session()
    assert decode(str(client.connect()[0]), True) == HELLO
    client.receive(encode(WELCOME))
    assert (client.sent, client.received, client.stream, client.flushing) == (0, 0, 0, False)


def test_stems_of_a_stream_that_was_reset_are_dropped() -> None:
    client = welcomed_client()
    client.mixture(noise(10))
    client.flush()
    assert decode_all(client.reset()) == [Reset()]
    assert client.stream == 2  # the flush began one as well
    client.mixture(noise(20))
    client.reset()
    assert client.receive(stems(0, 5)) == (None, [])
    for message in (Flushed(stream=1, position=110), Reset(stream=2)):
        assert client.receive(encode(message)) == (None, [])
    assert client.receive(stems(0, 5, 1, stream=2)) == (None, [])
    client.mixture(noise(30))
    assert client.receive(encode(Reset(stream=3))) == (Reset(stream=3), [])
    assert isinstance(client.receive(stems(0, 5, 2, stream=3))[0], ReceivedStems)
