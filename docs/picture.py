"""Picture of the excerpt and its stems as spectrograms, `docs/separation.png`.

python docs/picture.py [--preset standard]      (needs matplotlib)
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import soundfile

import stemwire

HERE = Path(__file__).parent
FIRST, LAST = 3.0, 15.0  # seconds shown
HIGHEST = 8000.0  # Hz shown


def main() -> None:
    """Draw the excerpt and its stems as spectrograms."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--preset", default="standard", help="preset that separates (standard)")
    args = parser.parse_args()
    audio, rate = soundfile.read(HERE.parent / "examples" / "excerpt.opus", dtype="float32")
    separator = stemwire.load(args.preset, rate)
    stems = np.concatenate([separator.push(np.ascontiguousarray(audio.T)), separator.flush()], 2)
    vocals, instrumental = stems[..., separator.latency :]
    figure, axes = plt.subplots(3, 1, figsize=(10, 7.5), sharex=True, layout="constrained")
    panels = {"mixture in": audio.T, "vocals out": vocals, "instrumental out": instrumental}
    span = slice(int(FIRST * rate), int(LAST * rate))
    for axis, (title, signal) in zip(axes, panels.items(), strict=True):
        axis.specgram(
            signal.mean(0)[span] + 1e-9,
            NFFT=2048,
            Fs=rate,
            noverlap=1536,
            vmin=-130,
            vmax=-40,
            cmap="magma",
            xextent=(FIRST, LAST),
        )
        axis.set(title=title, ylim=(0, HIGHEST), ylabel="kHz")
        axis.set_yticks([0, 2000, 4000, 6000, 8000], ["0", "2", "4", "6", "8"])
    axes[-1].set_xlabel(f"seconds (preset {args.preset}: {separator.latency / rate * 1e3:.1f} ms)")
    figure.savefig(HERE / "separation.png", dpi=90)


if __name__ == "__main__":
    main()
