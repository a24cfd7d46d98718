"""The server's end of a connection, without sockets."""

from __future__ import annotations

from typing import Any, NamedTuple

from stemwire.bridge.protocol.framing import (
    Data,
    check_audio,
    check_grain,
    check_sequence,
    chunks,
    grain,
)
from stemwire.bridge.protocol.journal import Journal
from stemwire.bridge.protocol.messages import (
    MIX_FRAME,
    STEMS_FRAME,
    STREAM_MODULUS,
    Flush,
    Flushed,
    Frame,
    Hello,
    Limits,
    Reset,
    Welcome,
    decode,
    decode_frame,
    encode,
    encode_frame,
)
from stemwire.errors import ProtocolError
from stemwire.realtime.ring import Audio


class Mixture(NamedTuple):
    """Event: the next mixture; `gap` samples before it are missing, and count as silence."""

    audio: Audio  # (channels, n), n >= 0
    gap: int = 0


class ServerPeer:
    """A server's end of one connection.

    Methods named after a message return the encoded messages to send.

    Attributes:
        hello: hello of the client, None before it has arrived.
        welcomed: whether the client has been let in.
        stream: number of the stream that the client's next mixture belongs to.
        received: position of the next mixture.
        journal: journal of the session's stems.
        received_frames: number of frames received on this connection.
        sent_frames: number of frames sent on this connection.
    """

    def __init__(self) -> None:
        self.hello: Hello | None = None
        self.welcomed = False
        self.stream = self.received = 0
        self.journal = Journal(0)
        self.received_frames = self.sent_frames = 0
        self._limits: Limits | None = None
        self._grain = 1
        self._stems_stream = 0  # stream whose stems the client waits for
        self._sent_to = (0, 0)  # stream and position up to which stems have been sent

    @property
    def flushing(self) -> bool:
        """Whether the client waits for `Flushed`."""
        return self._stems_stream != self.stream

    def receive(self, data: Data) -> Any:
        """Decode a message into a `Mixture`, the client's message, or None for an unknown type.

        After `Flush` or `Reset`, `stream` is the number of the next stream.

        Raises:
            ProtocolError: if the message breaks the protocol; the connection must be closed.
        """
        if isinstance(data, bytes):
            return self._on_mixture(data)
        message = decode(data, from_client=True)
        if isinstance(message, Hello):
            if self.hello is not None:
                raise ProtocolError("state", "a second hello on this connection")
            self.hello = message
        elif not self.welcomed:
            raise ProtocolError("state", "the first message must be hello, the next after welcome")
        elif isinstance(message, Flush):
            self._check_not_flushing()
            self._next_stream()
        elif isinstance(message, Reset):
            self._next_stream()
            self._stems_stream = self.stream
        return message

    def resume_position(self, before: ServerPeer) -> tuple[int, int]:
        """Stream and position at which a session resumes, as `hello.resume` asks.

        Args:
            before: the session's previous peer.

        Returns:
            `stream` and `position` for the `Welcome`. If the stream is not `before.stream`, a reset
            of the client was lost: reset into that stream.

        Raises:
            ProtocolError: `resume` if the session cannot be resumed.
        """
        assert self.hello is not None and self.hello.resume is not None
        assert before.hello is not None
        for name in ("rate", "channels", "format", "block", "stems"):
            was, now = getattr(before.hello, name), getattr(self.hello, name)
            if was != now:
                raise ProtocolError("resume", f"{name} was {was!r} in this session, not {now!r}")
        resume, journal = self.hello.resume, before.journal
        # In the stream before ours, the client has flushed and waits for the end of its stems.
        if resume.stream not in (before.stream, (before.stream - 1) % STREAM_MODULUS):
            return resume.stream, 0
        first, last = 0, 0
        if journal.stream == resume.stream:
            first, last = journal.start, journal.end
        if not first <= resume.position <= last:
            raise ProtocolError(
                "resume", f"stems of {first} to {last} are kept, not of {resume.position}"
            )
        return before.stream, before.received

    def welcome(self, welcome: Welcome, journal: Journal) -> list[Data]:
        """Let the client in; returns the welcome, and the stems that it has not received.

        Args:
            welcome: message to send; with `stream` and `position` of `resume_position` if a session
                is resumed.
            journal: journal of the session's stems.

        Returns:
            Messages that must be sent before any others.
        """
        assert self.hello is not None
        resume = self.hello.resume
        self.welcomed = True
        self._limits, self.journal = welcome.limits, journal
        self.stream, self.received = welcome.stream % STREAM_MODULUS, welcome.position
        self._grain = grain(self.hello, welcome)
        self._stems_stream = self.stream if resume is None else resume.stream
        data: list[Data] = [encode(welcome)]
        if resume is not None:
            for position, audio in journal.since(resume.position):
                data += self.stems(position, audio)
            data += self.flushed()
        self.mark_sent(journal.stream, journal.end)
        return data

    def stems(self, position: int, audio: Audio) -> list[Data]:
        """Send stems, float32 (stems, channels, n), which the journal holds at a position.

        Returns:
            Messages to send; none if the client has left their stream.
        """
        assert self.hello is not None and self._limits is not None
        if self.journal.stream != self._stems_stream:
            return []
        data: list[Data] = []
        for at, part in chunks(self.hello, self._limits, 1, position, audio):
            frame = Frame(STEMS_FRAME, self._stems_stream, self.sent_frames, at, part)
            data.append(encode_frame(frame, self.hello.format))
            self.sent_frames += 1
        return data

    def mark_sent(self, stream: int, position: int) -> None:
        """Note that the stems of a stream up to a position have been passed to the network stack.

        A client cannot have received more, so how far it is ahead counts from here: a client that
        sends without reading is stopped, and what waits to be sent is bounded.
        """
        self._sent_to = (stream, position)

    def flushed(self) -> list[Data]:
        """Send `Flushed` if the stream is complete (`Journal.ended`) and the client waits."""
        if not (self.flushing and self.journal.ended and self.journal.stream == self._stems_stream):
            return []
        self._stems_stream = self.stream
        return [encode(Flushed(stream=self.stream, position=self.journal.end))]

    def _on_mixture(self, data: bytes) -> Mixture:
        if not self.welcomed or self.hello is None or self._limits is None:
            raise ProtocolError("state", "audio before welcome")
        if len(data) > self._limits.message:
            raise ProtocolError(
                "too_large", f"a frame of {len(data)} bytes; at most {self._limits.message}"
            )
        frame = decode_frame(data, self.hello.format, MIX_FRAME, 1, self.hello.channels)
        check_sequence(frame, self.received_frames)
        self._check_not_flushing()
        if frame.stream != self.stream:
            raise ProtocolError(
                "sequence", f"a frame of stream {frame.stream}; this is stream {self.stream}"
            )
        gap, end = frame.position - self.received, frame.position + frame.audio.shape[2]
        if gap < 0:
            raise ProtocolError(
                "position", f"position {frame.position} was sent before; expected {self.received}"
            )
        check_grain(self._grain, self.received, end - self.received)
        stream, position = self._sent_to
        ahead = end - (position if stream == self.stream else 0)
        if ahead > self._limits.ahead:
            code = "position" if gap > self._limits.ahead else "too_fast"
            raise ProtocolError(code, f"{ahead} samples ahead; at most {self._limits.ahead}")
        audio = frame.audio[0]
        check_audio(audio, frame.position)
        self.received_frames += 1
        self.received = end
        return Mixture(audio, gap)

    def _next_stream(self) -> None:
        self.stream = (self.stream + 1) % STREAM_MODULUS
        self.received = 0

    def _check_not_flushing(self) -> None:
        if self.flushing:
            raise ProtocolError(
                "state", "mixture or flush between flush and flushed; wait for flushed"
            )
