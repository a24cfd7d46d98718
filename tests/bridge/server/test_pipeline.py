"""A pipeline without a scheduler: results of events, in order."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import music

pytest.importorskip("msgspec")

import stemwire
from stemwire.bridge.protocol.messages import Control, Flush, Reset
from stemwire.bridge.server.pipeline import MixSettings, MixtureBlock, Pipeline, Stage, StageChange
from stemwire.errors import ProtocolError

RATE = 44_100


def stage(preset: str = "standard", block: int | None = None, control: int = 0) -> Stage:
    return Stage(stemwire.load, preset, {}, {}, RATE, 2, block, (0.0, 1.0), control)


def pipeline_of(*stems: str, block: int | None = None) -> Pipeline:
    return Pipeline(stage(block=block), stems or ("vocals", "instrumental"))


def work(pipeline: Pipeline, *events: Any) -> list[Any]:
    """Put events, run all steps at once, and return the results."""
    for event in events:
        if isinstance(event, np.ndarray):
            event = MixtureBlock(event, 0, math.inf)
        pipeline.put(event)
    steps = pipeline.work(time.monotonic)
    try:
        step = next(steps)
        while True:
            step = steps.send(step.stream.step(step.frame))
    except StopIteration:
        pass
    assert pipeline.idle
    results = list(pipeline.results)
    pipeline.results.clear()
    return results


def audio(results: list[Any]) -> Any:
    return np.concatenate([result for result in results if isinstance(result, np.ndarray)], 2)


@given(sizes=st.lists(st.integers(0, 2000), min_size=1, max_size=8))
def test_blocks_of_any_size(sizes: list[int]) -> None:
    song = 0.3 * music(max(1, sum(sizes)), RATE)[:, : sum(sizes)]
    parts = np.split(song, np.cumsum(sizes)[:-1], 1)
    results = work(pipeline_of(), *parts, Flush())
    assert [r.shape[2] for r in results[:-2]] == sizes
    wanted = stemwire.load("standard", RATE).flush(song)
    np.testing.assert_array_equal(audio(results), wanted)


def test_stems_come_in_the_order_asked_for() -> None:
    song = 0.3 * music(RATE, RATE)
    stems = audio(work(pipeline_of("mix", "vocals", "instrumental"), song, Flush()))
    np.testing.assert_array_equal(stems[0], stems[2])  # vocals off, instrumental at 0 dB
    np.testing.assert_array_equal(stems[1:], stemwire.load("standard", RATE).flush(song))


def test_only_the_last_block_may_break_the_promise() -> None:
    song = 0.3 * music(4 * 512 + 100, RATE)
    results = work(pipeline_of(block=512), song, Flush(), song, Flush())
    wanted = stemwire.load("standard", RATE, 2, 512).flush(song)
    np.testing.assert_array_equal(audio(results), np.concatenate((wanted, wanted), 2))
    with pytest.raises(ProtocolError, match="only the last before a flush"):
        work(pipeline_of(block=512), song, song)


def test_a_reset_forgets() -> None:
    song = 0.3 * music(RATE // 2, RATE)
    pipeline = pipeline_of()
    first = work(pipeline, song, Flush())
    again = work(pipeline, song[:, :999], Reset(), song, Flush())
    kinds = [type(result) for result in again if not isinstance(result, np.ndarray)]
    assert kinds == [Reset, Flush]
    np.testing.assert_array_equal(audio(again[2:]), audio(first))


@pytest.mark.parametrize("gap", [1, 100, 5000])
def test_a_gap_has_the_missing_length_and_makes_no_click(gap: int) -> None:
    song = 0.3 * music(RATE, RATE)
    before, after = song[:, :20_000], song[:, 20_000 + gap :]
    pipeline = pipeline_of()
    results = work(pipeline, before, MixtureBlock(after, gap, math.inf), Flush())
    whole = audio(results).sum(0)[:, pipeline.stage.latency :]
    assert whole.shape == song.shape and pipeline.waiting == 0
    np.testing.assert_allclose(whole[:, :20_000], before, atol=1e-5)
    np.testing.assert_allclose(whole[:, 21_000 + gap :], song[:, 21_000 + gap :], atol=1e-4)
    assert np.abs(np.diff(whole)).max() <= 1.05 * np.abs(np.diff(song)).max()


def test_another_stage_comes_in_at_its_announced_position() -> None:
    song = 0.3 * music(3 * RATE, RATE)
    pipeline = pipeline_of(block=512)
    blocks = [song[:, at : at + 512] for at in range(0, song.shape[1] - 512, 512)]
    results = work(pipeline, *blocks[:50], stage("low", 512, control=9), *blocks[50:])
    change = next(result for result in results if isinstance(result, StageChange))
    assert (change.stage.control, change.position) == (9, 50 * 512 + RATE)
    assert pipeline.stage is change.stage
    stems = audio(results)
    standard = stemwire.load("standard", RATE, 2, 512).push(np.concatenate(blocks, 1))
    here = slice(None, change.position)
    np.testing.assert_array_equal(stems[..., here], standard[..., here])
    late = change.position + round(0.02 * RATE) + 1
    dry = np.pad(song, ((0, 0), (change.stage.latency, 0)))
    np.testing.assert_allclose(stems.sum(0)[:, late:], dry[:, late : stems.shape[2]], atol=1e-5)
    assert np.abs(np.diff(stems)).max() <= 1.2 * np.abs(np.diff(standard)).max()


def test_a_stage_put_before_a_stream_applies_from_its_start() -> None:
    song = 0.3 * music(RATE // 2, RATE)
    results = work(pipeline_of(), stage("low"), song, Flush())
    assert isinstance(results[0], StageChange) and results[0].position == 0
    np.testing.assert_array_equal(audio(results), stemwire.load("low", RATE).flush(song))


def test_levels_change_without_a_click() -> None:
    song = 0.3 * music(RATE, RATE)
    pipeline = pipeline_of("mix", "instrumental")
    results = work(
        pipeline,
        song[:, :20_000],
        Control(id=3, instrumental=-20.0),
        song[:, 20_000:30_000],
        Control(id=4, mute=True),
        song[:, 30_000:],
    )
    assert [r.id for r in results if isinstance(r, Control)] == [3, 4]
    mix, instrumental = audio(results)
    np.testing.assert_allclose(
        mix[:, 22_000:30_000], 0.1 * instrumental[:, 22_000:30_000], atol=1e-6
    )
    np.testing.assert_array_equal(mix[:, 32_000:], 0)
    assert np.abs(np.diff(mix)).max() <= 1.05 * np.abs(np.diff(instrumental)).max()


def test_gains() -> None:
    assert MixSettings().gains() == (0.0, 1.0)
    assert MixSettings(vocals=-20.0, instrumental=-200.0).gains() == (pytest.approx(0.1), 0.0)
    assert MixSettings(vocals=0.0, mute=True).gains() == (0.0, 0.0)


def test_late_blocks_are_counted() -> None:
    block = 0.3 * music(512, RATE)
    pipeline = pipeline_of()
    work(pipeline, MixtureBlock(block, 0, 0.0), MixtureBlock(block, 0, math.inf))
    assert pipeline.misses == 1


def test_stages_come_in_one_after_the_other_at_their_announced_positions() -> None:
    song = 0.3 * music(5 * RATE, RATE)
    pipeline = pipeline_of(block=512)
    blocks = [song[:, at : at + 512] for at in range(0, song.shape[1] - 512, 512)]
    low, standard = stage("low", 512, control=1), stage("standard", 512, control=2)
    results = work(pipeline, *blocks[:50], low, standard, *blocks[50:])
    change = [result for result in results if isinstance(result, StageChange)]
    assert [each.stage for each in change] == [low, standard]
    assert change[0].position == 50 * 512 + RATE
    assert change[1].position >= change[0].position + RATE
    stems = audio(results)
    ends = (change[0].position, change[1].position, stems.shape[2])
    begin = 0
    for end, late in zip(ends, (512, 256, 512), strict=True):
        dry = np.pad(song, ((0, 0), (late, 0)))
        audible = slice(begin + round(0.025 * RATE), end)
        np.testing.assert_allclose(stems.sum(0)[:, audible], dry[:, audible], atol=1e-5)
        begin = end


@pytest.mark.parametrize("end", [Flush(), Reset()])
def test_a_stream_that_ends_before_another_stage_comes_in(end: Flush | Reset) -> None:
    song = 0.3 * music(RATE // 2, RATE)
    pipeline = pipeline_of()
    low, last = stage("low", control=1), stage("low", control=2)
    results = work(pipeline, song, low, last, end, song, Flush())
    kinds = [type(result) for result in results if not isinstance(result, np.ndarray)]
    assert kinds == [StageChange, type(end), StageChange, StageChange, Flush]
    change = [result for result in results if isinstance(result, StageChange)]
    assert [(each.stage, each.position > 0) for each in change] == [
        (low, True),
        (low, False),
        (last, False),
    ]
    first, *rest = [result for result in results if isinstance(result, np.ndarray)]
    parts = [first, rest.pop(0)] if isinstance(end, Flush) else [first]
    standard = stemwire.load("standard", RATE).flush(song)
    np.testing.assert_array_equal(
        np.concatenate(parts, 2), standard[..., : sum(part.shape[2] for part in parts)]
    )
    np.testing.assert_array_equal(np.concatenate(rest, 2), stemwire.load("low", RATE).flush(song))
