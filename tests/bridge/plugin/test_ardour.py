"""The plugin in a DAW: Ardour renders it in time with a parallel track."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support import music
from support.plugin_ardour import RATE, need_ardour, render
from support.plugin_build import build, need_plugin
from support.plugin_server import ServerProcess, serving

need_plugin()
need_ardour()

# Ardour plays an unknown length of silence before it renders. The network's memory is two seconds
# long, so the song begins with three seconds of silence.
SONG = np.pad(music(3 * RATE, RATE), ((0, 0), (3 * RATE, 0)))
pytestmark = pytest.mark.slow  # Ardour starts three times


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with serving() as running:
        yield running


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("STEMWIRE_PLUGIN_WAIT", "60")


def log(tmp_path: Path) -> str:
    return (tmp_path / "state" / "stemwire" / "plugin.log").read_text()


@pytest.mark.parametrize("delay", [2, 4])  # 60 and 120 ms
def test_a_track_beside_it_stays_in_time(tmp_path: Path, server: ServerProcess, delay: int) -> None:
    """Both stems sum to the song: with the dry track it is twice the song, up to rounding."""
    settings = {"Vocals": 0.0, "Delay": delay}
    mix, latency = render(tmp_path / "ardour", build(), SONG, server.url, settings)
    assert latency == {2: 2646, 4: 5292}[delay]
    assert mix.shape == SONG.shape
    assert np.abs(mix - 2 * SONG).max() < 1e-6
    # An error of half a sample would fail.
    assert np.abs(mix - SONG - np.roll(SONG, 1, 1))[:, 1:].max() > 0.01
    assert "separating" in log(tmp_path)
    assert "render failed" not in log(tmp_path)


def test_vocals_are_removed(tmp_path: Path, server: ServerProcess) -> None:
    """The song without vocals and the vocals alone sum to the song."""
    built = build()
    without, _ = render(tmp_path / "without", built, SONG, server.url, {})
    alone, _ = render(
        tmp_path / "alone", built, SONG, server.url, {"Vocals": 0.0, "Instrumental": -60.0}
    )
    instrumental, vocals = without - SONG, alone - SONG
    assert np.abs(instrumental + vocals - SONG).max() < 1e-6
    for stem in (instrumental, vocals):
        assert np.abs(stem).max() > 0.05
        assert np.abs(stem - SONG).max() > 0.05


def test_without_a_server_it_is_an_alarm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEMWIRE_PLUGIN_WAIT", "0.5")
    mix, _ = render(tmp_path / "ardour", build(), SONG, "ws://127.0.0.1:1", {})
    assert "render failed" in log(tmp_path)
    alarm = mix - SONG
    spectrum = np.abs(np.fft.rfft(alarm[0, -2 * RATE :]))
    assert spectrum.argmax() == 2_000  # 1 kHz in a window of two seconds
