"""Start-up time and CPU use of `stemwire live`: the complete command with its screen.

    python benchmarks/command.py [--seconds 60] [--starts 5] [--preset standard]

Starts the command on a terminal of 100 x 32 and a virtual sound card that plays music, and measures
the seconds from the command to the first sound, several times, then the share of a core that all
its processes use together, every second. Needs the same as `tests/support/jack_server.py`.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import pty
import signal
import struct
import sys
import tempfile
import termios
import threading
import time
from pathlib import Path

import numpy as np
from live import BLOCK, RATE, headline
from soak import make_song, may_hurry

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.jack_server import VirtualCard, jack_server

COLUMNS, ROWS = 100, 32
SETTLE_S = 10.0  # after which shares of a core are counted
TICK = os.sysconf("SC_CLK_TCK")


class Command:
    """`stemwire live` on a terminal of its own, whose pictures nobody looks at."""

    def __init__(self, *options: str) -> None:
        self.process, self._terminal = pty.fork()
        if self.process == 0:
            os.environ["TERM"] = "xterm-256color"
            command = [sys.executable, "-m", "stemwire.cli", "live", *options]
            os.execv(command[0], command)
        size = struct.pack("HHHH", ROWS, COLUMNS, 0, 0)
        fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, size)
        self.bytes = 0
        self.last = b""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        try:
            while data := os.read(self._terminal, 1 << 16):
                self.bytes += len(data)
                self.last = (self.last + data)[-2000:]
        except OSError:  # it has ended
            pass

    def cpu_seconds(self) -> dict[int, float]:
        """Of each of its processes so far."""
        children = Path(f"/proc/{self.process}/task").glob("*/children")
        numbers = [self.process, *(int(n) for file in children for n in file.read_text().split())]
        found = {}
        for number in numbers:
            fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
            found[number] = (int(fields[11]) + int(fields[12])) / TICK
        return found

    def end(self) -> None:
        """Ctrl-C, and wait."""
        os.kill(self.process, signal.SIGINT)
        os.waitpid(self.process, 0)
        self._reader.join()
        os.close(self._terminal)


def first_sound(card: VirtualCard, song: np.ndarray, options: list[str]) -> tuple[Command, float]:
    """The command at work, and seconds from its start to the first sample that is not zero."""
    card.start(song)
    began = time.perf_counter()
    command = Command(*options)
    while not card.recorded[:, : card.position].any():
        if os.waitpid(command.process, os.WNOHANG)[0]:
            raise SystemExit(command.last.decode(errors="replace"))
        time.sleep(0.002)
    return command, time.perf_counter() - began


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("--preset", default="standard")
    args = parser.parse_args()
    print(headline(args.preset), flush=True)
    minute = make_song([], 0.0)
    song = np.tile(minute, (1, 2 + args.seconds // 60))
    with (
        tempfile.TemporaryDirectory() as home,
        jack_server(RATE, BLOCK, realtime=may_hurry()),
        VirtualCard("card") as card,
    ):
        os.environ.update(HOME=home, XDG_CONFIG_HOME=home)  # nobody's settings, and none kept
        options = ["--input", "card", "--output", "card", "--preset", args.preset]
        for start in range(args.starts):
            command, seconds = first_sound(card, song, options)
            print(f"start {start + 1}: {seconds:.2f} s to the first sound", flush=True)
            if start + 1 < args.starts:
                command.end()
        time.sleep(SETTLE_S)
        before, wrote, shares = command.cpu_seconds(), command.bytes, []
        for _ in range(args.seconds):
            time.sleep(1.0)
            now = command.cpu_seconds()
            shares.append([now[number] - before[number] for number in before])
            before = now
        wrote = command.bytes - wrote
        command.end()
    each = np.array(shares)
    whole = each.sum(1)
    marks = "  ".join(f"p{p:g} {np.percentile(whole, p):.2f}" for p in (50, 95, 100))
    parts = " + ".join(f"{share:.3f}" for share in each.mean(0))
    print(
        f"{args.seconds} s: of a core, all its processes {whole.mean():.3f} ({marks}); screen and "
        f"playing process {parts}; {wrote / args.seconds / 1e3:.1f} kB a second to the terminal"
    )


if __name__ == "__main__":
    main()
