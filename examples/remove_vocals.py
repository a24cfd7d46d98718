"""Remove the vocals from a file block by block, as a live program would.

python examples/remove_vocals.py SONG OUTPUT.wav
"""

import sys

import soundfile

import stemwire


def main() -> None:
    """Write OUTPUT.wav: SONG with its vocals turned down by 20 dB."""
    song, output = sys.argv[1:]
    with soundfile.SoundFile(song) as source:
        separator = stemwire.load("standard", source.samplerate, source.channels)
        late = separator.latency  # samples of silence at the start of the output
        with soundfile.SoundFile(output, "w", source.samplerate, source.channels) as sink:
            for block in source.blocks(1024, dtype="float32", always_2d=True):
                last = len(block) < 1024 or source.tell() == source.frames
                take = separator.flush if last else separator.push
                vocals, instrumental = take(block.T)
                mix = instrumental + 0.1 * vocals
                sink.write(mix[:, late:].T)
                late = max(0, late - mix.shape[1])


if __name__ == "__main__":
    main()
