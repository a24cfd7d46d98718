"""Several server processes behind one port, and the one that looks after them.

The system spreads connections over the processes (SO_REUSEPORT); one that crashes is started again.
See `relay` for clients that come back to another one.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import logging
import math
import multiprocessing
import multiprocessing.process
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable

from stemwire.bridge.server.config import ServerConfig
from stemwire.bridge.server.log import lines_to_stderr
from stemwire.bridge.server.reastream import ReaStream
from stemwire.bridge.server.relay import socket_path
from stemwire.bridge.server.server import Server
from stemwire.errors import BridgeError, StemwireError

AGAIN_S = 2.0  # between starts of a worker that crashes
LOOK_S = 0.2
SAME_S = 1.0  # within which a second signal is the first
FAILED = 2  # exit status of a worker that cannot begin
log = logging.getLogger("stemwire.server")


def serve_forever(config: ServerConfig, ready: Callable[[int], None]) -> None:
    """Serve until SIGTERM or SIGINT, in this process or in several.

    Args:
        config: of the server.
        ready: called with the port once it is listened on.

    Raises:
        StemwireError: if the server cannot begin.
    """
    with lines_to_stderr(config.log):
        if config.workers == 1:

            def begin(server: Server) -> None:
                if config.reastream:
                    reastream = ReaStream(config, server.desk, server.pages.reastream)
                    server.start_task(reastream.run())
                ready(server.port)

            asyncio.run(run(Server(config, hurry=True), begin))
            return
        with tempfile.TemporaryDirectory(prefix="stemwire-") as folder, _hold_port(config) as port:
            _look_after(dataclasses.replace(config, port=port), folder, lambda: ready(port))


@contextlib.contextmanager
def _hold_port(config: ServerConfig):  # type: ignore[no-untyped-def]
    """A port that stays ours while workers come and go."""
    if not hasattr(socket, "SO_REUSEPORT"):
        raise BridgeError("several workers cannot share a port on this system; use --workers 1")
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    with socket.socket(family) as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            holder.bind((config.host, config.port))
        except OSError as error:
            raise BridgeError(
                f"{config.host}:{config.port} cannot be listened on ({error.strerror}); choose "
                "another --port, or end what uses it"
            ) from error
        yield holder.getsockname()[1]


def _look_after(config: ServerConfig, folder: str, ready: Callable[[], None]) -> None:
    context = multiprocessing.get_context("spawn")
    config.all_tokens()  # what cannot work is told here, not by each worker
    signals = 0

    def stop(*_: object) -> None:
        nonlocal signals
        signals += 1

    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, stop)
    begun = context.Semaphore(0)

    def start(number: int) -> multiprocessing.process.BaseProcess:
        process = context.Process(
            target=_work, args=(config, number, socket_path(folder, number), begun)
        )
        process.start()
        return process

    workers = {number: start(number) for number in range(1, config.workers + 1)}
    waiting = len(workers)
    began = dict.fromkeys(workers, time.monotonic())
    try:
        while not signals:
            time.sleep(LOOK_S)
            while waiting and begun.acquire(block=False):
                waiting -= 1
                if not waiting:
                    ready()
            for number, process in workers.items():
                if process.is_alive():
                    continue
                if process.exitcode == FAILED:
                    raise BridgeError("a worker cannot begin; its message is above")
                if time.monotonic() - began[number] > AGAIN_S:
                    log.error("a worker has crashed", extra={"status": process.exitcode})
                    workers[number], began[number] = start(number), time.monotonic()
    finally:
        _end(list(workers.values()), config.drain + 5, lambda: signals)


def _end(
    workers: list[multiprocessing.process.BaseProcess], seconds: float, signals: Callable[[], int]
) -> None:
    """Have workers drain and end; each signal that comes meanwhile is handed on."""
    told, end = -1, time.monotonic() + seconds
    while any(process.is_alive() for process in workers) and time.monotonic() < end:
        if (now := signals()) != told:
            told = now
            for process in workers:
                process.terminate()
        time.sleep(LOOK_S)
    for process in workers:
        process.kill()
        process.join()


def _work(config: ServerConfig, number: int, private: str, begun) -> None:  # type: ignore[no-untyped-def]
    """Main function of a worker."""
    with lines_to_stderr(config.log, number):
        try:
            server = Server(config, number, private, hurry=True)
            asyncio.run(run(server, lambda server: begun.release()))
        except StemwireError as error:
            log.error(str(error))
            raise SystemExit(FAILED) from error


async def run(server: Server, ready: Callable[[Server], None]) -> None:
    """Serve until SIGTERM or SIGINT, then drain; a second signal ends at once.

    One that comes right after the first is the same: whoever stops several processes at a time, a
    terminal or systemd, tells the workers, and so does the process that looks after them.

    Args:
        server: that has not begun.
        ready: called once it listens.
    """
    # Threads that come back from the network must not wait 5 ms for the interpreter.
    sys.setswitchinterval(5e-4)
    async with server:
        # What is loaded by now stays: collections, for which all threads wait, need not look at it.
        gc.collect()
        gc.freeze()
        ready(server)
        loop = asyncio.get_running_loop()

        told = -math.inf

        def stop() -> None:
            nonlocal told
            before, told = told, loop.time()
            if not server.draining:
                server.start_task(server.drain())
            elif told - before > SAME_S:
                server.start_task(server.close())

        for number in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(NotImplementedError):
                loop.add_signal_handler(number, stop)
        await server.wait_closed()
