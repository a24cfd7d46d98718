"""A looped minute: the same stream as without the loop, and how drift would show."""

from __future__ import annotations

import math
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from support import Audio, music, noise, random_separator, training_config

from stemwire.errors import AudioError
from stemwire.training.data.manifest import Song
from stemwire.training.evaluation.drift import Drift, looped_minute, measure_drift, state_bytes
from stemwire.training.evaluation.methods import Passage, Streamed
from stemwire.training.evaluation.metrics import sdr

torch = pytest.importorskip("torch")

RATE = 8_000
LOOP = 3  # seconds, instead of a minute


def passage(references: Audio, rate: int = RATE) -> Passage:
    return Passage("tune", cast(Song, None), 0, rate, references)


@pytest.fixture(scope="module")
def tune() -> Passage:
    return passage(np.stack((music(2 * RATE, RATE, 2, 1), noise(2 * RATE, seed=2))))


def method(folder: Path, fill: float | None = None) -> Streamed:
    """Random weights of a network that is quick at 8 kHz; `fill`: a value for some of them."""
    from stemwire.model.checkpoint import save_checkpoint

    network = random_separator(training_config(analysis_window=1024, hop=512, bands=((32, 16),)))
    if fill is not None:
        with torch.no_grad():
            next(iter(network.parameters())).fill_(fill)
    save_checkpoint(network, folder / "ema.safetensors")
    return Streamed(str(folder / "ema.safetensors"), checkpoint=True)


def test_a_minute_is_the_middle_or_repeated(tune: Passage) -> None:
    filled = looped_minute(tune)
    assert filled.shape == (2, 2, 60 * RATE)
    np.testing.assert_array_equal(filled[:, :, 4 * RATE : 6 * RATE], tune.references)
    long = passage(np.arange(2 * 800, dtype=np.float32).reshape(2, 1, 800), rate=10)
    np.testing.assert_array_equal(looped_minute(long), long.references[:, :, 100:700])


def test_minutes_are_those_of_a_stream(tune: Passage, tmp_path: Path) -> None:
    streamed = method(tmp_path)
    seen: list[tuple[int, int]] = []
    found = measure_drift(streamed, tune, 3, lambda n, total: seen.append((n, total)), LOOP)
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert len(found.minutes) == 3 and found.state_bytes[0] == found.state_bytes[1] > 0
    references = looped_minute(tune, LOOP)
    separator = streamed.open(RATE, 2)
    vocals = separator.push(np.tile(references.sum(0), 3))[0, :, separator.latency :]
    for minute, level in enumerate(found.minutes):
        part = slice(minute * LOOP * RATE, (minute + 1) * LOOP * RATE - separator.latency)
        expected = sdr(references[0, :, : -separator.latency], vocals[:, part])
        assert level == pytest.approx(expected, abs=1e-3)


def test_change_is_the_largest_with_its_sign() -> None:
    assert Drift("low", "tune", [5.0, 5.1, 4.7], (1, 1)).change == pytest.approx(-0.3)


def test_growth_is_seen(tmp_path: Path) -> None:
    separator = method(tmp_path).open(RATE, 2)
    separator.push(noise(RATE))
    before = state_bytes(separator)
    assert before > 10_000  # the network's state, windows and rings
    separator.stream.state += (np.zeros(1000, np.float32),)  # type: ignore[attr-defined]
    assert state_bytes(separator) == before + 4000


def test_weights_that_are_not_finite(tune: Passage, tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="gives NaN or Inf in minute 1 of tune"):
        measure_drift(method(tmp_path, math.nan), tune, 2, seconds=LOOP)
