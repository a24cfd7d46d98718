"""ReaStream: what REAPER's plugin of that name sends over UDP is separated, and sent back.

An audio packet, all numbers little-endian:

    4 bytes    "MRSR"
    uint32     size of the packet
    32 bytes   identifier of the stream, filled up with zeros, of which there is at least one
    uint8      channels
    uint32     sample rate
    uint16     bytes of samples, at most 1200
    float32    samples, one channel after the other

There are no numbers or times in it, so a packet that the network loses cannot be missed: the music
is shorter by it. For each packet that comes one of the same size goes back, later by the
separator's delay, to ReaStream's port at the sender's address, under an identifier of its own.
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
from stemwire.bridge.server.pipeline import Arrived, Strip
from stemwire.bridge.server.separators import Desk
from stemwire.errors import BridgeError, ProtocolError, StemwireError
from stemwire.realtime.ring import Audio
from stemwire.realtime.stft import RATES
from stemwire.realtime.streaming import first_invalid_sample

HEADER = struct.Struct("<4sI32sBIH")
AUDIO, MIDI = b"MRSR", b"mRSR"
LARGEST = 1200  # bytes of samples in a packet
BEHIND_S = 0.5  # of audio that may wait to be separated; what comes beyond is dropped
PAUSE_S = 0.2  # without a packet that are counted as a gap
IDLE_S = 10.0  # without a packet after which a stream ends
AGAIN_S = 5.0  # after which a stream that was refused is tried again
log = logging.getLogger("stemwire.reastream")


@dataclass(frozen=True)
class Packet:
    """Some audio.

    Attributes:
        identifier: of the stream.
        rate: sample rate, Hz.
        audio: float32 (channels, n).
    """

    identifier: str
    rate: int
    audio: Audio

    @classmethod
    def decode(cls, data: bytes) -> Packet:
        """Read a datagram.

        Raises:
            ProtocolError: `malformed`, if it is no audio packet that can be separated.
        """
        try:
            magic, size, name, channels, rate, length = HEADER.unpack_from(data)
        except struct.error:
            raise ProtocolError("malformed", f"{len(data)} bytes hold no header") from None
        if magic != AUDIO or size != len(data) or length != size - HEADER.size or name[-1]:
            raise ProtocolError("malformed", "no ReaStream packet, or a part of one")
        if channels not in (1, 2) or not RATES[0] <= rate <= RATES[1]:
            raise ProtocolError("malformed", f"{channels} channels at {rate} Hz; expected 1 or 2")
        if length == 0 or length % (4 * channels):
            raise ProtocolError(
                "malformed", f"{length} bytes are no samples of {channels} channels"
            )
        samples = np.frombuffer(data, "<f4", offset=HEADER.size).astype(np.float32)
        audio = samples.reshape(channels, -1)
        if first_invalid_sample(audio) is not None:
            raise ProtocolError("malformed", "NaN, Inf or far beyond full scale")
        return cls(name.partition(b"\0")[0].decode(errors="replace"), rate, audio)

    def encode(self) -> list[bytes]:
        """As datagrams: several if one cannot hold it."""
        channels, count = self.audio.shape
        most = LARGEST // (4 * channels)
        name = self.identifier.encode()[:31]
        found = []
        for at in range(0, count, most):
            samples = self.audio[:, at : at + most].astype("<f4").tobytes()
            size = HEADER.size + len(samples)
            head = HEADER.pack(AUDIO, size, name, channels, self.rate, len(samples))
            found.append(head + samples)
        return found


class ReaStream(asyncio.DatagramProtocol):
    """Listens, once it is made, and answers while it runs.

    Args:
        config: of the server.
        desk: of the server, at which streams have their places beside its sessions.
        counts: what happens is added up here: `packets`, `malformed`, `midi`, `own` (packets with
            the identifier of what is sent), `gaps` (pauses), `changes` (of rate or channels),
            `dropped` packets, `refused` and `ended` streams.

    Raises:
        BridgeError: if the port cannot be had.
    """

    def __init__(self, config: ServerConfig, desk: Desk, counts: Counter[str]) -> None:
        self.config, self.desk, self.counts = config, desk, counts
        self.streams: dict[tuple[str, Any], _Stream] = {}
        host, port = config.reastream_address()
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
            self._socket = socket.socket(found[0], socket.SOCK_DGRAM)
            # REAPER listens at all addresses of its machine, on the same port; it may go on to.
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind(found[4])
        except OSError as error:
            raise BridgeError(
                f"{host}:{port} cannot be listened on for ReaStream ({error.strerror or error}); "
                "give another --reastream"
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
        if packet.identifier == self.config.reastream_name:  # ours, come back: no music to separate
            self.counts["own"] += 1
            return
        self.counts["packets"] += 1
        key = packet.identifier, sender
        stream = self.streams.get(key)
        if stream is not None and stream.form != (packet.rate, len(packet.audio)):
            self.counts["changes"] += 1
            stream.task.cancel()
            stream = None
        if stream is None:
            if len(self.streams) >= self.config.sessions:
                self.counts["refused"] += 1
                return
            stream = self.streams[key] = _Stream(self, key, packet)
        stream.take(packet.audio)


class _Stream:
    """One stream: its place at the desk, and what waits."""

    def __init__(self, owner: ReaStream, key: tuple[str, Any], first: Packet) -> None:
        self._owner, self._key = owner, key
        self.form = first.rate, len(first.audio)
        self._queue: asyncio.Queue[Audio | Exception] = asyncio.Queue()
        self._waiting = 0  # samples that have come and whose stems have not gone
        self._heard = time.monotonic()
        self.task = asyncio.create_task(self._run())

    def take(self, audio: Audio) -> None:
        now = time.monotonic()
        if now - self._heard > PAUSE_S:
            self._owner.counts["gaps"] += 1
        self._heard = now
        if self._waiting + audio.shape[1] > BEHIND_S * self.form[0]:
            self._owner.counts["dropped"] += 1
            return
        self._waiting += audio.shape[1]
        self._queue.put_nowait(audio)

    async def _run(self) -> None:
        strip: Strip | None = None
        desk, told = self._owner.desk, {"identifier": self._key[0], "sender": self._key[1]}
        try:
            loop = asyncio.get_running_loop()
            rate, channels = self.form
            hello = Hello(version=VERSION, rate=rate, channels=channels, stems=("mix",),
                          preset=desk.presets[0])  # fmt: skip
            strip = await loop.run_in_executor(None, desk.open, hello)
            desk.serve(strip, functools.partial(self._call, loop, strip))
            more = {"rate": rate, "channels": channels, "latency": strip.voice.latency}
            log.info("stream", extra=told | more)
            await self._feed(strip)
            log.info("stream ended", extra=told)
        except StemwireError as error:
            self._owner.counts["refused"] += 1
            log.warning("stream refused", extra={**told, "reason": str(error)})
            await asyncio.sleep(AGAIN_S)
        finally:
            self._owner.counts["ended"] += 1
            if strip is not None:
                desk.remove(strip)
            if self._owner.streams.get(self._key) is self:
                del self._owner.streams[self._key]

    async def _feed(self, strip: Strip) -> None:
        config, due = self._owner.config, 0.0
        levels = config.reastream_vocals, config.reastream_instrumental
        strip.put(Control(vocals=levels[0], instrumental=levels[1]))
        with contextlib.suppress(TimeoutError):
            while True:
                async with asyncio.timeout(IDLE_S):
                    audio = await self._queue.get()
                if isinstance(audio, Exception):
                    raise BridgeError(str(audio)) from audio
                due = max(time.monotonic(), due) + audio.shape[1] / self.form[0]
                strip.put(Arrived(audio, 0, due))
                self._owner.desk.wake(strip)

    def _call(self, loop: Any, strip: Strip, error: Exception | None) -> None:
        """In a thread of the desk: there are results."""
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(self._give, strip, error)

    def _give(self, strip: Strip, error: Exception | None) -> None:
        owner = self._owner
        while strip.results:
            stems = strip.results.popleft()
            if not isinstance(stems, np.ndarray) or self.task.done():
                continue  # of controls nothing is told
            self._waiting -= stems.shape[2]
            packet = Packet(owner.config.reastream_name, self.form[0], stems[0])
            for data in packet.encode():
                owner.transport.sendto(data, (self._key[1][0], owner.config.reastream_port))
        if error is not None:
            self._queue.put_nowait(error)
