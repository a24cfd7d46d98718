"""`stemwire plugin`: installed files, and the server that plugins find."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import ROOT, files_below
from support.plugin_places import (
    BINARY,
    NAME,
    call,
    error_line,
    keep_signals,
    make_bundle,
    mode,
    move_home,
    read,
    status,
)

import stemwire
from stemwire.bridge.plugin import bundle as plugin_files
from stemwire.bridge.plugin.bundle import copy_bundle, fingerprint, vst3_folder
from stemwire.bridge.plugin.settings import (
    NamedServer,
    PluginSettings,
    make_runtime_folder,
    runtime_folder,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the plugin is Linux's so far")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with keep_signals():
        yield move_home(tmp_path, monkeypatch)


@pytest.fixture
def carried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle that the installation carries."""
    monkeypatch.setattr(plugin_files, "_FOLDER", tmp_path / "carried")
    return make_bundle(tmp_path / "carried", b"carried")


@pytest.fixture
def nothing_carried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(plugin_files, "_FOLDER", tmp_path / "empty")
    return tmp_path / "empty"


def settings_file(home: Path) -> Path:
    return home / ".config/stemwire/plugin.json"


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
    error = error_line(capfd)
    assert "contains no plugin" in error and "--from" in error and "make plugin" in error
    assert (absent or "built without one") in error
    assert not (home / ".vst3").exists() and not settings_file(home).exists()
    with pytest.raises(stemwire.ConfigError, match="contains no plugin"):
        stemwire.plugin_bundle()


def test_bundles_that_cannot_be(
    home: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for wrong in (tmp_path / "none.vst3", tmp_path):
        assert call("install", "--from", wrong) == 2
        assert "not a VST3 bundle" in error_line(capfd)
    foreign = tmp_path / "Other.vst3"
    (foreign / "Contents/sparc-linux").mkdir(parents=True)
    assert call("install", "--from", foreign) == 2
    assert f"expected {BINARY}" in error_line(capfd)
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
    assert "the plugin cannot be copied there" in error_line(capfd)


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
        ("This computer", "ws://a:1", "is not a valid name"),
        ("-", "ws://a:1", "is not a valid name"),
        ("", "ws://a:1", "is not a valid name"),
        (" a", "ws://a:1", "is not a valid name"),
        ("a\nb", "ws://a:1", "is not a valid name"),
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
    assert words in error_line(capfd)
    assert not settings_file(home).exists()


def test_the_list_has_an_end(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    full = tuple(NamedServer(f"s{k}", "ws://a:1") for k in range(15))
    PluginSettings(servers=full).save(settings_file(home))
    assert call("server", "add", "one more", "ws://a:1") == 2
    assert "holds 15 servers" in error_line(capfd)
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
        error = error_line(capfd)
        assert "plugin.json: is damaged" in error and "correct or delete it" in error
    assert settings_file(home).read_bytes() == text.encode("latin-1")
    assert not (home / ".vst3").exists()
    assert "is damaged" in status(capfd)["settings"]["error"]


def test_settings_that_cannot_be_read(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    settings_file(home).mkdir(parents=True)
    assert call("server", "remove", "a") == 2
    assert "plugin.json: cannot be read (Is a directory)" in error_line(capfd)


# --- status


def test_status_of_nothing(
    home: Path, nothing_carried: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    found = status(capfd)
    assert found["plugin"]["installed"] == "" and "contains no plugin" in found["plugin"]["reason"]
    assert found["settings"]["file"] == str(settings_file(home))
    assert "command" not in found["settings"]
    (here,) = found["servers"]
    assert here["url"] == "ws://127.0.0.1:8765" and here["name"] == "This computer"
    assert call("status") == 0
    out = capfd.readouterr().out
    assert "not installed; run 'stemwire plugin install'" in out and "plugin.log" in out


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
    assert "not the version of this Stemwire" in out and "CANNOT BE RUN" in out


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
