"""Separators called as pedalboard's plugins are, on a server: bit-exact with local ones."""

# ruff: noqa: E402 - imports follow the checks for optional packages
from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

for package in ("pedalboard", "websockets", "msgspec"):
    pytest.importorskip(package)

import pedalboard
from support import ROOT, noise, read_audio, write_audio
from support.bridge_server import Running, config, running
from support.pedal_songs import RATE, SONG, in_pieces, offline

from stemwire.bridge.pedalboard.separator import Row, StemSeparator
from stemwire.errors import AudioError, BridgeError, ConfigError

TOKEN = "a token that is long enough"


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(config(tokens=(TOKEN,))) as found:
        yield found


def there(server: Running, stem: str = "instrumental", **settings: object) -> StemSeparator:
    settings = {"token": TOKEN, **settings}
    return StemSeparator("low", stem, url=server.direct, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("stem", ["vocals", "instrumental"])
def test_songs_and_pieces_are_those_of_the_offline_command(server: Running, stem: str) -> None:
    with there(server, stem) as separator:
        for rate, song in ((RATE, SONG), (48_000, SONG[:1]), (RATE, SONG)):
            expected = offline(song, rate, "low")[("vocals", "instrumental").index(stem)]
            np.testing.assert_array_equal(separator(song, rate), expected)
            out, tail = in_pieces(separator, song, [100, 900, 5_000, 14_000], rate)
            np.testing.assert_array_equal(np.concatenate((out, tail), 1), expected)
            separator(song[:, :999], rate, reset=False)  # left in the middle
        local = StemSeparator("low")
        local(SONG, RATE)
        assert separator.reported_latency_samples == local.reported_latency_samples
        assert server.direct in repr(separator)


def test_remixed_through_effects_in_a_row(server: Running) -> None:
    settings = {"vocals_db": -6, "effects": {"vocals": "HighpassFilter cutoff_frequency_hz=300"}}
    with there(server, "mix", **settings) as far:
        near = StemSeparator("low", "mix", **settings)  # type: ignore[arg-type]
        rows = [Row([pedalboard.Gain(-3), part, pedalboard.Delay(0.01)]) for part in (far, near)]
        np.testing.assert_array_equal(rows[0](SONG, RATE), rows[1](SONG, RATE))
        np.testing.assert_array_equal(
            *(np.concatenate(in_pieces(row, SONG, [700, 9_000, 10_300]), 1) for row in rows)
        )
        rows[0].close()


def test_several_at_once(server: Running) -> None:
    songs = [noise(6_000, 2, seed) for seed in range(3)]
    separators = [there(server) for _ in songs]
    parts: list[list[np.ndarray]] = [[] for _ in songs]
    for at in range(0, 6_000, 600):
        for separator, song, out in zip(separators, songs, parts, strict=True):
            out.append(separator(song[:, at : at + 600], RATE, reset=False))
    for separator, song, out in zip(separators, songs, parts, strict=True):
        expected = offline(song, preset="low")[1]
        np.testing.assert_array_equal(np.concatenate((*out, separator.flush()), 1), expected)
        separator.close()


def test_invalid_calls_never_reach_the_server(server: Running) -> None:
    with there(server) as separator:
        with pytest.raises(AudioError, match="sample 7"):
            separator(np.where(np.arange(100) == 7, np.nan, 0.0), RATE)
        for rate, song in ((1_000, SONG), (RATE, noise(100, 3))):
            with pytest.raises(ConfigError):
                separator(song, rate)
        np.testing.assert_array_equal(separator(SONG, RATE), offline(SONG, preset="low")[1])


def test_servers_that_refuse_or_are_not_there(server: Running) -> None:
    with pytest.raises(BridgeError, match="token"):
        there(server, token="a wrong token of some length")(SONG, RATE)
    with pytest.raises(ConfigError, match="nothing"):
        StemSeparator("nothing", url=server.direct, token=TOKEN)(SONG, RATE)
    separator = StemSeparator(url="ws://127.0.0.1:9")
    for _ in range(2):
        with pytest.raises(BridgeError, match=r"127\.0\.0\.1"):
            separator(SONG, RATE)
    with pytest.raises(ConfigError, match="token: only for a server"):
        StemSeparator(token=TOKEN)


def test_a_server_that_goes_away(server: Running) -> None:
    with running(config(drain=0.1)) as other:
        separator = StemSeparator("low", url=other.direct, patience=2.0)
        forgetful = StemSeparator("low", url=other.direct, patience=2.0)
        for each in (separator, forgetful):
            each(SONG, RATE, reset=False)
    for _ in range(2):  # the stream is lost, then there is no server
        with pytest.raises(BridgeError):
            separator(SONG, RATE, reset=False)
    assert separator.flush().shape == (2, 0)
    forgetful.reset()  # needs no server
    with pytest.raises(BridgeError):
        forgetful(SONG, RATE)


def test_the_script(tmp_path: Path) -> None:
    songs = tmp_path / "songs"
    songs.mkdir()
    write_audio(songs / "song.wav", SONG, RATE, "FLOAT")
    with running(config()) as server:
        command = [
            sys.executable,
            str(ROOT / "examples" / "batch_folder.py"),
            str(songs),
            str(tmp_path / "out"),
            "--stem",
            "vocals",
            "--url",
            server.direct,
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(read_audio(tmp_path / "out" / "song.wav"), offline(SONG)[0])
