"""Stemwire's protocol, version 1: what goes over a connection, as messages and as bytes.

`docs/protocol.md` is the specification; this module is its codec and knows no sockets. A connection
carries messages. A text message is one JSON object whose `type` says what it is: the classes below.
A binary message is audio: a `Frame`. Fields and types that are not known are ignored; a version
that is not known is refused. Whatever is malformed raises `ProtocolError` and nothing else.
Numbers that are sent must be finite: JSON has no others.
"""

from __future__ import annotations

import struct
from typing import Annotated, Any, Literal, NamedTuple, get_args

import msgspec
import numpy as np
from msgspec import Meta

from stemwire.errors import ProtocolError
from stemwire.realtime.ring import Audio

VERSION = 1
SUPPORTED = (VERSION,)
SUBPROTOCOL = "stemwire.1"  # of the websocket
HEADER = struct.Struct("<BBHIQII")  # kind, flags, stream, sequence, position, count, reserved
MIX_FRAME, STEMS_FRAME = 1, 2  # kinds of frames: what goes up and what comes down
TEXT_LIMIT = 16_384  # bytes of a text message
POSITION_LIMIT = 1 << 53  # what JavaScript counts exactly: a thousand years at 192 kHz
STREAM_MODULUS = 1 << 16  # stream numbers wrap here
SEQUENCE_MODULUS = 1 << 32  # and sequence numbers here

Format = Literal["f32", "s16"]
DTYPES: dict[str, np.dtype[Any]] = {"f32": np.dtype("<f4"), "s16": np.dtype("<i2")}
Stem = Literal["vocals", "instrumental", "mix"]
Decibels = Annotated[float, Meta(ge=-200.0, le=24.0)]
Name = Annotated[str, Meta(min_length=1, max_length=64)]
Key = Annotated[str, Meta(min_length=16, max_length=64)]
Count = Annotated[int, Meta(ge=0, le=POSITION_LIMIT)]
StreamNumber = Annotated[int, Meta(ge=0, lt=STREAM_MODULUS)]
NonNegative = Annotated[float, Meta(ge=0.0)]


class Message(msgspec.Struct, tag_field="type", kw_only=True, frozen=True, omit_defaults=True):
    """A text message."""


class Resume(msgspec.Struct, kw_only=True, frozen=True):
    """A client's wish to go on with a session whose connection broke.

    Attributes:
        session: as `Welcome.session`.
        key: as `Welcome.key`.
        stream: that the client is in.
        position: of the next stems that it has not got.
    """

    session: Name
    key: Key
    stream: StreamNumber
    position: Count


class Hello(Message, tag="hello", kw_only=True, frozen=True):
    """A client's first message.

    Attributes:
        version: of the protocol.
        token: that lets it in, if the server asks for one.
        rate: of the audio, Hz.
        channels: of the audio.
        format: of samples, both ways.
        block: size of the client's blocks, if they are all alike; 0 promises nothing. A promise
            makes the latency smaller: every frame then ends at a multiple of the greatest common
            divisor of `block` and `Welcome.hop`, the last before `Flush` excepted.
        stems: wanted, in this order, none twice.
        preset: that separates.
        stats: seconds between `Stats`, 0 for none.
        resume: if a session is to go on.
        client: program and version, for logs.
    """

    version: Count
    token: Annotated[str, Meta(max_length=1024)] = ""
    rate: Annotated[int, Meta(ge=8_000, le=192_000)]
    channels: Annotated[int, Meta(ge=1, le=2)]
    format: Format = "f32"
    block: Annotated[int, Meta(ge=0, le=65_536)] = 0
    stems: Annotated[tuple[Stem, ...], Meta(min_length=1, max_length=3)]
    preset: Name = "standard"
    stats: Annotated[float, Meta(ge=0.0, le=3600.0)] = 0.0
    resume: Resume | None = None
    client: Annotated[str, Meta(max_length=128)] = ""

    def __post_init__(self) -> None:
        if len(set(self.stems)) != len(self.stems):
            raise ValueError("a stem is wanted twice")  # malformed, if it was decoded


class Limits(msgspec.Struct, kw_only=True, frozen=True):
    """What a server bears; the same for as long as a session lasts.

    Attributes:
        message: bytes of a binary message, either way.
        ahead: samples that a client may have sent beyond the stems it has received.
        grace: seconds for which a session outlives its connection.
        idle: seconds without a message after which a connection is closed; 0 is never.
    """

    message: Annotated[int, Meta(ge=64, le=POSITION_LIMIT)]
    ahead: Annotated[int, Meta(ge=1, le=POSITION_LIMIT)]
    grace: NonNegative
    idle: NonNegative


class Welcome(Message, tag="welcome", kw_only=True, frozen=True):
    """The answer to a hello that is let in.

    Attributes:
        version: of the protocol that is spoken from now on.
        session: its name, for logs and to go on with it.
        key: secret that going on needs.
        latency: samples by which stems are late: stems at position p belong to the mixture at
            p - latency.
        hop: samples that the network takes at a time, with the preset that the session began with.
        stream: that the server takes mixture for now.
        position: of the next mixture that the server wants; 0 in a new session.
        limits: to be kept.
        server: program and version.
    """

    version: Count
    session: Name
    key: Key
    latency: Count
    hop: Annotated[int, Meta(ge=1, le=POSITION_LIMIT)]
    stream: StreamNumber = 0
    position: Count = 0
    limits: Limits
    server: str = ""


class Control(Message, tag="control", kw_only=True, frozen=True):
    """Settings that are to change; what is left out stays. All but `preset` shape the stem `mix`.

    If one of them cannot be, none changes and an `Error` `config` comes instead of a `State`.

    Attributes:
        id: comes back in `State` or `Error`.
        vocals: level in dB, -200 is off.
        instrumental: likewise.
        mute: silence.
        bypass: the mixture as it came, as late as the stems.
        preset: that separates from now on; crossed over to without a gap.
        effects: names of effects chains that the server knows, by stem; "" is none. A stem that is
            left out keeps its chain.
    """

    id: Count = 0
    vocals: Decibels | None = None
    instrumental: Decibels | None = None
    mute: bool | None = None
    bypass: bool | None = None
    preset: Name | None = None
    effects: dict[Literal["vocals", "instrumental"], Annotated[str, Meta(max_length=64)]] | None = (
        None
    )


class State(Message, tag="state", kw_only=True, frozen=True):
    """How things are set, after a `Control` and whenever they change by themselves.

    Attributes:
        id: of the control, 0 if there was none.
        latency: of stems from `position` on.
        position: from which on this holds.
    """

    id: Count = 0
    vocals: Decibels
    instrumental: Decibels
    mute: bool
    bypass: bool
    preset: Name
    effects: dict[str, str]
    latency: Count
    position: Count


class Flush(Message, tag="flush", frozen=True):
    """The mixture ends here: give the stems that are still inside, `latency` samples more."""


class Flushed(Message, tag="flushed", kw_only=True, frozen=True):
    """All stems of a stream have been sent; the next begins at position 0.

    Attributes:
        stream: number of the next.
        position: at which the last one's stems ended.
    """

    stream: StreamNumber
    position: Count


class Reset(Message, tag="reset", kw_only=True, frozen=True):
    """Forget the stream. From a server: done; `stream` is the number of the next.

    A client may send it at any time, and mixture of the next stream at once after it.
    """

    stream: StreamNumber = 0


class Ping(Message, tag="ping", kw_only=True, frozen=True):
    """Are you there? `id` and `time` (the sender's, any unit) come back."""

    id: Count = 0
    time: float = 0.0


class Pong(Message, tag="pong", kw_only=True, frozen=True):
    """Yes."""

    id: Count = 0
    time: float = 0.0


class Stats(Message, tag="stats", kw_only=True, frozen=True):
    """How a session fares.

    Attributes:
        position: samples of mixture received in this stream.
        waiting: samples received and not yet separated.
        gaps: gaps in the mixture so far; `missing` their samples.
        misses: blocks that were done later than they would have had to be played.
        hop_ms: p50, p95, p99, p99.9 and max of the time a hop took, ms; empty before the first.
        load: of the server, 1 is as much as it can bear.
        sessions: on this server.
    """

    position: Count
    waiting: Count
    gaps: Count
    missing: Count
    misses: Count
    hop_ms: dict[str, NonNegative]
    load: NonNegative
    sessions: Count


class Error(Message, tag="error", kw_only=True, frozen=True):
    """Something cannot be done. All but those of `NON_FATAL_CODES` end the connection.

    Attributes:
        code: of `ERROR_CODES`.
        text: for people.
        id: of the `Control` that cannot be done, else 0.
        supported: versions, with code `version`.
    """

    code: str
    text: str
    id: Count = 0
    supported: tuple[Count, ...] = ()


class Goodbye(Message, tag="goodbye", kw_only=True, frozen=True):
    """The session is over and will not be resumed. `reason` is for people."""

    reason: str = ""


ERROR_CODES = {
    "version": "a version of the protocol that is not spoken here",
    "token": "no token, or a wrong one",
    "malformed": "bytes that are no message, or a field that cannot be",
    "state": "a message that does not belong here",
    "too_large": "a message beyond the limit",
    "too_fast": "more mixture ahead of the stems than the limit, or too many messages",
    "too_slow": "stems are not taken, or nothing is sent",
    "too_many": "no room for one more",
    "sequence": "a frame is missing, repeated or out of order",
    "position": "mixture that came before, or a gap beyond the limit",
    "audio": "NaN, Inf or numbers absurdly large",
    "config": "a rate, block size, preset or effects chain that cannot be",
    "resume": "a session that is not there, or has gone too far",
    "shutdown": "the server is about to end",
    "internal": "a fault of the server",
}
NON_FATAL_CODES = ("config",)  # once a session stands
CLOSE_CODES = {"shutdown": 1001, "too_large": 1009}  # codes of websockets; all others are 1008

ClientMessage = Hello | Control | Flush | Reset | Ping | Pong | Goodbye
ServerMessage = Welcome | State | Flushed | Reset | Ping | Pong | Stats | Error | Goodbye


def close_code(code: str) -> int:
    """Of a websocket that an error ends."""
    return CLOSE_CODES.get(code, 1008)


class Frame(NamedTuple):
    """A binary message: audio.

    Attributes:
        kind: `MIX_FRAME` or `STEMS_FRAME`.
        stream: number of the stream, modulo 65536.
        sequence: of the frame on this connection and in this direction, modulo 2**32.
        position: of the first sample, in the stream.
        audio: float32 (1 or stems, channels, n); n = 0 tells of a gap that has no end yet. Of a
            frame that was decoded, not to be written to: it may be the message's own bytes.
    """

    kind: int
    stream: int
    sequence: int
    position: int
    audio: Audio


class _Kind(msgspec.Struct):
    type: str


class _Versioned(msgspec.Struct):
    version: Count


_KINDS = msgspec.json.Decoder(_Kind)
_VERSIONS = msgspec.json.Decoder(_Versioned)
_CLIENT, _SERVER = (
    {str(kind.__struct_config__.tag): msgspec.json.Decoder[Any](kind) for kind in get_args(kinds)}
    for kinds in (ClientMessage, ServerMessage)
)
_ENCODER = msgspec.json.Encoder()


def encode(message: Message) -> str:
    """A text message's JSON."""
    return _ENCODER.encode(message).decode()


def decode(text: str | bytes, from_client: bool) -> Any:
    """The `ClientMessage` or `ServerMessage` that a text message holds.

    Returns:
        None for a type that is not known: to be ignored.

    Raises:
        ProtocolError: `too_large`, `malformed`, `state` for a type that the other side alone sends,
            or `version` for a hello or welcome of another version.
    """
    ours, theirs = (_CLIENT, _SERVER) if from_client else (_SERVER, _CLIENT)
    try:
        # Characters first: there are never more of them than bytes.
        if len(text) > TEXT_LIMIT or (isinstance(text, str) and len(text.encode()) > TEXT_LIMIT):
            raise ProtocolError("too_large", f"a text message has at most {TEXT_LIMIT} bytes")
        kind = _KINDS.decode(text).type
        if kind in ("hello", "welcome"):
            _check_version(_VERSIONS.decode(text).version)
        if kind in ours:
            return ours[kind].decode(text)
    except (msgspec.DecodeError, ValueError, OverflowError, RecursionError) as error:
        raise ProtocolError("malformed", f"not a message: {str(error)[:200]}") from error
    if kind in theirs:
        raise ProtocolError("state", f"{kind} came from the wrong side")
    return None


def _check_version(version: int) -> None:
    if version not in SUPPORTED:
        spoken = ", ".join(map(str, SUPPORTED))
        raise ProtocolError(
            "version", f"version {version} is not spoken here; use one of: {spoken}"
        )


def frame_bytes(format: Format, parts: int, channels: int, count: int) -> int:
    """Bytes of a frame of `count` samples."""
    return HEADER.size + parts * channels * count * DTYPES[format].itemsize


def encode_frame(frame: Frame, format: Format) -> bytes:
    """A binary message: header, then samples, one part after the other, channel after channel.

    In `s16`, samples are rounded to the nearest step (halves to even) and clipped at full scale;
    NaN is 0.
    """
    audio = frame.audio
    if format == "s16":
        steps = np.nan_to_num(np.rint(audio * 32768.0), copy=False)
        samples = np.clip(steps, -32768, 32767).astype(DTYPES["s16"])
    else:
        samples = audio.astype(DTYPES["f32"], copy=False)
    header = HEADER.pack(
        frame.kind,
        0,
        frame.stream % STREAM_MODULUS,
        frame.sequence % SEQUENCE_MODULUS,
        frame.position,
        audio.shape[2],
        0,
    )
    return b"".join((header, samples.tobytes()))


def decode_frame(data: bytes, format: Format, kind: int, parts: int, channels: int) -> Frame:
    """The frame that a binary message holds.

    Args:
        data: the message.
        format: of its samples.
        kind: that is expected.
        parts: 1, or the number of stems.
        channels: of each.

    Raises:
        ProtocolError: `malformed` if it is something else.
    """
    if len(data) < HEADER.size:
        raise ProtocolError("malformed", f"a frame of {len(data)} bytes has no whole header")
    found, _, stream, sequence, position, count, _ = HEADER.unpack_from(data)
    if found != kind:
        raise ProtocolError("malformed", f"a frame of kind {found}; expected {kind}")
    if position + count > POSITION_LIMIT:
        raise ProtocolError("malformed", f"position {position} is beyond all time")
    wanted = frame_bytes(format, parts, channels, count)
    if len(data) != wanted:
        raise ProtocolError(
            "malformed",
            f"a frame of {count} samples has {wanted} bytes ({parts} x {channels} channels of "
            f"{format}), not {len(data)}",
        )
    audio = np.ndarray((parts, channels, count), DTYPES[format], data, HEADER.size)
    if format == "s16":
        audio = audio / np.float32(32768.0)
    elif not audio.dtype.isnative:
        audio = audio.astype(np.float32)
    return Frame(found, stream, sequence, position, audio)
