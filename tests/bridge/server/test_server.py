"""The server on real sockets: admission, plain HTTP, and shutdown."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import music
from support.bridge_server import config
from support.server_calls import (
    RATE,
    Audio,
    error_code,
    get,
    hello,
    offline,
    request,
    run,
    stems_of,
    websocket_to,
)

pytest.importorskip("websockets")
pytest.importorskip("msgspec")

from websockets.exceptions import ConnectionClosed, InvalidStatus

import stemwire
from stemwire.bridge.client.async_separator import AsyncSeparator
from stemwire.bridge.protocol.messages import (
    Goodbye,
    Welcome,
    decode,
    encode,
)
from stemwire.bridge.server.server import Server
from stemwire.errors import BridgeError, ConfigError

# --- the same stems as everywhere


def test_one_client_gets_the_offline_stems_bit_exactly() -> None:
    song = 0.3 * music(2 * RATE, RATE)

    async def work() -> Audio:
        async with Server(config()) as server:
            return await stems_of(server, song, 0)

    np.testing.assert_array_equal(run(work()), offline(song))


@pytest.mark.parametrize("batch", [1, 8])
def test_sixteen_clients_do_not_mix(batch: int) -> None:
    songs = [0.3 * music(RATE, RATE, seed=seed) for seed in range(16)]

    async def work() -> list[Audio]:
        async with Server(config(batch=batch, threads=2)) as server:
            return list(
                await asyncio.gather(*(stems_of(server, s, n) for n, s in enumerate(songs)))
            )

    for song, stems in zip(songs, run(work()), strict=True):
        if batch == 1:
            np.testing.assert_array_equal(stems, offline(song))
        else:  # the order in which the network's sums are taken depends on how many share a step
            np.testing.assert_allclose(stems, offline(song), atol=2e-5)


@pytest.mark.parametrize("rate", [22_050, 48_000])
def test_other_rates_mono_s16_and_the_promised_block(rate: int) -> None:
    song = 0.3 * music(rate, rate, channels=1)

    async def work() -> tuple[Audio, int]:
        async with Server(config()) as server:
            url = f"ws://127.0.0.1:{server.port}"
            async with await AsyncSeparator.open(
                url, "low", rate, 1, 128, format="s16", stems=["instrumental"]
            ) as separator:
                whole = song.shape[1] // 128 * 128
                first = await separator.push(song[:, :whole])
                return np.concatenate(
                    (first, await separator.flush(song[:, whole:])), 2
                ), separator.latency

    stems, latency = run(work())
    separator = stemwire.load("low", rate, 1, 128)
    assert latency == separator.latency
    taken = (np.rint(song * 32768) / 32768).astype(np.float32)
    wanted = separator.flush(taken)[1:]
    np.testing.assert_allclose(stems, wanted, atol=1.01 / 65536)


# --- who is let in


def test_tokens(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text("# mine\nsecret-of-mine\n\nsecret-of-yours\n")

    async def work() -> list[Any]:
        async with Server(config(token_file=str(file))) as server:
            answers: list[Any] = []
            for token in ("", "wrong", "secret-of-mine ", "sécret"):
                async with websocket_to(server) as websocket:
                    answers.append(await error_code(websocket, hello(token=token)))
            async with websocket_to(server) as websocket:
                answers.append(await request(websocket, hello(token="secret-of-yours")))
            return answers

    *codes, welcome = run(work())
    assert codes == ["token"] * 4
    assert isinstance(welcome, Welcome)


def test_origins() -> None:
    async def work() -> list[int]:
        async with Server(config(origins=("https://studio.example",))) as server:
            found = []
            for origin in (
                f"http://127.0.0.1:{server.port}", "https://studio.example",
                "https://studio.example.org", "null",
            ):  # fmt: skip
                try:
                    async with websocket_to(server, origin=origin):
                        found.append(101)
                except InvalidStatus as error:
                    found.append(error.response.status_code)
            return found

    assert run(work()) == [101, 101, 403, 403]


def test_tls(tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-keyout", key,
         "-out", cert, "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    song = 0.3 * music(RATE // 2, RATE)

    async def work() -> Audio:
        async with Server(config(cert=str(cert), key=str(key))) as server:
            url = f"wss://127.0.0.1:{server.port}"
            with pytest.raises(BridgeError, match=r"(?i)certificate"):
                await AsyncSeparator.open(url, patience=1)
            async with await AsyncSeparator.open(url, ca_file=cert) as separator:
                return await separator.flush(song)

    np.testing.assert_array_equal(run(work()), offline(song))


def test_invalid_certificates(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("no certificate")
    with pytest.raises(ConfigError, match="expected PEM files"):
        run(Server(config(cert=str(tmp_path / "a"), key=str(tmp_path / "a"))).__aenter__())


def test_a_port_that_is_taken() -> None:
    async def work() -> None:
        async with Server(config()) as server:
            with pytest.raises(BridgeError, match="choose another --port"):
                await Server(config(port=server.port)).__aenter__()

    run(work())


def test_more_sessions_than_are_allowed() -> None:
    async def work() -> tuple[str, bool]:
        async with Server(config(sessions=2)) as server, websocket_to(server) as one:
            assert isinstance(await request(one, hello()), Welcome)
            async with websocket_to(server) as two:
                assert isinstance(await request(two, hello()), Welcome)
                async with websocket_to(server) as websocket:
                    code = await error_code(websocket, hello())
                await two.send(encode(Goodbye()))
                await two.wait_closed()
            async with websocket_to(server) as websocket:
                return code, isinstance(await request(websocket, hello()), Welcome)

    assert run(work()) == ("too_many", True)


def test_a_stream_that_would_make_others_late_is_refused() -> None:
    async def work() -> tuple[Any, str]:
        async with Server(config(load=1e-4)) as server, websocket_to(server) as one:
            # The first makes nobody late, even if the machine was slow when the server began.
            welcome = await request(one, hello())
            async with websocket_to(server) as websocket:
                return welcome, await error_code(websocket, hello())

    welcome, code = run(work())
    assert isinstance(welcome, Welcome) and code == "too_many"


# --- plain HTTP, and the end


def test_health_metrics_and_missing_pages() -> None:
    async def work() -> list[Any]:
        async with Server(config()) as server, websocket_to(server) as websocket:
            await request(websocket, hello())
            async with websocket_to(server) as other:
                await error_code(other, "{")
            loop = asyncio.get_running_loop()
            paths = ("/healthz", "/metrics", "/nothing", "/static/../server.py", "/")
            return [await loop.run_in_executor(None, get, server, path) for path in paths]

    health, metrics, nothing, outside, page = run(work())
    assert health[:2] == (200, "ok\n")
    assert 'stemwire_sessions{worker="0"} 1\n' in metrics[1]
    assert 'stemwire_errors_total{worker="0",code="malformed"} 1\n' in metrics[1]
    for line in metrics[1].splitlines():
        assert line.startswith("# ") or float(line.rpartition(" ")[2]) >= 0
    assert nothing[0] == outside[0] == 404
    assert page[0] == 200 and "default-src 'self'" in page[2]["Content-Security-Policy"]


def test_it_closes_once_streams_have_ended() -> None:
    async def work() -> tuple[str, Any, float]:
        async with Server(config(drain=5.0)) as server:
            async with websocket_to(server) as websocket:
                await request(websocket, hello())
                start = asyncio.get_running_loop().time()
                draining = asyncio.create_task(server.drain())
                await asyncio.sleep(0.1)
                async with websocket_to(server) as late:
                    code = await error_code(late, hello())
                health = await asyncio.get_running_loop().run_in_executor(
                    None, get, server, "/healthz"
                )
                assert health[:2] == (503, "draining\n")
                await websocket.send(encode(Goodbye()))
                await websocket.wait_closed()
            await draining
            return code, websocket.close_code, asyncio.get_running_loop().time() - start

    code, closed, seconds = run(work())
    assert code == "shutdown" and closed == 1000
    assert seconds < 4  # it did not wait for longer than there was somebody


def test_a_stream_that_continues_receives_goodbye() -> None:
    async def work() -> tuple[Any, int | None]:
        async with Server(config(drain=0.2)) as server, websocket_to(server) as websocket:
            await request(websocket, hello())
            await server.drain()
            message = decode(await websocket.recv(), from_client=False)
            with contextlib.suppress(ConnectionClosed):
                await websocket.recv()
            return message, websocket.close_code

    message, closed = run(work())
    assert isinstance(message, Goodbye) and closed == 1001


def test_an_orderly_close_ends_the_session() -> None:
    async def work() -> int:
        async with Server(config()) as server:
            async with websocket_to(server) as websocket:
                await request(websocket, hello())
            await asyncio.sleep(0.2)
            return len(server.sessions)

    assert run(work()) == 0


def test_sessions_end_when_no_client_resumes() -> None:
    async def work() -> int:
        async with Server(config(grace=0.2)) as server:
            async with websocket_to(server) as websocket:
                await request(websocket, hello())
                websocket.transport.abort()
            await asyncio.sleep(0.1)
            assert len(server.sessions) == 1
            await asyncio.sleep(1.0)
            return len(server.sessions)

    assert run(work()) == 0


def stems_through_cuts(process: subprocess.Popen[str], song: Audio) -> tuple[Audio, int]:
    """Stems of a song from a server process over cut connections, and the number of connections."""
    from support.tcp_proxy import TcpProxy

    assert process.stderr is not None
    port = 0
    for line in process.stderr:
        if line.startswith("stemwire: serving at"):
            port = int(line.rstrip("/\n").rpartition(":")[2])
            break
        assert json.loads(line)["level"] == "info"

    async def work() -> tuple[Audio, int]:
        async with TcpProxy(port) as proxy:
            proxy.cuts.extend([("down", 300_000)] * 4)
            url = f"ws://127.0.0.1:{proxy.port}"
            async with await AsyncSeparator.open(url) as separator:
                stems = await separator.flush(song)
                return stems, separator.statistics.connections

    found: tuple[Audio, int] = run(work())
    return found


@pytest.mark.slow
def test_several_workers_share_a_port_and_sessions_resume_at_any(tmp_path: Path) -> None:
    """A client that resumes may reach another process, which relays it."""
    song = 0.3 * music(2 * RATE, RATE)
    command = [
        sys.executable, "-m", "stemwire.cli", "serve", "--port", "0", "--workers", "3",
        "--threads", "1", "--load", "100", "--log", "json",
    ]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            stems, connections = stems_through_cuts(process, song)
        finally:
            process.terminate()
        assert process.wait(20) == 0
    assert connections > 3
    np.testing.assert_array_equal(stems, offline(song))
