"""Separation quality on the development windows, through the streaming engine.

    python benchmarks/quality.py DEV [--preset P ...] [--baseline B ...] [-o OUT] ...

is `stemwire evaluate DEV` on four windows of 30 s; every other argument goes to that command. DEV
holds the songs `2.Lithium` and `6.Caesium` of the album *Everything is Free* (CC0), each a folder
with `vocals` and `accompaniment`; mixture := vocals + accompaniment. Both songs are by the artist
of a part of the training data, so the figures say little about other music; nothing was tuned on
them.
"""

from __future__ import annotations

import sys

from stemwire.cli import main

WINDOWS = ("2.Lithium:275:30", "2.Lithium:217:30", "6.Caesium:182:30", "6.Caesium:112:30")

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    excerpts = [word for window in WINDOWS for word in ("--excerpt", window)]
    sys.exit(main(["evaluate", sys.argv[1], *excerpts, *sys.argv[2:]]))
