"""Memory of the command: small, and the same however long the file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
from support import PRESETS, noise

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]
# The peak of this process alone: getrusage would count what it was forked from.
MEASURE = """
import sys
from stemwire.cli import main
status = main(sys.argv[1:])
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(int(peak.split()[1]) / 1024, file=sys.stderr)
sys.exit(status)
"""


def peak_mb(folder: Path, seconds: int, rate: int, channels: int, *options: str) -> float:
    """Peak memory in MB of separating so much noise."""
    path = folder / f"{seconds}.wav"
    with soundfile.SoundFile(path, "w", rate, channels, "FLOAT") as file:
        for second in range(seconds):
            file.write(noise(rate, channels, second).T)
    command = [sys.executable, "-c", MEASURE, "separate", str(path), "-o", str(folder), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stderr)


@pytest.mark.parametrize("preset", PRESETS)
def test_memory_is_small_and_does_not_grow(tmp_path: Path, preset: str) -> None:
    """Half a minute more here is 46 MB of input and 92 MB of stems: none may be kept."""
    options = ("--preset", preset)
    short, long = (peak_mb(tmp_path, seconds, 192_000, 2, *options) for seconds in (5, 35))
    assert long < 600
    assert long - short < 20


def test_memory_of_a_long_file_is_that_of_a_short_one(tmp_path: Path) -> None:
    """Many hops: what leaks a little with each would show."""
    short, long = (peak_mb(tmp_path, seconds, 8_000, 1) for seconds in (10, 100))
    assert long < 600
    assert long - short < 12  # the same file differs by 5 from run to run
