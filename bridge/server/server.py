"""The server: websockets and plain HTTP on one port, sessions behind them.

    async with Server(ServerConfig(port=0)) as server:
        print(server.port)
        await server.wait_closed()

Everything here runs on one event loop, which only moves bytes; separating is the scheduler's
threads' work. What a client sends is bounded by how far it may be ahead of its stems, and what
waits for it by the same; a client that does not read is closed, and hurts nobody else.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import logging
import secrets
import ssl
import time
from collections import deque
from collections.abc import Coroutine, Sequence
from types import TracebackType
from typing import Any, Self

import msgspec
from websockets.asyncio.server import ServerConnection, serve, unix_serve
from websockets.exceptions import ConnectionClosed, ConnectionClosedOK
from websockets.typing import Subprotocol

from stemwire._version import __version__
from stemwire.bridge.protocol import Data, Mixture, farewell
from stemwire.bridge.protocol.messages import (
    SUBPROTOCOL,
    Control,
    Error,
    Flush,
    Goodbye,
    Hello,
    Limits,
    Ping,
    Pong,
    Reset,
)
from stemwire.bridge.server.config import ServerConfig
from stemwire.bridge.server.connection import Connection, fault
from stemwire.bridge.server.http import Pages
from stemwire.bridge.server.relay import relay
from stemwire.bridge.server.separators import Desk
from stemwire.bridge.server.session import Session
from stemwire.bridge.websocket import ServerWire
from stemwire.errors import BridgeError, ConfigError, ProtocolError, StemwireError
from stemwire.realtime.live.priority import CALLBACK, raise_priority

HELLO_S = 10.0  # within which a client must have said hello
SPARE = 64  # connections that may stand besides two for each session
BEYOND = 1 << 16  # bytes of a message above the limit that are still read
CHANGES = 16  # of a session's presets or effects that may be on their way
LOOK_S = 0.25  # between looks for sessions that have ended
log = logging.getLogger("stemwire.server")


class Server:
    """Serves until it is closed; an asynchronous context manager.

    Args:
        config: see `ServerConfig`.
        number: of this worker process, if there are several.
        private: path of a Unix socket for connections that other workers hand on, or "".
        hurry: give its threads real-time priority, where the system grants it; for a process in
            which nothing else is.

    Raises:
        ConfigError: on entering, for settings that cannot work.
        BridgeError: on entering, if the port cannot be had.

    Attributes:
        port: that it listens on.
        sessions: by their names.
    """

    def __init__(
        self, config: ServerConfig, number: int = 0, private: str = "", hurry: bool = False
    ) -> None:
        self.config, self.number, self._private, self._hurry = config, number, private, hurry
        self.sessions: dict[str, Session] = {}
        self.port = 0
        self.draining = self._closing = False
        self._names = itertools.count(1)
        self._opening = 0  # sessions
        self._done: deque[tuple[Session, Exception | None]] = deque()  # by the desk's threads
        self._called = False  # the event loop, to hand it on
        self._connections: set[Connection] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._ended = asyncio.Event()
        self._listeners: list[Any] = []

    # --- life

    async def __aenter__(self) -> Self:
        self._tokens = [token.encode() for token in self.config.all_tokens()]
        loop = asyncio.get_running_loop()
        self.desk = await loop.run_in_executor(None, Desk, self.config, self._hurry)
        if self._hurry:  # it only moves bytes, and everybody waits for it
            raise_priority(CALLBACK)
        self.pages = Pages(self)
        options: dict[str, Any] = {
            "create_connection": ServerWire, "process_request": self.pages.answer,
            "select_subprotocol": _choose, "compression": None, "max_queue": 16,
            # Those a little too large are told so; those far beyond are not even read.
            "max_size": self.config.message_bytes + BEYOND,
            "open_timeout": HELLO_S, "ping_interval": 20, "ping_timeout": 20, "close_timeout": 2,
            "server_header": f"stemwire/{__version__}", "logger": logging.getLogger("websockets"),
        }  # fmt: skip
        try:
            listener = await serve(
                self._serve, self.config.host, self.config.port, ssl=self._tls(),
                reuse_port=True if self.config.workers > 1 else None, **options,
            )  # fmt: skip
        except OSError as error:
            self.desk.close()
            raise BridgeError(
                f"{self.config.host}:{self.config.port} cannot be listened on "
                f"({error.strerror or error}); choose another --port, or end what uses it"
            ) from error
        self._listeners.append(listener)
        if self._private:
            self._listeners.append(await unix_serve(self._serve, self._private, **options))
        self.port = next(iter(listener.sockets)).getsockname()[1]
        self.start_task(self._look())
        log.info("listening", extra={"host": self.config.host, "port": self.port})
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        await self.close()

    def _tls(self) -> ssl.SSLContext | None:
        if not self.config.cert:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(self.config.cert, self.config.key)
        except (OSError, ssl.SSLError) as error:
            self.desk.close()
            raise ConfigError(
                f"{self.config.cert}, {self.config.key}: no certificate and key that fit "
                f"({error}); expected PEM files"
            ) from error
        return context

    async def drain(self) -> None:
        """Let nobody in any more, wait a while for streams to end, then close."""
        self.draining = True
        log.info("draining", extra={"sessions": len(self.sessions)})
        end = time.monotonic() + self.config.drain
        while self.sessions and time.monotonic() < end:
            await asyncio.sleep(LOOK_S / 5)
        await self.close()

    async def close(self) -> None:
        """Say goodbye to all and end."""
        if self._closing:
            await self._ended.wait()
            return
        self._closing = self.draining = True
        await asyncio.gather(*map(self._say_goodbye, list(self._connections)))
        for listener in self._listeners:
            listener.close(close_connections=True)
            await listener.wait_closed()
        for task in self._tasks:
            if task is not asyncio.current_task():
                task.cancel()
        for session in list(self.sessions.values()):
            self._end(session, "server")
        await asyncio.get_running_loop().run_in_executor(None, self.desk.close)
        log.info("ended")
        self._ended.set()

    async def _say_goodbye(self, connection: Connection) -> None:
        with contextlib.suppress(ConnectionClosed, TimeoutError):
            async with asyncio.timeout(1):  # some may not read
                await connection.websocket.send(farewell("the server ends"))

    async def wait_closed(self) -> None:
        """Return when the server has been closed."""
        await self._ended.wait()

    @property
    def crowded(self) -> bool:
        """Whether there are more connections than clients could need, so that files might lack."""
        return len(self._connections) >= 2 * self.config.sessions + SPARE

    def start_task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run something beside the rest, until the server ends."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _look(self) -> None:
        """End what nobody comes back to, and connections on which nothing happens."""
        while True:
            await asyncio.sleep(LOOK_S)
            now = time.monotonic()
            for session in list(self.sessions.values()):
                if session.line is None and now > session.expires:
                    self._end(session, "grace is over")
            for connection in list(self._connections):
                if now - connection.heard > self.config.idle and not connection.refused:
                    silent = ProtocolError("too_slow", f"nothing came for {self.config.idle:g} s")
                    self._refuse(connection, silent)

    # --- connections

    async def _serve(self, websocket: ServerConnection) -> None:
        assert isinstance(websocket, ServerWire)
        connection = Connection(websocket)
        self._connections.add(connection)
        pump: asyncio.Task[None] | None = None
        try:
            session = await self._let_in(connection)
            if session is None:
                return
            pump = asyncio.create_task(connection.pump())
            pump.add_done_callback(lambda task: task.cancelled() or task.exception())
            try:
                await websocket.listen(functools.partial(self._hear, connection, session))
            except ConnectionClosedOK:
                if session.line is connection:
                    self._end(session, "closed")
        except ProtocolError as error:
            await self._refuse(connection, error)
        except ConnectionClosed as closed:  # the session waits for another connection
            if (found := fault(closed)) is not None:
                await self._refuse(connection, found)
        except Exception as error:
            log.exception("a connection failed")
            await self._refuse(connection, ProtocolError("internal", type(error).__name__))
        finally:
            self._connections.discard(connection)
            if pump is not None:
                pump.cancel()
            if connection.session is not None:
                connection.session.detach(connection)

    def _refuse(self, connection: Connection, error: ProtocolError) -> asyncio.Task[None]:
        """Count an error, end what it ends, and tell the client; once for each connection."""
        session = connection.session
        if session is not None and session.line is not connection:
            session = None  # a newer connection has it
        if not connection.refused:
            connection.refused = True
            self.pages.count_error(error.code)
            log.warning(
                "refused", extra={"code": error.code, "reason": str(error),
                                  "session": session.name if session else ""},
            )  # fmt: skip
            if session is not None and error.code != "too_slow":
                self._end(session, error.code)
        return self.start_task(connection.refuse(error))

    async def _let_in(self, connection: Connection) -> Session | None:
        """Hello and welcome; None if the connection was handed on to another worker."""
        websocket = connection.websocket
        try:
            async with asyncio.timeout(HELLO_S):
                data = await websocket.message()
        except TimeoutError:
            raise ProtocolError("too_slow", f"no hello within {HELLO_S:g} s") from None
        hello = connection.receive(data)
        if not isinstance(hello, Hello):
            raise ProtocolError("state", "expected hello")
        token = hello.token.encode()
        fits = [secrets.compare_digest(token, known) for known in self._tokens]
        if self._tokens and not any(fits):
            raise ProtocolError("token", "the token is missing or wrong; ask who runs the server")
        if hello.resume is not None:
            session = self.sessions.get(hello.resume.session)
            if session is None:
                if await relay(websocket, data, hello.resume.session, self._private):
                    return None
                raise ProtocolError("resume", "the session has ended; begin a new one")
        else:
            session = await self._open(hello)
        before = session.line
        welcome = session.attach(connection)
        connection.session = session
        if isinstance(before, Connection):  # it seems to stand, but the client knows better
            self.start_task(before.websocket.close(1008, "resumed"))
        try:
            for message in welcome:
                await websocket.send(message)
        except ConnectionClosed:
            if hello.resume is None:  # who never heard its name cannot come back to it
                self._end(session, "gone before it was welcomed")
            raise
        if hello.resume is not None:
            self.pages.count("resumes")
        if hello.stats:
            self.start_task(self._tell(connection, session, hello.stats))
        self.pages.count("connections")
        return session

    async def _open(self, hello: Hello) -> Session:
        if self.draining:
            raise ProtocolError("shutdown", "the server is about to end; try another")
        # Those that are being opened count too, or many at once would all find room.
        if len(self.sessions) + self._opening >= self.config.sessions:
            raise ProtocolError(
                "too_many", f"{len(self.sessions)} sessions, as many as are allowed; try later"
            )
        self._opening += 1
        try:
            return await self._open_session(hello)
        finally:
            self._opening -= 1

    async def _open_session(self, hello: Hello) -> Session:
        loop = asyncio.get_running_loop()
        try:
            strip = await loop.run_in_executor(None, self.desk.open, hello)
        except ProtocolError:
            raise
        except StemwireError as error:
            raise ProtocolError("config", str(error)) from error
        name = f"{self.number}-{next(self._names)}-{secrets.token_hex(4)}"
        limits = Limits(
            message=self.config.message_bytes,
            ahead=max(round(self.config.ahead * hello.rate), 2 * (hello.block or 512)),
            grace=self.config.grace, idle=self.config.idle,
        )  # fmt: skip
        session = Session(
            hello, strip, limits, lambda: self.desk.wake(strip), name, f"stemwire {__version__}"
        )

        def deliver(error: Exception | None) -> None:
            self._done.append((session, error))
            if not self._called:  # one call for all that is done meanwhile
                self._called = True
                with contextlib.suppress(RuntimeError):  # the loop has ended
                    loop.call_soon_threadsafe(self._deliver_all)

        self.desk.serve(strip, deliver)
        self.sessions[name] = session
        log.info(
            "session", extra={"session": name, "rate": hello.rate, "channels": hello.channels,
                              "preset": hello.preset, "client": hello.client},
        )  # fmt: skip
        return session

    def _deliver_all(self) -> None:
        self._called = False  # from here on: what is appended later is another call's
        while self._done:
            self._deliver(*self._done.popleft())

    def _deliver(self, session: Session, error: Exception | None) -> None:
        session.emit()
        if error is None:
            return
        if not isinstance(error, ProtocolError):
            log.error("a session failed", exc_info=error, extra={"session": session.name})
            error = ProtocolError("internal", f"{type(error).__name__}: {error}")
        if isinstance(session.line, Connection):
            self._refuse(session.line, error)
        else:
            self.pages.count_error(error.code)
        self._end(session, error.code)

    def _end(self, session: Session, why: str) -> None:
        if self.sessions.pop(session.name, None) is not None:
            self.desk.remove(session.strip)
            self.pages.add_session(session)
            log.info("session ended", extra={"session": session.name, "reason": why})

    def _hear(self, connection: Connection, session: Session, data: Data) -> bool:
        """Do what a client asks; whether nothing more is wanted of this connection."""
        if session.line is not connection:  # what comes belongs to a newer one
            return True
        event, peer = connection.receive(data), connection.peer
        if isinstance(event, Mixture):
            session.mixture(event)
        elif isinstance(event, Flush | Reset):
            session.end_stream(event, peer.stream)
        elif isinstance(event, Ping):
            connection.say(Pong(id=event.id, time=event.time))
        elif isinstance(event, Control):
            self._control(connection, session, event)
        elif isinstance(event, Goodbye):
            self._end(session, "goodbye")
            return True
        return False

    def _control(self, connection: Connection, session: Session, control: Control) -> None:
        """Change settings; controls take effect in their order, though some take time to load."""
        changes = session.changes(control)
        if changes and session.coming >= CHANGES:
            raise ProtocolError(
                "too_fast", f"{CHANGES} presets or effects are on their way; wait for them"
            )
        if changes or session.loading:
            session.loading += 1
            session.changing += changes
            self.start_task(self._change(connection, session, control, changes))
        else:
            session.put(control)

    async def _change(
        self, connection: Connection, session: Session, control: Control, counted: bool
    ) -> None:
        """Load what a control asks for, in turn, and have the strip go over to it."""
        loop = asyncio.get_running_loop()
        try:
            async with session.turn:
                if not session.changes(control):
                    session.put(control)
                    return
                voice = await loop.run_in_executor(None, self.desk.voice, session, control)
                session.put(msgspec.structs.replace(control, id=0))
                session.choose(voice)
        except StemwireError as error:
            connection.say(Error(id=control.id, code="config", text=str(error)[:500]))
        finally:
            session.loading -= 1
            session.changing -= counted

    async def _tell(self, connection: Connection, session: Session, seconds: float) -> None:
        """Send statistics while the connection lasts."""
        while session.line is connection:
            await asyncio.sleep(max(seconds, 0.05))
            stats = session.stats(self.desk.load, len(self.sessions))
            connection.say(stats)


def _choose(_: ServerConnection, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    """The subprotocol, if it is offered; who offers another is told in the protocol."""
    return next((name for name in offered if name == SUBPROTOCOL), None)
