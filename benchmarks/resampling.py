"""Latency that a streaming resampler would add, the reason why the STFT is scaled instead.

    python benchmarks/resampling.py

For each quality of soxr: the maximum amount of audio in milliseconds that a resampler to the
network's rate and one back hold together, fed in blocks of 64 samples.
"""

from __future__ import annotations

import numpy as np
import soxr

NETWORK_RATE = 44_100
BLOCK = 64


def withheld_ms(source: int, target: int, quality: str) -> float:
    """Maximum audio held by a resampler from `source` to `target` Hz, after the first 0.1 s."""
    resampler = soxr.ResampleStream(source, target, 1, dtype="float32", quality=quality)
    block = np.zeros(BLOCK, np.float32)
    produced, most = 0, 0.0
    for taken in range(BLOCK, source, BLOCK):
        produced += len(resampler.resample_chunk(block))
        if taken > source // 10:
            most = max(most, taken / source - produced / target)
    return most * 1e3


def main() -> None:
    """Print a line for each rate and quality."""
    print("host rate  quality  in, ms  back, ms  sum, ms")
    for rate in (48_000, 96_000):
        for quality in ("QQ", "LQ", "MQ", "HQ", "VHQ"):
            there = withheld_ms(rate, NETWORK_RATE, quality)
            back = withheld_ms(NETWORK_RATE, rate, quality)
            print(f"{rate:9}  {quality:>7}  {there:6.1f}  {back:8.1f}  {there + back:7.1f}")


if __name__ == "__main__":
    main()
