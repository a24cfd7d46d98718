"""A session's connection that is kept up: opened, received from, supervised and reopened.

`ReconnectingConnection` runs in an event loop. Writing never waits: what can be under way is
bounded by how far the server lets a client be ahead. Every message passes through the `ClientPeer`
and on to `on_event`, in order. When a connection drops or goes silent, it is reopened with growing
pauses within the server's grace period, and the session resumes at the exact sample. If that fails,
`failure` is set, and `on_event` gets it as its last event.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from websockets.asyncio.server import broadcast
from websockets.exceptions import ConnectionClosed

from stemwire.bridge.client.address import (
    Address,
    UnreachableError,
    not_stemwire_error,
    open_websocket,
)
from stemwire.bridge.protocol import ClientPeer, Data, ReceivedStems
from stemwire.bridge.protocol.messages import Flushed, Goodbye, Ping, Pong, Reset, Stats, Welcome
from stemwire.bridge.websocket import ClientWebSocket
from stemwire.errors import BridgeError, ConfigError, ProtocolError, StemwireError

OPEN_SECONDS = 10.0  # limit for opening a connection, and for the server's welcome on it
INITIAL_MESSAGE_LIMIT = 1 << 22  # bytes, before the server's own limit is known
PING_SECONDS = 2.0  # between pings, at most
MAX_MISSED_PINGS = 3  # pings without any message from the server before the connection is dropped
PAUSE_SECONDS = 0.1, 2.0  # before the first reconnection attempt and between later ones, at most
TRANSIENT_ERRORS = ("shutdown", "too_slow", "too_many", "internal")  # worth another attempt
PROGRESS_EVENTS = ReceivedStems | Pong | Flushed  # the connection works again
START_EVENTS = Welcome | Reset  # a new session or a new stream exists

RESTART_HINT = "call reset() to start again, or connect again"


class LostError(BridgeError):
    """The server no longer has the session."""


@dataclass(frozen=True)
class Statistics:
    """State of a session, as the client sees it.

    Attributes:
        connections: number of connections so far.
        sent: position after the newest mixture, in samples.
        received: position after the newest stems, in samples.
        lost: samples of stems that never arrived and were replaced with silence.
        ping_ms: round-trip time of the newest ping.
        bytes_up: bytes of the messages sent, without the websocket's framing.
        bytes_down: bytes of the messages received, likewise.
        server: newest figures of the server, if they were asked for.
    """

    connections: int
    sent: int
    received: int
    lost: int
    ping_ms: float
    bytes_up: int
    bytes_down: int
    server: Stats | None


class ReconnectingConnection:
    """One session's connection, over as many websockets as it takes.

    Args:
        address: address of the server.
        peer: state of the session.
        on_event: callback for the events of the peer, and for the failure.
        tell: callback for a line of text when the connection drops or is restored.
        patience: seconds without progress on samples that the server has, before it is given up.

    Attributes:
        failure: why the connection has failed for good; None while it has not.
        replaceable: whether a new session may replace this one if it is lost.
    """

    def __init__(
        self,
        address: Address,
        peer: ClientPeer,
        on_event: Callable[[Any], None],
        tell: Callable[[str], None],
        patience: float,
    ) -> None:
        self._address, self._peer = address, peer
        self._on_event, self._tell, self._patience = on_event, tell, patience
        self.failure: Exception | None = None
        self.replaceable = False
        self._ping_ms = 0.0
        self._bytes_up = self._bytes_down = 0
        self._stats: Stats | None = None
        self._connection: ClientWebSocket | None = None
        self._task: asyncio.Task[None] | None = None
        self._down_since: float | None = None  # event loop's time; None once there is progress
        self._missed_pings = 0  # since the last message
        self._stall_error: BridgeError | None = None
        self._closing = False

    async def open(self) -> None:
        """Connect, and stay connected from then on.

        Raises:
            BridgeError: if the server cannot be reached, or refuses.
            ConfigError: if the server does not support the settings.
        """
        connection = await self._connect(OPEN_SECONDS)
        self.failure, self._down_since, self._stall_error = None, None, None
        self._task = asyncio.create_task(self._run(connection))

    @property
    def statistics(self) -> Statistics:
        """State of the session."""
        peer = self._peer
        return Statistics(
            connections=peer.connections,
            sent=peer.sent,
            received=peer.received,
            lost=peer.lost,
            ping_ms=self._ping_ms,
            bytes_up=self._bytes_up,
            bytes_down=self._bytes_down,
            server=self._stats,
        )

    def write(self, messages: list[Data]) -> None:
        """Send messages; without a connection the peer sends them again on the next one."""
        connection = self._connection
        if connection is not None:
            for message in messages:
                broadcast([connection], message)  # unlike `send` it never waits
                self._bytes_up += len(message)

    async def close(self, failure: Exception) -> None:
        """Say goodbye and end; calls that still wait raise `failure`."""
        connection = self._connection
        self.write(self._peer.send(Goodbye()))
        self._closing = True
        if connection is not None:
            await connection.close()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        self._fail(failure)

    async def _connect(self, timeout: float) -> ClientWebSocket:
        """Open a connection and wait for the server's welcome on it."""
        connection = await open_websocket(
            self._address, min(OPEN_SECONDS, timeout), INITIAL_MESSAGE_LIMIT
        )
        self._connection = connection
        url = self._address.url
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                self.write(self._peer.connect())
                while not self._peer.connected:
                    self._on_message(await connection.next_message())
            return connection
        except BaseException as error:
            self._drop(connection)
            if isinstance(error, ConnectionClosed):
                raise UnreachableError(
                    f"{url}: closed the connection ({error}); try again later"
                ) from error
            if isinstance(error, TimeoutError):
                raise UnreachableError(
                    f"{url}: accepts connections but does not answer; restart it"
                ) from error
            if isinstance(error, ProtocolError):
                ours = connection.subprotocol or error.code not in ("malformed", "state")
                raise (self._error_for(error) if ours else not_stemwire_error(url)) from error
            raise

    async def _run(self, connection: ClientWebSocket) -> None:
        try:
            while not self._closing:
                reason = await self._receive(connection)
                if not self._closing:
                    connection = await self._reconnect(reason)
        except Exception as error:  # bugs included: calls that wait must see them
            self._fail(error)

    async def _receive(self, connection: ClientWebSocket) -> str:
        """Receive until the connection drops; the reason."""
        supervision = asyncio.create_task(self._supervise(connection))
        try:
            await connection.listen(self._on_message)
            raise AssertionError("listening has no end")
        except ConnectionClosed as error:
            if self._stall_error is not None:
                raise self._stall_error from error
            return "no sign of life" if self._missed_pings >= MAX_MISSED_PINGS else str(error)
        except ProtocolError as error:
            if error.code not in TRANSIENT_ERRORS:
                raise self._error_for(error) from error
            return str(error)
        finally:
            supervision.cancel()
            self._drop(connection)

    def _on_message(self, data: Data) -> bool:
        """Handle one message; False, for it is never the last."""
        self._missed_pings = 0
        self._bytes_down += len(data)
        if isinstance(data, bytes) and self._peer.welcome is not None:
            limit = self._peer.welcome.limits.message
            if len(data) > limit:
                raise ProtocolError("too_large", f"stems of {len(data)} bytes; at most {limit}")
        event, answers = self._peer.receive(data)
        if answers:
            self.write(answers)
        if isinstance(event, PROGRESS_EVENTS):
            self._down_since = None
        if isinstance(event, Pong):
            self._ping_ms = 1e3 * (asyncio.get_running_loop().time() - event.time)
        elif isinstance(event, Stats):
            self._stats = event
        elif isinstance(event, START_EVENTS):
            self.replaceable = False
        elif isinstance(event, Goodbye):
            reason = f" ({event.reason})" if event.reason else ""
            raise BridgeError(
                f"{self._address.url}: the server ended the session{reason}; {RESTART_HINT}"
            )
        if event is not None:
            self._on_event(event)
        return False

    async def _supervise(self, connection: ClientWebSocket) -> None:
        """Ping, so that neither end times out, and abort a connection that is silent or stuck."""
        assert self._peer.welcome is not None
        loop, limits = asyncio.get_running_loop(), self._peer.welcome.limits
        intervals = (PING_SECONDS, limits.idle / 3, limits.grace / 6)
        interval = max(0.05, min(each for each in intervals if each))  # 0: no idle limit, no grace
        last, since = -1, loop.time()
        while True:
            await asyncio.sleep(interval)
            self._missed_pings += 1
            progress = self._peer.received
            if progress != last or not (self._peer.flushing or self._peer.sent > progress):
                last, since = progress, loop.time()
            elif loop.time() - since > self._patience:
                self._stall_error = BridgeError(
                    f"{self._address.url}: the server has samples but has sent no stems for "
                    f"{self._patience:g} s; it is stuck or overloaded: use another server"
                )
            if self._stall_error is not None or self._missed_pings > MAX_MISSED_PINGS:
                connection.transport.abort()
                return
            self.write(self._peer.send(Ping(time=loop.time())))

    async def _reconnect(self, reason: str) -> ClientWebSocket:
        """Connect again before the server discards the session."""
        assert self._peer.welcome is not None
        loop, grace = asyncio.get_running_loop(), self._peer.welcome.limits.grace
        if self._down_since is None:
            self._down_since = loop.time()
            self._tell(f"connection lost ({reason}); trying again for {grace:g} s")
        since = self._down_since
        pause, longest = PAUSE_SECONDS
        while (left := since + grace - loop.time()) > 0:
            await asyncio.sleep(random.uniform(0.0, min(pause, left)))  # not all clients at once
            pause = min(2.0 * pause, longest)
            try:
                connection = await self._connect(max(left, 0.1))
            except UnreachableError as error:
                reason = str(error)
            except LostError:
                if not self.replaceable and (self._peer.sent or self._peer.flushing):
                    raise
                self._peer.start_new_session()  # nothing in it is needed
            else:
                self._tell(f"connected again after {loop.time() - since:.1f} s")
                return connection
        raise BridgeError(
            f"{self._address.url}: session lost: could not reconnect within {grace:g} s "
            f"({reason}); {RESTART_HINT}"
        )

    def _error_for(self, error: ProtocolError) -> StemwireError:
        """The exception for an error of the server or in what it sent."""
        url, text = self._address.url, str(error)
        if error.code == "config":
            return ConfigError(text)
        if error.code == "token":
            return BridgeError(f"{url}: access denied ({text}); give the right token")
        if error.code in TRANSIENT_ERRORS:
            return UnreachableError(f"{url}: unavailable ({text}); try again later")
        if error.code == "resume":
            return LostError(f"{url}: session lost ({text}); {RESTART_HINT}")
        if error.code == "version":
            return BridgeError(f"{url}: {text}; install the same version of Stemwire on both sides")
        return BridgeError(f"{url}: {text} (error '{error.code}'); {RESTART_HINT}")

    def _drop(self, connection: ClientWebSocket) -> None:
        connection.transport.abort()
        if self._connection is connection:
            self._connection = None
        self._peer.connected = False

    def _fail(self, failure: Exception) -> None:
        self.failure = failure
        self._on_event(failure)
