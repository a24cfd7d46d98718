"""Overhead of the bridge over the local engine: time of a `push`, and bytes on the wire.

    OMP_NUM_THREADS=1 python benchmarks/bridge.py [--seconds 60] [--preset standard] [--json FILE]

`stemwire serve` runs in a process of its own on loopback. Blocks are pushed at the pace at which a
sound card would request them, to the local separator and to the remote one in turns of a fifth of a
second, both with the same music; "added" is the remote time of a block minus the local time of the
same block. Turns are that short because machines slow down for seconds at a time, which is not
caused by the bridge; other noise of the machine is still included. The delay is measured on the
stems of the remote one: the only delay at which they sum to the mixture. Bytes are everything that
passes through the connection, including websocket framing, handshake and text messages (but not
the headers of TCP and IP). Only the first second is discarded.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pacing import BEGIN_SECONDS, BLOCKS, CHANNELS, MARKS, RATE, TURN_SECONDS, Audio, music, paced
from serving import server
from speed import processor

import stemwire
from stemwire.bridge.client.separator import connect


class Relay:
    """Relay of connections to a port of this machine that counts bytes.

    Attributes:
        port: port to connect to.
        up: bytes from clients.
        down: bytes to clients.
    """

    def __init__(self, target: int) -> None:
        self._target, self.up, self.down = target, 0, 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            server = socket.create_connection(("127.0.0.1", self._target))
            for ends in ((client, server, "up"), (server, client, "down")):
                threading.Thread(target=self._carry, args=ends, daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket, way: str) -> None:
        try:
            while data := source.recv(1 << 16):
                setattr(self, way, getattr(self, way) + len(data))
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass


def delay(mixture: Audio, stems: Audio) -> int:
    """Delay in samples at which stems (stems, channels, n) sum to the mixture.

    Raises:
        AssertionError: if there is no such delay, or more than one.
    """
    total = stems.sum(0)
    delays = [
        late
        for late in range(4096)
        if np.abs(total[:, late : late + 64] - mixture[:, :64]).max() < 1e-4
        and np.abs(total[:, late:] - mixture[:, : mixture.shape[1] - late]).max() < 1e-4
    ]
    assert len(delays) == 1, delays
    return delays[0]


def compare(port: int, preset: str, block: int, seconds: float) -> dict[str, dict[str, float]]:
    """Percentiles of local, remote and added times of a push; and the delay in samples."""
    turns, begin = max(1, round(seconds / TURN_SECONDS)), round(BEGIN_SECONDS / TURN_SECONDS)
    audio = music(BEGIN_SECONDS + seconds)
    part = round(TURN_SECONDS * RATE) // block * block
    local = stemwire.load(preset, RATE, CHANNELS, block)
    found: dict[str, list[npt.NDArray[np.float64]]] = {"local": [], "remote": [], "added": []}
    with connect(f"ws://127.0.0.1:{port}", preset, RATE, CHANNELS, block) as remote:
        for turn in range(turns + begin):
            times, piece = {}, audio[:, turn * part : (turn + 1) * part]
            for name in ("local", "remote") if turn % 2 else ("remote", "local"):
                separator = local if name == "local" else remote
                times[name] = paced(separator.push, piece, block)
            if turn >= begin:
                times["added"] = times["remote"] - times["local"]
                for name, values in times.items():
                    found[name].append(values)
        remote.reset()
        audio = audio[:, : 2 * RATE]
        blocks = [audio[:, at : at + block] for at in range(0, audio.shape[1] - block, block)]
        stems = np.concatenate([remote.push(each) for each in blocks], 2)
        delays = {
            "reported": remote.latency,
            "measured": delay(audio[:, : stems.shape[2]], stems),
            "local": local.latency,
        }
    marks = {
        name: {
            mark: float(np.percentile(np.concatenate(values), percent))
            for mark, percent in MARKS.items()
        }
        for name, values in found.items()
    }
    return {**marks, "delay": delays}


def wire(port: int, preset: str, block: int, seconds: float, format: Any) -> dict[str, float]:
    """Bytes per second of audio each way, and those of the bare samples."""
    relay = Relay(port)
    count = round(seconds * RATE) // block * block
    audio = music(seconds)[:, :count]
    with connect(
        f"ws://127.0.0.1:{relay.port}", preset, RATE, CHANNELS, block, format=format
    ) as remote:
        paced(remote.push, audio, block)
        stems = len(remote.stems)
    time.sleep(0.2)
    bare = RATE * CHANNELS * (4 if format == "f32" else 2)
    per_second = RATE / count
    return {
        "up": relay.up * per_second,
        "bare up": bare,
        "down": relay.down * per_second,
        "bare down": bare * stems,
    }


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="duration per separator and block size"
    )
    parser.add_argument("--preset", default="standard")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args()
    with server("--threads", "1", "--preset", args.preset) as (port, _):
        print(
            f"{processor()}, {os.cpu_count()} cores, OMP_NUM_THREADS="
            f"{os.environ.get('OMP_NUM_THREADS', 'unset')}, {time.strftime('%Y-%m-%d')}, "
            f"{args.preset}, {args.seconds:g} s each"
        )
        figures: dict[str, Any] = {}
        print(f"{'ms per push':24}", *(f"{mark:>7}" for mark in MARKS))
        for block in BLOCKS:
            figures[f"push {block}"] = compare(port, args.preset, block, args.seconds)
            delays = figures[f"push {block}"].pop("delay")
            figures[f"delay {block}"] = delays
            for name, marks in figures[f"push {block}"].items():
                cells = (f"{value:7.2f}" for value in marks.values())
                print(f"{f'block {block} {name}':24}", *cells)
            delay_text = ", ".join(f"{name} {samples}" for name, samples in delays.items())
            print(f"{f'block {block} delay':24} {delay_text} samples")
        print(f"{'bytes per second':24}", *(f"{way:>17}" for way in ("up", "down")))
        for block in BLOCKS:
            for format in ("f32", "s16"):
                found = wire(port, args.preset, block, min(10.0, args.seconds), format)
                figures[f"wire {block} {format}"] = found
                cells = (
                    f"{found[way]:9.0f} ({found[way] / found[f'bare {way}'] - 1:+.1%})"
                    for way in ("up", "down")
                )
                print(f"{f'block {block} {format}':24}", *cells)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
