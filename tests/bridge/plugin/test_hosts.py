"""The plugin in hosts: rendered in pedalboard as offline, played in a host of our own."""

# ruff: noqa: E402 - nothing is imported where no plugin can be built
from __future__ import annotations

import gc
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import ROOT, Audio, music, read_audio, write_audio
from support.plugin_build import Built, build, need_plugin
from support.plugin_server import Serving, serving

pytest.importorskip("pedalboard")
need_plugin()

import pedalboard

import stemwire
from stemwire.bridge.pedalboard.separator import StemSeparator

RATE, DELAY = 44_100, 2646  # 60 ms
SONG = music(2 * RATE, RATE)
pytestmark = pytest.mark.slow  # building takes a while


@pytest.fixture(scope="module")
def built() -> Built:
    return build()


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    with serving() as running:
        yield running


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, server: Serving, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing of this computer's user is read or written; the server is the test's."""
    for name in ("XDG_STATE_HOME", "XDG_CONFIG_HOME", "STEMWIRE_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    monkeypatch.setenv("STEMWIRE_PLUGIN_SERVER", server.url)
    monkeypatch.setenv("STEMWIRE_PLUGIN_WAIT", "10")
    yield
    # Plugins are in cycles of pedalboard's; one that lives on would look for other tests' servers.
    gc.collect()


def load(built: Built, **values: Any) -> Any:
    return pedalboard.load_plugin(str(built.bundle), parameter_values=values)


def offline(audio: Audio, rate: int = RATE, preset: str = "standard") -> Audio:
    """Stems of the whole, (2, channels, n), aligned with it."""
    separator = stemwire.load(preset, rate, audio.shape[0])
    stems = np.concatenate((separator.push(audio), separator.flush()), 2)
    return np.asarray(stems[..., separator.latency : separator.latency + audio.shape[1]])


def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEMWIRE_PLUGIN_SERVER", "ws://127.0.0.1:1")
    monkeypatch.setenv("STEMWIRE_PLUGIN_WAIT", "0.3")


def log(tmp_path: Path) -> str:
    return (tmp_path / "xdg_state_home" / "stemwire" / "plugin.log").read_text()


def raw(path: Path, audio: Audio) -> Path:
    """As the test host reads it."""
    path.write_bytes(np.ascontiguousarray(audio.T).tobytes())
    return path


def read(path: Path, channels: int = 2) -> Audio:
    return np.fromfile(path, np.float32).reshape(-1, channels).T


# --- rendered in pedalboard


def test_the_example(built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    song = write_audio(tmp_path / "song.wav", SONG, RATE, "FLOAT")

    def script() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, ROOT / "examples" / "plugin_in_pedalboard.py", song,
                   tmp_path / "out.wav", "--plugin", built.bundle, "--vocals", "-20"]  # fmt: skip
        return subprocess.run(command, capture_output=True, text=True, check=False)

    done = script()
    assert done.returncode == 0, done.stderr
    vocals, instrumental = offline(SONG)
    room = pedalboard.Pedalboard([pedalboard.Reverb(room_size=0.3, wet_level=0.1)])
    wanted = room(0.1 * vocals + instrumental, RATE)
    np.testing.assert_allclose(read_audio(tmp_path / "out.wav"), wanted, atol=1e-5)
    no_server(monkeypatch)
    done = script()
    assert done.returncode == 1 and "stemwire plugin status" in done.stderr, done.stderr


@pytest.mark.parametrize("block", [32, 100, 512, 4_096, 8_192])
def test_a_render_is_the_offline_separation_bit_for_bit(built: Built, block: int) -> None:
    plugin = load(built)
    assert plugin.reported_latency_samples == DELAY
    found = plugin(SONG, RATE, buffer_size=block)
    np.testing.assert_array_equal(found, offline(SONG)[1])
    assert not np.array_equal(found, SONG)
    np.testing.assert_array_equal(plugin(SONG, RATE, buffer_size=block), found)  # again
    assert plugin.status == "separating"
    assert plugin.dry_blocks == 0


@pytest.mark.parametrize("rate", [22_050, 48_000, 96_000])
@pytest.mark.parametrize("preset", ["standard", "low"])
def test_a_render_at_other_rates_and_presets(built: Built, rate: int, preset: str) -> None:
    plugin = load(built, preset=preset)
    song = music(rate, rate)
    found = plugin(song, rate)
    assert plugin.reported_latency_samples == round(0.060 * rate)
    np.testing.assert_array_equal(found, offline(song, rate, preset)[1])


@pytest.mark.parametrize("channels", [1, 2])
def test_levels(built: Built, channels: int) -> None:
    song = SONG[:channels]
    vocals, instrumental = offline(song)
    plugin = load(built, vocals_db=0, instrumental_db=-60)
    np.testing.assert_array_equal(plugin(song, RATE), vocals)
    plugin.instrumental_db = 0
    np.testing.assert_array_equal(plugin(song, RATE), vocals + instrumental)
    plugin.vocals_db, plugin.instrumental_db = -6, 3
    quieter = StemSeparator(stem="mix", vocals_db=-6, instrumental_db=3)
    np.testing.assert_allclose(plugin(song, RATE), quieter(song, RATE), atol=1e-6)
    plugin.bypass = True
    np.testing.assert_array_equal(plugin(song, RATE), song)


def test_in_pieces(built: Built) -> None:
    plugin = load(built)
    pieces = [SONG[:, at : at + 1_000] for at in range(0, SONG.shape[1], 1_000)]
    for _ in range(2):
        plugin.reset()
        found = [plugin(piece, RATE, reset=False) for piece in pieces]
        together = np.concatenate(found, 1)
        assert together.shape[1] == SONG.shape[1] - DELAY
        np.testing.assert_array_equal(together, offline(SONG)[1][:, : together.shape[1]])


def test_two_in_a_row(built: Built) -> None:
    board = pedalboard.Pedalboard([load(built), load(built, vocals_db=0, instrumental_db=-60)])
    # The second hears what the first makes of the silence after the song.
    longer = np.pad(SONG, ((0, 0), (0, 8_192)))
    wanted = offline(offline(longer)[1])[0][:, : SONG.shape[1]]
    np.testing.assert_array_equal(board(SONG, RATE), wanted)


def test_beside_another(built: Built) -> None:
    """Vocals, instrumental and the inverted song sum to nothing: all three are aligned."""
    vocals = load(built, vocals_db=0, instrumental_db=-60, delay_ms=80)
    mix = pedalboard.Mix([vocals, load(built), pedalboard.Chain([pedalboard.Invert()])])
    left = pedalboard.Pedalboard([mix])(SONG, RATE)
    assert left.shape == SONG.shape
    assert np.abs(left).max() < 1e-6
    assert np.abs(SONG).max() > 0.1


def test_parameters_have_names_that_python_knows(built: Built) -> None:
    plugin = load(built)
    assert list(plugin.parameters) == [
        "vocals_db", "instrumental_db", "bypass", "preset", "delay_ms", "server", "autostart",
        "status", "dry_blocks", "reconnects",
    ]  # fmt: skip
    assert plugin.vocals_db == -60
    assert plugin.instrumental_db == 0
    for level in (-60, -59.9, -33.3, -6, -0.1, 0, 0.1, 3, 12):
        plugin.vocals_db = level
        assert plugin.vocals_db == level
    for delay in (30, 40, 60, 80, 120, 200, 400):
        plugin.delay_ms = delay
        assert plugin.delay_ms == delay
        assert plugin.reported_latency_samples == round(RATE * delay / 1000)
    assert plugin.server == "This computer"
    assert plugin.preset == "standard"
    with pytest.raises(ValueError, match="low"):
        plugin.preset = "high"


@pytest.mark.parametrize("kind", ["raw_state", "preset_data"])
def test_state_is_saved_and_restored(built: Built, kind: str) -> None:
    plugin = load(built, vocals_db=-6, instrumental_db=3.5, preset="low", delay_ms=120)
    plugin.autostart = False
    found = plugin(SONG, RATE)
    other = load(built)
    setattr(other, kind, getattr(plugin, kind))
    assert other.vocals_db == -6
    assert other.instrumental_db == 3.5
    assert (other.preset, other.delay_ms) == ("low", 120)
    assert not other.autostart
    assert not other.bypass
    assert other.reported_latency_samples == round(0.120 * RATE)
    np.testing.assert_array_equal(other(SONG, RATE), found)


def test_a_render_without_a_server_is_an_alarm(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_server(monkeypatch)
    plugin = load(built)
    found = plugin(SONG, RATE)
    assert plugin.status == "render failed"
    assert "render failed; ws://127.0.0.1:1" in log(tmp_path)
    # Bursts of 1 kHz, and nothing of the song.
    assert np.abs(found).max() == pytest.approx(0.25, abs=0.01)
    spectrum = np.abs(np.fft.rfft(found[0, :RATE]))
    assert spectrum.argmax() == 1_000
    burst = np.abs(found[0]).reshape(-1, RATE // 20).max(1) > 0.1
    assert 0.3 < burst.mean() < 0.7


def test_a_server_that_comes_later(built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(("standard",)) as other:
        monkeypatch.setenv("STEMWIRE_PLUGIN_SERVER", other.url)
        other.kill()
        threading.Timer(2, other.start).start()
        plugin = load(built)
        np.testing.assert_array_equal(plugin(SONG, RATE), offline(SONG)[1])


# --- in a host of our own


def test_it_is_small_quick_to_load_and_shows_three_functions(built: Built) -> None:
    size = sum(path.stat().st_size for path in built.bundle.rglob("*") if path.is_file())
    assert size < 300_000
    listed = subprocess.run(
        ["nm", "-D", "--defined-only", str(built.module)],
        capture_output=True,
        text=True,
        check=True,
    )
    names = {line.split()[-1] for line in listed.stdout.splitlines()}
    assert names == {"ModuleEntry", "ModuleExit", "GetPluginFactory"}
    times = [built.host("--seconds", 0.1)["load_ms"] for _ in range(5)]
    assert sorted(times)[2] < 50


@pytest.mark.parametrize("blocks", ["1,7,1024,333", "64", "20000"])
@pytest.mark.parametrize("channels", [1, 2])
def test_all_buses_of_a_render(built: Built, tmp_path: Path, blocks: str, channels: int) -> None:
    song = SONG[:channels]
    paths = [tmp_path / name for name in ("main", "vocals", "instrumental")]
    report = built.host(
        "--offline", "--input", raw(tmp_path / "in", song), "--channels", channels,
        "--block", blocks, "--seconds", SONG.shape[1] / RATE, "--set", "Vocals=0",
        "--output", paths[0], "--vocals", paths[1], "--instrumental", paths[2],
    )  # fmt: skip
    assert report["latency"] == DELAY
    vocals, instrumental = offline(song)
    for path, wanted in zip(paths, (vocals + instrumental, vocals, instrumental), strict=True):
        found = read(path, channels)
        assert not found[:, :DELAY].any()
        np.testing.assert_array_equal(found[:, DELAY:], wanted[:, : -DELAY or None])


def test_a_reset_begins_anew(built: Built, tmp_path: Path) -> None:
    output, at = tmp_path / "out", 20_000
    for action in ("reset", "pause"):
        built.host(
            "--offline", "--input", raw(tmp_path / "in", SONG), "--seconds", SONG.shape[1] / RATE,
            "--block", 1_000, "--at", f"{at}:{action}", "--output", output,
        )  # fmt: skip
        found = read(output)[:, at:]
        assert not found[:, :DELAY].any()
        wanted = offline(SONG[:, at:])[1]
        np.testing.assert_array_equal(found[:, DELAY:], wanted[:, :-DELAY])


def test_automation_within_a_block(built: Built, tmp_path: Path) -> None:
    """Levels begin to move at the very sample, and get there in 10 ms."""
    output, at = tmp_path / "out", 30_123
    built.host(
        "--offline", "--input", raw(tmp_path / "in", SONG), "--seconds", SONG.shape[1] / RATE,
        "--block", 8_192, "--at", f"{at}:Bypass=On", "--at", f"{at + 5_000}:Bypass=Off",
        "--at", f"{at + 5_000}:Vocals=0", "--at", f"{at + 5_000}:Instrumental=off",
        "--output", output,
    )  # fmt: skip
    found, ramp = read(output)[:, DELAY:], RATE // 100 + 1
    vocals, instrumental = offline(SONG)
    first, second = at - DELAY, at + 5_000 - DELAY
    np.testing.assert_array_equal(found[:, :first], instrumental[:, :first])
    assert (found[:, first + 1] != instrumental[:, first + 1]).all()
    np.testing.assert_array_equal(found[:, first + ramp : second], SONG[:, first + ramp : second])
    rest = slice(second + ramp, found.shape[1])
    np.testing.assert_array_equal(found[:, rest], vocals[:, rest])


def test_a_delay_that_changes_is_announced(built: Built) -> None:
    report = built.host("--fast", "--seconds", 1, "--at", "9000:ui:Delay=120")
    assert report["latency_changes"] == 1
    assert report["latency"] == round(0.120 * RATE)
    report = built.host("--seconds", 1, "--at", "9000:Delay=120")  # handed to the callback
    assert (report["latency_changes"], report["latency"]) == (1, round(0.120 * RATE))


def test_what_a_project_keeps(built: Built, tmp_path: Path) -> None:
    state = tmp_path / "state"
    built.host("--fast", "--seconds", 0.1, "--set", "Vocals=-6", "--set", "Delay=200",
               "--save-state", state)  # fmt: skip
    assert '"vocals": -6, ' in state.read_text()
    again = tmp_path / "again"
    built.host("--fast", "--seconds", 0.1, "--load-state", state, "--save-state", again)
    assert again.read_text() == state.read_text()


DAMAGED = [
    b"", b"\x00", b"{", b"[]", b"null", b"{}", b'{"stemwire": 0}', b'{"stemwire": "1"}',
    b'{"stemwire": 1, "vocals": 13}', b'{"stemwire": 1, "vocals": 1e999}',
    b'{"stemwire": 1, "preset": "high"}', b'{"stemwire": 1, "delay": 61}',
    b'{"stemwire": 1, "server": "studio"}', b'{"stemwire": 1, "server": {"name": ""}}',
    b'{"stemwire": 1, "bypass": 1}', b'{"stemwire": 1}' + b" " * 20_000, b"\xff" * 4_000,
    b'{"stemwire": 1, "server": {"name": "' + b"x" * 5_000 + b'"}}', b"[" * 10_000,
]  # fmt: skip


@pytest.mark.parametrize("damaged", DAMAGED, ids=[repr(bytes(d[:40])) for d in DAMAGED])
def test_damaged_state_changes_nothing(built: Built, tmp_path: Path, damaged: bytes) -> None:
    state, after, untouched = tmp_path / "state", tmp_path / "after", tmp_path / "untouched"
    state.write_bytes(damaged)
    report = built.host("--fast", "--seconds", 0.05, "--load-state", state, "--save-state", after)
    assert report["state_result"] == 1
    assert "saved state" in log(tmp_path)
    built.host("--fast", "--seconds", 0.05, "--save-state", untouched)
    assert after.read_text() == untouched.read_text()


def test_state_of_another_version_is_read(built: Built, tmp_path: Path) -> None:
    state, after = tmp_path / "state", tmp_path / "after"
    state.write_text('{"stemwire": 7, "vocals": -12.25, "later": {"x": [1]}}')
    report = built.host("--fast", "--seconds", 0.05, "--load-state", state, "--save-state", after)
    assert report["state_result"] == 0
    assert '"vocals": -12.25, "instrumental": 0, ' in after.read_text()


def test_played_without_a_server_it_is_aligned_dry(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_server(monkeypatch)
    output = tmp_path / "out"
    report = built.host(
        "--fast", "--input", raw(tmp_path / "in", SONG), "--seconds", SONG.shape[1] / RATE,
        "--output", output, "--gain", 0.5,
    )  # fmt: skip
    glide = RATE // 200  # from the silence before the beginning
    found, wanted = read(output)[:, DELAY:], SONG[:, :-DELAY]
    np.testing.assert_array_equal(found[:, glide:], wanted[:, glide:])
    assert report["status"] in ("connecting", "no server")
    assert report["dry_blocks"] == report["check"]["dry"] > 0


def test_a_render_that_fails_is_told_to_the_host(
    built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_server(monkeypatch)
    report = built.host("--offline", "--seconds", 1, "--block", 441, code=1)
    assert report["status"] == "render failed"
    assert report["bad_results"] == 100 - DELAY // 441


def test_the_callback_never_allocates_locks_or_waits(
    built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a server comes, goes and comes back; and each block is what it is counted as."""
    with serving(gain=0.25) as gain:
        monkeypatch.setenv("STEMWIRE_PLUGIN_SERVER", gain.url)
        timers = [threading.Timer(3, gain.kill), threading.Timer(4, gain.start)]
        for timer in timers:
            timer.start()
        report = built.host(
            "--seconds", 8, "--block", 128, "--gain", 0.75, "--strict", "--set", "Delay=120",
            environment={"LD_PRELOAD": str(built.program("interpose.so"))},
        )  # fmt: skip
    assert report["calls"] == {"allocations": 0, "frees": 0, "locks": 0, "waits": 0}
    assert report["check"]["violations"] == 0
    assert report["check"]["counted"] == report["dry_blocks"] < report["callbacks"]
    assert report["reconnects"] == 1


def test_several_at_once(built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(gain=0.25) as gain:
        monkeypatch.setenv("STEMWIRE_PLUGIN_SERVER", gain.url)
        report = built.host("--seconds", 3, "--instances", 4, "--gain", 0.75, "--set", "Delay=200")
    assert report["check"]["violations"] == 0
    assert report["status"] == "separating"
