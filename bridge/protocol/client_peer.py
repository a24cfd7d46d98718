"""The client's end of a session, over any number of connections, without sockets."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec
import numpy as np

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
    NON_FATAL_CODES,
    STEMS_FRAME,
    STREAM_MODULUS,
    Control,
    Error,
    Flush,
    Flushed,
    Frame,
    Goodbye,
    Hello,
    Message,
    Ping,
    Pong,
    Reset,
    Resume,
    State,
    Welcome,
    decode,
    decode_frame,
    encode,
    encode_frame,
)
from stemwire.errors import ProtocolError
from stemwire.realtime.ring import Audio


class ReceivedStems(NamedTuple):
    """Event: the next stems; `gap` samples before them are lost."""

    audio: Audio  # (stems, channels, n)
    position: int
    gap: int = 0


class ClientPeer:
    """A client's end of a session, over any number of connections.

    Methods named after a message return the encoded messages to send.

    Args:
        hello: first message of each connection; `resume` is filled in to resume a session.

    Attributes:
        welcome: newest welcome of the server, None before the first.
        connected: whether the server has let this connection in.
        latency: latency of the stems in samples.
        stream: number of the stream.
        received: position after the newest stems received.
        lost: samples of stems that never arrived.
        flushing: whether the client waits for `Flushed`.
        connections: number of connections so far.
    """

    def __init__(self, hello: Hello) -> None:
        self._hello = hello
        self.lost = self.connections = self.latency = 0
        self._sent_frames = self._received_frames = 0
        self._grain = 1
        self._journal = Journal(0)
        self._settings: dict[str, Any] = {}  # newest value of each setting
        self._settings_id = 0  # id of the newest control
        self.start_new_session()

    def start_new_session(self) -> None:
        """Give up the session: the next connection begins a new one, at position 0."""
        self.welcome: Welcome | None = None
        self.connected = self.flushing = False
        self._resetting = False  # whether the server has not confirmed the newest reset
        self._hello_state = 0, False  # stream, and `flushing`, when hello was sent
        self._start_stream(0)

    @property
    def sent(self) -> int:
        """Position after the newest mixture."""
        return self._journal.end

    @property
    def room(self) -> int:
        """Number of samples that may be sent now."""
        if self.welcome is None or self.flushing or not self.connected:
            return 0
        return max(0, self.welcome.limits.ahead - (self.sent - self.received))

    def connect(self) -> list[Data]:
        """Begin a new connection; returns the messages to send on it."""
        self.connected = False
        self._sent_frames = self._received_frames = 0
        self._hello_state = self.stream, self.flushing
        hello = self._hello
        if self.welcome is not None:
            resume = Resume(
                session=self.welcome.session,
                key=self.welcome.key,
                stream=self.stream,
                position=self.received,
            )
            hello = msgspec.structs.replace(hello, resume=resume)
        return [encode(hello)]

    def mixture(self, audio: Audio, checked: bool = False) -> list[Data]:
        """Send the next mixture, float32 (channels, n), at most `room` samples.

        Args:
            audio: mixture to send.
            checked: whether it is known to be free of NaN, infinity and excessive values.

        Raises:
            ProtocolError: `too_fast`, `audio` or `state` for audio that a server would refuse; the
                peer is unchanged then.
        """
        self._check_room(audio.shape[1])
        if not checked:
            check_audio(audio, self.sent)
        kept = audio[None].copy()
        return self._encode_mixture(self._journal.append(kept), kept)

    def skip(self, count: int) -> list[Data]:
        """Leave a gap of `count` samples in the mixture, at most `room`; raises as `mixture`."""
        self._check_room(count)
        self._journal.skip(count)
        return [self._encode_frame(self.sent, self._empty_audio())] if count else []

    def flush(self) -> list[Data]:
        """End the stream; `Flushed` follows the last stems."""
        if self.welcome is None or self.flushing:
            raise ProtocolError("state", "flush before welcome or flushed")
        self.flushing = True
        return [encode(Flush())] if self.connected else []

    def reset(self) -> list[Data]:
        """Discard the stream; the next one begins at once."""
        if self.welcome is None:
            raise ProtocolError("state", "reset before welcome")
        self._start_stream(self.stream + (2 if self.flushing else 1))  # a flush is a new stream too
        self._resetting = True
        return [encode(Reset())] if self.connected else []

    def control(self, control: Control) -> list[Data]:
        """Change settings, and remember them for connections to come."""
        for name in ("vocals", "instrumental", "mute", "bypass", "preset"):
            if (value := getattr(control, name)) is not None:
                self._settings[name] = value
        if control.effects:
            self._settings["effects"] = {**self._settings.get("effects", {}), **control.effects}
        self._settings_id = control.id
        return [encode(control)] if self.connected else []

    def send(self, message: Message) -> list[Data]:
        """Send another message."""
        return [encode(message)]

    def receive(self, data: Data) -> tuple[Any, list[Data]]:
        """Decode a message into an event, and the messages to answer with.

        Returns:
            `ReceivedStems`, the server's message, or None for one that no longer matters or whose
            type is unknown; and the messages to answer with.

        Raises:
            ProtocolError: if the server breaks the protocol, or sends an `Error` that ends the
                connection.
        """
        if isinstance(data, bytes):
            return self._on_stems(data), []
        message = decode(data, from_client=False)
        answers: list[Data] = []
        if isinstance(message, Welcome):
            answers = self._on_welcome(message)
        elif isinstance(message, Error):
            if not (message.code in NON_FATAL_CODES and self.connected):
                raise ProtocolError(message.code, message.text)
        elif not self.connected and not isinstance(message, Goodbye | None):
            raise ProtocolError("state", f"{type(message).__name__.lower()} before welcome")
        elif isinstance(message, Flushed):
            if self._resetting:
                return None, []
            self._on_flushed(message)
        elif isinstance(message, Reset):
            if not self._resetting or message.stream != self.stream:
                return None, []
            self._resetting = False
        elif isinstance(message, State):
            self.latency = message.latency
        elif isinstance(message, Ping):
            answers = [encode(Pong(id=message.id, time=message.time))]
        return message, answers

    def _on_welcome(self, welcome: Welcome) -> list[Data]:
        if self.connected:
            raise ProtocolError("state", "a second welcome on this connection")
        again: list[Data] = []
        if self.welcome is None:
            if welcome.position:
                raise ProtocolError("position", f"a new session at position {welcome.position}")
            self._journal.capacity = welcome.limits.ahead
            self._grain = grain(self._hello, welcome)
            self._start_stream(welcome.stream)
        elif self.welcome.session == welcome.session:
            again = self._resend(welcome)
        else:
            raise ProtocolError("resume", "the server resumed another session")
        self.welcome, self.latency = welcome, welcome.latency
        self.connected = True
        self.connections += 1
        # One by one, so that an invalid setting does not prevent the others.
        settings = [Control(**{name: value}) for name, value in self._settings.items()]
        if settings:
            settings[-1] = msgspec.structs.replace(settings[-1], id=self._settings_id)
        return [encode(setting) for setting in settings] + again

    def _resend(self, welcome: Welcome) -> list[Data]:
        """Messages with everything that the server has not received before the resume."""
        stream, flushing = self._hello_state
        ended = flushing and welcome.stream == (stream + 1) % STREAM_MODULUS
        left = self.stream != stream  # by a reset, since hello was sent
        at, kept = welcome.position, self._journal
        if not ended and (welcome.stream != stream or not (left or kept.start <= at <= kept.end)):
            raise ProtocolError(
                "resume",
                f"the server resumes in stream {welcome.stream} at {at}; "
                f"kept are {kept.start} to {kept.end} of stream {stream}",
            )
        data: list[Data] = []
        self._resetting = left
        if left:
            data, at = [encode(Reset())] * ((self.stream - welcome.stream) % STREAM_MODULUS), 0
        elif ended:
            return []
        for position, audio in kept.since(at):
            data += self._encode_mixture(position, audio)
            at = position + audio.shape[2]
        if at < self.sent:  # a gap at the end
            data.append(self._encode_frame(self.sent, self._empty_audio()))
        if self.flushing:
            data.append(encode(Flush()))
        return data

    def _on_stems(self, data: bytes) -> ReceivedStems | None:
        hello = self._hello
        if not self.connected:
            raise ProtocolError("state", "stems before welcome")
        frame = decode_frame(data, hello.format, STEMS_FRAME, len(hello.stems), hello.channels)
        check_sequence(frame, self._received_frames)
        self._received_frames += 1
        if self._resetting:
            return None  # sent before the server received the reset
        gap, end = frame.position - self.received, frame.position + frame.audio.shape[2]
        if frame.stream != self.stream:
            raise ProtocolError(
                "sequence", f"stems of stream {frame.stream}; this is {self.stream}"
            )
        if gap < 0:
            raise ProtocolError("position", f"stems at position {frame.position} were sent before")
        if end > self.sent and not self.flushing:
            raise ProtocolError("position", f"stems up to {end} of a mixture up to {self.sent}")
        self._account(gap, end)
        return ReceivedStems(frame.audio.copy(), frame.position, gap)

    def _on_flushed(self, message: Flushed) -> None:
        if not self.flushing or message.stream != (self.stream + 1) % STREAM_MODULUS:
            raise ProtocolError("state", f"unexpected flushed, into stream {message.stream}")
        if message.position < max(self.received, self.sent):
            raise ProtocolError(
                "position",
                f"flushed at {message.position} with mixture up to {self.sent} and "
                f"stems up to {self.received}",
            )
        self._account(message.position - self.received, message.position)
        self._start_stream(message.stream)

    def _account(self, gap: int, received: int) -> None:
        self.lost += gap
        self.received = received
        self._journal.forget(received)

    def _start_stream(self, stream: int) -> None:
        self.stream = stream % STREAM_MODULUS
        self.received = 0
        self.flushing = False
        self._journal.begin(stream)

    def _check_room(self, count: int) -> None:
        if count > self.room:
            raise ProtocolError("too_fast", f"{count} samples, room for {self.room}")
        check_grain(self._grain, self.sent, count)

    def _empty_audio(self) -> Audio:
        return np.zeros((1, self._hello.channels, 0), np.float32)

    def _encode_mixture(self, position: int, audio: Audio) -> list[Data]:
        assert self.welcome is not None
        parts = chunks(self._hello, self.welcome.limits, self._grain, position, audio)
        return [self._encode_frame(at, part) for at, part in parts]

    def _encode_frame(self, position: int, audio: Audio) -> bytes:
        frame = Frame(MIX_FRAME, self.stream, self._sent_frames, position, audio)
        self._sent_frames += 1
        return encode_frame(frame, self._hello.format)
