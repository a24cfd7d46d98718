"""Real VST3 plugins on stems: reported latencies, and failures."""

# ruff: noqa: E402 - imports follow the check that plugins can be built
from __future__ import annotations

import platform
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import ROOT, Audio, music, noise, read_audio, write_audio
from support.vst3_plugins import build, need_vst3

pytest.importorskip("pedalboard")
need_vst3()

import pedalboard

import stemwire
from stemwire.bridge.pedalboard.separator import Row, StemSeparator
from stemwire.errors import AudioDeviceError, ConfigError
from stemwire.realtime.effects import Chain, parse_chain

RATE, BLOCK = 44_100, 512
GAIN, DELAY = 0.5, 100  # of the plugin, unless set
pytestmark = pytest.mark.slow  # building takes a while


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("vst3")


@pytest.fixture(scope="module")
def delay(plugins: Path) -> Path:
    return build(plugins, "delay")


@pytest.fixture(scope="module")
def keeper(plugins: Path) -> Path:
    return build(plugins / "keeper", "delay", "KEEPS")


@pytest.fixture(scope="module")
def crash(plugins: Path) -> Path:
    return build(plugins, "crash")


def late_by(audio: Audio, samples: int) -> Audio:
    return np.pad(audio, ((0, 0), (samples, 0)))[:, : audio.shape[1]]


def run(chain: Chain, audio: Audio) -> Audio:
    starts = range(0, audio.shape[1], BLOCK)
    return np.concatenate([chain.process(audio[:, at : at + BLOCK].copy()) for at in starts], 1)


# --- chains


@pytest.mark.parametrize("block", [64, 512, 1_000])
@pytest.mark.parametrize("samples", [0, 1, 100, 5_000])
def test_latency_is_measured_as_it_is_reported(delay: Path, block: int, samples: int) -> None:
    plugin = pedalboard.load_plugin(str(delay))
    plugin.delay = samples
    chain = Chain([plugin], RATE, 2, block)
    assert chain.latency == chain.delay == plugin.reported_latency_samples == samples
    audio = noise(block * 30)
    starts = range(0, audio.shape[1], block)
    output = [chain.process(audio[:, at : at + block].copy()) for at in starts]
    np.testing.assert_allclose(np.concatenate(output, 1), late_by(GAIN * audio, samples), atol=1e-6)
    assert chain.failures == 0


def test_a_plugin_by_its_path_in_a_chain_of_others(delay: Path) -> None:
    chain = Chain(parse_chain(f"Gain gain_db=6 | {delay} | Gain gain_db=-6"), RATE, 2, BLOCK)
    audio = noise(BLOCK * 20)
    np.testing.assert_allclose(run(chain, audio), late_by(GAIN * audio, DELAY), atol=1e-6)
    assert chain.latency == DELAY


@pytest.mark.parametrize("which", ["delay", "keeper"])
def test_a_plugin_that_was_used_before(which: str, request: pytest.FixtureRequest) -> None:
    plugin = pedalboard.load_plugin(str(request.getfixturevalue(which)))
    audio = noise(BLOCK * 20)
    np.testing.assert_array_equal(plugin(audio, RATE), GAIN * audio)
    chain = Chain([pedalboard.Pedalboard([plugin])], RATE, 2, BLOCK)
    assert chain.latency == plugin.reported_latency_samples == DELAY
    np.testing.assert_allclose(run(chain, audio), late_by(GAIN * audio, DELAY), atol=1e-6)


@pytest.mark.parametrize("longer", [0, 5_000])
def test_a_plugin_that_changes_its_latency_is_left_out_until_it_is_as_before(
    delay: Path, longer: int
) -> None:
    plugin = pedalboard.load_plugin(str(delay))
    chain, audio = Chain([pedalboard.Pedalboard([plugin])], RATE, 2, BLOCK), noise(BLOCK * 60)
    output = []
    for number in range(60):
        if number in (20, 40):
            plugin.delay = longer if number == 20 else DELAY
        output.append(chain.process(audio[:, number * BLOCK : (number + 1) * BLOCK].copy()))
        assert bool(chain.problem) == (20 <= number < 40), (number, chain.problem)
    assert chain.failures == 20 and chain.delay == DELAY
    expected = late_by(audio, DELAY)
    expected[:, : 20 * BLOCK] *= GAIN
    expected[:, 41 * BLOCK :] *= GAIN  # one block more is dry: what comes out first is silence
    np.testing.assert_allclose(np.concatenate(output, 1), expected, atol=1e-6)


def test_a_plugin_that_cannot_be_reset_where_it_plays_is_left_out(
    keeper: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """JUCE creates such a plugin again, which only the thread that loaded it may do."""
    plugin = pedalboard.load_plugin(str(keeper))
    chain, audio = Chain([plugin], RATE, 2, BLOCK), noise(BLOCK * 20)
    output = [run(chain, audio[:, : 10 * BLOCK])]

    def play() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(chain, "_run", lambda block: np.full_like(block, np.nan))
            output.append(run(chain, audio[:, 10 * BLOCK : 11 * BLOCK]))
        output.append(run(chain, audio[:, 11 * BLOCK :]))

    player = threading.Thread(target=play)
    player.start()
    player.join()
    assert "NaN or Inf" in chain.problem and "cannot be reset" in chain.problem
    expected = late_by(audio, DELAY)
    expected[:, : 10 * BLOCK] *= GAIN
    np.testing.assert_allclose(np.concatenate(output, 1), expected, atol=1e-6)
    assert chain.failures == 10
    chain.reset()  # here it can be
    np.testing.assert_allclose(run(chain, audio), late_by(GAIN * audio, DELAY), atol=1e-6)


@pytest.mark.parametrize("which", ["delay", "keeper"])
def test_a_chain_that_is_reset_forgets(which: str, request: pytest.FixtureRequest) -> None:
    plugin = pedalboard.load_plugin(str(request.getfixturevalue(which)))
    chain, audio = Chain([plugin], RATE, 2, BLOCK), noise(BLOCK * 10)
    first = run(chain, audio)
    chain.reset()
    np.testing.assert_array_equal(run(chain, audio), first)


def test_files_that_are_no_plugin(tmp_path: Path) -> None:
    empty = tmp_path / "empty.vst3"
    empty.mkdir()
    text = tmp_path / "text.vst3"
    text.write_text("no plugin")
    for path in (empty, text):
        with pytest.raises(ConfigError, match=rf"{path.name}: cannot be loaded .*another host"):
            parse_chain(str(path))


# --- stems


@pytest.mark.parametrize("reset", [True, False])
def test_stems_stay_together(delay: Path, reset: bool) -> None:
    song = 0.5 * music(30_000, RATE)
    plugin = pedalboard.load_plugin(str(delay))
    plugin.delay, plugin.gain = 3_000, 1.0
    separator = StemSeparator(
        "low", "mix", effects={"vocals": plugin, "instrumental": [pedalboard.Gain(0)]}
    )
    for _ in range(2):
        if reset:
            out = separator(song, RATE)
        else:
            pieces = [
                separator(song[:, at : at + 1_000], RATE, reset=False)
                for at in range(0, 30_000, 1_000)
            ]
            out = np.concatenate((*pieces, separator.flush()), 1)
        np.testing.assert_allclose(out, song, atol=1e-5)
    model = stemwire.load("low").latency
    assert separator.reported_latency_samples == model + 3_000 + BLOCK - 1


def test_a_plugin_that_changes_its_latency_ends_a_stream(delay: Path) -> None:
    plugin, song = pedalboard.load_plugin(str(delay)), noise(20_000)
    separator = StemSeparator("low", effects={"instrumental": plugin})
    separator(song, RATE, reset=False)
    plugin.delay = 5_000
    with pytest.raises(ConfigError, match="effects of instrumental: has changed its latency"):
        separator(song, RATE, reset=False)
    expected = GAIN * StemSeparator("low")(song, RATE)
    np.testing.assert_allclose(separator(song, RATE), expected, atol=1e-6)


def test_a_row_with_plugins(delay: Path, keeper: Path) -> None:
    song = 0.5 * music(20_000, RATE)
    row = Row([str(delay), StemSeparator("low", "mix"), f"{keeper} | Gain gain_db=12.0412"])
    for _ in range(2):
        np.testing.assert_allclose(row(song, RATE), song, atol=1e-4)
        pieces = [row(song[:, :7_000], RATE, reset=False), row(song[:, 7_000:], RATE, reset=False)]
        np.testing.assert_allclose(np.concatenate((*pieces, row.flush()), 1), song, atol=1e-4)


def test_a_plugin_for_two_channels_refuses_one(delay: Path) -> None:
    separator = StemSeparator("low", effects={"instrumental": str(delay)})
    for reset in (True, False):
        with pytest.raises(ConfigError, match=r"effects of instrumental: .*1-channel"):
            separator(noise(2_000, 1), RATE, reset=reset)


def test_the_script(delay: Path, tmp_path: Path) -> None:
    song = 0.5 * music(RATE, RATE)
    path = write_audio(tmp_path / "song.wav", song, RATE, "FLOAT")

    def script(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [
            sys.executable,
            str(ROOT / "examples" / "render_through_vst3.py"),
            str(path),
            str(delay),
            str(tmp_path / "out.wav"),
            *arguments,
        ]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    done = script("--set", "gain=1", "--set", "delay=4000", "--list")
    assert done.returncode == 0 and "gain = 1.0" in done.stdout, done.stderr
    np.testing.assert_allclose(read_audio(tmp_path / "out.wav"), song, atol=1e-5)
    done = script("--stem", "instrumental")
    stems = [StemSeparator(stem=stem)(song, RATE) for stem in ("vocals", "instrumental")]
    expected = stems[0] + GAIN * stems[1]
    np.testing.assert_allclose(read_audio(tmp_path / "out.wav"), expected, atol=1e-5)
    for arguments, message in (
        (("--set", "size=1"), "no parameter 'size'; there are"),
        (("--stem", "drums"), "'drums'"),
    ):
        done = script(*arguments)
        assert done.returncode == 1 and message in done.stderr and "Traceback" not in done.stderr


# --- live


@pytest.fixture
def server() -> Iterator[Any]:
    from support.jack_server import jack_server, need_jack

    need_jack("sounddevice")
    with jack_server(RATE, BLOCK) as running:
        yield running


@pytest.fixture(scope="module")
def cut(plugins: Path, delay: Path) -> Path:
    """A truncated plugin, as after a full disk: reading beyond its end kills the process."""
    binary = plugins / "cut.vst3" / "Contents" / f"{platform.machine()}-linux" / "cut.so"
    binary.parent.mkdir(parents=True)
    binary.write_bytes(next(delay.rglob("*.so")).read_bytes()[:5_000])
    return plugins / "cut.vst3"


@pytest.mark.parametrize("which", ["crash", "cut"])
@pytest.mark.parametrize("name", ["vocals", "microphone"])
def test_a_plugin_that_crashes_ends_the_playing_process_and_not_the_program(
    server: Any, request: pytest.FixtureRequest, name: str, which: str
) -> None:
    path = str(request.getfixturevalue(which))
    session = stemwire.LiveSession(
        "system", "system", microphone_channels=(1,), effects={name: path}
    )
    with pytest.raises(AudioDeviceError, match=r"ended with status -\d+,.*plugin.*remove effects"):
        session.start()
    assert session.status().state == "stopped"
    with stemwire.LiveSession("system", "system") as other:  # and the next one plays
        assert other.status().state == "playing"


def test_stems_stay_together_live(server: Any, delay: Path) -> None:
    from support.jack_server import VirtualCard

    # The network has output silence when the song begins: as much as it can look back to.
    song = np.pad(0.5 * music(2 * RATE, RATE), ((0, 0), (8 * RATE, 0)))
    stems = [StemSeparator(stem=stem)(song, RATE) for stem in ("vocals", "instrumental")]
    expected = (GAIN * stems[0] + stems[1])[:, 8 * RATE :]
    session = stemwire.LiveSession(
        "songs", "songs", vocals=0, effects={"vocals": str(delay)}, freewheel=True
    )
    with VirtualCard("songs") as card, session:
        status = session.status()
        with card.freewheel():
            output = card.run(song, tail=BLOCK * 8)
        assert session.status().counters["bad_effects"] == 0
    assert status.delays["effects"] == DELAY
    earliest = 8 * RATE + status.delay  # the sound server's own delay, of whole periods, is added
    least = min(
        float(np.abs(output[:, at : at + expected.shape[1]] - expected).max())
        for at in range(earliest, earliest + 4 * BLOCK, BLOCK)
    )
    assert least < 1e-5
