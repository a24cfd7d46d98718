"""`RemoteSeparator`: the calls of the local separator, from any thread."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support import ROOT, Audio, music, noise
from support.bridge_server import NAME, Running, config, make_preset, running

import stemwire
from stemwire.bridge.client.separator import EventLoopThread, RemoteSeparator, connect
from stemwire.errors import AudioError, BridgeError, ConfigError


@pytest.fixture(scope="module")
def tiny_preset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_preset(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def server(tiny_preset: Path) -> Iterator[Running]:
    with running(config(presets=(str(tiny_preset),))) as found:
        yield found


def local(preset: Path, audio: Audio) -> Audio:
    separator = stemwire.load(preset)
    return np.concatenate((separator.push(audio), separator.flush()), 2)


def test_local_and_remote_are_interchangeable(server: Running, tiny_preset: Path) -> None:
    audio = music(30_000, 48_000)
    here = stemwire.load(tiny_preset, 48_000, 2, 480)
    with connect(server.direct, NAME, 48_000, 2, 480) as there:
        for name in ("stems", "latency", "sample_rate", "channels", "block_size", "hop"):
            assert getattr(there, name) == getattr(here, name), name
        for separator in (here, there, here, there):
            parts = [separator.push(audio[:, at : at + 480]) for at in range(0, 28_800, 480)]
            parts.append(separator.flush(audio[:, 28_800:]))
            together = np.concatenate(parts, 2)
            if separator is here:
                expected = together
            np.testing.assert_array_equal(together, expected)
            separator.push(audio[:, :480])
            separator.reset()
        assert there.hop_times.count == 2 * 61
        assert there.statistics.lost == 0


def test_send_and_receive_in_two_threads(server: Running, tiny_preset: Path) -> None:
    audio = music(60_000, 44_100)
    with connect(server.direct, NAME) as separator:

        def send() -> None:
            for at in range(0, 60_000, 1000):
                separator.send(audio[:, at : at + 1000])
            separator.finish()

        thread = threading.Thread(target=send)
        thread.start()
        stems = np.concatenate(list(separator), 2)
        thread.join()
    np.testing.assert_array_equal(stems, local(tiny_preset, audio))


def test_control(server: Running) -> None:
    with connect(server.direct, NAME, stems=("mix",)) as separator:
        assert separator.control(instrumental=-6.0).instrumental == -6.0
        with pytest.raises(ConfigError, match="nope"):
            separator.control(preset="nope")


def test_a_dropped_connection_is_resumed(server: Running, tiny_preset: Path) -> None:
    audio = music(30_000, 44_100)
    with connect(server.url, NAME) as separator:
        parts = []
        for at in range(0, 30_000, 1000):
            parts.append(separator.push(audio[:, at : at + 1000]))
            if at % 5000 == 0:
                server.do(server.proxy.cut)
        parts.append(separator.flush())
        np.testing.assert_array_equal(np.concatenate(parts, 2), local(tiny_preset, audio))
        assert separator.statistics.connections > 1


def test_errors(server: Running) -> None:
    with pytest.raises(ConfigError, match="channels"):
        connect(server.direct, NAME, channels=5)
    with pytest.raises(BridgeError, match="cannot be reached"):
        connect("ws://127.0.0.1:1")
    separator = connect(server.direct, NAME)
    with pytest.raises(AudioError, match="float32"):
        separator.push(np.zeros((2, 10)))  # type: ignore[arg-type]
    assert separator.push(noise(10)).shape == (2, 2, 10)
    separator.close()
    separator.close()
    for call in (lambda: separator.push(noise(10)), separator.flush, separator.reset):
        with pytest.raises(ConfigError, match="closed"):
            call()


def threads() -> int:
    return sum(thread.name == "stemwire-bridge" for thread in threading.enumerate())


def test_what_is_forgotten_or_fails_leaves_no_thread(server: Running) -> None:
    gc.collect()
    before = threads()
    sessions = server.do(lambda: len(server.server.sessions))
    separator: RemoteSeparator | None = connect(server.direct, NAME)
    assert threads() == before + 1
    separator = None
    gc.collect()
    assert separator is None and threads() == before
    with pytest.raises(BridgeError):
        connect("ws://127.0.0.1:1")
    assert threads() == before
    end = time.monotonic() + 5
    while server.do(lambda: len(server.server.sessions)) > sessions and time.monotonic() < end:
        time.sleep(0.02)
    assert server.do(lambda: len(server.server.sessions)) <= sessions


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_ends_a_push(server: Running, tiny_preset: Path) -> None:
    audio = music(20_000, 44_100)
    with connect(server.url, NAME) as separator:
        separator.push(noise(100))
        server.do(server.proxy.freeze)
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        start = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            separator.push(noise(100))
        assert time.monotonic() - start < 2
        server.do(server.proxy.thaw)
        with pytest.raises(ConfigError, match="reset"):
            separator.push(noise(100))
        separator.reset()
        np.testing.assert_array_equal(separator.flush(audio), local(tiny_preset, audio))


def test_a_program_that_does_not_close_still_ends(server: Running) -> None:
    code = f"""
import numpy as np
from stemwire.bridge.client.separator import connect
separator = connect({server.direct!r}, {NAME!r})
print(separator.push(np.zeros((2, 10), np.float32)).shape)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "(2, 2, 10)\n", "")


@pytest.mark.parametrize("package", ["msgspec", "websockets"])
def test_missing_packages_are_named(package: str) -> None:
    code = f"""
import sys
sys.modules[{package!r}] = None
from stemwire.bridge.client.separator import connect
from stemwire.errors import ConfigError
try:
    connect("ws://127.0.0.1:1")
except ConfigError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert package in done.stdout and "pip install 'stemwire[bridge]'" in done.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="sends a signal")
def test_a_call_interrupted_before_its_start_is_never_started() -> None:
    thread, begun = EventLoopThread(), []

    async def work() -> None:
        begun.append(1)

    thread.call(work)
    thread.loop.call_soon_threadsafe(time.sleep, 1.0)
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        thread.call(work)
    thread.stop(None)
    gc.collect()  # would warn of a coroutine that was never awaited
    assert begun == [1]
    with pytest.raises(ConfigError, match="closed"):
        thread.call(work)
