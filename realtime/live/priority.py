"""What keeps a process in which music plays undisturbed: priority, memory, garbage collection."""

from __future__ import annotations

import ctypes
import gc
import os
import sys

# Of 99: before all that is not real time, after the drivers. Whoever holds the interpreter must not
# be put aside while a more urgent thread waits for it, so all threads of a session have some.
CALLBACK, WORKER, OTHERS = 6, 5, 4
MCL_CURRENT, MCL_ONFAULT = 1, 4  # of mlockall(2) on Linux


def raise_priority(priority: int) -> bool:
    """Have this thread run before others that want the processor; whether the system lets it.

    On Linux that takes the right to real-time priority (group `audio` on most desktops). A thread
    that has such a priority keeps its own. Who asks for it sleeps more than it works, and the
    kernel keeps a share of time from real-time threads anyway.
    """
    if not hasattr(os, "sched_setscheduler"):
        return False
    if os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK in (os.SCHED_FIFO, os.SCHED_RR):
        return True
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(priority))
    except OSError:
        return False
    return True


def lower_priority() -> None:
    """Take this thread's real-time priority back, if it has one."""
    if hasattr(os, "sched_setscheduler"):
        os.sched_setscheduler(0, os.SCHED_OTHER | os.SCHED_RESET_ON_FORK, os.sched_param(0))


def lock_memory() -> bool:
    """Keep what this process has mapped from being dropped or swapped; whether the system lets it.

    When memory is short the kernel drops even the pages of programs that run, and reads them from
    the disk when they are next used: the worker would stand still for as long. Only pages that are
    used are kept. On Linux that takes the same right as real-time priority.
    """
    if sys.platform != "linux":
        return False
    done: int = ctypes.CDLL(None).mlockall(MCL_CURRENT | MCL_ONFAULT)
    return done == 0


class QuietMemory:
    """No garbage collection while music plays: what there is is left alone, what comes is counted.

    Blocks make no cycles, so there is nothing to collect; collecting would stop the worker for
    milliseconds whenever it happened.

    Args:
        alone: nothing but the session is in this process, and its memory may be locked.
    """

    def __init__(self, alone: bool) -> None:
        if alone:
            lock_memory()
        self._interval, self._enabled = sys.getswitchinterval(), gc.isenabled()
        gc.collect()
        gc.freeze()
        gc.disable()
        sys.setswitchinterval(5e-4)

    def end(self) -> None:
        """As it was."""
        gc.unfreeze()
        if self._enabled:
            gc.enable()
        sys.setswitchinterval(self._interval)
