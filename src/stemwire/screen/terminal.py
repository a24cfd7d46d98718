"""The terminal, taken over for a screen in such a way that it can do no harm.

Textual writes to `sys.__stderr__`: an error there would end its writing thread and then block its
event loop for good. And audio libraries (ALSA, JACK, plugins) print to the terminal from C as they
like, across the screen, most of all when a device goes away. So while a `Terminal` is entered,
Textual writes to it, it neither raises nor waits for long, and what others print is caught.
"""

from __future__ import annotations

import contextlib
import io
import os
import select
import signal
import sys
import time
from collections import deque
from types import TracebackType
from typing import Any

PATIENCE = 1.0  # seconds that a terminal may take nothing before frames are left out
LINES = 200  # of what others printed, the newest that are kept
PIECE = 512  # bytes: what a blocking terminal is sent at a time
SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGTSTP", "SIGCONT", "SIGWINCH", "SIGTTOU", "SIGTTIN")


def screen_unavailable_reason() -> str:
    """What keeps this process from showing a screen, in a sentence, or ""."""
    streams = {"input": sys.__stdin__, "error output": sys.__stderr__}
    for name, stream in streams.items():
        if stream is None or stream.closed or not stream.isatty():
            return f"standard {name} is not a terminal, so there is no screen; use --no-ui"
    if os.environ.get("TERM", "dumb" if os.name == "posix" else "") == "dumb":
        return "this terminal cannot place text (TERM is dumb), so there is no screen; use --no-ui"
    return ""


class Terminal(io.TextIOBase):
    """A file that leads to the terminal; enter it to take the terminal over.

    Attributes:
        gone: whether the terminal is no longer there.
        dropped: whether text was left out because the terminal took nothing; `recover` mends it.
    """

    encoding = "utf-8"

    def __init__(self) -> None:
        self.gone = self.dropped = False
        self._printed: deque[str] = deque(maxlen=LINES)
        self._undo = contextlib.ExitStack()
        self._pipe: int | None = None
        self._part = b""

    def __enter__(self) -> Terminal:
        for name in SIGNALS:  # Textual and asyncio leave theirs in place
            if number := getattr(signal, name, None):
                self._undo.callback(signal.signal, number, signal.getsignal(number))
        for name in ("__stdout__", "__stderr__"):
            self._undo.callback(setattr, sys, name, getattr(sys, name))
        with contextlib.suppress(OSError, ValueError, AttributeError):
            sys.stdout.flush()
            sys.stderr.flush()
        self._fd = _open_again(2)
        self._undo.callback(os.close, self._fd)
        self._pipe, inlet = os.pipe()
        self._undo.callback(os.close, self._pipe)
        for end in (self._pipe, inlet):
            os.set_blocking(end, False)  # who prints more than is read loses it, and never waits
        for number in (1, 2):
            if os.isatty(number):
                saved = os.dup(number)
                self._undo.callback(os.close, saved)
                self._undo.callback(os.dup2, saved, number)
                os.dup2(inlet, number)
        os.close(inlet)
        sys.__stderr__ = self  # type: ignore[assignment, misc]
        sys.__stdout__ = self  # type: ignore[assignment, misc] # the terminal's size is asked of it
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        self.listen()
        self.heard(self._part.decode("utf-8", "replace"))
        self._pipe = None
        self._undo.close()

    def fileno(self) -> int:
        """The terminal's descriptor, for its size."""
        return self._fd

    def isatty(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def write(self, text: str, /) -> int:
        """Send text; leave it out if the terminal is gone or has taken nothing for a while."""
        data = text.encode("utf-8", "replace")
        deadline = time.monotonic() + PATIENCE
        while data and not self.gone and not self.dropped:
            try:
                if self._ready(deadline - time.monotonic()):
                    data = data[os.write(self._fd, data[:PIECE]) :]
                else:
                    self.dropped = True
            except BlockingIOError:
                continue
            except (OSError, ValueError):
                self.gone = True
        return len(text)

    def flush(self) -> None:
        """Nothing is held back."""

    def recover(self) -> bool:
        """Return whether text was left out, the terminal takes text again, and all is to be drawn.

        A sequence may have been cut, so the terminal is told to forget it.
        """
        if not self.dropped or self.gone:
            return False
        try:
            if not self._ready(0):
                return False
            os.write(self._fd, b"\x18\x1b[0m")
        except BlockingIOError:
            return False
        except (OSError, ValueError):
            self.gone = True
            return False
        self.dropped = False
        return True

    def listen(self) -> None:
        """Take in what others printed; never waits."""
        with contextlib.suppress(BlockingIOError):
            while self._pipe is not None and (data := os.read(self._pipe, 65536)):
                *lines, self._part = (self._part + data).split(b"\n")
                self.heard(b"\n".join(lines).decode("utf-8", "replace"))
                self._part = self._part[-4096:]

    def heard(self, text: str) -> None:
        """Keep what was printed in another way."""
        self._printed += [line for line in text.splitlines() if line.strip()]

    def report(self) -> list[str]:
        """What others printed, for after the screen: a line each, repeated ones counted."""
        counts: dict[str, int] = {}
        for line in self._printed:
            counts[line] = counts.get(line, 0) + 1
        return [f"{line} ({n} times)" if n > 1 else line for line, n in counts.items()]

    def _ready(self, seconds: float) -> bool:
        return bool(select.select([], [self._fd], [], max(0.0, seconds))[1])


def _open_again(descriptor: int) -> int:
    """Open the terminal anew: not to block on it is then nobody else's business."""
    try:
        flags: Any = os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK
        return os.open(os.ttyname(descriptor), flags)
    except (OSError, AttributeError):  # it has no name here: it may then block, a piece at a time
        return os.dup(descriptor)
