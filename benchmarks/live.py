"""Live sessions on JACK's dummy driver, in real time, in a process of their own or not.

    python benchmarks/live.py --seconds 30

Plays for some seconds in every case: in the calling process or one of its own, while the program
is idle, runs a Python loop in another thread, creates and collects garbage, or another process
keeps a core busy. Needs the same as `tests/support/jack_server.py`. Both sides of a comparison are
measured in one run, in turns, because machines are shared; the results hold for the load at that
time. `benchmarks/soak.py` is the long-run test.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import multiprocessing
import multiprocessing.process
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.jack_server import jack_server

import stemwire
from stemwire.training.evaluation.report import processor

RATE, BLOCK = 44_100, 512


def spin(stop: threading.Event) -> None:
    """A Python loop that wants the interpreter all the time."""
    count = 0
    while not stop.is_set():
        count += 1


def litter(stop: threading.Event) -> None:
    """Make cycles, and collect them."""
    while not stop.is_set():
        things: list[object] = [[i] for i in range(20_000)]
        for thing in things:
            thing.append(things)  # type: ignore[attr-defined]
        gc.collect()


def burn() -> None:
    """Keep a core busy."""
    while True:
        np.dot(np.ones((300, 300)), np.ones((300, 300)))


@contextlib.contextmanager
def load(kind: str) -> Iterator[None]:
    """What else the computer does meanwhile."""
    stop = threading.Event()
    helper: threading.Thread | multiprocessing.process.BaseProcess | None = None
    if kind in ("loop", "garbage"):
        work = spin if kind == "loop" else litter
        helper = threading.Thread(target=work, args=(stop,), daemon=True)
    elif kind == "core":
        helper = multiprocessing.get_context("spawn").Process(target=burn, daemon=True)
    if helper:
        helper.start()
    try:
        yield
    finally:
        stop.set()
        if isinstance(helper, multiprocessing.process.BaseProcess):
            helper.kill()
        if helper:
            helper.join()


def figures(session: stemwire.LiveSession) -> str:
    """One row of counters and times."""
    status = session.status()
    marks = status.hop_ms
    counts = "  ".join(
        f"{name} {status.counters[name]:5d}" for name in ("blocks", "misses", "concealed", "xruns")
    )
    times = "  ".join(f"{name} {value:6.2f}" for name, value in marks.items())
    return (
        f"{counts}  hop ms: {times} of {status.budget_ms:.2f}  "
        f"cpu {status.cpu_share:.2f}  memory {status.memory_bytes / 1e6:.1f} MB"
    )


def compare(seconds: float, preset: str) -> None:
    """Thread and process, under each load, in turn."""
    for kind in ("nothing", "loop", "garbage", "core"):
        for process in (False, True):
            # The server's own device: a card of ours would suffer from the load itself.
            with (
                jack_server(RATE, BLOCK),
                stemwire.LiveSession("system", "system", preset, process=process) as session,
                load(kind),
            ):
                session.wait(seconds)
                where = "process" if process else "thread"
                print(f"{kind:8} {where:8} {figures(session)}", flush=True)


def headline(preset: str, block: int = BLOCK) -> str:
    """Under what figures were measured."""
    return (
        f"{processor()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, "
        f"{time.strftime('%F')}, {preset}, {RATE} Hz, blocks of {block}"
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each case")
    parser.add_argument("--preset", default="standard")
    args = parser.parse_args()
    print(headline(args.preset))
    compare(args.seconds, args.preset)


if __name__ == "__main__":
    main()
