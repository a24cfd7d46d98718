"""Settings of a server, from a TOML file, the environment and the command line."""

from __future__ import annotations

import dataclasses
import os
import ssl
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stemwire.errors import ConfigError

PREFIX = "STEMWIRE_"
EFFECTS = {"room": "Reverb room_size=0.4 wet_level=0.2 dry_level=0.8 width=1.0"}


@dataclass(frozen=True)
class ServerConfig:
    """Settings of `stemwire serve`.

    Attributes:
        host: address to listen on; the loopback interface by default.
        port: port to listen on; 0 picks a free one.
        token_file: file with one token per line, one of which clients need; "" needs none.
        tokens: further tokens, given directly.
        cert: certificate chain for TLS (PEM), "" for none.
        key: private key of the certificate (PEM).
        origins: origins of web pages that may connect besides the server's own, e.g.
            "https://example.org".
        backend: name of the backend, as for `stemwire.load`.
        presets: names or folders of the presets that clients may ask for.
        effects: effects chains as text for `parse_chain`, by the name that clients ask for.
        threads: number of threads that separate; 0 is one per core, with `cuda` one.
        batch: maximum number of streams whose steps run together; 1 runs each alone.
        load: share of the threads' time that may be promised to streams; beyond 1 all are late.
        sessions: maximum number of sessions at a time, however much room there is.
        message_bytes: maximum size of a message in bytes.
        ahead: seconds of mixture that a client may be ahead of its stems.
        grace: seconds for which a session outlives its connection.
        idle: seconds without a message after which a connection is closed.
        drain: seconds that streams are given to end when the server shuts down.
        workers: number of processes that share the port.
        log: "text" or "json", the format of the log on standard error.
        reastream: "[HOST:]PORT" to listen on for ReaStream (see `reastream`), "" for none.
        reastream_name: identifier of what is sent back.
        reastream_port: port at the sender's address to send it to; by default ReaStream's own.
        reastream_vocals: level of the vocals in it, dB; -200 is off.
        reastream_instrumental: level of the instrumental in it, dB; -200 is off.
    """

    host: str = "127.0.0.1"
    port: int = 8765
    token_file: str = ""
    tokens: tuple[str, ...] = ()
    cert: str = ""
    key: str = ""
    origins: tuple[str, ...] = ()
    backend: str = "auto"
    presets: tuple[str, ...] = ("standard", "low")
    effects: Mapping[str, str] = field(default_factory=lambda: dict(EFFECTS))
    threads: int = 0
    batch: int = 8
    load: float = 0.85
    sessions: int = 64
    message_bytes: int = 1 << 20
    ahead: float = 2.0
    grace: float = 30.0
    idle: float = 60.0
    drain: float = 10.0
    workers: int = 1
    log: str = "text"
    reastream: str = ""
    reastream_name: str = "stemwire"
    reastream_port: int = 58_710
    reastream_vocals: float = -200.0
    reastream_instrumental: float = 0.0

    def __post_init__(self) -> None:
        lows = {
            "port": 0,
            "threads": 0,
            "batch": 1,
            "load": 0,
            "sessions": 1,
            "message_bytes": 4096,
            "ahead": 0.1,
            "grace": 0,
            "idle": 1,
            "drain": 0,
            "workers": 1,
            "reastream_port": 1,
            "reastream_vocals": -200,
            "reastream_instrumental": -200,
        }
        highs = {
            "port": 65_535,
            "message_bytes": 1 << 26,
            "ahead": 60,
            "workers": 64,
            "reastream_port": 65_535,
            "reastream_vocals": 24,
            "reastream_instrumental": 24,
        }
        for name, low in lows.items():
            value = getattr(self, name)
            if not low <= value <= highs.get(name, float("inf")):
                most = f" to {highs[name]}" if name in highs else " or more"
                raise ConfigError(f"{name} is {value}; expected {low}{most}")
        if bool(self.cert) != bool(self.key):
            raise ConfigError("TLS needs both: give --cert and --key")
        if self.log not in ("text", "json"):
            raise ConfigError(f"log is {self.log!r}; expected 'text' or 'json'")
        if not self.presets:
            raise ConfigError("presets is empty; give at least one")
        if self.reastream:
            self.reastream_address()
            if self.workers > 1:
                raise ConfigError("ReaStream's packets go to one process; use --workers 1")
        if not 1 <= len(self.reastream_name.encode()) <= 31:
            raise ConfigError(f"reastream_name is {self.reastream_name!r}; expected 1 to 31 bytes")

    def reastream_address(self) -> tuple[str, int]:
        """Host and port of `reastream`.

        Raises:
            ConfigError: if it is not an address.
        """
        host, _, port = self.reastream.rpartition(":")
        if not port.isascii() or not port.isdigit() or int(port) > 65_535:
            raise ConfigError(f"reastream is {self.reastream!r}; expected [HOST:]PORT")
        return host.strip("[]") or "127.0.0.1", int(port)

    def all_tokens(self) -> tuple[str, ...]:
        """Tokens that let a client in; if there are none, all clients are let in.

        Raises:
            ConfigError: if the file cannot be read, or holds no token.
        """
        return (*self.tokens, *(read_tokens(self.token_file) if self.token_file else ()))

    def tls_context(self) -> ssl.SSLContext | None:
        """TLS context with the certificate and key, or None without them.

        Raises:
            ConfigError: if they cannot be loaded.
        """
        if not self.cert:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(self.cert, self.key)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"{self.cert}, {self.key}: not a certificate and its key ({error}); "
                "expected PEM files"
            ) from error
        return context


def read_tokens(file: str | Path) -> tuple[str, ...]:
    """Tokens of a file, one per line; blank lines and lines that begin with `#` are skipped.

    Raises:
        ConfigError: if it cannot be read, or holds no token.
    """
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: tokens cannot be read ({error}); check the path") from error
    tokens = tuple(s for line in lines if (s := line.strip()) and not s.startswith("#"))
    if not tokens:
        raise ConfigError(f"{file}: contains no token; write one per line")
    return tokens


def load_config(
    file: str | Path | None,
    flags: Mapping[str, Any],
    environment: Mapping[str, str] = os.environ,
) -> ServerConfig:
    """Settings from flags, environment (`STEMWIRE_PORT`, …) and a TOML file, in that order.

    Args:
        file: TOML file with fields of `ServerConfig`, or None.
        flags: values by field; None counts as not given.
        environment: environment variables; lists are separated by commas.

    Raises:
        ConfigError: for settings that are unknown, unreadable or out of range.
    """
    fields = {f.name: f for f in dataclasses.fields(ServerConfig)}
    values: dict[str, Any] = {}
    if file is not None:
        try:
            values = tomllib.loads(Path(file).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(f"{file}: cannot be read ({error}); expected TOML") from error
        if unknown := sorted(set(values) - set(fields)):
            raise ConfigError(
                f"{file}: {', '.join(unknown)} is unknown; expected some of {', '.join(fields)}"
            )
    for name in fields:
        text = environment.get(PREFIX + name.upper())
        if text is not None and name != "effects":
            values[name] = text
    values |= {name: value for name, value in flags.items() if value is not None}
    defaults = ServerConfig()
    return ServerConfig(**{n: _typed(n, v, getattr(defaults, n)) for n, v in values.items()})


def _typed(name: str, value: Any, like: Any) -> Any:
    """A value, converted to the type of its field's default."""
    try:
        if isinstance(like, tuple):
            items = value.split(",") if isinstance(value, str) else list(value)
            return tuple(str(item).strip() for item in items if str(item).strip())
        if isinstance(like, dict):
            return {str(key): str(text) for key, text in dict(value).items()}
        if isinstance(value, bool):
            raise ValueError("true and false are not numbers")
        return type(like)(value)
    except (TypeError, ValueError) as error:
        kind = type(like).__name__
        raise ConfigError(f"{name} is {value!r}; expected {kind} ({error})") from error
