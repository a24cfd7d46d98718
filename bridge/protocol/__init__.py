"""Both ends of a connection without sockets: messages in, events and messages out.

Each peer keeps what one end must keep to hold the protocol: what may come now, positions, sequence
numbers, and what must be sent again if the connection breaks. A `ClientPeer` lives as long as its
session and is told of each new connection. A `ServerPeer` lives as long as a connection; the
session keeps the `Journal` of its stems and is handed from peer to peer. One thread at a time.

Samples are accounted for by position. Stems come at the positions of the mixture: so many samples
up, as many down, so the distance between what was sent and what has come back tells how far ahead a
client is, and no other acknowledgement is needed.
"""

from __future__ import annotations

from stemwire.bridge.protocol.client_peer import ClientPeer, ReceivedStems
from stemwire.bridge.protocol.framing import Data
from stemwire.bridge.protocol.journal import Journal
from stemwire.bridge.protocol.messages import SUPPORTED, Error, Goodbye, encode
from stemwire.bridge.protocol.server_peer import Mixture, ServerPeer
from stemwire.errors import ProtocolError

__all__ = [
    "ClientPeer",
    "Data",
    "Journal",
    "Mixture",
    "ReceivedStems",
    "ServerPeer",
    "error_message",
    "goodbye_message",
]


def error_message(error: ProtocolError) -> Data:
    """The message that tells a client why its connection ends."""
    supported = SUPPORTED if error.code == "version" else ()
    return encode(Error(code=error.code, text=str(error)[:500], supported=supported))


def goodbye_message(reason: str = "") -> Data:
    """The last message."""
    return encode(Goodbye(reason=reason))
