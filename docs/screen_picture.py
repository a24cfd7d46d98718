"""Draw `docs/live.svg`: the screen of `stemwire live`, from the app itself.

The figures shown are invented, those of a plausible evening; the screen is the real one.

python docs/screen_picture.py [--width 100] [--height 32] [--output FILE]      (needs textual)
"""

from __future__ import annotations

import argparse
import asyncio
import math
import re
from pathlib import Path

from stemwire.live_screen import LiveScreen
from stemwire.realtime.status import Status

HERE = Path(__file__).parent
OFF = -math.inf
MESSAGES = (
    "playing USB Audio CODEC through Speakers at 44100 Hz",
    "recording vocals, instrumental and mix to evening/take-7",
    "MIDI: nanoKONTROL2 connected; 5 controls are mapped",
)


class Evening:
    """A session that plays invented music: what the screen needs of one (`Steered`)."""

    def __init__(self) -> None:
        self.controls = {
            "vocals": -18.0, "instrumental": 0.0, "microphone": 2.5, "output": -3.0,
            "bypass": 0.0, "mute": 0.0, "solo": 0.0,
        }  # fmt: skip
        self.preset = "standard"
        self.news = list(MESSAGES)
        self.moment = 0

    def steer(self, name: str, value: float) -> None:
        self.controls[name] = value

    def control(self, name: str) -> float:
        return self.controls[name]

    def change_preset(self, name: str) -> None:
        self.preset = name

    def messages(self) -> list[str]:
        news, self.news = self.news, []
        return news

    def status(self) -> Status:
        self.moment += 1
        peaks = {"input": -2.4, "vocals": -6.1, "instrumental": -3.3, "microphone": -8.7,
                 "output": -4.2}  # fmt: skip
        fall = 5.0 if self.moment > 6 else 0.0  # a held peak stands above a fallen one
        levels = {name: (peak - fall, peak - 11.5) for name, peak in peaks.items()}
        return Status(
            state="playing", preset=self.preset, presets=("standard", "low"),
            input="USB Audio CODEC", output="Speakers", sample_rate=44_100, block_size=256,
            seconds=3753.0 + self.moment / 12, controls=self.controls,
            delays={"separator": 768, "worker": 256, "effects": 0, "resampler": 46},
            device_delay=0.0116, microphone_delay=256, levels=levels,
            counters={"xruns": 0, "misses": 0, "concealed": 0},
            drift_ppm=12.3, hop_ms={"p50": 1.66, "p95": 2.16, "p99": 2.99, "p99.9": 4.21,
                                    "max": 6.87},
            budget_ms=11.61, cpu_share=0.24, memory_bytes=182_000_000, recording="evening/take-7",
        )  # fmt: skip


async def draw(width: int, height: int) -> str:
    """Run the screen for a second; return it as SVG."""
    app = LiveScreen(Evening())
    async with app.run_test(size=(width, height)) as pilot:
        await pilot.press("1")
        await pilot.pause(1.2)
        return with_local_fonts(app.export_screenshot(title="stemwire live"))


def with_local_fonts(picture: str) -> str:
    """The picture with the reader's own monospaced font in place of one from the network."""
    picture = re.sub(r"\s*@font-face \{.*?\}", "", picture, flags=re.DOTALL)
    fonts = "ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
    return picture.replace("Fira Code, monospace", fonts)


def main() -> None:
    """Draw the picture."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--width", type=int, default=100)
    parser.add_argument("--height", type=int, default=32)
    parser.add_argument("--output", type=Path, default=HERE / "live.svg")
    args = parser.parse_args()
    picture = asyncio.run(draw(args.width, args.height))
    args.output.write_text(picture, encoding="utf-8")


if __name__ == "__main__":
    main()
