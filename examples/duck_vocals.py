"""Turn the vocals down by 6 dB and leave the music unchanged: room for a speaker, or for you.

python examples/duck_vocals.py SONG OUTPUT.wav
python examples/duck_vocals.py SONG OUTPUT.wav --db 12
"""

from __future__ import annotations

import argparse
import sys

import soundfile

from stemwire import StemSeparator, StemwireError


def main() -> None:
    """Write OUTPUT.wav: SONG with quieter vocals."""
    parser = argparse.ArgumentParser(description="Turn the vocals of a song down.")
    parser.add_argument("song", help="audio file in any format of libsndfile")
    parser.add_argument("output", help="WAV file to write")
    parser.add_argument("--db", type=float, default=6.0, help="attenuation in dB (default 6)")
    args = parser.parse_args()
    separator = StemSeparator(stem="mix", vocals_db=-args.db)
    song, rate = soundfile.read(args.song, dtype="float32", always_2d=True)
    soundfile.write(args.output, separator(song, rate), rate, "FLOAT")


if __name__ == "__main__":
    try:
        main()
    except (StemwireError, soundfile.SoundFileError, OSError) as error:
        sys.exit(f"error: {error}")
