"""Addresses of servers, and opening a websocket to one or raising an error that says what to do.

`Address` holds the rules for URLs, TLS and proxies; `open_websocket` opens one connection, on which
no message has been sent yet.
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

CLIENT_NAME = f"stemwire/{__version__}"
DEFAULT_PATH = "/stream"  # of a server's websocket
DEFAULT_PORT = 8765  # of a server
SCHEMES = {"ws": "ws", "wss": "wss", "http": "ws", "https": "wss"}
EXPECTED = "expected ws://HOST:PORT, or wss://HOST:PORT for TLS"


class UnreachableError(BridgeError):
    """No connection now; another attempt may succeed."""


@dataclass(frozen=True)
class Address:
    """Address of a server.

    Attributes:
        url: complete URL, `ws` or `wss`, for people to read.
        target: URL to connect to: `url` with a random client name, by which a proxy in front of
            several servers can route all connections of one session to the same server.
        context: TLS settings for `wss`, None for `ws`.
        loopback: whether the server is on this machine; proxies are then bypassed.
    """

    url: str
    target: str
    context: ssl.SSLContext | None
    loopback: bool

    @classmethod
    def parse(cls, url: str, ca_file: str | Path | None = None) -> Address:
        """Parse a URL as people write it: `http` is `ws`, `https` is `wss`, no path is `/stream`.

        Args:
            url: URL of the server.
            ca_file: PEM file of certificates to trust instead of the system's.

        Raises:
            ConfigError: for an invalid URL, or a file without certificates.
        """
        parts = _split(url)
        scheme = SCHEMES[parts.scheme]
        base = scheme, parts.netloc, parts.path.rstrip("/") or DEFAULT_PATH
        client = f"client={secrets.token_urlsafe(16)}"
        full = urlunsplit((*base, parts.query, ""))
        target = urlunsplit((*base, f"{parts.query}&{client}" if parts.query else client, ""))
        host = parts.hostname or ""
        if scheme == "ws":
            if ca_file is not None:
                raise ConfigError(
                    f"a CA file is for TLS, and {url} has none; write wss://, or leave out the file"
                )
            return cls(full, target, None, _is_loopback(host))
        return cls(full, target, _tls_context(ca_file), _is_loopback(host))


def _split(url: str) -> SplitResult:
    if not isinstance(url, str):
        raise ConfigError(f"a URL is text, not {type(url).__name__}; {EXPECTED}")
    if re.search(r"[\s\x00-\x1f\x7f]", url):
        raise ConfigError(f"{url!r}: a URL has no spaces or control characters; {EXPECTED}")
    try:
        parts = urlsplit(url)
        port = parts.port
        (parts.hostname or "").encode("idna")
    except ValueError as error:  # UnicodeError is one
        raise ConfigError(f"{url}: invalid URL ({error}); {EXPECTED}") from error
    if parts.scheme not in SCHEMES or not url.lower().startswith(f"{parts.scheme}://"):
        raise ConfigError(f"{url}: missing or unknown scheme; {EXPECTED}")
    if not parts.hostname or port == 0:
        raise ConfigError(f"{url}: has no {'port' if parts.hostname else 'host'}; {EXPECTED}")
    if parts.username is not None:
        raise ConfigError(f"{parts.hostname}: a URL must not hold a password; give a token instead")
    if parts.fragment:
        raise ConfigError(f"{url}: '#{parts.fragment}' has no meaning to a server; leave it out")
    return parts


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False


def _tls_context(ca_file: str | Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:  # SSLError is one
        reason = "no certificates in it" if isinstance(error, ssl.SSLError) else error.strerror
        raise ConfigError(
            f"{ca_file}: cannot be used ({reason}); expected a PEM file of certificates to trust"
        ) from error


async def open_websocket(address: Address, timeout: float, max_bytes: int) -> ClientWebSocket:
    """Open a websocket that speaks Stemwire's protocol.

    Args:
        address: address of the server.
        timeout: seconds that opening may take.
        max_bytes: size of the largest message that is accepted.

    Raises:
        UnreachableError: if another attempt may succeed.
        BridgeError: if none will.
    """
    url = address.url
    connector = connect(
        address.target,
        subprotocols=[Subprotocol(SUBPROTOCOL)],
        compression=None,
        ssl=address.context,
        proxy=None if address.loopback else True,
        user_agent_header=CLIENT_NAME,
        open_timeout=timeout,
        ping_interval=None,
        close_timeout=1.0,
        max_size=max_bytes,
        create_connection=ClientWebSocket,
    )
    try:
        connection = await connector
        assert isinstance(connection, ClientWebSocket)
    except InvalidStatus as error:
        raise _http_error(url, error.response.status_code, error.response.body) from error
    except NegotiationError as error:
        raise not_stemwire_error(url) from error
    except TimeoutError as error:
        raise UnreachableError(
            f"{url}: no answer within {timeout:g} s; check host, port and firewall"
        ) from error
    except ssl.SSLCertVerificationError as error:
        raise BridgeError(
            f"{url}: its certificate is not trusted ({error.verify_message}); give the "
            "certificate that signed it as CA file, or use the host name that it is for"
        ) from error
    except ssl.SSLError as error:
        raise BridgeError(
            f"{url}: TLS failed ({error.reason or error}); if the server has no TLS write ws://"
        ) from error
    except InvalidMessage as error:
        raise UnreachableError(
            f"{url}: the answer was not from a websocket; check host and port, and write wss:// if "
            "the server has TLS"
        ) from error
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error) or "connection closed"
        if connector.ws_uri.port in (80, 443):
            reason += f"; the default port of a server is {DEFAULT_PORT}"
        if address.context is not None:
            reason += "; if the server has no TLS write ws://"
        raise UnreachableError(
            f"{url}: cannot be reached ({reason}); start a server there with 'stemwire serve', or "
            "check host, port and firewall"
        ) from error
    except (WebSocketException, ImportError, ValueError) as error:  # proxies, headers, redirects
        raise BridgeError(f"{url}: no connection ({error}); check URL and proxies") from error
    if connector.uri != address.target:  # the token is meant for the server that was named
        connection.transport.abort()
        raise BridgeError(f"{url}: redirects to {connector.uri}; if you trust it, connect there")
    return connection


def not_stemwire_error(url: str) -> BridgeError:
    """Error for a websocket server that does not speak Stemwire's protocol."""
    return BridgeError(
        f"{url}: not a Stemwire server (no {SUBPROTOCOL}); check host, port and path"
    )


def _http_error(url: str, status: int, body: bytes | bytearray | None) -> BridgeError:
    """Error for an HTTP answer that opens no websocket."""
    text = (body or b"")[:200].decode(errors="replace").strip().partition("\n")[0]
    answer = f"HTTP {status}" + (f": {text}" if text and not text.startswith("<") else "")
    if status in (401, 403):
        return BridgeError(f"{url}: access denied ({answer}); check token and permissions")
    if status == 404:
        return BridgeError(
            f"{url}: not found ({answer}); the path is {DEFAULT_PATH} unless a proxy changes it"
        )
    if status == 429 or status >= 500:
        return UnreachableError(f"{url}: unavailable ({answer}); try again later")
    return BridgeError(f"{url}: not a websocket ({answer}); check host, port and path")
