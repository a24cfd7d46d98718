"""The screen on pseudo-terminals: quitting, failures, hang-ups, output of libraries."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import TESTS

from stemwire.screen import terminal as live_terminal
from stemwire.screen.terminal import Terminal, screen_unavailable_reason

pytest.importorskip("textual")
termios = pytest.importorskip("termios")

# What runs on the terminal: a session of the other tests, and what is to happen besides.
CHILD = """
import os, sys, threading, time
sys.path.insert(0, sys.argv[1])
from support.live_screen import Session
from stemwire.screen.screen import run_screen

class Told(Session):
    def status(self):
        self.count = getattr(self, "count", 0) + 1
        {each_time}
        return super().status()

{first}
result = run_screen(Told())
with open(sys.argv[2], "w") as file:
    file.write(repr(result))
"""


class Run:
    """A process whose terminal is ours to read and write; `shown` is what it wrote so far."""

    def __init__(self, result: Path, each_time: str = "pass", first: str = "") -> None:
        self.result = result
        self.end, end = os.openpty()
        termios.tcsetwinsize(end, (24, 80)) if hasattr(termios, "tcsetwinsize") else None
        self.before = termios.tcgetattr(end)
        command = [sys.executable, "-c", CHILD.format(each_time=each_time, first=first)]
        command += [str(TESTS), str(result)]
        self.process = subprocess.Popen(
            command,
            stdin=end,
            stdout=end,
            stderr=end,
            start_new_session=True,
            env={**os.environ, "TERM": "xterm-256color"},
        )
        os.close(end)
        self.shown = b""

    def read(self, seconds: float = 0.1) -> bool:
        """Read what is there; return whether there may be more."""
        if select.select([self.end], [], [], seconds)[0]:
            try:
                self.shown += os.read(self.end, 65536)
            except OSError:  # nobody writes any more
                return False
        return True

    def until(self, words: bytes) -> None:
        """Read until it has shown these words."""
        for _ in range(600):
            if words in self.shown:
                return
            assert self.read(), self.shown
        raise AssertionError(self.shown)

    def finish(self) -> str:
        """Read to the end; return what `run_screen` returned."""
        for _ in range(600):
            if not self.read():
                break
        self.process.wait(60)
        assert self.process.returncode == 0, self.shown
        return self.result.read_text()


@pytest.fixture
def runs() -> Iterator[list[Run]]:
    """Runs that are ended, whatever happens."""
    started: list[Run] = []
    yield started
    for run in started:
        run.process.kill()
        run.process.wait()


def test_leaving_puts_the_terminal_back_and_shows_what_others_printed(
    tmp_path: Path, runs: list[Run]
) -> None:
    run = Run(tmp_path / "result", "os.write(2, b'ALSA: underrun\\n' * 2)")  # as C libraries do
    runs.append(run)
    run.until(b"playing")
    run.until(b"HEALTH")
    os.write(run.end, b"q")
    assert run.finish() == "''"
    screen, _, after = run.shown.partition(b"\x1b[?1049l")
    assert screen.count(b"\x1b[?1049h") == 1
    assert b"ALSA" not in screen
    assert b"ALSA: underrun (" in after
    assert b"times)" in after
    assert after.count(b"ALSA") == 1
    assert b"\x1b[?25h" in after  # the cursor is back
    assert termios.tcgetattr(run.end)[:4] == run.before[:4]


@pytest.mark.parametrize("how", [b"\x03", signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_every_way_of_leaving_leaves(
    tmp_path: Path, runs: list[Run], how: bytes | signal.Signals
) -> None:
    run = Run(tmp_path / "result")
    runs.append(run)
    run.until(b"HEALTH")
    if isinstance(how, bytes):
        os.write(run.end, how)
    else:
        run.process.send_signal(how)
    assert run.finish() == "''"
    assert b"\x1b[?1049l" in run.shown


@pytest.mark.parametrize(
    ("each_time", "first"),
    [
        ("1 / (5 - self.count)", ""),
        ("1 / (1 - self.count)", ""),
        ("pass", "import stemwire.screen.widgets as w; w.fader_position = lambda gain: 1 / 0"),
        ("pass", "import stemwire.screen.screen as s; s.LiveScreen.compose = lambda _: 1 / 0"),
        ("pass", "import stemwire.screen.screen as s; s.LiveScreen.on_mount = lambda _: 1 / 0"),
        ("pass", "import stemwire.screen.widgets as w; w.TextLine.render = lambda _: 1 / 0"),
    ],
)
def test_a_failing_screen_is_a_sentence(
    tmp_path: Path, runs: list[Run], each_time: str, first: str
) -> None:
    run = Run(tmp_path / "result", each_time, first)
    runs.append(run)
    result = run.finish()
    assert "ZeroDivisionError" in result
    assert "the sound goes on" in result
    assert run.shown.count(b"\x1b[?1049h") == run.shown.count(b"\x1b[?1049l")
    assert b"Traceback" not in run.shown


def test_a_terminal_that_goes_away_ends_the_screen(tmp_path: Path, runs: list[Run]) -> None:
    run = Run(tmp_path / "result")
    runs.append(run)
    run.until(b"HEALTH")
    os.close(run.end)
    assert run.process.wait(60) == 0
    assert "the terminal has disappeared" in run.result.read_text()


@pytest.fixture
def ends() -> Iterator[tuple[int, int]]:
    """Both ends of a terminal; the second does not block."""
    outer, inner = os.openpty()
    os.set_blocking(inner, False)
    os.set_blocking(outer, False)
    yield outer, inner
    for end in (outer, inner):
        with contextlib.suppress(OSError):
            os.close(end)


def test_a_terminal_that_takes_nothing_is_not_waited_for(
    ends: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_terminal, "WRITE_TIMEOUT_S", 0.05)
    outer, inner = ends
    terminal = Terminal()
    terminal._fd = inner
    start, written = time.monotonic(), 0
    while not terminal.dropped:
        written += terminal.write("x" * 4096)
    assert not terminal.recover()
    for _ in range(1000):
        written += terminal.write("dropped" * 100)
    assert time.monotonic() - start < 5
    assert not terminal.gone

    arrived = b""
    while select.select([outer], [], [], 0.1)[0]:
        arrived += os.read(outer, 65536)
    assert b"dropped" not in arrived
    assert len(arrived) < written
    assert terminal.recover()  # and asks for all to be drawn
    assert not terminal.recover()
    terminal.write("again")
    assert os.read(outer, 100) == b"\x18\x1b[0magain"


def test_a_terminal_that_is_gone_swallows_all(ends: tuple[int, int]) -> None:
    outer, inner = ends
    terminal = Terminal()
    terminal._fd = inner
    os.close(outer)
    assert terminal.write("lost") == 4
    assert terminal.gone
    assert terminal.write("lost") == 4
    assert not terminal.recover()


def test_taking_over_puts_everything_back(ends: tuple[int, int]) -> None:
    before = (sys.__stderr__, signal.getsignal(signal.SIGTERM), os.fstat(1), os.fstat(2))
    with Terminal() as terminal:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        assert sys.__stderr__ is terminal
        terminal.add_printed("one\ntwo\none\n\n")
    assert (sys.__stderr__, signal.getsignal(signal.SIGTERM), os.fstat(1), os.fstat(2)) == before
    assert terminal.report() == ["one (2 times)", "two"]


def test_the_terminal_has_its_own_size(
    ends: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(live_terminal, "_reopen", lambda number: os.dup(ends[1]))
    termios.tcsetwinsize(ends[0], (32, 100))
    with Terminal():
        assert shutil.get_terminal_size() == (100, 32)


def test_reasons_against_a_screen(
    ends: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with os.fdopen(os.dup(ends[1]), "w") as terminal, (tmp_path / "file").open("w") as file:
        monkeypatch.setattr(sys, "__stdin__", terminal)
        monkeypatch.setattr(sys, "__stderr__", terminal)
        monkeypatch.setenv("TERM", "xterm")
        assert screen_unavailable_reason() == ""
        monkeypatch.setenv("TERM", "dumb")
        assert "TERM is dumb" in screen_unavailable_reason()
        monkeypatch.setattr(sys, "__stderr__", file)
        assert "error output is not a terminal" in screen_unavailable_reason()
        monkeypatch.setattr(sys, "__stdin__", None)
        assert "--no-ui" in screen_unavailable_reason()
