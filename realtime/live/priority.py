"""Real-time behaviour of the playing process: priority, memory and garbage collection."""

from __future__ import annotations

import ctypes
import gc
import os
import sys

# Of 99: above everything that is not real time, below the drivers. A thread that holds the
# interpreter must not be preempted while a more urgent one waits for it, so all threads of a
# session get a real-time priority.
CALLBACK, WORKER, OTHERS = 6, 5, 4
MCL_CURRENT, MCL_ONFAULT = 1, 4  # of mlockall(2) on Linux


def raise_priority(priority: int) -> bool:
    """Give this thread real-time priority; False if the system does not allow it.

    On Linux that takes the right to real-time priority (group `audio` on most desktops). A thread
    that already has such a priority keeps it. The threads that call this sleep more than they work,
    and the kernel reserves a share of time for other threads anyway.
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
    """Remove this thread's real-time priority, if it has one."""
    if hasattr(os, "sched_setscheduler"):
        os.sched_setscheduler(0, os.SCHED_OTHER | os.SCHED_RESET_ON_FORK, os.sched_param(0))


def lock_memory() -> bool:
    """Lock this process's memory against eviction; False if the system does not allow it.

    When memory is short the kernel evicts even the pages of running programs and reads them from
    disk when they are next used, which would stall the worker. Only pages in use are locked. On
    Linux that takes the same right as real-time priority.
    """
    if sys.platform != "linux":
        return False
    done: int = ctypes.CDLL(None).mlockall(MCL_CURRENT | MCL_ONFAULT)
    return done == 0


class RealtimeInterpreter:
    """Interpreter settings for real-time audio, from construction until `restore`.

    Garbage collection is off: blocks make no reference cycles, and a collection would stop the
    worker for milliseconds. Threads take turns more often.

    Args:
        own_process: whether the session has the process to itself, so that memory may be locked.
    """

    def __init__(self, own_process: bool) -> None:
        if own_process:
            lock_memory()
        self._interval, self._enabled = sys.getswitchinterval(), gc.isenabled()
        gc.collect()
        gc.freeze()
        gc.disable()
        sys.setswitchinterval(5e-4)

    def restore(self) -> None:
        """Restore the former settings."""
        gc.unfreeze()
        if self._enabled:
            gc.enable()
        sys.setswitchinterval(self._interval)
