"""`stemwire serve`: separate for other programs and machines, over the network."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stemwire.extras import BRIDGE, extra

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

FIELDS = (
    "host",
    "port",
    "token_file",
    "cert",
    "key",
    "origins",
    "backend",
    "presets",
    "threads",
    "batch",
    "load",
    "sessions",
    "grace",
    "idle",
    "drain",
    "workers",
    "log",
    "reastream",
    "reastream_name",
    "reastream_port",
    "reastream_vocals",
    "reastream_instrumental",
)


def add_parsers(commands: Commands, common: argparse.ArgumentParser) -> None:
    """Add `serve` to the `stemwire` command."""
    serve = commands.add_parser(
        "serve",
        parents=[common],
        help="separate for other programs, browsers and DAWs",
        description="Serve the bridge: a web page at http://HOST:PORT/, streams for programs at "
        "ws://HOST:PORT/stream, /healthz and /metrics. Listens on this machine only unless --host "
        "says otherwise; then give a --token-file, and --cert and --key. Every option can also be "
        "set in a TOML file (--config) under its name with _ for -, or in the environment as "
        "STEMWIRE_NAME; options override the environment, and the environment overrides the file. "
        "SIGTERM and Ctrl-C let streams end first; a second signal ends the server at once.",
    )
    add = serve.add_argument
    add("--config", type=Path, metavar="FILE", help="TOML file with settings")
    add("--host", help="address to listen on (127.0.0.1)")
    add("--port", type=int, help="port to listen on (8765)")
    add(
        "--token-file",
        metavar="FILE",
        help="file of tokens, one per line; clients need one of them (default: no token needed)",
    )
    add("--cert", metavar="FILE", help="certificate chain for TLS, PEM")
    add("--key", metavar="FILE", help="private key of the certificate, PEM")
    add(
        "--origin",
        dest="origins",
        action="append",
        metavar="URL",
        help="origin of web pages that may connect, besides the server's own; repeatable",
    )
    add("--backend", help="auto, native, onnx, torch or cuda (auto)")
    add(
        "--preset",
        dest="presets",
        action="append",
        metavar="PRESET",
        help="preset that clients may ask for; repeatable (standard and low)",
    )
    add(
        "--threads",
        type=int,
        help="number of threads that separate; 0 is one per core, or one for a GPU (0)",
    )
    add("--batch", type=int, help="maximum number of streams per step of the network (8)")
    add("--load", type=float, help="share of the machine that may be promised to streams (0.85)")
    add("--sessions", type=int, help="maximum number of sessions at a time (64)")
    add(
        "--grace",
        type=float,
        metavar="S",
        help="seconds that a session outlives its connection (30)",
    )
    add(
        "--idle",
        type=float,
        metavar="S",
        help="seconds without a message after which a connection is closed (60)",
    )
    add(
        "--drain",
        type=float,
        metavar="S",
        help="seconds that streams are given to end when the server shuts down (10)",
    )
    add("--workers", type=int, help="number of processes that share the port (1)")
    add("--log", choices=("text", "json"), help="format of the log on standard error (text)")
    group = serve.add_argument_group("ReaStream, which REAPER speaks")
    add = group.add_argument
    add(
        "--reastream",
        metavar="[HOST:]PORT",
        help="address to listen on for ReaStream (default: none)",
    )
    add("--reastream-name", metavar="ID", help="identifier of what is sent back (stemwire)")
    add(
        "--reastream-port",
        type=int,
        metavar="PORT",
        help="port at the sender's address to send it to (58710)",
    )
    add(
        "--reastream-vocals",
        type=float,
        metavar="DB",
        help="level of the vocals in it, dB (off)",
    )
    add(
        "--reastream-instrumental",
        type=float,
        metavar="DB",
        help="level of the instrumental in it, dB (0)",
    )
    serve.set_defaults(run=_serve)


def _serve(args: argparse.Namespace) -> int:
    extra("websockets", "serving", BRIDGE)
    extra("msgspec", "serving", BRIDGE)
    from stemwire.bridge.server.config import load_config
    from stemwire.bridge.server.processes import serve_forever
    from stemwire.realtime.backends import default_backend

    flags: dict[str, Any] = {name: getattr(args, name) for name in FIELDS}
    config = load_config(args.config, flags)
    scheme = "https" if config.cert else "http"
    open_to_all = config.host not in ("127.0.0.1", "::1", "localhost") and not config.all_tokens()

    def ready(port: int) -> None:
        host = f"[{config.host}]" if ":" in config.host else config.host
        steps = default_backend() if config.backend == "auto" else config.backend
        print(f"stemwire: serving at {scheme}://{host}:{port}/", file=sys.stderr, flush=True)
        print(f"stemwire: backend: {steps}", file=sys.stderr, flush=True)
        if config.reastream:
            at = "{}:{}".format(*config.reastream_address())
            print(f"stemwire: ReaStream at {at}", file=sys.stderr, flush=True)
        if open_to_all:
            text = "anyone who can reach this machine may use it; --token-file requires a token"
            print(f"stemwire: {text}", file=sys.stderr, flush=True)

    serve_forever(config, ready)
    return 0
