"""`separate_file`; the command is tested in test_cli."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from support import PRESETS, Audio, files_below, music, noise, read_audio, write_audio

import stemwire
from stemwire import separate
from stemwire.errors import AudioError, ConfigError, OutputError
from stemwire.realtime.streaming import StreamingSeparator
from stemwire.separate import BLOCK, Report, separate_file


def opener(rate: int, channels: int) -> StreamingSeparator:
    return stemwire.load("standard", rate, channels)


def by_the_api(audio: Audio, rate: int, preset: str = "standard") -> Audio:
    separator = stemwire.load(preset, rate, len(audio))
    out = np.concatenate((separator.push(audio), separator.flush()), 2)
    return out[..., separator.latency :]


def stems_of(report: Report) -> Audio:
    return np.stack([read_audio(file) for file in report.files])


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("samples", [1, 100, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK])
def test_any_length_gives_what_the_api_gives(
    tmp_path: Path, preset: str, channels: int, samples: int
) -> None:
    audio = music(samples, 44_100, channels)
    path = write_audio(tmp_path / "song.wav", audio, 44_100, "FLOAT")
    report = separate_file(
        path, tmp_path / "out", lambda rate, count: stemwire.load(preset, rate, count)
    )
    np.testing.assert_array_equal(stems_of(report), by_the_api(audio, 44_100, preset))
    assert files_below(tmp_path / "out") == ["instrumental.wav", "vocals.wav"]


def test_report(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "song.wav", noise(30_000), 48_000)
    seen: list[tuple[int, int]] = []
    report = separate_file(
        path, tmp_path / "out", opener, progress=lambda done, total: seen.append((done, total))
    )
    separator = opener(48_000, 2)
    assert report.files == tuple(tmp_path / "out" / f"{s}.wav" for s in separator.stems)
    assert report.seconds == 30_000 / 48_000
    assert (report.latency, report.hop) == (separator.latency, separator.hop)
    assert report.sample_rate == 48_000 and report.clipped == 0
    assert report.real_time_factor == pytest.approx(report.elapsed / report.seconds)
    assert 0 < report.hop_ms["p50"] <= report.hop_ms["max"] < 1e3 * report.elapsed
    assert seen == [(BLOCK, 30_000), (30_000, 30_000)]


def test_wav_keeps_what_exceeds_full_scale(tmp_path: Path) -> None:
    audio = noise(9_000, level=2.0)
    path = write_audio(tmp_path / "loud.wav", audio, 44_100, "FLOAT")
    report = separate_file(path, tmp_path / "out", opener)
    assert np.abs(stems_of(report).sum(0) - audio).max() <= 1e-5
    assert report.clipped == 0


def test_flac_is_24_bits_and_counts_what_it_clips(tmp_path: Path) -> None:
    audio = noise(9_000, level=2.0)
    path = write_audio(tmp_path / "loud.wav", audio, 44_100, "FLOAT")
    report = separate_file(path, tmp_path / "out", opener, "flac")
    expected = by_the_api(audio, 44_100)
    assert [soundfile.info(file).subtype for file in report.files] == ["PCM_24"] * 2
    assert report.clipped == (np.abs(expected) > 1).sum() > 0
    clipped = np.clip(expected, -1, 1)
    np.testing.assert_allclose(stems_of(report), clipped, atol=2**-22)  # and not wrapped round


def test_very_long_results_get_a_header_that_can_hold_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audio = noise(9_000)
    path = write_audio(tmp_path / "song.wav", audio, 44_100, "FLOAT")
    monkeypatch.setattr(separate, "WAV_LIMIT", 9_000 * 2 * 4 - 1)
    report = separate_file(path, tmp_path / "out", opener)
    assert {soundfile.info(file).format for file in report.files} == {"RF64"}
    np.testing.assert_array_equal(stems_of(report), by_the_api(audio, 44_100))


def test_existing_stems_are_replaced_and_other_files_stay(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "out"
    folder.mkdir(parents=True)
    (folder / "vocals.wav").write_bytes(b"old")
    (folder / "notes.txt").write_text("mine")
    audio = noise(3_000)
    path = write_audio(tmp_path / "song.flac", audio, 44_100)
    report = separate_file(path, folder, opener)
    np.testing.assert_array_equal(stems_of(report), by_the_api(read_audio(path), 44_100))
    assert files_below(folder) == ["instrumental.wav", "notes.txt", "vocals.wav"]


@pytest.mark.parametrize("existed", [False, True])
@pytest.mark.parametrize("at", [0, 20_000, 49_999])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_is_placed_and_leaves_nothing(
    tmp_path: Path, existed: bool, at: int, bad: float
) -> None:
    audio = noise(50_000)
    audio[1, at] = bad
    path = write_audio(tmp_path / "song.wav", audio, 44_100, "FLOAT")
    if existed:
        (tmp_path / "out").mkdir()
    with pytest.raises(AudioError, match=f"sample {at} ") as caught:
        separate_file(path, tmp_path / "out", opener)
    assert str(path) in str(caught.value)
    assert (tmp_path / "out").exists() == existed
    assert files_below(tmp_path) == ["song.wav"]


def test_what_cannot_be_separated_names_the_file(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "seven.wav", noise(100, 7), 44_100)
    with pytest.raises(ConfigError, match="7 channels") as caught:
        separate_file(path, tmp_path / "out", opener)
    assert str(path) in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_stems_appear_together_or_not_at_all(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "song.wav", noise(3_000), 44_100)
    (tmp_path / "out" / "instrumental.wav").mkdir(parents=True)  # cannot be replaced by a file
    with pytest.raises(OutputError, match="out"):
        separate_file(path, tmp_path / "out", opener)
    assert files_below(tmp_path / "out") == []


def test_an_input_is_never_overwritten(tmp_path: Path) -> None:
    audio = noise(3_000)
    (tmp_path / "vocals").mkdir()
    path = write_audio(tmp_path / "vocals" / "vocals.wav", audio, 44_100, "FLOAT")
    with pytest.raises((OutputError, ConfigError)):
        separate_file(path, tmp_path / "vocals", opener)  # as `-o .` would
    np.testing.assert_array_equal(read_audio(path), audio)


@pytest.mark.parametrize("suffix", [".mp3", ".ogg", ".flac"])
@pytest.mark.parametrize(("rate", "channels"), [(22_050, 1), (24_000, 1), (44_100, 1), (44_100, 2)])
def test_a_long_compressed_file_is_decoded_as_in_one_go(
    tmp_path: Path, suffix: str, rate: int, channels: int
) -> None:
    """Reading in blocks must not disturb the decoder where blocks meet."""
    audio = music(3 * BLOCK, rate, channels)
    path = tmp_path / f"song{suffix}"
    soundfile.write(
        path,
        audio.T,
        rate,
        compression_level=0.9,
        format="OGG" if suffix == ".ogg" else None,
        subtype="VORBIS" if suffix == ".ogg" else None,
    )
    report = separate_file(path, tmp_path / "out", opener)
    np.testing.assert_allclose(stems_of(report).sum(0), read_audio(path), rtol=0, atol=1e-5)
