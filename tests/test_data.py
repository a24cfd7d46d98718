"""Preparing training data: decoded once, whole or not there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import TRAINING_RATE, noise, read_audio, write_audio

pytest.importorskip("soxr")

from stemwire.errors import AudioError
from stemwire.training.data import Cache, Track, prepare_file, rows_of


def tracks_of(folder: Path) -> dict[str, Track]:
    return {track.file.removesuffix(".npy"): track for track in Cache(folder).tracks}


def test_every_training_file_is_there_once(cache: Path, recordings: Path) -> None:
    tracks = tracks_of(cache)
    assert len(tracks) == 6  # no mixtures, nothing of the test split
    songs = {f"{recordings.name}-song{n}" for n in (0, 1)}
    pairs = [t for t in tracks.values() if t.kind == "pair"]
    assert {(t.song, t.role) for t in pairs} == {
        (song, role) for song in songs for role in ("vocals", "accompaniment")
    }
    assert {t.role for t in tracks.values() if t.kind == "vocals"} == {"vocals"}
    assert {t.role for t in tracks.values() if t.kind == "accompaniment"} == {"accompaniment"}
    assert not list(cache.glob("*.part"))


def test_what_the_manifest_says_is_kept(cache: Path) -> None:
    tracks = tracks_of(cache)
    voice = next(t for name, t in tracks.items() if name.endswith("voice_1"))
    assert voice.bandwidth_hz == 2500
    assert voice.boundaries == (0, 20_000, 56_000, 80_000)
    tune = next(t for name, t in tracks.items() if name.endswith("tune"))
    assert tune.bandwidth_hz >= TRAINING_RATE / 2  # nothing said: all of it counts
    assert tune.boundaries == (0, tune.samples)


def test_audio_comes_back_at_the_asked_rate(cache: Path, recordings: Path) -> None:
    opened = Cache(cache)
    for track in opened.tracks:
        audio = opened.read(track, 0, track.samples)
        assert audio.shape == (2, track.samples) and audio.dtype == np.float32
    tracks = {(t.song[-5:], t.role): t for t in opened.tracks}
    same_rate = tracks["song0", "vocals"]
    original = read_audio(recordings / "song0" / "vocals.wav")
    assert same_rate.samples == original.shape[1]
    np.testing.assert_allclose(
        opened.read(same_rate, 1000, 5000), original[:, 1000:6000], atol=2**-15
    )
    other_rate = tracks["song1", "vocals"]
    assert other_rate.samples == 24 * TRAINING_RATE
    middle = opened.read(other_rate, 4000, 8000)
    spectrum = np.abs(np.fft.rfft(middle[0] * np.hanning(8000)))
    assert spectrum.argmax() == 1540  # Hz: not transposed


def test_mono_becomes_two_equal_channels(cache: Path) -> None:
    opened = Cache(cache)
    voice = next(t for t in opened.tracks if t.kind == "vocals")
    left, right = opened.read(voice, 100, 500)
    np.testing.assert_array_equal(left, right)
    assert np.abs(left).max() > 0.01


def test_a_file_is_decoded_once(recordings: Path, tmp_path: Path) -> None:
    path, row = next(rows_of(recordings))
    name = prepare_file(path, row, tmp_path, TRAINING_RATE)
    assert sorted(f.name for f in tmp_path.iterdir()) == [f"{name}.json", f"{name}.npy"]
    (tmp_path / f"{name}.npy").write_bytes(b"kept")
    assert prepare_file(path, row, tmp_path, TRAINING_RATE) == name
    assert (tmp_path / f"{name}.npy").read_bytes() == b"kept"
    (tmp_path / f"{name}.json").unlink()  # as if it had been interrupted before the description
    prepare_file(path, row, tmp_path, TRAINING_RATE)
    assert len(np.load(tmp_path / f"{name}.npy")) > 1000


def test_loud_peaks_are_clipped_not_wrapped(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    path = write_audio(tmp_path / "a" / "b" / "loud.wav", noise(8000, level=1.0), 8000, "FLOAT")
    row = {"kind": "vocals", "bandwidth_hz": "", "sample_rate": "8000", "boundaries_s": ""}
    name = prepare_file(path, row, tmp_path, 8000)
    clipped = np.clip(read_audio(path), -1, 1)
    samples = np.load(tmp_path / f"{name}.npy").T / 32768
    np.testing.assert_allclose(samples, clipped, atol=2**-14)


def test_unreadable_files_are_skipped_and_named(recordings: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    (folder / "song").mkdir(parents=True)
    (folder / "song" / "vocals.wav").write_text("no audio")
    write_audio(folder / "song" / "accompaniment.wav", noise(8000), 8000)
    header = "path,split,kind,sample_rate,bandwidth_hz,channels,seconds,boundaries_s\n"
    rows = "".join(
        f"song/{stem}.wav,train,pair,8000,4000,2,1,\n"
        for stem in ("vocals", "accompaniment", "missing")
    )
    (folder / "manifest.csv").write_text(header + rows)
    command = [sys.executable, "-m", "stemwire.training.data", str(folder), "-o"]
    done = subprocess.run(
        [*command, str(tmp_path / "cache"), "--rate", "8000"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "song/vocals.wav: skipped" in done.stdout
    assert "song/missing.wav: skipped" in done.stdout
    assert len(Cache(tmp_path / "cache").tracks) == 1


def test_an_empty_cache_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="no prepared tracks") as caught:
        Cache(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_descriptions_are_plain_json(cache: Path) -> None:
    for path in cache.glob("*.json"):
        assert (cache / json.loads(path.read_text())["file"]).is_file()
