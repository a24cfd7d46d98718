"""The client on bad networks and with faulty servers: nothing is lost, or an error says so."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import Audio, music, noise
from support.bridge_server import NAME, make_preset, serving
from support.tcp_proxy import TcpProxy
from websockets.asyncio.server import ServerConnection, serve

import stemwire
from stemwire.bridge.client.async_separator import AsyncSeparator
from stemwire.bridge.protocol import Journal, ServerPeer
from stemwire.bridge.protocol.messages import STEMS_FRAME, Frame, Limits, Welcome, encode_frame
from stemwire.bridge.server.server import Server
from stemwire.errors import BridgeError, ConfigError


@pytest.fixture(scope="module")
def tiny_preset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_preset(tmp_path_factory.getbasetemp())


@contextlib.asynccontextmanager
async def bad_network(preset: Path, **network: Any) -> AsyncIterator[tuple[Server, TcpProxy, str]]:
    changes = network.pop("server", {})
    async with (
        asyncio.timeout(100),
        serving(preset, **changes) as (server, _),
        TcpProxy(server.port, **network) as proxy,
    ):
        yield server, proxy, f"ws://127.0.0.1:{proxy.port}"


def local(preset: Path, audio: Audio) -> Audio:
    separator = stemwire.load(preset)
    return np.concatenate((separator.push(audio), separator.flush()), 2)


async def push_all(separator: AsyncSeparator, audio: Audio, sizes: random.Random) -> Audio:
    parts, at = [], 0
    while at < audio.shape[1]:
        size = sizes.choice([1, 31, 128, 500, 512, 3000, 20_000])
        parts.append(await separator.push(audio[:, at : at + size]))
        at += size
    parts.append(await separator.flush())
    return np.concatenate(parts, 2)


@pytest.mark.parametrize("seed", range(8))
def test_connections_cut_at_any_byte(tiny_preset: Path, seed: int) -> None:
    audio = music(60_000, 44_100)
    sizes = random.Random(seed)

    async def run() -> None:
        async with bad_network(tiny_preset, seed=seed) as (server, proxy, url):
            lines: list[str] = []
            separator = await AsyncSeparator.open(url, NAME, tell=lines.append)
            cuts = [
                (sizes.choice(["up", "down"]), int(10 ** sizes.uniform(0, 5.3))) for _ in range(15)
            ]
            proxy.cuts.extend(cuts)  # type: ignore[arg-type]
            proxy.cut()
            stems = await push_all(separator, audio, sizes)
            np.testing.assert_array_equal(stems, local(tiny_preset, audio))
            figures = separator.statistics
            assert figures.lost == 0 and figures.connections > 2
            assert sum("connection lost" in text for text in lines) >= 1
            assert sum("connected again" in text for text in lines) >= 1
            assert len(server.sessions) == 1
            await separator.close()

    asyncio.run(run())


def test_frequent_cuts_with_sender_and_receiver(tiny_preset: Path) -> None:
    audio = music(200_000, 44_100)

    async def run() -> None:
        async with bad_network(tiny_preset) as (_, proxy, url):
            separator = await AsyncSeparator.open(url, NAME)

            async def send() -> None:
                for at in range(0, 200_000, 2000):
                    await separator.send(audio[:, at : at + 2000])
                    await asyncio.sleep(0.005)
                await separator.finish()

            async def cut() -> None:
                while True:
                    await asyncio.sleep(0.2)
                    proxy.cut()

            tasks = [asyncio.create_task(send()), asyncio.create_task(cut())]
            parts = [stems async for stems in separator]
            tasks[1].cancel()
            await tasks[0]
            np.testing.assert_array_equal(np.concatenate(parts, 2), local(tiny_preset, audio))
            assert separator.statistics.connections > 2
            await separator.close()

    asyncio.run(run())


@pytest.mark.parametrize("network", [{"delay": 0.04, "jitter": 0.08}, {"rate": 3e6}], ids=str)
def test_slow_networks(tiny_preset: Path, network: dict[str, float]) -> None:
    audio = music(60_000, 44_100)

    async def run() -> None:
        async with (
            bad_network(tiny_preset, **network) as (_, _, url),
            await AsyncSeparator.open(url, NAME) as separator,
        ):
            stems = await push_all(separator, audio, random.Random(5))
            np.testing.assert_array_equal(stems, local(tiny_preset, audio))
            assert separator.statistics.connections == 1

    asyncio.run(run())


def test_a_half_open_connection_is_noticed(tiny_preset: Path) -> None:
    audio = music(60_000, 44_100)

    async def run() -> None:
        async with bad_network(tiny_preset, server={"grace": 3.0}) as (_, proxy, url):
            lines: list[str] = []
            separator = await AsyncSeparator.open(url, NAME, tell=lines.append)
            first = await separator.push(audio[:, :20_000])
            proxy.freeze()
            rest = await separator.flush(audio[:, 20_000:])
            stems = np.concatenate((first, rest), 2)
            np.testing.assert_array_equal(stems, local(tiny_preset, audio))
            assert "no sign of life" in lines[0]
            assert separator.statistics.connections == 2
            await separator.close()

    asyncio.run(run())


def test_an_idle_client_stays(tiny_preset: Path) -> None:
    async def run() -> None:
        async with (
            bad_network(tiny_preset, server={"idle": 1.0}) as (_, proxy, url),
            await AsyncSeparator.open(url, NAME) as separator,
        ):
            await separator.push(noise(100))
            await asyncio.sleep(3)
            assert (await separator.push(noise(100))).shape == (2, 2, 100)
            assert proxy.connections == 1
            assert separator.statistics.ping_ms > 0

    asyncio.run(run())


def test_a_session_is_lost_after_the_grace_period(tiny_preset: Path) -> None:
    audio = music(20_000, 44_100)

    async def run() -> None:
        async with bad_network(tiny_preset, server={"grace": 0.5}) as (_, proxy, url):
            separator = await AsyncSeparator.open(url, NAME)
            await separator.push(noise(100))
            proxy.refusing = True
            proxy.cut()
            for call in (separator.push(noise(100)), separator.receive(), separator.control()):
                with pytest.raises(BridgeError, match=r"session lost.*reset\(\)"):
                    await call
            with pytest.raises(BridgeError):
                await separator.reset()
            proxy.refusing = False
            await separator.reset()
            np.testing.assert_array_equal(await separator.flush(audio), local(tiny_preset, audio))
            await separator.close()

    asyncio.run(run())


def test_a_server_that_no_longer_has_the_session(tiny_preset: Path) -> None:
    """As after a restart: with samples under way the session is lost, otherwise nothing is."""

    async def run() -> None:
        async with bad_network(tiny_preset) as (server, proxy, url):
            one = await AsyncSeparator.open(url, NAME)
            other = await AsyncSeparator.open(url, NAME)
            await one.push(noise(100))
            proxy.cut()
            for session in list(server.sessions.values()):
                server._end(session, "test")
            with pytest.raises(BridgeError, match="session lost"):
                await one.push(noise(100))
            assert (await other.push(noise(100))).shape == (2, 2, 100)
            await one.close()
            await other.close()

    asyncio.run(run())


def test_reset_and_control_while_there_is_no_connection(tiny_preset: Path) -> None:
    audio = music(20_000, 44_100)

    async def run() -> None:
        async with bad_network(tiny_preset) as (_, proxy, url):
            stems = ("mix", "instrumental")
            async with await AsyncSeparator.open(url, NAME, stems=stems) as separator:  # type: ignore[arg-type]
                await separator.push(noise(1000))
                proxy.refusing = True
                proxy.cut()
                await asyncio.sleep(0.05)
                reset = asyncio.create_task(separator.reset())
                control = asyncio.create_task(separator.control(vocals=-200.0))
                await asyncio.sleep(0.3)
                proxy.refusing = False
                await reset
                assert (await control).vocals == -200.0
                await separator.flush(audio)
                mix, instrumental = await separator.flush(audio)
                np.testing.assert_allclose(mix, instrumental, atol=1e-6)

    asyncio.run(run())


def test_closing_while_there_is_no_connection(tiny_preset: Path) -> None:
    async def run() -> None:
        async with bad_network(tiny_preset) as (_, proxy, url):
            separator = await AsyncSeparator.open(url, NAME)
            proxy.refusing = True
            proxy.cut()
            push = asyncio.create_task(separator.push(noise(10)))
            await asyncio.sleep(0.2)
            async with asyncio.timeout(3):
                await separator.close()
            with pytest.raises(ConfigError, match="closed"):
                await push

    asyncio.run(run())


# Servers that violate the protocol

LIMITS = Limits(message=1 << 20, ahead=10_000, grace=1.0, idle=60.0)
Act = Callable[[ServerConnection, ServerPeer], Awaitable[None]]


def with_bad_server(act: Act, work: Callable[[str], Awaitable[None]]) -> None:
    """Run `work(url)` while a server welcomes clients and then does something wrong."""

    async def handle(websocket: ServerConnection) -> None:
        peer = ServerPeer()
        peer.receive(await websocket.recv())
        welcome = Welcome(version=1, session="s", key="k" * 16, latency=10, hop=10, limits=LIMITS)
        for data in peer.welcome(welcome, Journal(20_000)):
            await websocket.send(data)
        with contextlib.suppress(ConnectionError):
            await act(websocket, peer)
        await websocket.wait_closed()

    async def run() -> None:
        async with asyncio.timeout(30), serve(handle, "127.0.0.1", 0) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            await work(f"ws://127.0.0.1:{port}")

    asyncio.run(run())


def stems(count: int, position: int = 0, sequence: int = 0, stream: int = 0) -> bytes:
    return encode_frame(
        Frame(STEMS_FRAME, stream, sequence, position, np.zeros((2, 2, count), np.float32)), "f32"
    )


BAD: dict[str, list[str | bytes]] = {
    "garbage": [b"\x00\x01\x02"],
    "no JSON": ["hello?"],
    "stems that were not asked for": [stems(5000, 0)],
    "out of order": [stems(10), stems(10, 10, sequence=7)],
    "stems again": [stems(10), stems(10, 0, sequence=1)],
    "another stream": [stems(10, stream=3)],
    "an end unasked": ['{"type":"flushed","stream":1,"position":0}'],
    "an end beyond all positions": ['{"type":"flushed","stream":1,"position":9007199254740992}'],
    "welcome again": ['{"type":"welcome","version":1}'],
    "an error": ['{"type":"error","code":"audio","text":"I cannot hear"}'],
    "an unknown error": ['{"type":"error","code":"boredom","text":"enough"}'],
}


@pytest.mark.parametrize("kind", BAD)
def test_servers_that_violate_the_protocol(kind: str) -> None:
    async def act(websocket: ServerConnection, peer: ServerPeer) -> None:
        await websocket.recv()
        for data in BAD[kind]:
            await websocket.send(data)

    async def work(url: str) -> None:
        separator = await AsyncSeparator.open(url, NAME)
        with pytest.raises(BridgeError, match=r"reset\(\)"):
            await separator.flush(noise(100))
        await separator.close()

    with_bad_server(act, work)


def test_endless_stems_do_not_exhaust_the_memory() -> None:
    async def act(websocket: ServerConnection, peer: ServerPeer) -> None:
        while not isinstance(await websocket.recv(), str):
            pass
        for number in range(1000):
            await websocket.send(stems(10_000, number * 10_000, number))

    async def work(url: str) -> None:
        separator = await AsyncSeparator.open(url, NAME)
        await separator.send(noise(100))
        await separator.finish()
        await asyncio.sleep(0.5)
        got = 0
        with pytest.raises(BridgeError, match="unasked"):
            while (part := await separator.receive()) is not None:
                got += part.shape[2]
        assert got < 100_000
        await separator.close()

    with_bad_server(act, work)


def test_a_gap_in_the_stems_is_silence_and_counted() -> None:
    async def act(websocket: ServerConnection, peer: ServerPeer) -> None:
        await websocket.recv()
        ones = np.ones((2, 2, 40), np.float32)
        await websocket.send(encode_frame(Frame(STEMS_FRAME, 0, 0, 60, ones), "f32"))

    async def work(url: str) -> None:
        async with await AsyncSeparator.open(url, NAME) as separator:
            got = await separator.push(noise(100))
            assert not got[..., :60].any() and (got[..., 60:] == 1).all()
            assert separator.statistics.lost == 60

    with_bad_server(act, work)


def test_a_server_that_is_stuck_is_given_up() -> None:
    async def act(websocket: ServerConnection, peer: ServerPeer) -> None:
        async for data in websocket:
            if isinstance(data, str) and "ping" in data:
                await websocket.send(data.replace("ping", "pong"))

    async def work(url: str) -> None:
        separator = await AsyncSeparator.open(url, NAME, patience=0.5)
        await asyncio.sleep(1.0)  # nothing is wrong as long as nothing is asked
        with pytest.raises(BridgeError, match="stuck or overloaded"):
            await separator.push(noise(100))
        await separator.close()

    with_bad_server(act, work)
