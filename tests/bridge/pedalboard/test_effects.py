"""Stems through effects, remixed, and rows of separators and chains of pedalboard."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from support import partitions
from support.pedal_songs import COUNT, RATE, SONG, in_pieces, offline

pytest.importorskip("pedalboard")

import pedalboard
from pedalboard_native._internal import AddLatency

import stemwire
from stemwire.bridge.pedalboard.separator import Row, StemSeparator
from stemwire.bridge.pedalboard.streaming import BLOCK
from stemwire.errors import ConfigError

# --- levels and effects


@pytest.mark.parametrize(
    ("stem", "settings", "factors"),
    [
        ("mix", {}, (1, 1)),
        ("mix", {"vocals_db": -6.0}, (10 ** (-6 / 20), 1)),
        ("mix", {"vocals_db": -math.inf, "instrumental_db": 3}, (0, 10 ** (3 / 20))),
        ("vocals", {"vocals_db": -20}, (0.1, 0)),
        ("instrumental", {"instrumental_db": 20}, (0, 10)),
    ],
)
def test_levels(stem: str, settings: dict[str, float], factors: tuple[float, float]) -> None:
    separator = StemSeparator("low", stem, **settings)  # type: ignore[arg-type]
    stems = offline(SONG, preset="low")
    expected = stems[0] * np.float32(factors[0]) + stems[1] * np.float32(factors[1])
    np.testing.assert_allclose(separator(SONG, RATE), expected, atol=1e-6)
    out, tail = in_pieces(separator, SONG, [3_000, 17_000])
    np.testing.assert_allclose(np.concatenate((out, tail), 1), expected, atol=1e-6)


def test_a_level_that_changes_within_a_stream_is_reached_without_a_step() -> None:
    separator = StemSeparator("low", "mix")
    tone = np.tile(np.sin(np.arange(RATE) * 0.05, dtype=np.float32), (2, 1))
    out = [separator(tone[:, : RATE // 2], RATE, reset=False)]
    separator.vocals_db = separator.instrumental_db = -math.inf
    assert separator.vocals_db == separator.instrumental_db == -math.inf
    out.append(separator(tone[:, RATE // 2 :], RATE, reset=False))
    output = np.concatenate(out, 1)
    quiet = out[0].shape[1] + separator.reported_latency_samples + round(0.021 * RATE)
    assert np.abs(np.diff(output)).max() < 1.1 * np.abs(np.diff(tone)).max()
    assert np.abs(output[:, : out[0].shape[1]]).max() > 0.9 and not output[:, quiet:].any()


def chain(*plugins: Any) -> Any:
    return pedalboard.Pedalboard(list(plugins))


@pytest.mark.parametrize("latencies", [(0, 777), (1_500, 300), (BLOCK, 0)])
def test_stems_stay_together_whatever_the_latencies(latencies: tuple[int, int]) -> None:
    effects = dict(zip(("vocals", "instrumental"), map(AddLatency, latencies), strict=True))
    separator = StemSeparator("low", "mix", effects=effects)
    np.testing.assert_allclose(separator(SONG, RATE), SONG, atol=1e-5)
    out, tail = in_pieces(separator, SONG, [100, 9_900, 513, COUNT - 10_513])
    np.testing.assert_allclose(np.concatenate((out, tail), 1), SONG, atol=1e-5)
    model = stemwire.load("low").latency
    assert separator.reported_latency_samples == model + max(latencies) + BLOCK - 1


@pytest.mark.parametrize(
    "effects",
    [
        lambda: "HighpassFilter cutoff_frequency_hz=200 | Reverb",
        lambda: [pedalboard.HighpassFilter(200), pedalboard.Reverb()],
        lambda: chain(pedalboard.HighpassFilter(200), pedalboard.Reverb()),
        lambda: chain(pedalboard.HighpassFilter(200), chain(chain(pedalboard.Reverb()))),
        lambda: (plugin for plugin in [pedalboard.HighpassFilter(200), pedalboard.Reverb()]),
    ],
)
def test_a_stem_goes_through_its_effects_and_the_other_does_not(effects: Any) -> None:
    made = effects()
    if not isinstance(made, str | list | pedalboard.Pedalboard):
        made = list(made)
    separator = StemSeparator("low", "mix", effects={"vocals": made, "instrumental": None})
    stems = offline(SONG, preset="low")
    wet = chain(pedalboard.HighpassFilter(200), pedalboard.Reverb())(stems[0], RATE)
    np.testing.assert_allclose(separator(SONG, RATE), wet + stems[1], atol=1e-5)
    out, tail = in_pieces(separator, SONG, [10_000, 10_000])
    # a reverb that was used before does not glide to its settings any more, and so differs a little
    np.testing.assert_allclose(np.concatenate((out, tail), 1), wet + stems[1], atol=1e-3)


def test_plugin_settings_may_be_changed_later() -> None:
    gain = pedalboard.Gain(0)
    separator = StemSeparator("low", effects={"instrumental": gain})
    gain.gain_db = -20
    np.testing.assert_allclose(
        separator(SONG, RATE), 0.1 * offline(SONG, preset="low")[1], atol=1e-6
    )


def test_effects_of_a_song_may_keep_back_more_than_a_stream_could_tolerate() -> None:
    separator = StemSeparator("low", "vocals", effects={"vocals": pedalboard.PitchShift(12)})
    tone = np.tile(0.3 * np.sin(np.arange(2 * RATE) * 0.05, dtype=np.float32), (2, 1))
    assert separator(tone, RATE).shape == tone.shape
    wanted = pedalboard.PitchShift(12)(offline(tone, preset="low")[0], RATE)
    np.testing.assert_allclose(separator(tone, RATE), wanted, atol=1e-6)
    with pytest.raises(ConfigError, match=r"effects of vocals: .*return nothing within 1 s"):
        separator(tone, RATE, reset=False)
    assert separator(tone, RATE).shape == tone.shape


@pytest.mark.parametrize("reset", [True, False])
@pytest.mark.parametrize(
    ("plugin", "message"),
    [
        (pedalboard.MP3Compressor, r"effects of vocals: .*MP3 only supports"),
        (lambda: pedalboard.Gain(1e9), r"effects of vocals: .*(NaN or Inf|fail)"),
    ],
)
def test_failing_effects_are_an_error(plugin: Callable[[], Any], message: str, reset: bool) -> None:
    separator = StemSeparator("low", "mix", effects={"vocals": plugin()})
    for _ in range(2):
        with pytest.raises(ConfigError, match=message):
            separator(SONG, 96_000, reset=reset)


# --- rows


def test_a_row_is_its_parts_one_after_the_other() -> None:
    def boards() -> tuple[Any, Any]:
        return chain(pedalboard.Compressor(-20)), chain(AddLatency(345), pedalboard.Delay(0.05))

    before, after = boards()
    row = Row([before, StemSeparator("low", "vocals"), after])
    one, other = boards()
    expected = other(StemSeparator("low", "vocals")(one(SONG, RATE), RATE), RATE)
    np.testing.assert_array_equal(row(SONG, RATE), expected)
    out, tail = in_pieces(row, SONG, [7, 500, 13_000, COUNT - 13_507])
    np.testing.assert_allclose(np.concatenate((out, tail), 1), expected, atol=1e-5)
    held = stemwire.load("low").latency + 345 + BLOCK - 1
    row(SONG, RATE, reset=False)
    assert row.reported_latency_samples == held
    np.testing.assert_array_equal(row(SONG, RATE), expected)  # in the middle of a stream


@given(sizes=partitions(5_000))
@settings(max_examples=10)
def test_rows_of_rows_in_pieces(sizes: list[int]) -> None:
    song = SONG[:, :5_000]
    row = Row([
        AddLatency(100), Row([StemSeparator("low", "mix"), "Gain gain_db=6"]), [AddLatency(2_000)],
        StemSeparator("low", "mix"), Row([]),
    ])  # fmt: skip
    out, tail = in_pieces(row, song, sizes)
    expected = np.float32(10 ** (6 / 20)) * song
    np.testing.assert_allclose(np.concatenate((out, tail), 1), expected, atol=1e-4)
    np.testing.assert_allclose(row(song, RATE), expected, atol=1e-4)


def test_a_row_takes_every_layout() -> None:
    row = Row([pedalboard.Gain(0), StemSeparator("low"), pedalboard.Gain(0)])
    expected = offline(SONG, preset="low")[1]
    np.testing.assert_array_equal(row(SONG.T.astype(np.float64), RATE), expected.T)
    mono = offline(SONG[:1], preset="low")[1]
    np.testing.assert_array_equal(row(SONG[0], RATE), mono[0])


@pytest.mark.parametrize("parts", [[3], [None, object()], ["Choir"], [[pedalboard.Gain(), 3]]])
def test_invalid_rows(parts: list[Any]) -> None:
    with pytest.raises(ConfigError):
        Row(parts)
