"""Relay between worker processes behind one port, for clients that resume at the wrong one.

The system spreads connections over workers blindly. Each worker also listens on a private Unix
socket, named by its number in a common folder; a worker that is asked to resume a session of
another one relays the connection to it, message by message.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from websockets.asyncio.client import unix_connect
from websockets.asyncio.connection import Connection
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from stemwire.bridge.protocol import Data
from stemwire.bridge.protocol.messages import SUBPROTOCOL

ORDERLY_CODES = (1000, 1001)  # close codes with which a client ends its session


def socket_path(folder: str, number: int) -> str:
    """Path of the private socket of a worker."""
    return str(Path(folder) / f"worker-{number}.sock")


async def relay(
    websocket: ServerConnection, first: Data, session: str, private_socket: str
) -> bool:
    """Relay a connection to the worker that has the session, until it ends; False if none has.

    Args:
        websocket: the client's connection.
        first: first message of the client.
        session: name of the session, which begins with the worker's number.
        private_socket: path of this worker's own private socket, or "".
    """
    number, _, rest = session.partition("-")
    if not private_socket or not rest or not number.isdecimal():
        return False
    other = socket_path(str(Path(private_socket).parent), int(number))
    if other == private_socket or not Path(other).exists():
        return False
    try:
        async with unix_connect(
            other,
            "ws://localhost/stream",
            subprotocols=[SUBPROTOCOL],
            compression=None,
            max_size=None,
            open_timeout=5,
        ) as inner:
            await inner.send(first)
            ways = [
                asyncio.create_task(_forward(websocket, inner)),
                asyncio.create_task(_forward(inner, websocket)),
            ]
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in ways:
                way.cancel()
            if inner.close_code is not None:
                await websocket.close(inner.close_code, inner.close_reason or "")
            elif websocket.close_code not in ORDERLY_CODES:  # the session waits for another
                inner.transport.abort()
    except (OSError, TimeoutError):
        return False
    return True


async def _forward(source: Connection, sink: Connection) -> None:
    try:
        async for message in source:
            await sink.send(message)
    except ConnectionClosed:
        return
