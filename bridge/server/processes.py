"""Server processes: one, or several behind one port with a supervisor.

The system spreads connections over the processes (SO_REUSEPORT); one that crashes is restarted.
See `relay` for clients that resume at another process.
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

RESTART_S = 2.0  # minimum time between starts of a worker that crashes
POLL_S = 0.2  # between looks at the workers
SAME_SIGNAL_S = 1.0  # within which a second signal counts as the first
EXIT_CANNOT_START = 2  # exit status of a worker that cannot start
log = logging.getLogger("stemwire.server")


def serve_forever(config: ServerConfig, ready: Callable[[int], None]) -> None:
    """Serve until SIGTERM or SIGINT, in this process or in several.

    Args:
        config: settings of the server.
        ready: function called with the port once the server listens on it.

    Raises:
        StemwireError: if the server cannot start.
    """
    with lines_to_stderr(config.log):
        if config.workers == 1:

            def begin(server: Server) -> None:
                if config.reastream:
                    reastream = ReaStream(config, server.pool, server.counters.reastream)
                    server.start_task(reastream.run())
                ready(server.port)

            asyncio.run(run(Server(config, realtime_priority=True), begin))
            return
        with tempfile.TemporaryDirectory(prefix="stemwire-") as folder, _hold_port(config) as port:
            _supervise(dataclasses.replace(config, port=port), folder, lambda: ready(port))


@contextlib.contextmanager
def _hold_port(config: ServerConfig):  # type: ignore[no-untyped-def]
    """Reserve the port while workers come and go; gives its number."""
    if not hasattr(socket, "SO_REUSEPORT"):
        raise BridgeError("several workers cannot share a port on this system; use --workers 1")
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    with socket.socket(family) as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            holder.bind((config.host, config.port))
        except OSError as error:
            raise BridgeError(
                f"cannot listen on {config.host}:{config.port} ({error.strerror}); choose another "
                "--port, or stop the program that uses it"
            ) from error
        yield holder.getsockname()[1]


def _supervise(config: ServerConfig, folder: str, ready: Callable[[], None]) -> None:
    context = multiprocessing.get_context("spawn")
    config.all_tokens()  # so that an error is reported once, not by each worker
    signals = 0

    def stop(*_: object) -> None:
        nonlocal signals
        signals += 1

    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, stop)
    begun = context.Semaphore(0)

    def start(number: int) -> multiprocessing.process.BaseProcess:
        process = context.Process(
            target=_worker_main, args=(config, number, socket_path(folder, number), begun)
        )
        process.start()
        return process

    workers = {number: start(number) for number in range(1, config.workers + 1)}
    waiting = len(workers)
    began = dict.fromkeys(workers, time.monotonic())
    try:
        while not signals:
            time.sleep(POLL_S)
            while waiting and begun.acquire(block=False):
                waiting -= 1
                if not waiting:
                    ready()
            for number, process in workers.items():
                if process.is_alive():
                    continue
                if process.exitcode == EXIT_CANNOT_START:
                    raise BridgeError("a worker cannot start; its message is above")
                if time.monotonic() - began[number] > RESTART_S:
                    log.error("a worker has crashed", extra={"status": process.exitcode})
                    workers[number], began[number] = start(number), time.monotonic()
    finally:
        _stop_workers(list(workers.values()), config.drain + 5, lambda: signals)


def _stop_workers(
    workers: list[multiprocessing.process.BaseProcess], seconds: float, signals: Callable[[], int]
) -> None:
    """Have workers drain and end; signals that arrive meanwhile are forwarded."""
    forwarded, end = -1, time.monotonic() + seconds
    while any(process.is_alive() for process in workers) and time.monotonic() < end:
        if (now := signals()) != forwarded:
            forwarded = now
            for process in workers:
                process.terminate()
        time.sleep(POLL_S)
    for process in workers:
        process.kill()
        process.join()


def _worker_main(config: ServerConfig, number: int, private_socket: str, begun) -> None:  # type: ignore[no-untyped-def]
    """Main function of a worker process."""
    with lines_to_stderr(config.log, number):
        try:
            server = Server(config, number, private_socket, realtime_priority=True)
            asyncio.run(run(server, lambda server: begun.release()))
        except StemwireError as error:
            log.error(str(error))
            raise SystemExit(EXIT_CANNOT_START) from error


async def run(server: Server, ready: Callable[[Server], None]) -> None:
    """Serve until SIGTERM or SIGINT, then drain; a second signal ends the server at once.

    A signal right after the first counts as the same one: a terminal or systemd, which stops
    several processes at a time, sends it to the workers, and so does their supervisor.

    Args:
        server: server that has not started yet.
        ready: function called with it once it listens.
    """
    # Threads that return from the network must not wait 5 ms for the GIL.
    sys.setswitchinterval(5e-4)
    async with server:
        # What is loaded by now stays: garbage collections, which stop all threads, can skip it.
        gc.collect()
        gc.freeze()
        ready(server)
        loop = asyncio.get_running_loop()
        last_signal = -math.inf

        def stop() -> None:
            nonlocal last_signal
            before, last_signal = last_signal, loop.time()
            if not server.draining:
                server.start_task(server.drain())
            elif last_signal - before > SAME_SIGNAL_S:
                server.start_task(server.close())

        for number in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(NotImplementedError):
                loop.add_signal_handler(number, stop)
        await server.wait_closed()
