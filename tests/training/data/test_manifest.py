"""The manifest: measured once, small in memory, and never half written."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import files_below, noise, read_audio, write_audio

pytest.importorskip("soxr")

from stemwire.errors import AudioError, ConfigError, OutputError
from stemwire.training.data import file_facts as facts
from stemwire.training.data.manifest import Manifest, Song, write_manifest
from stemwire.training.data.scan import Scan, scan

RATE = 8_000


def add(
    root: Path, name: str, seconds: float = 0.5, rate: int = RATE, channels: int = 2, seed: int = 0
) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_audio(path, noise(round(seconds * rate), channels, seed), rate)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two pairs, two loose files and a test song."""
    folder = tmp_path / "songs"
    for number in range(2):
        for stem in ("vocals", "accompaniment"):
            add(folder, f"pair{number}/{stem}.wav", 0.5 + number, seed=hash((number, stem)) % 99)
    add(folder, "acapella/solo.flac", 0.75, channels=1, seed=5)
    add(folder, "music/tune.ogg", 1.25, rate=44_100, seed=6)
    add(folder, "test/late/mixture.wav", seed=7)
    add(folder, "test/late/instrumental.wav", seed=8)
    return folder


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "out" / "manifest.jsonl"


def run(root: Path, target: Path, **options: Any) -> Scan:
    return scan([root], target, **options)


def test_a_manifest_says_what_there_is(root: Path, target: Path) -> None:
    result = run(root, target, jobs=3)
    manifest = Manifest(target)
    assert len(manifest) == len(result.songs) == 5 and list(manifest) == result.songs
    assert sorted(manifest.kind) == ["accompaniment", "pair", "pair", "pair", "vocals"]
    np.testing.assert_array_equal(manifest.seconds, [song.seconds for song in manifest])
    assert manifest.seconds.sum() == pytest.approx(0.5 + 1.5 + 0.75 + 1.25 + 0.5)
    songs = {song.name: song for song in manifest}
    tune = songs["songs/music/tune.ogg"]
    assert (tune.sample_rate, tune.channels, tune.frames) == (44_100, 2, 55_125)
    assert tune.bandwidth_hz == 22_050 and tune.split == "train"
    assert songs["songs/acapella/solo.flac"].channels == 1
    assert songs["songs/test/late"].split == "test"
    assert len({song.checksum for song in manifest}) == 5
    assert list(manifest.split).count("test") == 1
    assert files_below(target.parent) == ["manifest.jsonl", "manifest.jsonl.files"]


def test_paths_move_with_the_folder(root: Path) -> None:
    run(root, root / "manifest.jsonl")
    moved = Path(shutil.move(root, root.parent / "moved"))
    manifest = Manifest(moved / "manifest.jsonl")
    names = [name for song in manifest for name in song.vocals]
    assert names and all((manifest.folder / name).exists() for name in names)


def test_songs_are_read_in_other_processes_too(root: Path, target: Path) -> None:
    run(root, target)
    manifest = Manifest(target)
    first = manifest[0]
    copy = pickle.loads(pickle.dumps(manifest))
    assert copy[0] == first and list(copy) == list(manifest)
    assert len(pickle.dumps(manifest)) < 3000
    for index in (-1, 5):
        with pytest.raises(IndexError):
            manifest[index]


text = st.text(st.characters(codec="utf-8"), max_size=12) | st.just("caf\udce9")
names = st.lists(text, max_size=3).map(tuple)
songs = st.builds(
    Song, text, st.sampled_from(["pair", "vocals"]), names, names, names,
    st.integers(1, 192_000), st.integers(1, 2), st.integers(1, 10**9), st.floats(1, 96_000),
    st.lists(st.floats(0, 1e6), max_size=4).map(tuple), text, text, text, text,
)  # fmt: skip


@given(st.lists(songs, max_size=6))
def test_what_is_written_is_read(tmp_path: Path, written: list[Song]) -> None:
    path = tmp_path / "any.jsonl"
    write_manifest(path, written, tolerance=3)
    manifest = Manifest(path)
    assert list(manifest) == written and manifest.tolerance == 3
    assert list(manifest.kind) == [song.kind for song in written]


def test_an_unchanged_file_is_not_read_again(
    root: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(root, target)
    assert first.read == first.files == 8
    before = target.read_bytes()
    opened = []
    measure = facts.measure
    monkeypatch.setattr(facts, "measure", lambda *args: opened.append(args[0]) or measure(*args))
    assert run(root, target).read == 0 and not opened
    assert target.read_bytes() == before
    changed = add(root, "music/tune.ogg", 2.0, rate=44_100, seed=9)
    new = add(root, "music/new.wav", seed=10)
    again = run(root, target)
    assert again.read == 2 and {Path(f) for f in opened} == {changed, new}
    assert again.songs != first.songs and len(again.songs) == 6
    (root / "pair0/vocals.wav").touch()  # another time of change: it might be another file
    assert run(root, target).read == 1
    opened.clear()
    assert run(root, target, decode_all=True).read == 9  # what had not been decoded to its end
    assert run(root, target).read == 0


def test_an_interrupted_scan_keeps_the_old_manifest_and_what_it_learnt(
    root: Path, target: Path
) -> None:
    run(root, target)
    before = target.read_bytes()
    for number in range(6):
        add(root, f"music/{number}.wav", seed=20 + number)

    def interrupt(done: int, total: int) -> None:
        if done == 4:  # acapella/solo.flac, music/0.wav, 1.wav and 2.wav are known
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(root, target, progress=interrupt)
    assert target.read_bytes() == before
    with target.with_name("manifest.jsonl.files").open("ab") as file:
        file.write(b'{"path": "torn')  # as a killed scan leaves it
    assert run(root, target).read == 3
    assert files_below(target.parent) == ["manifest.jsonl", "manifest.jsonl.files"]


def test_bad_files_are_named_counted_and_left_out(root: Path, target: Path) -> None:
    (root / "music/garbage.wav").write_bytes(b"RIFF of nothing")
    (root / "music/empty.flac").touch()
    whole = add(root, "music/cut.flac", 3.0)
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    (root / "music/gone.wav").symlink_to(root / "nowhere.wav")
    write_audio(root / "music/surround.wav", noise(RATE, 6), RATE)
    said: list[str] = []
    result = run(root, target, max_bad=0.5, report=said.append)
    assert len(result.bad) == 5 and len(result.songs) == 5
    for name in ("garbage.wav", "empty.flac", "cut.flac", "gone.wav", "surround.wav"):
        assert any(name in text for text in said), name
    assert any("6 channels" in text for text in said)
    before = target.read_bytes()
    with pytest.raises(AudioError, match="5 of 10 songs are bad"):
        run(root, target, max_bad=0.4)
    assert target.read_bytes() == before


def test_damage_in_the_middle_is_found_by_decoding(root: Path, target: Path) -> None:
    path = add(root, "music/holed.flac", 20.0)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 20_000] = bytes(20_000)
    path.write_bytes(data)
    assert not run(root, target).bad
    bad = run(root, target, decode_all=True, max_bad=1).bad
    assert list(bad) == ["songs/music/holed.flac"]


@pytest.mark.parametrize(("change", "said"), [
    ({"seconds": 0.6}, "4800 samples at 8000 Hz"), ({"rate": 16_000, "seconds": 0.25}, "16000 Hz"),
])  # fmt: skip
def test_halves_that_differ_are_bad(
    root: Path, target: Path, change: dict[str, Any], said: str
) -> None:
    add(root, "pair0/accompaniment.wav", **{"seconds": 0.5, **change})
    bad = run(root, target, max_bad=0.5).bad
    assert list(bad) == ["songs/pair0"] and said in bad["songs/pair0"]


def test_halves_may_differ_by_a_few_samples(root: Path, target: Path) -> None:
    add(root, "pair0/accompaniment.wav", 0.5 + 16 / RATE, channels=1)
    song = next(song for song in run(root, target).songs if song.name == "songs/pair0")
    assert (song.frames, song.channels) == (4000, 2)
    assert run(root, target, tolerance=15, max_bad=1).bad


def test_copies_are_named(root: Path, target: Path) -> None:
    shutil.copytree(root / "pair1", root / "test" / "again")
    ((copy, first),) = run(root, target).copies
    assert {copy.split, first.split} == {"train", "test"}


def test_songs_set_apart_for_validation_stay_the_same(root: Path, target: Path) -> None:
    for number in range(2, 12):
        for stem in ("vocals", "accompaniment"):
            add(root, f"pair{number}/{stem}.wav", 0.1, seed=number)

    def chosen() -> set[str]:
        return {song.name for song in run(root, target, valid=0.25).songs if song.split == "valid"}

    first = chosen()
    assert len(first) == 3 and chosen() == first
    assert run(root, target, valid=0).songs[0].split != "valid"


def test_songs_are_chosen_by_licence(root: Path, target: Path) -> None:
    (root / "manifest.csv").write_text(
        "path,kind,licence\nmusic/tune.ogg,accompaniment,CC0-1.0\nmusic/hum.wav,accompaniment,\n"
        "music/air.wav,accompaniment,CC BY-NC [no version]\n"
    )
    for name in ("hum", "air"):
        add(root, f"music/{name}.wav", seed=7)

    def chosen(*patterns: str) -> list[str]:
        return [song.licence for song in run(root, target, licences=patterns).songs]

    assert len(chosen()) == len(chosen("*")) == 3
    assert chosen("cc0*") == chosen("CC0-1.0", "MIT") == ["CC0-1.0"] and chosen("") == [""]
    result = run(root, target, licences=["CC0*"])
    assert "1 songs left out, whose licence is 'not stated'" in result.survey.notes
    assert len(Manifest(target)) == 1
    with pytest.raises(ConfigError, match=r"no song's licence matches 'BY'; there are .*'CC0-1.0'"):
        chosen("BY")


def test_listed_bandwidth_and_boundaries_fit_the_file(root: Path, target: Path) -> None:
    (root / "manifest.csv").write_text(
        "path,kind,bandwidth_hz,boundaries_s\nmusic/tune.ogg,accompaniment,99999,0.5 1.2 7\n"
    )
    (song,) = run(root, target).songs
    assert song.bandwidth_hz == 22_050 and song.boundaries == (0.5, 1.2)


@pytest.mark.skipif(os.name == "nt", reason="names are text there")
def test_names_that_are_not_text_are_read(root: Path, target: Path) -> None:
    name = os.fsdecode(b"music/caf\xe9.wav")
    path = root / name
    os.replace(add(root, "music/cafe.wav", seed=3), path)
    song = next(song for song in run(root, target).songs if "caf" in song.name)
    manifest = Manifest(target)
    assert (manifest.folder / song.accompaniment[0]).read_bytes() == path.read_bytes()
    song.name.encode("utf-8")


@pytest.mark.parametrize(("contents", "said"), [
    (b"", "not a manifest"), (b"song,split\n", "not a manifest"), (b"[1]\n", "not a manifest"),
    (b'{"format": "stemwire-manifest", "version": 9}\n', "version 9"),
])  # fmt: skip
def test_other_files_are_refused_and_never_overwritten(
    root: Path, target: Path, contents: bytes, said: str
) -> None:
    target.parent.mkdir()
    target.write_bytes(contents)
    for use in (lambda: Manifest(target), lambda: run(root, target)):
        with pytest.raises(ConfigError, match=said):
            use()
    assert target.read_bytes() == contents


def test_damaged_manifests_are_refused(root: Path, target: Path) -> None:
    run(root, target)
    lines = target.read_bytes().splitlines(keepends=True)
    for damaged, said in (
        (b"".join(lines[:-1]), "cut short: 4 of 5"),
        (b"".join(lines)[:-9], "damaged at line 6"),
        (b"".join([*lines[:2], b"{}\n", *lines[3:]]), "damaged at line 3"),
    ):
        target.write_bytes(damaged)
        with pytest.raises(ConfigError, match=said):
            Manifest(target)
    with pytest.raises(ConfigError, match="No such file"):
        Manifest(target.with_name("no.jsonl"))


def test_a_manifest_replaced_in_use_is_noticed_or_does_not_matter(root: Path, target: Path) -> None:
    run(root, target)
    used, unused = Manifest(target), Manifest(target)
    first = used[0]
    add(root, "acapella/a.wav", seed=50)
    run(root, target)
    assert used[0] == first
    with pytest.raises(ConfigError, match="was replaced"):
        unused[0]


def test_nothing_to_scan_is_an_error(tmp_path: Path, target: Path) -> None:
    with pytest.raises(ConfigError, match="no audio files"):
        run(tmp_path, target)
    add(tmp_path, "unnamed/a.wav")
    with pytest.raises(ConfigError, match="--kind"):
        run(tmp_path, target)
    (tmp_path / "unnamed/a.wav").write_bytes(b"x")
    with pytest.raises(ConfigError, match="all songs are bad"):
        run(tmp_path, target, kind="vocals", max_bad=1)
    assert not target.exists()


@pytest.mark.parametrize("options", [
    {"max_bad": 1.5}, {"valid": 1.0}, {"tolerance": -1}, {"jobs": 0},
])  # fmt: skip
def test_arguments_that_cannot_work(root: Path, target: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="must be"):
        run(root, target, **options)


def test_a_full_disk_is_said(root: Path, target: Path) -> None:
    resource = pytest.importorskip("resource")
    run(root, target)
    before = target.read_bytes()
    for number in range(9):
        add(root, f"music/{number}.wav", seed=50 + number)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before), hard))  # as much as one file may hold
    try:
        with pytest.raises(OutputError, match="free space"):
            run(root, target)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert target.read_bytes() == before
    assert files_below(target.parent) == ["manifest.jsonl", "manifest.jsonl.files"]


def test_reading_many_songs_takes_little_memory(tmp_path: Path) -> None:
    song = Song(
        "n", "vocals", ("v" * 80,), (), (), RATE, 1, 100, 4000.0, (), "train", "", "", "c" * 64
    )
    many = [replace(song, name=f"{number}") for number in range(20_000)]
    write_manifest(tmp_path / "many.jsonl", many, tolerance=0)
    manifest = Manifest(tmp_path / "many.jsonl")
    assert manifest[12_345].name == "12345" and manifest[19_999].name == "19999"
    assert len(pickle.dumps(manifest)) < 120 * len(many)
    assert json.loads((tmp_path / "many.jsonl").read_text().splitlines()[0])["songs"] == 20_000


def test_the_length_is_what_can_be_decoded(root: Path, target: Path) -> None:
    result = run(root, target)
    song = next(song for song in result.songs if song.name.endswith("tune.ogg"))
    assert song.frames == read_audio(root / "music/tune.ogg").shape[1]
