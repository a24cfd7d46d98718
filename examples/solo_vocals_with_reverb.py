"""Keep only the vocals, with reverb: a separator and a Pedalboard in a row.

pip install 'stemwire[live]'
python examples/solo_vocals_with_reverb.py SONG OUTPUT.wav --room 0.9
"""

from __future__ import annotations

import argparse
import sys

import soundfile
from pedalboard import HighpassFilter, Pedalboard, Reverb

from stemwire import Row, StemSeparator, StemwireError


def main() -> None:
    """Write OUTPUT.wav: the vocals of SONG with reverb."""
    parser = argparse.ArgumentParser(description="Keep the vocals, with reverb.")
    parser.add_argument("song", help="audio file in any format of libsndfile")
    parser.add_argument("output", help="WAV file to write")
    parser.add_argument("--room", type=float, default=0.7, help="room size, 0 to 1 (default 0.7)")
    parser.add_argument("--wet", type=float, default=0.3, help="reverb level, 0 to 1 (default 0.3)")
    args = parser.parse_args()
    hall = Pedalboard([HighpassFilter(90), Reverb(args.room, wet_level=args.wet)])
    row = Row([StemSeparator(stem="vocals"), hall])
    song, rate = soundfile.read(args.song, dtype="float32", always_2d=True)
    soundfile.write(args.output, row(song, rate), rate, "FLOAT")


if __name__ == "__main__":
    try:
        main()
    except (StemwireError, soundfile.SoundFileError, OSError, ValueError) as error:
        sys.exit(f"error: {error}")
