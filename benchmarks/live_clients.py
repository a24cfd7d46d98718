"""Live clients of a server that take as little of its machine's time as possible.

They stand for other machines, so their own cost must not count as the server's: one thread runs all
of them, the song is cut into blocks beforehand, and only the arrival time of the stems is recorded.
"""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from websockets.client import ClientProtocol
from websockets.frames import Frame as Received
from websockets.frames import Opcode
from websockets.http11 import Response
from websockets.protocol import State
from websockets.uri import parse_uri

from stemwire.bridge.protocol.messages import (
    HEADER,
    MIX_FRAME,
    SUBPROTOCOL,
    Error,
    Frame,
    Goodbye,
    Hello,
    decode,
    encode,
    encode_frame,
)

TIMEOUT_S = 30.0  # for a welcome, and for the last stems
LEAVE_S = 5.0  # for the server to close the connection


class LiveClient:
    """A client that streams in real time.

    Args:
        port: port of the server.
        hello: hello to send; its `block` is the size of the blocks sent.
        song: float32 (channels, n), sent in a loop.
        count: number of blocks to send.
        begin: time (`time.perf_counter`) at which it connects.

    Attributes:
        due: time at which `act` must be called.
        took: milliseconds from sending each block to receiving its stems.
        refused: code of the error with which the server refused it, or "".
        broken: reason why it ended early, or "".
        done: whether it has ended, and may be closed.
    """

    def __init__(
        self, port: int, hello: Hello, song: NDArray[np.float32], count: int, begin: float
    ) -> None:
        self._port, self._hello, self._count, self.due = port, hello, count, begin
        self._period, block = hello.block / hello.rate, hello.block
        starts = range(0, song.shape[1] - block + 1, block)
        self._parts = [song[None, :, at : at + block].copy() for at in starts]
        self._sent: list[float] = []
        self._socket: socket.socket | None = None
        self._protocol = ClientProtocol(
            parse_uri(f"ws://127.0.0.1:{port}/stream"), subprotocols=[SUBPROTOCOL], max_size=None
        )
        self.took: list[float] = []
        self.refused = self.broken = ""
        self._welcome = self._leaving = self.done = False

    def act(self, selector: selectors.BaseSelector) -> None:
        """Connect, send the next block, or give up, whichever is due."""
        if self._socket is None:
            self._socket = socket.create_connection(("127.0.0.1", self._port))
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            selector.register(self._socket, selectors.EVENT_READ, self)
            self._protocol.send_request(self._protocol.connect())
            self.due += TIMEOUT_S
        elif self._leaving:
            self.done = True
        elif not self._welcome or len(self._sent) == self._count:
            self._leave(f"nothing arrived for {TIMEOUT_S:g} s")
        else:
            number = len(self._sent)
            part = self._parts[number % len(self._parts)]
            frame = Frame(MIX_FRAME, 0, number, number * self._hello.block, part)
            self._protocol.send_binary(encode_frame(frame, self._hello.format))
            self._sent.append(time.perf_counter())
            self.due += self._period if len(self._sent) < self._count else TIMEOUT_S
        self._flush()

    def receive(self) -> None:
        """Process what has arrived."""
        assert self._socket is not None
        try:
            data = self._socket.recv(1 << 16)
        except OSError:
            data = b""
        now = time.perf_counter()
        if not data or self._leaving:
            self.done = not data
            if not self._leaving:
                self.broken = "closed by the server"
            return
        self._protocol.receive_data(data)
        for event in self._protocol.events_received():
            if isinstance(event, Response):
                self._protocol.send_text(encode(self._hello).encode())
            elif isinstance(event, Received) and event.opcode is Opcode.TEXT:
                self._receive_text(bytes(event.data).decode(), now)
            elif isinstance(event, Received) and event.opcode is Opcode.BINARY:
                position, samples = HEADER.unpack_from(event.data)[4:6]
                sent = self._sent[(position + samples) // self._hello.block - 1]
                self.took.append(1e3 * (now - sent))
        if len(self.took) == self._count and not self._leaving:
            self._leave("")
        self._flush()

    def close(self, selector: selectors.BaseSelector) -> None:
        """Close the socket."""
        if self._socket is not None:
            selector.unregister(self._socket)
            self._socket.close()

    def _receive_text(self, text: str, now: float) -> None:
        message = decode(text, from_client=False)
        if isinstance(message, Error):
            if not self._welcome:
                self.refused = message.code
            self._leave(message.code if self._welcome else "")
        elif not self._welcome:
            self._welcome, self.due = True, now

    def _leave(self, broken: str) -> None:
        """Say goodbye; the server then closes the connection."""
        self.broken, self._leaving, self.due = broken, True, time.perf_counter() + LEAVE_S
        if self._protocol.state is State.OPEN:
            self._protocol.send_text(encode(Goodbye()).encode())
            self._protocol.send_close(1000)

    def _flush(self) -> None:
        if self._socket is None or self.done:
            return
        try:
            self._socket.sendall(b"".join(self._protocol.data_to_send()))
        except OSError as error:
            self.broken, self.done = self.broken or str(error), True


def play(clients: Sequence[LiveClient]) -> None:
    """Run clients until all have ended."""
    with selectors.DefaultSelector() as selector:
        active = list(clients)
        while active:
            for client in active:
                if client.due <= time.perf_counter():
                    client.act(selector)
            wait = min(client.due for client in active) - time.perf_counter()
            for key, _ in selector.select(max(0.0, wait)):
                key.data.receive()
            for client in active:
                if client.done:
                    client.close(selector)
            active = [client for client in active if not client.done]
