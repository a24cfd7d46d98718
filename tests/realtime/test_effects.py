"""Chains of effects: as many samples out as in, exact latency, robust against failures."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import Audio, noise

pytest.importorskip("pedalboard")

import pedalboard

from stemwire.errors import ConfigError
from stemwire.realtime.effects import Chain, parse_chain

RATE, BLOCK = 44_100, 512


def run(chain: Chain, audio: Audio) -> Audio:
    blocks = range(0, audio.shape[1], BLOCK)
    return np.concatenate([chain.process(audio[:, at : at + BLOCK].copy()) for at in blocks], 1)


@pytest.mark.parametrize(
    "text", ["", "Gain gain_db=-6", "Resample target_sample_rate=22050", "HighpassFilter | Reverb"]
)
@pytest.mark.parametrize("more", [0, 100])
def test_a_chain_gives_what_pedalboard_gives_later(text: str, more: int) -> None:
    audio = noise(BLOCK * 40)
    chain = Chain(parse_chain(text), RATE, 2, BLOCK)
    chain.align(chain.latency + more)
    heard = run(chain, audio)
    wanted = audio
    if text:
        board = pedalboard.Pedalboard(parse_chain(text))
        parts = [
            board.process(audio[:, at : at + BLOCK], RATE, BLOCK, reset=False)
            for at in range(0, audio.shape[1], BLOCK)
        ]
        wanted = np.concatenate(parts, 1)
    assert heard.shape == audio.shape and chain.delay == chain.latency + more
    count = heard.shape[1] - chain.delay
    np.testing.assert_allclose(heard[:, chain.delay :], wanted[:, :count], atol=1e-6)
    assert chain.failures == 0 and (chain.latency > 0) == ("Resample" in text)


class Faulty:
    """Stands for a plugin that breaks: pedalboard's interface, as far as a chain uses it."""

    def __init__(self, breaks: Any) -> None:
        self.breaks, self.count = breaks, 0

    def process(self, audio: Audio, rate: float, buffer_size: int, reset: bool) -> Audio:
        self.count += 1
        return self.breaks(audio) if self.count == 10 else 0.5 * audio

    def reset(self) -> None:
        pass


def crash(audio: Audio) -> Audio:
    raise RuntimeError("out of luck")


@pytest.mark.parametrize(
    ("breaks", "said"),
    [
        (crash, "out of luck"),
        (lambda audio: np.full_like(audio, math.nan), "NaN"),
        (lambda audio: audio[:, :100], "latency"),
    ],
)
def test_a_plugin_that_breaks_lets_the_audio_pass(breaks: Any, said: str) -> None:
    audio = noise(BLOCK * 20)
    chain = Chain([], RATE, 2, BLOCK)
    chain._board = Faulty(breaks)
    problems = []
    heard = []
    for at in range(0, audio.shape[1], BLOCK):
        heard.append(chain.process(audio[:, at : at + BLOCK].copy()))
        problems.append(chain.problem)
    assert chain.failures == 1 and said in problems[9] and not problems[10]
    np.testing.assert_array_equal(heard[9], audio[:, 9 * BLOCK : 10 * BLOCK])
    np.testing.assert_array_equal(heard[10], 0.5 * audio[:, 10 * BLOCK : 11 * BLOCK])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Choir", "'Choir' is unknown"), ("Reverb size=3", "size=3"), ("Reverb x", "Reverb x"),
        ("nowhere/my.vst3", "no such plugin"),
    ],
)  # fmt: skip
def test_chains_that_cannot_be(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_chain(text)


def test_a_file_that_is_no_plugin(tmp_path: Path) -> None:
    (tmp_path / "broken.vst3").write_bytes(b"no plugin")
    with pytest.raises(ConfigError, match=r"broken\.vst3: cannot be loaded"):
        parse_chain(str(tmp_path / "broken.vst3"))


def test_effects_that_hold_everything_back_are_refused() -> None:
    with pytest.raises(ConfigError, match="return nothing within 1 s"):
        Chain(parse_chain("PitchShift semitones=2"), RATE, 2, BLOCK)
