"""Training data packed into parts of limited size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support import TRAINING_RATE, Library, noise

pytest.importorskip("soxr")

from stemwire.errors import ConfigError
from stemwire.training.data.manifest import Manifest
from stemwire.training.data.reader import AudioReader
from stemwire.training.data.scan import scan
from stemwire.training.tools.pack import pack

SECONDS = 12


@pytest.fixture
def songs(library: Library) -> Manifest:
    for number in range(2):
        stems = [noise(SECONDS * TRAINING_RATE, seed=10 * number + k) for k in range(2)]
        library.pair(f"song{number}", *stems, bandwidth_hz=3000, licence="CC0", source="me")
    voice = noise(SECONDS * TRAINING_RATE, 1, seed=5)
    library.add("voice.wav", "vocals", voice, boundaries_s="2.5 7")
    for number in range(3):
        tune = noise(SECONDS * TRAINING_RATE, seed=20 + number)
        library.add(f"tune{number}.wav", "accompaniment", tune, source=f"package {number // 2}")
    library.add("kept.wav", "vocals", voice, split="test")
    return library.manifest()


def sizes(target: Path) -> list[int]:
    return [
        sum(file.stat().st_size for file in part.rglob("*.opus"))
        for part in sorted(target.glob("part-*"))
    ]


def test_parts_hold_the_training_songs(songs: Manifest, tmp_path: Path) -> None:
    packed = tmp_path / "packed"
    count = pack(songs, packed, megabytes=0.6, kbps=64, music_hours=1.5 * SECONDS / 3600)
    held = sizes(packed)
    assert count == len(held) > 1 and max(held) <= 600_000
    result = scan(sorted(packed.glob("part-*")), tmp_path / "songs.jsonl")
    assert not result.bad and {song.split for song in result.songs} == {"train"}
    kinds = [song.kind for song in result.songs]
    assert kinds.count("pair") == 2 and kinds.count("vocals") == 1
    # One song from each source before a second from any.
    music = [song.source for song in result.songs if song.kind == "accompaniment"]
    assert sorted(music) == ["package 0", "package 1"]
    pair = next(song for song in result.songs if song.kind == "pair")
    assert (pair.bandwidth_hz, pair.licence, pair.source) == (3000, "CC0", "me")
    voice = next(song for song in result.songs if song.kind == "vocals")
    assert voice.boundaries == (2.5, 7) and voice.channels == 1


def test_what_is_packed_sounds_the_same(songs: Manifest, tmp_path: Path) -> None:
    pack(songs, tmp_path / "packed", megabytes=10, kbps=128, music_hours=0)
    scan([tmp_path / "packed"], tmp_path / "songs.jsonl")
    packed = Manifest(tmp_path / "songs.jsonl")
    measured = []
    for manifest in (songs, packed):
        reader, count = AudioReader(manifest, TRAINING_RATE), SECONDS * TRAINING_RATE
        pairs = [i for i in range(len(manifest)) if manifest.kind[i] == "pair"]
        stems = [reader.read(manifest[i], "vocals", 0, count) for i in pairs]
        measured.append(np.stack([stem.ravel() for stem in stems]))
    alike = np.corrcoef(*measured)[:2, 2:]  # songs may come in another order
    assert sorted(alike.max(0) > 0.9) == [True, True]


def test_parts_that_cannot_be_made(songs: Manifest, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="allow larger parts"):
        pack(songs, tmp_path / "small", megabytes=0.01, kbps=64, music_hours=0)
    (tmp_path / "old" / "part-1").mkdir(parents=True)
    with pytest.raises(ConfigError, match="has parts already"):
        pack(songs, tmp_path / "old", megabytes=1, kbps=64, music_hours=0)
