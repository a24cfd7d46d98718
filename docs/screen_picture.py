"""Picture of the screen of `stemwire live` while music plays, `docs/live.svg`.

The session is a real one, on a sound server without hardware: the excerpt of `examples/` comes in
on channels 1 and 2 of its card, the excerpt's own vocals on channel 3, in place of a singer. The
figures on the screen are those of the computer it runs on.

    python docs/screen_picture.py [--seconds 60] [--width 100] [--height 32] [--output FILE]

Needs textual and the programs that `tests/support/jack_server.py` names.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import re
import sys
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from soak import may_hurry, play
from support.jack_server import jack_server

import stemwire
from stemwire.screen.screen import LiveScreen

HERE = Path(__file__).parent
RATE, BLOCK, CARD = 44_100, 512, "Studio"


def make_input() -> NDArray[np.float32]:
    """Input of the sound card: stereo music and a singer, float32 (3, n), at `RATE`."""
    song, rate = soundfile.read(HERE.parent / "examples" / "excerpt.opus", dtype="float32")
    assert rate == 48_000  # Opus; played a little slower here, which no meter minds
    vocals = stemwire.StemSeparator(stem="vocals")(song.T, RATE)
    return np.concatenate((0.7 * song.T, 0.5 * vocals.mean(0, keepdims=True)))


async def draw(session: stemwire.LiveSession, seconds: float, width: int, height: int) -> str:
    """Picture of the screen, as SVG, after it has run for `seconds`."""
    app = LiveScreen(session)
    async with app.run_test(size=(width, height)) as pilot:
        await pilot.press("1")
        await pilot.pause(seconds)
        return with_local_fonts(app.export_screenshot(title="stemwire live"))


def with_local_fonts(picture: str) -> str:
    """SVG with the reader's own monospaced font instead of one from the network."""
    picture = re.sub(r"\s*@font-face \{.*?\}", "", picture, flags=re.DOTALL)
    fonts = "ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
    return picture.replace("Fira Code, monospace", fonts)


def main() -> None:
    """Draw the screen of `stemwire live` while music plays."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument(
        "--seconds",
        type=float,
        default=60.0,
        help="seconds to play before the picture is taken (60)",
    )
    parser.add_argument("--width", type=int, default=100, help="columns of the terminal (100)")
    parser.add_argument("--height", type=int, default=32, help="rows of the terminal (32)")
    parser.add_argument("--output", type=Path, default=HERE / "live.svg", help="SVG file to write")
    args = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    with jack_server(RATE, BLOCK, realtime=may_hurry()):
        ready = spawn.Event()
        player = spawn.Process(target=play, args=(make_input(), ready, CARD), daemon=True)
        player.start()
        try:
            assert ready.wait(30), "the player did not start within 30 s"
            with stemwire.LiveSession(
                CARD, CARD, vocals=-18, microphone=2.5, microphone_channels=(3,)
            ) as session:
                session.steer("output", -3)
                picture = asyncio.run(draw(session, args.seconds, args.width, args.height))
        finally:
            player.kill()
            player.join()
    args.output.write_text(picture, encoding="utf-8")


if __name__ == "__main__":
    main()
