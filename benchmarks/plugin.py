"""Benchmarks of the DAW plugin: callback times, size, load time, an hour with server crashes.

    python benchmarks/plugin.py --seconds 60                  # callback times, size, load time
    python benchmarks/plugin.py --soak 60                     # minutes
    python benchmarks/plugin.py --fuzz 30                     # minutes, needs clang

The script builds the plugin and plays it in the small host of its tests, in blocks of 128 samples
at 44.1 kHz in real time, with real-time priority if the system grants it. The server is
`stemwire serve`.

The soak test kills the server (SIGKILL) once a minute at a random moment and restarts it some
seconds later. The music is a looped song, both faders are at 0 dB, and the host checks every
block: stems sum to the mixture, delayed by exactly the reported latency, separated or dry; where
the vocals are exactly 0 the block is dry, and the plugin must have counted it.

The fuzzers run one after another, each for an equal share of the time, each from an empty corpus
(or from the one that an earlier run left in `--build`).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from speed import processor

ROOT = Path(__file__).parents[1]
SONG = ROOT / "examples" / "excerpt.opus"
RATE, BLOCK = 44_100, 128


def build(folder: Path, *options: str) -> None:
    """Build the plugin and its test programs."""
    for command in (
        ["cmake", "-S", ROOT / "bridge" / "plugin", "-B", folder, *options],
        ["cmake", "--build", folder, "-j", str(os.cpu_count() or 1)],
    ):
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


class Server:
    """`stemwire serve`, always at the same port."""

    def __init__(self) -> None:
        self.port, self._process = 0, None
        self.start()

    def start(self) -> None:
        """Start the server and wait until it listens."""
        command = [sys.executable, "-m", "stemwire.cli", "serve", "--port", str(self.port)]
        self._process = subprocess.Popen(
            [*command, "--load", "100"],  # always admit the stream
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if match := re.search(r"serving at http://[^:]+:(\d+)/", line):
                self.port = int(match[1])
                break
        threading.Thread(target=self._process.stderr.read, daemon=True).start()

    def kill(self) -> None:
        """Kill the server, so that it says no goodbye."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()


def raw_song(path: Path) -> None:
    """Write the excerpt as interleaved float32 at `RATE`."""
    audio, rate = soundfile.read(SONG, dtype="float32", always_2d=True)
    if rate != RATE:
        import soxr

        audio = soxr.resample(audio, rate, RATE, "VHQ")
    np.ascontiguousarray(audio, "<f4").tofile(path)


def host(folder: Path, server: Server, song: Path, *options: str) -> subprocess.Popen[str]:
    """Start the test host, playing."""
    module = folder / "Stemwire.vst3" / "Contents" / f"{platform.machine()}-linux" / "Stemwire.so"
    environment = {
        **os.environ,
        "STEMWIRE_PLUGIN_SERVER": f"ws://127.0.0.1:{server.port}",
        "XDG_STATE_HOME": str(folder / "state"),
    }
    command = [folder / "host", module, "--rate", str(RATE), "--block", str(BLOCK)]
    return subprocess.Popen(
        [*command, "--fifo", "--sums", "--input", song, *options],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )


def play(folder: Path, seconds: float, preset: str) -> None:
    """Measure callback times with a running server."""
    module = next(folder.glob("Stemwire.vst3/Contents/*/Stemwire.so"))
    print(f"bundle: {module.stat().st_size} bytes")
    server, song = Server(), folder / "song.raw"
    try:
        options = ("--seconds", str(seconds), "--set", f"Preset={preset}")
        with host(folder, server, song, *options) as process:
            report = json.loads(process.communicate()[0])
    finally:
        server.kill()
    show(report)


def show(report: dict[str, Any]) -> None:
    """Print a report of the host."""
    print(f"loaded in {report['load_ms']:.1f} ms, activated in {report['activate_ms']:.1f} ms")
    print(
        f"{report['callbacks']} callbacks of {BLOCK} samples, µs:",
        "  ".join(f"{mark} {value:.1f}" for mark, value in report["us"].items()),
    )
    print(
        f"status: {report['status']}; dry blocks {report['dry_blocks']}, "
        f"reconnects {report['reconnects']}, memory kB {report['resident_kb']}"
    )
    print("stems and mixture:", report["sums"])


def soak(folder: Path, minutes: float) -> int:
    """Play while the server is killed once a minute; returns the host's exit status."""
    server, song, rng = Server(), folder / "song.raw", random.Random(1)
    kills, until = 0, time.monotonic() + 60 * minutes
    with host(folder, server, song, "--minutes", str(minutes)) as process:
        while process.poll() is None:
            up = rng.uniform(5, 50)
            down = rng.uniform(0.5, 5)
            if time.monotonic() + up + down + 10 > until:
                break
            begin = time.monotonic()
            time.sleep(up)
            server.kill()
            kills += 1
            time.sleep(down)
            server.start()
            time.sleep(max(0.0, 60 - (time.monotonic() - begin)))
        text = process.communicate()[0]
    server.kill()
    print(f"{minutes:g} minutes, server killed {kills} times, host ended with {process.returncode}")
    show(json.loads(text))
    return process.returncode


def fuzz(folder: Path, minutes: float) -> int:
    """Run all fuzzers, one after another; returns how many failed."""
    os.environ["CXX"] = "clang++"
    build(folder, "-DFUZZ=ON", "-DSANITIZE=address,undefined", "-DCMAKE_BUILD_TYPE=Debug")
    fuzzers = sorted(path for path in folder.glob("fuzz_*") if path.is_file())
    failures = 0
    for fuzzer in fuzzers:
        corpus = folder / f"{fuzzer.name}.corpus"
        corpus.mkdir(exist_ok=True)
        seconds = round(60 * minutes / len(fuzzers))
        done = subprocess.run(
            [
                fuzzer,
                corpus,
                f"-max_total_time={seconds}",
                "-print_final_stats=1",
                "-max_len=65536",
                "-timeout=10",
                f"-artifact_prefix={folder}/",
            ],
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        stats = dict(re.findall(r"^stat::(\w+):\s+(\d+)", done.stderr, re.M))
        covered = re.findall(r"cov: (\d+) ft: (\d+)", done.stderr)[-1:]
        print(
            f"{fuzzer.name}: {seconds} s, {stats.get('number_of_executed_units')} inputs, "
            f"edges and features {covered}, exit {done.returncode}",
            flush=True,
        )
        if done.returncode:
            failures += 1
            print(done.stderr[-6000:])
    return failures


def main() -> int:
    """Benchmarks of the DAW plugin."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="duration of playing")
    parser.add_argument("--preset", default="standard", help="preset to play with")
    parser.add_argument("--soak", type=float, metavar="MINUTES", help="soak test instead")
    parser.add_argument("--fuzz", type=float, metavar="MINUTES", help="run the fuzzers instead")
    parser.add_argument("--build", type=Path, metavar="DIR", help="build folder to use and keep")
    args = parser.parse_args()
    print(
        f"{processor()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, "
        f"{time.strftime('%F')}, {RATE} Hz, blocks of {BLOCK}",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as name:
        folder = args.build or Path(name)
        if args.fuzz:
            return fuzz(folder, args.fuzz)
        build(folder, "-DTESTS=ON")
        raw_song(folder / "song.raw")
        if args.soak:
            return soak(folder, args.soak)
        play(folder, args.seconds, args.preset)
    return 0


if __name__ == "__main__":
    sys.exit(main())
