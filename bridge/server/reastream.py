"""ReaStream: separates what REAPER's plugin of that name sends over UDP, and sends it back.

An audio packet, all numbers little-endian:

    4 bytes    "MRSR"
    uint32     size of the packet
    32 bytes   identifier of the stream, padded with zeros, at least one of them
    uint8      channels
    uint32     sample rate
    uint16     bytes of samples, at most 1200
    float32    samples, one channel after the other

Packets carry no sequence numbers or times, so packets that the network loses go unnoticed: the
music becomes shorter. Each packet is answered by one of the same size, its audio delayed by the
separator's latency, to ReaStream's port at the sender's address, under an identifier of our own.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import socket
import struct
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from stemwire.bridge.protocol.messages import VERSION, Control, Hello
from stemwire.bridge.server.config import ServerConfig
from stemwire.bridge.server.pipeline import MixtureBlock, Pipeline
from stemwire.bridge.server.separators import SeparatorPool
from stemwire.errors import BridgeError, ProtocolError, StemwireError
from stemwire.realtime.ring import Audio
from stemwire.realtime.stft import RATES
from stemwire.realtime.streaming import first_invalid_sample

HEADER = struct.Struct("<4sI32sBIH")
AUDIO, MIDI = b"MRSR", b"mRSR"
PACKET_LIMIT = 1200  # bytes of samples in a packet
MAX_BACKLOG_S = 0.5  # of audio that may wait to be separated; packets beyond it are dropped
GAP_S = 0.2  # without a packet that count as a gap
IDLE_S = 10.0  # without a packet, after which a stream ends
RETRY_S = 5.0  # before a stream that was refused is tried again
log = logging.getLogger("stemwire.reastream")


@dataclass(frozen=True)
class Packet:
    """An audio packet.

    Attributes:
        identifier: identifier of the stream.
        rate: sample rate, Hz.
        audio: float32 (channels, n).
    """

    identifier: str
    rate: int
    audio: Audio

    @classmethod
    def decode(cls, data: bytes) -> Packet:
        """Decode a datagram.

        Raises:
            ProtocolError: `malformed`, if it is not an audio packet that can be separated.
        """
        try:
            magic, size, name, channels, rate, length = HEADER.unpack_from(data)
        except struct.error:
            raise ProtocolError("malformed", f"{len(data)} bytes hold no header") from None
        if magic != AUDIO or size != len(data) or length != size - HEADER.size or name[-1]:
            raise ProtocolError("malformed", "not a ReaStream packet, or truncated")
        if channels not in (1, 2) or not RATES[0] <= rate <= RATES[1]:
            raise ProtocolError("malformed", f"{channels} channels at {rate} Hz; expected 1 or 2")
        if length == 0 or length % (4 * channels):
            raise ProtocolError(
                "malformed", f"{length} bytes are not whole samples of {channels} channels"
            )
        samples = np.frombuffer(data, "<f4", offset=HEADER.size).astype(np.float32)
        audio = samples.reshape(channels, -1)
        if first_invalid_sample(audio) is not None:
            raise ProtocolError("malformed", "NaN, Inf or far beyond full scale")
        return cls(name.partition(b"\0")[0].decode(errors="replace"), rate, audio)

    def encode(self) -> list[bytes]:
        """Encode as datagrams: several if one cannot hold the audio."""
        channels, count = self.audio.shape
        most = PACKET_LIMIT // (4 * channels)
        name = self.identifier.encode()[:31]
        datagrams = []
        for at in range(0, count, most):
            samples = self.audio[:, at : at + most].astype("<f4").tobytes()
            size = HEADER.size + len(samples)
            head = HEADER.pack(AUDIO, size, name, channels, self.rate, len(samples))
            datagrams.append(head + samples)
        return datagrams


class ReaStream(asyncio.DatagramProtocol):
    """ReaStream endpoint: binds its port when created, and answers while it runs.

    Args:
        config: settings of the server.
        pool: the server's pool, which separates these streams beside its sessions.
        counts: counter of events: `packets`, `malformed`, `midi`, `own` (packets with the
            identifier of those sent), `gaps` (pauses), `changes` (of rate or channels), `dropped`
            packets, `refused` and `ended` streams.

    Raises:
        BridgeError: if the port is not available.
    """

    def __init__(self, config: ServerConfig, pool: SeparatorPool, counts: Counter[str]) -> None:
        self.config, self.pool, self.counts = config, pool, counts
        self.streams: dict[tuple[str, Any], _Stream] = {}
        host, port = config.reastream_address()
        try:
            address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
            self._socket = socket.socket(address[0], socket.SOCK_DGRAM)
            # REAPER on the same machine may keep listening on this port, at all addresses.
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind(address[4])
        except OSError as error:
            raise BridgeError(
                f"cannot listen on {host}:{port} for ReaStream ({error.strerror or error}); choose "
                "another --reastream"
            ) from error
        self.port = self._socket.getsockname()[1]

    async def run(self) -> None:
        """Serve until it is cancelled."""
        loop = asyncio.get_running_loop()
        self.transport, _ = await loop.create_datagram_endpoint(lambda: self, sock=self._socket)
        try:
            await asyncio.Event().wait()
        finally:
            for stream in list(self.streams.values()):
                stream.task.cancel()
            self.transport.close()
            log.info("ended", extra=dict(self.counts))

    def datagram_received(self, data: bytes, sender: Any) -> None:
        if data[:4] == MIDI:
            self.counts["midi"] += 1
            return
        try:
            packet = Packet.decode(data)
        except ProtocolError:
            self.counts["malformed"] += 1
            return
        if packet.identifier == self.config.reastream_name:  # our own, come back
            self.counts["own"] += 1
            return
        self.counts["packets"] += 1
        key = packet.identifier, sender
        stream = self.streams.get(key)
        if stream is not None and stream.format != (packet.rate, len(packet.audio)):
            self.counts["changes"] += 1
            stream.task.cancel()
            stream = None
        if stream is None:
            if len(self.streams) >= self.config.sessions:
                self.counts["refused"] += 1
                return
            stream = self.streams[key] = _Stream(self, key, packet)
        stream.push(packet.audio)


class _Stream:
    """One stream: its pipeline, and the packets that wait for it."""

    def __init__(self, owner: ReaStream, key: tuple[str, Any], first: Packet) -> None:
        self._owner, self._key = owner, key
        self.format = first.rate, len(first.audio)
        self._queue: asyncio.Queue[Audio | Exception] = asyncio.Queue()
        self._waiting = 0  # samples received whose stems have not been sent
        self._last_packet = time.monotonic()
        self.task = asyncio.create_task(self._run())

    def push(self, audio: Audio) -> None:
        now = time.monotonic()
        if now - self._last_packet > GAP_S:
            self._owner.counts["gaps"] += 1
        self._last_packet = now
        if self._waiting + audio.shape[1] > MAX_BACKLOG_S * self.format[0]:
            self._owner.counts["dropped"] += 1
            return
        self._waiting += audio.shape[1]
        self._queue.put_nowait(audio)

    async def _run(self) -> None:
        pipeline: Pipeline | None = None
        pool, details = self._owner.pool, {"identifier": self._key[0], "sender": self._key[1]}
        try:
            loop = asyncio.get_running_loop()
            rate, channels = self.format
            preset = pool.presets[0]
            hello = Hello(
                version=VERSION, rate=rate, channels=channels, stems=("mix",), preset=preset
            )
            pipeline = await loop.run_in_executor(None, pool.open_pipeline, hello)
            pool.add(pipeline, functools.partial(self._deliver, loop, pipeline))
            more = {"rate": rate, "channels": channels, "latency": pipeline.stage.latency}
            log.info("stream", extra=details | more)
            await self._feed(pipeline)
            log.info("stream ended", extra=details)
        except StemwireError as error:
            self._owner.counts["refused"] += 1
            log.warning("stream refused", extra={**details, "reason": str(error)})
            await asyncio.sleep(RETRY_S)
        finally:
            self._owner.counts["ended"] += 1
            if pipeline is not None:
                pool.remove(pipeline)
            if self._owner.streams.get(self._key) is self:
                del self._owner.streams[self._key]

    async def _feed(self, pipeline: Pipeline) -> None:
        config, due = self._owner.config, 0.0
        levels = config.reastream_vocals, config.reastream_instrumental
        pipeline.put(Control(vocals=levels[0], instrumental=levels[1]))
        with contextlib.suppress(TimeoutError):
            while True:
                async with asyncio.timeout(IDLE_S):
                    audio = await self._queue.get()
                if isinstance(audio, Exception):
                    raise BridgeError(str(audio)) from audio
                due = max(time.monotonic(), due) + audio.shape[1] / self.format[0]
                pipeline.put(MixtureBlock(audio, 0, due))
                self._owner.pool.wake(pipeline)

    def _deliver(self, loop: Any, pipeline: Pipeline, error: Exception | None) -> None:
        """Called by a worker thread: there are results."""
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(self._send_results, pipeline, error)

    def _send_results(self, pipeline: Pipeline, error: Exception | None) -> None:
        owner = self._owner
        while pipeline.results:
            stems = pipeline.results.popleft()
            if not isinstance(stems, np.ndarray) or self.task.done():
                continue  # a control
            self._waiting -= stems.shape[2]
            packet = Packet(owner.config.reastream_name, self.format[0], stems[0])
            for data in packet.encode():
                owner.transport.sendto(data, (self._key[1][0], owner.config.reastream_port))
        if error is not None:
            self._queue.put_nowait(error)
