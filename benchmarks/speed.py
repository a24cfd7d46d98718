"""Time per hop on one CPU core, of Stemwire and two other separators in one run.

    OMP_NUM_THREADS=1 python benchmarks/speed.py [--seconds 20] [--no-peers] [--json FILE]

For Stemwire this is the complete processing of a block (`push` of one hop: windows, FFT, network,
overlap-add). The contestants take turns in short rounds, so that a slow phase of a shared machine
affects all of them; ratios say more than milliseconds. Only a warm-up at the start is excluded.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
from peers import Peer, peers
from safetensors import safe_open

import stemwire
from stemwire.realtime.backends import default_backend

WARM_UP_HOPS = 50  # fills buffers and caches
ROUND_SECONDS = 1.0  # of audio, until the next contestant's turn


def ours() -> list[Peer]:
    """Open the shipped presets, with each backend of the CPU, to be stepped through `push`."""
    entries = []
    backends = dict.fromkeys((default_backend(), "onnx"))
    for preset, backend in itertools.product(stemwire.presets(), backends):
        hop = preset.config.hop
        separator = stemwire.load(preset.name, preset.sample_rate, 2, hop, backend)
        with safe_open(preset.folder / "weights.safetensors", framework="numpy") as file:
            params = sum(file.get_tensor(name).size for name in file.keys())  # noqa: SIM118
        name = f"stemwire {preset.name} {backend}"
        entries.append(Peer(name, preset.sample_rate, hop, 2, params, separator.push))
    return entries


def time_hops(peer: Peer, count: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Milliseconds of wall time for each of `count` hops of noise."""
    times = np.empty(count)
    for index in range(count):
        audio = (0.1 * rng.standard_normal((peer.channels, peer.hop))).astype(np.float32)
        start = time.perf_counter()
        peer.step(audio)
        times[index] = 1e3 * (time.perf_counter() - start)
    return times


def processor() -> str:
    """Name of the processor, as far as the system tells."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def main() -> None:
    """Print one line of hop times for each contestant."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="audio for each contestant")
    parser.add_argument("--no-peers", action="store_true", help="time the presets alone")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    args = parser.parse_args()
    entries = ours()
    if not args.no_peers:
        entries += peers()
    rng = np.random.default_rng(0)
    times: dict[str, list[npt.NDArray[np.float64]]] = {entry.name: [] for entry in entries}
    for entry in entries:
        time_hops(entry, WARM_UP_HOPS, rng)
    for _ in range(max(1, round(args.seconds / ROUND_SECONDS))):
        for entry in entries:
            count = round(ROUND_SECONDS * entry.sample_rate / entry.hop)
            times[entry.name].append(time_hops(entry, count, rng))
    print(
        f"{processor()}, {os.cpu_count()} cores, OMP_NUM_THREADS="
        f"{os.environ.get('OMP_NUM_THREADS', 'unset')}, {time.strftime('%Y-%m-%d')}, "
        f"{args.seconds:g} s each"
    )
    columns = ("p50", "p95", "p99", "p99.9", "max", "hop")
    print(f"{'ms per hop':28}{'Mparams':>8}", *(f"{c:>7}" for c in columns), "  p50/hop")
    figures = {}
    for entry in entries:
        marks = np.percentile(np.concatenate(times[entry.name]), [50, 95, 99, 99.9, 100])
        hop_ms = 1e3 * entry.hop / entry.sample_rate
        cells = " ".join(f"{value:7.2f}" for value in (*marks, hop_ms))
        print(f"{entry.name:28}{entry.params / 1e6:8.1f} {cells} {marks[0] / hop_ms:9.2f}")
        figures[entry.name] = dict(zip(columns, [*marks.tolist(), hop_ms], strict=True))
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
