"""Songs are grouped by name; unclear cases are reported, never guessed."""

from __future__ import annotations

import csv
import os
from itertools import permutations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("soxr")

from stemwire.errors import ConfigError
from stemwire.training.data.layouts import RULES, SongFiles, Survey, match, survey


def lay(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def found(root: Path, **options: str) -> list[SongFiles]:
    return survey([root], **options).songs


def short(song: SongFiles, root: Path) -> dict[str, tuple[str, ...]]:
    """A song's files by role, as paths from the root."""
    roles = ("vocals", "accompaniment", "mixture")
    files = {role: getattr(song, role) for role in roles}
    return {
        r: tuple(os.path.relpath(f, root) for f in names) for r, names in files.items() if names
    }


def listing(root: Path, *rows: dict[str, str]) -> None:
    names = dict.fromkeys(name for row in rows for name in row)
    with (root / "manifest.csv").open("w", newline="", errors="surrogateescape") as file:
        writer = csv.DictWriter(file, list(names), restval="")
        writer.writeheader()
        writer.writerows(rows)


@pytest.mark.parametrize("folders", [
    ("mixtures", "instruments"), ("mixture", "instrumentals"), ("Mixtures", "Accompaniment"),
    ("mixtures", "accompaniments"), ("mix", "instrumental"),
])  # fmt: skip
@pytest.mark.parametrize(("mixtures", "instruments", "rule"), [
    (["a.wav", "b.wav"], ["b.flac", "a.flac"], "equal names"),
    (["One.wav", "two.wav"], ["one.wav", "TWO.wav"], "equal names"),
    (["rock/a.wav", "pop/a.wav"], ["rock/a.wav", "pop/a.wav"], "equal names"),
    (["a_mix.wav", "b_mix.wav"], ["a_inst.wav", "b_inst.wav"], "equal beginnings"),
    (["b (Mix).wav", "a.wav"], ["a (Instrumental).wav", "b [karaoke].mp3"], "equal beginnings"),
    (["mix a.wav", "mix b.wav"], ["instrumental b.wav", "instrumental a.wav"], "equal beginnings"),
    (["01 first.wav", "2 second.wav"], ["1 x.wav", "002 y.wav"], "numbers"),
    (["p.wav", "q.wav"], ["x.wav", "y.wav"], "order of names"),
])  # fmt: skip
def test_parallel_folders(
    tmp_path: Path, folders: tuple[str, str], mixtures: list[str], instruments: list[str], rule: str
) -> None:
    lay(tmp_path, *(f"{folders[0]}/{n}" for n in mixtures))
    lay(tmp_path, *(f"{folders[1]}/{n}" for n in instruments))
    result = survey([tmp_path])
    assert [song.kind for song in result.songs] == ["pair"] * 2
    assert any(f"2 pairs matched by {rule}" in note for note in result.notes), result.notes
    letters = {"order of names": "pqxy"}.get(rule)
    for song in result.songs:
        files = short(song, tmp_path)
        mixture, other = files["mixture"][0].lower(), files["accompaniment"][0].lower()
        if rule == "numbers":
            assert ("first" in mixture) == ("x" in Path(other).stem)
        elif letters:
            assert letters.index(Path(mixture).stem) + 2 == letters.index(Path(other).stem)
        elif "/rock/" in mixture or "/pop/" in mixture:
            assert Path(mixture).parent.name == Path(other).parent.name
        else:
            tell = "one" if "one" in mixture or "two" in mixture else "a "
            a_like = (tell in mixture.replace("_", " ").replace(".", " ")) if tell else False
            assert a_like == (tell in other.replace("_", " ").replace(".", " "))


@given(st.sets(st.text("abcdefgh", min_size=1, max_size=5), min_size=1, max_size=9), st.randoms())
def test_equal_names_match_whatever_the_order(names: set[str], random: object) -> None:
    ones, others = [f"{n}.wav" for n in names], [f"{n}.flac" for n in reversed(sorted(names))]
    pairs, rule = match(ones, others, "", RULES)
    assert rule == "equal names"
    assert {Path(a).stem: Path(b).stem for a, b in pairs.items()} == {n: n for n in names}


def test_files_without_partner_are_named(tmp_path: Path) -> None:
    lay(
        tmp_path,
        "mixtures/a.wav",
        "mixtures/b.wav",
        "instruments/a.wav",
        "instruments/c.wav",
        "instruments/d.wav",
    )
    problems = {song.name.split("/", 1)[1]: song.problem for song in found(tmp_path)}
    assert {name: bool(text) for name, text in problems.items()} == {
        "mixtures/a.wav": False,
        "mixtures/b.wav": True,
        "instruments/c.wav": True,
        "instruments/d.wav": True,
    }
    assert "no partner" in problems["mixtures/b.wav"]


@pytest.mark.parametrize(("names", "said"), [
    (("mixtures/a.wav", "mixtures/b.wav", "instruments/x.wav"), "2 and 1 files"),
    (("mixtures/a.wav", "mixtures/a.mp3", "instruments/a.wav"), "equal names"),
])  # fmt: skip
def test_ambiguous_halves_are_refused(tmp_path: Path, names: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        survey([lay(tmp_path, *names)])


def test_vocals_beside_mixtures_join_by_name_alone(tmp_path: Path) -> None:
    lay(tmp_path, "mixtures/a.wav", "instruments/a.wav", "vocals/a.wav")
    (song,) = found(tmp_path)
    assert set(short(song, tmp_path)) == {"vocals", "accompaniment", "mixture"}
    loose = lay(tmp_path / "loose", "mixtures/a.wav", "vocals/p.wav", "vocals/q.wav", "music/z.wav")
    kinds = sorted(song.kind for song in found(loose))
    assert kinds == ["accompaniment", "mixture", "vocals", "vocals"]
    kinds = sorted(song.kind for song in found(lay(loose, "instruments/a.wav")))
    assert kinds == ["accompaniment", "pair", "vocals", "vocals"]


def test_musdb_hq_and_its_splits(tmp_path: Path) -> None:
    stems = ("mixture", "vocals", "drums", "bass", "other")
    lay(tmp_path, *(f"{split}/Song {split}/{s}.wav" for split in ("train", "test") for s in stems))
    lay(tmp_path, "train/x.stem.mp4")
    songs = {song.name.split("/", 1)[1]: song for song in found(tmp_path)}
    assert {name: song.split for name, song in songs.items()} == {
        "train/Song train": "train",
        "test/Song test": "test",
        "train/x.stem.mp4": "train",
    }
    song = songs["test/Song test"]
    assert song.kind == "pair"
    assert [Path(f).stem for f in song.accompaniment] == ["bass", "drums", "other"]
    stem_file = songs["train/x.stem.mp4"]
    assert [f.rpartition("#")[2] for f in stem_file.files] == ["4", "1", "2", "3", "0"]
    assert {song.split for song in found(tmp_path / "test")} == {"test"}
    assert {song.split for song in found(tmp_path, split="mine")} == {"mine"}


@pytest.mark.parametrize(("files", "roles"), [
    (("vocals.wav", "accompaniment.wav"), {"vocals": 1, "accompaniment": 1}),
    (("Vocals.flac", "no_vocals.mp3", "cover.jpg"), {"vocals": 1, "accompaniment": 1}),
    (("mixture.wav", "Instrumental.opus"), {"mixture": 1, "accompaniment": 1}),
    (("vocals.wav", "drums.wav", "bass.wav", "other.wav", "piano.wav"),
     {"vocals": 1, "accompaniment": 4}),
    (("vocals.wav", "accompaniment.wav", "drums.wav"), {"vocals": 1, "accompaniment": 1}),
    (("mixture.wav", "vocals.wav", "drums.wav"), {"mixture": 1, "vocals": 1}),  # not all parts
    (("vocals.wav", "drums.wav"), {"vocals": 1, "accompaniment": 1}),
    (("vocals.wav",), {"vocals": 1}),
])  # fmt: skip
def test_stems_in_one_folder(tmp_path: Path, files: tuple[str, ...], roles: dict[str, int]) -> None:
    (song,) = found(lay(tmp_path, *(f"song/{name}" for name in files)))
    assert {role: len(names) for role, names in short(song, tmp_path).items()} == roles
    assert song.name == f"{tmp_path.name}/song" and not song.problem


@pytest.mark.parametrize("files", [
    ("vocals.wav", "vox.wav", "accompaniment.wav"), ("vocals.wav", "drums.wav", "drums.flac"),
])  # fmt: skip
def test_two_files_for_one_role_are_a_problem(tmp_path: Path, files: tuple[str, ...]) -> None:
    (song,) = found(lay(tmp_path, *files))
    assert "keep one" in song.problem


def test_loose_files_are_what_their_folders_say(tmp_path: Path) -> None:
    lay(
        tmp_path,
        "Acapellas/deep/er/a.wav",
        "instrumental/b.flac",
        "music/c.mp3",
        "what/d.wav",
        "what/e.m4a",
        "what/f.txt",
        "x/mixtures/g.ogg",
        "vocals/.hidden.wav",
        ".git/vocals/h.wav",
    )
    result = survey([tmp_path])
    assert {Path(s.files[0]).name: s.kind for s in result.songs} == {
        "a.wav": "vocals",
        "b.flac": "accompaniment",
        "c.mp3": "accompaniment",
        "g.ogg": "mixture",
    }
    assert result.unknown == {str(tmp_path.resolve() / "what"): ["d.wav", "e.m4a"]}
    told = survey([tmp_path / "what"], kind="vocals")
    assert [song.kind for song in told.songs] == ["vocals"]


def test_a_listing_describes_its_folder(tmp_path: Path) -> None:
    lay(tmp_path, "s/vocals.wav", "s/accompaniment.wav", "not-listed/vocals.wav")
    common = {"split": "dev", "kind": "pair", "source": "me"}
    listing(
        tmp_path,
        {"path": "s/vocals.wav", "bandwidth_hz": "9000", "boundaries_s": "1.5 4", **common},
        {"path": "s/accompaniment.wav", "bandwidth_hz": "8000", "licence": "CC0", **common},
        {"path": "solo.wav", "kind": "vocals", "split": ""},
    )
    solo, pair = sorted(found(tmp_path), key=lambda song: song.kind, reverse=True)
    assert (pair.bandwidth_hz, pair.boundaries, pair.split) == (8000, (1.5, 4.0), "dev")
    assert (pair.source, pair.licence, pair.kind) == ("me", "CC0", "pair")
    assert (solo.kind, solo.split, solo.bandwidth_hz) == ("vocals", "train", 0)


@pytest.mark.parametrize(("row", "said"), [
    ({"path": "a.wav", "kind": "noise"}, "line 2: kind 'noise'"),
    ({"path": " ", "kind": "vocals"}, "line 2: no path"),
    ({"path": "a.wav", "kind": "vocals", "bandwidth_hz": "wide"}, "bandwidth_hz"),
    ({"path": "a.wav", "kind": "vocals", "boundaries_s": "1 -2"}, "positive"),
])  # fmt: skip
def test_wrong_rows_of_a_listing_are_named(tmp_path: Path, row: dict[str, str], said: str) -> None:
    listing(tmp_path, row)
    with pytest.raises(ConfigError, match=said):
        survey([tmp_path])


@pytest.mark.parametrize(("names", "splits", "said"), [
    (("vocals.wav", "humming.wav"), ("a", "a"), "humming.wav"),
    (("vocals.wav",), ("a",), "lacks two of"),
    (("vocals.wav", "accompaniment.wav"), ("train", "test"), "several splits"),
])  # fmt: skip
def test_wrong_pairs_of_a_listing_are_problems(
    tmp_path: Path, names: tuple[str, ...], splits: tuple[str, ...], said: str
) -> None:
    rows = [{"path": n, "kind": "pair", "split": s} for n, s in zip(names, splits, strict=True)]
    listing(tmp_path, *rows)
    (song,) = found(tmp_path)
    assert said in song.problem


def test_another_manifest_csv_is_noted_and_not_used(tmp_path: Path) -> None:
    lay(tmp_path, "vocals/a.wav")
    (tmp_path / "manifest.csv").write_text("file,size\na,3\n")
    result = survey([tmp_path])
    assert len(result.songs) == 1 and "not used" in result.notes[0]


def test_links_are_followed_once_and_circles_broken(tmp_path: Path) -> None:
    elsewhere = lay(tmp_path / "elsewhere", "vocals/a.wav")
    root = lay(tmp_path / "root", "mixtures/m.wav", "instruments/m.wav")
    (root / "up").symlink_to(tmp_path / "root")
    (root / "mixtures" / "round").symlink_to(root / "mixtures")
    (root / "linked").symlink_to(elsewhere)
    (root / "linked again").symlink_to(elsewhere)
    assert sorted(song.kind for song in found(root)) == ["pair", "vocals"]


def test_names_from_several_roots_never_collide(tmp_path: Path) -> None:
    roots = [lay(tmp_path / name, "vocals/a.wav") for name in ("x/songs", "y/songs", "y/other")]
    for order in permutations(roots):
        names = {song.name for song in survey(order).songs}
        assert names == {"x/songs/vocals/a.wav", "y/songs/vocals/a.wav", "other/vocals/a.wav"}
    assert len(survey([roots[0], roots[0]]).songs) == 1
    with pytest.raises(ConfigError, match="lies within"):
        survey([tmp_path, roots[0]])
    with pytest.raises(ConfigError, match="not a folder"):
        survey([roots[0] / "vocals/a.wav"])


@pytest.mark.skipif(os.name == "nt", reason="names are text there")
def test_names_that_are_not_text(tmp_path: Path) -> None:
    lay(tmp_path, os.fsdecode(b"vocals/caf\xe9.wav"))
    (song,) = found(tmp_path)
    assert song.name.endswith("vocals/caf\\xe9.wav")
    assert os.fsencode(song.vocals[0]).endswith(b"caf\xe9.wav")


def test_nothing_found_is_an_empty_survey(tmp_path: Path) -> None:
    assert survey([tmp_path]) == Survey()
