"""Server: websockets and plain HTTP on one port, and the sessions behind them.

    async with Server(ServerConfig(port=0)) as server:
        print(server.port)
        await server.wait_closed()

The server lets connections in and ends sessions. A message of a client runs downhill from there:
websocket, connection, session, pipeline, scheduler. Stems come back through `Session.send_results`.

Everything here runs on one event loop, which only moves bytes; the scheduler's worker threads
separate. What a client may send is bounded by how far it may be ahead of its stems, and so is what
waits to be sent to it; a client that does not read is disconnected, and affects nobody else.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import logging
import secrets
import time
from collections import deque
from collections.abc import Coroutine, Sequence
from types import TracebackType
from typing import Any, Self

from websockets.asyncio.server import ServerConnection, serve, unix_serve
from websockets.exceptions import ConnectionClosed, ConnectionClosedOK
from websockets.typing import Subprotocol

from stemwire._version import __version__
from stemwire.bridge.protocol import goodbye_message
from stemwire.bridge.protocol.messages import SUBPROTOCOL, Hello, Limits
from stemwire.bridge.server.config import ServerConfig
from stemwire.bridge.server.connection import Connection, websocket_error
from stemwire.bridge.server.http import HttpHandler
from stemwire.bridge.server.metrics import Counters, Snapshot
from stemwire.bridge.server.relay import relay
from stemwire.bridge.server.separators import SeparatorPool
from stemwire.bridge.server.session import Session
from stemwire.bridge.websocket import ServerWebSocket
from stemwire.errors import BridgeError, ProtocolError, StemwireError
from stemwire.realtime.live.priority import CALLBACK, raise_priority

HELLO_TIMEOUT_S = 10.0
SPARE_CONNECTIONS = 64  # allowed besides two for each session
OVERSIZE_BYTES = 1 << 16  # beyond the limit of a message, up to which it is still read
EXPIRY_CHECK_S = 0.25  # between checks for sessions and connections that have expired
log = logging.getLogger("stemwire.server")


class Server:
    """A server that runs until it is closed; an asynchronous context manager.

    Args:
        config: see `ServerConfig`.
        number: number of this worker process, if there are several.
        private_socket: path of a Unix socket for connections that other workers relay, or "".
        realtime_priority: give its threads real-time priority, where the system grants it; for a
            process that does nothing else.

    Raises:
        ConfigError: on entering, for invalid settings.
        BridgeError: on entering, if the port is not available.

    Attributes:
        port: port that the server listens on.
        sessions: sessions by name.
        pool: separators of the sessions.
        counters: counters for the metrics.
        draining: whether new sessions are refused, for the server is about to end.
    """

    def __init__(
        self,
        config: ServerConfig,
        number: int = 0,
        private_socket: str = "",
        realtime_priority: bool = False,
    ) -> None:
        self.config, self.number = config, number
        self._private_socket, self._realtime_priority = private_socket, realtime_priority
        self.sessions: dict[str, Session] = {}
        self.counters = Counters()
        self.port = 0
        self.draining = self._closing = False
        self._names = itertools.count(1)
        self._opening = 0  # sessions that are being opened
        # Sessions that have results; appended to by worker threads.
        self._results: deque[tuple[Session, Exception | None]] = deque()
        self._delivery_scheduled = False
        self._connections: set[Connection] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._ended = asyncio.Event()
        self._listeners: list[Any] = []

    # --- life

    async def __aenter__(self) -> Self:
        self._tokens = [token.encode() for token in self.config.all_tokens()]
        tls = self.config.tls_context()
        loop = asyncio.get_running_loop()
        self.pool = await loop.run_in_executor(
            None, SeparatorPool, self.config, self._realtime_priority
        )
        if self._realtime_priority:  # the event loop only moves bytes, and all streams wait for it
            raise_priority(CALLBACK)
        pages = HttpHandler(
            self.config.origins,
            self._has_room,
            self._unavailable,
            self._snapshot,
            self.counters.count_error,
        )
        options: dict[str, Any] = {
            "create_connection": ServerWebSocket,
            "process_request": pages.answer,
            "select_subprotocol": _select_subprotocol,
            "compression": None,
            "max_queue": 16,
            # Slightly oversized messages get an error; the websocket refuses larger ones unread.
            "max_size": self.config.message_bytes + OVERSIZE_BYTES,
            "open_timeout": HELLO_TIMEOUT_S,
            "ping_interval": 20,
            "ping_timeout": 20,
            "close_timeout": 2,
            "server_header": f"stemwire/{__version__}",
            "logger": logging.getLogger("websockets"),
        }
        try:
            listener = await serve(
                self._serve,
                self.config.host,
                self.config.port,
                ssl=tls,
                reuse_port=True if self.config.workers > 1 else None,
                **options,
            )
        except OSError as error:
            self.pool.close()
            raise BridgeError(
                f"cannot listen on {self.config.host}:{self.config.port} "
                f"({error.strerror or error}); choose another --port, or stop the program that "
                "uses it"
            ) from error
        self._listeners.append(listener)
        if self._private_socket:
            self._listeners.append(await unix_serve(self._serve, self._private_socket, **options))
        self.port = next(iter(listener.sockets)).getsockname()[1]
        self.start_task(self._expire())
        log.info("listening", extra={"host": self.config.host, "port": self.port})
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        await self.close()

    async def drain(self) -> None:
        """Refuse new sessions, give those there are some time to end, then close."""
        self.draining = True
        log.info("draining", extra={"sessions": len(self.sessions)})
        end = time.monotonic() + self.config.drain
        while self.sessions and time.monotonic() < end:
            await asyncio.sleep(EXPIRY_CHECK_S / 5)
        await self.close()

    async def close(self) -> None:
        """Say goodbye on all connections, and end."""
        if self._closing:
            await self._ended.wait()
            return
        self._closing = self.draining = True
        await asyncio.gather(*map(self._send_goodbye, list(self._connections)))
        for listener in self._listeners:
            listener.close(close_connections=True)
            await listener.wait_closed()
        for task in self._tasks:
            if task is not asyncio.current_task():
                task.cancel()
        for session in list(self.sessions.values()):
            self._end(session, "server")
        await asyncio.get_running_loop().run_in_executor(None, self.pool.close)
        log.info("ended")
        self._ended.set()

    async def _send_goodbye(self, connection: Connection) -> None:
        with contextlib.suppress(ConnectionClosed, TimeoutError):
            async with asyncio.timeout(1):  # for clients that do not read
                await connection.websocket.send(goodbye_message("the server ends"))

    async def wait_closed(self) -> None:
        """Return when the server has been closed."""
        await self._ended.wait()

    def start_task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a coroutine in the background, at most until the server ends."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _expire(self) -> None:
        """End sessions that no client resumed, and connections that were silent for too long."""
        while True:
            await asyncio.sleep(EXPIRY_CHECK_S)
            now = time.monotonic()
            for session in list(self.sessions.values()):
                if session.connection is None and now > session.expires:
                    self._end(session, "grace is over")
            for connection in list(self._connections):
                silent = now - connection.last_message
                if silent > self.config.idle and not connection.refused:
                    self._refuse(
                        connection,
                        ProtocolError("too_slow", f"nothing came for {self.config.idle:g} s"),
                    )

    # --- for plain HTTP

    def _has_room(self) -> bool:
        """Whether one more connection may be opened; more could use up the file descriptors."""
        return len(self._connections) < 2 * self.config.sessions + SPARE_CONNECTIONS

    def _unavailable(self) -> str:
        """Reason why the server is not healthy, or ""."""
        if self.draining:
            return "draining"
        return "" if self.pool.scheduler.is_alive else "the worker threads have stopped"

    def _snapshot(self) -> Snapshot:
        """State of the server for its metrics."""
        counters, scheduler = self.counters, self.pool.scheduler
        sessions = self.sessions.values()
        return Snapshot(
            worker=self.number,
            sessions=len(sessions),
            load=scheduler.load,
            busy=scheduler.busy,
            steps=scheduler.steps,
            rounds=scheduler.rounds,
            gaps=sum(session.gaps for session in sessions),
            missing=sum(session.missing for session in sessions),
            misses=sum(session.pipeline.misses for session in sessions),
            counters=counters,
            reastream=bool(self.config.reastream),
        )

    # --- connections

    async def _serve(self, websocket: ServerConnection) -> None:
        assert isinstance(websocket, ServerWebSocket)
        connection = Connection(websocket)
        self._connections.add(connection)
        sender: asyncio.Task[None] | None = None
        try:
            session = await self._let_in(connection)
            if session is None:
                return
            sender = asyncio.create_task(connection.send_queued())
            sender.add_done_callback(lambda task: task.cancelled() or task.exception())
            try:
                await websocket.listen(connection.handle)
            except ConnectionClosedOK:
                if session.connection is connection:
                    self._end(session, "closed")
        except ProtocolError as error:
            await self._refuse(connection, error)
        except ConnectionClosed as closed:  # the session waits for another connection
            if (invalid := websocket_error(closed)) is not None:
                await self._refuse(connection, invalid)
        except Exception as error:
            log.exception("a connection failed")
            await self._refuse(connection, ProtocolError("internal", type(error).__name__))
        finally:
            self._connections.discard(connection)
            if sender is not None:
                sender.cancel()
            if connection.session is not None:
                connection.session.detach(connection)

    def _refuse(self, connection: Connection, error: ProtocolError) -> asyncio.Task[None]:
        """Count an error once per connection, end its session if it must, and tell the client."""
        session = connection.session
        if session is not None and session.connection is not connection:
            session = None  # a newer connection has it
        if not connection.refused:
            connection.refused = True
            self.counters.count_error(error.code)
            name = session.name if session else ""
            details = {"code": error.code, "reason": str(error), "session": name}
            log.warning("refused", extra=details)
            if session is not None and error.code != "too_slow":
                self._end(session, error.code)
        return self.start_task(connection.close_with_error(error))

    async def _let_in(self, connection: Connection) -> Session | None:
        """Receive hello and send welcome; None if another worker served the connection."""
        websocket = connection.websocket
        try:
            async with asyncio.timeout(HELLO_TIMEOUT_S):
                data = await websocket.next_message()
        except TimeoutError:
            raise ProtocolError("too_slow", f"no hello within {HELLO_TIMEOUT_S:g} s") from None
        hello = connection.receive(data)
        if not isinstance(hello, Hello):
            raise ProtocolError("state", "expected hello")
        token = hello.token.encode()
        matches = [secrets.compare_digest(token, known) for known in self._tokens]
        if self._tokens and not any(matches):
            raise ProtocolError("token", "the token is missing or wrong; ask who runs the server")
        if hello.resume is not None:
            session = self.sessions.get(hello.resume.session)
            if session is None:
                if await relay(websocket, data, hello.resume.session, self._private_socket):
                    return None
                raise ProtocolError("resume", "the session has ended; begin a new one")
        else:
            session = await self._open(hello)
        before = session.connection
        welcome = session.attach(connection)
        connection.session = session
        if isinstance(before, Connection):  # looks open, but the client knows better
            self.start_task(before.websocket.close(1008, "resumed"))
        try:
            for message in welcome:
                await websocket.send(message)
        except ConnectionClosed:
            if hello.resume is None:  # the client never learned its name, so it cannot resume
                self._end(session, "gone before it was welcomed")
            raise
        if hello.resume is not None:
            self.counters.resumes += 1
        if hello.stats:
            self.start_task(self._send_stats(connection, session, hello.stats))
        self.counters.connections += 1
        return session

    async def _send_stats(self, connection: Connection, session: Session, seconds: float) -> None:
        """Send statistics for as long as the connection is the session's."""
        while session.connection is connection:
            await asyncio.sleep(max(seconds, 0.05))
            connection.send_message(session.stats(self.pool.load, len(self.sessions)))

    # --- sessions

    async def _open(self, hello: Hello) -> Session:
        if self.draining:
            raise ProtocolError("shutdown", "the server is about to end; try another")
        # Sessions that are being opened count too, or many at once would all find room.
        if len(self.sessions) + self._opening >= self.config.sessions:
            raise ProtocolError(
                "too_many", f"{len(self.sessions)} sessions, the maximum; try later"
            )
        self._opening += 1
        try:
            return await self._open_session(hello)
        finally:
            self._opening -= 1

    async def _open_session(self, hello: Hello) -> Session:
        loop = asyncio.get_running_loop()
        try:
            pipeline = await loop.run_in_executor(None, self.pool.open_pipeline, hello)
        except ProtocolError:
            raise
        except StemwireError as error:
            raise ProtocolError("config", str(error)) from error
        name = f"{self.number}-{next(self._names)}-{secrets.token_hex(4)}"
        limits = Limits(
            message=self.config.message_bytes,
            ahead=max(round(self.config.ahead * hello.rate), 2 * (hello.block or 512)),
            grace=self.config.grace,
            idle=self.config.idle,
        )
        end = functools.partial(self._end, reason="goodbye")
        session = Session(name, hello, pipeline, limits, self.pool, self.start_task, end)

        def deliver(error: Exception | None) -> None:  # called by worker threads
            self._results.append((session, error))
            if not self._delivery_scheduled:  # one call for all results that wait by then
                self._delivery_scheduled = True
                with contextlib.suppress(RuntimeError):  # the loop has ended
                    loop.call_soon_threadsafe(self._deliver_all)

        self.pool.add(pipeline, deliver)
        self.sessions[name] = session
        details = {
            "session": name,
            "rate": hello.rate,
            "channels": hello.channels,
            "preset": hello.preset,
            "client": hello.client,
        }
        log.info("session", extra=details)
        return session

    def _deliver_all(self) -> None:
        self._delivery_scheduled = False  # first: results appended from now on need another call
        while self._results:
            self._deliver(*self._results.popleft())

    def _deliver(self, session: Session, error: Exception | None) -> None:
        session.send_results()
        if error is None:
            return
        if not isinstance(error, ProtocolError):
            log.error("a session failed", exc_info=error, extra={"session": session.name})
            error = ProtocolError("internal", f"{type(error).__name__}: {error}")
        if isinstance(session.connection, Connection):
            self._refuse(session.connection, error)
        else:
            self.counters.count_error(error.code)
        self._end(session, error.code)

    def _end(self, session: Session, reason: str) -> None:
        if self.sessions.pop(session.name, None) is not None:
            self.pool.remove(session.pipeline)
            self.counters.add_session(session.gaps, session.missing, session.pipeline.misses)
            log.info("session ended", extra={"session": session.name, "reason": reason})


def _select_subprotocol(_: ServerConnection, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    """Our subprotocol, if it is offered; a client that offers another gets an error later."""
    return next((name for name in offered if name == SUBPROTOCOL), None)
