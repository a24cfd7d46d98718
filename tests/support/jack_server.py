"""Sound server without hardware, and virtual sound cards on it, for tests of live audio.

JACK's dummy driver is a real sound server with a clock of its own; PortAudio (sounddevice) and
RtMidi see its clients as devices of the host API "JACK Audio Connection Kit".

    need_jack("sounddevice")
    with jack_server() as server, VirtualCard("card", inputs=3, outputs=2) as card:
        devices.rescan()                       # or a subprocess: see below
        ...open a stream on "card", close it again...
        heard = card.run(song)                 # (3, n) in, (2, n) out

**PortAudio scans devices once, when it is initialised**, which `import sounddevice` does. A test
that starts a server or a card makes PortAudio scan again with
`stemwire.realtime.live.devices.rescan()` while no stream is open, or runs the tested code in a
subprocess, which finds the server by the environment that `jack_server` sets. `rescan` does more
than sounddevice's `_terminate()` and `_initialize()`, with which PortAudio aborts the process if
its JACK server has died.

Freewheel (`with card.freewheel():`) runs all clients as fast as they can without losing samples,
for tests of correctness. Real time is for tests of xruns, deadlines and latency; two JACK cards in
one process share the interpreter with the tested code, so keep callbacks short.
"""

from __future__ import annotations

import contextlib
import ctypes.util
import importlib.util
import itertools
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

Audio = NDArray[np.float32]

HOST_API = "JACK Audio Connection Kit"
PATIENCE = 15.0  # seconds to wait for a server on a busy machine
_numbers = itertools.count()
_running: list[str] = []


def need_jack(*packages: str) -> None:
    """Skip the test, or at the top of a file all its tests, if JACK cannot run.

    Args:
        packages: that it needs besides JACK-Client, such as "sounddevice" and "rtmidi".
    """

    def skip(reason: str) -> None:
        pytest.skip(reason, allow_module_level=True)

    if sys.platform != "linux":
        skip("the JACK server of these tests runs on Linux")
    if shutil.which("jackd") is None:
        skip("jackd is not installed: apt-get install jackd2")
    names = {"jack": "JACK-Client", "rtmidi": "python-rtmidi"}
    for package in ("jack", *packages):
        if importlib.util.find_spec(package) is None:
            skip(f"{names.get(package, package)} is not installed: pip install it")
    if "sounddevice" in packages and ctypes.util.find_library("portaudio") is None:
        skip("PortAudio is not installed: apt-get install libportaudio2")


class JackServer:
    """A running jackd; see `jack_server`."""

    def __init__(self, rate: int, period: int, channels: int, realtime: bool) -> None:
        self.rate, self.period, self.channels = rate, period, channels
        self._scheduling = ["-R", "-P", "10"] if realtime else ["-r"]
        self.name = f"stemwire_{os.getpid()}_{next(_numbers)}"
        self._process: subprocess.Popen[bytes] | None = None
        self._left_over = False

    @property
    def pid(self) -> int | None:
        """Process ID of jackd, None if it is not running."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start it and wait until it answers; raises `RuntimeError` with its output if it fails."""
        # -S: without it small periods give xruns. Not -T: it would end with its first client.
        command = [
            "jackd",
            "-n",
            self.name,
            "-S",
            *self._scheduling,
            "-m",
            "-d",
            "dummy",
            "-r",
            str(self.rate),
            "-p",
            str(self.period),
            "-C",
            str(self.channels),
            "-P",
            str(self.channels),
        ]
        if shutil.which("setpriv"):  # ends with this process, however that ends
            command = ["setpriv", "--pdeathsig", "TERM", *command]
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._left_over = False
        self._wait_until_it_answers()

    def kill(self) -> None:
        """Kill it (SIGKILL), as if the sound card had been unplugged."""
        self._end(kill=True)

    def stop(self) -> None:
        """Stop it cleanly (SIGTERM)."""
        self._end(kill=False)

    def restart(self) -> None:
        """Start it again after `kill` or `stop`, under the same name."""
        if self._process is not None:
            self.stop()
        self.start()

    def close(self) -> None:
        """Stop it and clean up."""
        if self._left_over:
            # A killed server keeps one of the eight entries that JACK has for all servers, until
            # one of the same name ends in good order.
            with contextlib.suppress(RuntimeError):
                self.start()
        self.stop()
        for left in Path("/dev/shm").glob(f"jack_sem.*_{self.name}_*"):  # of clients that died
            left.unlink(missing_ok=True)

    def _end(self, kill: bool) -> None:
        if self._process is None:
            return
        if kill:
            self._process.kill()
        else:
            self._process.terminate()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            kill = True
            self._process.kill()
            self._process.wait()
        self._process, self._left_over = None, kill
        time.sleep(0.1)  # until its clients have heard of it

    def _wait_until_it_answers(self) -> None:
        assert self._process is not None
        # In a process of its own: libjack prints to the terminal, and remembers the first server.
        code = (
            "import jack, sys, time\n"
            "jack.set_error_function(lambda text: None)\n"
            "jack.set_info_function(lambda text: None)\n"
            f"end = time.monotonic() + {PATIENCE}\n"
            "while True:\n"
            "    try:\n"
            f"        jack.Client('probe', False, True, {self.name!r}).close()\n"
            "        break\n"
            "    except jack.JackOpenError as error:\n"
            "        if time.monotonic() > end: sys.exit(str(error))\n"
            "        time.sleep(0.02)\n"
        )
        probe = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False
        )
        if probe.returncode or self._process.poll() is not None:
            self._end(kill=True)
            raise RuntimeError(
                f"jackd does not answer: {probe.stderr.strip()[-500:]} (if many servers were "
                "killed on this machine: end all, and remove /dev/shm/jack*)"
            )


@contextlib.contextmanager
def jack_server(
    rate: int = 44_100, period: int = 512, channels: int = 2, realtime: bool = False
) -> Iterator[JackServer]:
    """A JACK server for this process and all programs that it starts.

    One at a time. `server.kill()` and `server.restart()` are a device that vanishes and comes back.

    Args:
        rate: sample rate, Hz.
        period: samples that clients are asked for at a time.
        channels: of the device "system" that it has besides the cards of tests, each way.
        realtime: with real-time priority, as musicians run it; takes the right to that.
    """
    assert not _running, "libjack crashes with clients of two servers in one process"
    server = JackServer(rate, period, channels, realtime)
    _running.append(server.name)
    before = {
        key: os.environ.get(key) for key in ("JACK_DEFAULT_SERVER", "JACK_NO_AUDIO_RESERVATION")
    }
    os.environ.update(JACK_DEFAULT_SERVER=server.name, JACK_NO_AUDIO_RESERVATION="1")
    try:
        server.start()
        yield server
    finally:
        with _hand_back_portaudio():
            server.close()
        _running.clear()
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


@contextlib.contextmanager
def _hand_back_portaudio() -> Iterator[None]:
    """Close our clients before the server ends, or PortAudio would abort the process."""
    sounddevice = sys.modules.get("sounddevice")
    if sounddevice is None:
        yield
        return
    from stemwire.realtime.live import devices
    from stemwire.realtime.live.signal_masks import signal_mask_preserved

    devices.rescan()  # tolerates a server that is already dead
    with signal_mask_preserved():
        sounddevice._terminate()
    yield
    sounddevice._initialize()


class VirtualCard:
    """Sound card as a JACK client: plays an array to its readers and records what they return.

    Args:
        name: of the device, to PortAudio.
        inputs: channels that a program can record from it.
        outputs: channels that a program can play to it.
        loopback: samples after which outputs come back at the inputs, as through a cable; at least
            a period. None: what `play` gives goes in.
    """

    def __init__(
        self, name: str, inputs: int = 2, outputs: int = 2, *, loopback: int | None = None
    ) -> None:
        import jack

        jack.set_error_function(lambda text: None)  # not into the tests' output
        jack.set_info_function(lambda text: None)
        self.client: Any = jack.Client(name, no_start_server=True)
        self.name: str = self.client.name
        self.rate: int = self.client.samplerate
        self.period: int = self.client.blocksize
        self.inputs, self.outputs = inputs, outputs
        self.xruns = 0
        self.position = 0  # samples since `start`
        self.gone = threading.Event()  # the server has ended
        self.finished = threading.Event()
        self.recorded: Audio = np.zeros((outputs, 0), np.float32)
        self._played: Audio = np.zeros((inputs, 0), np.float32)
        self._running = False
        self._loop: Audio | None = None
        if loopback is not None:
            assert loopback >= self.period, "a cable's delay is at least a period"
            self._loop = np.zeros((outputs, loopback), np.float32)
            self._loop_at = 0
        marks = {"is_terminal": True, "is_physical": True}  # what makes PortAudio list it
        self._sources = [
            self.client.outports.register(f"capture_{i + 1}", **marks) for i in range(inputs)
        ]
        self._sinks = [
            self.client.inports.register(f"playback_{i + 1}", **marks) for i in range(outputs)
        ]
        self.client.set_process_callback(self._process)
        self.client.set_xrun_callback(self._count_xrun)
        self.client.set_shutdown_callback(lambda status, reason: self.gone.set())
        self.client.activate()

    def __enter__(self) -> VirtualCard:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self, play: Audio, tail: int = 0) -> None:
        """Begin to play (inputs, n), and to record n + `tail` samples into `recorded`.

        `finished` is set when all are there. Both begin with the same period.
        """
        play = np.atleast_2d(play).astype(np.float32)
        assert len(play) == self.inputs, f"{self.inputs} channels are wanted, not {len(play)}"
        self._running = False
        self.finished.clear()
        self._played = np.ascontiguousarray(play)
        self.recorded = np.zeros((self.outputs, play.shape[1] + tail), np.float32)
        self.position = 0
        self._running = True

    def run(self, play: Audio, tail: int = 0, timeout: float | None = None) -> Audio:
        """Play (inputs, n); return what came back, (outputs, n + tail)."""
        self.start(play, tail)
        seconds = self.recorded.shape[1] / self.rate
        if not self.finished.wait(timeout or 2 * seconds + PATIENCE):
            raise TimeoutError(f"{self.position} of {self.recorded.shape[1]} samples were played")
        return self.recorded

    @contextlib.contextmanager
    def freewheel(self) -> Iterator[None]:
        """Run the whole server as fast as its clients can, not in real time."""
        self.client.set_freewheel(True)
        try:
            yield
        finally:
            self.client.set_freewheel(False)
            time.sleep(0.05)  # until the driver is back

    def close(self) -> None:
        """Remove it."""
        if self.gone.is_set():
            # libjack crashes when a client of a server that has gone is closed after another
            # client was opened: leave it, and keep the destructor from closing it.
            import jack

            self.client._ptr = jack._ffi.NULL
            return
        self.client.deactivate()
        self.client.close()

    def _count_xrun(self, _delay: float) -> None:
        self.xruns += 1

    def _process(self, frames: int) -> None:
        if self._loop is not None:
            self._through_the_cable(frames)
        start, running = self.position, self._running
        if self._loop is None or running:
            for played, port in zip(self._played, self._sources, strict=True):
                out = port.get_array()
                if self._loop is None:
                    out[:] = 0.0
                if running:
                    part = played[start : start + frames]
                    out[: len(part)] += part
        if not running:
            return
        room = max(0, min(frames, self.recorded.shape[1] - start))
        for recorded, port in zip(self.recorded, self._sinks, strict=True):
            recorded[start : start + room] = port.get_array()[:room]
        self.position += frames
        if self.position >= self.recorded.shape[1]:
            self._running = False
            self.finished.set()

    def _through_the_cable(self, frames: int) -> None:
        """Return input with a delay; inputs without an output get the first one."""
        assert self._loop is not None
        where = np.arange(self._loop_at, self._loop_at + frames) % self._loop.shape[1]
        for number, port in enumerate(self._sources):
            port.get_array()[:] = self._loop[number if number < self.outputs else 0, where]
        for delayed, port in zip(self._loop, self._sinks, strict=True):
            delayed[where] = port.get_array()
        self._loop_at = (self._loop_at + frames) % self._loop.shape[1]
