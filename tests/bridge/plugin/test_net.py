"""The plugin's network thread with real servers and bad networks: every sample is correct."""

# ruff: noqa: E402 - imports follow the skip where no plugin can be built
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
    assert_exact,
    make_client,
    make_presets,
    separate_offline,
    sums_to,
)

pytestmark = pytest.mark.slow  # building takes a while


@pytest.fixture(scope="module")
def presets(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return make_presets(tmp_path_factory.mktemp("presets"))


@pytest.fixture
def client(tmp_path: Path) -> Client:
    return make_client(tmp_path)


# --- offline: complete and bit-exact


@pytest.mark.parametrize(
    ("rate", "channels", "block"), [(44_100, 2, 512), (48_000, 1, 32), (96_000, 2, 8192)]
)
def test_a_render_equals_offline_separation(
    client: Client, presets: tuple[str, str], rate: int, channels: int, block: int
) -> None:
    audio = music(rate, rate)[:channels]
    with running(config(presets=presets)) as server:
        result = client.run(server.url, audio, rate=rate, block=block)
        assert not server.do(lambda: server.server.sessions)  # it said goodbye
    np.testing.assert_array_equal(result.stems, separate_offline(audio, presets[0], rate))
    assert (result.failed, result.code, result.reconnects) == (False, "separating", 0)
    assert result.closing < 0.2


def test_a_render_survives_connections_that_break(client: Client, presets: tuple[str, str]) -> None:
    with running(config(presets=presets)) as server:
        server.proxy.cuts.extend(
            [("down", 50_000), ("up", 20_000), ("down", 700), ("up", 400), ("down", 300_000)]
        )
        result = client.run(server.url)
    np.testing.assert_array_equal(result.stems, separate_offline(SONG, presets[0]))
    assert result.reconnects == result.resumes >= 2
    assert result.code == "separating"


def test_a_lost_session_fails_a_render(client: Client, presets: tuple[str, str]) -> None:
    with running(config(presets=presets, grace=0)) as server:
        server.proxy.cuts.append(("down", 200_000))
        result = client.run(server.url)
    assert result.failed and result.code == "render failed"
    assert "trying again" in result.log
    assert np.isnan(result.stems[..., -1]).all()  # nothing was invented
    part = separate_offline(SONG, presets[0])
    present = ~np.isnan(result.stems)
    np.testing.assert_array_equal(result.stems[present], part[present])


@pytest.mark.parametrize("pace", [0, 0.5])
def test_a_new_stream(client: Client, presets: tuple[str, str], pace: float) -> None:
    at, delay = RATE, RATE * 400 // 1000
    with running(config(presets=presets)) as server:
        result = client.run(server.url, reset=at, pace=pace, delay=400)
    minimum = 0.8 if pace else 1.0
    assert_exact(result.stems[..., at:], separate_offline(SONG[:, at:], presets[0]), minimum)
    assert np.isnan(result.stems[..., at - delay : at]).all()  # nobody plays it any more
    before = slice(result.first_separated, at - delay)
    assert_exact(
        result.stems[..., before],
        separate_offline(SONG[:, result.first_separated : at], presets[0])[
            ..., : at - delay - result.first_separated
        ],
        minimum,
    )
    assert result.reconnects == 0


def test_presets_of_a_render(client: Client, presets: tuple[str, str]) -> None:
    with running(config(presets=presets)) as server:
        result = client.run(server.url, preset=1)
        np.testing.assert_array_equal(result.stems, separate_offline(SONG, presets[1]))
        for first in (0, 1):
            result = client.run(server.url, preset=first, then=1 - first, at=RATE)
            assert not np.isnan(result.stems).any()
            assert sums_to(result.stems, SONG).all()
            before = slice(0, RATE - RATE // 4)
            whole = separate_offline(SONG, presets[first])
            np.testing.assert_array_equal(result.stems[..., before], whole[..., before])


# --- real time: separated or missing, never wrong


def test_playing(client: Client, presets: tuple[str, str]) -> None:
    with running(config(presets=presets)) as server:
        result = client.run(server.url, block=128, **LIVE)
    assert result.first_separated < RATE
    assert_exact(
        result.stems[..., result.first_separated :],
        separate_offline(SONG[:, result.first_separated :], presets[0]),
        0.9,
    )
    assert (result.code, result.reconnects, result.lost) == ("separating", 0, 0)


def test_playing_resumes(client: Client, presets: tuple[str, str]) -> None:
    with running(config(presets=presets)) as server:
        end = client.start(server.url, **LIVE)
        time.sleep(2.0)
        server.proxy.cut()
        result = end()
    assert_exact(
        result.stems[..., result.first_separated :],
        separate_offline(SONG[:, result.first_separated :], presets[0]),
        0.6,
    )
    assert (~np.isnan(result.stems[..., -RATE // 4 :])).any()
    assert (result.reconnects, result.resumes) == (1, 1)


def test_playing_through_a_restart(client: Client, presets: tuple[str, str]) -> None:
    song = music(3 * RATE, RATE)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    end = client.start(f"ws://127.0.0.1:{port}", song, **LIVE)
    time.sleep(0.3)  # no server at first
    for seconds in (2.5, 4.5):
        with running(config(presets=presets, port=port, drain=0)):
            time.sleep(seconds)
    result = end()
    assert (result.reconnects, result.resumes) == (1, 0)
    assert "no server" in result.log
    present = ~np.isnan(result.stems).any((0, 1))
    assert sums_to(result.stems[..., present], song[:, present]).all()
    assert present[-RATE // 2 :].mean() > 0.5 and present[:RATE].any() and not present.all()


def test_playing_through_a_network_that_hangs(client: Client, presets: tuple[str, str]) -> None:
    song = music(9 * RATE, RATE)
    with running(config(presets=presets)) as server:
        end = client.start(server.url, song, pace=1, delay=400)
        time.sleep(1.5)
        server.proxy.freeze()
        time.sleep(2.5)
        server.proxy.thaw()
        result = end()
    present = ~np.isnan(result.stems).any((0, 1))
    assert sums_to(result.stems[..., present], song[:, present]).all()
    assert present[-3 * RATE :].mean() > 0.2 and present[: 2 * RATE].any()
    assert result.reconnects == 0


def test_a_dead_connection_is_detected(client: Client, presets: tuple[str, str]) -> None:
    song = music(4 * RATE, RATE)
    with running(config(presets=presets, grace=3)) as server:  # pings every half second
        end = client.start(server.url, song, **LIVE)
        time.sleep(1)
        server.proxy.freeze()
        result = end()
    assert "no sign of life" in result.log
    assert result.reconnects == 1
    assert (~np.isnan(result.stems[..., -RATE:])).mean() > 0.5


def test_presets_while_playing(client: Client, presets: tuple[str, str]) -> None:
    song = music(4 * RATE, RATE)
    with running(config(presets=presets)) as server:
        for first in (0, 1):
            result = client.run(server.url, song, preset=first, then=1 - first, at=RATE, **LIVE)
            present = ~np.isnan(result.stems).any((0, 1))
            wrong = ~sums_to(result.stems[..., present], song[:, present])
            assert wrong.sum() <= 0.02 * RATE  # the server's cross-fade of two delays
            assert present[-RATE:].mean() > 0.5
            assert (result.reconnects, result.code) == (0, "separating")
            assert ("low" if first == 0 else "standard") in result.text
            # With less latency a moment is missing; with more, nothing is.
            assert (~present[result.first_separated :]).sum() <= (0.6 if first == 0 else 0.3) * RATE


def test_small_blocks_do_not_flood_the_server(client: Client, presets: tuple[str, str]) -> None:
    rate = 192_000
    with running(config(presets=presets)) as server:
        result = client.run(server.url, music(rate, rate), rate=rate, block=16, pace=1, delay=400)
    assert (result.code, result.reconnects) == ("separating", 0)
    assert "messages in a second" not in result.log
