"""Number of live streams that a server separates in time, and what happens beyond it.

    python benchmarks/serving.py --streams 1 2 4 6 8 10 --seconds 20
    python benchmarks/serving.py --batch 1 --streams 6          # every step alone
    python benchmarks/serving.py --streams 4 --churn 10         # minutes of kills and resumes

Each stream sends blocks of 512 samples at the pace of 44.1 kHz and measures how long each block's
stems take: they are in time if they arrive before the next block is due (11.6 ms). The server runs
as `stemwire serve` in a process of its own; the clients share another process on the same machine.
They stand for other machines, so they take as little of its time as possible (`live_clients.py`),
and where the system grants it they have a higher priority than the server, or their waiting for a
core would count as the server's. Streams begin half a second and a random phase after one another,
so that the server can measure what they cost; refused streams are counted.

The churn test cuts connections at random moments through a proxy on loopback, has clients connect,
leave and vanish without a goodbye, and compares every sample of every stream with the offline
stems.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from live_clients import LiveClient, play
from support import music
from support.tcp_proxy import TcpProxy

import stemwire
from stemwire.bridge.client.async_separator import AsyncSeparator
from stemwire.bridge.protocol.messages import VERSION, Hello
from stemwire.errors import BridgeError
from stemwire.realtime.backends import default_backend
from stemwire.realtime.live.priority import CALLBACK, raise_priority
from stemwire.training.evaluation.report import processor

RATE, BLOCK = 44_100, 512
PERIOD = BLOCK / RATE
MARKS = (50, 95, 99, 99.9, 100)


@contextlib.contextmanager
def server(*options: str) -> Iterator[tuple[int, int]]:
    """Run a server; gives its port and process id."""
    command = [sys.executable, "-m", "stemwire.cli", "serve", "--port", "0", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        port = 0
        for line in process.stderr:
            if found := re.search(r"serving at http://[^:]+:(\d+)/", line):
                port = int(found[1])
                break
        # Its log must be read, or the server would block.
        threading.Thread(target=process.stderr.read, daemon=True).start()
        try:
            yield port, process.pid
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


def metric(port: int, name: str) -> float:
    """Value of one of the server's metrics."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found = re.search(rf"^stemwire_{name}\{{.*\}} (\S+)$", text, re.M)
    assert found, name
    return float(found[1])


def measure(port: int, preset: str, count: int, seconds: float) -> str:
    """Row of results for `count` streams."""
    hello = Hello(
        version=VERSION,
        rate=RATE,
        channels=2,
        block=BLOCK,
        preset=preset,
        stems=("vocals", "instrumental"),
    )
    song = 0.3 * music(64 * BLOCK, RATE)
    now, blocks = time.perf_counter(), round(seconds / PERIOD)
    clients = [
        LiveClient(port, hello, song, blocks, now + 0.5 * n + random.random() * PERIOD)
        for n in range(count)
    ]
    play(clients)
    refused = [client.refused for client in clients if client.refused]
    broken = [client.broken for client in clients if client.broken]
    times = np.concatenate([client.took for client in clients])
    if not len(times):
        return f"{count:4} streams: refused {refused}, broken {broken}"
    marks = "  ".join(f"p{mark:g} {np.percentile(times, mark):6.2f}" for mark in MARKS)
    late = float((times > 1e3 * PERIOD).mean())
    return (
        f"{count:4} streams, {count - len(refused) - len(broken):3} let in, {len(broken)} broken  "
        f"ms: {marks}  later than {1e3 * PERIOD:.1f}: {late:8.4%}  busy {metric(port, 'busy'):.2f}"
    )


def curve(args: argparse.Namespace) -> None:
    """Measure from one stream to too many, with batched steps and with single ones."""
    for batch in args.batch:
        options = ["--batch", str(batch), "--threads", str(args.threads)]
        with server(*options) as (port, _):
            raise_priority(CALLBACK + 1)
            print(f"steps of up to {batch} streams at once", flush=True)
            for count in args.streams:
                print(measure(port, args.preset, count, args.seconds), flush=True)


async def one_client(
    proxy: TcpProxy,
    until: float,
    song: NDArray[np.float32],
    expected: NDArray[np.float32],
    rng: random.Random,
) -> dict[str, int]:
    """Run streams one after the other, and compare each with the offline stems."""
    names = ("sessions", "unopened", "vanished", "streams", "resumes", "samples", "wrong", "lost")
    counts = dict.fromkeys(names, 0)
    while time.monotonic() < until:
        try:
            separator = await AsyncSeparator.open(f"ws://127.0.0.1:{proxy.port}")
        except BridgeError:  # cut before there was a session to resume
            counts["unopened"] += 1
            continue
        counts["sessions"] += 1
        async with separator:
            for _ in range(rng.randint(1, 3)):
                parts, at, due = [], 0, time.monotonic()
                while at < song.shape[1]:
                    size = rng.randint(64, 2048)
                    parts.append(await separator.push(song[:, at : at + size]))
                    at += size
                    due += size / RATE
                    await asyncio.sleep(max(0.0, due - time.monotonic()))
                parts.append(await separator.flush())
                stems = np.concatenate(parts, 2)
                counts["streams"] += 1
                counts["samples"] += stems.shape[2]
                if stems.shape != expected.shape:
                    counts["wrong"] += abs(stems.shape[2] - expected.shape[2])
                else:
                    counts["wrong"] += int((np.abs(stems - expected) > 2e-5).any((0, 1)).sum())
            counts["resumes"] += separator.statistics.connections - 1
            counts["lost"] += separator.statistics.lost
            if rng.random() < 0.3:
                counts["vanished"] += 1
                await separator.push(song[:, :RATE])
                vanish(separator)
    return counts


def vanish(separator: AsyncSeparator) -> None:
    """As if the client's machine had lost power, as far as the server can tell."""
    connection = separator._connection
    connection._closing = True
    if connection._connection is not None:
        connection._connection.transport.abort()


async def churn(port: int, process: int, count: int, minutes: float) -> None:
    """Run clients while connections are cut, and print the sums."""
    song = 0.3 * music(7 * RATE + 123, RATE)
    expected = stemwire.load("standard", RATE).flush(song)
    until, rng = time.monotonic() + 60 * minutes, random.Random(1)
    async with TcpProxy(port, jitter=0.002) as proxy:
        clients = [
            asyncio.create_task(one_client(proxy, until, song, expected, random.Random(n)))
            for n in range(count)
        ]
        minute, killed = 0, 0
        while not all(client.done() for client in clients):
            await asyncio.sleep(rng.uniform(0.5, 3.0))
            if passages := list(proxy._passages):
                rng.choice(passages).abort()
                killed += 1
            if time.monotonic() > until - 60 * (minutes - minute):
                minute += 1
                rss = int(Path(f"/proc/{process}/statm").read_text().split()[1])
                print(
                    f"minute {minute:3}  connections cut {killed:4}  "
                    f"server memory {rss * os.sysconf('SC_PAGE_SIZE') / 1e6:.1f} MB",
                    flush=True,
                )
        sums: dict[str, int] = {}
        for client in clients:
            for name, value in client.result().items():
                sums[name] = sums.get(name, 0) + value
        print("  ".join(f"{name} {value}" for name, value in sums.items()), flush=True)
        names = ("connections", "resumes", "sessions_ended", "gaps", "missing", "misses")
        print("the server:", "  ".join(f"{n} {metric(port, f'{n}_total'):g}" for n in names))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 2, 4, 6, 8, 10, 12])
    parser.add_argument("--seconds", type=float, default=15.0, help="duration of each row")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--preset", default="standard")
    parser.add_argument("--churn", type=float, metavar="MINUTES")
    args = parser.parse_args()
    print(
        f"{processor()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, "
        f"{time.strftime('%F')}, {args.preset} by backend {default_backend()}, {RATE} Hz, "
        f"blocks of {BLOCK}"
    )
    if args.churn:
        # Clients that vanish keep their session for a while; here it must not keep others out.
        options = ["--threads", str(args.threads), "--load", "100", "--grace", "10"]
        with server(*options) as (port, process):
            asyncio.run(churn(port, process, args.streams[0], args.churn))
    else:
        curve(args)


if __name__ == "__main__":
    main()
