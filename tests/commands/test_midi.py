"""`stemwire midi`, with real ports."""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
from support.jack_server import JackServer, jack_server, need_jack
from support.midi import Controller, bend, cc, note

need_jack("jack", "rtmidi")


from stemwire.commands import midi as midi_command  # noqa: E402
from stemwire.errors import ConfigError  # noqa: E402

COMMAND = """
import argparse, sys
from stemwire.commands import midi as midi_command
from stemwire.errors import StemwireError
parser = argparse.ArgumentParser()
commands, common = parser.add_subparsers(required=True), argparse.ArgumentParser(add_help=False)
midi_command.add_parsers(commands, common)
args = parser.parse_args()
try:
    sys.exit(args.run(args))
except StemwireError as error:
    sys.exit(str(error))
"""


@pytest.fixture(scope="module")
def server() -> Iterator[JackServer]:
    with jack_server() as running:
        yield running


def parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    midi_command.add_parsers(
        parser.add_subparsers(required=True), argparse.ArgumentParser(add_help=False)
    )
    return parser.parse_args(["midi", *arguments])


def run(*arguments: str) -> int:
    args = parse(*arguments)
    status: int = args.run(args)
    return status


class Command:
    """`stemwire midi` in a process, and the lines that it prints."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", COMMAND, "midi", "--api", "jack", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def line(self) -> list[str]:
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n").split("\t")

    def report(self) -> str:
        assert self.process.stderr is not None
        return self.process.stderr.readline()

    def stop(self) -> tuple[int, str]:
        """Ctrl-C; (exit status, standard error)."""
        self.process.send_signal(signal.SIGINT)
        _, errors = self.process.communicate(timeout=20)
        return self.process.returncode, errors


def until_shown(shown: Command, controller: Controller) -> None:
    """A connection takes a period or two to work: send until a message arrives."""
    came = threading.Event()

    def send() -> None:
        while not came.is_set():
            controller.send(cc(119, 1))
            time.sleep(0.1)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        assert shown.line()[1:] == ["CC", "1", "119", "1"]
    finally:
        came.set()
        sender.join()
    controller.send(cc(119, 2))
    while shown.line()[4] != "2":
        pass


def test_inputs_are_listed(server: JackServer, capsys: pytest.CaptureFixture[str]) -> None:
    with Controller("one"), Controller("two"):
        assert run("--api", "jack") == 0
    out, errors = capsys.readouterr()
    assert out.splitlines() == ["number\tinput", "0\tone:faders", "1\ttwo:faders"]
    assert errors == "MIDI through JACK: 2 inputs\n"


def test_messages_are_shown_until_ctrl_c(server: JackServer) -> None:
    with Controller("nano") as nano:
        shown = Command("--show", "nano")
        assert shown.line() == ["port", "kind", "channel", "number", "value"]
        assert shown.report() == "MIDI: listening to port nano:faders (JACK)\n"
        until_shown(shown, nano)
        nano.send(cc(7, 100, 3), note(60, 64), note(60, 0), bend(8_192, 2), b"\xf8", b"\xc0\x05")
        assert [shown.line() for _ in range(5)] == [
            ["nano:faders", "CC", "3", "7", "100"],
            ["nano:faders", "note on", "1", "60", "64"],
            ["nano:faders", "note off", "1", "60", "0"],
            ["nano:faders", "pitch bend", "2", "", "8192"],
            ["nano:faders", "program", "1", "", "5"],
        ]
        assert shown.stop() == (0, "")


def test_a_virtual_port_is_shown(server: JackServer) -> None:
    shown = Command("--virtual")
    shown.line()
    assert shown.report() == "MIDI: listening to virtual port Stemwire (JACK)\n"
    with Controller("program", "Stemwire:Stemwire") as program:
        until_shown(shown, program)
    assert shown.stop() == (0, "")


def test_inputs_plugged_in_later_are_shown(server: JackServer) -> None:
    shown = Command("--show")
    shown.line()
    assert "there is no MIDI input (available: none)" in shown.report()
    with Controller("late") as late:
        assert shown.report() == "MIDI: listening to port late:faders (JACK)\n"
        until_shown(shown, late)
    assert shown.report() == "MIDI: late:faders has disappeared; looking for it\n"
    assert shown.stop() == (0, "")


def test_it_ends_when_its_reader_does(server: JackServer) -> None:
    with Controller("nano") as nano:
        shown = Command("--show", "0")
        shown.line()
        shown.report()
        until_shown(shown, nano)
        assert shown.process.stdout is not None
        shown.process.stdout.close()
        end = time.monotonic() + 20
        while shown.process.poll() is None and time.monotonic() < end:
            nano.send(cc(1, 1))
            time.sleep(0.1)
        assert shown.process.returncode  # which `main` handles, as for all commands
        assert shown.process.stderr is not None
        assert "BrokenPipeError" in shown.process.stderr.read()


def test_bad_arguments() -> None:
    with pytest.raises(ConfigError, match="leave out either"):
        run("--virtual", "--show", "nano")
    with pytest.raises(ConfigError, match="MIDI backend 'oss' is unknown"):
        run("--show", "--api", "oss")


def test_adding_the_command_imports_no_rtmidi() -> None:
    code = COMMAND.split("args =")[0] + (
        "sys.exit(sum(name in sys.modules for name in ('rtmidi', 'stemwire.bridge.midi.ports')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
