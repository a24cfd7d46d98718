"""The plugin in hosts: rendered in pedalboard, played and rendered in the test host."""

# ruff: noqa: E402 - imports follow the skip where no plugin can be built
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
from support.plugin_server import ServerProcess, serving

pytest.importorskip("pedalboard")
need_plugin()

import pedalboard
from support.plugin_client import separate_offline

from stemwire.bridge.pedalboard.separator import StemSeparator

RATE, DELAY = 44_100, 2646  # 60 ms
SONG = music(2 * RATE, RATE)
pytestmark = pytest.mark.slow  # building takes a while


@pytest.fixture(scope="module")
def built() -> Built:
    return build()


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with serving() as running:
        yield running


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, server: ServerProcess, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Isolate the plugin from this computer's user; its server is the test's."""
    for name in ("XDG_STATE_HOME", "XDG_CONFIG_HOME", "STEMWIRE_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    monkeypatch.setenv("STEMWIRE_PLUGIN_SERVER", server.url)
    monkeypatch.setenv("STEMWIRE_PLUGIN_WAIT", "10")
    yield
    # Plugins are in reference cycles of pedalboard; leftovers would connect to later servers.
    gc.collect()


def load(built: Built, **values: Any) -> Any:
    return pedalboard.load_plugin(str(built.bundle), parameter_values=values)


def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEMWIRE_PLUGIN_SERVER", "ws://127.0.0.1:1")
    monkeypatch.setenv("STEMWIRE_PLUGIN_WAIT", "0.3")


def log(tmp_path: Path) -> str:
    return (tmp_path / "xdg_state_home" / "stemwire" / "plugin.log").read_text()


def raw(path: Path, audio: Audio) -> Path:
    """Write `audio` as the test host reads it, interleaved float32."""
    path.write_bytes(np.ascontiguousarray(audio.T).tobytes())
    return path


def song_options(tmp_path: Path, song: Audio = SONG) -> dict[str, object]:
    """Options of the test host to process `song` from its start to its end."""
    return {"input": raw(tmp_path / "in", song), "seconds": song.shape[1] / RATE}


def read(path: Path, channels: int = 2) -> Audio:
    return np.fromfile(path, np.float32).reshape(-1, channels).T


# --- rendered in pedalboard


def test_the_example(built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    song = write_audio(tmp_path / "song.wav", SONG, RATE, "FLOAT")

    def script() -> subprocess.CompletedProcess[str]:
        example = ROOT / "examples" / "plugin_in_pedalboard.py"
        command = [sys.executable, example, song, tmp_path / "out.wav"]
        command += ["--plugin", built.bundle, "--vocals", "-20"]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    done = script()
    assert done.returncode == 0, done.stderr
    vocals, instrumental = separate_offline(SONG)
    room = pedalboard.Pedalboard([pedalboard.Reverb(room_size=0.3, wet_level=0.1)])
    expected = room(0.1 * vocals + instrumental, RATE)
    np.testing.assert_allclose(read_audio(tmp_path / "out.wav"), expected, atol=1e-5)
    no_server(monkeypatch)
    done = script()
    assert done.returncode == 1 and "stemwire plugin status" in done.stderr, done.stderr


@pytest.mark.parametrize("block", [32, 100, 512, 4_096, 8_192])
def test_a_render_is_the_offline_separation_bit_for_bit(built: Built, block: int) -> None:
    plugin = load(built)
    assert plugin.reported_latency_samples == DELAY
    rendered = plugin(SONG, RATE, buffer_size=block)
    np.testing.assert_array_equal(rendered, separate_offline(SONG)[1])
    assert not np.array_equal(rendered, SONG)
    np.testing.assert_array_equal(plugin(SONG, RATE, buffer_size=block), rendered)  # again
    assert plugin.status == "separating"
    assert plugin.dry_blocks == 0


@pytest.mark.parametrize("rate", [22_050, 48_000, 96_000])
@pytest.mark.parametrize("preset", ["standard", "low"])
def test_a_render_at_other_rates_and_presets(built: Built, rate: int, preset: str) -> None:
    plugin = load(built, preset=preset)
    song = music(rate, rate)
    rendered = plugin(song, rate)
    assert plugin.reported_latency_samples == round(0.060 * rate)
    np.testing.assert_array_equal(rendered, separate_offline(song, preset, rate)[1])


@pytest.mark.parametrize("channels", [1, 2])
def test_levels(built: Built, channels: int) -> None:
    song = SONG[:channels]
    vocals, instrumental = separate_offline(song)
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
        rendered = [plugin(piece, RATE, reset=False) for piece in pieces]
        together = np.concatenate(rendered, 1)
        assert together.shape[1] == SONG.shape[1] - DELAY
        np.testing.assert_array_equal(together, separate_offline(SONG)[1][:, : together.shape[1]])


def test_two_in_a_row(built: Built) -> None:
    board = pedalboard.Pedalboard([load(built), load(built, vocals_db=0, instrumental_db=-60)])
    # The second also separates the first one's output for the silence after the song.
    longer = np.pad(SONG, ((0, 0), (0, 8_192)))
    expected = separate_offline(separate_offline(longer)[1])[0][:, : SONG.shape[1]]
    np.testing.assert_array_equal(board(SONG, RATE), expected)


def test_beside_another(built: Built) -> None:
    """Vocals, instrumental and the inverted song cancel out: all three are aligned."""
    vocals = load(built, vocals_db=0, instrumental_db=-60, delay_ms=80)
    mix = pedalboard.Mix([vocals, load(built), pedalboard.Chain([pedalboard.Invert()])])
    left = pedalboard.Pedalboard([mix])(SONG, RATE)
    assert left.shape == SONG.shape
    assert np.abs(left).max() < 1e-6
    assert np.abs(SONG).max() > 0.1


def test_parameters_have_python_names(built: Built) -> None:
    plugin = load(built)
    settings = ["vocals_db", "instrumental_db", "bypass", "preset", "delay_ms"]
    settings += ["server", "autostart"]
    assert list(plugin.parameters) == [*settings, "status", "dry_blocks", "reconnects"]
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
    rendered = plugin(SONG, RATE)
    other = load(built)
    setattr(other, kind, getattr(plugin, kind))
    assert other.vocals_db == -6
    assert other.instrumental_db == 3.5
    assert (other.preset, other.delay_ms) == ("low", 120)
    assert not other.autostart
    assert not other.bypass
    assert other.reported_latency_samples == round(0.120 * RATE)
    np.testing.assert_array_equal(other(SONG, RATE), rendered)


def test_a_render_without_a_server_is_an_alarm(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_server(monkeypatch)
    plugin = load(built)
    rendered = plugin(SONG, RATE)
    assert plugin.status == "render failed"
    assert "render failed; ws://127.0.0.1:1" in log(tmp_path)
    # Bursts of 1 kHz, and nothing of the song.
    assert np.abs(rendered).max() == pytest.approx(0.25, abs=0.01)
    spectrum = np.abs(np.fft.rfft(rendered[0, :RATE]))
    assert spectrum.argmax() == 1_000
    burst = np.abs(rendered[0]).reshape(-1, RATE // 20).max(1) > 0.1
    assert 0.3 < burst.mean() < 0.7


def test_a_server_that_comes_later(built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(("standard",)) as other:
        monkeypatch.setenv("STEMWIRE_PLUGIN_SERVER", other.url)
        other.kill()
        threading.Timer(2, other.start).start()
        plugin = load(built)
        np.testing.assert_array_equal(plugin(SONG, RATE), separate_offline(SONG)[1])


# --- in the test host


def test_it_is_small_loads_fast_and_exports_three_functions(built: Built) -> None:
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
    times = [built.host(seconds=0.1)["load_ms"] for _ in range(5)]
    assert sorted(times)[2] < 50


@pytest.mark.parametrize("blocks", ["1,7,1024,333", "64", "20000"])
@pytest.mark.parametrize("channels", [1, 2])
def test_all_buses_of_a_render(built: Built, tmp_path: Path, blocks: str, channels: int) -> None:
    song = SONG[:channels]
    paths = [tmp_path / name for name in ("main", "vocals", "instrumental")]
    recorded = dict(zip(("output", "vocals", "instrumental"), paths, strict=True))
    report = built.host(
        "--offline",
        **song_options(tmp_path, song),
        **recorded,
        channels=channels,
        block=blocks,
        set="Vocals=0",
    )
    assert report["latency"] == DELAY
    vocals, instrumental = separate_offline(song)
    for path, expected in zip(paths, (vocals + instrumental, vocals, instrumental), strict=True):
        rendered = read(path, channels)
        assert not rendered[:, :DELAY].any()
        np.testing.assert_array_equal(rendered[:, DELAY:], expected[:, : -DELAY or None])


def test_a_reset_begins_a_new_stream(built: Built, tmp_path: Path) -> None:
    output, at = tmp_path / "out", 20_000
    for action in ("reset", "pause"):
        options = song_options(tmp_path) | {"block": 1_000, "at": f"{at}:{action}"}
        built.host("--offline", **options, output=output)
        rendered = read(output)[:, at:]
        assert not rendered[:, :DELAY].any()
        expected = separate_offline(SONG[:, at:])[1]
        np.testing.assert_array_equal(rendered[:, DELAY:], expected[:, :-DELAY])


def test_automation_within_a_block(built: Built, tmp_path: Path) -> None:
    """Levels start to move at the exact sample and reach their value in 10 ms."""
    output, at = tmp_path / "out", 30_123
    later = [f"{at + 5_000}:{change}" for change in ("Bypass=Off", "Vocals=0", "Instrumental=off")]
    options = song_options(tmp_path) | {"block": 8_192, "at": [f"{at}:Bypass=On", *later]}
    built.host("--offline", **options, output=output)
    rendered, ramp = read(output)[:, DELAY:], RATE // 100 + 1
    vocals, instrumental = separate_offline(SONG)
    first, second = at - DELAY, at + 5_000 - DELAY
    np.testing.assert_array_equal(rendered[:, :first], instrumental[:, :first])
    assert (rendered[:, first + 1] != instrumental[:, first + 1]).all()
    np.testing.assert_array_equal(
        rendered[:, first + ramp : second], SONG[:, first + ramp : second]
    )
    rest = slice(second + ramp, rendered.shape[1])
    np.testing.assert_array_equal(rendered[:, rest], vocals[:, rest])


def test_a_changed_delay_is_reported(built: Built) -> None:
    report = built.host("--fast", seconds=1, at="9000:ui:Delay=120")
    assert report["latency_changes"] == 1
    assert report["latency"] == round(0.120 * RATE)
    report = built.host(seconds=1, at="9000:Delay=120")  # passed to the callback
    assert (report["latency_changes"], report["latency"]) == (1, round(0.120 * RATE))


def test_saved_state_round_trip(built: Built, tmp_path: Path) -> None:
    state = tmp_path / "state"
    built.host("--fast", seconds=0.1, set=["Vocals=-6", "Delay=200"], save_state=state)
    assert '"vocals": -6, ' in state.read_text()
    again = tmp_path / "again"
    built.host("--fast", seconds=0.1, load_state=state, save_state=again)
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
    report = built.host("--fast", seconds=0.05, load_state=state, save_state=after)
    assert report["state_result"] == 1
    assert "saved state" in log(tmp_path)
    built.host("--fast", seconds=0.05, save_state=untouched)
    assert after.read_text() == untouched.read_text()


def test_state_of_another_version_is_read(built: Built, tmp_path: Path) -> None:
    state, after = tmp_path / "state", tmp_path / "after"
    state.write_text('{"stemwire": 7, "vocals": -12.25, "later": {"x": [1]}}')
    report = built.host("--fast", seconds=0.05, load_state=state, save_state=after)
    assert report["state_result"] == 0
    assert '"vocals": -12.25, "instrumental": 0, ' in after.read_text()


def test_played_without_a_server_it_is_aligned_dry(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_server(monkeypatch)
    output = tmp_path / "out"
    report = built.host("--fast", **song_options(tmp_path), output=output, gain=0.5)
    glide = RATE // 200  # from the silence before the stream
    rendered, expected = read(output)[:, DELAY:], SONG[:, :-DELAY]
    np.testing.assert_array_equal(rendered[:, glide:], expected[:, glide:])
    assert report["status"] in ("connecting", "no server")
    assert report["dry_blocks"] == report["check"]["dry"] > 0


def test_a_failed_render_is_reported_to_the_host(
    built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_server(monkeypatch)
    report = built.host("--offline", seconds=1, block=441, code=1)
    assert report["status"] == "render failed"
    assert report["bad_results"] == 100 - DELAY // 441


def test_the_callback_never_allocates_locks_or_waits(
    built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not while a server starts, dies and returns; and each late block is counted."""
    with serving(gain=0.25) as gain:
        monkeypatch.setenv("STEMWIRE_PLUGIN_SERVER", gain.url)
        timers = [threading.Timer(3, gain.kill), threading.Timer(4, gain.start)]
        for timer in timers:
            timer.start()
        report = built.host(
            "--strict",
            seconds=8,
            block=128,
            gain=0.75,
            set="Delay=120",
            environment={"LD_PRELOAD": str(built.program("interpose.so"))},
        )
    assert report["calls"] == {"allocations": 0, "frees": 0, "locks": 0, "waits": 0}
    assert report["check"]["violations"] == 0
    assert report["check"]["counted"] == report["dry_blocks"] < report["callbacks"]
    assert report["reconnects"] == 1


def test_several_at_once(built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(gain=0.25) as gain:
        monkeypatch.setenv("STEMWIRE_PLUGIN_SERVER", gain.url)
        report = built.host(seconds=3, instances=4, gain=0.75, set="Delay=200")
    assert report["check"]["violations"] == 0
    assert report["status"] == "separating"
