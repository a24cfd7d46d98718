"""Plain HTTP on the server's port: the web page, its files, health and metrics."""

from __future__ import annotations

import http
import mimetypes
from collections.abc import Callable, Collection
from importlib import resources
from urllib.parse import urlsplit

from websockets.asyncio.server import ServerConnection
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from stemwire.bridge.server.metrics import Snapshot, render

STREAM_PATH = "/stream"
POLICY = "default-src 'self'; object-src 'none'; frame-ancestors 'none'; base-uri 'none'"
CONTENT_TYPES = {
    ".js": "text/javascript",
    ".css": "text/css",
    ".html": "text/html",
    ".svg": "image/svg+xml",
}


class HttpHandler:
    """Answers the HTTP requests of a server, and decides which websockets may be opened.

    Args:
        origins: origins of web pages that may connect, besides the server's own.
        has_room: function that tells whether one more connection may be opened.
        health: function that returns why the server is unavailable, or "".
        snapshot: function that returns the state of the server for its metrics.
        count_error: function that counts an error by its code.
    """

    def __init__(
        self,
        origins: Collection[str],
        has_room: Callable[[], bool],
        health: Callable[[], str],
        snapshot: Callable[[], Snapshot],
        count_error: Callable[[str], None],
    ) -> None:
        self._origins, self._has_room, self._health = origins, has_room, health
        self._snapshot, self._count_error = snapshot, count_error
        self._files = _read_files()

    def answer(self, connection: ServerConnection, request: Request) -> Response | None:
        """The response to a request; None lets the websocket be opened."""
        path = urlsplit(request.path).path
        if path == STREAM_PATH:
            if not self._has_room():
                self._count_error("too_many")
                return _plain(http.HTTPStatus.SERVICE_UNAVAILABLE, "too many connections\n")
            return self._check_origin(request)
        if path == "/healthz":
            if reason := self._health():
                return _plain(http.HTTPStatus.SERVICE_UNAVAILABLE, f"{reason}\n")
            return _plain(http.HTTPStatus.OK, "ok\n")
        if path == "/metrics":
            content_type = "text/plain; version=0.0.4; charset=utf-8"
            return _plain(http.HTTPStatus.OK, render(self._snapshot()), content_type)
        name = "index.html" if path == "/" else path.removeprefix("/static/")
        if path != "/" and not path.startswith("/static/"):
            name = ""
        if (file := self._files.get(name)) is None:
            return _plain(http.HTTPStatus.NOT_FOUND, "not found; the page is at /\n")
        content_type, body = file
        headers = Headers(
            {
                "Content-Type": content_type,
                "Content-Length": str(len(body)),
                "Cache-Control": "no-cache",
                "Content-Security-Policy": POLICY,
                "X-Content-Type-Options": "nosniff",
                "Referrer-Policy": "no-referrer",
                "Connection": "close",
            }
        )
        return Response(http.HTTPStatus.OK.value, "OK", headers, body)

    def _check_origin(self, request: Request) -> Response | None:
        """Refuse web pages of other sites; browsers say in `Origin` which page connects."""
        origin = request.headers.get("Origin")
        if origin is None or origin in self._origins:
            return None
        if urlsplit(origin).netloc == request.headers.get("Host"):
            return None
        self._count_error("origin")
        return _plain(
            http.HTTPStatus.FORBIDDEN,
            f"pages of {origin} may not connect; the server's --origin lists those that may\n",
        )


def _read_files() -> dict[str, tuple[str, bytes]]:
    """Content type and content of the page's files, by name."""
    files = {}
    for file in resources.files("stemwire.bridge").joinpath("web").iterdir():
        if file.is_file():
            suffix = "." + file.name.rpartition(".")[2]
            content_type = (
                CONTENT_TYPES.get(suffix)
                or mimetypes.guess_type(file.name)[0]
                or "application/octet-stream"
            )
            charset = "; charset=utf-8" if content_type.startswith("text/") else ""
            files[file.name] = (content_type + charset, file.read_bytes())
    return files


def _plain(
    status: http.HTTPStatus, text: str, content_type: str = "text/plain; charset=utf-8"
) -> Response:
    body = text.encode()
    headers = Headers(
        {"Content-Type": content_type, "Content-Length": str(len(body)), "Connection": "close"}
    )
    return Response(status.value, status.phrase, headers, body)
