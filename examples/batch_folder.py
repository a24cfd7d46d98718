"""Separate a folder of songs into a folder of instrumentals or vocals, here or on a server.

    python examples/batch_folder.py SONGS KARAOKE
    python examples/batch_folder.py SONGS ACAPELLA --stem vocals --url ws://studio:8765

Songs that fail are listed with the reason, the rest are processed, and the exit status is then 2.
Existing files are kept, so the same command continues after an interruption.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import soundfile

from stemwire import StemSeparator, StemwireError

SUFFIXES = {f".{name.lower()}" for name in soundfile.available_formats()} | {".aif", ".opus"}


def main() -> int:
    """Write OUTPUT/NAME.wav for each song; returns the exit status."""
    parser = argparse.ArgumentParser(description="Separate all songs of a folder.")
    parser.add_argument("songs", type=Path, help="folder of songs")
    parser.add_argument("output", type=Path, help="folder for the stems, created if missing")
    parser.add_argument("--stem", default="instrumental", help="instrumental (default) or vocals")
    parser.add_argument("--url", help="URL of a server to separate on: ws://HOST:PORT")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    failed = 0
    with StemSeparator(stem=args.stem, url=args.url) as separator:
        for path in sorted(p for p in args.songs.iterdir() if p.suffix.lower() in SUFFIXES):
            target, start = args.output / f"{path.stem}.wav", time.perf_counter()
            if target.exists():
                print(f"{path.name}: {target} exists already")
                continue
            try:
                song, rate = soundfile.read(path, dtype="float32", always_2d=True)
                stem = separator(song, rate)
                soundfile.write(target, stem, rate, "FLOAT")
                took = time.perf_counter() - start
                print(f"{path.name}: {len(song) / rate:.1f} s in {took:.1f} s")
            except (StemwireError, soundfile.SoundFileError, OSError) as error:
                print(f"{path.name}: {error}", file=sys.stderr)
                failed += 1
    return 2 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (StemwireError, OSError) as error:
        sys.exit(f"error: {error}")
