"""Turn the singer down by 6 dB and leave the music as it is: room for a speaker, or for you.

python examples/duck_vocals.py SONG OUTPUT.wav
python examples/duck_vocals.py SONG OUTPUT.wav --db 12
"""

from __future__ import annotations

import argparse
import sys

import soundfile

from stemwire import StemwireError
from stemwire.bridge.pedalboard.separator import StemSeparator


def main() -> None:
    """Write OUTPUT.wav: SONG with its vocals that much quieter."""
    parser = argparse.ArgumentParser(description="Turn the vocals of a song down.")
    parser.add_argument("song", help="any file that libsndfile reads")
    parser.add_argument("output", help="a WAV file to write")
    parser.add_argument("--db", type=float, default=6.0, help="by so many dB (default 6)")
    args = parser.parse_args()
    separator = StemSeparator(stem="mix", vocals_db=-args.db)
    song, rate = soundfile.read(args.song, dtype="float32", always_2d=True)
    soundfile.write(args.output, separator(song, rate), rate, "FLOAT")


if __name__ == "__main__":
    try:
        main()
    except (StemwireError, soundfile.SoundFileError, OSError) as error:
        sys.exit(f"error: {error}")
