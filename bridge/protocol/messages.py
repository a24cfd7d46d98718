"""Messages of Stemwire's protocol, version 1, and their encoding.

`docs/protocol.md` is the specification; this module is its codec and does no I/O. A connection
carries messages. A text message is one JSON object whose `type` names one of the classes below.
A binary message is audio: a `Frame`. Unknown fields and types are ignored; an unknown version is
refused. Malformed input raises `ProtocolError` and nothing else. Numbers to encode must be finite,
for JSON has no others.
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
MIX_FRAME, STEMS_FRAME = 1, 2  # kinds of frames: mixture from the client, stems from the server
TEXT_LIMIT = 16_384  # maximum bytes of a text message
POSITION_LIMIT = 1 << 53  # exact in JavaScript; a thousand years at 192 kHz
STREAM_MODULUS = 1 << 16  # stream numbers wrap here
SEQUENCE_MODULUS = 1 << 32  # sequence numbers wrap here

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
    """A client's request to resume a session whose connection broke.

    Attributes:
        session: name of the session, as `Welcome.session`.
        key: key of the session, as the newest `Welcome.key`.
        stream: number of the client's stream.
        position: position of the next stems that it has not received.
    """

    session: Name
    key: Key
    stream: StreamNumber
    position: Count


class Hello(Message, tag="hello", kw_only=True, frozen=True):
    """A client's first message.

    Attributes:
        version: version of the protocol.
        token: access token, if the server requires one.
        rate: sample rate in Hz.
        channels: number of channels, 1 or 2.
        format: sample format in both directions.
        block: promised block size in samples; 0 promises nothing. A promise reduces the latency:
            every frame then ends at a multiple of the greatest common divisor of `block` and
            `Welcome.hop`, except the last before `Flush`.
        stems: names of the stems to send, in this order, none twice.
        preset: name of the preset to separate with.
        stats: seconds between `Stats`, 0 for none.
        resume: session to resume, or None for a new one.
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
            raise ValueError("a stem is listed twice")  # `malformed` in `decode`


class Limits(msgspec.Struct, kw_only=True, frozen=True):
    """Limits of a server; they stay the same for as long as a session lasts.

    Attributes:
        message: maximum bytes of a binary message, in both directions.
        ahead: maximum samples that a client may have sent beyond the stems it has received.
        grace: seconds for which a session outlives its connection.
        idle: seconds without a message after which a connection is closed; 0 is never.
    """

    message: Annotated[int, Meta(ge=64, le=POSITION_LIMIT)]
    ahead: Annotated[int, Meta(ge=1, le=POSITION_LIMIT)]
    grace: NonNegative
    idle: NonNegative


class Welcome(Message, tag="welcome", kw_only=True, frozen=True):
    """The answer to a hello that is accepted.

    Attributes:
        version: version of the protocol used from now on.
        session: name of the session, for logs and to resume it.
        key: secret needed to resume the session.
        latency: latency in samples: stems at position p belong to the mixture at p - latency.
        hop: hop in samples of the preset that the session began with.
        stream: number of the stream whose mixture the server expects.
        position: position of the next mixture that it expects; 0 in a new session.
        limits: limits that the client must observe.
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
    """Settings to change; those left out stay. All but `preset` concern the stem `mix`.

    If one is invalid, none changes and an `Error` `config` is sent instead of a `State`.

    Attributes:
        id: number returned in `State` or `Error`.
        vocals: level of the vocals in dB, -200 is off.
        instrumental: level of the instrumental in dB, -200 is off.
        mute: whether `mix` is silent.
        bypass: whether `mix` is the unprocessed mixture, with the latency of the stems.
        preset: name of the preset to separate with from now on, after a crossfade.
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
    """Current settings, after a `Control` and whenever the server changes them.

    Attributes:
        id: id of the control, 0 if there was none.
        vocals: level of the vocals in dB; this and the other settings are as in `Control`.
        latency: latency in samples of stems from `position` on.
        position: position from which on this holds.
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
    """The mixture ends here: send the remaining stems, `latency` samples more."""


class Flushed(Message, tag="flushed", kw_only=True, frozen=True):
    """All stems of a stream have been sent; the next begins at position 0.

    Attributes:
        stream: number of the next stream.
        position: position at which the stems of the ended stream end.
    """

    stream: StreamNumber
    position: Count


class Reset(Message, tag="reset", kw_only=True, frozen=True):
    """Discard the stream; from a server, the confirmation.

    A client may send it at any time, and mixture of the next stream immediately after it.

    Attributes:
        stream: from a server, number of the next stream.
    """

    stream: StreamNumber = 0


class Ping(Message, tag="ping", kw_only=True, frozen=True):
    """Request for a `Pong` with the same `id` and `time` (the sender's clock, in any unit)."""

    id: Count = 0
    time: float = 0.0


class Pong(Message, tag="pong", kw_only=True, frozen=True):
    """The answer to a `Ping`."""

    id: Count = 0
    time: float = 0.0


class Stats(Message, tag="stats", kw_only=True, frozen=True):
    """Statistics of a session.

    Attributes:
        position: samples of mixture received in this stream.
        waiting: samples received and not yet separated.
        gaps: gaps in the mixture so far.
        missing: samples in these gaps.
        misses: late blocks: finished later than continuous playback would need them.
        hop_ms: p50, p95, p99, p99.9 and max of the processing time of a hop in ms; empty before
            the first.
        load: load of the server; 1 is its full capacity.
        sessions: number of sessions on this server.
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
    """What went wrong. All codes but those of `NON_FATAL_CODES` end the connection.

    Attributes:
        code: one of `ERROR_CODES`.
        text: human-readable description.
        id: id of the `Control` that cannot be carried out, else 0.
        supported: supported versions, with code `version`.
    """

    code: str
    text: str
    id: Count = 0
    supported: tuple[Count, ...] = ()


class Goodbye(Message, tag="goodbye", kw_only=True, frozen=True):
    """The session is over and cannot be resumed; `reason` is human-readable."""

    reason: str = ""


ERROR_CODES = {
    "version": "a version of the protocol that is not supported",
    "token": "the token is missing or wrong",
    "malformed": "bytes that are not a message, or an invalid field",
    "state": "a message that is not allowed at this point",
    "too_large": "a message beyond the size limit",
    "too_fast": "more mixture ahead of the stems than the limit, or too many messages",
    "too_slow": "stems are not read, or nothing is sent",
    "too_many": "no room for another session",
    "sequence": "a frame is missing, repeated or out of order",
    "position": "mixture that was sent before, or a gap beyond the limit",
    "audio": "NaN, Inf or values far beyond full scale",
    "config": "an invalid rate, block size, preset or effects chain",
    "resume": "a session that does not exist, or has moved too far ahead",
    "shutdown": "the server is about to end",
    "internal": "a fault of the server",
}
NON_FATAL_CODES = ("config",)  # once there is a session
CLOSE_CODES = {"shutdown": 1001, "too_large": 1009}  # of the websocket; 1008 for all others

ClientMessage = Hello | Control | Flush | Reset | Ping | Pong | Goodbye
ServerMessage = Welcome | State | Flushed | Reset | Ping | Pong | Stats | Error | Goodbye


def close_code(code: str) -> int:
    """Code with which a websocket is closed after an error."""
    return CLOSE_CODES.get(code, 1008)


class Frame(NamedTuple):
    """A binary message: audio.

    Attributes:
        kind: `MIX_FRAME` or `STEMS_FRAME`.
        stream: number of the stream, modulo 65536.
        sequence: number of the frame on this connection in this direction, modulo 2**32.
        position: position of the first sample in the stream.
        audio: float32 (1 or stems, channels, n); n = 0 announces a gap. In a decoded frame it is
            read-only, for it may share memory with the message.
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
    """Encode a text message as JSON."""
    return _ENCODER.encode(message).decode()


def decode(text: str | bytes, from_client: bool) -> Any:
    """Decode a text message.

    Args:
        text: the message.
        from_client: whether a client sent it.

    Returns:
        A `ClientMessage` or `ServerMessage`; None for an unknown type, which is to be ignored.

    Raises:
        ProtocolError: `too_large`, `malformed`, `state` for a type that only the other end sends,
            or `version` for a hello or welcome of another version.
    """
    ours, theirs = (_CLIENT, _SERVER) if from_client else (_SERVER, _CLIENT)
    try:
        # Characters first: there are never more of them than bytes, and counting them is free.
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
        raise ProtocolError("state", f"{kind} is not sent in this direction")
    return None


def _check_version(version: int) -> None:
    if version not in SUPPORTED:
        supported = ", ".join(map(str, SUPPORTED))
        raise ProtocolError(
            "version", f"version {version} is not supported; use one of: {supported}"
        )


def frame_bytes(format: Format, parts: int, channels: int, count: int) -> int:
    """Size in bytes of a frame of `count` samples."""
    return HEADER.size + parts * channels * count * DTYPES[format].itemsize


def encode_frame(frame: Frame, format: Format) -> bytes:
    """Encode a binary message: header, then samples, part after part, channel after channel.

    In `s16`, samples are rounded to the nearest step (halves to even) and clipped at full scale;
    NaN is 0.
    """
    audio = frame.audio
    if format == "s16":
        steps = np.nan_to_num(np.rint(audio * 32768.0), copy=False)
        samples = np.clip(steps, -32768, 32767).astype(DTYPES["s16"])
    else:
        samples = audio.astype(DTYPES["f32"], copy=False)
    stream, sequence = frame.stream % STREAM_MODULUS, frame.sequence % SEQUENCE_MODULUS
    header = HEADER.pack(frame.kind, 0, stream, sequence, frame.position, audio.shape[2], 0)
    return b"".join((header, samples.tobytes()))


def decode_frame(data: bytes, format: Format, kind: int, parts: int, channels: int) -> Frame:
    """Decode a binary message.

    Args:
        data: the message.
        format: format of its samples.
        kind: kind of frame that is expected.
        parts: number of parts that are expected: 1, or the number of stems.
        channels: number of channels of each part.

    Raises:
        ProtocolError: `malformed` for anything else.
    """
    if len(data) < HEADER.size:
        raise ProtocolError("malformed", f"a frame of {len(data)} bytes has no complete header")
    found_kind, _, stream, sequence, position, count, _ = HEADER.unpack_from(data)
    if found_kind != kind:
        raise ProtocolError("malformed", f"a frame of kind {found_kind}; expected {kind}")
    if position + count > POSITION_LIMIT:
        raise ProtocolError(
            "malformed", f"position {position} is beyond the limit {POSITION_LIMIT}"
        )
    expected = frame_bytes(format, parts, channels, count)
    if len(data) != expected:
        raise ProtocolError(
            "malformed",
            f"a frame of {count} samples has {expected} bytes ({parts} x {channels} channels of "
            f"{format}), not {len(data)}",
        )
    audio = np.ndarray((parts, channels, count), DTYPES[format], data, HEADER.size)
    if format == "s16":
        audio = audio / np.float32(32768.0)
    elif not audio.dtype.isnative:
        audio = audio.astype(np.float32)
    return Frame(found_kind, stream, sequence, position, audio)
