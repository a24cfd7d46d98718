"""The user's own server, which DAW plugins find and start: one per user, on loopback, with a token.

It is a `Server` that picks a free port and a token, writes both where this user's plugins look for
them once it listens, and ends after a while without sessions.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import logging.handlers
import os
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from stemwire.bridge.plugin.settings import (
    LocalServer,
    log_folder,
    make_runtime_folder,
    server_lock,
)
from stemwire.bridge.server.config import ServerConfig
from stemwire.bridge.server.log import LineFormatter, lines_to_stderr
from stemwire.bridge.server.processes import run
from stemwire.bridge.server.server import Server
from stemwire.errors import BridgeError, ConfigError, OutputError, StemwireError

POLL_S = 0.25  # interval of checks for sessions
START_TIMEOUT_S = 30.0  # for another server to start
LOG_BYTES = 1_000_000
log = logging.getLogger("stemwire.server")


def serve_plugins(
    config: ServerConfig, idle_exit: float, ready: Callable[[str, bool], None]
) -> None:
    """Serve this user's plugins until there was no session for a while, or until a signal.

    Returns at once if another server of this user is running.

    Args:
        config: settings of the server; address, port and access control are replaced.
        idle_exit: seconds without a session after which the server ends; 0 for never.
        ready: callback with the running server's URL, and whether it is this server.

    Raises:
        ConfigError: for invalid settings.
        BridgeError: if the runtime folder is unusable, or no port can be opened.
        OutputError: if the log cannot be written.
    """
    if not 0 <= idle_exit < float("inf"):
        raise ConfigError(f"idle_exit is {idle_exit}; expected seconds, or 0 for never")
    folder = make_runtime_folder()
    end = time.monotonic() + START_TIMEOUT_S
    while True:
        with server_lock(folder) as locked:
            if locked:
                _run_server(config, folder, idle_exit, ready)
                return
        running = LocalServer.load(folder)
        if running is not None and running.alive:
            ready(running.url, False)
            return
        if time.monotonic() > end:
            raise BridgeError(
                f"another server holds {folder / 'server.lock'} but does not start; stop it"
            )
        time.sleep(POLL_S / 5)  # it is about to start, or to end


def _run_server(
    config: ServerConfig, folder: Path, idle_exit: float, ready: Callable[[str, bool], None]
) -> None:
    (folder / "server.json").unlink(missing_ok=True)  # left by a crash
    local = dataclasses.replace(
        config,
        host="127.0.0.1",
        port=0,
        token_file="",
        tokens=(secrets.token_urlsafe(24),),
        cert="",
        key="",
        origins=(),
        workers=1,
        reastream="",
    )
    with lines_to_stderr(config.log), _lines_to_file(log_folder()):
        try:
            asyncio.run(_serve(local, folder, idle_exit, ready))
        except StemwireError as error:
            log.error(str(error))  # a server started by a plugin has no standard error
            raise
        finally:
            (folder / "server.json").unlink(missing_ok=True)


async def _serve(
    config: ServerConfig, folder: Path, idle_exit: float, ready: Callable[[str, bool], None]
) -> None:
    def begin(server: Server) -> None:
        url = f"ws://{config.host}:{server.port}"
        LocalServer(url, config.tokens[0], os.getpid()).save(folder)
        if idle_exit:
            server.start_task(_end_when_idle(server, folder, idle_exit))
        ready(url, True)

    await run(Server(config), begin)


async def _end_when_idle(server: Server, folder: Path, seconds: float) -> None:
    last_used = time.monotonic()
    while (now := time.monotonic()) - last_used < seconds:
        if server.sessions:
            last_used = now
        await asyncio.sleep(min(POLL_S, seconds))
    log.info("idle, shutting down", extra={"seconds": seconds})
    (folder / "server.json").unlink(missing_ok=True)  # plugins that come now start another
    await server.drain()


@contextlib.contextmanager
def _lines_to_file(folder: Path) -> Iterator[None]:
    """Write log lines to `server.log` as well; the newest 1 to 2 MB are kept."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handler = logging.handlers.RotatingFileHandler(
            folder / "server.log", maxBytes=LOG_BYTES, backupCount=1, encoding="utf-8"
        )
    except OSError as error:
        raise OutputError(
            f"{error.filename}: the log cannot be written ({error.strerror}); set XDG_STATE_HOME "
            "to a folder of your own"
        ) from error
    handler.setFormatter(LineFormatter(as_json=False))
    logger = logging.getLogger("stemwire")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()
