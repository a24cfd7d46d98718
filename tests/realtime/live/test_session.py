"""Live sessions on a real sound server: output, latency, and recovery from failures."""

# ruff: noqa: E402 - nothing is imported where there can be no sound server
from __future__ import annotations

import gc
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from support import Audio, music, noise
from support.jack_server import HOST_API, JackServer, VirtualCard, jack_server, need_jack

need_jack()

import stemwire
from stemwire import LiveSession
from stemwire.errors import AudioDeviceError, CheckpointError, ConfigError
from stemwire.realtime.levels import OFF, STEMS
from stemwire.realtime.live.devices import find_device, rescan, sounddevice
from stemwire.realtime.live.drift import DriftCorrector
from stemwire.realtime.live.session import _ProcessPlayer

RATE, BLOCK = 44_100, 512
MODES = [pytest.param(True, id="process"), pytest.param(False, id="thread")]


@pytest.fixture
def server() -> Iterator[JackServer]:
    with jack_server(RATE, BLOCK) as running:
        yield running


def until(true: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def offline(song: Audio, preset: str = "standard") -> Audio:
    """The stems that `stemwire separate` would write, (2, 2, n)."""
    separator = stemwire.load(preset, RATE, 2)
    return np.concatenate((separator.push(song), separator.flush()), 2)[..., separator.latency :]


def find(song: Audio, heard: Audio) -> int:
    """Samples by which `heard` is later than `song`."""
    size = 1 << (song.shape[1] + heard.shape[1]).bit_length()
    spectrum = np.fft.rfft(heard[0], size) * np.conj(np.fft.rfft(song[0], size))
    return int(np.argmax(np.fft.irfft(spectrum, size)[: heard.shape[1]]))


def driver_delay(card: VirtualCard) -> int:
    """Samples by which a stream that only copies is late: the sound server's own delay."""
    rescan()
    sd, number = sounddevice(), find_device(card.name, "input").number

    def copy(taken: Audio, given: Audio, *_: object) -> None:
        given[:] = taken

    song = noise(RATE)
    with sd.Stream(RATE, BLOCK, (number, number), 2, "float32", latency="low", callback=copy):
        return find(song, card.run(song, tail=BLOCK * 8))


@pytest.mark.slow
@pytest.mark.parametrize("process", MODES)
def test_the_stems_are_those_of_the_offline_command(server: JackServer, process: bool) -> None:
    song = 0.5 * music(RATE * 3, RATE)
    # The session has heard silence when the song begins: as much as the network can look back to.
    song = np.pad(song, ((0, 0), (8 * RATE, 0)))
    with VirtualCard("songs") as card:
        driver = driver_delay(card)
        session = LiveSession("songs", "songs", freewheel=True, process=process)
        with session:
            status = session.status()
            with card.freewheel():
                heard = card.run(song, tail=BLOCK * 8)
            delay = find(offline(song)[1], heard)
            assert session.status().counters["misses"] == 0
        wanted = offline(song)[1]
        begun = 8 * RATE
        np.testing.assert_array_equal(
            heard[:, delay + begun : delay + wanted.shape[1]], wanted[:, begun:]
        )
        assert delay == status.delay + driver
        assert status.delay == 2 * 512 + BLOCK


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["standard", "low"])
def test_in_real_time_the_delay_is_as_reported(server: JackServer, preset: str) -> None:
    song = noise(RATE * 4)
    with VirtualCard("songs") as card:
        driver = driver_delay(card)
        with LiveSession("songs", "songs", preset) as session:
            session.steer("vocals", 0)
            heard = card.run(song, tail=BLOCK * 8)
            status = session.status()
        assert find(song, heard) == status.delay + driver
        hop = stemwire.load(preset, RATE).hop
        assert status.delay == 2 * hop + BLOCK
        assert status.state == "playing" and status.counters["samples"] >= song.shape[1]
        assert status.hop_ms["p50"] > 0 and status.cpu_share > 0


@pytest.mark.slow
def test_two_devices_with_streams_of_their_own(
    server: JackServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Devices of different host APIs are joined by the drift corrector; here two of JACK's are."""
    monkeypatch.setattr("stemwire.realtime.live.devices.JACK", "no host API has this name")
    song = noise(RATE * 4)
    with (
        VirtualCard("tape") as tape,
        VirtualCard("desk") as desk,
        LiveSession("tape", "desk", process=False) as session,
    ):
        session.steer("bypass", 1)
        until(lambda: session.status().seconds > 6, 40)  # the loop has settled
        desk.start(np.zeros_like(song), tail=BLOCK * 40)
        tape.start(song, tail=BLOCK * 40)
        assert desk.finished.wait(60)
        status = session.status()
    assert status.delays["resampler"] > BLOCK and abs(status.drift_ppm) < 100
    assert status.microphone_delay == status.delays["resampler"]
    assert status.counters["skipped"] == status.counters["bad_input"] == 0
    # The cards may have begun some periods apart.
    away = find(song, desk.recorded) - status.delay
    assert abs((away + BLOCK // 2) % BLOCK - BLOCK // 2) <= 10, away


@pytest.mark.slow
def test_an_input_that_gives_nothing_is_counted_and_looked_for(
    server: JackServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unplugged input whose driver says nothing, while the output plays on."""
    monkeypatch.setattr("stemwire.realtime.live.devices.JACK", "no host API has this name")
    with (
        VirtualCard("tape"),
        VirtualCard("desk"),
        LiveSession("tape", "desk", process=False) as session,
    ):
        until(lambda: session.status().seconds > 2)
        assert session.status().counters["overruns"] == 0
        with monkeypatch.context() as patch:
            patch.setattr(DriftCorrector, "write", lambda self, block: None)
            until(lambda: session.status().state == "reconnecting")
            assert session.status().counters["underruns"] > 0
            assert any("has delivered no audio for 2 s" in line for line in session.messages())
        until(lambda: session.status().state == "playing")


@pytest.mark.slow
def test_the_singer_is_heard_without_the_separators_delay(server: JackServer) -> None:
    voice = noise(RATE * 2, 1)
    song = np.concatenate((np.zeros((2, voice.shape[1]), np.float32), voice))
    with (
        VirtualCard("songs", inputs=3) as card,
        LiveSession(
            "songs", "songs", microphone_channels=(3,), effects={"microphone": ""}, freewheel=True
        ),
        card.freewheel(),
    ):
        heard = card.run(song, tail=BLOCK * 4)
    late = find(voice, heard)
    assert late <= 2 * BLOCK  # the sound server's
    begun = slice(RATE // 4, RATE)
    wanted = np.repeat(voice[:, begun], 2, 0)
    np.testing.assert_allclose(heard[:, late:][:, begun], wanted, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("process", MODES)
def test_a_server_that_dies_and_comes_back(server: JackServer, process: bool) -> None:
    with LiveSession("system", "system", process=process) as session:
        until(lambda: session.status().counters["blocks"] > 10)
        server.kill()
        until(lambda: session.status().state == "reconnecting")
        assert any("looking for it again" in line for line in session.messages())
        server.restart()
        until(lambda: session.status().state == "playing")
        before = session.status().counters["blocks"]
        until(lambda: session.status().counters["blocks"] > before + 10)
        assert any("is back" in line for line in session.messages())
        assert session.status().counters["reconnects"] == 1
    rescan()
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & {signal.SIGINT, signal.SIGTERM}


@pytest.mark.slow
def test_a_playing_process_that_dies_ends_the_session_with_a_reason(server: JackServer) -> None:
    with LiveSession("system", "system") as session:
        half = session._player
        assert isinstance(half, _ProcessPlayer) and half._process.pid is not None
        os.kill(half._process.pid, signal.SIGKILL)
        with pytest.raises(AudioDeviceError, match=r"ended with status -9.*remove effects"):
            session.wait(20)
        assert session.status().state == "stopped"
    with pytest.raises(ConfigError, match="started only once"):
        session.start()


@pytest.mark.slow
def test_a_full_disk_ends_the_recording_and_not_the_music(
    server: JackServer, tmp_path: Path
) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with LiveSession("system", "system", record=tmp_path, process=False) as session:
        until(lambda: bool(session.status().recording))
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, before[1]))
        try:
            until(lambda: not session.status().recording)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert any("recording has stopped after" in line for line in session.messages())
        blocks = session.status().counters["blocks"]
        until(lambda: session.status().counters["blocks"] > blocks + 20)
        session.record(tmp_path)
        until(lambda: "take-002" in session.status().recording)


@pytest.mark.slow
def test_a_recording_is_what_was_heard(server: JackServer, tmp_path: Path) -> None:
    song = noise(RATE * 2)
    with (
        VirtualCard("songs") as card,
        LiveSession("songs", "songs", record=tmp_path, freewheel=True),
        card.freewheel(),
    ):
        heard = card.run(song, tail=BLOCK * 8)
    files = {file.stem: file for file in tmp_path.rglob("*.wav")}
    mix = soundfile.read(files["mix"], dtype="float32")[0].T
    late = find(np.pad(mix, ((0, 0), (RATE, 0))), np.pad(heard, ((0, 0), (2 * RATE, 0)))) - RATE
    begun, count = max(0, -late), RATE  # which of them began first is chance
    np.testing.assert_array_equal(
        mix[:, begun : begun + count], heard[:, begun + late :][:, :count]
    )
    assert np.abs(mix[:, begun : begun + count]).max() > 0.1
    stems = [soundfile.read(files[name], dtype="float32")[0].T for name in STEMS]
    assert {stem.shape for stem in stems} == {mix.shape}


@pytest.mark.slow
def test_a_minute_in_real_time(server: JackServer) -> None:
    """Whatever else the machine does: no click, no growth, and what is late is counted."""
    song = 0.3 * music(RATE * 60, RATE)
    with VirtualCard("songs") as card, LiveSession("songs", "songs") as session:
        card.start(song, tail=BLOCK * 8)
        until(lambda: session.status().seconds > 10, 40)
        before = session.status().memory_bytes
        assert card.finished.wait(120)
        status = session.status()
    heard = card.recorded[:, RATE // 4 :]
    instrumental = offline(song)[1]
    jumps = [float(np.abs(np.diff(audio)).max()) for audio in (heard, song, instrumental)]
    lost = card.xruns + status.counters["xruns"]  # the server's own, which no program can conceal
    assert status.memory_bytes - before < 4e6
    counters = status.counters
    assert counters["skipped"] == counters["bad_input"] == counters["clipped"] == 0
    assert counters["concealed"] <= BLOCK * counters["misses"]
    if lost:
        pytest.skip(f"the server itself lost samples {lost} times: jumps say nothing")
    assert jumps[0] <= 1.05 * max(jumps[1:])


@pytest.mark.slow
def test_presets_are_changed_while_it_plays(server: JackServer) -> None:
    with LiveSession("system", "system") as session:
        session.change_preset("low")
        until(lambda: session.status().preset == "low")
        # The worker's share stays what it was at the start.
        assert session.status().delay == stemwire.load("low", RATE, 2, BLOCK).latency + BLOCK + 512
        with pytest.raises((ConfigError, CheckpointError), match="nothing"):
            session.change_preset("nothing")


@pytest.mark.slow
def test_of_presets_asked_for_at_once_the_last_one_plays(server: JackServer) -> None:
    with LiveSession("system", "system") as session:
        for name in ("low", "standard", "low", "standard", "low"):
            session.change_preset(name)
        until(lambda: session.status().preset == "low")
        session.change_preset("standard")
        session.change_preset("low")
        time.sleep(4)
        assert session.status().preset == "low"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"input": "songs", "sample_rate": 48_000}, "48000 Hz"),
        ({"input": "songs", "channels": (1, 9)}, "9 input channels"),
        ({"input": "no such card"}, "no such card"),
    ],
)
@pytest.mark.parametrize("process", MODES)
def test_devices_that_cannot(
    server: JackServer, process: bool, arguments: dict[str, object], said: str
) -> None:
    with VirtualCard("songs"), pytest.raises(AudioDeviceError, match=said):
        LiveSession(output="songs", process=process, **arguments).start()  # type: ignore[arg-type]
    assert gc.isenabled() and "stemwire-worker" not in [t.name for t in threading.enumerate()]


def test_arguments_that_cannot_work() -> None:
    for wrong in (
        {"channels": (0,)},
        {"block_size": 3},
        {"effects": {"drums": "Reverb"}},
        {"vocals": 40.0},
        {"preset": "nothing"},
        {"margin": -1},
    ):
        with pytest.raises((ConfigError, CheckpointError)):
            LiveSession(process=False, **wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="process=False"):
        LiveSession(effects={"vocals": [object()]})


COMMAND = [
    sys.executable,
    "-m",
    "stemwire.cli",
    "live",
    "--no-ui",
    "--input",
    "system",
    "--output",
    f"system@{HOST_API}",
]


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STEMWIRE_CONFIG_DIR", str(tmp_path))
    return tmp_path / "live.json"


@pytest.mark.slow
def test_the_command_tells_how_things_stand_and_ends_with_ctrl_c(
    server: JackServer, settings: Path
) -> None:
    process = subprocess.Popen(
        [*COMMAND, "--vocals=-30"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    lines = [json.loads(process.stdout.readline()) for _ in range(3)]
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=20)
    assert process.returncode == 0, stderr
    assert "Traceback" not in stderr
    status = next(line for line in lines if "state" in line)
    assert status["state"] == "playing" and status["controls"]["vocals"] == -30
    assert status["controls"]["instrumental"] == 0 and status["delays"]["worker"] == BLOCK + 512
    assert json.loads(settings.read_text())["vocals_db"] == -30
    assert OFF not in status["controls"].values()


@pytest.mark.slow
def test_settings_are_kept_and_recordings_told_of(server: JackServer, settings: Path) -> None:
    effect = "vocals=Resample target_sample_rate=22050"
    chosen = [
        "--margin",
        "700",
        "--preset",
        "low",
        "--effect",
        effect,
        "--record",
        str(settings.parent),
    ]
    found = []
    for arguments in (chosen, []):
        done = subprocess.run(
            [*COMMAND, "--seconds", "1", *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert ("recorded to" in done.stdout + done.stderr) == bool(arguments)
        found.append(json.loads(done.stdout.splitlines()[-1]))
    assert found[0]["delays"] == found[1]["delays"] and found[1]["preset"] == "low"
    assert found[1]["delays"]["worker"] == 700 and found[1]["delays"]["effects"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.5])
def test_ctrl_c_at_any_moment(server: JackServer, settings: Path, seconds: float) -> None:
    """As a terminal sends it: to all processes of the command, from when there is more than one."""
    process = subprocess.Popen(
        COMMAND, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    until(lambda: bool(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()))
    time.sleep(seconds)
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=8)
    assert process.returncode in (0, 130), stderr
    assert "Traceback" not in stderr and "leaked" not in stderr
    until(lambda: not is_group(process.pid))


def is_group(number: int) -> bool:
    try:
        os.killpg(number, 0)
    except ProcessLookupError:
        return False
    return True
