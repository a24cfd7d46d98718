"""Two files shared by the DAW plugin, `stemwire plugin` and the user's own server.

    plugin.json   how to start a server, and servers by name; written by `stemwire plugin`
    server.json   address, token and process of the user's server, while it runs

Only their user can read them.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stemwire.errors import BridgeError, ConfigError, OutputError
from stemwire.files import atomic_write_text

SERVERS = 15  # maximum of named servers: the plugin's list has 16 slots, one for this computer
NAME_LETTERS = 64  # maximum length of a server's name
RESERVED = ("This computer", "-")  # names of the plugin's first slot and of an empty one


# --- paths


def _xdg_folder(variable: str, default: str) -> Path:
    """A base folder of the XDG specification."""
    chosen = os.environ.get(variable)
    return Path(chosen) if chosen else Path.home() / default


def config_file() -> Path:
    """Path of `plugin.json`."""
    return _xdg_folder("XDG_CONFIG_HOME", ".config") / "stemwire" / "plugin.json"


def log_folder() -> Path:
    """Folder of `plugin.log` and `server.log`."""
    return _xdg_folder("XDG_STATE_HOME", ".local/state") / "stemwire"


def runtime_folder() -> Path:
    """Folder of `server.json`: `STEMWIRE_RUNTIME_DIR`, or one of this user and login."""
    if chosen := os.environ.get("STEMWIRE_RUNTIME_DIR"):
        return Path(chosen)
    if login := os.environ.get("XDG_RUNTIME_DIR"):
        return Path(login) / "stemwire"
    return _xdg_folder("XDG_CACHE_HOME", ".cache") / "stemwire" / "run"


# --- private files


def write_private(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON file atomically, readable by this user only.

    Raises:
        OutputError: if it cannot be written.
    """
    try:
        text = json.dumps(values, indent=2, ensure_ascii=False) + "\n"
        atomic_write_text(path, text, private=True)
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be written ({error.strerror}); check the folder's permissions"
        ) from error


def _read_object(path: Path, remedy: str) -> dict[str, Any] | None:
    """Object in a JSON file; None if there is no file."""
    try:
        values = json.loads(path.read_bytes().decode())
        if not isinstance(values, dict):
            raise ValueError(f"it holds a {type(values).__name__}, not an object")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); {remedy}") from error
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, not an object
        raise ConfigError(f"{path}: is damaged ({error}); {remedy}") from error
    return values


def _typed(path: Path, values: Mapping[str, Any], name: str, kind: type, remedy: str) -> Any:
    value = values.get(name)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ConfigError(f"{path}: is damaged ({name} is {value!r}); {remedy}")
    return value


# --- plugin.json


@dataclass(frozen=True)
class NamedServer:
    """A server that the plugin offers by name.

    Attributes:
        name: name in the plugin's list.
        url: address, `ws://HOST:PORT`.
        token: token that the server requires, "" for none.
    """

    name: str
    url: str
    token: str = ""


@dataclass(frozen=True)
class PluginSettings:
    """Contents of `plugin.json`.

    Attributes:
        command: command line with which plugins start the user's server.
        autostart: whether plugins may start it; false forbids it to all of them.
        servers: named servers, in the plugin's order.
        unknown: fields of a newer version, kept unchanged.
    """

    command: tuple[str, ...] = ()
    autostart: bool = True
    servers: tuple[NamedServer, ...] = ()
    unknown: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> PluginSettings | None:
        """Read the file; None if there is none.

        Raises:
            ConfigError: if the file cannot be read, or is damaged.
        """
        remedy = "correct or delete it, then run 'stemwire plugin install'"
        values = _read_object(path, remedy)
        if values is None:
            return None
        command = _typed(path, values, "command", list, remedy)
        autostart = _typed(path, values, "autostart", bool, remedy)
        servers = []
        for entry in _typed(path, values, "servers", list, remedy):
            entry = entry if isinstance(entry, dict) else {}
            keys = ("name", "url", "token")
            servers.append(NamedServer(*(_typed(path, entry, key, str, remedy) for key in keys)))
        if not all(isinstance(word, str) for word in command):
            raise ConfigError(f"{path}: is damaged (command is {command!r}); {remedy}")
        known = ("command", "autostart", "servers")
        more = {key: value for key, value in values.items() if key not in known}
        return cls(tuple(command), autostart, tuple(servers), more)

    def save(self, path: Path) -> None:
        """Write the file.

        Raises:
            OutputError: if it cannot be written.
        """
        servers = [vars(server) for server in self.servers]
        values = {"command": self.command, "autostart": self.autostart, "servers": servers}
        write_private(path, {**self.unknown, **values})


# --- server.json


@dataclass(frozen=True)
class LocalServer:
    """Address and process of the user's own server.

    Attributes:
        url: address of the server, on loopback.
        token: token that it requires.
        pid: id of its process.
    """

    url: str
    token: str
    pid: int

    @classmethod
    def load(cls, folder: Path) -> LocalServer | None:
        """Read `server.json`; None if there is none.

        Raises:
            ConfigError: if it cannot be read, or is damaged.
        """
        path, remedy = folder / "server.json", "delete it; the next server writes a new one"
        values = _read_object(path, remedy)
        if values is None:
            return None
        return cls(
            url=_typed(path, values, "url", str, remedy),
            token=_typed(path, values, "token", str, remedy),
            pid=_typed(path, values, "pid", int, remedy),
        )

    def save(self, folder: Path) -> None:
        """Write `server.json`."""
        write_private(folder / "server.json", vars(self))

    @property
    def alive(self) -> bool:
        """Whether its process exists; if not, the file was left by a crash."""
        if self.pid <= 0:
            return False
        try:
            os.kill(self.pid, 0)  # signal 0 only tests on systems with `server_lock`
        except (OSError, OverflowError):  # no process, or another user's
            return False
        return True


def make_runtime_folder() -> Path:
    """Create the runtime folder if needed, closed to all other users, and return its path.

    Raises:
        BridgeError: if it is another user's, open to others, or cannot be created.
    """
    folder = runtime_folder()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        state = folder.stat()
    except OSError as error:
        raise BridgeError(
            f"{folder}: cannot be created ({error.strerror}); set STEMWIRE_RUNTIME_DIR to a folder "
            "of your own"
        ) from error
    if hasattr(os, "getuid") and (state.st_uid != os.getuid() or state.st_mode & 0o077):
        raise BridgeError(
            f"{folder}: belongs to user {state.st_uid} with mode {stat.S_IMODE(state.st_mode):o}; "
            f"only you may read the token in it: chmod 700 it, or set STEMWIRE_RUNTIME_DIR"
        )
    return folder


@contextlib.contextmanager
def server_lock(folder: Path) -> Iterator[bool]:
    """Hold `server.lock`, if it is free; yields whether it is held. It ends with the process.

    Raises:
        BridgeError: on systems without such locks.
    """
    try:
        import fcntl
    except ImportError as error:
        raise BridgeError(
            "one server per user is not supported on this system yet; run 'stemwire serve' and "
            "name it with 'stemwire plugin server add'"
        ) from error
    try:
        handle = os.open(folder / "server.lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise BridgeError(f"{error.filename}: cannot be opened ({error.strerror})") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
    else:
        yield True
    finally:
        os.close(handle)
