"""Use the DAW plugin in a Pedalboard chain: a song without its vocals, with reverb.

pip install 'stemwire[bridge,live]'
python examples/plugin_in_pedalboard.py SONG OUTPUT.wav --plugin build/Stemwire.vst3

The plugin starts a server on this machine if none is running (after `stemwire plugin install`), or
uses the one that STEMWIRE_PLUGIN_SERVER names.
"""

from __future__ import annotations

import argparse
import sys

import soundfile
from pedalboard import Pedalboard, Reverb, load_plugin

import stemwire


def main() -> None:
    """Write OUTPUT.wav: the instrumental of SONG with reverb."""
    parser = argparse.ArgumentParser(description="Remove the vocals with the DAW plugin.")
    parser.add_argument("song", help="audio file in any format of libsndfile")
    parser.add_argument("output", help="WAV file to write")
    parser.add_argument("--plugin", help="path of a Stemwire.vst3 (default: the installed one)")
    parser.add_argument("--vocals", type=float, default=-60, help="dB; -60 (default) is off")
    args = parser.parse_args()
    karaoke = load_plugin(args.plugin or str(stemwire.plugin_bundle()))
    karaoke.vocals_db = args.vocals
    song, rate = soundfile.read(args.song, dtype="float32", always_2d=True)
    rendered = Pedalboard([karaoke, Reverb(room_size=0.3, wet_level=0.1)])(song, rate)
    # pedalboard ignores errors of plugins: audio rendered without a server is beeps.
    if karaoke.status == "render failed":
        raise stemwire.StemwireError("no stems arrived; `stemwire plugin status` says why")
    soundfile.write(args.output, rendered, rate, "FLOAT")


if __name__ == "__main__":
    try:
        main()
    except (stemwire.StemwireError, soundfile.SoundFileError, OSError, ValueError) as error:
        sys.exit(f"error: {error}")
