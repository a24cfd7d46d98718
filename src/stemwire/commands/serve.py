"""`stemwire serve`: separate for others, over the network."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stemwire.extras import BRIDGE, extra

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

FIELDS = ("host", "port", "token_file", "cert", "key", "origins", "backend", "presets", "threads",
          "batch", "load", "sessions", "grace", "idle", "drain", "workers", "log", "reastream",
          "reastream_name", "reastream_port", "reastream_vocals",
          "reastream_instrumental")  # fmt: skip


def add_parsers(commands: Commands, common: argparse.ArgumentParser) -> None:
    """Add `serve` to the `stemwire` command."""
    serve = commands.add_parser(
        "serve", parents=[common], help="separate for other programs, browsers and DAWs",
        description="Serve the bridge: a web page at http://HOST:PORT/, streams for programs at "
        "ws://HOST:PORT/stream, /healthz and /metrics. Listens on this machine alone unless --host "
        "says otherwise; then give a --token-file, and --cert and --key. Every option can also "
        "stand in a TOML file (--config) under its name with _ for -, or in the environment as "
        "STEMWIRE_NAME; options win over the environment, and that over the file. SIGTERM and "
        "Ctrl-C let streams end first; a second one does not.",
    )  # fmt: skip
    serve.add_argument("--config", type=Path, metavar="FILE", help="TOML file")
    serve.add_argument("--host", help="address to listen on (127.0.0.1)")
    serve.add_argument("--port", type=int, help="(8765)")
    serve.add_argument(
        "--token-file",
        metavar="FILE",
        help="tokens, one per line, of which clients need one (none: all may)",
    )
    serve.add_argument("--cert", metavar="FILE", help="certificate chain for TLS, PEM")
    serve.add_argument("--key", metavar="FILE", help="its private key, PEM")
    serve.add_argument(
        "--origin",
        dest="origins",
        action="append",
        metavar="URL",
        help="web pages that may connect besides the server's own; repeatable",
    )
    serve.add_argument("--backend", help="auto, native, onnx, torch or cuda (auto)")
    serve.add_argument(
        "--preset",
        dest="presets",
        action="append",
        metavar="PRESET",
        help="that clients may ask for; repeatable (standard and low)",
    )
    serve.add_argument(
        "--threads", type=int, help="that separate; 0 is one per core, one for a GPU (0)"
    )
    serve.add_argument(
        "--batch", type=int, help="streams that take a step together at most; 1 is each alone"
    )
    serve.add_argument(
        "--load", type=float, help="share of the machine that may be promised to streams (0.85)"
    )
    serve.add_argument("--sessions", type=int, help="at a time at most (64)")
    serve.add_argument(
        "--grace",
        type=float,
        metavar="S",
        help="seconds that a session outlives its connection (30)",
    )
    serve.add_argument(
        "--idle",
        type=float,
        metavar="S",
        help="seconds of silence after which a connection is closed (60)",
    )
    serve.add_argument(
        "--drain",
        type=float,
        metavar="S",
        help="seconds that streams have to end when the server is to (10)",
    )
    serve.add_argument("--workers", type=int, help="processes that share the port (1)")
    serve.add_argument("--log", choices=("text", "json"), help="lines on standard error (text)")
    rea = serve.add_argument_group("ReaStream, which REAPER speaks")
    rea.add_argument(
        "--reastream", metavar="[HOST:]PORT", help="where it is listened for (nowhere)"
    )
    rea.add_argument("--reastream-name", metavar="ID", help="of what is sent back (stemwire)")
    rea.add_argument("--reastream-port", type=int, metavar="PORT",
                     help="where it is sent, at the sender's address (58710)")  # fmt: skip
    rea.add_argument("--reastream-vocals", type=float, metavar="DB", help="level in it (off)")
    rea.add_argument("--reastream-instrumental", type=float, metavar="DB", help="likewise (0)")
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
        print(f"stemwire: steps by backend {steps}", file=sys.stderr, flush=True)
        if config.reastream:
            at = "{}:{}".format(*config.reastream_address())
            print(f"stemwire: ReaStream at {at}", file=sys.stderr, flush=True)
        if open_to_all:
            print(
                "stemwire: anybody who reaches this machine may use it; --token-file asks for a "
                "token", file=sys.stderr, flush=True,
            )  # fmt: skip

    serve_forever(config, ready)
    return 0
