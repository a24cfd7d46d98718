"""Both ends of a connection without I/O: messages in, events and messages out.

Each peer holds the state that its end of the protocol needs: which messages are allowed, positions,
sequence numbers, and what must be sent again if the connection breaks. A `ClientPeer` lives as long
as its session and is told of each new connection. A `ServerPeer` lives as long as its connection;
the session keeps the `Journal` of its stems and passes it from peer to peer. A peer may be used by
one thread at a time.

Samples are accounted for by position. Stems have the positions of the mixture, one sample of each
stem per sample of mixture, so the distance between what was sent and what has been received tells
how far ahead a client is, and no other acknowledgement is needed.
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
    """Encoded message that tells a client why its connection ends."""
    supported = SUPPORTED if error.code == "version" else ()
    return encode(Error(code=error.code, text=str(error)[:500], supported=supported))


def goodbye_message(reason: str = "") -> Data:
    """Encoded message that ends a session."""
    return encode(Goodbye(reason=reason))
