"""Metrics of a server process: counters, and a snapshot in Prometheus' text format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from stemwire._version import __version__
from stemwire.bridge.protocol.messages import ERROR_CODES


class Counters:
    """Counters of a server process since it began.

    Attributes:
        connections: connections let in.
        resumes: sessions resumed on another connection.
        sessions_ended: sessions that have ended.
        gaps: gaps in the mixtures of these sessions; `missing` samples in them.
        misses: late blocks of these sessions.
        errors: errors sent to clients, by code; `origin` for pages that may not connect.
        reastream: events of `ReaStream`, by kind.
    """

    def __init__(self) -> None:
        self.connections = self.resumes = 0
        self.sessions_ended = self.gaps = self.missing = self.misses = 0
        self.errors = dict.fromkeys((*ERROR_CODES, "origin"), 0)
        self.reastream: Counter[str] = Counter()

    def count_error(self, code: str) -> None:
        """Count an error."""
        self.errors[code] = self.errors.get(code, 0) + 1

    def add_session(self, gaps: int, missing: int, misses: int) -> None:
        """Add the counters of a session that has ended."""
        self.sessions_ended += 1
        self.gaps += gaps
        self.missing += missing
        self.misses += misses


@dataclass(frozen=True)
class Snapshot:
    """State of a server process at one moment.

    Attributes:
        worker: number of the process.
        sessions: number of sessions.
        load: share of what this process can do that its sessions need.
        busy: share of their time that the worker threads have recently been working.
        steps: steps of the network run so far; `rounds` in which they were run.
        gaps: gaps in the mixtures of these sessions; `missing` samples in them.
        misses: late blocks of these sessions.
        counters: counters of what has happened, and of sessions that have ended.
        reastream: whether ReaStream is served.
    """

    worker: int
    sessions: int
    load: float
    busy: float
    steps: int
    rounds: int
    gaps: int
    missing: int
    misses: int
    counters: Counters
    reastream: bool


def render(snapshot: Snapshot) -> str:
    """A snapshot in Prometheus' text format."""
    number, counters = snapshot.worker, snapshot.counters
    lines: list[str] = []

    def add(name: str, kind: str, text: str, values: Mapping[str, float]) -> None:
        lines.append(f"# HELP stemwire_{name} {text}")
        lines.append(f"# TYPE stemwire_{name} {kind}")
        lines.extend(f"stemwire_{name}{labels} {value!r}" for labels, value in values.items())

    def gauge(name: str, text: str, value: float) -> None:
        add(name, "gauge", text, {f'{{worker="{number}"}}': value})

    def counter(name: str, text: str, value: int) -> None:
        add(f"{name}_total", "counter", text, {f'{{worker="{number}"}}': value})

    def counter_by(name: str, text: str, label: str, values: Mapping[str, int]) -> None:
        labelled = {f'{{worker="{number}",{label}="{key}"}}': n for key, n in values.items()}
        add(f"{name}_total", "counter", text, labelled)

    version = f'{{version="{__version__}",worker="{number}"}}'
    add("info", "gauge", "Version of the program.", {version: 1})
    gauge("sessions", "Number of sessions.", snapshot.sessions)
    gauge("load", "Share of this process's capacity that sessions need.", snapshot.load)
    gauge("busy", "Share of their time that worker threads are working.", snapshot.busy)
    counter("steps", "Steps of the network.", snapshot.steps)
    counter("rounds", "Runs of the network, each for one or several steps.", snapshot.rounds)
    counter("connections", "Connections let in.", counters.connections)
    counter("resumes", "Sessions resumed on another connection.", counters.resumes)
    counter("sessions_ended", "Sessions that have ended.", counters.sessions_ended)
    counter("gaps", "Gaps in mixtures.", counters.gaps + snapshot.gaps)
    missing = counters.missing + snapshot.missing
    counter("missing", "Samples of mixture that never arrived.", missing)
    counter("misses", "Blocks finished after their deadline.", counters.misses + snapshot.misses)
    counter_by("errors", "Errors sent to clients.", "code", counters.errors)
    if snapshot.reastream:
        events = dict(sorted(counters.reastream.items()))
        counter_by("reastream", "Events of ReaStream packets and streams.", "what", events)
    return "\n".join(lines) + "\n"
