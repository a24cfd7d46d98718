"""Clips for pretraining: any music, reproducible, and separate from validation."""

from __future__ import annotations

import numpy as np
import pytest
from support import TRAINING_RATE, Library, noise

pytest.importorskip("soxr")

from stemwire.errors import ConfigError
from stemwire.training.data.manifest import Manifest
from stemwire.training.data.reader import AudioReader
from stemwire.training.examples.clips import HELD_OUT, ClipMaker
from stemwire.training.examples.settings import ExampleSettings

RATE = TRAINING_RATE
SECONDS = 0.5


def maker_of(manifest: Manifest, seed: int = 1) -> ClipMaker:
    reader = AudioReader(manifest, RATE)
    return ClipMaker(reader, ExampleSettings(seconds=SECONDS), seed)


def test_a_clip_depends_on_seed_and_number_alone(library: Library) -> None:
    library.add("one.wav", "mixture", noise(8 * RATE))
    library.pair("two", noise(8 * RATE, seed=1), noise(8 * RATE, seed=2))
    manifest = library.manifest()
    maker, again, other = (maker_of(manifest, seed) for seed in (1, 1, 2))
    clips = [maker(k).accompaniment for k in range(6)]
    for k in reversed(range(6)):
        np.testing.assert_array_equal(again(k).accompaniment, clips[k])
        assert not np.array_equal(other(k).accompaniment, clips[k])
        assert clips[k].shape == (2, round(SECONDS * RATE)) and not maker(k).vocals.any()


def test_training_never_hears_the_ends(library: Library) -> None:
    count = 10 * RATE
    audio = np.full((2, count), 0.1, np.float32)
    audio[:, round((1 - HELD_OUT) * count) :] = 0.5  # by 14 dB, more than gains change
    library.add("one.wav", "accompaniment", audio)
    maker = maker_of(library.manifest())
    for k in range(40):
        assert np.ptp(np.abs(maker(k).accompaniment)) < 1e-3  # all of it from one part
    assert all(np.allclose(clip.accompaniment, 0.5) for clip in maker.validation(4))


def test_every_kind_is_music(library: Library) -> None:
    for kind in ("mixture", "accompaniment", "vocals"):
        library.add(f"{kind}.wav", kind, noise(4 * RATE, seed=len(kind)))
    library.add("kept.wav", "mixture", noise(400 * RATE), split="test")
    maker = maker_of(library.manifest())
    assert len(maker.songs) == 3
    assert all(maker(k).accompaniment.any() for k in range(20))


def test_songs_that_are_too_short_are_an_error(library: Library) -> None:
    library.add("one.wav", "mixture", noise(round(1.5 * SECONDS * RATE)))
    with pytest.raises(ConfigError, match=r"longer than 1\.0 s"):
        maker_of(library.manifest())
