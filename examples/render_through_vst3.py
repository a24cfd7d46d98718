"""Process one stem of a song with a VST3 plugin, and mix the song again.

    pip install 'stemwire[live]'
    python examples/render_through_vst3.py SONG PLUGIN.vst3 OUTPUT.wav
    python examples/render_through_vst3.py SONG PLUGIN.vst3 OUTPUT.wav --stem instrumental \
        --set mix=40 --set size=2

Whatever the plugin's latency, the stems stay aligned. `--list` shows the plugin's parameters.
"""

from __future__ import annotations

import argparse
import sys

import soundfile
from pedalboard import load_plugin

from stemwire import StemSeparator, StemwireError


def main() -> None:
    """Write OUTPUT.wav: SONG with one stem processed by the plugin."""
    parser = argparse.ArgumentParser(description="Process one stem of a song with a VST3 plugin.")
    parser.add_argument("song", help="audio file in any format of libsndfile")
    parser.add_argument("plugin", help="path of a VST3 plugin")
    parser.add_argument("output", help="WAV file to write")
    parser.add_argument("--stem", default="vocals", help="vocals (default) or instrumental")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="set a parameter of the plugin; may be repeated",
    )
    parser.add_argument("--list", action="store_true", help="print the plugin's parameters first")
    args = parser.parse_args()
    plugin = load_plugin(args.plugin)
    for name, _, value in (setting.partition("=") for setting in args.set):
        if name not in plugin.parameters:
            sys.exit(f"error: no parameter {name!r}; there are {', '.join(plugin.parameters)}")
        setattr(plugin, name, float(value))
    if args.list:
        print(*(f"{name} = {getattr(plugin, name)}" for name in plugin.parameters), sep="\n")
    separator = StemSeparator(stem="mix", effects={args.stem: plugin})
    song, rate = soundfile.read(args.song, dtype="float32", always_2d=True)
    soundfile.write(args.output, separator(song, rate), rate, "FLOAT")


if __name__ == "__main__":
    try:
        main()
    except (StemwireError, soundfile.SoundFileError, ImportError, OSError, ValueError) as error:
        sys.exit(f"error: {error}")
