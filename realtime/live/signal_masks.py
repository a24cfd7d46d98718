"""Which threads receive Ctrl-C and similar signals: the program's own, never those that play."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

NAMES = ("SIGINT", "SIGTERM", "SIGHUP")
SIGNALS = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]


@contextlib.contextmanager
def signal_mask_preserved() -> Iterator[None]:
    """Unblock again, at the end, the signals that this thread receives now.

    libjack saves the mask of the thread that opens a process's first client and applies it to the
    thread that closes the last one. If the first is a playing thread and the last the main one,
    Ctrl-C would have no effect from then on.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, set(SIGNALS) - before)


@contextlib.contextmanager
def signals_blocked() -> Iterator[None]:
    """Block Ctrl-C and similar signals in this thread and the processes and threads it starts."""
    with signal_mask_preserved():
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        yield
