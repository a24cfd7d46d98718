"""Karaoke in ten lines: music from the sound card, without its vocals, to the loudspeakers.

    python examples/karaoke.py

The music comes in on channels 1 and 2 of the default input; a microphone would be on channel 3.
"""

from __future__ import annotations

import stemwire

if __name__ == "__main__":
    # microphone_channels=(3,) adds a microphone; input="name" selects a sound card.
    with stemwire.LiveSession(vocals=-60) as session:
        status = session.status()
        delay = 1000 * status.delay / status.sample_rate
        print(f"{status.input} → {status.output}, latency {delay:.1f} ms. Ctrl-C ends it.")
        try:
            while not session.wait(1.0):
                for message in session.messages():
                    print(message)
        except KeyboardInterrupt:
            print("Stopped.")
