"""A session's connection, kept up: opened, listened to, watched, and mended when it breaks.

A `Link` runs in an event loop. Writing never waits: what can be under way is bounded by how far the
server lets a client be ahead. Every message that comes goes through the `ClientPeer` and on to
`hear`, in order. A connection that breaks, or is silent, is opened again with pauses that grow,
within the server's grace time; then the session goes on where it was. If it cannot, `failure` is
set, and `hear` gets it as its last event.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from websockets.asyncio.server import broadcast
from websockets.exceptions import ConnectionClosed

from stemwire.bridge.client.address import Address, UnreachableError, dial, foreign
from stemwire.bridge.protocol import ClientPeer, Data, ReceivedStems
from stemwire.bridge.protocol.messages import Flushed, Goodbye, Ping, Pong, Reset, Stats, Welcome
from stemwire.bridge.websocket import ClientWebSocket
from stemwire.errors import BridgeError, ConfigError, ProtocolError, StemwireError

OPEN_SECONDS = 10.0  # for a connection, and for the server's welcome on it
LARGEST = 1 << 22  # bytes of a message, before the server's own limit is known
BEAT_SECONDS = 2.0  # between pings, at most
MISSED_BEATS = 3  # without a sign of life, and the connection is given up
PAUSE_SECONDS = 0.1, 2.0  # before the first and between later attempts, at most
PASSING = ("shutdown", "too_slow", "too_many", "internal")  # errors after which to try again
PROGRESS = ReceivedStems | Pong | Flushed  # events that show that all is well again
BEGUN = Welcome | Reset  # and those after which there is a session, or a stream, of its own

ANEW = "reset() begins anew, or connect again"


class LostError(BridgeError):
    """The server does not have the session any more."""


@dataclass(frozen=True)
class Statistics:
    """How a session fares, as the client sees it.

    Attributes:
        connections: that there have been.
        sent: position after the newest mixture, samples.
        received: position after the newest stems.
        lost: samples of stems that never came, and were given as silence.
        ping_ms: round trip of the newest ping.
        bytes_up: of messages sent, without the websocket's framing; `bytes_down` received.
        server: what the server said last, if it was asked to.
    """

    connections: int
    sent: int
    received: int
    lost: int
    ping_ms: float
    bytes_up: int
    bytes_down: int
    server: Stats | None


class Link:
    """One session's connection.

    Args:
        address: of the server.
        peer: keeps the session.
        hear: gets events of the peer, and the failure.
        tell: gets lines for people, when a connection breaks and is mended.
        patience: seconds without any progress on samples that the server has.

    Attributes:
        failure: why there will be no connection any more; None while all is well.
        expendable: whether the session may be replaced by a new one if it is lost.
    """

    def __init__(
        self,
        address: Address,
        peer: ClientPeer,
        hear: Callable[[Any], None],
        tell: Callable[[str], None],
        patience: float,
    ) -> None:
        self._address, self._peer = address, peer
        self._hear, self._tell, self._patience = hear, tell, patience
        self.failure: Exception | None = None
        self.expendable = False
        self._ping_ms = 0.0
        self._bytes_up = self._bytes_down = 0
        self._stats: Stats | None = None
        self._connection: ClientWebSocket | None = None
        self._task: asyncio.Task[None] | None = None
        self._broken: float | None = None  # since when, if nothing went well from then on
        self._silent = 0  # beats since the last message
        self._stuck: BridgeError | None = None
        self._closing = False

    async def open(self) -> None:
        """Connect, and keep it up from then on.

        Raises:
            BridgeError: if the server cannot be reached, or refuses.
            ConfigError: if it cannot do what is asked for.
        """
        connection = await self._connect(OPEN_SECONDS)
        self.failure, self._broken, self._stuck = None, None, None
        self._task = asyncio.create_task(self._keep(connection))

    @property
    def statistics(self) -> Statistics:
        """How the session fares."""
        peer = self._peer
        return Statistics(
            peer.connections, peer.sent, peer.received, peer.lost, self._ping_ms, self._bytes_up,
            self._bytes_down, self._stats,
        )  # fmt: skip

    def write(self, messages: list[Data]) -> None:
        """Send, or leave it to the peer to send again when there is a connection."""
        connection = self._connection
        if connection is not None:
            for message in messages:
                broadcast([connection], message)  # unlike send it never waits
                self._bytes_up += len(message)

    async def close(self, failure: Exception) -> None:
        """Say goodbye and end; `failure` is what happens to whoever still waits."""
        connection = self._connection
        self.write(self._peer.send(Goodbye()))
        self._closing = True
        if connection is not None:
            await connection.close()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        self._fail(failure)

    async def _connect(self, seconds: float) -> ClientWebSocket:
        """A connection on which the server has welcomed us."""
        connection = await dial(self._address, min(OPEN_SECONDS, seconds), LARGEST)
        self._connection = connection
        url = self._address.url
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                self.write(self._peer.connect())
                while not self._peer.connected:
                    self._take(await connection.next_message())
            return connection
        except BaseException as error:
            self._drop(connection)
            if isinstance(error, ConnectionClosed):
                raise UnreachableError(f"{url}: hung up ({error}); try again later") from error
            if isinstance(error, TimeoutError):
                raise UnreachableError(f"{url}: is there but says nothing; restart it") from error
            if isinstance(error, ProtocolError):
                ours = connection.subprotocol or error.code not in ("malformed", "state")
                raise (self._refusal(error) if ours else foreign(url)) from error
            raise

    async def _keep(self, connection: ClientWebSocket) -> None:
        try:
            while not self._closing:
                reason = await self._converse(connection)
                if not self._closing:
                    connection = await self._again(reason)
        except Exception as error:  # a bug too: whoever waits must learn of it
            self._fail(error)

    async def _converse(self, connection: ClientWebSocket) -> str:
        """Listen until the connection breaks; the reason."""
        watch = asyncio.create_task(self._watch(connection))
        try:
            await connection.listen(self._take)
            raise AssertionError("it listens for ever")
        except ConnectionClosed as error:
            if self._stuck is not None:
                raise self._stuck from error
            return "no sign of life" if self._silent >= MISSED_BEATS else str(error)
        except ProtocolError as error:
            if error.code not in PASSING:
                raise self._refusal(error) from error
            return str(error)
        finally:
            watch.cancel()
            self._drop(connection)

    def _take(self, data: Data) -> bool:
        """Hear what a message says; it is never the last."""
        self._silent = 0
        self._bytes_down += len(data)
        if isinstance(data, bytes) and self._peer.welcome is not None:
            most = self._peer.welcome.limits.message
            if len(data) > most:
                raise ProtocolError("too_large", f"stems of {len(data)} bytes; at most {most}")
        event, answers = self._peer.receive(data)
        if answers:
            self.write(answers)
        if isinstance(event, PROGRESS):
            self._broken = None
        if isinstance(event, Pong):
            self._ping_ms = 1e3 * (asyncio.get_running_loop().time() - event.time)
        elif isinstance(event, Stats):
            self._stats = event
        elif isinstance(event, BEGUN):
            self.expendable = False
        elif isinstance(event, Goodbye):
            said = f" ({event.reason})" if event.reason else ""
            raise BridgeError(f"{self._address.url}: the server ended the session{said}; {ANEW}")
        if event is not None:
            self._hear(event)
        return False

    async def _watch(self, connection: ClientWebSocket) -> None:
        """Ping, so that neither end takes the other for dead, and give up if nothing comes."""
        assert self._peer.welcome is not None
        loop, limits = asyncio.get_running_loop(), self._peer.welcome.limits
        beats = (BEAT_SECONDS, limits.idle / 3, limits.grace / 6)
        beat = max(0.05, min(beat for beat in beats if beat))  # 0: no idle limit, no grace
        last, since = -1, loop.time()
        while True:
            await asyncio.sleep(beat)
            self._silent += 1
            progress = self._peer.received
            if progress != last or not (self._peer.flushing or self._peer.sent > progress):
                last, since = progress, loop.time()
            elif loop.time() - since > self._patience:
                self._stuck = BridgeError(
                    f"{self._address.url}: the server has samples and gave no stems for "
                    f"{self._patience:g} s; it is stuck or overloaded: use another"
                )
            if self._stuck is not None or self._silent > MISSED_BEATS:
                connection.transport.abort()
                return
            self.write(self._peer.send(Ping(time=loop.time())))

    async def _again(self, reason: str) -> ClientWebSocket:
        """Connect again, before the server forgets the session."""
        assert self._peer.welcome is not None
        loop, grace = asyncio.get_running_loop(), self._peer.welcome.limits.grace
        if self._broken is None:
            self._broken = loop.time()
            self._tell(f"connection lost ({reason}); trying again for {grace:g} s")
        since = self._broken
        pause, longest = PAUSE_SECONDS
        while (left := since + grace - loop.time()) > 0:
            await asyncio.sleep(random.uniform(0.0, min(pause, left)))  # not all clients at once
            pause = min(2.0 * pause, longest)
            try:
                connection = await self._connect(max(left, 0.1))
            except UnreachableError as error:
                reason = str(error)
            except LostError:
                if not self.expendable and (self._peer.sent or self._peer.flushing):
                    raise
                self._peer.start_new_session()  # nothing of it is missed
            else:
                self._tell(f"connected again after {loop.time() - since:.1f} s")
                return connection
        raise BridgeError(
            f"{self._address.url}: the session is lost, for it could not be gone on with in "
            f"{grace:g} s ({reason}); {ANEW}"
        )

    def _refusal(self, error: ProtocolError) -> StemwireError:
        """What a server's error means to people."""
        url, said = self._address.url, str(error)
        if error.code == "config":
            return ConfigError(said)
        if error.code == "token":
            return BridgeError(f"{url}: does not let us in ({said}); give it the right token")
        if error.code in PASSING:
            return UnreachableError(f"{url}: cannot serve now ({said}); try again later")
        if error.code == "resume":
            return LostError(f"{url}: the session is lost ({said}); {ANEW}")
        if error.code == "version":
            return BridgeError(f"{url}: {said}; install the same version of Stemwire on both")
        return BridgeError(f"{url}: {said} (error '{error.code}'); {ANEW}")

    def _drop(self, connection: ClientWebSocket) -> None:
        connection.transport.abort()
        if self._connection is connection:
            self._connection = None
        self._peer.connected = False

    def _fail(self, failure: Exception) -> None:
        self.failure = failure
        self._hear(failure)
