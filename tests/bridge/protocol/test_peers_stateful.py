"""Client and server over connections that break anywhere: every sample is accounted for.

The server is a model around the real `ServerPeer` and `Journal`; its separator is small and has a
memory, so that a sample lost, repeated or moved changes all stems after it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support import Audio

from stemwire.bridge.protocol import ClientPeer, Data, Journal, Mixture, ReceivedStems, ServerPeer
from stemwire.bridge.protocol.messages import (
    HEADER,
    STREAM_MODULUS,
    Control,
    Flush,
    Flushed,
    Format,
    Hello,
    Limits,
    Ping,
    Pong,
    Reset,
    State,
    Welcome,
    encode,
)

LATENCY, HOP = 7, 4
LIMITS = Limits(message=64, ahead=40, grace=30.0, idle=60.0)
KEY = "0123456789abcdef"


class Separation:
    """Two stems: the delayed mixture, and a sum that depends on all samples and their positions.

    All values are multiples of 1/128, exact in 16 bits.
    """

    def __init__(self, channels: int) -> None:
        self._past = np.zeros((channels, LATENCY), np.int64)
        self._sum = np.zeros((channels, 1), np.int64)
        self._position = 0

    def push(self, audio: Audio) -> Audio:
        steps = np.rint(audio * 128).astype(np.int64)
        count = steps.shape[1]
        self._past = np.concatenate((self._past, steps), 1)
        weights = 1 + (self._position + np.arange(count)) % 5
        sums = self._sum + np.cumsum(weights * steps, 1)
        self._sum = sums[:, count - 1 :] if count else self._sum
        self._position += count
        delayed, self._past = self._past[:, :count], self._past[:, count:]
        return (np.stack((delayed, sums % 61)) / 128).astype(np.float32)

    def tail(self) -> Audio:
        """Stems that a flush returns."""
        channels = len(self._past)
        return self.push(np.zeros((channels, LATENCY if self._position else 0), np.float32))


@dataclass
class Wire:
    """A connection: messages in transit, and the server's end."""

    up: deque[Data] = field(default_factory=deque)
    down: deque[Data] = field(default_factory=deque)
    peer: ServerPeer = field(default_factory=ServerPeer)
    session: Session | None = None


class Session:
    """A server's session, as docs/protocol.md describes it."""

    def __init__(self, name: str, channels: int, stream: int) -> None:
        self.name, self._channels, self._first = name, channels, stream
        self.peer: ServerPeer | None = None  # that was let in last
        self.wire: Wire | None = None
        self.work: deque[Any] = deque()
        self.vocals = -200.0
        self._separation = Separation(channels)
        self.journal = Journal(LIMITS.ahead + LATENCY)
        self.journal.begin(stream)

    def attach(self, wire: Wire) -> None:
        stream, position = self._first, 0
        if self.peer is not None:
            stream, position = wire.peer.resume_position(self.peer)
            if stream != self.peer.stream:
                self._reset(stream)
        welcome = Welcome(
            version=1,
            session=self.name,
            key=KEY,
            latency=LATENCY,
            hop=HOP,
            stream=stream,
            position=position,
            limits=LIMITS,
        )
        self.send(wire.peer.welcome(welcome, self.journal), wire)
        self.peer, self.wire, wire.session = wire.peer, wire, self

    def send(self, data: list[Data], wire: Wire | None = None) -> None:
        wire = wire or self.wire
        for message in data if wire is not None else ():
            wire.down.append(message)
            if isinstance(message, bytes):
                _, _, stream, _, position, count, _ = HEADER.unpack_from(message)
                wire.peer.mark_sent(stream, position + count)

    def hear(self, event: Any, stream: int) -> None:
        if isinstance(event, Reset):
            self._reset(stream)
        elif isinstance(event, Ping):
            self.send([encode(Pong(id=event.id, time=event.time))])
        elif event is not None:
            self.work.append(event)

    def _reset(self, stream: int) -> None:
        controls = [item for item in self.work if isinstance(item, Control)]
        self.work = deque([*controls, stream])

    def step(self) -> None:
        """Carry out the next event."""
        item, peer = self.work.popleft(), self.peer
        assert peer is not None
        if isinstance(item, Mixture):
            silence = np.zeros((self._channels, item.gap), np.float32)
            self._stems(self._separation.push(np.concatenate((silence, item.audio), 1)))
        elif isinstance(item, Flush):
            self._stems(self._separation.tail())
            self._separation = Separation(self._channels)
            self.journal.finish()
            self.send(peer.flushed())
        elif isinstance(item, Control):
            self.vocals = self.vocals if item.vocals is None else item.vocals
            state = State(
                id=item.id,
                vocals=self.vocals,
                instrumental=0.0,
                mute=False,
                bypass=False,
                preset="standard",
                effects={},
                latency=LATENCY,
                position=self.journal.end,
            )
            self.send([encode(state)])
        else:
            self._separation = Separation(self._channels)
            self.journal.begin(item)
            self.send([encode(Reset(stream=item))])

    def _stems(self, stems: Audio) -> None:
        assert self.peer is not None
        self.send(self.peer.stems(self.journal.append(stems), stems))


class Stream:
    """The expected stream: its stems over an unbroken connection."""

    def __init__(self, channels: int) -> None:
        self._separation = Separation(channels)
        self.stems = np.zeros((2, channels, 0), np.float32)
        self.received = 0

    def push(self, audio: Audio) -> None:
        self.stems = np.concatenate((self.stems, self._separation.push(audio)), 2)

    def flush(self) -> None:
        self.stems = np.concatenate((self.stems, self._separation.tail()), 2)

    def check(self, event: ReceivedStems) -> None:
        assert (event.position, event.gap) == (self.received, 0)
        self.received += event.audio.shape[2]
        wanted = self.stems[..., event.position : self.received]
        np.testing.assert_array_equal(event.audio, wanted)


some_messages = st.integers(0, 12)


class Connections(RuleBasedStateMachine):
    """Everything that can happen, in any order."""

    @initialize(
        channels=st.integers(1, 2),
        format=st.sampled_from(["f32", "s16"]),
        block=st.sampled_from([0, 6]),
        first=st.sampled_from([0, STREAM_MODULUS - 2]),
        met=st.booleans(),
    )
    def begin(self, channels: int, format: Format, block: int, first: int, met: bool) -> None:
        self.channels, self.first, self.grain = channels, first, 2 if block else 1
        hello = Hello(
            version=1,
            rate=44_100,
            channels=channels,
            format=format,
            block=block,
            stems=("vocals", "instrumental"),
        )
        self.client = ClientPeer(hello)
        self.sessions: dict[str, Session] = {}
        self.wire: Wire | None = None
        self.stream = Stream(channels)
        self.controls, self.vocals = 0, -200.0
        self.answered: set[int] = set()
        self.finished = 0
        if met:
            self.meet()

    # --- what the client does

    @precondition(lambda self: self.wire is None)
    @rule()
    def connect(self) -> None:
        self.wire = Wire()
        self.write(self.client.connect())

    @precondition(lambda self: self.client.room >= self.grain)
    @rule(counts=st.lists(st.integers(1, 20), min_size=1, max_size=4), seed=st.integers(0, 1000))
    def play(self, counts: list[int], seed: int) -> None:
        for count in counts:
            if self.client.room >= self.grain:
                self.push(self.some(count), seed + count)

    def push(self, count: int, seed: int) -> None:
        audio = np.random.default_rng(seed).integers(-128, 128, (self.channels, count)) / 128
        block = audio.astype(np.float32)
        self.stream.push(block)
        data = self.client.mixture(block)
        block[:] = np.nan  # the caller's array is the caller's
        self.write(data)

    @precondition(lambda self: self.client.room >= self.grain)
    @rule(count=st.integers(1, 20))
    def skip(self, count: int) -> None:
        count = self.some(count)
        self.stream.push(np.zeros((self.channels, count), np.float32))
        self.write(self.client.skip(count))

    @precondition(lambda self: self.client.welcome is not None and not self.client.flushing)
    @rule(short=st.booleans())
    def flush(self, short: bool) -> None:
        if short and self.client.room:
            block = np.full((self.channels, 1), 0.5, np.float32)
            self.stream.push(block)
            self.write(self.client.mixture(block))
        self.stream.flush()
        self.write(self.client.flush())

    @precondition(lambda self: self.client.welcome is not None)
    @rule()
    def reset(self) -> None:
        self.write(self.client.reset())
        self.stream = Stream(self.channels)

    @rule(vocals=st.integers(-100, 20))
    def control(self, vocals: int) -> None:
        self.controls += 1
        self.vocals = float(vocals)
        self.write(self.client.control(Control(id=self.controls, vocals=self.vocals)))

    @precondition(lambda self: self.client.connected)
    @rule(id=st.integers(0, 100))
    def ping(self, id: int) -> None:
        self.write(self.client.send(Ping(id=id)))

    def client_reads(self, count: int) -> None:
        assert self.wire is not None
        for _ in range(min(count, len(self.wire.down))):
            event, answers = self.client.receive(self.wire.down.popleft())
            self.write(answers)
            if isinstance(event, ReceivedStems):
                self.stream.check(event)
            elif isinstance(event, Flushed):
                assert event.position == self.stream.received == self.stream.stems.shape[2]
                self.stream = Stream(self.channels)
                self.finished += 1
            elif isinstance(event, State):
                self.answered.add(event.id)

    # --- what the server does

    def server_reads(self, count: int) -> None:
        wire = self.wire
        assert wire is not None
        for _ in range(min(count, len(wire.up))):
            event = wire.peer.receive(wire.up.popleft())
            if isinstance(event, Hello):
                session = self.sessions.get(event.resume.session) if event.resume else None
                if session is None:
                    assert event.resume is None
                    name = str(len(self.sessions))
                    session = self.sessions[name] = Session(name, self.channels, self.first)
                session.attach(wire)
            else:
                assert wire.session is not None
                wire.session.hear(event, wire.peer.stream)

    def server_works(self, count: int) -> None:
        for session in self.sessions.values():
            for _ in range(min(count, len(session.work))):
                session.step()

    # --- what fate does

    @precondition(lambda self: self.wire is not None)
    @rule(up=some_messages, work=some_messages, down=some_messages)
    def time_passes(self, up: int, work: int, down: int) -> None:
        """Deliver some messages, and carry out some events."""
        self.server_reads(up)
        self.server_works(work)
        self.client_reads(down)

    @precondition(lambda self: self.wire is not None)
    @rule(client_knows=st.booleans(), server_knows=st.booleans(), again=st.booleans())
    def the_connection_breaks(self, client_knows: bool, server_knows: bool, again: bool) -> None:
        """Whatever is under way is lost, both ways."""
        assert self.wire is not None
        session, self.wire = self.wire.session, None
        if client_knows:
            self.client.connected = False
        if server_knows and session is not None:
            session.wire = None
        if again:
            self.meet()

    @precondition(lambda self: self.client.connected and self.wire and not self.client.flushing)
    @rule(short=st.booleans(), up=some_messages, work=some_messages, down=some_messages)
    def the_connection_breaks_at_the_end(self, short: bool, up: int, work: int, down: int) -> None:
        self.flush(short)
        self.time_passes(up, work, down)
        self.the_connection_breaks(client_knows=True, server_knows=True, again=True)

    def meet(self) -> None:
        self.connect()
        self.server_reads(1)
        self.client_reads(1)

    @invariant()
    def nothing_grows(self) -> None:
        assert self.client.sent - self.client.received <= LIMITS.ahead
        assert self.client.lost == 0
        for session in self.sessions.values():
            waiting = [item for item in session.work if isinstance(item, Mixture)]
            assert sum(item.gap + item.audio.shape[1] for item in waiting) <= LIMITS.ahead
            assert session.journal.end - session.journal.start <= LIMITS.ahead + LATENCY

    def teardown(self) -> None:
        """In the end all comes through."""
        if not hasattr(self, "client"):
            return
        self.settle()
        assert not self.client.flushing
        finished = self.finished
        self.flush(short=True)
        self.settle()
        assert self.finished == finished + 1
        assert self.stream.received == self.client.sent == 0
        session = self.wire.session if self.wire is not None else None
        assert session is not None and session.vocals == self.vocals
        assert not self.controls or self.controls in self.answered

    def settle(self) -> None:
        while self.wire is None or self.wire.up or self.wire.down or self.busy():
            if self.wire is None:
                self.connect()
            if self.wire is not None and self.wire.up:
                self.server_reads(100)
            self.server_works(100)
            if self.wire is not None and self.wire.down:
                self.client_reads(100)

    def busy(self) -> bool:
        return any(session.work for session in self.sessions.values())

    def some(self, count: int) -> int:
        """As many of these samples as there is room for, in whole grains."""
        count = min(count, self.client.room)
        return max(self.grain, count - count % self.grain)

    def write(self, data: list[Data]) -> None:
        if self.wire is not None:
            self.wire.up.extend(data)


TestConnections = Connections.TestCase
TestConnections.settings = settings(max_examples=100, stateful_step_count=60)


@pytest.mark.slow
class TestManyConnections(Connections.TestCase):  # type: ignore[misc]
    settings = settings(max_examples=1500, stateful_step_count=100)
