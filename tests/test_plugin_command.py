"""`stemwire plugin`: files in their places, and the server that plugins find."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, files_below, music
from plugin_places import BINARY, NAME, make_bundle, move_home

import stemwire
from stemwire.bridge import plugin_files
from stemwire.bridge.plugin_files import copy_bundle, fingerprint, vst3_folder
from stemwire.bridge.plugin_settings import (
    LocalServer,
    NamedServer,
    PluginSettings,
    make_runtime_folder,
    runtime_folder,
    the_only_one,
)
from stemwire.cli import main

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the plugin is Linux's so far")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    before = {name: signal.getsignal(name) for name in (signal.SIGTERM, signal.SIGHUP)}
    yield move_home(tmp_path, monkeypatch)
    for name, handler in before.items():
        signal.signal(name, handler)


@pytest.fixture
def carried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle that the installation carries."""
    monkeypatch.setattr(plugin_files, "_FOLDER", tmp_path / "carried")
    return make_bundle(tmp_path / "carried", b"carried")


@pytest.fixture
def nothing_carried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(plugin_files, "_FOLDER", tmp_path / "empty")
    return tmp_path / "empty"


def call(*args: Any) -> int:
    return main(["plugin", *map(str, args)])


def complaint(capfd: pytest.CaptureFixture[str]) -> str:
    err = capfd.readouterr().err
    assert err.startswith("stemwire: ") and err.count("\n") == 1, err
    return str(err)


def settings_file(home: Path) -> Path:
    return home / ".config/stemwire/plugin.json"


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def status(capfd: pytest.CaptureFixture[str]) -> Any:
    capfd.readouterr()
    assert call("status", "--json") == 0
    return json.loads(capfd.readouterr().out)


# --- install, uninstall


def test_install_puts_the_bundle_and_the_settings_in_their_places(
    home: Path, carried: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert call("install") == 0
    assert (home / ".vst3" / NAME / BINARY).read_bytes() == b"carried"
    assert mode(home / ".vst3" / NAME / BINARY) == 0o755
    written = read(settings_file(home))
    assert written["autostart"] is True and written["servers"] == []
    assert mode(settings_file(home)) == 0o600
    help_text = subprocess.run(
        [*written["command"], "--help"], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout  # in a folder with modules of its own: they must not be imported
    assert "--idle-exit" in help_text
    assert stemwire.plugin_bundle() == carried
    assert files_below(home / ".vst3") == [f"{NAME}/{BINARY}"]
    assert call("uninstall") == 0
    assert files_below(home / ".vst3") == [] and not settings_file(home).exists()
    assert call("uninstall") == 0
    assert "nothing was installed" in capfd.readouterr().out


def test_a_newer_bundle_replaces_the_older_while_it_is_mapped(home: Path, tmp_path: Path) -> None:
    first = make_bundle(tmp_path / "first", b"first", gone=b"old", kept=b"old")
    second = make_bundle(tmp_path / "second", b"second", kept=b"new", fresh=b"new")
    assert call("install", "--from", first) == 0
    installed = home / ".vst3" / NAME
    with (installed / BINARY).open("rb") as mapped:
        assert call("install", "--from", second) == 0
        assert mapped.read() == b"first"
    assert fingerprint(installed) == fingerprint(second) != fingerprint(first)
    assert files_below(home / ".vst3") == [f"{NAME}/{name}" for name in files_below(second)]


def test_a_link_to_a_build_is_replaced_not_followed(home: Path, tmp_path: Path) -> None:
    build = make_bundle(tmp_path / "build", b"build")
    (home / ".vst3").mkdir()
    (home / ".vst3" / NAME).symlink_to(build)
    assert call("install", "--from", make_bundle(tmp_path / "other", b"other")) == 0
    assert (build / BINARY).read_bytes() == b"build"
    assert (home / ".vst3" / NAME / BINARY).read_bytes() == b"other"


def test_what_no_other_may_see_in_between(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often a host looks, there is one whole binary."""
    bundles = [make_bundle(tmp_path / str(k), bytes([k]) * 100_000) for k in (1, 2)]
    target = tmp_path / "vst3" / NAME
    copy_bundle(bundles[0], target)
    seen = []
    replace = os.replace

    def looking(*args: Any) -> None:
        seen.append((target / BINARY).read_bytes())
        replace(*args)
        seen.append((target / BINARY).read_bytes())

    monkeypatch.setattr(os, "replace", looking)
    copy_bundle(bundles[1], target)
    assert [s[0] for s in seen] == [1, 2] and all(len(set(s)) == 1 for s in seen)


@pytest.mark.parametrize("absent", ["no cmake was found", None])
def test_nothing_carried(
    nothing_carried: Path, home: Path, capfd: pytest.CaptureFixture[str], absent: str | None
) -> None:
    if absent:
        nothing_carried.mkdir()
        (nothing_carried / "absent.txt").write_text(f"{absent}\n")
    assert call("install") == 2
    error = complaint(capfd)
    assert "carries no plugin" in error and "--from" in error and "make plugin" in error
    assert (absent or "made without one") in error
    assert not (home / ".vst3").exists() and not settings_file(home).exists()
    with pytest.raises(stemwire.ConfigError, match="carries no plugin"):
        stemwire.plugin_bundle()


def test_bundles_that_cannot_be(
    home: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for wrong in (tmp_path / "none.vst3", tmp_path):
        assert call("install", "--from", wrong) == 2
        assert "is no VST3 bundle" in complaint(capfd)
    foreign = tmp_path / "Other.vst3"
    (foreign / "Contents/sparc-linux").mkdir(parents=True)
    assert call("install", "--from", foreign) == 2
    assert f"expected {BINARY}" in complaint(capfd)
    good = make_bundle(tmp_path)
    assert call("install", "--from", good) == 0
    assert call("install", "--from", home / ".vst3" / NAME) == 2
    assert "give another" in capfd.readouterr().err
    assert (home / ".vst3" / NAME / BINARY).read_bytes() == b"one"


def test_a_folder_that_cannot_be_written_to(
    home: Path, carried: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (home / ".vst3").write_text("a file")
    assert call("install") == 2
    assert "the plugin cannot be copied there" in complaint(capfd)


@pytest.mark.parametrize(
    ("platform", "place"),
    [
        ("linux", ".vst3"),
        ("darwin", "Library/Audio/Plug-Ins/VST3"),
        ("win32", "AppData/Local/Programs/Common/VST3"),
    ],
)
def test_the_folder_of_each_platform(
    home: Path, monkeypatch: pytest.MonkeyPatch, platform: str, place: str
) -> None:
    monkeypatch.delenv("LOCALAPPDATA", raising=False)
    monkeypatch.setattr(sys, "platform", platform)
    assert vst3_folder() == home / place


# --- settings


def test_what_is_set_stays(home: Path, carried: Path, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("# studio\nsecret\n")
    assert call("install", "--no-autostart") == 0
    assert call("server", "add", "studio", "http://10.0.0.5:8765/", "--token-file", tokens) == 0
    assert call("server", "add", "loft", "ws://loft:9000") == 0
    values = read(settings_file(home))
    settings_file(home).write_text(json.dumps({**values, "later": [1]}))
    assert call("install") == 0
    assert call("server", "add", "loft", "ws://loft:9001") == 0  # replaces
    values = read(settings_file(home))
    assert values["autostart"] is False and values["later"] == [1]
    assert values["servers"] == [
        {"name": "studio", "url": "ws://10.0.0.5:8765", "token": "secret"},
        {"name": "loft", "url": "ws://loft:9001", "token": ""},
    ]
    assert mode(settings_file(home)) == 0o600
    assert call("server", "remove", "studio") == 0
    assert call("install", "--autostart") == 0
    values = read(settings_file(home))
    assert [s["name"] for s in values["servers"]] == ["loft"] and values["autostart"] is True


@pytest.mark.parametrize(
    ("name", "url", "words"),
    [
        ("This computer", "ws://a:1", "cannot be a name"),
        ("-", "ws://a:1", "cannot be a name"),
        ("", "ws://a:1", "cannot be a name"),
        (" a", "ws://a:1", "cannot be a name"),
        ("a\nb", "ws://a:1", "cannot be a name"),
        ("a" * 65, "ws://a:1", "1 to 64 characters"),
        ("a", "wss://a:1", "the plugin has no TLS"),
        ("a", "https://a:1", "the plugin has no TLS"),
        ("a", "a:1", "expected ws://HOST:PORT"),
    ],
)
def test_servers_that_cannot_be(
    home: Path, capfd: pytest.CaptureFixture[str], name: str, url: str, words: str
) -> None:
    assert call("server", "add", "--", name, url) == 2
    assert words in complaint(capfd)
    assert not settings_file(home).exists()


def test_the_list_has_an_end(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    full = tuple(NamedServer(f"s{k}", "ws://a:1") for k in range(15))
    PluginSettings(servers=full).save(settings_file(home))
    assert call("server", "add", "one more", "ws://a:1") == 2
    assert "holds 15 servers" in complaint(capfd)
    assert call("server", "add", "s3", "ws://b:1") == 0
    assert call("server", "remove", "s16") == 2
    assert "no server is called 's16'; there are: s0, s1" in capfd.readouterr().err


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "{", '{"command": "python"}', '{"command": [], "autostart": 1, "servers": []}',
        '{"command": [3], "autostart": true, "servers": []}',
        '{"command": [], "autostart": true, "servers": [{"name": "a", "url": "b"}]}',
        '{"command": [], "autostart": true, "servers": ["a"]}', "[" * 100_000, "\xff",
    ],
)  # fmt: skip
def test_damaged_settings_are_told_and_kept(
    home: Path, carried: Path, capfd: pytest.CaptureFixture[str], text: str
) -> None:
    settings_file(home).parent.mkdir(parents=True)
    settings_file(home).write_bytes(text.encode("latin-1"))
    for command in (["install"], ["server", "add", "a", "ws://a:1"], ["server", "remove", "a"]):
        assert call(*command) == 2
        error = complaint(capfd)
        assert "plugin.json: is damaged" in error and "correct or delete it" in error
    assert settings_file(home).read_bytes() == text.encode("latin-1")
    assert not (home / ".vst3").exists()
    assert "is damaged" in status(capfd)["settings"]["error"]


def test_settings_that_cannot_be_read(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    settings_file(home).mkdir(parents=True)
    assert call("server", "remove", "a") == 2
    assert "plugin.json: cannot be read (Is a directory)" in complaint(capfd)


# --- the runtime folder


def test_where_the_runtime_folder_is(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert runtime_folder() == home / "run/stemwire"
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert runtime_folder() == home / ".cache/stemwire/run"
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
    assert runtime_folder() == home / "cache/stemwire/run"
    monkeypatch.setenv("STEMWIRE_RUNTIME_DIR", str(home / "mine"))
    assert runtime_folder() == home / "mine"
    assert make_runtime_folder() == home / "mine" and mode(home / "mine") == 0o700


def test_a_folder_that_others_can_read_is_refused(
    home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    runtime_folder().mkdir(mode=0o755)
    assert call("serve") == 2
    error = complaint(capfd)
    assert "mode 755" in error and "chmod 700" in error
    assert files_below(runtime_folder()) == []


def test_a_lock_is_had_once(home: Path) -> None:
    folder = make_runtime_folder()
    with the_only_one(folder) as first, the_only_one(folder) as second:
        assert first and not second
    with the_only_one(folder) as again:
        assert again
    assert mode(folder / "server.lock") == 0o600


# --- the server


@contextlib.contextmanager
def serving(*args: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """The real command, once it says where it is."""
    command = [sys.executable, "-m", "stemwire.cli", "plugin", "serve", "--threads", "1", *args]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "STEMWIRE_LOAD": "100", "STEMWIRE_HOST": "0.0.0.0", **environment},
    )  # fmt: skip
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if line.startswith("stemwire: serving"):
                break
        else:
            pytest.fail(f"it ended with {process.wait()}")
        yield process
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def ended(process: subprocess.Popen[str], seconds: float = 30) -> int:
    assert process.stderr is not None
    process.stderr.read()
    return process.wait(seconds)


@pytest.mark.slow
def test_one_server_for_a_user(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    make_runtime_folder()
    LocalServer("ws://127.0.0.1:1", "old", 2**22 + 1).save(runtime_folder())  # left by a crash
    before = status(capfd)["servers"][0]
    assert not before["answers"] and "is gone" in before["error"]

    with serving() as process:
        file = runtime_folder() / "server.json"
        found = read(file)
        assert mode(file) == 0o600 and found["pid"] == process.pid
        assert found["url"].startswith("ws://127.0.0.1:") and len(found["token"]) >= 32
        song = music(30_000, 44_100)
        with stemwire.connect(found["url"], token=found["token"]) as separator:
            stems = separator.flush(song)
        np.testing.assert_array_equal(stems, stemwire.load().flush(song))
        for token in ("", "old"):
            with pytest.raises(stemwire.BridgeError, match="does not let us in"):
                stemwire.connect(found["url"], token=token)

        start = time.monotonic()
        assert call("serve") == 0  # a second one
        assert time.monotonic() - start < 5
        assert f"served already, at {found['url']}" in complaint(capfd)
        assert read(file) == found

        here = status(capfd)["servers"][0]
        assert here["answers"] and here["latency"] == 1023 and here["from"] == str(file)
        assert here["has_token"] and found["token"] not in json.dumps(here)
        assert call("status") == 0
        assert "1023 samples of delay" in capfd.readouterr().out

        process.send_signal(signal.SIGTERM)
        assert ended(process) == 0
        assert not file.exists()
    log = home / ".local/state/stemwire/server.log"
    assert "listening" in log.read_text() and found["token"] not in log.read_text()


@pytest.mark.slow
def test_of_several_started_at_once_one_stays(home: Path) -> None:
    command = [sys.executable, "-m", "stemwire.cli", "plugin", "serve", "--threads", "1"]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    try:
        deadline = time.monotonic() + 60
        while sum(p.poll() is None for p in processes) > 1 and time.monotonic() < deadline:
            time.sleep(0.05)
        (first,) = [p for p in processes if p.poll() is None]
        found = LocalServer.load(runtime_folder())
        assert found is not None and found.pid == first.pid
        for other in processes:
            if other is not first:
                out = other.communicate()[1]
                assert other.returncode == 0 and f"served already, at {found.url}" in out
    finally:
        for process in processes:
            if process.returncode is None:
                process.kill()
                process.communicate()


@pytest.mark.slow
def test_it_ends_when_nobody_needs_it(home: Path) -> None:
    with serving("--idle-exit", "1") as process:
        found = LocalServer.load(runtime_folder())
        assert found is not None and found.alive
        with stemwire.connect(found.url, token=found.token):
            time.sleep(2.5)
            assert process.poll() is None  # it is needed
        start = time.monotonic()
        assert ended(process) == 0
        assert time.monotonic() - start > 0.5
        assert LocalServer.load(runtime_folder()) is None and not found.alive


@pytest.mark.slow
def test_a_crash_leaves_nothing_that_hinders(home: Path) -> None:
    with serving() as process:
        process.send_signal(signal.SIGKILL)
        ended(process)
        left = LocalServer.load(runtime_folder())
        assert left is not None and not left.alive
    with serving():
        now = LocalServer.load(runtime_folder())
        assert now is not None and now.alive and now.token != left.token


def test_a_server_that_cannot_begin_says_so_in_its_log(
    home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert call("serve", "--preset", "nosuch") == 2
    assert "nosuch" in capfd.readouterr().err
    assert "nosuch" in (home / ".local/state/stemwire/server.log").read_text()
    assert not (runtime_folder() / "server.json").exists()
    for wrong in ("-1", "nan", "inf"):
        assert call("serve", f"--idle-exit={wrong}") == 2
        assert "idle_exit" in capfd.readouterr().err


# --- status


def test_status_of_nothing(
    home: Path, nothing_carried: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    found = status(capfd)
    assert found["plugin"]["installed"] == "" and "carries no plugin" in found["plugin"]["reason"]
    assert found["settings"]["file"] == str(settings_file(home))
    assert "command" not in found["settings"]
    (here,) = found["servers"]
    assert here["url"] == "ws://127.0.0.1:8765" and here["name"] == "This computer"
    assert call("status") == 0
    out = capfd.readouterr().out
    assert "not installed; 'stemwire plugin install' does it" in out and "plugin.log" in out


def test_status_of_what_is_installed(
    home: Path, carried: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert call("install") == 0
    assert call("server", "add", "away", "ws://127.0.0.1:1") == 0
    found = status(capfd)
    assert found["plugin"]["current"] and found["settings"]["command_works"]
    assert [s["name"] for s in found["servers"]] == ["This computer", "away"]
    assert "cannot be reached" in found["servers"][1]["error"]
    assert call("install", "--from", make_bundle(tmp_path / "own", b"own")) == 0
    values = read(settings_file(home))
    values["command"][0] = "/nowhere/python"
    settings_file(home).write_text(json.dumps(values))
    found = status(capfd)
    assert not found["plugin"]["current"] and not found["settings"]["command_works"]
    assert call("status") == 0
    out = capfd.readouterr().out
    assert "another than this Stemwire carries" in out and "CANNOT BE RUN" in out


def test_status_asks_where_the_plugin_asks(
    home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    make_runtime_folder()
    (runtime_folder() / "server.json").write_text("{}")
    here = status(capfd)["servers"][0]
    assert "server.json: is damaged (url is None)" in here["error"] and not here["answers"]
    monkeypatch.setenv("STEMWIRE_PLUGIN_SERVER", "ws://127.0.0.1:1")
    monkeypatch.setenv("STEMWIRE_PLUGIN_TOKEN", "secret")
    here = status(capfd)["servers"][0]
    assert here["url"] == "ws://127.0.0.1:1" and here["has_token"]
    assert here["from"] == "STEMWIRE_PLUGIN_SERVER" and "cannot be reached" in here["error"]
