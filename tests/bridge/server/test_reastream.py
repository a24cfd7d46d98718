"""ReaStream over real UDP on loopback: packets in, stems out, and invalid packets."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import Audio, music

pytest.importorskip("websockets")
pytest.importorskip("msgspec")

from hypothesis import given
from hypothesis import strategies as st
from support.bridge_server import config, make_preset
from support.server_calls import get

import stemwire
from stemwire.bridge.server import reastream
from stemwire.bridge.server.config import ServerConfig, load_config
from stemwire.bridge.server.reastream import Packet, ReaStream
from stemwire.bridge.server.server import Server
from stemwire.errors import BridgeError, ConfigError, ProtocolError


def datagram(
    audio: Audio, rate: int = 44_100, name: bytes = b"default", magic: bytes = b"MRSR"
) -> bytes:
    """A packet, written from the description of the format."""
    channels, count = audio.shape
    data = b"".join(struct.pack("<f", audio[c, k]) for c in range(channels) for k in range(count))
    head = magic + (47 + len(data)).to_bytes(4, "little") + name.ljust(32, b"\0")
    return (
        head + bytes([channels]) + rate.to_bytes(4, "little") + len(data).to_bytes(2, "little")
        + data
    )  # fmt: skip


# Packets


@pytest.mark.parametrize("channels", [1, 2])
def test_packets_are_as_described(channels: int) -> None:
    audio = music(1200 // 4 // channels, 44_100, channels)
    packet = Packet.decode(datagram(audio, 48_000, b"caf\xc3\xa9"))
    assert (packet.identifier, packet.rate) == ("café", 48_000)
    np.testing.assert_array_equal(packet.audio, audio)
    assert packet.encode() == [datagram(audio, 48_000, b"caf\xc3\xa9")]


def test_long_audio_takes_several_packets() -> None:
    audio = music(1000, 44_100)
    data = Packet("default", 44_100, audio).encode()
    assert [len(d) for d in data] == [47 + 1200] * 6 + [47 + 800]
    parts = [Packet.decode(d).audio for d in data]
    np.testing.assert_array_equal(np.concatenate(parts, 1), audio)


GOOD = datagram(np.zeros((2, 10), np.float32))


@pytest.mark.parametrize(
    "data",
    [
        b"", GOOD[:46], GOOD[:47], GOOD[:-1], GOOD + b"\0", b"MRSX" + GOOD[4:],
        GOOD[:39] + b"x" + GOOD[40:],
        datagram(np.zeros((3, 10), np.float32)), datagram(np.zeros((2, 0), np.float32)),
        datagram(np.zeros((2, 1), np.float32), rate=7_999),
        datagram(np.zeros((2, 1), np.float32), rate=192_001),
        datagram(np.full((1, 1), np.nan, np.float32)),
        datagram(np.full((1, 1), np.inf, np.float32)),
        GOOD[:40] + b"\0" + GOOD[41:],
    ],
)  # fmt: skip
def test_invalid_packets(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        Packet.decode(data)


@given(st.binary(max_size=80), st.integers(0, 47), st.integers(0, 127))
def test_any_bytes_are_a_packet_or_refused(noise: bytes, at: int, value: int) -> None:
    for data in (noise, b"MRSR" + noise, GOOD[:at] + bytes([value]) + GOOD[at + 1 :]):
        with contextlib.suppress(ProtocolError):
            packet = Packet.decode(data)
            assert packet.audio.size and np.isfinite(packet.audio).all()


# Streams


@pytest.fixture(scope="module")
def preset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_preset(tmp_path_factory.getbasetemp())


class Daw:
    """A sender on one socket and a receiver on another, as ReaStream is."""

    def __init__(self, port: int, to: socket.socket) -> None:
        self.out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.out.bind(("127.0.0.1", 0))
        self._to, self._into = ("127.0.0.1", port), to

    def send(self, data: bytes) -> None:
        self.out.sendto(data, self._to)

    async def receive(self, seconds: float = 20) -> bytes:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(seconds):
            return await loop.sock_recv(self._into, 65_536)

    async def play(self, audio: Audio, sizes: list[int], **how: Any) -> list[Packet]:
        """Send packets of these sizes, over and over, as fast as their stems come back."""
        packets, at, k = [], 0, 0
        while at < audio.shape[1]:
            part = audio[:, at : at + sizes[k % len(sizes)]]
            self.send(datagram(part, **how))
            packets.append(Packet.decode(await self.receive()))
            assert packets[-1].audio.shape == part.shape
            at, k = at + part.shape[1], k + 1
        return packets


@contextlib.asynccontextmanager
async def listening(preset: Path, **changes: Any) -> AsyncIterator[tuple[Server, ReaStream, Daw]]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as into:
        into.bind(("127.0.0.1", 0))
        into.setblocking(False)
        settings = config(
            presets=(str(preset),), reastream="0", reastream_port=into.getsockname()[1], **changes
        )
        async with Server(settings) as server:
            rea = ReaStream(settings, server.pool, server.counters.reastream)
            server.start_task(rea.run())
            daw = Daw(rea.port, into)
            with daw.out:
                yield server, rea, daw


def with_reastream(
    preset: Path, work: Callable[[Server, ReaStream, Daw], Awaitable[None]], **changes: Any
) -> None:
    async def run() -> None:
        async with asyncio.timeout(60), listening(preset, **changes) as found:
            await work(*found)

    asyncio.run(run())


def joined(packets: list[Packet]) -> Audio:
    return np.concatenate([packet.audio for packet in packets], 1)


@pytest.mark.parametrize(
    ("rate", "channels", "sizes"), [(44_100, 2, [150]), (48_000, 1, [300, 212]), (96_000, 2, [128])]
)
def test_the_stem_comes_back_as_it_is_offline(
    preset: Path, rate: int, channels: int, sizes: list[int]
) -> None:
    song = music(20_000, rate, channels)
    separator = stemwire.load(preset, rate, channels)
    latency, instrumental = separator.latency, separator.flush(song)[1]

    async def work(server: Server, rea: ReaStream, daw: Daw) -> None:
        packets = await daw.play(song, sizes, rate=rate)
        assert {(p.identifier, p.rate) for p in packets} == {("stemwire", rate)}
        back = joined(packets)
        np.testing.assert_array_equal(back, instrumental[:, : song.shape[1]])
        lag = np.correlate(back[0, 4096:16_384], song[0, 4096:14_336], "valid").argmax()
        assert lag == latency  # exactly the reported latency
        assert rea.counts["packets"] == len(packets) and not rea.counts["dropped"]
        (stream,) = rea.streams.values()
        assert stream._waiting == 0

    with_reastream(preset, work)


def test_levels_make_the_mix(preset: Path) -> None:
    song = music(12_000, 44_100)
    stems = stemwire.load(preset, 44_100, 2).flush(song)

    async def work(server: Server, rea: ReaStream, daw: Daw) -> None:
        back = joined(await daw.play(song, [150]))
        wanted = 10 ** (-6 / 20) * stems[0] + 10 ** (3 / 20) * stems[1]
        settled = slice(4_000, song.shape[1])  # levels glide to where they are set
        np.testing.assert_allclose(back[:, settled], wanted[:, settled], atol=1e-5)

    with_reastream(preset, work, reastream_vocals=-6.0, reastream_instrumental=3.0)


def test_streams_are_kept_apart(preset: Path) -> None:
    songs = {b"one": music(3_000, 44_100, seed=1), b"two": music(3_000, 44_100, seed=2)}

    async def work(server: Server, rea: ReaStream, daw: Daw) -> None:
        back: dict[bytes, list[Packet]] = {name: [] for name in songs}
        for at in range(0, 3_000, 150):
            for name, song in songs.items():
                daw.send(datagram(song[:, at : at + 150], name=name))
                back[name].append(Packet.decode(await daw.receive()))
        assert len(rea.streams) == 2
        for name, song in songs.items():
            stems = stemwire.load(preset).flush(song)[1]
            np.testing.assert_array_equal(joined(back[name]), stems[:, :3_000])

    with_reastream(preset, work)


def test_another_rate_begins_a_new_stream(preset: Path) -> None:
    song = music(3_000, 44_100)

    async def work(server: Server, rea: ReaStream, daw: Daw) -> None:
        await daw.play(song, [150], rate=48_000)
        back = joined(await daw.play(song, [150]))
        np.testing.assert_array_equal(back, stemwire.load(preset).flush(song)[1][:, :3_000])
        assert rea.counts["changes"] == 1 and len(rea.streams) == 1

    with_reastream(preset, work)


def test_packets_without_music_are_counted(preset: Path) -> None:
    async def work(server: Server, rea: ReaStream, daw: Daw) -> None:
        for data in (b"garbage", GOOD[:-1], datagram(np.zeros((2, 1), np.float32), magic=b"mRSR"),
                     datagram(np.zeros((2, 1), np.float32), name=b"stemwire")):  # fmt: skip
            daw.send(data)
        await daw.play(music(300, 44_100), [150])
        assert rea.counts == {"malformed": 2, "midi": 1, "own": 1, "packets": 2}
        loop = asyncio.get_running_loop()
        _, text, _ = await loop.run_in_executor(None, get, server, "/metrics")
        assert 'stemwire_reastream_total{worker="0",what="malformed"} 2\n' in text

    with_reastream(preset, work)


def test_the_backlog_is_bounded(preset: Path) -> None:
    async def work(server: Server, rea: ReaStream, daw: Daw) -> None:
        await daw.play(music(150, 44_100), [150])
        (stream,) = rea.streams.values()
        for _ in range(200):  # all at once: nothing can be separated in between
            stream.push(np.zeros((2, 150), np.float32))
        assert stream._waiting == 22_050 // 150 * 150
        assert rea.counts["dropped"] == 200 - 22_050 // 150
        while stream._waiting:
            await daw.receive()
        await daw.play(music(150, 44_100), [150])  # and on it goes

    with_reastream(preset, work)


def test_the_number_of_streams_is_limited(preset: Path) -> None:
    async def work(server: Server, rea: ReaStream, daw: Daw) -> None:
        await daw.play(music(150, 44_100), [150], name=b"one")
        daw.send(datagram(music(150, 44_100), name=b"two"))
        await daw.play(music(150, 44_100), [150], name=b"one")
        assert rea.counts["refused"] == 1 and len(rea.streams) == 1

    with_reastream(preset, work, sessions=1)


def test_a_full_machine_refuses_and_tries_again(
    preset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reastream, "RETRY_S", 0.2)

    async def work(server: Server, rea: ReaStream, daw: Daw) -> None:
        await daw.play(music(150, 44_100), [150], name=b"first")  # which is always let in
        full, server.pool.scheduler._max_load = server.pool.scheduler._max_load, 0.0
        daw.send(datagram(music(150, 44_100)))
        with pytest.raises(TimeoutError):
            await daw.receive(0.1)
        assert rea.counts["refused"] == 1
        server.pool.scheduler._max_load = full
        while len(rea.streams) > 1:
            await asyncio.sleep(0.02)
        await daw.play(music(150, 44_100), [150])

    with_reastream(preset, work)


def test_pauses_and_ends(preset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reastream, "IDLE_S", 0.8)

    async def work(server: Server, rea: ReaStream, daw: Daw) -> None:
        await daw.play(music(150, 44_100), [150])
        await asyncio.sleep(0.4)
        await daw.play(music(150, 44_100), [150])
        assert rea.counts["gaps"] == 1 and len(rea.streams) == 1
        while rea.streams:
            await asyncio.sleep(0.02)
        assert rea.counts["ended"] == 1 and server.pool.load == 0.0

    with_reastream(preset, work)


def test_nobody_receives_the_answers(preset: Path) -> None:
    async def work(server: Server, rea: ReaStream, daw: Daw) -> None:
        daw._into.close()
        for _ in range(20):
            daw.send(datagram(music(150, 44_100)))
            await asyncio.sleep(0.01)
        (stream,) = rea.streams.values()
        while stream._waiting:
            await asyncio.sleep(0.01)
        assert rea.counts == {"packets": 20}

    with_reastream(preset, work)


@pytest.mark.skipif(sys.platform != "linux", reason="only there is all of 127.0.0.0/8 this machine")
def test_both_programs_on_one_machine_and_one_port(preset: Path) -> None:
    """The DAW has the port at all addresses, and sends and receives on it."""
    song = music(3_000, 44_100)

    async def run() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as daw:
            daw.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            daw.bind(("0.0.0.0", 0))
            daw.setblocking(False)
            port = daw.getsockname()[1]
            settings = config(
                presets=(str(preset),), reastream=f"127.0.0.2:{port}", reastream_port=port
            )
            async with Server(settings) as server:
                rea = ReaStream(settings, server.pool, server.counters.reastream)
                server.start_task(rea.run())
                back = []
                for at in range(0, 3_000, 150):
                    daw.sendto(datagram(song[:, at : at + 150]), ("127.0.0.2", port))
                    back.append(
                        Packet.decode(await asyncio.get_running_loop().sock_recv(daw, 2_000))
                    )
                np.testing.assert_array_equal(
                    joined(back), stemwire.load(preset).flush(song)[1][:, :3_000]
                )
                assert rea.counts == {"packets": 20}

    asyncio.run(asyncio.wait_for(run(), 60))


@pytest.mark.slow
def test_the_command(preset: Path) -> None:
    song = music(3_000, 44_100)
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as into,
    ):
        for each in (free, into):
            each.bind(("127.0.0.1", 0))
        into.settimeout(20)
        port, to = free.getsockname()[1], into.getsockname()[1]
        free.close()
        command = [
            sys.executable, "-m", "stemwire.cli", "serve", "--port", "0", "--preset", str(preset),
            "--load", "100", "--reastream", str(port), "--reastream-port", str(to),
            "--reastream-name", "back", "--reastream-vocals", "0", "--reastream-instrumental", "0",
        ]  # fmt: skip
        server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert server.stderr is not None
        try:
            while f"ReaStream at 127.0.0.1:{port}" not in (line := server.stderr.readline()):
                assert line, "it ended"
            back = []
            for at in range(0, 3_000, 150):
                into.sendto(datagram(song[:, at : at + 150]), ("127.0.0.1", port))
                back.append(Packet.decode(into.recv(2_000)))
            assert {packet.identifier for packet in back} == {"back"}
            latency = stemwire.load(preset).latency
            settled = slice(1_500, 3_000 - latency)  # levels glide to where they are set
            mix = joined(back)[:, latency:]
            np.testing.assert_allclose(mix[:, settled], song[:, settled], atol=1e-5)
            server.send_signal(signal.SIGTERM)
            told = server.communicate(timeout=30)[1]
            assert server.returncode == 0
            assert f"latency={latency}" in told and "packets=20" in told
        finally:
            server.kill()
            server.communicate()


def test_a_port_that_is_taken(preset: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        settings = ServerConfig(reastream=str(taken.getsockname()[1]))
        with pytest.raises(BridgeError, match=r"for ReaStream.*choose another --reastream"):
            ReaStream(settings, None, None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"reastream": "here"}, "expected \\[HOST:\\]PORT"),
        ({"reastream": "1.2.3.4:70000"}, "expected \\[HOST:\\]PORT"),
        ({"reastream": "58710", "workers": 2}, "use --workers 1"),
        ({"reastream_name": ""}, "expected 1 to 31 bytes"),
        ({"reastream_name": "é" * 16}, "expected 1 to 31 bytes"),
        ({"reastream_port": 0}, "expected 1 to 65535"),
        ({"reastream_vocals": 25.0}, "expected -200 to 24"),
    ],
)
def test_invalid_settings(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        ServerConfig(**fields)


def test_valid_settings() -> None:
    found = load_config(None, {"reastream": "127.0.0.2:58710"}, {"STEMWIRE_REASTREAM_NAME": "x"})
    assert found.reastream_address() == ("127.0.0.2", 58_710) and found.reastream_name == "x"
    assert ServerConfig(reastream="[::1]:9").reastream_address() == ("::1", 9)
    assert ServerConfig(reastream="9").reastream_address() == ("127.0.0.1", 9)
