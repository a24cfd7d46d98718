"""Excerpts equal slices of the whole, in every format, at every rate, from files and caches."""

from __future__ import annotations

import json
import pickle
import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from support import Audio, files_below, music, noise, read_audio, write_audio

pytest.importorskip("soxr")

import soxr

from stemwire.errors import AudioError, ConfigError, OutputError
from stemwire.training.data import reader as audio_module
from stemwire.training.data.cache import write_cache
from stemwire.training.data.decode import decode, inspect
from stemwire.training.data.manifest import Manifest, Song
from stemwire.training.data.reader import AudioReader
from stemwire.training.data.scan import scan

RATE = 8_000
CODED = {"wav": 22_050, "flac": 44_100, "ogg": 44_100, "opus": 48_000, "mp3": 44_100}


@pytest.fixture(scope="session")
def coded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same music in several formats; MP3 also with few bits, Vorbis with long pages."""
    folder = tmp_path_factory.mktemp("coded")
    files = {
        name: write_audio(folder / f"music.{name}", music(7 * rate + 77, rate), rate)
        for name, rate in CODED.items()
    }
    files["small mp3"] = folder / "small.mp3"
    sound = music(7 * 22_050, 22_050, 1).T
    soundfile.write(
        files["small mp3"], sound, 22_050, compression_level=0.99, bitrate_mode="CONSTANT"
    )
    files["8 kHz ogg"] = write_audio(folder / "low.ogg", music(30 * RATE, RATE, 1), RATE)
    files["mp4"] = write_stems(folder / "song.stem.mp4", [noise(3 * RATE, 2, k) for k in range(5)])
    return files


def write_stems(path: Path, stems: list[Audio], rate: int = RATE) -> Path:
    """A stem file as MUSDB18 has them: one AAC stream per stem."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w", format="mp4") as container:
        options = {"aac_pns": "0"}  # noise that a decoder makes up is not the same twice
        streams = [
            container.add_stream("aac", rate, layout="stereo", options=options) for _ in stems
        ]
        for first in range(0, stems[0].shape[1], 1024):
            for stream, stem in zip(streams, stems, strict=True):
                block = np.ascontiguousarray(stem[:, first : first + 1024])
                frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="stereo")
                frame.rate, frame.pts, frame.time_base = rate, first, Fraction(1, rate)
                container.mux(stream.encode(frame))
        for stream in streams:
            container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="session")
def wholes(coded: dict[str, Path]) -> dict[str, Audio]:
    """All of each file, decoded in one go, (samples, channels)."""
    return {name: read_audio(path).T for name, path in coded.items() if name != "mp4"}


@pytest.mark.parametrize("name", [*CODED, "small mp3", "8 kHz ogg"])
@given(st.data())
def test_an_excerpt_is_a_slice_of_the_whole(
    coded: dict[str, Path], wholes: dict[str, Audio], name: str, data: st.DataObject
) -> None:
    whole = wholes[name]
    form = inspect(str(coded[name]))
    assert form.frames == len(whole)
    near_the_end = st.integers(max(0, len(whole) - 3000), len(whole))
    start = data.draw(st.integers(0, len(whole) - 1) | near_the_end)
    count = data.draw(st.integers(0, 5000))
    excerpt = decode(str(coded[name]), start, count, form)
    there = whole[start : start + count]
    assert excerpt.shape == (count, whole.shape[1]) and excerpt.dtype == np.float32
    np.testing.assert_allclose(excerpt[: len(there)], there, rtol=0, atol=5e-7)
    assert not excerpt[len(there) :].any()


@given(start=st.integers(0, 3 * RATE), count=st.integers(1, 4000), stream=st.integers(0, 4))
def test_an_excerpt_of_a_stem_file(
    coded: dict[str, Path], start: int, count: int, stream: int
) -> None:
    reference = f"{coded['mp4']}#{stream}"
    form = inspect(reference)
    assert form.frames == 3 * RATE
    whole = decode(reference, 0, form.frames, form)
    source = noise(3 * RATE, 2, stream)[0]
    assert np.corrcoef(whole[:, 0], source)[0, 1] > 0.8  # aligned: white noise, no lag
    there = whole[start : start + count]
    excerpt = decode(reference, start, count, form)
    np.testing.assert_allclose(excerpt[: len(there)], there, rtol=0, atol=1e-6)
    assert not excerpt[len(there) :].any()


def test_stem_files_are_whole_songs(tmp_path: Path) -> None:
    write_stems(tmp_path / "a.stem.mp4", [noise(RATE, 2, k) for k in range(5)])
    manifest = scanned(tmp_path)
    (song,) = manifest
    reader = AudioReader(manifest, RATE)
    vocals, rest, mixture = (
        reader.read(song, r, 0, RATE) for r in ("vocals", "accompaniment", "mixture")
    )
    np.testing.assert_allclose(vocals + rest, mixture, rtol=0, atol=1e-6)
    correlation = [np.corrcoef(vocals[0], noise(RATE, 2, k)[0])[0, 1] for k in range(5)]
    assert np.argmax(correlation) == 4 and correlation[4] > 0.8
    with pytest.raises(AudioError, match="no number 9"):
        inspect(f"{manifest.folder / song.mixture[0].partition('#')[0]}#9")


def scanned(folder: Path, **options: Any) -> Manifest:
    scan([folder], folder / "manifest.jsonl", **options)
    return Manifest(folder / "manifest.jsonl")


def one(manifest: Manifest, end: str) -> Song:
    (song,) = (song for song in manifest if song.name.endswith(end))
    return song


@pytest.fixture(scope="session")
def songs(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Pairs at two rates, one as mixture and accompaniment, one louder than full scale; a voice."""
    folder = tmp_path_factory.mktemp("songs")
    for name, rate, gain in (("a", RATE, 1.0), ("b", 11_025, 1.0), ("loud", RATE, 9.0)):
        for number, stem in enumerate(("vocals", "accompaniment")):
            file = folder / name / f"{stem}.wav"
            file.parent.mkdir(exist_ok=True)
            sound = gain * music(4 * rate, rate, 2, number)
            write_audio(file, sound.astype(np.float32), rate, "FLOAT")
    (folder / "mixtures").mkdir()
    (folder / "instruments").mkdir()
    voice, band = music(3 * RATE, RATE, 2, 5), music(3 * RATE, RATE, 1, 6)
    write_audio(folder / "mixtures/c.wav", voice + band, RATE, "FLOAT")
    write_audio(folder / "instruments/c.wav", band, RATE, "FLOAT")
    (folder / "acapella").mkdir()
    write_audio(folder / "acapella/solo.flac", music(2 * RATE, RATE, 1, 7), RATE)
    return scanned(folder)


@given(
    st.sampled_from(["vocals", "accompaniment", "mixture"]),
    st.sampled_from([4_000, 8_000, 11_025, 16_000, 11_024]),
    st.integers(0, 45_000), st.integers(1, 9000),
)  # fmt: skip
def test_a_resampled_excerpt_is_a_slice_of_the_whole(
    songs: Manifest, role: str, rate: int, start: int, count: int
) -> None:
    song, reader = one(songs, "/b"), AudioReader(songs, rate)
    files = [songs.folder / name for name in (*song.vocals, *song.accompaniment)]
    stems = [soxr.resample(read_audio(f).T, song.sample_rate, rate, "HQ").T for f in files]
    whole = {"vocals": stems[0], "accompaniment": stems[1], "mixture": stems[0] + stems[1]}[role]
    assert abs(reader.frames(song) - whole.shape[1]) <= 1
    excerpt = reader.read(song, role, start, count)
    assert excerpt.shape == (2, count) and excerpt.dtype == np.float32
    there = whole[:, start : start + count]
    there = there[:, : max(0, reader.frames(song) - start)]
    error = excerpt[:, : there.shape[1]] - there
    assert np.abs(error).max(initial=0) < 1e-4  # 80 dB below full scale
    assert not excerpt[:, there.shape[1] :].any()


@given(rate=st.integers(3_000, 50_000), cut=st.integers(0, 3000), count=st.integers(1, 3000))
def test_excerpts_join_without_a_seam(songs: Manifest, rate: int, cut: int, count: int) -> None:
    song, reader = one(songs, "/a"), AudioReader(songs, rate)
    whole = reader.read(song, "vocals", 0, cut + count)
    parts = [reader.read(song, "vocals", 0, cut), reader.read(song, "vocals", cut, count)]
    np.testing.assert_allclose(np.concatenate(parts, 1), whole, rtol=0, atol=3e-5)


@pytest.mark.parametrize("rate", [RATE, 6_000])
def test_roles_of_a_song_sum_to_its_mixture(songs: Manifest, rate: int) -> None:
    reader = AudioReader(songs, rate)
    for song in (song for song in songs if song.kind == "pair"):
        vocals, rest, mixture = (
            reader.read(song, role, 501, 4000) for role in ("vocals", "accompaniment", "mixture")
        )
        np.testing.assert_allclose(vocals + rest, mixture, rtol=0, atol=2e-6)
        assert np.abs(vocals).max() > 0.1 < np.abs(rest).max()


def test_a_missing_half_is_the_mixture_without_the_other(songs: Manifest) -> None:
    song = one(songs, "c.wav")
    vocals = AudioReader(songs, RATE).read(song, "vocals", 100, 5000)
    np.testing.assert_allclose(vocals, music(3 * RATE, RATE, 2, 5)[:, 100:5100], atol=1e-6)


def test_mono_becomes_two_equal_channels(songs: Manifest) -> None:
    for song, role in ((one(songs, "solo.flac"), "vocals"), (one(songs, "c.wav"), "accompaniment")):
        audio = AudioReader(songs, 5_000).read(song, role, 10, 1000)
        np.testing.assert_array_equal(audio[0], audio[1])
        assert audio.flags.writeable and audio.flags.c_contiguous and audio.any()


def test_what_a_song_lacks_is_refused(songs: Manifest) -> None:
    reader, solo = AudioReader(songs, RATE), one(songs, "solo.flac")
    for role in ("accompaniment", "mixture"):
        with pytest.raises(AudioError, match=f"has no {role}"):
            reader.read(solo, role, 0, 10)
    for arguments in (("drums", 0, 1), ("vocals", -1, 1), ("vocals", 0, -1)):
        with pytest.raises(ValueError):
            reader.read(solo, *arguments)
    with pytest.raises(ConfigError, match="sample rate"):
        AudioReader(songs, 0)


def test_readers_go_to_other_processes(songs: Manifest) -> None:
    reader = AudioReader(songs, RATE)
    song = one(songs, "/a")
    copy = pickle.loads(pickle.dumps(reader))
    np.testing.assert_array_equal(
        copy.read(song, "mixture", 3, 99), reader.read(song, "mixture", 3, 99)
    )


def test_bad_files_are_named(songs: Manifest, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(songs.folder, tmp_path / "songs"))
    manifest = scanned(folder)
    reader, song = AudioReader(manifest, RATE), one(manifest, "/a")
    path = folder / "a" / "vocals.wav"
    whole = read_audio(path)

    def refused(said: str) -> None:
        with pytest.raises(AudioError, match=said) as caught:
            reader.read(song, "mixture", 1000, 1000)
        assert "a/vocals.wav" in str(caught.value)

    write_audio(path, np.where(np.arange(whole.shape[1]) == 1500, np.nan, whole), RATE, "FLOAT")
    refused("NaN or Inf")
    write_audio(path, whole[:, :-1], RATE, "FLOAT")
    refused("31999 samples at 8000 Hz, 32000 at 8000 Hz when scanned")
    write_audio(path, noise(whole.shape[1] + 17), RATE, "FLOAT")
    refused("has changed")
    write_audio(path, whole, RATE + 1, "FLOAT")
    refused("8001 Hz")
    path.write_bytes(b"RIFF of nothing")
    refused("cannot be read as audio")
    path.unlink()
    refused("no such file")


def test_the_decoder_is_kept_quiet(
    coded: dict[str, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("mp3", "small mp3"):
        form = inspect(str(coded[name]))
        for start in range(0, form.frames, 9001):
            decode(str(coded[name]), start, 100, form)
    assert capfd.readouterr().err == ""


@pytest.fixture(scope="session")
def cache(songs: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("caches") / "cache"
    assert write_cache(songs, folder, RATE, jobs=2).written == len(songs)
    return folder


@given(start=st.integers(0, 40_000), count=st.integers(0, 3000), data=st.data())
def test_a_cache_gives_what_the_files_give(
    songs: Manifest, cache: Path, start: int, count: int, data: st.DataObject
) -> None:
    song = data.draw(st.sampled_from(list(songs)))
    roles = ("vocals", "accompaniment", "mixture") if song.kind == "pair" else (song.kind,)
    direct, cached = AudioReader(songs, RATE), AudioReader(songs, RATE, cache)
    stems = {role: cached.read(song, role, start, count) for role in roles}
    step = json.loads((cache / f"{song.checksum}.json").read_text())["step"]
    assert (step > 1 / 32768) == song.name.endswith("loud")
    for role, audio in stems.items():
        assert audio.shape == (2, count) and audio.dtype == np.float32
        expected = direct.read(song, role, start, count)
        np.testing.assert_allclose(audio, expected, rtol=0, atol=1.1 * step)
    if song.kind == "pair":
        total = stems["vocals"] + stems["accompaniment"]
        np.testing.assert_array_equal(total, stems["mixture"])


def test_a_cache_is_made_once_and_made_whole(
    songs: Manifest, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {name: (cache / name).stat().st_mtime_ns for name in files_below(cache)}
    assert len(before) == 2 * len(songs) + 1
    result = write_cache(songs, cache, RATE)
    assert (result.written, result.existing, result.bad) == (0, len(songs), {})
    assert result.size == sum((cache / n).stat().st_size for n in before if n.endswith(".npy"))
    lost = cache / f"{one(songs, '/a').checksum}.json"  # as an interruption leaves it
    lost.unlink()
    assert write_cache(songs, cache, RATE).written == 1
    assert {n for n in files_below(cache)} == before.keys()


def test_a_cache_of_long_songs_is_made_in_blocks(
    songs: Manifest, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stemwire.training.data.cache.SECONDS", 1)
    write_cache(songs, tmp_path / "blocks", RATE)
    for name in (n for n in files_below(cache) if n.endswith(".npy")):
        one_go, blocks = np.load(cache / name), np.load(tmp_path / "blocks" / name)
        assert np.abs(one_go.astype(int) - blocks).max() <= 1


def test_other_folders_are_no_caches(songs: Manifest, cache: Path, tmp_path: Path) -> None:
    for folder, rate, said in (
        (tmp_path, RATE, "is not a cache"),
        (cache, 16_000, "8000 Hz, and 16000 Hz are needed"),
    ):
        with pytest.raises(ConfigError, match=said) as caught:
            AudioReader(songs, rate, folder)
        assert "stemwire data cache" in str(caught.value)
    with pytest.raises(ConfigError, match="8000 Hz, and 16000"):
        write_cache(songs, cache, 16_000)
    (tmp_path / "mine.txt").touch()
    with pytest.raises(ConfigError, match="holds other files"):
        write_cache(songs, tmp_path, RATE)


def test_a_song_that_the_cache_lacks_or_damaged(
    songs: Manifest, cache: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(cache, tmp_path / "copy"))
    song, other = one(songs, "/a"), one(songs, "/b")
    (folder / f"{song.checksum}.npy").unlink()
    array = folder / f"{other.checksum}.npy"
    array.write_bytes(array.read_bytes()[:1000])
    audio_module._cache_entry.cache_clear()
    for lacking in (song, other):
        with pytest.raises(AudioError, match="run `stemwire data cache") as caught:
            AudioReader(songs, RATE, folder).read(lacking, "vocals", 0, 10)
        assert lacking.name in str(caught.value)


def test_unreadable_songs_are_left_out_of_the_cache(songs: Manifest, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(songs.folder, tmp_path / "songs"))
    manifest = scanned(folder)
    (folder / "a" / "vocals.wav").unlink()
    said: list[str] = []
    result = write_cache(manifest, tmp_path / "c", RATE, max_bad=0.2, report=said.append)
    assert result.written == len(manifest) - 1 and list(result.bad) == [one(manifest, "/a").name]
    assert "a/vocals.wav" in said[0]
    with pytest.raises(AudioError, match="1 of 5 songs"):
        write_cache(manifest, tmp_path / "c", RATE, max_bad=0.1)


def test_a_full_disk_leaves_what_is_whole(songs: Manifest, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    folder = tmp_path / "cache"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # pairs need more
    try:
        with pytest.raises(OutputError, match="free space"):
            write_cache(songs, folder, RATE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not any(name.endswith(".part") for name in files_below(folder))
    result = write_cache(songs, folder, RATE)
    assert result.existing + result.written == len(songs)
