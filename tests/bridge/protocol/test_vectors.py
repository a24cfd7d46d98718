"""The codec against the test vectors, and both against the document."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec
import numpy as np
import pytest
from support import ROOT
from support.protocol_messages import CLIENTS, SERVERS, refused

from stemwire.bridge.protocol import Journal, ServerPeer
from stemwire.bridge.protocol import messages as protocol
from stemwire.bridge.protocol.messages import (
    ERROR_CODES,
    HEADER,
    MIX_FRAME,
    POSITION_LIMIT,
    STEMS_FRAME,
    TEXT_LIMIT,
    Flushed,
    Frame,
    Hello,
    Limits,
    Message,
    Resume,
    Welcome,
    decode,
    decode_frame,
    encode,
    encode_frame,
    frame_bytes,
)

VECTORS = json.loads((ROOT / "tests/vectors/protocol-1.json").read_text(encoding="utf-8"))
DOCUMENT = (ROOT / "docs/protocol.md").read_text(encoding="utf-8")


def vectors(group: str) -> Any:
    """Parametrise by the entries of one list."""
    return pytest.mark.parametrize("vector", VECTORS[group], ids=lambda vector: vector["name"])


def plain(value: Any) -> Any:
    """A message as JSON objects, including defaults."""
    if isinstance(value, msgspec.Struct):
        fields = {name: plain(getattr(value, name)) for name in value.__struct_fields__}
        return {"type": value.__struct_config__.tag, **fields} if tagged(value) else fields
    return list(value) if isinstance(value, tuple) else value


def tagged(value: msgspec.Struct) -> bool:
    return isinstance(value, Message)


@vectors("text")
def test_texts_match_the_vectors(vector: dict[str, Any]) -> None:
    message = decode(vector["text"], vector["from"] == "client")
    assert plain(message) == vector["means"]
    assert decode(encode(message).encode(), vector["from"] == "client") == message


@vectors("ignored")
def test_unknown_types_and_fields_are_ignored(vector: dict[str, Any]) -> None:
    assert decode(vector["text"], vector["from"] == "client") is None


@vectors("refused")
def test_texts_are_refused_as_in_the_vectors(vector: dict[str, Any]) -> None:
    with refused(vector["error"]):
        decode(vector["text"], vector["from"] == "client")


@vectors("frames")
def test_frames_match_the_vectors(vector: dict[str, Any]) -> None:
    data, shape = bytes.fromhex(vector["hex"]), (vector["parts"], vector["channels"])
    frame = decode_frame(data, vector["format"], vector["kind"], *shape)
    found = (frame.kind, frame.stream, frame.sequence, frame.position)
    assert found == tuple(vector[name] for name in ("kind", "stream", "sequence", "position"))
    wanted = np.asarray(vector["samples"], np.float32)
    np.testing.assert_array_equal(frame.audio, wanted)
    assert frame.audio.dtype == np.float32 and frame.audio.shape == wanted.shape
    assert encode_frame(frame, vector["format"]) == data
    assert len(data) == frame_bytes(vector["format"], *shape, wanted.shape[2])


@vectors("refused_frames")
def test_frames_are_refused_as_in_the_vectors(vector: dict[str, Any]) -> None:
    wanted = [vector[name] for name in ("format", "kind", "parts", "channels")]
    with refused(vector["error"]):
        decode_frame(bytes.fromhex(vector["hex"]), *wanted)


def test_samples_are_rounded_as_in_the_vectors() -> None:
    samples = np.asarray([[VECTORS["rounding"]["samples"]]], np.float32)
    data = encode_frame(Frame(MIX_FRAME, 0, 0, 0, samples), "s16")
    assert np.frombuffer(data, "<i2", offset=24).tolist() == VECTORS["rounding"]["steps"]


@vectors("conversations")
def test_conversations_end_as_in_the_vectors(vector: dict[str, Any]) -> None:
    peer = ServerPeer()
    peer.receive(vector["hello"])
    welcome = decode(vector["welcome"], from_client=False)
    peer.welcome(welcome, Journal(100))
    messages = [text if text[0] == "{" else bytes.fromhex(text) for text in vector["client"]]
    for message in messages[:-1]:
        peer.receive(message)
    if vector["error"] is None:
        peer.receive(messages[-1])
    else:
        before = peer.stream, peer.received, peer.received_frames
        with refused(vector["error"]):
            peer.receive(messages[-1])
        assert (peer.stream, peer.received, peer.received_frames) == before


def test_the_vectors_cover_every_message_and_error_of_the_codec() -> None:
    seen = {(vector["from"], vector["means"]["type"]) for vector in VECTORS["text"]}
    assert seen == {("client", tag(kind)) for kind in CLIENTS} | {
        ("server", tag(kind)) for kind in SERVERS
    }
    codes = {vector["error"] for vector in VECTORS["refused"] + VECTORS["conversations"]} - {None}
    assert codes == {
        "version", "malformed", "state", "too_large", "too_fast", "sequence", "position", "audio",
    }  # fmt: skip


def tag(kind: type[Message]) -> str:
    return str(kind.__struct_config__.tag)


@pytest.mark.parametrize("kind", [*CLIENTS, *SERVERS, Resume, Limits], ids=lambda k: k.__name__)
def test_the_document_names_every_field(kind: type[msgspec.Struct]) -> None:
    for field in msgspec.structs.fields(kind):
        default = "required"
        if not field.required:
            values = {"": '`""`', None: "null", (): "`[]`", "f32": '`"f32"`', 0.0: "0"}
            values["standard"] = '`"standard"`'
            default = values[field.default]
        row = rf"^\| `{field.name}` \|[^|]*\| {re.escape(default)} \|"
        assert re.search(row, DOCUMENT, re.MULTILINE), f"{kind.__name__}.{field.name}"


def test_the_document_names_every_code_type_and_number() -> None:
    for code, text in ERROR_CODES.items():
        meaning = text.replace("Inf ", "infinity ")
        assert f"| `{code}` | {meaning} |" in DOCUMENT
    for kind in {*CLIENTS, *SERVERS}:
        assert f"`{tag(kind)}`" in DOCUMENT
    assert f"{TEXT_LIMIT:,}".replace(",", " ") in DOCUMENT
    assert f"{POSITION_LIMIT:,}".replace(",", " ") in DOCUMENT
    assert protocol.SUBPROTOCOL in DOCUMENT and f"header of {HEADER.size} bytes" in DOCUMENT


def example_lines() -> list[tuple[str, str | bytes]]:
    """Messages in the document's examples, with who sends them."""
    lines = re.findall(r"^(client|server)  (.+)$", DOCUMENT, re.MULTILINE)
    return [(who, what if what[0] == "{" else bytes.fromhex(what)) for who, what in lines]


def test_the_documents_examples_are_true() -> None:
    peers: list[ServerPeer] = []
    journal = Journal(100)
    welcomed, sequence = None, 0
    for who, what in example_lines():
        if isinstance(what, bytes):
            frame = decode_frame(
                what, "s16", *((MIX_FRAME, 1) if who == "client" else (STEMS_FRAME, 2)), 1
            )
            assert encode_frame(frame, "s16") == what
            if who == "client":
                event = peers[-1].receive(what)
                np.testing.assert_array_equal(event.audio, frame.audio[0])
            else:
                assert frame.sequence >= sequence
                sequence = frame.sequence
            if frame.position == 0 and who == "server":  # what the text leaves out
                rest = Frame(MIX_FRAME, 0, 1, 4, np.zeros((1, 1, 1021), np.float32))
                assert peers[-1].receive(encode_frame(rest, "s16")).gap == 0
                journal.append(np.zeros((2, 1, 1025), np.float32))
            continue
        message = decode(what, who == "client")
        assert message is not None
        if isinstance(message, Hello):
            peers.append(ServerPeer())
            sequence = 0
        if who == "client":
            assert peers[-1].receive(what) == message
        elif isinstance(message, Welcome):
            if len(peers) == 2:
                going = peers[1].resume_position(peers[0])
                assert going == (message.stream, message.position) == (0, 1025)
                assert isinstance(welcomed, Welcome) and welcomed.latency == message.latency
            welcomed = message
            journal.capacity = 10_000
            peers[-1].welcome(message, journal)
        elif isinstance(message, Flushed):
            assert message.position == 1027 + 1023
    assert len(peers) == 2
