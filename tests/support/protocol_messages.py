"""Strategies for any message and any frame of the protocol, for tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from stemwire.bridge.protocol import messages as protocol
from stemwire.bridge.protocol.messages import (
    ERROR_CODES,
    MIX_FRAME,
    POSITION_LIMIT,
    STEMS_FRAME,
    Control,
    Error,
    Flush,
    Flushed,
    Frame,
    Goodbye,
    Hello,
    Limits,
    Message,
    Ping,
    Pong,
    Reset,
    Resume,
    State,
    Stats,
    Welcome,
)
from stemwire.errors import ProtocolError

CLIENTS, SERVERS = get_args(protocol.ClientMessage), get_args(protocol.ServerMessage)


@contextmanager
def refused(code: str) -> Iterator[None]:
    """Expect a `ProtocolError` of a code, with a text."""
    with pytest.raises(ProtocolError) as caught:
        yield
    assert caught.value.code == code and str(caught.value)


counts = st.one_of(st.integers(0, 100), st.integers(0, POSITION_LIMIT))
streams = st.integers(0, 65_535)
finite = st.floats(allow_nan=False, allow_infinity=False)
amounts = st.floats(0, 1e12)
decibels = st.floats(-200, 24)
names = st.text(min_size=1, max_size=64)
texts = st.text(max_size=100)
optional = st.none()
effects = st.dictionaries(st.sampled_from(["vocals", "instrumental"]), st.text(max_size=64))
resumes = st.builds(
    Resume, session=names, key=st.text(min_size=16, max_size=64), stream=streams, position=counts
)
stem_lists = st.lists(
    st.sampled_from(["vocals", "instrumental", "mix"]), min_size=1, max_size=3, unique=True
).map(tuple)
limits = st.builds(
    Limits, message=st.integers(64, 1 << 30), ahead=st.integers(1, POSITION_LIMIT), grace=amounts,
    idle=amounts,
)  # fmt: skip
MESSAGES: dict[type[Message], st.SearchStrategy[Any]] = {
    Hello: st.builds(
        Hello, version=st.just(1), token=texts, rate=st.integers(8000, 192_000),
        channels=st.integers(1, 2), format=st.sampled_from(["f32", "s16"]),
        block=st.integers(0, 65_536), stems=stem_lists, preset=names, stats=st.floats(0, 3600),
        resume=optional | resumes, client=texts,
    ),
    Welcome: st.builds(
        Welcome, version=st.just(1), session=names, key=st.text(min_size=16, max_size=64),
        latency=counts, hop=st.integers(1, 8192), stream=streams, position=counts, limits=limits,
        server=texts,
    ),
    Control: st.builds(
        Control, id=counts, vocals=optional | decibels, instrumental=optional | decibels,
        mute=optional | st.booleans(), bypass=optional | st.booleans(), preset=optional | names,
        effects=optional | effects,
    ),
    State: st.builds(
        State, id=counts, vocals=decibels, instrumental=decibels, mute=st.booleans(),
        bypass=st.booleans(), preset=names, effects=effects, latency=counts, position=counts,
    ),
    Flush: st.builds(Flush),
    Flushed: st.builds(Flushed, stream=streams, position=counts),
    Reset: st.builds(Reset, stream=streams),
    Ping: st.builds(Ping, id=counts, time=finite),
    Pong: st.builds(Pong, id=counts, time=finite),
    Stats: st.builds(
        Stats, position=counts, waiting=counts, gaps=counts, missing=counts, misses=counts,
        hop_ms=st.dictionaries(st.sampled_from(["p50", "p99.9", "max"]), amounts), load=amounts,
        sessions=counts,
    ),
    Error: st.builds(
        Error, code=st.sampled_from(sorted(ERROR_CODES)), text=texts, id=counts,
        supported=st.lists(counts, max_size=3).map(tuple),
    ),
    Goodbye: st.builds(Goodbye, reason=texts),
}  # fmt: skip
from_clients = st.one_of([MESSAGES[kind] for kind in CLIENTS])
from_servers = st.one_of([MESSAGES[kind] for kind in SERVERS])
either = st.one_of(
    from_clients.map(lambda message: (message, True)),
    from_servers.map(lambda message: (message, False)),
)


formats = st.sampled_from(["f32", "s16"])


@st.composite
def frames(draw: st.DrawFn) -> Frame:
    kind = draw(st.sampled_from([MIX_FRAME, STEMS_FRAME]))
    shape = (draw(st.integers(1, 3)) if kind == STEMS_FRAME else 1, draw(st.integers(1, 2)))
    count = draw(st.integers(0, 20))
    elements = st.floats(-1e6, 1e6, width=32)
    audio = draw(nps.arrays(np.float32, (*shape, count), elements=elements))
    numbers = st.integers(0, (1 << 32) - 1)
    position = draw(st.integers(0, POSITION_LIMIT - count))
    return Frame(kind, draw(streams), draw(numbers), position, audio)
