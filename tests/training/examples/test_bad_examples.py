"""Examples from bad input: songs that vanish or break, invalid manifests and settings."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import TRAINING_RATE, Library, noise, write_audio

pytest.importorskip("soxr")
pytest.importorskip("scipy")

from support.examples import maker_of

from stemwire.errors import AudioError, ConfigError
from stemwire.training.examples.settings import ExampleSettings

RATE = TRAINING_RATE


def damage_gone(file: Path) -> None:
    file.unlink()


def damage_cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:1000])


def damage_nan(file: Path) -> None:
    write_audio(file, np.full((2, 4 * RATE), np.nan, np.float32), RATE, "FLOAT")


@pytest.mark.parametrize("damage", [damage_gone, damage_cut, damage_nan])
def test_unreadable_songs_are_counted_and_replaced(
    library: Library, damage: Callable[[Path], None]
) -> None:
    for k in range(4):
        library.add(f"voice{k}.wav", "vocals", noise(4 * RATE, seed=k))
    library.add("tune.wav", "accompaniment", noise(4 * RATE, seed=9))
    manifest = library.manifest()
    damage(library.folder / "voice2.wav")
    maker, other = (maker_of(manifest, no_vocals_share=0.0) for _ in range(2))
    examples = {k: maker(k) for k in range(30)}
    assert [("voice2" in name, count > 2) for name, count in maker.skipped.items()] == [(True,) * 2]
    for k in reversed(range(30)):  # whatever was met before
        assert np.array_equal(other(k).vocals, examples[k].vocals)
        assert examples[k].vocals.any() and "voice2" not in " ".join(examples[k].notes)
    assert other.skipped == maker.skipped


def test_too_many_unreadable_songs_are_named(library: Library) -> None:
    for k in range(8):
        library.add(f"voice{k}.wav", "vocals", noise(4 * RATE, seed=k))
    library.add("tune.wav", "accompaniment", noise(4 * RATE, seed=9))
    manifest = library.manifest()
    for k in (1, 4, 6):
        (library.folder / f"voice{k}.wav").unlink()
    lenient = maker_of(manifest, max_bad=0.34)
    assert all(lenient(k).accompaniment.any() for k in range(40))
    assert len(lenient.skipped) == 3
    strict = maker_of(manifest)
    with pytest.raises(AudioError, match=r"2 songs .* 1 that max_bad allows") as caught:
        for k in range(100):
            strict(k)
    assert sum(f"voice{k}" in str(caught.value) for k in (1, 4, 6)) == 2


def test_the_only_song_being_unreadable_is_an_error(library: Library) -> None:
    library.add("voice.wav", "vocals", noise(4 * RATE))
    library.add("tune.wav", "accompaniment", noise(4 * RATE))
    manifest = library.manifest()
    (library.folder / "tune.wav").unlink()
    with pytest.raises(AudioError, match=r"none of the 1 songs .* music .*tune\.wav"):
        maker_of(manifest)(0)


@pytest.mark.parametrize("kind", ["vocals", "accompaniment", "mixture"])
def test_what_cannot_be_trained_on_is_refused(library: Library, kind: str) -> None:
    library.add("one.wav", kind, noise(4 * RATE))
    library.add("two.wav", "accompaniment", noise(4 * RATE), split="test")
    library.add("three.wav", "vocals", noise(4 * RATE), split="valid")
    with pytest.raises(ConfigError, match="both are needed"):
        maker_of(library.manifest())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seconds", 0), ("seconds", math.inf), ("seconds", "3"), ("pair_share", 1.1),
        ("codec_share", -0.1), ("reverb_share", math.nan), ("swap_share", True),
        ("speed_range", 2), ("max_bad", None), ("quietest_db", -5.0), ("ratio_sd_db", -1),
    ],
)  # fmt: skip
def test_settings_that_cannot_work_are_named(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=name):
        ExampleSettings(**{name: value})
