"""MIDI through real ports: JACK's dummy server and RtMidi, with controllers in other processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.jack_server import JackServer, jack_server, need_jack
from support.midi import Controller, Session, bend, cc, note

need_jack("jack", "rtmidi")

from stemwire.bridge.midi import ports as midi_ports  # noqa: E402
from stemwire.bridge.midi import process as midi_process  # noqa: E402
from stemwire.bridge.midi.control import MidiControl, list_ports, load_mapping  # noqa: E402
from stemwire.bridge.midi.map import Binding, Mapping, position_to_db  # noqa: E402
from stemwire.bridge.midi.messages import Source  # noqa: E402
from stemwire.bridge.midi.process import select_ports, stable_name, unique_names  # noqa: E402
from stemwire.errors import ConfigError  # noqa: E402

PATIENCE = 60.0  # seconds; JACK alone takes 10 to drop a killed client


class Rig:
    """A session with MIDI, and the lines that were reported."""

    def __init__(self, port: int | str | None = None, **more: object) -> None:
        self.session, self.lines = Session(), list[str]()
        bindings = [Binding(Source("cc", 20), "instrumental"), Binding(Source("note", 1), "mute")]
        self.midi = MidiControl(
            self.session,
            Mapping(bindings),
            port,
            api="jack",
            report=self.lines.append,
            look_s=0.1,
            **more,  # type: ignore[arg-type]
        )

    def __enter__(self) -> Rig:
        return self

    def __exit__(self, *_: object) -> None:
        self.midi.close()

    def until(self, condition: Callable[[], object]) -> None:
        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end, self.lines
            time.sleep(0.01)

    def wait_for_ports(self, *ports: str) -> None:
        self.until(lambda: self.midi.ports == ports)

    def wait_for_connection(self, controller: Controller) -> None:
        """Wait until the controller is connected: JACK reports it a period or two too early."""
        before, end = self.midi.messages, time.monotonic() + PATIENCE
        while self.midi.messages == before:
            assert time.monotonic() < end, self.lines
            controller.send(cc(119, 0))
            time.sleep(0.05)
        time.sleep(0.05)

    def check_fader(self, controller: Controller) -> None:
        """Check that a fader of the controller steers the session, from any position."""
        self.wait_for_connection(controller)
        controller.send(cc(20, 0), cc(20, 127))
        self.until(lambda: self.session.control("instrumental") == 12.0)
        controller.send(cc(20, 60))
        self.until(lambda: self.session.control("instrumental") == position_to_db(60 / 127))

    def expect_report(self, text: str) -> None:
        self.until(lambda: any(text in line for line in list(self.lines)))


@pytest.fixture(scope="module")
def server() -> Iterator[JackServer]:
    with jack_server() as running:
        yield running


def test_a_fader_and_a_button_steer(server: JackServer) -> None:
    with Controller("nano") as nano, Rig("nano:faders") as rig:
        rig.wait_for_ports(nano.name)
        rig.wait_for_connection(nano)
        before = rig.midi.messages
        nano.send(cc(20, 0), cc(20, 127), b"\xf8", b"\xfe", b"\xf0\x7e\x01\xf7", note(1, 100))
        rig.until(lambda: rig.session.control("mute") == 1.0)
        assert rig.session.control("instrumental") == 12.0
        assert rig.midi.api == "jack"
        assert rig.midi.messages == before + 3 and rig.midi.full == 0
        assert rig.lines == ["MIDI: listening to port nano:faders (JACK)"]


def test_a_port_that_disappears_and_returns(server: JackServer) -> None:
    with Rig("NANO") as rig:
        rig.expect_report(
            "there is no MIDI input 'NANO' (available: none); it is opened as soon as it appears"
        )
        for _ in range(2):
            with Controller("other"), Controller("my nano") as nano:
                rig.wait_for_ports(nano.name)
                rig.check_fader(nano)
            rig.wait_for_ports()
            rig.expect_report("MIDI: my nano:faders has disappeared; looking for it")
            rig.session.panel.steer("instrumental", -30.0)


def test_all_inputs_or_one_by_its_number(server: JackServer) -> None:
    with Controller("one") as one, Controller("two") as two:
        listing = list_ports("jack")
        assert (listing.api, listing.ports) == ("jack", (one.name, two.name))
        with Rig() as rig, Rig(1) as second, Rig(2) as third:
            rig.wait_for_ports(one.name, two.name)
            second.wait_for_ports(two.name)
            third.expect_report("there is no MIDI input 2 (available: one:faders, two:faders)")
            rig.check_fader(one)
            rig.check_fader(two)
            one.unplug()
            rig.wait_for_ports(two.name)
            second.check_fader(two)  # its number has changed
            with Controller("three") as three:
                rig.wait_for_ports(two.name, three.name)
                assert second.midi.ports == (two.name,) and third.midi.ports == ()


def test_a_virtual_port(server: JackServer) -> None:
    with Rig("virtual") as rig:
        rig.wait_for_ports("Stemwire")
        with Controller("program", "Stemwire:Stemwire") as program:
            rig.check_fader(program)


@pytest.mark.slow
@pytest.mark.parametrize("kill", [True, False])
@pytest.mark.parametrize("port", ["virtual", "nano"])
def test_the_server_ends_and_restarts(port: str, kill: bool, server: JackServer) -> None:
    to = ["Stemwire:Stemwire"] if port == "virtual" else []
    name = "Stemwire" if port == "virtual" else "nano:faders"
    with Rig(port) as rig:
        if port == "virtual":
            rig.wait_for_ports(name)
        with Controller("nano", *to) as nano:
            rig.wait_for_ports(name)
            rig.check_fader(nano)
            server.kill() if kill else server.stop()
            rig.wait_for_ports()
        rig.expect_report("MIDI: the JACK server has ended; looking for it")
        server.restart()
        if port == "virtual":
            rig.wait_for_ports(name)
        with Controller("nano", *to) as nano:
            rig.wait_for_ports(name)
            rig.check_fader(nano)
    assert not any("failed" in line for line in rig.lines), rig.lines


def test_learning_through_a_port(server: JackServer, tmp_path: Path) -> None:
    path = tmp_path / "map.json"
    with Controller("nano") as nano, Rig("nano", path=path) as rig:
        rig.wait_for_ports(nano.name)
        rig.wait_for_connection(nano)
        rig.midi.learn("vocals")
        assert rig.midi.learning == "vocals"
        nano.send(bend(4_000, 5))
        rig.until(path.exists)
        learnt = Binding(Source("bend", 0, 5), "vocals")
        assert rig.midi.learning is None
        assert load_mapping(path).bindings == rig.midi.mapping.bindings
        assert rig.midi.mapping.bindings[-1] == learnt
        nano.send(bend(0, 5), bend(16_383, 5))
        rig.until(lambda: rig.session.control("vocals") == 12.0)
        rig.midi.learn("output", seconds=0.3)
        rig.expect_report("MIDI: no control was moved for output; its bindings are unchanged")
        rig.midi.learn("output")
        rig.midi.cancel()
        assert rig.midi.learning is None
        rig.midi._path = tmp_path / "map.json" / "nowhere.json"
        rig.midi.learn("mute")
        nano.send(note(3, 3))
        rig.expect_report("the MIDI map cannot be saved")


def test_overflow_is_counted(server: JackServer) -> None:
    got, lines = list[bytes](), list[str]()
    ports = midi_ports.Ports(
        "nano", "jack", lambda port, data: got.append(data), lines.append, look_s=0.1, ring=8
    )
    try:
        with Controller("nano") as nano:
            end = time.monotonic() + PATIENCE
            while not ports.opened and time.monotonic() < end:
                time.sleep(0.01)
            for _ in range(20):
                nano.send(*(cc(20, value) for value in range(128)))
            while not ports.full and time.monotonic() < end:
                time.sleep(0.01)
            time.sleep(0.3)
            assert 0 < ports.messages == len(got) < 20 * 128
            assert lines[-1] == "MIDI: nano:faders sends too fast; some of it is lost"
    finally:
        ports.close()


def test_closing_ends_the_process_at_once(server: JackServer) -> None:
    rig = Rig("virtual")
    rig.wait_for_ports("Stemwire")
    process = rig.midi._ports._process
    before = time.monotonic()
    rig.midi.close()
    assert process.returncode == 0 and time.monotonic() - before < 1.5
    rig.midi.close()  # may be repeated


def test_the_process_ends_with_ours(server: JackServer) -> None:
    code = """
import os, time
from stemwire.bridge.midi.ports import Ports
ports = Ports("virtual", "jack", print, print, look_s=0.1)
while not ports.opened:
    time.sleep(0.01)
print("pid", ports._process.pid, flush=True)
os._exit(1)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    pid, end = int(done.stdout.split("pid")[1]), time.monotonic() + PATIENCE
    while Path(f"/proc/{pid}").exists() and "State:\tZ" not in _status(pid):
        assert time.monotonic() < end
        time.sleep(0.02)


def _status(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return ""


def test_without_a_server_it_waits(monkeypatch: pytest.MonkeyPatch, server: JackServer) -> None:
    name = os.environ["JACK_DEFAULT_SERVER"]
    monkeypatch.setenv("JACK_DEFAULT_SERVER", f"{name}_not_there")
    with pytest.raises(
        ConfigError, match=r"MIDI is unavailable \(JACK: .*\); JACK needs a running server"
    ):
        list_ports("jack")
    with Rig() as rig:
        rig.expect_report("MIDI is unavailable")
        assert rig.midi.api == "" and rig.midi.ports == ()


@pytest.mark.skipif(Path("/dev/snd/seq").exists(), reason="ALSA has a sequencer here, and is taken")
def test_the_chosen_backend_is_reported(
    monkeypatch: pytest.MonkeyPatch, server: JackServer
) -> None:
    listing = list_ports()
    assert listing.api == "jack" and "ALSA sequencer" in listing.refused["alsa"]
    lines: list[str] = []
    with MidiControl(Session(), Mapping(), report=lines.append) as midi:
        end = time.monotonic() + PATIENCE
        while not midi.api and time.monotonic() < end:
            time.sleep(0.01)
        time.sleep(0.1)
        assert lines[0].startswith("MIDI uses JACK, not ALSA: error creating ALSA")
    monkeypatch.setenv("STEMWIRE_MIDI_API", "jack")
    assert list_ports().refused == {}


@pytest.mark.parametrize("api", ["midi", "JACK"])
def test_an_unknown_backend(api: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="is unknown; use one of alsa, jack, core, winmm"):
        list_ports(api)
    monkeypatch.setenv("STEMWIRE_MIDI_API", api)
    with pytest.raises(ConfigError, match="is unknown"):
        MidiControl(Session(), Mapping())


def test_a_backend_that_is_not_compiled_in(server: JackServer) -> None:
    with pytest.raises(ConfigError, match="CoreMIDI: python-rtmidi was built without it, but with"):
        list_ports("core")


@pytest.mark.slow
def test_a_killed_process_is_restarted(server: JackServer) -> None:
    with Controller("nano") as nano, Rig("nano") as rig:
        rig.wait_for_ports(nano.name)
        os.kill(rig.midi._ports._process.pid, signal.SIGKILL)
        rig.expect_report("MIDI has failed (status -9) and is being restarted")  # and JACK is slow
        rig.wait_for_ports(nano.name)
        rig.check_fader(nano)


def test_without_rtmidi_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(midi_ports, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"python-rtmidi .*pip install 'stemwire\[live\]'"):
        MidiControl(Session(), Mapping())


def test_windows_has_no_virtual_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(midi_ports.sys, "platform", "win32")
    with pytest.raises(ConfigError, match="loopMIDI"):
        MidiControl(Session(), Mapping(), "virtual")


def test_names_of_ports() -> None:
    names = ["Midi Through:Midi Through Port-0 14:0", "nano MIDI 1 20:0", "nano 2 24:0"]
    assert select_ports(None, names) == names[1:]
    assert (
        select_ports(1, names) == names[1:2]
        and select_ports(3, names) == select_ports(-1, names) == []
    )
    assert select_ports("nano 2", names) == select_ports("NANO 2", names) == names[2:]
    assert select_ports("nano", names) == names[1:2] and select_ports("piano", names) == []
    assert stable_name(names[1]) == "nano MIDI 1" and stable_name("synth:out") == "synth:out"
    assert unique_names(["a", "b", "a", "a"]) == ["a", "b", "a (2)", "a (3)"]


def test_the_process_imports_next_to_nothing() -> None:
    """So it starts quickly and uses little memory."""
    code = (
        "import sys, json; sys.argv = ['x']; exec(open(sys.path.pop()).read().split('def main')[0])"
        "; print(json.dumps([name for name in sys.modules if name in ('numpy', 'stemwire')]))"
    )
    command = [
        sys.executable,
        "-P",
        "-c",
        code.replace("sys.path.pop()", repr(midi_process.__file__)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
