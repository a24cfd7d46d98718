"""The asyncio client against the real server: output, errors and closing."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import Audio, music, noise, partitions
from support.bridge_server import NAME, make_preset, serving, with_server

import stemwire
from stemwire.bridge.client.async_separator import AsyncSeparator
from stemwire.bridge.server.server import Server
from stemwire.errors import AudioError, BridgeError, ConfigError


@pytest.fixture(scope="module")
def tiny_preset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_preset(tmp_path_factory.getbasetemp())


def local(preset: Path, audio: Audio, rate: int = 44_100, block: int | None = None) -> Audio:
    separator = stemwire.load(preset, rate, len(audio), block)
    return np.concatenate((separator.push(audio), separator.flush()), 2)


# Output


@settings(max_examples=12)
@given(data=st.data(), channels=st.integers(1, 2), rate=st.sampled_from([8_000, 44_100, 48_000]))
def test_blocks_of_any_size_give_the_stems_of_the_local_separator(
    tiny_preset: Path, data: st.DataObject, channels: int, rate: int
) -> None:
    audio = music(9_000, rate, channels)
    sizes = data.draw(partitions(9_000))

    async def work(server: Server, url: str) -> None:
        async with await AsyncSeparator.open(url, NAME, rate, channels) as separator:
            here = stemwire.load(tiny_preset, rate, channels)
            assert separator.latency == here.latency and separator.hop == here.hop
            for _ in range(2):  # the second stream is like the first
                at, parts = 0, []
                for size in sizes:
                    parts.append(await separator.push(audio[:, at : at + size]))
                    assert parts[-1].shape == (2, channels, size)
                    assert parts[-1].dtype == np.float32
                    at += size
                parts.append(await separator.flush())
                together = np.concatenate(parts, 2)
                np.testing.assert_array_equal(together, local(tiny_preset, audio, rate))
            assert separator.statistics.lost == 0

    with_server(tiny_preset, work)


@pytest.mark.parametrize("block", [32, 48, 100, 512, 20_000])
def test_a_promised_block_size(tiny_preset: Path, block: int) -> None:
    audio = music(50_000, 44_100)
    whole = len(audio[0]) // block * block

    async def work(server: Server, url: str) -> None:
        async with await AsyncSeparator.open(url, NAME, block_size=block) as separator:
            here = stemwire.load(tiny_preset, block_size=block)
            assert separator.latency == here.latency
            assert separator.block_size == block
            parts = [
                await separator.push(audio[:, at : at + block]) for at in range(0, whole, block)
            ]
            parts.append(await separator.flush(audio[:, whole:]))
            expected = [here.push(audio[:, :whole]), here.flush(audio[:, whole:])]
            np.testing.assert_array_equal(np.concatenate(parts, 2), np.concatenate(expected, 2))

    with_server(tiny_preset, work)


def test_a_block_far_larger_than_the_room_is_pipelined(tiny_preset: Path) -> None:
    audio = music(100_000, 44_100)

    async def work(server: Server, url: str) -> None:
        async with await AsyncSeparator.open(url, NAME) as separator:
            stems = [await separator.push(audio), await separator.flush()]
            np.testing.assert_array_equal(np.concatenate(stems, 2), local(tiny_preset, audio))

    with_server(tiny_preset, work, ahead=0.1)


def test_the_caller_may_reuse_its_buffer(tiny_preset: Path) -> None:
    audio = music(20_000, 44_100)

    async def work(server: Server, url: str) -> None:
        async with await AsyncSeparator.open(url, NAME) as separator:
            block, parts = np.zeros((2, 500), np.float32), []
            for at in range(0, 20_000, 500):
                block[:] = audio[:, at : at + 500]
                parts.append(await separator.push(block))
                block[:] = np.nan
            parts.append(await separator.flush())
            np.testing.assert_array_equal(np.concatenate(parts, 2), local(tiny_preset, audio))

    with_server(tiny_preset, work)


def test_an_empty_stream(tiny_preset: Path) -> None:
    async def work(server: Server, url: str) -> None:
        async with await AsyncSeparator.open(url, NAME) as separator:
            assert (await separator.push(noise(0))).shape == (2, 2, 0)
            assert (await separator.flush()).shape == (2, 2, 0)
            assert (await separator.flush(noise(10))).shape == (2, 2, 10 + separator.latency)
            await separator.finish()
            assert await separator.receive() is None

    with_server(tiny_preset, work)


def test_samples_of_16_bits(tiny_preset: Path) -> None:
    audio = np.rint(music(20_000, 44_100) * 32768) / 32768
    audio = audio.astype(np.float32)

    async def work(server: Server, url: str) -> None:
        async with await AsyncSeparator.open(url, NAME, format="s16") as separator:
            stems = await separator.flush(audio)
            expected = np.clip(local(tiny_preset, audio), -1, 1)
            np.testing.assert_allclose(stems, expected, rtol=0, atol=1.01 / 65536)
            raw = 20_000 * 2 * 2
            assert raw < separator.statistics.bytes_up < 1.02 * raw

    with_server(tiny_preset, work)


def test_stems_in_the_order_asked_for_and_a_mix(tiny_preset: Path) -> None:
    audio = music(20_000, 44_100)
    vocals, instrumental = local(tiny_preset, audio)

    async def work(server: Server, url: str) -> None:
        names = ("mix", "instrumental", "vocals")
        async with await AsyncSeparator.open(url, NAME, stems=names) as separator:  # type: ignore[arg-type]
            assert separator.stems == names
            state = await separator.control(vocals=0.0)
            assert (state.vocals, state.instrumental, state.mute) == (0.0, 0.0, False)
            await separator.flush(noise(3000))  # during the gain ramp
            stems = await separator.flush(audio)
            np.testing.assert_array_equal(stems[1], instrumental)
            np.testing.assert_array_equal(stems[2], vocals)
            late = separator.latency
            np.testing.assert_allclose(stems[0][:, late:], audio, rtol=0, atol=1e-5)
            state = await separator.control(vocals=-200.0)
            assert state.vocals == -200.0
            stems = await separator.flush(audio)
            np.testing.assert_allclose(stems[0][:, -9000:], instrumental[:, -9000:], atol=1e-6)

    with_server(tiny_preset, work)


def test_invalid_controls(tiny_preset: Path) -> None:
    async def work(server: Server, url: str) -> None:
        async with await AsyncSeparator.open(url, NAME, stems=("mix",)) as separator:
            with pytest.raises(ConfigError, match="nope"):
                await separator.control(preset="nope")
            with pytest.raises(ConfigError, match="nope"):
                await separator.control(effects={"vocals": "nope"})
            for bad in (float("nan"), 1e9, "loud"):
                with pytest.raises(ConfigError, match="invalid request"):
                    await separator.control(vocals=bad)  # type: ignore[arg-type]
            assert (await separator.control(mute=True)).mute
            assert (await separator.push(noise(100))).shape == (1, 2, 100)

    with_server(tiny_preset, work)


def test_sending_and_receiving_in_two_tasks(tiny_preset: Path) -> None:
    audio = music(60_000, 44_100)

    async def work(server: Server, url: str) -> None:
        async with await AsyncSeparator.open(url, NAME) as separator:

            async def send() -> None:
                for _ in range(2):
                    for at in range(0, 59_000, 1000):
                        await separator.send(audio[:, at : at + 1000])
                    await separator.finish(audio[:, 59_000:])

            sender = asyncio.create_task(send())
            for _ in range(2):
                parts = [stems async for stems in separator]
                np.testing.assert_array_equal(np.concatenate(parts, 2), local(tiny_preset, audio))
            await sender

    with_server(tiny_preset, work)


def test_sending_waits_when_nobody_receives(tiny_preset: Path) -> None:
    async def work(server: Server, url: str) -> None:
        async with await AsyncSeparator.open(url, NAME) as separator:
            for _ in range(4):
                await separator.send(noise(1000))
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    await separator.send(noise(5000))
            assert separator.statistics.sent <= 4410
            assert await separator.receive() is not None

    with_server(tiny_preset, work, ahead=0.1)


def test_reset_forgets(tiny_preset: Path) -> None:
    audio = music(20_000, 44_100)

    async def work(server: Server, url: str) -> None:
        async with await AsyncSeparator.open(url, NAME) as separator:
            await separator.reset()
            await separator.push(noise(3000, seed=3))
            await separator.reset()
            np.testing.assert_array_equal(await separator.flush(audio), local(tiny_preset, audio))
            await separator.send(noise(3000))
            await separator.finish()
            await separator.reset()  # while the end is under way
            np.testing.assert_array_equal(await separator.flush(audio), local(tiny_preset, audio))

    with_server(tiny_preset, work)


def test_a_preset_with_lookahead_gives_the_local_stems(ahead_preset: Path) -> None:
    audio = music(20_000, 44_100)

    async def work(server: Server, url: str) -> None:
        async with await AsyncSeparator.open(url, ahead_preset.name, 44_100, 2, 512) as separator:
            assert separator.latency == stemwire.load(ahead_preset, block_size=512).latency
            parts = [await separator.push(audio[:, at : at + 512]) for at in range(0, 19_968, 512)]
            parts.append(await separator.flush(audio[:, 19_968:]))
        expected = stemwire.load(ahead_preset, block_size=512)
        pushed = [expected.push(audio[:, at : at + 512]) for at in range(0, 19_968, 512)]
        whole = np.concatenate((*pushed, expected.flush(audio[:, 19_968:])), 2)
        np.testing.assert_array_equal(np.concatenate(parts, 2), whole)

    with_server(ahead_preset, work)


def test_an_abandoned_push(tiny_preset: Path) -> None:
    audio = music(20_000, 44_100)

    async def work(server: Server, url: str) -> None:
        async with await AsyncSeparator.open(url, NAME) as separator:
            long = asyncio.create_task(separator.push(noise(200_000)))
            await asyncio.sleep(0)  # it has begun, and no answer can be there
            with pytest.raises(ConfigError, match="reset"):
                await separator.push(noise(10))
            long.cancel()
            await asyncio.wait([long])
            with pytest.raises(ConfigError, match="reset"):
                await separator.flush()
            await separator.reset()
            np.testing.assert_array_equal(await separator.flush(audio), local(tiny_preset, audio))

    with_server(tiny_preset, work)


def test_statistics_of_client_and_server(tiny_preset: Path) -> None:
    async def work(server: Server, url: str) -> None:
        async with await AsyncSeparator.open(url, NAME, stats=0.1) as separator:
            await separator.push(noise(1000))
            while (newest := separator.statistics.server) is None:
                await asyncio.sleep(0.05)
            figures = separator.statistics
            assert (newest.position, newest.sessions) == (1000, 1)
            assert (figures.sent, figures.received, figures.lost) == (1000, 1000, 0)
            assert figures.bytes_up > 8000 and figures.bytes_down > 16_000
            assert figures.connections == 1

    with_server(tiny_preset, work)


def test_closing_ends_the_session(tiny_preset: Path) -> None:
    async def work(server: Server, url: str) -> None:
        separator = await AsyncSeparator.open(url, NAME)
        await separator.push(noise(100))
        assert len(server.sessions) == 1
        await separator.close()
        await separator.close()
        async with asyncio.timeout(5):
            while server.sessions:
                await asyncio.sleep(0.01)
        for call in (separator.push(noise(100)), separator.receive(), separator.reset()):
            with pytest.raises(ConfigError, match="closed"):
                await call

    with_server(tiny_preset, work)


def test_the_end_of_the_server_is_reported(tiny_preset: Path) -> None:
    async def run() -> None:
        async with serving(tiny_preset) as (server, url):
            separator = await AsyncSeparator.open(url, NAME)
            waiting = asyncio.create_task(separator.receive())
            await asyncio.sleep(0)
            await server.close()
            with pytest.raises(BridgeError, match=r"ended the session.*reset\(\)"):
                await waiting
            with pytest.raises(BridgeError, match="cannot be reached"):
                await separator.reset()
            await separator.close()

    asyncio.run(run())


# Errors

BLOCKS: list[Any] = [
    np.zeros((2, 10)), np.zeros((2, 10), np.int16), [[0.0], [0.0]], np.zeros(10, np.float32),
    np.zeros((1, 10), np.float32), np.zeros((10, 2), np.float32),
    np.full((2, 10), np.nan, np.float32), np.full((2, 10), -np.inf, np.float32),
    np.full((2, 10), 1e7, np.float32),
]  # fmt: skip


def test_bad_blocks_get_the_local_errors(tiny_preset: Path) -> None:
    here = stemwire.load(tiny_preset)

    async def work(server: Server, url: str) -> None:
        async with await AsyncSeparator.open(url, NAME) as separator:
            for block in BLOCKS:
                with pytest.raises(AudioError) as expected:
                    here.push(block)
                for call in (separator.push, separator.flush, separator.send, separator.finish):
                    with pytest.raises(AudioError) as found:
                        await call(block)
                    assert str(found.value) == str(expected.value)
            assert (await separator.push(noise(50))).shape == (2, 2, 50)  # it stands as before

    with_server(tiny_preset, work)


def test_a_broken_promise_gets_the_local_error(tiny_preset: Path) -> None:
    here = stemwire.load(tiny_preset, block_size=48)

    async def work(server: Server, url: str) -> None:
        async with await AsyncSeparator.open(url, NAME, block_size=48) as separator:
            for count in (1, 47, 49):
                with pytest.raises(ConfigError) as expected:
                    here.push(noise(count))
                with pytest.raises(ConfigError) as found:
                    await separator.push(noise(count))
                assert str(found.value) == str(expected.value)
            assert (await separator.push(noise(16))).shape == (2, 2, 16)  # as locally

    with_server(tiny_preset, work)


ARGUMENTS: list[dict[str, Any]] = [
    {"sample_rate": 7_999}, {"sample_rate": 192_001}, {"sample_rate": 44_100.5},
    {"sample_rate": True}, {"sample_rate": "cd"}, {"channels": 0}, {"channels": 3},
    {"block_size": 0}, {"block_size": -1}, {"block_size": 1.5},
]  # fmt: skip


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=str)
def test_bad_arguments_get_the_local_errors(tiny_preset: Path, arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as expected:
        stemwire.load(tiny_preset, **arguments)
    with pytest.raises(ConfigError) as found:  # before anything is connected
        asyncio.run(AsyncSeparator.open("ws://127.0.0.1:1", **arguments))
    assert str(found.value) == str(expected.value)


SERVER_ARGUMENTS: list[tuple[dict[str, Any], str]] = [
    ({"block_size": 70_000}, "65536"), ({"stems": ()}, "expected some"),
    ({"stems": "mix"}, "expected some"), ({"stems": ("drums",)}, "expected some"),
    ({"stems": ("mix", "mix")}, "each once"), ({"format": "f64"}, "f64"),
    ({"token": "x" * 2000}, "1024"), ({"preset": ""}, "preset"), ({"preset": "p" * 99}, "preset"),
    ({"stats": -1}, "stats"), ({"stats": float("nan")}, "stats"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "text"), SERVER_ARGUMENTS, ids=str)
def test_bad_arguments_for_a_server(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        asyncio.run(AsyncSeparator.open("ws://127.0.0.1:1", **arguments))
