"""Devices of a real sound server: lookup by name, disappearance and return."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np
import pytest
from support import noise
from support.jack_server import HOST_API, VirtualCard, jack_server, need_jack

from stemwire.commands import devices as devices_command
from stemwire.errors import AudioDeviceError

need_jack("sounddevice")

from stemwire.realtime.live import devices  # noqa: E402

# PortAudio 19.6 takes names for patterns, so there are no brackets in these.
CARDS = (("Line In", 2, 0), ("Speakers", 0, 2), ("Mixer 3x2", 3, 2), ("Mixer", 8, 8))


@pytest.fixture(scope="class")
def cards() -> Iterator[dict[str, devices.Device]]:
    with jack_server() as server:
        plugged = [VirtualCard(*card) for card in CARDS]
        devices.rescan()
        yield {device.name: device for device in devices.list_devices()}
        devices.rescan()
        for card in plugged:
            card.close()
        assert server.pid is not None


def listing(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers()
    devices_command.add_parsers(commands, argparse.ArgumentParser(add_help=False))
    args = parser.parse_args(["devices", *arguments])
    status: int = args.run(args)
    return status


class TestCards:
    """With one server for all: libjack tolerates one at a time."""

    def test_all_are_listed_with_what_they_can_do(self, cards: dict[str, devices.Device]) -> None:
        assert {"system", *(name for name, _, _ in CARDS)} <= set(cards)
        for name, inputs, outputs in CARDS:
            card = cards[name]
            assert (card.inputs, card.outputs) == (inputs, outputs)
            assert (card.host_api, card.sample_rate) == (HOST_API, 44_100)
            assert card.channels("input") == inputs and card.channels("output") == outputs
        assert sum(device.default_input for device in cards.values()) <= 1
        assert [device.number for device in cards.values()] == list(range(len(cards)))

    @pytest.mark.parametrize(
        "which, direction, name",
        [
            ("Mixer", "input", "Mixer"),  # whole names go before parts of others
            ("mixer", "output", "Mixer"),
            ("  3X2 ", "input", "Mixer 3x2"),
            ("line", "input", "Line In"),
            (f"Speakers@{HOST_API}", "output", "Speakers"),
            ("speak@jack", "output", "Speakers"),
            ("mixer@jack audio", "output", "Mixer"),
        ],
    )
    def test_a_device_is_found_by_name(
        self, cards: dict[str, devices.Device], which: str, direction: devices.Direction, name: str
    ) -> None:
        found = devices.find_device(which, direction)
        assert found == cards[name]
        assert devices.find_device(found.number, direction) == found
        assert devices.find_device(f" {found.number}", direction) == found
        assert devices.find_device(str(found), direction) == found

    def test_what_fits_one_direction_only_is_no_riddle(
        self, cards: dict[str, devices.Device]
    ) -> None:
        assert devices.find_device("e", "output", 8).name == "Mixer"
        assert devices.find_device("mix", "input", channels=4).name == "Mixer"  # the other has 3

    @pytest.mark.parametrize("which", [None, "jack", "@jack"])
    @pytest.mark.parametrize("direction", ["input", "output"])
    def test_a_default_is_taken_where_none_is_named(
        self, cards: dict[str, devices.Device], which: str | None, direction: devices.Direction
    ) -> None:
        assert devices.find_device(which, direction).name == "system"  # the first there was

    @pytest.mark.parametrize(
        "which, direction, channels, message",
        [
            ("Tuba", "input", 1, r"no input device is called 'Tuba'; use .*Line In@JACK"),
            ("Mix", "input", 1, r"'Mix' can be several input devices; .*Mixer 3x2@.*, \d \(Mixer@"),
            ("line", "output", 1, r"Line In@.*has 0 output channels, not 1; use .*Speakers"),
            ("3x2", "input", 4, r"Mixer 3x2@.* has 3 input channels, not 4; use \d \(Mixer@JACK"),
            (99, "input", 1, r"no device has the number 99; use 0 \("),
            ("-1", "input", 1, r"no input device is called '-1'"),
            (-1, "input", 1, r"no device has the number -1"),
            ("Mixer", "input", 9, r"no input device with 9 input channels; the largest has 8"),
            ("Mixer@ALSA", "input", 1, r"no input device is called 'Mixer@ALSA'; use "),
        ],
    )
    def test_what_cannot_be_found_is_explained(
        self,
        cards: dict[str, devices.Device],
        which: int | str,
        direction: devices.Direction,
        channels: int,
        message: str,
    ) -> None:
        with pytest.raises(AudioDeviceError, match=message):
            devices.find_device(which, direction, channels)

    def test_rates_are_those_that_streams_open_at(self, cards: dict[str, devices.Device]) -> None:
        assert devices.supported_rates(cards["Speakers"], "output") == (44_100,)
        assert devices.supported_rates(cards["Mixer 3x2"], "input", (48_000, 44_100)) == (44_100,)
        sd = devices.sounddevice()
        for rate in (44_100, 48_000):
            try:
                sd.OutputStream(rate, 512, cards["Speakers"].number, 2).close()
                opened = True
            except sd.PortAudioError:
                opened = False
            assert opened == (rate == 44_100)

    def test_the_command_prints_lines_for_programs(
        self, cards: dict[str, devices.Device], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert listing() == 0
        lines = capsys.readouterr().out.splitlines()
        rows = [
            dict(zip(lines[0].split("\t"), line.split("\t"), strict=True)) for line in lines[1:]
        ]
        assert len(rows) == len(cards)
        row = next(row for row in rows if row["name"] == "Mixer 3x2")
        assert (row["inputs"], row["outputs"], row["host API"]) == ("3", "2", HOST_API)
        assert (row["input rates"], row["output rates"]) == ("44100", "44100")
        assert row["number"] == str(cards["Mixer 3x2"].number)
        row = next(row for row in rows if row["name"] == "Speakers")
        assert (row["latency in, ms"], row["input rates"]) == ("", "")
        assert listing("--no-rates") == 0
        assert all(line.endswith("\t\t") for line in capsys.readouterr().out.splitlines()[1:])

    def test_the_command_prints_a_table_for_people(
        self,
        cards: dict[str, devices.Device],
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        monkeypatch.setenv("COLUMNS", "200")
        assert listing() == 0
        shown = capsys.readouterr().out
        assert "\t" not in shown
        assert all(name in shown for name in cards)


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, **environment},
    )


def test_no_devices_at_all_is_said() -> None:
    done = run(
        "from stemwire.realtime.live.devices import find_device, list_devices\n"
        "print(len(list_devices()))\n"
        "try: find_device(None, 'input', 2)\n"
        "except Exception as error: print(type(error).__name__, error)",
        JACK_DEFAULT_SERVER="stemwire_none",
    )
    if not done.stdout.startswith("0\n"):
        pytest.skip("this machine has a sound card")
    assert "AudioDeviceError no input device with 2 input channels; plug one in" in done.stdout
    assert done.stderr == ""  # what ALSA and JACK say is kept away


def test_a_missing_package_is_named() -> None:
    hidden = "import sys; sys.modules['sounddevice'] = None\n"
    done = run(
        f"{hidden}from stemwire.realtime.live.devices import list_devices\n"
        "try: list_devices()\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    assert "ConfigError" in done.stdout and "pip install 'stemwire[live]'" in done.stdout


def play(card: VirtualCard) -> object:
    """A stream that gives back what comes in."""
    sd = devices.sounddevice()
    number = devices.find_device(card.name, "input").number

    def through(given: np.ndarray, wanted: np.ndarray, *_: object) -> None:
        wanted[:] = given

    stream = sd.Stream(
        card.rate, card.period, number, 2, "float32", latency="low", callback=through
    )
    stream.start()
    return stream


def is_heard(card: VirtualCard) -> bool:
    sent = noise(8_192)
    heard = card.run(sent, tail=4_096)
    return any(
        np.array_equal(heard[:, late : late + sent.shape[1]], sent)
        for late in range(0, 4_096, card.period)
    )


def names() -> set[str]:
    return {device.name for device in devices.list_devices()}


def test_a_freewheeling_card_loses_nothing() -> None:
    with jack_server(), VirtualCard("card") as card:
        devices.rescan()
        stream = play(card)
        for _ in range(3):
            with card.freewheel():
                assert is_heard(card)
        assert is_heard(card)  # and in real time again
        devices.close_stream(stream)


@pytest.mark.parametrize("cable", [1024, 3001])
def test_a_cable_is_as_long_as_it_says(cable: int) -> None:
    """What is played comes back; JACK's graph adds whole periods."""
    with jack_server(), VirtualCard("card", loopback=cable) as card:
        devices.rescan()
        sd, number = devices.sounddevice(), devices.find_device("card", "input").number
        sent, came = noise(16_384), np.zeros((2, 32_768), np.float32)
        at = 0

        def through(given: np.ndarray, wanted: np.ndarray, *_: object) -> None:
            nonlocal at
            part = sent[:, at : at + len(wanted)]
            wanted.fill(0.0)
            wanted[: part.shape[1]] = part.T
            room = came[:, at : at + len(given)]
            room[:] = given.T[:, : room.shape[1]]
            at += len(given)

        stream = sd.Stream(card.rate, card.period, number, 2, "float32", callback=through)
        with card.freewheel():
            stream.start()
            end = time.monotonic() + 10
            while at < came.shape[1] and time.monotonic() < end:
                time.sleep(0.01)
        devices.close_stream(stream)
        extra = [
            turns
            for turns in range(4)
            if np.array_equal(came[:, cable + turns * card.period :][:, : sent.shape[1]], sent)
        ]
        assert len(extra) == 1


def test_hot_plug_is_seen_after_a_rescan() -> None:
    with jack_server():
        devices.rescan()
        with VirtualCard("late") as card:
            assert "late" not in names()
            devices.rescan()
            assert "late" in names()
            stream = play(card)
            assert is_heard(card)
            devices.close_stream(stream)
        devices.rescan()
        assert "late" not in names() and "system" in names()


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_a_server_that_vanishes_is_borne_and_found_again(how: str) -> None:
    with jack_server() as server:
        for turn in range(3):
            card = VirtualCard("card")
            devices.rescan()
            stream = play(card)
            assert is_heard(card), f"turn {turn}"
            getattr(server, how)()
            start = time.monotonic()
            devices.close_stream(stream)
            for _ in range(3):  # what a session does until the device is back
                devices.rescan()
                assert "card" not in names()
            with pytest.raises(AudioDeviceError):
                devices.find_device("card", "input")
            assert time.monotonic() - start < devices.JACK_TIMEOUT_S
            card.close()
            server.restart()


def test_a_server_that_is_back_before_anyone_looks() -> None:
    with jack_server() as server:
        with VirtualCard("card") as card:
            devices.rescan()
            stream = play(card)
            server.kill()
            server.restart()
            devices.close_stream(stream)
        with VirtualCard("card") as card:
            devices.rescan()
            stream = play(card)
            assert is_heard(card)
            devices.close_stream(stream)


WAIT = """
from stemwire.realtime.live import devices
sd = devices.sounddevice()
stream = sd.InputStream(device=devices.find_device("system", "input").number,
                        callback=lambda *_: None)
stream.start()
print("playing", flush=True)
input()
"""


def test_a_program_ends_in_peace_after_its_server() -> None:
    """Left to itself, PortAudio aborts it."""
    with jack_server() as server:
        program = subprocess.Popen(
            [sys.executable, "-c", WAIT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert program.stdout is not None and program.stdout.readline() == "playing\n"
        server.kill()
        _, said = program.communicate("\n", timeout=30)
        assert (program.returncode, said) == (0, "")
