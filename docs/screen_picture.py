"""Draw `docs/live.svg`: the screen of `stemwire live` at work, from the app itself.

The session is a real one, on a sound server without hardware: the excerpt of `examples/` comes in
on channels 1 and 2 of its card, the excerpt's own vocals on 3, as a singer's. Figures are as this
computer has them.

    python docs/screen_picture.py [--seconds 60] [--width 100] [--height 32] [--output FILE]

Needs what `tests/support/jack_server.py` needs, and textual.
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


def make_evening() -> NDArray[np.float32]:
    """Music and a singer, (3, n)."""
    song, rate = soundfile.read(HERE.parent / "examples" / "excerpt.opus", dtype="float32")
    assert rate == 48_000  # Opus; played a little slower here, which no meter minds
    vocals = stemwire.StemSeparator(stem="vocals")(song.T, RATE)
    return np.concatenate((0.7 * song.T, 0.5 * vocals.mean(0, keepdims=True)))


async def draw(session: stemwire.LiveSession, seconds: float, width: int, height: int) -> str:
    """Run the screen for some seconds; return it as SVG."""
    app = LiveScreen(session)
    async with app.run_test(size=(width, height)) as pilot:
        await pilot.press("1")
        await pilot.pause(seconds)
        return with_local_fonts(app.export_screenshot(title="stemwire live"))


def with_local_fonts(picture: str) -> str:
    """The picture with the reader's own monospaced font in place of one from the network."""
    picture = re.sub(r"\s*@font-face \{.*?\}", "", picture, flags=re.DOTALL)
    fonts = "ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
    return picture.replace("Fira Code, monospace", fonts)


def main() -> None:
    """Draw the picture."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="to play before")
    parser.add_argument("--width", type=int, default=100)
    parser.add_argument("--height", type=int, default=32)
    parser.add_argument("--output", type=Path, default=HERE / "live.svg")
    args = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    with jack_server(RATE, BLOCK, realtime=may_hurry()):
        ready = spawn.Event()
        player = spawn.Process(target=play, args=(make_evening(), ready, CARD), daemon=True)
        player.start()
        try:
            assert ready.wait(30), "the player has not begun"
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
