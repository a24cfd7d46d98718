"""Misbehaving clients, and their effect on the server and on each other."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import numpy as np
import pytest
from support import music
from support.bridge_server import config
from support.server_calls import (
    RATE,
    Audio,
    error_code,
    frame,
    hello,
    offline,
    request,
    run,
    stems_of,
    websocket_to,
)

pytest.importorskip("websockets")
pytest.importorskip("msgspec")

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

import stemwire
from stemwire.bridge.client.async_separator import AsyncSeparator
from stemwire.bridge.protocol.messages import (
    HEADER,
    SUBPROTOCOL,
    Flush,
    Ping,
    Pong,
    Stats,
    decode,
    encode,
)
from stemwire.bridge.server.server import Server
from stemwire.errors import ConfigError

# --- what clients may do


@pytest.mark.parametrize(
    ("messages", "code"),
    [
        (["{"], "malformed"),
        ([b"\x01\x02"], "state"),
        ([encode(Ping())], "state"),
        ([encode(hello()).replace('"version":1', '"version":7')], "version"),
        ([hello(), hello()], "state"),
        ([hello(), b"\x01"], "malformed"),
        ([hello(), frame(0, np.zeros((2, 100), np.float32), sequence=1)], "sequence"),
        ([hello(), frame(0, np.zeros((2, 100), np.float32), stream=3)], "sequence"),
        ([hello(), frame(10**9, np.zeros((2, 100), np.float32))], "position"),
        ([hello(), frame(0, np.zeros((2, 120_000), np.float32))], "too_fast"),
        ([hello(), frame(0, np.full((2, 4), np.nan, np.float32))], "audio"),
        ([hello(), frame(0, np.zeros((2, 8), np.float32)),
          frame(4, np.zeros((2, 8), np.float32), sequence=1)], "position"),
        ([hello(preset="nothing")], "config"),
        ([hello(), "x" * 20_000], "too_large"),
    ],
)  # fmt: skip
def test_an_invalid_message_ends_only_its_own_session(messages: list[Any], code: str) -> None:
    song = 0.3 * music(RATE // 4, RATE)

    async def work() -> tuple[str, Audio, int]:
        async with Server(config()) as server:
            url = f"ws://127.0.0.1:{server.port}"
            async with await AsyncSeparator.open(url) as separator:
                first = await separator.push(song[:, :5000])
                async with websocket_to(server) as websocket:
                    found = await error_code(websocket, *messages)
                stems = np.concatenate((first, await separator.flush(song[:, 5000:])), 2)
                return found, stems, len(server.sessions)

    found, stems, sessions = run(work())
    assert found == code
    assert sessions == 1  # the other's
    np.testing.assert_array_equal(stems, offline(song))


def test_a_message_beyond_the_limit() -> None:
    async def work() -> int | None:
        async with Server(config(message_bytes=4096)) as server, websocket_to(server) as websocket:
            welcome = await request(websocket, hello())
            assert welcome.limits.message == 4096
            await websocket.send(frame(0, np.zeros((2, 1000), np.float32)))
            with contextlib.suppress(ConnectionClosed):
                while True:
                    await websocket.recv()
            return websocket.close_code

    assert run(work()) == 1009


def test_a_flood_of_messages() -> None:
    async def work() -> str:
        async with Server(config()) as server, websocket_to(server) as websocket:
            await request(websocket, hello())

            async def flood() -> None:
                with contextlib.suppress(ConnectionClosed):
                    for _ in range(100_000):
                        await websocket.send(encode(Ping()))

            task = asyncio.create_task(flood())
            code = await error_code(websocket)
            await task
            return code

    assert run(work()) in ("too_fast", "too_slow")  # messages that come, or answers that wait


def test_a_client_that_does_not_read_is_bounded_and_affects_nobody_else() -> None:
    """It may send `ahead` samples more than were sent to it; then it is stopped."""
    song = 0.3 * music(RATE, RATE)

    async def work() -> tuple[str, Audio, int]:
        async with Server(config(ahead=0.5)) as server:
            url = f"ws://127.0.0.1:{server.port}/stream"
            silent = await connect(
                url, subprotocols=[SUBPROTOCOL], compression=None, max_queue=1, ping_interval=None
            )
            await silent.send(encode(hello()))
            block, sent = np.zeros((2, 2048), np.float32), 0

            async def pour() -> None:
                nonlocal sent
                with contextlib.suppress(ConnectionClosed):
                    while True:
                        await silent.send(frame(sent * 2048, block, sent))
                        sent += 1
                        await asyncio.sleep(0.002)

            task = asyncio.create_task(pour())
            stems = await stems_of(server, song, 1)
            async with asyncio.timeout(60):
                await task
            waiting = sum(len(c._queue._queue) for c in server._connections)  # type: ignore[attr-defined]
            await silent.close()
            return "stopped", stems, waiting

    _, stems, waiting = run(work())
    np.testing.assert_array_equal(stems, offline(song))
    assert waiting < 100


def test_an_idle_connection_is_closed() -> None:
    async def work() -> str:
        async with Server(config(idle=1.0)) as server, websocket_to(server) as websocket:
            await request(websocket, hello())
            return await error_code(websocket)

    assert run(work()) == "too_slow"


def test_ping_and_statistics() -> None:
    async def work() -> tuple[Any, Any]:
        async with Server(config()) as server, websocket_to(server) as websocket:
            await request(websocket, hello(stats=0.2))
            pong = await request(websocket, Ping(id=7, time=1.5))
            await websocket.send(frame(0, np.zeros((2, 1024), np.float32)))
            while True:
                data = await websocket.recv()
                stats = decode(data, from_client=False) if isinstance(data, str) else None
                if isinstance(stats, Stats) and stats.hop_ms and not stats.waiting:
                    return pong, stats

    pong, stats = run(work())
    assert pong == Pong(id=7, time=1.5)
    assert stats.position == 1024 and stats.sessions == 1
    assert stats.load > 0 and stats.hop_ms["max"] > 0  # how much depends on the machine


def test_the_mix_follows_controls_and_its_preset() -> None:
    song = 0.3 * music(4 * RATE, RATE)

    async def work() -> tuple[Audio, list[Any]]:
        async with Server(config()) as server:
            url = f"ws://127.0.0.1:{server.port}"
            async with await AsyncSeparator.open(
                url, stems=["vocals", "instrumental", "mix"], block_size=512
            ) as separator:
                parts = [await separator.push(song[:, :51_200])]
                states = [await separator.control(vocals=-6.0, instrumental=-200.0)]
                parts.append(await separator.push(song[:, 51_200:102_400]))
                states.append(await separator.control(preset="low"))
                with pytest.raises(ConfigError, match="are unknown here"):
                    await separator.control(effects={"vocals": "cathedral"})
                parts.append(await separator.push(song[:, 102_400:174_080]))
                return np.concatenate(parts, 2), states

    stems, (first, second) = run(work())
    assert first.vocals == -6.0 and first.preset == "standard" and first.latency == 512
    assert second.preset == "low" and second.latency == 256
    assert second.position == pytest.approx(102_400 + RATE, abs=1)
    vocals, instrumental, mix = stems
    np.testing.assert_allclose(mix[:, 5000:50_000], instrumental[:, 5000:50_000], atol=1e-6)
    late = slice(60_000, 100_000)
    np.testing.assert_allclose(mix[:, late], 10 ** (-6 / 20) * vocals[:, late], atol=1e-6)
    low = offline(song, "low", 512)
    end = slice(second.position + RATE // 2, 174_080)
    np.testing.assert_allclose(vocals[:, end], low[0][:, end], atol=1e-2)
    whole = vocals + instrumental
    dry = np.pad(song, ((0, 0), (512, 0)))[:, :174_080]
    np.testing.assert_allclose(whole[:, : second.position], dry[:, : second.position], atol=1e-5)


def test_named_effects_delay_all_stems() -> None:
    pytest.importorskip("pedalboard")
    song = 0.3 * music(3 * RATE, RATE)
    chain = "Resample target_sample_rate=22050 | Gain gain_db=-6.0"

    async def work() -> tuple[Audio, Any]:
        async with Server(config(effects={"low": chain})) as server:
            url = f"ws://127.0.0.1:{server.port}"
            async with await AsyncSeparator.open(
                url, stems=["vocals", "instrumental", "mix"]
            ) as separator:
                state = await separator.control(effects={"instrumental": "low"})
                return await separator.flush(song), state

    stems, state = run(work())
    plain = stemwire.load("standard", RATE).latency
    assert state.effects == {"instrumental": "low"} and state.latency > plain
    whole = stems[0] + stems[1]
    dry = np.pad(song, ((0, 0), (state.latency, 0)))
    np.testing.assert_allclose(whole, dry[:, : whole.shape[1]], atol=1e-5)


def test_a_gap_is_silence_and_counted() -> None:
    song = 0.3 * music(RATE, RATE)

    async def work() -> tuple[Audio, int]:
        async with Server(config()) as server, websocket_to(server) as websocket:
            welcome = await request(websocket, hello())
            await websocket.send(frame(0, song[:, :20_000]))
            await websocket.send(frame(24_000, song[:, 24_000:40_000], 1))
            await websocket.send(encode(Flush()))
            got = 0
            parts = []
            while got < 40_000 + welcome.latency:
                data = await websocket.recv()
                assert isinstance(data, bytes)
                count = HEADER.unpack_from(data)[5]
                parts.append(
                    np.frombuffer(data, np.float32, offset=HEADER.size).reshape(2, 2, count)
                )
                got += count
            session = next(iter(server.sessions.values()))
            return np.concatenate(parts, 2), session.missing

    stems, missing = run(work())
    assert missing == 4000
    latency = stemwire.load("standard", RATE).latency
    whole = stems.sum(0)[:, latency:]
    np.testing.assert_allclose(whole[:, :20_000], song[:, :20_000], atol=1e-5)
    np.testing.assert_allclose(whole[:, 20_500:24_000], 0, atol=1e-3)
    np.testing.assert_allclose(whole[:, 24_500:40_000], song[:, 24_500:40_000], atol=1e-3)
    own = float(np.abs(np.diff(song)).max())
    assert float(np.abs(np.diff(whole)).max()) <= 1.05 * own
