"""The DAW plugin: time of its callback, an hour with a server that is killed, size and load time.

    python benchmarks/plugin.py --seconds 60                  # callback times, size, load time
    python benchmarks/plugin.py --soak 60                     # minutes
    python benchmarks/plugin.py --fuzz 30                     # minutes, needs clang

The plugin is built, and played by the small host of its tests in blocks of 128 samples at 44.1 kHz,
in real time, with real-time priority where the system grants it. The server is `stemwire serve`.

The soak kills the server (SIGKILL) once a minute at a random moment and starts it anew some seconds
later. The music is a song in a loop, both faders stand at 0 dB, and the host checks every block:
stems sum to the mixture, late by exactly what the plugin reports, whether they are separated or
dry; where the vocals are silent to the last bit the block is dry, and the plugin must have counted
it.

The fuzzers run one after the other, each for its part of the time, each from an empty corpus
(or from what an earlier run left in `--build`).
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
    """The plugin and its test programs."""
    for command in (
        ["cmake", "-S", ROOT / "bridge" / "plugin", "-B", folder, *options],
        ["cmake", "--build", folder, "-j", str(os.cpu_count() or 1)],
    ):
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


class Server:
    """`stemwire serve` at one port, over and over."""

    def __init__(self) -> None:
        self.port, self._process = 0, None
        self.start()

    def start(self) -> None:
        """Begin, and wait until it listens."""
        self._process = subprocess.Popen(
            # One stream is always let in: admission is not what is measured here.
            [sys.executable, "-m", "stemwire.cli", "serve", "--port", str(self.port),
             "--load", "100"],
            stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if found := re.search(r"serving at http://[^:]+:(\d+)/", line):
                self.port = int(found[1])
                break
        threading.Thread(target=self._process.stderr.read, daemon=True).start()

    def kill(self) -> None:
        """End without a goodbye."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()


def raw_song(path: Path) -> None:
    """The excerpt as interleaved float32 at `RATE`."""
    audio, rate = soundfile.read(SONG, dtype="float32", always_2d=True)
    if rate != RATE:
        import soxr

        audio = soxr.resample(audio, rate, RATE, "VHQ")
    np.ascontiguousarray(audio, "<f4").tofile(path)


def host(folder: Path, server: Server, song: Path, *options: str) -> subprocess.Popen[str]:
    """The test host, playing."""
    module = folder / "Stemwire.vst3" / "Contents" / f"{platform.machine()}-linux" / "Stemwire.so"
    environment = {
        **os.environ,
        "STEMWIRE_PLUGIN_SERVER": f"ws://127.0.0.1:{server.port}",
        "XDG_STATE_HOME": str(folder / "state"),
    }
    return subprocess.Popen(
        [folder / "host", module, "--rate", str(RATE), "--block", str(BLOCK), "--fifo", "--sums",
         "--input", song, *options],
        env=environment, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def play(folder: Path, seconds: float, preset: str) -> None:
    """Callback times with a server that is there."""
    module = next(folder.glob("Stemwire.vst3/Contents/*/Stemwire.so"))
    print(f"bundle: {module.stat().st_size} bytes")
    server, song = Server(), folder / "song.raw"
    try:
        options = ("--seconds", str(seconds), "--set", f"Preset={preset}")
        with host(folder, server, song, *options) as it:
            report = json.loads(it.communicate()[0])
    finally:
        server.kill()
    show(report)


def show(report: dict[str, Any]) -> None:
    """A report of the host, in lines."""
    print(f"loaded in {report['load_ms']:.1f} ms, activated in {report['activate_ms']:.1f} ms")
    print(f"{report['callbacks']} callbacks of {BLOCK} samples, µs:",
          "  ".join(f"{mark} {value:.1f}" for mark, value in report["us"].items()))  # fmt: skip
    print(f"status: {report['status']}; dry blocks {report['dry_blocks']}, "
          f"reconnects {report['reconnects']}, memory kB {report['resident_kb']}")  # fmt: skip
    print("stems and mixture:", report["sums"])


def soak(folder: Path, minutes: float) -> int:
    """Kill the server once a minute; the host's exit status."""
    server, song, chance = Server(), folder / "song.raw", random.Random(1)
    kills, until = 0, time.monotonic() + 60 * minutes
    with host(folder, server, song, "--minutes", str(minutes)) as it:
        while it.poll() is None:
            cut = chance.uniform(5, 50)
            away = chance.uniform(0.5, 5)
            if time.monotonic() + cut + away + 10 > until:
                break
            begin = time.monotonic()
            time.sleep(cut)
            server.kill()
            kills += 1
            time.sleep(away)
            server.start()
            time.sleep(max(0.0, 60 - (time.monotonic() - begin)))
        text = it.communicate()[0]
    server.kill()
    print(f"{minutes:g} minutes, server killed {kills} times, host ended with {it.returncode}")
    show(json.loads(text))
    return it.returncode


def fuzz(folder: Path, minutes: float) -> int:
    """All fuzzers, one after the other; how many found something."""
    os.environ["CXX"] = "clang++"
    build(folder, "-DFUZZ=ON", "-DSANITIZE=address,undefined", "-DCMAKE_BUILD_TYPE=Debug")
    fuzzers = sorted(path for path in folder.glob("fuzz_*") if path.is_file())
    found = 0
    for fuzzer in fuzzers:
        corpus = folder / f"{fuzzer.name}.corpus"
        corpus.mkdir(exist_ok=True)
        seconds = round(60 * minutes / len(fuzzers))
        done = subprocess.run(
            [fuzzer, corpus, f"-max_total_time={seconds}", "-print_final_stats=1",
             "-max_len=65536", "-timeout=10", f"-artifact_prefix={folder}/"],
            stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
        stats = dict(re.findall(r"^stat::(\w+):\s+(\d+)", done.stderr, re.M))
        covered = re.findall(r"cov: (\d+) ft: (\d+)", done.stderr)[-1:]
        print(f"{fuzzer.name}: {seconds} s, {stats.get('number_of_executed_units')} inputs, "
              f"edges and features {covered}, exit {done.returncode}", flush=True)  # fmt: skip
        if done.returncode:
            found += 1
            print(done.stderr[-6000:])
    return found


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="of playing")
    parser.add_argument("--preset", default="standard")
    parser.add_argument("--soak", type=float, metavar="MINUTES")
    parser.add_argument("--fuzz", type=float, metavar="MINUTES")
    parser.add_argument("--build", type=Path, metavar="DIR", help="where to build, and leave it")
    args = parser.parse_args()
    print(f"{processor()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, "
          f"{time.strftime('%F')}, {RATE} Hz, blocks of {BLOCK}", flush=True)  # fmt: skip
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
