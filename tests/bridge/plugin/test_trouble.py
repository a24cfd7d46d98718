"""The plugin's network thread when something is wrong, and this computer's server."""

# ruff: noqa: E402 - imports follow the skip where no plugin can be built
from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import TESTS
from support.bridge_server import config, running
from support.plugin_build import need_plugin

need_plugin()
pytest.importorskip("torch")

from support.plugin_client import (
    LIVE,
    RATE,
    SONG,
    Client,
    assert_exact,
    make_client,
    make_presets,
    separate_offline,
)
from websockets.sync.server import ServerConnection, serve

import stemwire

pytestmark = pytest.mark.slow  # building takes a while


@pytest.fixture(scope="module")
def presets(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return make_presets(tmp_path_factory.mktemp("presets"))


@pytest.fixture
def client(tmp_path: Path) -> Client:
    return make_client(tmp_path)


# --- errors are reported


def test_a_delay_that_is_too_small(client: Client, presets: tuple[str, str]) -> None:
    with running(config(presets=presets)) as server:
        played = client.run(server.url, pace=2, delay=5)
        rendered = client.run(server.url, delay=5, wait=30)
    assert played.code == "delay too small"
    latency = stemwire.load(presets[0], RATE, 2).latency
    assert f"{latency} samples" in played.text and "(220)" in played.text
    assert rendered.failed and rendered.code == "render failed"
    assert "longer delay" in rendered.text


def test_tokens(client: Client, presets: tuple[str, str]) -> None:
    with running(config(presets=presets, tokens=("s3cret-s3cret",))) as server:
        refused = client.run(server.url, token="wr0ng-wr0ng", wait=0.5)
        let_in = client.run(server.url, token="s3cret-s3cret")
    assert (refused.failed, refused.code) == (True, "token refused")
    assert "token" in refused.text
    assert (let_in.failed, let_in.code) == (False, "separating")
    for result in (refused, let_in):
        assert "s3cret-" not in result.log and "wr0ng-" not in result.log


def test_requests_that_a_server_refuses(client: Client, presets: tuple[str, str]) -> None:
    with running(config(presets=presets[:1])) as server:
        result = client.run(server.url, preset=1, wait=0.5)
        assert (result.failed, result.code) == (True, "server refuses")
        assert "'low' is not served" in result.text
        # A preset refused while playing changes nothing.
        result = client.run(server.url, then=1, at=RATE, **LIVE)
        assert result.code == "server refuses"
        assert_exact(
            result.stems[..., result.first_separated :],
            separate_offline(SONG[:, result.first_separated :], presets[0]),
            0.8,
        )


@pytest.mark.parametrize(
    ("url", "code", "says"),
    [
        ("wss://127.0.0.1:8765", "bad address", "no TLS"),
        ("http://127.0.0.1:8765", "bad address", "ws://HOST:PORT"),
        ("", "bad address", "no address"),
        ("ws://", "bad address", "no host"),
        ("ws://127.0.0.1:99999", "bad address", "port"),
        ("ws://127.0.0.1:x", "bad address", "port"),
        ("ws://me:secret@127.0.0.1", "bad address", "secrets do not belong"),
        ("ws://127.0.0.1 ", "bad address", "blanks"),
        ("ws://[::1", "bad address", "bracket"),
        ("ws://" + 2000 * "x", "bad address", "too long"),
        ("ws://127.0.0.1:1", "no server", "cannot be reached"),
        ("ws://localhost:1", "no server", "cannot be reached"),
        ("ws://[::1]:1", "no server", "cannot be reached"),
        ("ws://nobody.invalid:1", "no server", "nobody.invalid"),
    ],
)  # fmt: skip
def test_bad_addresses(client: Client, url: str, code: str, says: str) -> None:
    result = client.run(url, wait=0.5)
    assert (result.failed, result.code) == (True, code)
    assert says in result.text
    assert "secret" not in result.log.replace("secrets", "")
    assert result.closing < 0.2


WELCOME = {
    "type": "welcome",
    "version": 1,
    "session": "s",
    "key": 16 * "k",
    "latency": 0,
    "hop": 1,
    "limits": {"message": 1 << 20, "ahead": 88_200, "grace": 30, "idle": 60},
}


@contextlib.contextmanager
def speaking(work: Callable[[ServerConnection], None]) -> Iterator[str]:
    """Run a websocket server that does `work` on every connection."""

    def handle(connection: ServerConnection) -> None:
        with contextlib.suppress(Exception):
            connection.recv()
            work(connection)
            for _ in connection:
                pass

    server = serve(handle, "127.0.0.1", 0)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
    finally:
        server.shutdown()
        thread.join()


def welcoming(*data: str | bytes, **changes: Any) -> Callable[[ServerConnection], None]:
    def work(connection: ServerConnection) -> None:
        connection.send(json.dumps({**WELCOME, **changes}))
        for item in data:
            connection.send(item)

    return work


@pytest.mark.parametrize(
    ("work", "code", "says"),
    [
        (lambda c: c.send("hello there"), "server faulty", "not a valid message"),
        (lambda c: c.send(b"\x02" * 24), "server faulty", "before the welcome"),
        (lambda c: c.send("x" * 20_000), "server faulty", "too long"),
        (lambda c: c.send('{"type":"error","code":"version","text":"only 2"}'), "other version",
         "same version"),
        (lambda c: c.send('{"type":"error","code":"too_many","text":"full"}'), "server refuses",
         "full"),
        (lambda c: c.send('{"type":"error","code":"shutdown","text":"ends"}'), "no server", "ends"),
        (lambda c: c.send('{"type":"error","code":"moon","text":"phase"}'), "server faulty",
         "phase"),
        (welcoming(version=2), "other version", "version 2"),
        (welcoming(key="short"), "server faulty", "key"),
        (welcoming(position=7), "server faulty", "position 7"),
        (welcoming("{"), "server faulty", "not a valid message"),
        (welcoming(b"\x02" + bytes(23)), "separating", ""),  # stems of no samples are fine
        (welcoming(b"\x02" + bytes(24)), "server faulty", "bytes"),
        (welcoming(b"\x02\0\1\0" + bytes(20)), "server faulty", "stream 1"),
        (welcoming(b"\x02\0\0\0\1" + bytes(19)), "server faulty", "frame 1"),
        (welcoming(latency=2**53), "delay too small", "longer delay"),
        (lambda c: c.close(1000), "connecting", "closed"),
    ],
)  # fmt: skip
def test_servers_that_violate_the_protocol(
    client: Client, work: Callable[[ServerConnection], None], code: str, says: str
) -> None:
    with speaking(work) as url:
        result = client.run(url, SONG[:, : RATE // 2], pace=1)
    assert result.code == code, result.log
    assert says in result.text
    assert result.closing < 0.2


@pytest.mark.parametrize(
    ("answer", "code", "says"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "server faulty", "not a web server"),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "server faulty", "nothing there"),
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", "token refused", "token"),
        (b"HTTP/1.1 301 Moved\r\nLocation: ws://elsewhere\r\n\r\n", "server faulty", "elsewhere"),
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", "no server", "502"),
        (b"", "no server", "hung up"),
        (os.urandom(4096), "server faulty", ""),
    ],
)
def test_servers_of_other_kinds(client: Client, answer: bytes, code: str, says: str) -> None:
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.05)

        def answer_all() -> None:
            while not ended.is_set():
                with contextlib.suppress(OSError):
                    connection, _ = listener.accept()
                    with connection:
                        connection.recv(4096)
                        connection.sendall(answer)

        thread = threading.Thread(target=answer_all)
        thread.start()
        result = client.run(f"ws://127.0.0.1:{listener.getsockname()[1]}", pace=2)
        ended.set()
        thread.join()
    assert result.code == code, result.log
    assert says in result.text


def test_a_hanging_name_server_does_not_delay_closing(client: Client, tmp_path: Path) -> None:
    source, library = tmp_path / "slow.c", tmp_path / "slow.so"
    source.write_text(
        "#include <netdb.h>\n#include <unistd.h>\n"
        "int getaddrinfo(const char *n, const char *s, const struct addrinfo *h,"
        " struct addrinfo **r) { if (h && (h->ai_flags & AI_NUMERICHOST)) return EAI_NONAME;"
        " sleep(3); return EAI_AGAIN; }\n"
    )
    subprocess.run(["cc", "-shared", "-fPIC", source, "-o", library], check=True)
    client.environment["LD_PRELOAD"] = str(library)
    result = client.run("ws://studio:8765", SONG[:, :4096], pace=1)
    assert result.closing < 0.2


# --- this computer


def write_settings(client: Client, *command: str, **more: object) -> None:
    """Write the plugin's settings, `plugin.json`."""
    folder = Path(client.environment["XDG_CONFIG_HOME"]) / "stemwire"
    folder.mkdir(parents=True)
    (folder / "plugin.json").write_text(json.dumps({"command": command, **more}))


SERVER = """
import asyncio, json, os, sys
from pathlib import Path
folder = Path(os.environ["STEMWIRE_RUNTIME_DIR"])
folder.mkdir(parents=True, exist_ok=True)
about = {{"files": [os.readlink(f"/proc/self/fd/{{n}}") for n in range(3)],
         "more": [n for n in os.listdir("/proc/self/fd") if int(n) > 3],  # 3 lists them
         "session": os.getsid(0) == os.getpid(), "names": sorted(os.environ)}}
with open(folder / "starts", "a") as starts:
    print(json.dumps(about), file=starts)
sys.path.insert(0, {tests!r})
from support.bridge_server import config
from stemwire.bridge.server.server import Server

async def main():
    async with Server(config(presets={presets!r}, tokens=("t0ken-t0ken",))) as server:
        new = folder / "new"
        new.write_text(json.dumps({{"url": f"ws://127.0.0.1:{{server.port}}",
                                   "token": "t0ken-t0ken", "pid": os.getpid()}}))
        new.chmod(0o600)
        new.rename(folder / "server.json")
        while server.sessions or not (folder / "end").exists():
            await asyncio.sleep(0.1)
asyncio.run(main())
"""


def test_the_server_of_this_computer_is_started(
    client: Client, presets: tuple[str, str], tmp_path: Path
) -> None:
    script = tmp_path / "server.py"
    script.write_text(SERVER.format(tests=str(TESTS), presets=presets))
    write_settings(client, sys.executable, str(script))
    client.environment.update(PYTHONHOME="", LD_LIBRARY_PATH="/nowhere", OMP_NUM_THREADS="1")
    run = Path(client.environment["STEMWIRE_RUNTIME_DIR"])
    try:
        for _ in range(2):  # the second uses the first's
            result = client.run("local", wait=60)
            np.testing.assert_array_equal(result.stems, separate_offline(SONG, presets[0]))
            assert result.code == "separating"
        (started,) = (run / "starts").read_text().splitlines()
        about = json.loads(started)
        assert about["files"] == 3 * ["/dev/null"]
        assert about["more"] == [] and about["session"]
        for name in ("LD_LIBRARY_PATH", "LD_PRELOAD", "PYTHONHOME", "PYTHONPATH"):
            assert name not in about["names"]
        assert "HOME" in about["names"]
    finally:
        run.mkdir(exist_ok=True)
        (run / "end").touch()


@pytest.mark.parametrize(
    ("more", "options", "says"),
    [
        ({"command": ["/bin/false"]}, {}, "exit status 1"),
        ({"command": ["/no/such/program"]}, {}, "No such file"),
        ({"command": ["python"]}, {}, "no command"),
        ({"command": []}, {}, "no command"),
        ({"command": ["/bin/true"], "autostart": False}, {}, "autostart is off"),
        ({"command": ["/bin/true"]}, {"autostart": 0}, "turn Autostart on"),
        (None, {}, "stemwire plugin install"),
    ],
)
def test_reasons_not_to_start_a_server(
    client: Client, more: dict[str, Any] | None, options: dict[str, Any], says: str
) -> None:
    if more is not None:
        write_settings(client, **more) if "command" not in more else write_settings(
            client, *more["command"], **{k: v for k, v in more.items() if k != "command"}
        )
    result = client.run("local", wait=1.5, **options)
    assert (result.failed, result.code) == (True, "no server")
    assert says in result.text


@pytest.mark.parametrize("mode", [0o600, 0o666])
def test_files_that_others_can_write_are_ignored(
    client: Client, presets: tuple[str, str], mode: int
) -> None:
    folder = Path(client.environment["STEMWIRE_RUNTIME_DIR"])
    folder.mkdir()
    with running(config(presets=presets)) as server:
        file = folder / "server.json"
        file.write_text(json.dumps({"url": server.url, "token": ""}))
        file.chmod(mode)
        result = client.run("local", wait=1, autostart=0)
    assert result.failed == (mode == 0o666)


def test_another_users_server_is_ignored(client: Client, presets: tuple[str, str]) -> None:
    write_settings(client, "/bin/false")
    folder = Path(client.environment["STEMWIRE_RUNTIME_DIR"])
    folder.mkdir()
    with running(config(presets=presets, tokens=("theirs",))) as server:
        (folder / "server.json").write_text(json.dumps({"url": server.url, "token": "ours"}))
        result = client.run("local", wait=1)
    assert "token refused" in result.log
    assert "exit status 1" in result.text  # it tried to start its own


def test_the_environment_names_a_server(client: Client, presets: tuple[str, str]) -> None:
    with running(config(presets=presets, tokens=("t0ken",))) as server:
        client.environment["STEMWIRE_PLUGIN_SERVER"] = server.url
        client.environment["STEMWIRE_PLUGIN_TOKEN"] = "t0ken"
        result = client.run("local")
    assert (result.failed, result.code) == (False, "separating")
