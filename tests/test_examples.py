"""Training examples: reproducible, sane, and never from what validation sees."""

from __future__ import annotations

import dataclasses
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from conftest import TRAINING_RATE, Audio

pytest.importorskip("soxr")

from stemwire.training.data import Cache, Track
from stemwire.training.examples import (
    HELD_OUT,
    Example,
    ExampleMaker,
    ExampleSettings,
)

SHORT = ExampleSettings(seconds=0.5)
COUNT = TRAINING_RATE // 2


def maker_of(cache: Path, seed: int = 1, **changes: object) -> ExampleMaker:
    settings = dataclasses.replace(SHORT, **changes)  # type: ignore[arg-type]
    return ExampleMaker(Cache(cache), settings, TRAINING_RATE, seed)


def equal(one: Example, other: Example) -> bool:
    return (
        np.array_equal(one.vocals, other.vocals)
        and np.array_equal(one.accompaniment, other.accompaniment)
        and one.bandwidth_hz == other.bandwidth_hz
    )


def level_db(audio: Audio) -> float:
    return float(10 * np.log10(np.mean(np.square(audio.astype(np.float64)))))


def test_an_example_depends_on_seed_and_number_alone(cache: Path) -> None:
    forwards, backwards = maker_of(cache), maker_of(cache)
    examples = [forwards(k) for k in range(12)]
    for k in reversed(range(12)):
        assert equal(backwards(k), examples[k])
    other = maker_of(cache, seed=2)
    assert not any(equal(other(k), examples[k]) for k in range(12))
    assert not any(equal(one, two) for one, two in pairwise(examples))


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_examples_are_sane(cache: Path, share: float) -> None:
    maker = maker_of(cache, pair_share=share, no_vocals_share=0.0)
    with_vocals = 0
    for k in range(60):
        example = maker(k)
        for stem in (example.vocals, example.accompaniment):
            assert stem.shape == (2, COUNT) and stem.dtype == np.float32
            assert np.isfinite(stem).all()
        assert -32.5 <= level_db(example.vocals + example.accompaniment) <= -11.5
        assert 2000 <= example.bandwidth_hz <= 8000 * 1.13
        with_vocals += bool(np.abs(example.vocals).max() > 1e-4)
    assert with_vocals > 55


def test_bandwidth_is_that_of_the_narrower_stem(cache: Path) -> None:
    maker = maker_of(cache, pair_share=1.0)
    speeds = [maker(k).bandwidth_hz / np.array([3500, 3400]) for k in range(60)]
    near = [min(abs(np.log(speed))) for speed in speeds]
    assert max(near) <= 0.12 + 1e-6  # a song's own, times the speed it is played at
    assert sum(n < 1e-9 for n in near) in range(15, 46)  # about half are played as they are


def test_speed_moves_pitch_and_bandwidth_together(cache: Path) -> None:
    maker = maker_of(cache, pair_share=1.0, no_vocals_share=0.0)
    for k in range(40):
        example = maker(k)
        pitch = np.abs(np.fft.rfft(example.vocals[0] * np.hanning(COUNT))).argmax() * 2  # Hz
        candidates = [1500 * example.bandwidth_hz / 3500, 1540 * example.bandwidth_hz / 3400]
        assert min(abs(pitch - c) for c in candidates) <= 4


def test_shares_are_kept(cache: Path) -> None:
    silent = maker_of(cache, no_vocals_share=1.0)
    assert not any(silent(k).vocals.any() for k in range(10))
    assert all(silent(k).accompaniment.any() for k in range(10))
    some = maker_of(cache, no_vocals_share=0.5)
    assert sum(not some(k).vocals.any() for k in range(60)) in range(15, 46)


def test_validation_is_fixed_and_unchanged(cache: Path) -> None:
    opened = Cache(cache)
    examples = maker_of(cache).validation(5)
    again = maker_of(cache, seed=9).validation(5)
    assert all(equal(one, other) for one, other in zip(examples, again, strict=True))
    ends = []
    for track in opened.tracks:
        if track.kind == "pair" and track.role == "vocals":
            start = int(track.samples * (1 - HELD_OUT))
            ends.append(opened.read(track, start, track.samples - start))
    for example in examples:
        assert example.vocals.shape == (2, COUNT)
        found = [
            np.array_equal(end[:, start : start + COUNT], example.vocals)
            for end in ends
            for start in np.flatnonzero(end[0, :-COUNT] == example.vocals[0, 0])
        ]
        assert any(found)


def write_song(
    folder: Path, name: str, role: str, audio: np.ndarray, kind: str = "pair", band: float = 4000
) -> None:
    """Put a track of int16 samples into a cache."""
    np.save(folder / f"{name}-{role}.npy", audio)
    track = Track(f"{name}-{role}.npy", kind, role, name, band, len(audio), (0, len(audio)))
    (folder / f"{name}-{role}.json").write_text(json.dumps(dataclasses.asdict(track)))


@pytest.mark.parametrize(("vocals", "music"), [(3000, 1000), (1000, 3000)])
def test_bandwidth_of_a_random_mix(tmp_path: Path, vocals: float, music: float) -> None:
    audio = np.full((5 * COUNT, 2), 5000, np.int16)
    write_song(tmp_path, "a", "vocals", audio, "vocals", vocals)
    write_song(tmp_path, "b", "accompaniment", audio, "accompaniment", music)
    maker = maker_of(tmp_path, pair_share=0.0)
    got = [maker(k).bandwidth_hz for k in range(60)]
    assert 1000 * np.exp(-0.12) <= min(got) < max(got) <= 1000 * np.exp(0.12)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_training_never_hears_what_is_held_out(tmp_path: Path, share: float) -> None:
    """The vocals sing in the held-out part alone, so in training they are silent."""
    samples = 20 * COUNT
    vocals = np.zeros((samples, 1), np.int16)
    vocals[int(samples * (1 - HELD_OUT)) :] = 9999
    write_song(tmp_path, "song", "vocals", vocals)
    write_song(tmp_path, "song", "accompaniment", np.full((samples, 2), 5000, np.int16))
    maker = maker_of(tmp_path, pair_share=share)
    for k in range(80):
        assert not maker(k).vocals.any()
    assert all((e.vocals > 0.3).all() for e in maker.validation(5))


@pytest.mark.parametrize("lengths", [3, 6])
def test_a_short_song_does_not_stop_validation(tmp_path: Path, lengths: int) -> None:
    """Long enough to train on, but its held-out part is shorter than an example."""
    for name, count in (("long", 20), ("short", lengths)):
        for role in ("vocals", "accompaniment"):
            write_song(tmp_path, name, role, np.full((count * COUNT, 2), 5000, np.int16))
    maker = maker_of(tmp_path)
    assert maker(0).accompaniment.any()
    assert len(maker.validation(4)) == 4
