"""From a URL to an open websocket, or to an error that says what to do.

`Address` holds the rules for URLs, TLS and proxies; `dial` opens one connection. Nothing is said on
it yet.
"""

from __future__ import annotations

import ipaddress
import re
import secrets
import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, urlsplit, urlunsplit

from websockets.asyncio.client import connect
from websockets.exceptions import (
    InvalidMessage,
    InvalidStatus,
    NegotiationError,
    WebSocketException,
)
from websockets.typing import Subprotocol

from stemwire._version import __version__
from stemwire.bridge.protocol.messages import SUBPROTOCOL
from stemwire.bridge.websocket import ClientWebSocket
from stemwire.errors import BridgeError, ConfigError

CLIENT = f"stemwire/{__version__}"
PATH = "/stream"  # where a server has its websocket
PORT = 8765  # and on which port, if it isn't told otherwise
SCHEMES = {"ws": "ws", "wss": "wss", "http": "ws", "https": "wss"}
EXAMPLE = "expected ws://HOST:PORT, or wss://HOST:PORT for TLS"


class UnreachableError(BridgeError):
    """No connection now; a moment later there may be one."""


@dataclass(frozen=True)
class Address:
    """Where a server is.

    Attributes:
        url: complete, `ws` or `wss`, as people should see it.
        target: the same with a random name for the client, so that a proxy before several servers
            can lead all connections of one session to the same one.
        context: TLS settings for `wss`, None for `ws`.
        loopback: whether it is on this machine; proxies are then left out.
    """

    url: str
    target: str
    context: ssl.SSLContext | None
    loopback: bool

    @classmethod
    def parse(cls, url: str, ca_file: str | Path | None = None) -> Address:
        """Read a URL as people write it: `http` is `ws`, `https` is `wss`, no path is `/stream`.

        Args:
            url: of the server.
            ca_file: PEM file of certificates to trust instead of the system's.

        Raises:
            ConfigError: for a URL that cannot work, or a file that holds no certificates.
        """
        parts = _split(url)
        scheme = SCHEMES[parts.scheme]
        way = scheme, parts.netloc, parts.path.rstrip("/") or PATH
        client = f"client={secrets.token_urlsafe(16)}"
        whole = urlunsplit((*way, parts.query, ""))
        target = urlunsplit((*way, f"{parts.query}&{client}" if parts.query else client, ""))
        host = parts.hostname or ""
        if scheme == "ws":
            if ca_file is not None:
                raise ConfigError(
                    f"a CA file is for TLS, and {url} has none; write wss://, or leave out the file"
                )
            return cls(whole, target, None, _on_this_machine(host))
        return cls(whole, target, _context(ca_file), _on_this_machine(host))


def _split(url: str) -> SplitResult:
    if not isinstance(url, str):
        raise ConfigError(f"a URL is text, not {type(url).__name__}; {EXAMPLE}")
    if re.search(r"[\s\x00-\x1f\x7f]", url):
        raise ConfigError(f"{url!r}: spaces and control characters have no place in a URL")
    try:
        parts = urlsplit(url)
        port = parts.port
        (parts.hostname or "").encode("idna")
    except ValueError as error:  # UnicodeError is one
        raise ConfigError(f"{url}: is no URL ({error}); {EXAMPLE}") from error
    if parts.scheme not in SCHEMES or not url.lower().startswith(f"{parts.scheme}://"):
        raise ConfigError(f"{url}: does not say how to connect; {EXAMPLE}")
    if not parts.hostname or port == 0:
        raise ConfigError(f"{url}: names no {'port' if parts.hostname else 'host'}; {EXAMPLE}")
    if parts.username is not None:
        raise ConfigError(f"{parts.hostname}: secrets do not belong in a URL; give a token instead")
    if parts.fragment:
        raise ConfigError(f"{url}: a server knows nothing of '#{parts.fragment}'; leave it out")
    return parts


def _on_this_machine(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False


def _context(ca_file: str | Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:  # SSLError is one
        reason = "no certificates in it" if isinstance(error, ssl.SSLError) else error.strerror
        raise ConfigError(
            f"{ca_file}: cannot be used ({reason}); expected a PEM file of certificates to trust"
        ) from error


async def dial(address: Address, seconds: float, most: int) -> ClientWebSocket:
    """Open a websocket that speaks Stemwire's protocol.

    Args:
        address: of the server.
        seconds: it may take.
        most: bytes of a message that is taken.

    Raises:
        UnreachableError: if that may change.
        BridgeError: if it won't.
    """
    url = address.url
    connector = connect(
        address.target, subprotocols=[Subprotocol(SUBPROTOCOL)], compression=None,
        ssl=address.context, proxy=None if address.loopback else True, user_agent_header=CLIENT,
        open_timeout=seconds, ping_interval=None, close_timeout=1.0, max_size=most,
        create_connection=ClientWebSocket,
    )  # fmt: skip
    try:
        connection = await connector
        assert isinstance(connection, ClientWebSocket)
    except InvalidStatus as error:
        raise _refused(url, error.response.status_code, error.response.body) from error
    except NegotiationError as error:
        raise foreign(url) from error
    except TimeoutError as error:
        raise UnreachableError(
            f"{url}: no answer within {seconds:g} s; check host, port and firewall"
        ) from error
    except ssl.SSLCertVerificationError as error:
        raise BridgeError(
            f"{url}: its certificate is not trusted ({error.verify_message}); give the "
            "certificate that signed it as CA file, or use the name that is in it"
        ) from error
    except ssl.SSLError as error:
        raise BridgeError(
            f"{url}: TLS failed ({error.reason or error}); if the server has no TLS write ws://"
        ) from error
    except InvalidMessage as error:
        raise UnreachableError(
            f"{url}: the answer was not a websocket's; check host and port, and write wss:// if "
            "the server has TLS"
        ) from error
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error) or "it hung up"
        if connector.ws_uri.port in (80, 443):
            reason += f"; a server listens on {PORT} unless told otherwise"
        if address.context is not None:
            reason += "; if the server has no TLS write ws://"
        raise UnreachableError(
            f"{url}: cannot be reached ({reason}); start a server there with 'stemwire serve', or "
            "check host, port and firewall"
        ) from error
    except (WebSocketException, ImportError, ValueError) as error:  # proxies, headers, redirects
        raise BridgeError(f"{url}: no connection ({error}); check the URL and proxies") from error
    if connector.uri != address.target:  # the token is meant for the server that was named
        connection.transport.abort()
        raise BridgeError(f"{url}: sends on to {connector.uri}; if you trust that, connect there")
    return connection


def foreign(url: str) -> BridgeError:
    """There is a server, but not one of ours."""
    return BridgeError(
        f"{url}: a websocket, but none of Stemwire's ({SUBPROTOCOL}); check host, port and path"
    )


def _refused(url: str, status: int, body: bytes | bytearray | None) -> BridgeError:
    said = (body or b"")[:200].decode(errors="replace").strip().partition("\n")[0]
    said = f"HTTP {status}" + (f": {said}" if said and not said.startswith("<") else "")
    if status in (401, 403):
        return BridgeError(f"{url}: does not let us in ({said}); check token and permissions")
    if status == 404:
        return BridgeError(f"{url}: nothing there ({said}); the path is {PATH} unless a proxy's is")
    if status == 429 or status >= 500:
        return UnreachableError(f"{url}: cannot serve now ({said}); try again later")
    return BridgeError(f"{url}: no websocket ({said}); check host, port and path")
