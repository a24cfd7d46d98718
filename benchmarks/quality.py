"""Separation quality on the development windows, as a stream.

    python benchmarks/quality.py DEV [-o OUT] [--preset P ...] [--baseline B ...] ...

is `stemwire evaluate` on four windows of 30 s of each of two groups of songs, which are folders of
DEV; all other arguments go to that command, and `-o OUT` becomes OUT/GROUP. A song is a folder
with `vocals` and `accompaniment`; mixture := vocals + accompaniment. Those of *Everything is Free*
(CC0) are by an artist of the training data, those of `various` by two others. Nothing was tuned on
either.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from stemwire.cli import main

GROUPS = {
    "everything-is-free": (
        *("2.Lithium:275:30", "2.Lithium:217:30"),
        *("6.Caesium:182:30", "6.Caesium:112:30"),
    ),
    "various": (
        *("wildlife-control_analog-or-digital:30:30", "wildlife-control_analog-or-digital:130:30"),
        *("rootical_dub-desk:30:30", "rootical_dub-desk:130:30"),
    ),
}


def run() -> int:
    """Evaluate both groups; the first exit status that is not 0."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="DEV")
    parser.add_argument("-o", dest="out", type=Path, metavar="OUT")
    args, others = parser.parse_known_args()
    for group, windows in GROUPS.items():
        print(f"\n{group}", flush=True)
        excerpts = [word for window in windows for word in ("--excerpt", window)]
        out = ["-o", str(args.out / group)] if args.out else []
        if status := main(["evaluate", str(args.folder / group), *excerpts, *out, *others]):
            return status
    return 0


if __name__ == "__main__":
    sys.exit(run())
