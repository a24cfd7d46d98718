"""Plain HTTP on the server's port: the page, its files, health and metrics."""

from __future__ import annotations

import http
import mimetypes
from collections import Counter
from importlib import resources
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from websockets.asyncio.server import ServerConnection
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from stemwire._version import __version__
from stemwire.bridge.protocol.messages import CODES
from stemwire.bridge.server.session import Session

if TYPE_CHECKING:
    from stemwire.bridge.server.server import Server

STREAM = "/stream"
POLICY = "default-src 'self'; object-src 'none'; frame-ancestors 'none'; base-uri 'none'"
TYPES = {
    ".js": "text/javascript",
    ".css": "text/css",
    ".html": "text/html",
    ".svg": "image/svg+xml",
}


class Pages:
    """Answers requests, and counts what the metrics tell.

    Args:
        server: that it belongs to.

    Attributes:
        reastream: what happens there, see `ReaStream`.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._files = _read_files()
        self.reastream: Counter[str] = Counter()
        self._counts = {"connections": 0, "resumes": 0}
        self._errors = dict.fromkeys((*CODES, "origin"), 0)
        self._ended = {"gaps": 0, "missing": 0, "misses": 0, "sessions": 0}

    def count(self, what: str) -> None:
        """One more of `connections` or `resumes`."""
        self._counts[what] += 1

    def count_error(self, code: str) -> None:
        """One more error."""
        self._errors[code] = self._errors.get(code, 0) + 1

    def add_session(self, session: Session) -> None:
        """A session has ended; its counters are added up."""
        self._ended["gaps"] += session.gaps
        self._ended["missing"] += session.missing
        self._ended["misses"] += session.strip.misses
        self._ended["sessions"] += 1

    def answer(self, connection: ServerConnection, request: Request) -> Response | None:
        """The answer to a request; None lets the websocket be opened."""
        path = urlsplit(request.path).path
        if path == STREAM:
            if self._server.crowded:
                self.count_error("too_many")
                return _plain(http.HTTPStatus.SERVICE_UNAVAILABLE, "too many connections\n")
            return self._check_origin(request)
        if path == "/healthz":
            if self._server.draining:
                return _plain(http.HTTPStatus.SERVICE_UNAVAILABLE, "draining\n")
            if not self._server.desk.scheduler.well:
                return _plain(http.HTTPStatus.SERVICE_UNAVAILABLE, "nothing is separated\n")
            return _plain(http.HTTPStatus.OK, "ok\n")
        if path == "/metrics":
            return _plain(
                http.HTTPStatus.OK, self.metrics(), "text/plain; version=0.0.4; charset=utf-8"
            )
        name = "index.html" if path == "/" else path.removeprefix("/static/")
        if path != "/" and not path.startswith("/static/"):
            name = ""
        if (found := self._files.get(name)) is None:
            return _plain(http.HTTPStatus.NOT_FOUND, "nothing is here; the page is at /\n")
        kind, body = found
        headers = Headers(
            {
                "Content-Type": kind, "Content-Length": str(len(body)), "Cache-Control": "no-cache",
                "Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff",
                "Referrer-Policy": "no-referrer", "Connection": "close",
            }
        )  # fmt: skip
        return Response(http.HTTPStatus.OK.value, "OK", headers, body)

    def _check_origin(self, request: Request) -> Response | None:
        """Browsers tell where a page comes from; other pages than ours have no business here."""
        origin = request.headers.get("Origin")
        if origin is None or origin in self._server.config.origins:
            return None
        if urlsplit(origin).netloc == request.headers.get("Host"):
            return None
        self.count_error("origin")
        return _plain(
            http.HTTPStatus.FORBIDDEN,
            f"pages of {origin} may not connect; the server's --origin lists those that may\n",
        )

    def metrics(self) -> str:
        """Prometheus' text format."""
        server, desk = self._server, self._server.desk
        live = list(server.sessions.values())
        worker = f'{{worker="{server.number}"}}'
        lines: list[str] = []

        def add(name: str, kind: str, text: str, values: dict[str, float]) -> None:
            lines.append(f"# HELP stemwire_{name} {text}")
            lines.append(f"# TYPE stemwire_{name} {kind}")
            lines.extend(f"stemwire_{name}{labels} {value!r}" for labels, value in values.items())

        add(
            "info",
            "gauge",
            "Program.",
            {f'{{version="{__version__}",worker="{server.number}"}}': 1},
        )
        add("sessions", "gauge", "Sessions there are.", {worker: len(live)})
        add("load", "gauge", "Share of what this process can do that sessions need.",
            {worker: desk.load})  # fmt: skip
        add("busy", "gauge", "Share of their time that separating threads work.",
            {worker: desk.scheduler.busy})  # fmt: skip
        add("steps_total", "counter", "Steps of the network.", {worker: desk.scheduler.steps})
        add("rounds_total", "counter", "Runs of the network, for one or several steps.",
            {worker: desk.scheduler.rounds})  # fmt: skip
        for name, text in (
            ("connections", "Connections let in."),
            ("resumes", "Sessions gone on with."),
        ):
            add(f"{name}_total", "counter", text, {worker: self._counts[name]})
        add("sessions_ended_total", "counter", "Sessions that have ended.",
            {worker: self._ended["sessions"]})  # fmt: skip
        sums = {
            "gaps": sum(s.gaps for s in live), "missing": sum(s.missing for s in live),
            "misses": sum(s.strip.misses for s in live),
        }  # fmt: skip
        for name, text in (
            ("gaps", "Gaps in mixtures."), ("missing", "Samples that never came."),
            ("misses", "Blocks done after their deadline."),
        ):  # fmt: skip
            add(f"{name}_total", "counter", text, {worker: self._ended[name] + sums[name]})
        add("errors_total", "counter", "Errors told to clients.", {
            f'{{worker="{server.number}",code="{code}"}}': n for code, n in self._errors.items()
        })  # fmt: skip
        if server.config.reastream:
            add("reastream_total", "counter", "What happened to ReaStream's packets.", {
                f'{{worker="{server.number}",what="{what}"}}': n
                for what, n in sorted(self.reastream.items())
            })  # fmt: skip
        return "\n".join(lines) + "\n"


def _read_files() -> dict[str, tuple[str, bytes]]:
    """The page's files by name, with their types."""
    found = {}
    for file in resources.files("stemwire.bridge").joinpath("web").iterdir():
        if file.is_file():
            suffix = "." + file.name.rpartition(".")[2]
            kind = (
                TYPES.get(suffix)
                or mimetypes.guess_type(file.name)[0]
                or "application/octet-stream"
            )
            charset = "; charset=utf-8" if kind.startswith("text/") else ""
            found[file.name] = (kind + charset, file.read_bytes())
    return found


def _plain(status: http.HTTPStatus, text: str, kind: str = "text/plain; charset=utf-8") -> Response:
    body = text.encode()
    headers = Headers(
        {"Content-Type": kind, "Content-Length": str(len(body)), "Connection": "close"}
    )
    return Response(status.value, status.phrase, headers, body)
