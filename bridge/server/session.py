"""A client's session on a server: what outlives its connections. Belongs to the event loop.

Results of the strip come in order; a session numbers them by position and stream, keeps the newest
for a client whose connection breaks, and hands them to the connection there is.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

import numpy as np

from stemwire.bridge.protocol import Data, Journal, Mixture, ServerPeer
from stemwire.bridge.protocol.messages import (
    VERSION,
    Control,
    Flush,
    Hello,
    Limits,
    Message,
    Reset,
    State,
    Stats,
    Welcome,
    encode,
)
from stemwire.bridge.server.pipeline import Arrived, Chosen, Strip, Voice
from stemwire.errors import ProtocolError


class Line(Protocol):
    """A connection, as a session sees it."""

    peer: ServerPeer

    def send(self, data: list[Data], stream: int, position: int) -> None:
        """Send messages; `position` of `stream` is after the newest stems among them."""


class Session:
    """See the module.

    Args:
        hello: that began it.
        strip: that does the work.
        limits: of the server.
        wake: tells the scheduler that the strip has something to do.
        name: of the session.
        server: program and version, for the welcome.

    Attributes:
        line: connection there is, or None.
        hop: samples of the first preset's hop, by which frames are promised to go.
        expires: time (`time.monotonic`) at which it ends if no connection comes.
        wished: voice that was chosen last.
        turn: held by the control that loads a voice; the others wait for it.
        loading: controls that load a voice, or wait for one that does; `changing` of them ask for
            another voice.
    """

    def __init__(
        self,
        hello: Hello,
        strip: Strip,
        limits: Limits,
        wake: Callable[[], None],
        name: str,
        server: str,
    ) -> None:
        self.hello, self.strip, self.name, self.key = hello, strip, name, secrets.token_urlsafe(24)
        self.line: Line | None = None
        self.expires = 0.0
        self.gaps = self.missing = 0
        self._limits, self._wake, self._server = limits, wake, server
        self._journal = Journal(limits.ahead + strip.voice.latency)
        self._peer: ServerPeer | None = None  # of the newest connection
        self._resets: deque[int] = deque()  # streams that begin with resets under way
        self._due = 0.0
        self._voices = [(0, strip.voice)]  # of the journal's stream: from which position on each
        self._coming: Voice | None = None  # at the beginning of the next stream
        self._awaited: list[Voice] = []  # that the strip has not begun with
        self.wished = strip.voice
        self.turn, self.loading, self.changing = asyncio.Lock(), 0, 0
        self.hop = strip.voice.separator.hop

    # --- connections

    def attach(self, line: Line) -> list[Data]:
        """A connection stands: what is to be said on it.

        Raises:
            ProtocolError: `resume`, if the client is somewhere else.
        """
        peer, stream, position = line.peer, 0, 0
        if self._peer is not None:
            resume = peer.hello.resume if peer.hello is not None else None
            given = resume.key.encode() if resume is not None else b""
            if not secrets.compare_digest(given, self.key.encode()):
                raise ProtocolError("resume", "the key is wrong; begin a new session")
            stream, position = peer.go_on(self._peer)
            if stream != self._peer.stream:
                self.end_stream(Reset(), stream)
        voice, later = self._from(peer.hello)
        welcome = Welcome(
            version=VERSION, session=self.name, key=self.key, latency=voice.latency,
            hop=self.hop, stream=stream, position=position, limits=self._limits,
            server=self._server,
        )  # fmt: skip
        data = peer.welcome(welcome, self._journal)
        data += [encode(self._state_of(voice, 0, at)) for at, voice in later]
        self.line, self._peer = line, peer
        return data

    def _from(self, hello: Hello | None) -> tuple[Voice, list[tuple[int, Voice]]]:
        """Voice of the first stems that a client will get, and those after it, by position.

        Where another one comes in may have been told on the connection that broke.
        """
        resume = hello.resume if hello is not None else None
        if resume is not None and resume.stream != self._journal.stream:
            return self._coming or self._voices[-1][1], []
        first = resume.position if resume is not None else 0
        return self._heard(first), [each for each in self._voices if each[0] > first]

    def detach(self, line: Line) -> None:
        """A connection is gone; the session waits for another."""
        if self.line is line:
            self.line = None
            self.expires = time.monotonic() + self._limits.grace

    # --- from the client

    def mixture(self, event: Mixture) -> None:
        """Mixture has come."""
        now, count = time.monotonic(), event.gap + event.audio.shape[1]
        self._due = max(now, self._due) + count / self.hello.rate
        if event.gap:
            self.gaps += 1
            self.missing += event.gap
        self.put(Arrived(event.audio, event.gap, self._due))

    def end_stream(self, event: Flush | Reset, stream: int) -> None:
        """The client ends a stream; `stream` is the next."""
        if isinstance(event, Reset):
            self._resets.append(stream)
        self.put(event)

    def put(self, event: Flush | Reset | Control | Voice | Arrived) -> None:
        """Something for the strip."""
        self.strip.put(event)
        self._wake()

    # --- from the strip

    def emit(self) -> None:
        """Hand on what the strip has done."""
        results, journal = self.strip.results, self._journal
        while results:
            result = results.popleft()
            if isinstance(result, np.ndarray):
                if journal.ended:
                    self._next_stream()
                position = journal.append(result)
                while len(self._voices) > 1 and self._voices[1][0] <= journal.start:
                    self._voices.pop(0)
                if self.line is not None:
                    data = self.line.peer.stems(position, result)
                    self.line.send(data, journal.stream, journal.end)
            elif isinstance(result, Flush):
                if journal.ended:
                    self._next_stream()
                journal.finish()
                if self.line is not None:
                    self.line.send(self.line.peer.flushed(), journal.stream, journal.end)
            elif isinstance(result, Reset):
                self._next_stream()
                journal.begin(self._resets.popleft())
                self._say(Reset(stream=journal.stream))
            elif isinstance(result, Control):
                self._say(self.state(result.id))
            elif isinstance(result, Chosen):
                self._choose(result)

    def _say(self, message: Message) -> None:
        if self.line is not None:
            self.line.send([encode(message)], self._journal.stream, self._journal.end)

    def _choose(self, chosen: Chosen) -> None:
        """Another voice will be heard."""
        voice, position = chosen.voice, chosen.position
        if voice in self._awaited:
            self._awaited.remove(voice)
        self._journal.capacity = max(self._journal.capacity, self._limits.ahead + voice.latency)
        if self._journal.ended:  # in the stream to come
            self._coming = voice
        else:
            self._voices = [each for each in self._voices if each[0] < position]
            self._voices.append((position, voice))
        self._say(self._state_of(voice, voice.control, position))

    def _next_stream(self) -> None:
        """The journal begins with another stream."""
        self._voices = [(0, self._coming or self._voices[-1][1])]
        self._coming = None

    def _heard(self, position: int) -> Voice:
        return next(voice for at, voice in reversed(self._voices) if at <= position)

    def state(self, control: int = 0, position: int | None = None) -> State:
        """How the session is set, from a position on; from the next stems on if there is none."""
        if position is None:
            position = self._journal.end
        return self._state_of(self._heard(position), control, position)

    def _state_of(self, voice: Voice, control: int, position: int) -> State:
        settings = self.strip.settings
        return State(
            id=control,
            vocals=settings.vocals, instrumental=settings.instrumental,
            mute=settings.mute, bypass=settings.bypass, preset=voice.preset, effects=voice.names,
            latency=voice.latency, position=position,
        )  # fmt: skip

    def stats(self, load: float, sessions: int) -> Stats:
        """How it fares."""
        times = self.strip.voice.separator.hop_times
        return Stats(
            position=self._peer.received if self._peer else 0, waiting=self.strip.waiting,
            gaps=self.gaps, missing=self.missing, misses=self.strip.misses,
            hop_ms=times.summary() if times.count else {}, load=round(load, 3),
            sessions=sessions,
        )  # fmt: skip

    # --- presets and effects

    @property
    def coming(self) -> int:
        """Voices that are asked for and that nobody knows yet from where on they are heard."""
        return self.changing + len(self._awaited)

    def changes(self, control: Control) -> bool:
        """Whether a control asks for another preset or other effects than were wished before."""
        voice = self.wished
        return control.preset not in (None, voice.preset) or any(
            name != voice.names.get(stem, "") for stem, name in (control.effects or {}).items()
        )

    def choose(self, voice: Voice) -> None:
        """Have the strip go over to another voice."""
        self.wished = voice
        self._awaited.append(voice)
        self.put(voice)
