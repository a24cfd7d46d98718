"""Any bytes decode into a message or raise a `ProtocolError`, and take little memory."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.protocol_messages import either, finite, formats, frames

from stemwire.bridge.protocol import error_message
from stemwire.bridge.protocol.messages import (
    ERROR_CODES,
    HEADER,
    MIX_FRAME,
    STEMS_FRAME,
    TEXT_LIMIT,
    decode,
    decode_frame,
    encode,
    encode_frame,
)
from stemwire.errors import ProtocolError


def attempt(text: str | bytes, from_client: bool) -> None:
    """Decode; a message can be encoded again, and no other error is raised."""
    try:
        message = decode(text, from_client)
    except ProtocolError as error:
        assert error.code in ERROR_CODES and len(str(error)) <= 400
        error_message(error)
    else:
        assert message is None or decode(encode(message), from_client) == message


HOSTILE = [
    b"\xff\xfe", b"\x00", b'{"type":"ping","id":' + b"9" * 5000 + b"}",
    b'{"type":"hello","version":' + b"1" * 5000 + b"}", b"[" * 16_000, b'{"a":' * 3000,
    b'{"type":"ping","time":1e999999999}', b'{"type":"ping","time":-1E-999999999}',
    b'{"type":"ping","x":' + b"[" * 8000 + b"]" * 8000 + b"}",
    b'{"type":"\\ud800"}', b'{"type":"goodbye","reason":"\\ud800"}',
    b'{"type":"goodbye","reason":"\\udc00\\ud800 \\u0000"}', b'{"type":"ping","type":"hello"}',
    b'{"type":"hello","type":"ping","version":2}', b'{"type":"ping","id":1,"id":2}',
    b'{"type":"ping","id":1.0}', b'{"type":"ping","id":-0}', b'{"type":"ping","id":1e3}',
    b'{"type":"ping","":1}', b'{"type":"hello","version":1e0}', b'\xef\xbb\xbf{"type":"ping"}',
    b'{"type":"control","effects":{"vocals":"a","vocals":"b"}}', b'"\\', b"{}" * 8000,
    b'{"type":"error","code":"x","text":"y","supported":[' + b"1," * 7000 + b"1]}",
]  # fmt: skip


@pytest.mark.parametrize("data", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_texts_raise_only_protocol_errors(data: bytes) -> None:
    for from_client in (True, False):
        attempt(data, from_client)
        attempt(data.decode("utf-8", "surrogateescape"), from_client)
        attempt(data.decode("utf-8", "replace"), from_client)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | finite | st.text(max_size=20)
    | st.sampled_from([2**53, 2**63, 2**64, -1, 10**30, 0.5, 1e308, "mix", "f32"]),
    lambda values: st.lists(values, max_size=4) | st.dictionaries(st.text(max_size=8), values),
    max_leaves=8,
)  # fmt: skip


@st.composite
def mutated_texts(draw: st.DrawFn) -> bytes:
    """A valid message, with a field or some bytes changed."""
    message, _ = draw(either)
    fields = json.loads(encode(message))
    if draw(st.booleans()):
        at = fields
        if draw(st.booleans()) and isinstance(fields.get("limits"), dict):
            at = fields["limits"]
        name = draw(st.sampled_from(sorted(at)) | st.sampled_from(["version", "id", "resume"]))
        if draw(st.booleans()):
            at[name] = draw(json_values)
        else:
            at.pop(name, None)
    data = bytearray(json.dumps(fields, ensure_ascii=draw(st.booleans())), "utf-8")
    return mutated(draw, data)


def mutated(draw: st.DrawFn, data: bytearray) -> bytes:
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        what = draw(st.sampled_from(["set", "cut", "add", "twice"]))
        if what == "set" and data:
            data[at] = draw(st.integers(0, 255))
        elif what == "cut":
            del data[at : at + draw(st.integers(1, 8))]
        elif what == "add":
            data[at:at] = draw(st.binary(max_size=8))
        else:
            data[at:at] = data[at : at + draw(st.integers(1, 20))]
    return bytes(data)


any_text = st.one_of(st.binary(max_size=200), st.text(max_size=200), mutated_texts())


@given(any_text, st.booleans())
@settings(max_examples=300)
def test_any_text_is_a_message_or_a_protocol_error(data: str | bytes, from_client: bool) -> None:
    attempt(data, from_client)


@st.composite
def mutated_frames(draw: st.DrawFn) -> bytes:
    return mutated(draw, bytearray(encode_frame(draw(frames()), draw(formats))))


any_frame = st.one_of(st.binary(max_size=100), mutated_frames())
shapes = st.tuples(
    formats, st.sampled_from([MIX_FRAME, STEMS_FRAME]), st.integers(1, 3), st.integers(1, 2)
)


@given(any_frame, shapes)
@example(HEADER.pack(MIX_FRAME, 0, 0, 0, 0, 0xFFFFFFFF, 0), ("f32", MIX_FRAME, 1, 2))
@settings(max_examples=300)
def test_any_bytes_are_a_frame_or_a_protocol_error(data: bytes, wanted: Any) -> None:
    attempt_frame(data, wanted)


def attempt_frame(data: bytes, wanted: Any) -> None:
    try:
        frame = decode_frame(data, *wanted)
    except ProtocolError as error:
        assert error.code == "malformed"
    else:
        assert frame.audio.nbytes <= 2 * len(data)


@pytest.mark.slow
@given(any_text, any_frame, st.booleans(), shapes)
@settings(max_examples=8000)
def test_a_long_run_of_arbitrary_input(
    text: str | bytes, data: bytes, from_client: bool, wanted: Any
) -> None:
    attempt(text, from_client)
    attempt_frame(data, wanted)


@pytest.mark.parametrize("data", HOSTILE, ids=range(len(HOSTILE)))
def test_decoding_takes_memory_in_proportion(data: bytes) -> None:
    attempt(data, True)  # whatever the first time needs
    assert peak(lambda: attempt(data, True)) < 64 * TEXT_LIMIT


def test_a_header_that_promises_much_takes_no_memory() -> None:
    data = HEADER.pack(STEMS_FRAME, 0, 0, 0, 0, 0xFFFFFFFF, 0) + bytes(100)
    wanted = ("f32", STEMS_FRAME, 3, 2)
    attempt_frame(data, wanted)
    assert peak(lambda: attempt_frame(data, wanted)) < 10_000


def peak(work: Any) -> int:
    """Peak of the memory that Python and NumPy allocate, in bytes."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
