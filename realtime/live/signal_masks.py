"""Which threads hear Ctrl-C and the like: the program's own, never those that play."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP")
           if hasattr(signal, name)]  # fmt: skip


@contextlib.contextmanager
def signals_kept() -> Iterator[None]:
    """Have this thread hear, at the end, all of them that it hears now.

    libjack keeps the mask of the thread in which a process gets its first client, and gives it to
    the one in which the last client ends. If that is the main thread, the first one was one that
    plays, and Ctrl-C would be dead from then on.
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
def signals_held() -> Iterator[None]:
    """Hold back Ctrl-C and the like, in this thread and in processes and threads it starts."""
    with signals_kept():
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        yield
