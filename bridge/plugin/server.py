"""The user's own server, which DAW plugins find and start: one per user, on loopback, with a token.

It is a `Server` as any other. What is its own is that it picks a free port and a token, writes both
where this user's plugins look for them once it listens, and ends when nobody has needed it for a
while.
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
    the_only_one,
)
from stemwire.bridge.server.config import ServerConfig
from stemwire.bridge.server.log import LineFormatter, lines_to_stderr
from stemwire.bridge.server.processes import run
from stemwire.bridge.server.server import Server
from stemwire.errors import BridgeError, ConfigError, OutputError, StemwireError

LOOK_S = 0.25  # between looks for sessions
BEGIN_S = 30.0  # that another server may take to begin
LOG_BYTES = 1_000_000
log = logging.getLogger("stemwire.server")


def serve_plugins(
    config: ServerConfig, idle_exit: float, ready: Callable[[str, bool], None]
) -> None:
    """Serve this user's plugins; return when nobody needed it for a while, or at a signal.

    If another server does that already, return at once.

    Args:
        config: of the server; where it listens and who may come in is not taken from it.
        idle_exit: seconds without a session after which it ends; 0 is never.
        ready: called with the server's URL, and whether it is this one.

    Raises:
        ConfigError: for settings that cannot work.
        BridgeError: if the runtime folder cannot be used, or nothing be listened on.
        OutputError: if the log cannot be written.
    """
    if not 0 <= idle_exit < float("inf"):
        raise ConfigError(f"idle_exit is {idle_exit}; expected seconds, or 0 for never")
    folder = make_runtime_folder()
    end = time.monotonic() + BEGIN_S
    while True:
        with the_only_one(folder) as we_are:
            if we_are:
                _be_it(config, folder, idle_exit, ready)
                return
        found = LocalServer.load(folder)
        if found is not None and found.alive:
            ready(found.url, False)
            return
        if time.monotonic() > end:
            raise BridgeError(
                f"another server holds {folder / 'server.lock'} and does not begin; end it"
            )
        time.sleep(LOOK_S / 5)  # it is about to begin, or to end


def _be_it(
    config: ServerConfig, folder: Path, idle_exit: float, ready: Callable[[str, bool], None]
) -> None:
    (folder / "server.json").unlink(missing_ok=True)  # left by a crash
    ours = dataclasses.replace(
        config, host="127.0.0.1", port=0, token_file="", tokens=(secrets.token_urlsafe(24),),
        cert="", key="", origins=(), workers=1, reastream="",
    )  # fmt: skip
    with lines_to_stderr(config.log), _lines_to_file(log_folder()):
        try:
            asyncio.run(_serve(ours, folder, idle_exit, ready))
        except StemwireError as error:
            log.error(str(error))  # standard error goes nowhere when a plugin has started us
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
    needed = time.monotonic()
    while (now := time.monotonic()) - needed < seconds:
        if server.sessions:
            needed = now
        await asyncio.sleep(min(LOOK_S, seconds))
    log.info("nobody needs it", extra={"seconds": seconds})
    (folder / "server.json").unlink(missing_ok=True)  # whoever comes now starts another
    await server.drain()


@contextlib.contextmanager
def _lines_to_file(folder: Path) -> Iterator[None]:
    """Write the lines to `server.log` too, meanwhile; the newest megabyte or two are kept."""
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
