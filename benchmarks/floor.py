"""Minimum time that any bridge adds here: the engine behind a socket, behind websockets, and ours.

    OMP_NUM_THREADS=1 python benchmarks/floor.py [--seconds 20] [--preset standard]

`benchmarks/bridge.py` measures what our bridge adds to a `push`; this benchmark measures how much
of that is due to the machine and to websockets. Four separators take the same blocks at the pace of
the audio, in turns of a fifth of a second:

- local: in this process;
- socket: in another process that reads a block, separates it and writes the stems, in one thread,
  while this one waits for them: the minimum without anything that makes a bridge;
- websockets: the `websockets` package at both ends, the engine in a thread beside the server's
  event loop, the client in an event loop of its own; no protocol, no checks, no journal;
- bridge: `stemwire.connect`, and a server as `stemwire serve` runs it.

"Added" is the time of a block minus the local time of the same block. All servers have the priority
that `stemwire serve` has where the system grants it. Only the first second is discarded.
"""

from __future__ import annotations

import argparse
import asyncio
import concurrent.futures
import contextlib
import multiprocessing
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from pacing import BEGIN_SECONDS, BLOCKS, CHANNELS, MARKS, RATE, TURN_SECONDS, Audio, music, paced
from serving import server
from speed import processor
from websockets.asyncio.client import connect as dial
from websockets.asyncio.server import ServerConnection, serve

import stemwire
from stemwire.bridge.client.separator import connect
from stemwire.realtime.live.priority import CALLBACK, WORKER, raise_priority

Push = Callable[[Audio], Any]


def separate(separator: Any, data: bytes) -> bytes:
    """Stems of a block, as bytes."""
    return bytes(separator.push(np.frombuffer(data, np.float32).reshape(CHANNELS, -1)).tobytes())


def socket_server(port: Any, preset: str, block: int) -> None:
    """Serve one client through a bare socket, in a process of its own."""
    separator = stemwire.load(preset, RATE, CHANNELS, block)
    raise_priority(WORKER)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port.put(listener.getsockname()[1])
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while data := connection.recv(4 * CHANNELS * block, socket.MSG_WAITALL):
            connection.sendall(separate(separator, data))


def websockets_server(port: Any, preset: str, block: int) -> None:
    """Serve clients through a websocket, in a process of its own."""
    separator = stemwire.load(preset, RATE, CHANNELS, block)
    executor = concurrent.futures.ThreadPoolExecutor(
        1, initializer=raise_priority, initargs=(WORKER,)
    )
    raise_priority(CALLBACK)

    async def answer(connection: ServerConnection) -> None:
        loop = asyncio.get_running_loop()
        async for data in connection:
            assert isinstance(data, bytes)
            await connection.send(await loop.run_in_executor(executor, separate, separator, data))

    async def work() -> None:
        async with serve(answer, "127.0.0.1", 0, compression=None) as listener:
            port.put(next(iter(listener.sockets)).getsockname()[1])
            await listener.serve_forever()

    asyncio.run(work())


@contextlib.contextmanager
def running_server(
    target: Callable[[Any, str, int], None], preset: str, block: int
) -> Iterator[int]:
    """Run a server in a process of its own; gives its port."""
    spawn = multiprocessing.get_context("spawn")
    port = spawn.Queue()
    process = spawn.Process(target=target, args=(port, preset, block), daemon=True)
    process.start()
    try:
        yield port.get(timeout=60)
    finally:
        process.kill()
        process.join()


@contextlib.contextmanager
def socket_client(port: int, block: int) -> Iterator[Push]:
    """Function that pushes a block through a bare socket."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def push(part: Audio) -> Any:
            connection.sendall(part.tobytes())
            data = connection.recv(2 * 4 * CHANNELS * block, socket.MSG_WAITALL)
            return np.frombuffer(data, np.float32).reshape(2, CHANNELS, -1)

        yield push


@contextlib.contextmanager
def websockets_client(port: int, block: int) -> Iterator[Push]:
    """Function that pushes a block through a websocket, on an event loop that runs in a thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def run_there(work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result()

    async def opened() -> Any:
        return await dial(f"ws://127.0.0.1:{port}", compression=None)

    connection = run_there(opened())

    async def answered(data: bytes) -> Any:
        await connection.send(data)
        return await connection.recv()

    def push(part: Audio) -> Any:
        data = run_there(answered(part.tobytes()))
        return np.frombuffer(data, np.float32).reshape(2, CHANNELS, -1)

    try:
        yield push
    finally:
        run_there(connection.close())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def compare(preset: str, block: int, seconds: float) -> dict[str, npt.NDArray[np.float64]]:
    """Milliseconds that each block took with each separator."""
    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        bridge, _ = enter(server("--threads", "1", "--preset", preset))
        pushes: dict[str, Push] = {
            "local": stemwire.load(preset, RATE, CHANNELS, block).push,
            "socket": enter(
                socket_client(enter(running_server(socket_server, preset, block)), block)
            ),
            "websockets": enter(
                websockets_client(enter(running_server(websockets_server, preset, block)), block)
            ),
            "bridge": enter(
                connect(f"ws://127.0.0.1:{bridge}", preset, RATE, CHANNELS, block)
            ).push,
        }
        audio, part = music(BEGIN_SECONDS + seconds), round(TURN_SECONDS * RATE) // block * block
        stems = {name: push(audio[:, :block]) for name, push in pushes.items()}
        for name, each in stems.items():  # all of them do the same work
            np.testing.assert_allclose(each, stems["local"], atol=1e-6, err_msg=name)
        found: dict[str, list[npt.NDArray[np.float64]]] = {name: [] for name in pushes}
        names, begin = list(pushes), round(BEGIN_SECONDS / TURN_SECONDS)
        for turn in range(begin + round(seconds / TURN_SECONDS)):
            piece = audio[:, turn * part : (turn + 1) * part]
            for name in names:
                times = paced(pushes[name], piece, block)
                if turn >= begin:
                    found[name].append(times)
            names.append(names.pop(0))  # another goes first
    return {name: np.concatenate(times) for name, times in found.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument(
        "--seconds", type=float, default=20.0, help="duration per separator and block size"
    )
    parser.add_argument("--preset", default="standard")
    args = parser.parse_args()
    print(
        f"{processor()}, {os.cpu_count()} cores, OMP_NUM_THREADS="
        f"{os.environ.get('OMP_NUM_THREADS', 'unset')}, {time.strftime('%F')}, {args.preset}, "
        f"{args.seconds:g} s each"
    )
    print(f"{'ms per push':28}", *(f"{mark:>7}" for mark in MARKS))
    for block in BLOCKS:
        times = compare(args.preset, block, args.seconds)
        rows = {"local": times["local"]}
        rows |= {f"{n} adds": times[n] - times["local"] for n in times if n != "local"}
        for name, values in rows.items():
            cells = (f"{np.percentile(values, percent):7.2f}" for percent in MARKS.values())
            print(f"{f'block {block} {name}':28}", *cells, flush=True)


if __name__ == "__main__":
    main()
