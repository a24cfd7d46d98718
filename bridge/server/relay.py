"""Several worker processes behind one port: a client that comes back may reach the wrong one.

The system spreads connections over workers blindly. Each worker listens on a private Unix socket
besides, named by its number in one folder; a worker that is asked to go on with another's session
hands the connection on, message by message.
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

ORDERLY = (1000, 1001)  # codes with which a client ends its session


def socket_path(folder: str, number: int) -> str:
    """Where a worker listens."""
    return str(Path(folder) / f"worker-{number}.sock")


async def relay(websocket: ServerConnection, first: Data, session: str, private: str) -> bool:
    """Hand a connection on to the worker that has the session, until it ends; False if none has.

    Args:
        websocket: of the client.
        first: what the client has said.
        session: its name, which begins with the worker's number.
        private: path of this worker's own socket, or "".
    """
    number, _, rest = session.partition("-")
    if not private or not rest or not number.isdecimal():
        return False
    other = socket_path(str(Path(private).parent), int(number))
    if other == private or not Path(other).exists():
        return False
    try:
        async with unix_connect(
            other, "ws://localhost/stream", subprotocols=[SUBPROTOCOL], compression=None,
            max_size=None, open_timeout=5,
        ) as inner:  # fmt: skip
            await inner.send(first)
            ways = [asyncio.create_task(_carry(websocket, inner)),
                    asyncio.create_task(_carry(inner, websocket))]  # fmt: skip
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in ways:
                way.cancel()
            if inner.close_code is not None:
                await websocket.close(inner.close_code, inner.close_reason or "")
            elif websocket.close_code not in ORDERLY:  # so that the session waits for another
                inner.transport.abort()
    except (OSError, TimeoutError):
        return False
    return True


async def _carry(one: Connection, other: Connection) -> None:
    try:
        async for message in one:
            await other.send(message)
    except ConnectionClosed:
        return
