"""Separators and rows called as pedalboard's plugins are: sample-aligned, as pedalboard is."""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import PRESETS, Audio, music, noise, partitions, read_audio, write_audio
from support.pedal_songs import COUNT, RATE, SONG, in_pieces, offline

pytest.importorskip("pedalboard")

import pedalboard
from pedalboard_native._internal import AddLatency

import stemwire
from stemwire.bridge.pedalboard.separator import Row, StemSeparator
from stemwire.bridge.pedalboard.streaming import StreamProcessor
from stemwire.errors import AudioError, CheckpointError, ConfigError
from stemwire.separate import separate_file


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(("rate", "channels"), [(44_100, 2), (48_000, 2), (22_050, 1)])
def test_a_song_is_what_the_offline_command_writes(
    tmp_path: Path, preset: str, rate: int, channels: int
) -> None:
    song = 0.5 * music(COUNT, rate, channels)
    path = write_audio(tmp_path / "song.wav", song, rate, "FLOAT")
    report = separate_file(path, tmp_path, lambda r, c: stemwire.load(preset, r, c))
    for file in report.files:
        separator = StemSeparator(preset, file.stem)
        for _ in range(2):  # nothing is carried over from one song to the next
            found = separator(song, rate)
            np.testing.assert_array_equal(found, read_audio(file))
        sizes = [1, 5_000, 700, COUNT - 5_701]
        out, tail = in_pieces(separator, song, sizes, rate)
        np.testing.assert_array_equal(np.concatenate((out, tail), 1), read_audio(file))
        assert separator.reported_latency_samples == report.latency


@given(sizes=partitions(6_000), between=st.sampled_from(("flush", "reset", "song", "nothing")))
@settings(max_examples=15)
def test_pieces_of_any_size_give_what_the_whole_gives(sizes: list[int], between: str) -> None:
    separator, song = StemSeparator("low"), SONG[:, :6_000]
    expected = separator(song, RATE)
    for _ in range(2):
        out, tail = in_pieces(separator, song, sizes)
        np.testing.assert_array_equal(np.concatenate((out, tail), 1), expected)
        if between != "nothing":  # a stream that was left in the middle
            separator(song[:, :777], RATE, reset=False)
            if between == "song":
                separator(song[:, :888], RATE)
            else:
                getattr(separator, between)()


@pytest.mark.parametrize("samples", [1, 999, 1_023, 1_024, 5_000])
def test_it_holds_back_as_a_plugin_of_pedalboard_with_that_latency_does(samples: int) -> None:
    separator = StemSeparator()
    separator(SONG, RATE)
    plugin = AddLatency(separator.reported_latency_samples)
    assert separator.reported_latency_samples == stemwire.load().latency
    for _ in range(4):
        piece = noise(samples + 3)
        ours = separator(piece, RATE, reset=False)
        assert ours.shape == plugin(piece, RATE, reset=False).shape
    assert separator(SONG, RATE).shape == plugin(SONG, RATE).shape == SONG.shape


@pytest.mark.parametrize("buffer_size", [1, 64, 1_000, 8_192, 1 << 20])
def test_the_buffer_size_changes_nothing(buffer_size: int) -> None:
    separator = StemSeparator("low", "vocals", effects={"vocals": "Gain gain_db=-6"})
    found = separator.process(SONG, RATE, buffer_size, True)
    expected = offline(SONG, preset="low")[0] * np.float32(10 ** (-6 / 20))
    np.testing.assert_allclose(found, expected, atol=1e-6)


LAYOUTS: list[tuple[str, Callable[[Audio], Any]]] = [
    ("(n,)", lambda song: song[0]),
    ("(1, n)", lambda song: song[:1]),
    ("(n, 1)", lambda song: song[:1].T),
    ("(2, n)", lambda song: song),
    ("(n, 2)", lambda song: song.T),
    ("(n, 2) in one piece", lambda song: song.T.copy()),
    ("float64", lambda song: song.astype(np.float64)),
    ("every second", lambda song: song[:, ::2]),
    ("read only", lambda song: np.frombuffer(song.tobytes(), np.float32).reshape(song.shape)),
    ("short", lambda song: song[:, :3].T),
    ("int16", lambda song: (song * 32_767).astype(np.int16)),
    ("float16", lambda song: song.astype(np.float16)),
    ("int32", lambda song: song.astype(np.int32)),
    ("complex", lambda song: song.astype(np.complex64)),
    ("text", lambda song: "song"),
    ("square", lambda song: song[:, :2]),
    ("three dimensions", lambda song: song[None]),
    ("no dimension", lambda song: np.float32(1)),
]


@pytest.mark.parametrize("layout", [make for _, make in LAYOUTS], ids=[name for name, _ in LAYOUTS])
def test_it_takes_and_gives_what_pedalboard_takes_and_gives(layout: Callable[[Audio], Any]) -> None:
    audio = layout(SONG)
    try:
        theirs = pedalboard.Pedalboard([pedalboard.Gain(0)])(audio, RATE)
    except (TypeError, ValueError, RuntimeError):
        with pytest.raises(AudioError):
            StemSeparator("low")(audio, RATE)
        return
    ours = StemSeparator("low")(audio, RATE)
    assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
    rows = np.asarray(audio, np.float32)
    rows = rows[None] if rows.ndim == 1 else rows.T if len(rows) > 2 else rows
    expected = offline(np.ascontiguousarray(rows), preset="low")[1]
    if ours.ndim == 1:
        expected = expected[0]
    np.testing.assert_array_equal(ours, expected if ours.shape == expected.shape else expected.T)


@pytest.mark.parametrize("shape", [(0,), (2, 0), (0, 2), (1, 0)])
@pytest.mark.parametrize("reset", [True, False])
def test_nothing_in_nothing_out(shape: tuple[int, ...], reset: bool) -> None:
    separator = StemSeparator()
    assert separator(np.zeros(shape, np.float32), RATE, reset=reset).shape == shape
    assert separator.flush().shape == shape
    assert StemSeparator().flush().shape == (2, 0)


@pytest.mark.parametrize("last", [False, True])
def test_a_stream_keeps_its_layout_however_short_its_pieces(last: bool) -> None:
    separator, song = StemSeparator("low"), SONG[:, :3_000]
    turn: Callable[[Audio], Audio] = (lambda audio: audio.T) if last else (lambda audio: audio)
    sizes, at, parts = [100, 1, 2, 1, 2_896], 0, []
    for size in sizes:
        parts.append(turn(separator(turn(song[:, at : at + size]), RATE, reset=False)))
        at += size
    parts.append(turn(separator.flush()))
    np.testing.assert_array_equal(np.concatenate(parts, 1), separator(song, RATE))


@pytest.mark.parametrize("rate", [44_100.0, np.int64(44_100), np.float32(44_100)])
def test_whole_rates_of_any_kind_will_do(rate: Any) -> None:
    np.testing.assert_array_equal(StemSeparator("low")(SONG, rate), offline(SONG, preset="low")[1])


# --- streams


def test_streams_side_by_side_do_not_mix() -> None:
    kinds = [(44_100, 2), (48_000, 1), (44_100, 2)]
    songs = [noise(9_000, channels, seed) for seed, (_, channels) in enumerate(kinds)]
    separators = [StemSeparator("low") for _ in kinds]
    parts: list[list[Audio]] = [[] for _ in kinds]
    for at in range(0, 9_000, 450):
        for separator, song, (rate, _), out in zip(separators, songs, kinds, parts, strict=True):
            out.append(separator(song[:, at : at + 450], rate, reset=False))
    for separator, song, (rate, _), out in zip(separators, songs, kinds, parts, strict=True):
        expected = offline(song, rate, "low")[1]
        np.testing.assert_array_equal(np.concatenate((*out, separator.flush()), 1), expected)


def test_songs_from_several_threads_take_turns() -> None:
    separator = StemSeparator("low", effects={"instrumental": pedalboard.Delay(0.01)})
    songs = [noise(4_000, 2, seed) for seed in range(4)]
    expected = [separator(song, RATE) for song in songs]
    found: dict[int, Audio] = {}

    def play(number: int) -> None:
        found[number] = separator(songs[number], RATE)

    threads = [threading.Thread(target=play, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, song in enumerate(expected):
        np.testing.assert_array_equal(found[number], song)


@pytest.mark.parametrize(
    "make", [lambda: StemSeparator("low"), lambda: Row([StemSeparator("low")])]
)
@pytest.mark.parametrize(("rate", "channels"), [(48_000, 2), (44_100, 1)])
def test_a_stream_of_another_kind_is_refused_and_the_first_goes_on(
    make: Callable[[], StreamProcessor], rate: int, channels: int
) -> None:
    separator, song = make(), SONG[:, :4_000]
    out = [separator(song[:, :2_000], RATE, reset=False)]
    with pytest.raises(ConfigError, match=r"44100 Hz and 2 channels, not .*another object"):
        separator(noise(500, channels), rate, reset=False)
    out += [separator(song[:, 2_000:], RATE, reset=False), separator.flush()]
    np.testing.assert_array_equal(np.concatenate(out, 1), offline(song, preset="low")[1])
    other = noise(500, channels)
    np.testing.assert_array_equal(
        np.concatenate((separator(other, rate, reset=False), separator.flush()), 1),
        offline(other, rate, "low")[1],
    )


BAD: list[tuple[str, Any]] = [
    ("NaN, Inf .* at sample 57 .0.001 s", np.where(np.arange(200) == 57, np.nan, 0.1)),
    ("at sample 0", np.full((2, 100), np.inf)),
    ("int16", np.zeros((2, 100), np.int16)),
    (r"\(1, 2, 100\)", np.zeros((1, 2, 100))),
    ("does not tell", np.zeros((2, 2))),
]


@pytest.mark.parametrize(("message", "bad"), BAD)
def test_invalid_audio_leaves_the_stream_unchanged(message: str, bad: Any) -> None:
    separator, song = StemSeparator("low"), SONG[:, :4_000]
    with pytest.raises(AudioError, match=message):
        separator(bad, RATE)
    if bad.shape == (2, 2):
        return  # within a stream, this is a piece
    out = [separator(song[:, :2_000], RATE, reset=False)]
    with pytest.raises(AudioError, match=message):
        separator(bad, RATE, reset=False)
    out += [separator(song[:, 2_000:], RATE, reset=False), separator.flush()]
    np.testing.assert_array_equal(np.concatenate(out, 1), offline(song, preset="low")[1])


@pytest.mark.parametrize(
    ("audio", "rate", "buffer_size", "message"),
    [
        (SONG, 44_100.5, 8_192, "44100.5"), (SONG, 7_000, 8_192, "7000"),
        (SONG, "44100", 8_192, "44100"), (SONG, RATE, 0, "buffer_size"),
        (SONG, RATE, 1.5, "buffer_size"), (noise(100, 3), RATE, 8_192, "3 channels"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("reset", [True, False])
def test_invalid_calls(
    audio: Audio, rate: Any, buffer_size: Any, message: str, reset: bool
) -> None:
    separator = StemSeparator("low")
    with pytest.raises(ConfigError, match=message):
        separator.process(audio, rate, buffer_size, reset)
    np.testing.assert_array_equal(separator(SONG, RATE), offline(SONG, preset="low")[1])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stem": "drums"}, "'drums' is unknown"),
        ({"preset": "nothing"}, "nothing"),
        ({"vocals_db": math.nan, "stem": "mix"}, "vocals_db"),
        ({"instrumental_db": math.inf}, "instrumental_db"),
        ({"vocals_db": -6}, "would be inaudible .*stem='mix'"),
        ({"stem": "vocals", "effects": {"instrumental": "Reverb"}}, "would be inaudible"),
        ({"effects": {"drums": "Reverb"}}, "'drums'"),
        ({"effects": {"instrumental": "Choir"}}, "Choir"),
        ({"effects": {"instrumental": 3}}, "effects of instrumental: .*expected a Pedalboard"),
    ],
)
def test_invalid_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigError, CheckpointError), match=message):
        StemSeparator(**settings)


def test_a_plugin_can_only_be_used_once() -> None:
    plugin, separator = pedalboard.Reverb(), StemSeparator()
    chain = pedalboard.Pedalboard([plugin])
    with pytest.raises(ConfigError, match="effects of vocals and in effects of instrumental"):
        StemSeparator(stem="mix", effects={"vocals": plugin, "instrumental": [chain]})
    with pytest.raises(ConfigError, match="part 1 of the row and in part 2"):
        Row([plugin, plugin])
    with pytest.raises(ConfigError, match="in the row twice"):
        Row([separator, separator])


def test_without_pedalboard_separating_works_and_effects_say_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "pedalboard", None)
    np.testing.assert_array_equal(StemSeparator("low")(SONG, RATE), offline(SONG, preset="low")[1])
    for effects in ("Reverb", [object()]):
        with pytest.raises(ConfigError, match=r"pedalboard.*pip install 'stemwire\[live\]'"):
            StemSeparator(effects={"instrumental": effects})


def test_repr_and_close() -> None:
    with StemSeparator("low", "vocals") as separator:
        assert separator.reported_latency_samples == 0
        separator(SONG, RATE, reset=False)
    assert separator.reported_latency_samples == 0 and separator.flush().shape == (2, 0)
    assert "vocals" in repr(separator) and "2" in repr(Row([separator, "Gain"]))
    np.testing.assert_array_equal(separator(SONG, RATE), offline(SONG, preset="low")[0])
