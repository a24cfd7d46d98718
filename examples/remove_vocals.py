"""Remove the vocals from a song of any length, piece by piece: memory use stays constant.

python examples/remove_vocals.py SONG OUTPUT.wav
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import soundfile

from stemwire import StemSeparator, StemwireError

PIECE = 1 << 16  # samples per call


def main() -> None:
    """Write OUTPUT.wav: SONG without its vocals, of the same length and sample-aligned."""
    parser = argparse.ArgumentParser(description="Remove the vocals from a song.")
    parser.add_argument("song", help="audio file in any format of libsndfile")
    parser.add_argument("output", help="WAV file to write")
    parser.add_argument("--preset", default="standard", help="preset: standard (default) or low")
    args = parser.parse_args()
    if Path(args.output).resolve() == Path(args.song).resolve():
        parser.error("the output would overwrite the song")
    separator = StemSeparator(args.preset, stem="instrumental")
    with soundfile.SoundFile(args.song) as song:
        kind = {"samplerate": song.samplerate, "channels": song.channels, "subtype": "FLOAT"}
        with soundfile.SoundFile(args.output, "w", **kind) as output:
            for piece in song.blocks(PIECE, dtype="float32", always_2d=True):
                output.write(separator(piece, song.samplerate, reset=False))
            output.write(separator.flush())


if __name__ == "__main__":
    try:
        main()
    except (StemwireError, soundfile.SoundFileError, OSError) as error:
        sys.exit(f"error: {error}")
