"""The terminal as a robust output of Textual.

Textual writes to `sys.__stderr__`: an error there would end its writing thread and then block its
event loop forever. Audio libraries (ALSA, JACK, plugins) print to the terminal from C, across the
screen, most of all when a device disappears. While a `Terminal` is entered, Textual writes to it,
writes neither raise nor block for long, and what libraries print is captured.
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

WRITE_TIMEOUT_S = 1.0  # how long a terminal may accept nothing before text is dropped
MAX_LINES = 200  # of captured output, the newest are kept
CHUNK_BYTES = 512  # sent to a blocking terminal at a time
SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGTSTP", "SIGCONT", "SIGWINCH", "SIGTTOU", "SIGTTIN")


def screen_unavailable_reason() -> str:
    """Sentence that says why this process cannot show a screen, or ""."""
    streams = {"input": sys.__stdin__, "error output": sys.__stderr__}
    for name, stream in streams.items():
        if stream is None or stream.closed or not stream.isatty():
            return f"standard {name} is not a terminal, so there is no screen; use --no-ui"
    if os.environ.get("TERM", "dumb" if os.name == "posix" else "") == "dumb":
        return "this terminal cannot place text (TERM is dumb), so there is no screen; use --no-ui"
    return ""


class Terminal(io.TextIOBase):
    """File that writes to the terminal; a context manager that takes the terminal over.

    Attributes:
        gone: whether the terminal has disappeared.
        dropped: whether text was dropped because the terminal accepted nothing; see `recover`.
    """

    encoding = "utf-8"

    def __init__(self) -> None:
        self.gone = self.dropped = False
        self._printed: deque[str] = deque(maxlen=MAX_LINES)
        self._undo = contextlib.ExitStack()
        self._pipe: int | None = None
        self._part = b""

    def __enter__(self) -> Terminal:
        for name in SIGNALS:  # Textual and asyncio do not restore theirs
            if number := getattr(signal, name, None):
                self._undo.callback(signal.signal, number, signal.getsignal(number))
        for name in ("__stdout__", "__stderr__"):
            self._undo.callback(setattr, sys, name, getattr(sys, name))
        with contextlib.suppress(OSError, ValueError, AttributeError):
            sys.stdout.flush()
            sys.stderr.flush()
        self._fd = _reopen(2)
        self._undo.callback(os.close, self._fd)
        self._pipe, inlet = os.pipe()
        self._undo.callback(os.close, self._pipe)
        for end in (self._pipe, inlet):
            os.set_blocking(end, False)  # output that is not read in time is lost, and nobody waits
        for number in (1, 2):
            if os.isatty(number):
                saved = os.dup(number)
                self._undo.callback(os.close, saved)
                self._undo.callback(os.dup2, saved, number)
                os.dup2(inlet, number)
        os.close(inlet)
        sys.__stderr__ = self  # type: ignore[assignment, misc]
        sys.__stdout__ = self  # type: ignore[assignment, misc] # used to get the terminal's size
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        self.read_printed()
        self.add_printed(self._part.decode("utf-8", "replace"))
        self._pipe = None
        self._undo.close()

    def fileno(self) -> int:
        """Descriptor of the terminal, for its size."""
        return self._fd

    def isatty(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def write(self, text: str, /) -> int:
        """Write text; drop it if the terminal is gone or has accepted nothing for a while."""
        data = text.encode("utf-8", "replace")
        deadline = time.monotonic() + WRITE_TIMEOUT_S
        while data and not self.gone and not self.dropped:
            try:
                if self._ready(deadline - time.monotonic()):
                    data = data[os.write(self._fd, data[:CHUNK_BYTES]) :]
                else:
                    self.dropped = True
            except BlockingIOError:
                continue
            except (OSError, ValueError):
                self.gone = True
        return len(text)

    def flush(self) -> None:
        """Nothing is buffered."""

    def recover(self) -> bool:
        """Whether text was dropped and the terminal accepts text again: then redraw everything.

        A control sequence may have been truncated, so it is cancelled first.
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

    def read_printed(self) -> None:
        """Read what libraries printed; never blocks."""
        with contextlib.suppress(BlockingIOError):
            while self._pipe is not None and (data := os.read(self._pipe, 65536)):
                *lines, self._part = (self._part + data).split(b"\n")
                self.add_printed(b"\n".join(lines).decode("utf-8", "replace"))
                self._part = self._part[-4096:]

    def add_printed(self, text: str) -> None:
        """Add lines that were captured in another way."""
        self._printed += [line for line in text.splitlines() if line.strip()]

    def report(self) -> list[str]:
        """Captured lines, to print after the screen; repeated ones are counted."""
        counts: dict[str, int] = {}
        for line in self._printed:
            counts[line] = counts.get(line, 0) + 1
        return [f"{line} ({n} times)" if n > 1 else line for line, n in counts.items()]

    def _ready(self, seconds: float) -> bool:
        return bool(select.select([], [self._fd], [], max(0.0, seconds))[1])


def _reopen(descriptor: int) -> int:
    """Open the terminal again, so that non-blocking mode does not affect other descriptors."""
    try:
        flags: Any = os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK
        return os.open(os.ttyname(descriptor), flags)
    except (
        OSError,
        AttributeError,
    ):  # it has no name here: writes may then block, a chunk at a time
        return os.dup(descriptor)
