"""A client's session on a server, which outlives its connections. On the event loop.

Messages from the client go down to the pipeline. Its results come back in order; a session numbers
them by stream and position, keeps the newest for a client whose connection breaks, and sends them
on the current connection.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

import msgspec
import numpy as np

from stemwire._version import __version__
from stemwire.bridge.protocol import Data, Journal, Mixture, ServerPeer
from stemwire.bridge.protocol.messages import (
    VERSION,
    Control,
    Error,
    Flush,
    Goodbye,
    Hello,
    Limits,
    Message,
    Ping,
    Pong,
    Reset,
    State,
    Stats,
    Welcome,
    encode,
)
from stemwire.bridge.server.pipeline import MixtureBlock, Pipeline, Stage, StageChange
from stemwire.bridge.server.separators import SeparatorPool
from stemwire.errors import ProtocolError, StemwireError

MAX_CHANGES = 16  # changes of preset or effects that a session may have in progress


class AttachedConnection(Protocol):
    """A connection, as far as a session uses it."""

    peer: ServerPeer

    def send(self, data: list[Data], stream: int, position: int) -> None:
        """Send messages; `position` of `stream` is after the newest stems among them."""

    def send_message(self, message: Message) -> None:
        """Send a message without stems."""


class Session:
    """A client's session, from its welcome to its end.

    Args:
        name: name of the session.
        hello: hello that began it.
        pipeline: pipeline that separates for it.
        limits: limits of the server.
        pool: pool that the pipeline comes from.
        start_task: function that runs a coroutine until the server ends.
        on_goodbye: function called with the session when the client says goodbye.

    Attributes:
        connection: current connection, or None.
        hop: hop of the first preset in samples, by which frames are promised to end.
        expires: time (`time.monotonic`) at which the session ends if no connection is attached.
        gaps: gaps in the mixture so far; `missing` samples in them.
    """

    def __init__(
        self,
        name: str,
        hello: Hello,
        pipeline: Pipeline,
        limits: Limits,
        pool: SeparatorPool,
        start_task: Callable[[Coroutine[Any, Any, None]], object],
        on_goodbye: Callable[[Session], None],
    ) -> None:
        self.name, self.key = name, secrets.token_urlsafe(24)
        self.hello, self.pipeline = hello, pipeline
        self.connection: AttachedConnection | None = None
        self.hop = pipeline.stage.separator.hop
        self.expires = 0.0
        self.gaps = self.missing = 0
        self._limits, self._pool = limits, pool
        self._start_task, self._on_goodbye = start_task, on_goodbye
        self._journal = Journal(limits.ahead + pipeline.stage.latency)
        self._peer: ServerPeer | None = None  # of the newest connection
        self._resets: deque[int] = deque()  # streams that begin with resets in progress
        self._due = 0.0
        # Stages
        self._stages = [(0, pipeline.stage)]  # of the journal's stream, by their first position
        self._next_stream_stage: Stage | None = None  # from the beginning of the next stream
        self._requested_stage = pipeline.stage  # newest one that the pipeline was given
        self._unannounced: list[Stage] = []  # given to the pipeline, which has not begun them
        self._load_lock = asyncio.Lock()  # held while a stage loads; later controls wait
        self._queued_controls = 0  # that load a stage, or wait for one that does
        self._queued_changes = 0  # those of them that ask for another stage

    # --- connections

    def attach(self, connection: AttachedConnection) -> list[Data]:
        """Make a connection the current one; returns the messages to send on it first.

        Raises:
            ProtocolError: `resume`, if the client's position does not fit the session.
        """
        peer, stream, position = connection.peer, 0, 0
        if self._peer is not None:
            resume = peer.hello.resume if peer.hello is not None else None
            given = resume.key.encode() if resume is not None else b""
            if not secrets.compare_digest(given, self.key.encode()):
                raise ProtocolError("resume", "the key is wrong; begin a new session")
            stream, position = peer.resume_position(self._peer)
            if stream != self._peer.stream:
                self._end_stream(Reset(), stream)
        stage, later = self._stages_for(peer.hello)
        welcome = Welcome(
            version=VERSION,
            session=self.name,
            key=self.key,
            latency=stage.latency,
            hop=self.hop,
            stream=stream,
            position=position,
            limits=self._limits,
            server=f"stemwire {__version__}",
        )
        data = peer.welcome(welcome, self._journal)
        data += [encode(self._state_of(stage, 0, at)) for at, stage in later]
        self.connection, self._peer = connection, peer
        return data

    def _stages_for(self, hello: Hello | None) -> tuple[Stage, list[tuple[int, Stage]]]:
        """Stage of the first stems that a client will get, and those after it, by position.

        The client may have missed where they come in, for the connection broke.
        """
        resume = hello.resume if hello is not None else None
        if resume is not None and resume.stream != self._journal.stream:
            return self._next_stream_stage or self._stages[-1][1], []
        first = resume.position if resume is not None else 0
        return self._stage_at(first), [each for each in self._stages if each[0] > first]

    def detach(self, connection: AttachedConnection) -> None:
        """Wait for another connection, unless there already is one."""
        if self.connection is connection:
            self.connection = None
            self.expires = time.monotonic() + self._limits.grace

    # --- from the client

    def handle(self, event: Any) -> bool:
        """Carry out a message of the client.

        Args:
            event: event of the current connection's peer.

        Returns:
            Whether it was the last one.

        Raises:
            ProtocolError: `too_fast`, for too many changes at a time.
        """
        connection, peer = self.connection, self._peer
        assert connection is not None and peer is not None
        if isinstance(event, Mixture):
            self._take_mixture(event)
        elif isinstance(event, Flush | Reset):
            self._end_stream(event, peer.stream)
        elif isinstance(event, Ping):
            connection.send_message(Pong(id=event.id, time=event.time))
        elif isinstance(event, Control):
            self._control(connection, event)
        elif isinstance(event, Goodbye):
            self._on_goodbye(self)
            return True
        return False

    def _take_mixture(self, event: Mixture) -> None:
        now, count = time.monotonic(), event.gap + event.audio.shape[1]
        self._due = max(now, self._due) + count / self.hello.rate
        if event.gap:
            self.gaps += 1
            self.missing += event.gap
        self._put(MixtureBlock(event.audio, event.gap, self._due))

    def _end_stream(self, event: Flush | Reset, stream: int) -> None:
        """End the client's stream; `stream` is the next."""
        if isinstance(event, Reset):
            self._resets.append(stream)
        self._put(event)

    def _control(self, connection: AttachedConnection, control: Control) -> None:
        """Change settings; controls take effect in order, though some take time to load."""
        changes = self._needs_stage(control)
        if changes and self._queued_changes + len(self._unannounced) >= MAX_CHANGES:
            raise ProtocolError(
                "too_fast",
                f"{MAX_CHANGES} changes of preset or effects are in progress; wait for them",
            )
        if changes or self._queued_controls:
            self._queued_controls += 1
            self._queued_changes += changes
            self._start_task(self._control_in_turn(connection, control, changes))
        else:
            self._put(control)

    async def _control_in_turn(
        self, connection: AttachedConnection, control: Control, counted: bool
    ) -> None:
        """Wait for earlier controls, then load what a control asks for."""
        loop = asyncio.get_running_loop()
        try:
            async with self._load_lock:
                if not self._needs_stage(control):
                    self._put(control)
                    return
                stage = await loop.run_in_executor(
                    None,
                    self._pool.open_stage,
                    self.hello,
                    self.hop,
                    self._requested_stage,
                    self.pipeline.settings.gains(),
                    control,
                )
                self._put(msgspec.structs.replace(control, id=0))
                self._requested_stage = stage
                self._unannounced.append(stage)
                self._put(stage)
        except StemwireError as error:
            connection.send_message(Error(id=control.id, code="config", text=str(error)[:500]))
        finally:
            self._queued_controls -= 1
            self._queued_changes -= counted

    def _needs_stage(self, control: Control) -> bool:
        """Whether a control asks for another preset or effects than were requested before."""
        stage = self._requested_stage
        return control.preset not in (None, stage.preset) or any(
            name != stage.names.get(stem, "") for stem, name in (control.effects or {}).items()
        )

    def _put(self, event: Flush | Reset | Control | Stage | MixtureBlock) -> None:
        self.pipeline.put(event)
        self._pool.wake(self.pipeline)

    # --- to the client

    def send_results(self) -> None:
        """Send what the pipeline has done, and keep the stems for another connection."""
        results, journal = self.pipeline.results, self._journal
        while results:
            result = results.popleft()
            if isinstance(result, np.ndarray):
                if journal.ended:
                    self._begin_stream()
                position = journal.append(result)
                while len(self._stages) > 1 and self._stages[1][0] <= journal.start:
                    self._stages.pop(0)
                if self.connection is not None:
                    data = self.connection.peer.stems(position, result)
                    self.connection.send(data, journal.stream, journal.end)
            elif isinstance(result, Flush):
                if journal.ended:
                    self._begin_stream()
                journal.finish()
                if self.connection is not None:
                    self.connection.send(
                        self.connection.peer.flushed(), journal.stream, journal.end
                    )
            elif isinstance(result, Reset):
                self._begin_stream()
                journal.begin(self._resets.popleft())
                self._send(Reset(stream=journal.stream))
            elif isinstance(result, Control):
                at = journal.end
                self._send(self._state_of(self._stage_at(at), result.id, at))
            elif isinstance(result, StageChange):
                self._announce_stage(result)

    def _send(self, message: Message) -> None:
        if self.connection is not None:
            self.connection.send([encode(message)], self._journal.stream, self._journal.end)

    def _announce_stage(self, change: StageChange) -> None:
        """Tell the client from which position on stems come from another stage."""
        stage, position = change.stage, change.position
        if stage in self._unannounced:
            self._unannounced.remove(stage)
        self._journal.capacity = max(self._journal.capacity, self._limits.ahead + stage.latency)
        if self._journal.ended:  # it belongs to the stream to come
            self._next_stream_stage = stage
        else:
            self._stages = [each for each in self._stages if each[0] < position]
            self._stages.append((position, stage))
        self._send(self._state_of(stage, stage.control, position))

    def _begin_stream(self) -> None:
        """The journal begins with another stream."""
        self._stages = [(0, self._next_stream_stage or self._stages[-1][1])]
        self._next_stream_stage = None

    def _stage_at(self, position: int) -> Stage:
        return next(stage for at, stage in reversed(self._stages) if at <= position)

    def _state_of(self, stage: Stage, control: int, position: int) -> State:
        settings = self.pipeline.settings
        return State(
            id=control,
            vocals=settings.vocals,
            instrumental=settings.instrumental,
            mute=settings.mute,
            bypass=settings.bypass,
            preset=stage.preset,
            effects=stage.names,
            latency=stage.latency,
            position=position,
        )

    def stats(self, load: float, sessions: int) -> Stats:
        """Statistics of the session.

        Args:
            load: load of the server.
            sessions: number of its sessions.
        """
        times = self.pipeline.stage.separator.hop_times
        return Stats(
            position=self._peer.received if self._peer else 0,
            waiting=self.pipeline.waiting,
            gaps=self.gaps,
            missing=self.missing,
            misses=self.pipeline.misses,
            hop_ms=times.summary() if times.count else {},
            load=round(load, 3),
            sessions=sessions,
        )
