"""The plugin's network thread against real servers and bad networks: every sample is right."""

# ruff: noqa: E402 - nothing is imported where no plugin can be built
from __future__ import annotations

import socket
import time
from pathlib import Path

import numpy as np
import pytest
from support import music
from support.bridge_server import config, running
from support.plugin_build import need_plugin

need_plugin()
pytest.importorskip("torch")

from support.plugin_client import (
    LIVE,
    RATE,
    SONG,
    Client,
    aligned,
    assert_there,
    make_client,
    make_presets,
    offline,
)

pytestmark = pytest.mark.slow  # building takes a while


@pytest.fixture(scope="module")
def presets(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return make_presets(tmp_path_factory.mktemp("presets"))


@pytest.fixture
def client(tmp_path: Path) -> Client:
    return make_client(tmp_path)


# --- offline: all of it, to the bit


@pytest.mark.parametrize(
    ("rate", "channels", "block"), [(44_100, 2, 512), (48_000, 1, 32), (96_000, 2, 8192)]
)
def test_a_render_is_the_offline_command_s(
    client: Client, presets: tuple[str, str], rate: int, channels: int, block: int
) -> None:
    audio = music(rate, rate)[:channels]
    with running(config(presets=presets)) as server:
        ran = client.run(server.url, audio, rate=rate, block=block)
        assert not server.do(lambda: server.server.sessions)  # it said goodbye
    np.testing.assert_array_equal(ran.stems, offline(audio, presets[0], rate))
    assert (ran.failed, ran.code, ran.reconnects) == (False, "separating", 0)
    assert ran.closing < 0.2


def test_a_render_survives_connections_that_break(client: Client, presets: tuple[str, str]) -> None:
    with running(config(presets=presets)) as server:
        server.proxy.cuts.extend(
            [("down", 50_000), ("up", 20_000), ("down", 700), ("up", 400), ("down", 300_000)]
        )
        ran = client.run(server.url)
    np.testing.assert_array_equal(ran.stems, offline(SONG, presets[0]))
    assert ran.reconnects == ran.resumes >= 2
    assert ran.code == "separating"


def test_a_session_that_is_lost_fails_a_render(client: Client, presets: tuple[str, str]) -> None:
    with running(config(presets=presets, grace=0)) as server:
        server.proxy.cuts.append(("down", 200_000))
        ran = client.run(server.url)
    assert ran.failed and ran.code == "render failed"
    assert "trying again" in ran.log
    assert np.isnan(ran.stems[..., -1]).all()  # nothing was made up
    part = offline(SONG, presets[0])
    there = ~np.isnan(ran.stems)
    np.testing.assert_array_equal(ran.stems[there], part[there])


@pytest.mark.parametrize("pace", [0, 0.5])
def test_a_stream_begins_anew(client: Client, presets: tuple[str, str], pace: float) -> None:
    at, delay = RATE, RATE * 400 // 1000
    with running(config(presets=presets)) as server:
        ran = client.run(server.url, reset=at, pace=pace, delay=400)
    least = 0.8 if pace else 1.0
    assert_there(ran.stems[..., at:], offline(SONG[:, at:], presets[0]), least)
    assert np.isnan(ran.stems[..., at - delay : at]).all()  # nobody plays that any more
    before = slice(ran.begin, at - delay)
    assert_there(
        ran.stems[..., before],
        offline(SONG[:, ran.begin : at], presets[0])[..., : at - delay - ran.begin],
        least,
    )
    assert ran.reconnects == 0


def test_presets_of_a_render(client: Client, presets: tuple[str, str]) -> None:
    with running(config(presets=presets)) as server:
        ran = client.run(server.url, preset=1)
        np.testing.assert_array_equal(ran.stems, offline(SONG, presets[1]))
        for first in (0, 1):
            ran = client.run(server.url, preset=first, then=1 - first, at=RATE)
            assert not np.isnan(ran.stems).any()
            assert aligned(ran.stems, SONG).all()
            before = slice(0, RATE - RATE // 4)
            whole = offline(SONG, presets[first])
            np.testing.assert_array_equal(ran.stems[..., before], whole[..., before])


# --- real time: separated or missing, never anything else


def test_playing(client: Client, presets: tuple[str, str]) -> None:
    with running(config(presets=presets)) as server:
        ran = client.run(server.url, block=128, **LIVE)
    assert ran.begin < RATE
    assert_there(ran.stems[..., ran.begin :], offline(SONG[:, ran.begin :], presets[0]), 0.9)
    assert (ran.code, ran.reconnects, ran.lost) == ("separating", 0, 0)


def test_playing_goes_on_where_it_was(client: Client, presets: tuple[str, str]) -> None:
    with running(config(presets=presets)) as server:
        end = client.start(server.url, **LIVE)
        time.sleep(2.0)
        server.proxy.cut()
        ran = end()
    assert_there(ran.stems[..., ran.begin :], offline(SONG[:, ran.begin :], presets[0]), 0.6)
    assert (~np.isnan(ran.stems[..., -RATE // 4 :])).any()
    assert (ran.reconnects, ran.resumes) == (1, 1)


def test_playing_through_a_restart(client: Client, presets: tuple[str, str]) -> None:
    song = music(3 * RATE, RATE)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    end = client.start(f"ws://127.0.0.1:{port}", song, **LIVE)
    time.sleep(0.3)  # nobody is there at first
    for seconds in (2.5, 4.5):
        with running(config(presets=presets, port=port, drain=0)):
            time.sleep(seconds)
    ran = end()
    assert (ran.reconnects, ran.resumes) == (1, 0)
    assert "no server" in ran.log
    there = ~np.isnan(ran.stems).any((0, 1))
    assert aligned(ran.stems[..., there], song[:, there]).all()
    assert there[-RATE // 2 :].mean() > 0.5 and there[:RATE].any() and not there.all()


def test_playing_through_a_network_that_hangs(client: Client, presets: tuple[str, str]) -> None:
    song = music(9 * RATE, RATE)
    with running(config(presets=presets)) as server:
        end = client.start(server.url, song, pace=1, delay=400)
        time.sleep(1.5)
        server.proxy.freeze()
        time.sleep(2.5)
        server.proxy.thaw()
        ran = end()
    there = ~np.isnan(ran.stems).any((0, 1))
    assert aligned(ran.stems[..., there], song[:, there]).all()
    assert there[-3 * RATE :].mean() > 0.2 and there[: 2 * RATE].any()
    assert ran.reconnects == 0


def test_a_dead_connection_is_noticed(client: Client, presets: tuple[str, str]) -> None:
    song = music(4 * RATE, RATE)
    with running(config(presets=presets, grace=3)) as server:  # beats of half a second
        end = client.start(server.url, song, **LIVE)
        time.sleep(1)
        server.proxy.freeze()
        ran = end()
    assert "no sign of life" in ran.log
    assert ran.reconnects == 1
    assert (~np.isnan(ran.stems[..., -RATE:])).mean() > 0.5


def test_presets_while_playing(client: Client, presets: tuple[str, str]) -> None:
    song = music(4 * RATE, RATE)
    with running(config(presets=presets)) as server:
        for first in (0, 1):
            ran = client.run(server.url, song, preset=first, then=1 - first, at=RATE, **LIVE)
            there = ~np.isnan(ran.stems).any((0, 1))
            wrong = ~aligned(ran.stems[..., there], song[:, there])
            assert wrong.sum() <= 0.02 * RATE  # the server's cross-fade of two delays
            assert there[-RATE:].mean() > 0.5
            assert (ran.reconnects, ran.code) == (0, "separating")
            assert ("low" if first == 0 else "standard") in ran.text
            # Less late: a moment is missing. Later: nothing is.
            assert (~there[ran.begin :]).sum() <= (0.6 if first == 0 else 0.3) * RATE


def test_small_blocks_are_no_flood(client: Client, presets: tuple[str, str]) -> None:
    rate = 192_000
    with running(config(presets=presets)) as server:
        ran = client.run(server.url, music(rate, rate), rate=rate, block=16, pace=1, delay=400)
    assert (ran.code, ran.reconnects) == ("separating", 0)
    assert "messages in a second" not in ran.log
