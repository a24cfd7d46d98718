"""Long live sessions on JACK's dummy driver, verified on the recording.

    python benchmarks/soak.py 30 --preset standard            # minutes
    python benchmarks/soak.py 30 --preset low --busy --record

Prints the status every minute. With `--busy` another process keeps a core busy. With `--record` the
session records, and afterwards every stretch of the recording that is not the separated music is
located and measured: its duration, and whether any step from sample to sample in it is larger than
those of the music around it. The music comes from another process, in a loop: the sum of the
`--song` files, or a synthetic piece. Needs the same as `tests/support/jack_server.py`, and with
`--record` 1 MB per second.

The cores of a virtual machine stall whenever its host runs other machines, and no audio can be
processed then. The kernel counts that time (`steal` in /proc/stat, in steps of 10 ms per core):
late blocks and xruns near stolen time may not be the session's fault. A probe that wakes a thousand
times a second to detect pauses is no alternative: its priority would have to be higher than the
session's, which makes blocks late.
"""

from __future__ import annotations

import argparse
import bisect
import itertools
import math
import multiprocessing
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from live import BLOCK, RATE, figures, headline, load
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support import music
from support.jack_server import jack_server

import stemwire
from stemwire.realtime.live.priority import RealtimeInterpreter

Audio = NDArray[np.float32]
LOOP_S = 60
SLACK = 1.05  # steps up to this times the largest one nearby count as music
NEARBY_S = 0.1
BEGIN_S = 0.05  # the sound fades in
LOOK_S = 0.1
AROUND_S = 0.15  # distance within which stolen time explains a late block


def make_song(files: list[Path], offset: float) -> Audio:
    """A minute of music, (2, n)."""
    if not files:
        return 0.3 * music(LOOP_S * RATE, RATE)
    parts = []
    for file in files:
        rate = soundfile.info(file).samplerate
        audio, _ = soundfile.read(file, LOOP_S * rate, round(offset * rate), dtype="float32")
        parts.append(soxr.resample(audio, rate, RATE, "VHQ").T)
    return np.ascontiguousarray(sum(parts))


def play(song: Audio, ready: Any, name: str = "player") -> None:
    """A sound card that plays `song`, (inputs, n), while its parent lives; for a process."""
    import jack

    RealtimeInterpreter(own_process=True)  # a sound card does not wait for the disk either
    client = jack.Client(name, no_start_server=True)
    marks = {"is_terminal": True, "is_physical": True}  # what makes PortAudio list it
    ports = [client.outports.register(f"capture_{i + 1}", **marks) for i in range(len(song))]
    for i in range(2):
        client.inports.register(f"playback_{i + 1}", **marks)
    looped, at = np.concatenate((song, song[:, : client.blocksize]), 1), 0

    @client.set_process_callback
    def process(frames: int) -> None:
        nonlocal at
        for port, channel in zip(ports, looped, strict=True):
            port.get_array()[:] = channel[at : at + frames]
        at = (at + frames) % song.shape[1]

    client.activate()
    ready.set()
    multiprocessing.parent_process().join()


def may_hurry() -> bool:
    """Whether this user has the right to real-time priority."""
    before = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except OSError:
        return False
    os.sched_setscheduler(0, *before)
    return True


def stolen() -> float:
    """Seconds that the host has taken from all cores since the machine began; 0 on a real one."""
    path = Path("/proc/stat")
    if not path.exists():
        return 0.0
    return int(path.read_text().split("\n", 1)[0].split()[8]) / os.sysconf("SC_CLK_TCK")


class Watch:
    """When blocks and the sound server's cycles were late, and when the host took the cores."""

    def __init__(self) -> None:
        self._before = stolen()
        self._began = time.monotonic()
        self._thefts: list[tuple[float, float]] = []
        self._late: dict[str, list[tuple[float, int]]] = {"misses": [], "xruns": []}

    def look(self, counters: dict[str, int]) -> None:
        """To be called every `LOOK_S`."""
        now = time.monotonic()
        for name, late in self._late.items():
            if more := counters[name] - sum(count for _, count in late):
                late.append((now, more))
        if (taken := stolen()) > self._before:
            self._thefts.append((now, taken - self._before))
            self._before = taken

    def _near(self, at: float) -> float:
        """Seconds stolen no further away than `AROUND_S`."""
        first = bisect.bisect_left(self._thefts, (at - AROUND_S, 0.0))
        last = bisect.bisect_right(self._thefts, (at + AROUND_S, math.inf))
        return sum(seconds for _, seconds in self._thefts[first:last])

    def _own(self, name: str) -> int:
        return sum(count for at, count in self._late[name] if not self._near(at))

    def __str__(self) -> str:
        """The share of time with some stolen near says how often that is so by chance."""
        whole = sum(seconds for _, seconds in self._thefts)
        times = [at for at, _ in self._thefts]
        apart = [*(b - a for a, b in itertools.pairwise(times)), math.inf][: len(times)]
        near = sum(min(2 * AROUND_S, gap) for gap in apart) / (time.monotonic() - self._began)
        late = ", ".join(f"{1e3 * self._near(at):.0f}" for at, _ in self._late["misses"])
        return (
            f"stolen by the host: {1e3 * whole:.0f} ms in {len(self._thefts)} pieces, near "
            f"{near:.1%} of the time; late blocks had so many ms near: {late or 'there are none'}; "
            f"with none near: late blocks {self._own('misses')}, xruns {self._own('xruns')}"
        )


def stretches(different: NDArray[np.bool_], join: int) -> list[tuple[int, int]]:
    """(start, end) of runs of True, those less than `join` apart taken as one."""
    where = np.flatnonzero(different)
    if not len(where):
        return []
    cuts = np.flatnonzero(np.diff(where) > join)
    starts, ends = np.r_[where[0], where[cuts + 1]], np.r_[where[cuts], where[-1]] + 1
    return list(zip(starts.tolist(), ends.tolist(), strict=True))


def judge(take: Path) -> str:
    """What the recording of a session without vocals says."""
    names = ("vocals", "instrumental", "mix")
    files = [soundfile.SoundFile(take / f"{name}.wav") for name in names]
    found: list[tuple[int, int]] = []
    for at in range(0, files[0].frames, 60 * RATE):
        instrumental, mix = (f.read(60 * RATE, dtype="float32") for f in files[1:])
        different = (instrumental != mix).any(1)
        if at == 0:
            different[: round(BEGIN_S * RATE)] = False
        found += [(at + a, at + b) for a, b in stretches(different, BLOCK)]
    lengths, steps, nearby = [], [], round(NEARBY_S * RATE)
    for start, end in found:
        first = max(0, start - nearby)
        parts = []
        for file in files:
            file.seek(first)
            parts.append(file.read(end + nearby - first, dtype="float32"))
        vocals, instrumental, mix = parts
        own = max(np.abs(np.diff(x, axis=0)).max() for x in (instrumental, vocals + instrumental))
        inside = slice(max(0, start - first - 1), end - first + 1)
        steps.append(np.abs(np.diff(mix[inside], axis=0)).max() / max(own, 1e-6))
        lengths.append(1e3 * (end - start) / RATE)
    if not found:
        return f"{files[0].frames / RATE:.0f} s recorded, all of it separated music"
    points = {"p50": 50, "p95": 95, "p99": 99, "max": 100}
    marks = "  ".join(f"{name} {np.percentile(lengths, q):.1f}" for name, q in points.items())
    return (
        f"{files[0].frames / RATE:.0f} s recorded, {len(found)} stretches concealed, until "
        f"separated music was back ms: {marks}; largest step {max(steps):.2f} times the music's "
        f"own within {NEARBY_S:g} s, {sum(s > SLACK for s in steps)} beyond {SLACK:g}"
    )


def soak(minutes: int, preset: str, block: int, busy: bool, song: Audio, record: str) -> None:
    """Play for minutes."""
    spawn = multiprocessing.get_context("spawn")
    with jack_server(RATE, block, realtime=may_hurry()):
        ready = spawn.Event()
        player = spawn.Process(target=play, args=(song, ready), daemon=True)
        player.start()
        try:
            assert ready.wait(30), "the player has not begun"
            began = time.perf_counter()
            with stemwire.LiveSession(
                "player", "player", preset, record=record, block_size=block
            ) as session:
                print(
                    f"from start to sound {time.perf_counter() - began:.2f} s, "
                    f"delays {session.status().delays}",
                    flush=True,
                )
                watch = Watch()
                with load("core" if busy else "nothing"):
                    for minute in range(1, minutes + 1):
                        while time.perf_counter() - began < 60 * minute:
                            session.wait(LOOK_S)
                            watch.look(session.status().counters)
                        print(f"minute {minute:3} {figures(session)}  {watch}", flush=True)
                        for message in session.messages():
                            print(f"  {message}")
        finally:
            player.kill()
            player.join()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("minutes", type=int)
    parser.add_argument("--preset", default="standard")
    parser.add_argument("--block-size", type=int, default=BLOCK, help="of the sound card")
    parser.add_argument("--busy", action="store_true", help="keep a core busy meanwhile")
    parser.add_argument("--record", action="store_true", help="record, and judge the recording")
    parser.add_argument("--song", nargs="*", type=Path, default=[], help="files to be added up")
    parser.add_argument("--offset", type=float, default=0.0, help="where to begin, seconds")
    args = parser.parse_args()
    song = make_song(args.song, args.offset)
    print(headline(args.preset, args.block_size), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        soak(
            args.minutes,
            args.preset,
            args.block_size,
            args.busy,
            song,
            folder if args.record else "",
        )
        if args.record:
            print(judge(Path(folder) / "take-001"), flush=True)


if __name__ == "__main__":
    main()
