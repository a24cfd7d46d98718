"""Addresses, opening a connection, and the errors where that fails."""

from __future__ import annotations

import asyncio
import http.server
import shutil
import socket
import ssl
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
from support.bridge_server import NAME, make_preset, serving, with_server
from websockets.asyncio.server import ServerConnection, serve

from stemwire.bridge.client import connection
from stemwire.bridge.client.address import Address
from stemwire.bridge.client.async_separator import AsyncSeparator
from stemwire.bridge.server.server import Server
from stemwire.errors import BridgeError, ConfigError, StemwireError


@pytest.fixture(scope="module")
def tiny_preset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_preset(tmp_path_factory.getbasetemp())


@pytest.mark.parametrize(
    ("url", "full"),
    [
        ("ws://localhost:8765", "ws://localhost:8765/stream"),
        ("ws://localhost:8765/", "ws://localhost:8765/stream"),
        ("WS://Host", "ws://Host/stream"),
        ("http://10.0.0.7:1", "ws://10.0.0.7:1/stream"),
        ("https://studio.example/", "wss://studio.example/stream"),
        ("wss://[::1]:9/deep/path?x=1", "wss://[::1]:9/deep/path?x=1"),
    ],
)
def test_urls(url: str, full: str) -> None:
    address = Address.parse(url)
    assert address.url == full
    assert (address.context is not None) == full.startswith("wss")
    assert address.loopback == ("localhost" in url or "::1" in url)


@pytest.mark.parametrize(
    "url",
    ["", "localhost:8765", "studio", "//studio", "ftp://studio", "ws:studio", "ws://", "ws://:80",
     "ws://studio:0", "ws://studio:port", "ws://studio:99999", "ws://me:hunter2@studio",
     "ws://studio/#part", "ws://stu dio", "ws://studio\n", "ws://[::1", 7, None],
)  # fmt: skip
def test_invalid_urls(url: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        Address.parse(url)
    assert "hunter2" not in str(caught.value)


def test_certificates_to_trust(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        Address.parse("wss://studio", tmp_path / "none.pem")
    (tmp_path / "bad.pem").write_text("not a certificate")
    with pytest.raises(ConfigError, match="no certificates"):
        Address.parse("wss://studio", tmp_path / "bad.pem")
    with pytest.raises(ConfigError, match="wss://"):
        Address.parse("ws://studio", tmp_path / "bad.pem")
    context = Address.parse("wss://studio").context
    assert context is not None and context.verify_mode == ssl.CERT_REQUIRED


def refused(url: str, **arguments: Any) -> StemwireError:
    with pytest.raises(StemwireError) as caught:
        asyncio.run(AsyncSeparator.open(url, **arguments))
    return caught.value


def test_no_server() -> None:
    error = refused("ws://127.0.0.1:1")
    assert isinstance(error, BridgeError)
    assert "ws://127.0.0.1:1/stream: cannot be reached" in str(error)
    assert "stemwire serve" in str(error)
    assert "cannot be reached" in str(refused("ws://no-such-host.invalid:8765"))


def test_refusals_of_the_server(tiny_preset: Path) -> None:
    async def work(server: Server, url: str) -> None:
        for token in ("", "wrong"):
            with pytest.raises(BridgeError, match="right token"):
                await AsyncSeparator.open(url, NAME, token=token)
        with pytest.raises(ConfigError, match="nope"):
            await AsyncSeparator.open(url, "nope", token="secret")
        with pytest.raises(BridgeError, match="not found"):
            await AsyncSeparator.open(url + "/elsewhere", NAME, token="secret")
        async with await AsyncSeparator.open(url, NAME, token="secret"):
            with pytest.raises(BridgeError, match="try again later"):
                await AsyncSeparator.open(url, NAME, token="secret")

    with_server(tiny_preset, work, tokens=("secret",), sessions=1)


def test_the_time_for_opening_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "OPEN_SECONDS", 0.3)

    async def run() -> None:
        silent = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
        port = silent.sockets[0].getsockname()[1]
        with pytest.raises(BridgeError, match="no answer within"):
            await AsyncSeparator.open(f"ws://127.0.0.1:{port}")
        silent.close()

    asyncio.run(run())


@pytest.mark.parametrize("manner", ["echoes", "babbles", "is silent", "hangs up"])
def test_other_websocket_servers(monkeypatch: pytest.MonkeyPatch, manner: str) -> None:
    monkeypatch.setattr(connection, "OPEN_SECONDS", 0.3)
    texts = {
        "echoes": "not a Stemwire server", "babbles": "not a Stemwire server",
        "is silent": "does not answer", "hangs up": "closed the connection",
    }  # fmt: skip

    async def other(websocket: ServerConnection) -> None:
        hello = await websocket.recv()
        if manner == "echoes":
            await websocket.send(hello)
        elif manner == "babbles":
            await websocket.send("Welcome!")
        if manner != "hangs up":
            await websocket.wait_closed()

    async def run() -> None:
        async with serve(other, "127.0.0.1", 0) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            with pytest.raises(BridgeError, match=texts[manner]):
                await AsyncSeparator.open(f"ws://127.0.0.1:{port}")

    asyncio.run(run())


class Page(http.server.BaseHTTPRequestHandler):
    """A web server without websockets, or one that redirects to another server."""

    protocol_version = "HTTP/1.1"
    status, location = 200, ""

    def do_GET(self) -> None:
        self.send_response(self.status)
        if self.location:
            self.send_header("Location", self.location)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.mark.parametrize(
    ("status", "text"),
    [(200, "not a websocket"), (401, "access denied"), (404, "not found"), (503, "unavailable")],
)
def test_other_web_servers(monkeypatch: pytest.MonkeyPatch, status: int, text: str) -> None:
    monkeypatch.setattr(Page, "status", status)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert text in str(refused(f"http://127.0.0.1:{server.server_port}"))
        server.shutdown()


def test_the_token_is_not_sent_to_another_server(
    tiny_preset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(server: Server, url: str) -> None:
        monkeypatch.setattr(Page, "status", 302)
        monkeypatch.setattr(Page, "location", f"{url}/stream")
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as page:
            threading.Thread(target=page.serve_forever, daemon=True).start()
            with pytest.raises(BridgeError, match="redirects to"):
                await AsyncSeparator.open(f"ws://127.0.0.1:{page.server_port}", token="secret")
            page.shutdown()
        assert not server.sessions

    with_server(tiny_preset, work)


def test_proxies_are_bypassed_on_this_machine(
    tiny_preset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "ws_proxy", "socks_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
        monkeypatch.setenv(name.upper(), "http://127.0.0.1:1")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)

    async def work(server: Server, url: str) -> None:
        async with await AsyncSeparator.open(url, NAME):
            pass

    with_server(tiny_preset, work)
    assert "cannot be reached" in str(refused("ws://studio.invalid:8765"))  # because of the proxy


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """Self-signed certificate for a host, and its key, as PEM files."""
    cert, key = folder / f"{name}.pem", folder / f"{name}.key"
    kind = "IP" if name[0].isdigit() else "DNS"
    words = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        f"/CN={name}",
        "-addext",
        f"subjectAltName={kind}:{name}",
        "-keyout",
        key,
        "-out",
        cert,
    ]
    subprocess.run(words, check=True, capture_output=True)
    return cert, key


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates")
def test_tls(tiny_preset: Path, tmp_path: Path) -> None:
    cert, key = certificate(tmp_path, "127.0.0.1")
    other, _ = certificate(tmp_path, "studio.example")

    async def run() -> None:
        async with serving(tiny_preset, cert=str(cert), key=str(key)) as (_, plain):
            url = plain.replace("ws://", "wss://")
            async with await AsyncSeparator.open(url, NAME, ca_file=cert) as separator:
                assert separator.latency > 0
            for ca_file in (None, other):
                with pytest.raises(BridgeError, match="not trusted"):
                    await AsyncSeparator.open(url, NAME, ca_file=ca_file)
            with pytest.raises(BridgeError, match="wss://"):
                await AsyncSeparator.open(plain, NAME)
        async with serving(tiny_preset) as (_, plain):
            with pytest.raises(BridgeError, match="write ws://"):
                await AsyncSeparator.open(plain.replace("ws://", "wss://"), NAME, ca_file=cert)

    asyncio.run(run())


def test_a_server_whose_name_is_not_in_its_certificate(tiny_preset: Path, tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificates")
    cert, key = certificate(tmp_path, "studio.example")

    async def run() -> None:
        async with serving(tiny_preset, cert=str(cert), key=str(key)) as (_, plain):
            with pytest.raises(BridgeError, match="the host name that it is for"):
                url = plain.replace("ws://", "wss://")
                await AsyncSeparator.open(url, NAME, ca_file=cert)

    asyncio.run(run())


def test_a_port_that_is_left_out_is_explained() -> None:
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", 80)) == 0:
            pytest.skip("something listens on port 80")
    assert "8765" in str(refused("ws://127.0.0.1"))
