"""Training examples: reproducible, sensible, and separate from validation."""

from __future__ import annotations

import dataclasses
import json
import math
import multiprocessing
import pickle
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import Audio, Library, music, noise

pytest.importorskip("soxr")
pytest.importorskip("scipy")

from support.examples import COUNT, RATE, maker_of

from stemwire.training.data.manifest import Manifest
from stemwire.training.data.reader import AudioReader
from stemwire.training.examples.examples import Example, ExampleMaker
from stemwire.training.examples.excerpts import HELD_OUT, Pool
from stemwire.training.examples.settings import ExampleSettings

OFF: dict[str, float] = {  # no augmentation
    field.name: 0.0
    for field in dataclasses.fields(ExampleSettings)
    if field.name.endswith("_share") or field.name.endswith("sd_db")
}
ALL: dict[str, float] = {  # every augmentation
    name: 1.0 for name in OFF if name.endswith("_share") and name != "no_vocals_share"
}


def constant(value: float, seconds: float) -> Audio:
    return np.full((2, round(seconds * RATE)), value, np.float32)


@pytest.fixture(scope="session")
def band(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Two pairs, a solo voice and two instrumentals, of different bandwidths and rates."""
    library = Library(tmp_path_factory.mktemp("band"))
    for number, rate in enumerate((8_000, 11_025)):
        time = np.arange(12 * rate) / rate
        stems = [
            np.stack((wave, 0.7 * wave)).astype(np.float32)
            for pitch in (1500, 300)
            for wave in [0.1 * np.sin(2 * np.pi * pitch * time) * (1 + 0.9 * np.sin(3 * time))]
        ]
        library.pair(f"song{number}", *stems, rate=rate, bandwidth_hz=3500 - 100 * number)
    library.add("solo/voice.wav", "vocals", music(8 * RATE, RATE, 1), bandwidth_hz=2500)
    library.add("band/tune.flac", "accompaniment", noise(8 * RATE), bandwidth_hz=3900)
    library.add("band/hum.wav", "accompaniment", noise(6 * RATE, seed=5), bandwidth_hz=3000)
    library.add("band/other.wav", "accompaniment", noise(9 * RATE), split="test")
    return library.manifest()


def equal(one: Example, other: Example) -> bool:
    return (
        np.array_equal(one.vocals, other.vocals)
        and np.array_equal(one.accompaniment, other.accompaniment)
        and one.bandwidth_hz == other.bandwidth_hz
        and one.notes == other.notes
    )


def level_db(audio: Audio) -> float:
    return float(10 * np.log10(np.mean(np.square(audio.astype(np.float64)))))


def chance(share: float, draws: int) -> range:
    """Counts within five standard deviations of what `share` predicts."""
    spread = 5 * math.sqrt(share * (1 - share) * draws)
    return range(math.floor(share * draws - spread), math.ceil(share * draws + spread) + 1)


def test_an_example_depends_on_seed_and_number_alone(band: Manifest) -> None:
    forwards, backwards = maker_of(band), pickle.loads(pickle.dumps(maker_of(band)))
    examples = [forwards(k) for k in range(12)]
    for k in reversed(range(12)):
        assert equal(backwards(k), examples[k])
    other = maker_of(band, seed=2)
    assert not any(equal(other(k), examples[k]) for k in range(12))
    assert len({example.vocals.tobytes() for example in examples}) >= 10
    assert equal(forwards(10**12), backwards(10**12))


@pytest.mark.slow
def test_workers_make_the_same_examples(band: Manifest) -> None:
    maker = maker_of(band, **ALL)
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        made = list(pool.map(maker, range(6)))
    assert all(equal(example, maker(k)) for k, example in enumerate(made))


@pytest.mark.parametrize("share", [0.0, 1.0])
@pytest.mark.parametrize("changes", [{}, ALL, OFF], ids=["default", "all", "off"])
def test_examples_are_sane(band: Manifest, share: float, changes: dict[str, float]) -> None:
    maker = maker_of(band, **{**changes, "pair_share": share, "no_vocals_share": 0.0})
    assert maker.count == COUNT and maker.skipped == {}
    for k in range(25):
        example = maker(k)
        for stem in (example.vocals, example.accompaniment):
            assert stem.shape == (2, COUNT) and stem.dtype == np.float32
            assert np.isfinite(stem).all()
        assert -32.1 <= level_db(example.vocals + example.accompaniment) <= -11.9
        assert 2000 <= example.bandwidth_hz <= RATE / 2
        assert example.notes
        if changes is not ALL:  # which mutes stretches
            assert level_db(example.vocals) > -90 and level_db(example.accompaniment) > -90


@pytest.mark.parametrize(
    ("share", "words"),
    [
        ("no_vocals_share", "no vocals"), ("pair_share", "pair: "), ("mixup_share", "mixup "),
        ("silence_share", ": silence"), ("compression_share", "mixture: compression"),
        ("reverb_share", "vocals: reverb"), ("pitch_share", "vocals: pitch"),
        ("equaliser_share", "music: equaliser"), ("swap_share", "music: swapped"),
        ("invert_share", "vocals: inverted"), ("codec_share", "Vorbis"), ("speed_share", "speed"),
        ("doubled_share", "vocals: doubled"), ("doubled_share", "second singer"),
    ],
)  # fmt: skip
def test_shares_are_kept(band: Manifest, share: str, words: str) -> None:
    """Each augmentation alone is noted as often as requested, and changes the example."""
    part = {"Vorbis": 1 / 3, "vocals: doubled": 0.5, "second singer": 0.5, "speed": 0.75}
    expected = part.get(words, 0.5 if share != "codec_share" else 1 / 3)
    odds = {"Vorbis": 1.0, "vocals: doubled": 1.0, "second singer": 1.0}.get(words, 0.5)
    maker = maker_of(band, **{**OFF, share: odds})
    plain = maker_of(band, **OFF)
    draws, found = 60, 0
    for k in range(draws):
        example = maker(k)
        if any(words in note for note in example.notes):
            found += 1
            assert not np.array_equal(
                example.vocals + example.accompaniment, plain(k).vocals + plain(k).accompaniment
            )
    assert found in chance(expected, draws)
    assert not any(words in note for k in range(10) for note in plain(k).notes)


def test_without_vocals_there_is_music_alone(band: Manifest) -> None:
    maker = maker_of(band, no_vocals_share=1.0, pair_share=0.5, mixup_share=0.5)
    for k in range(20):
        example = maker(k)
        assert not example.vocals.any() and example.accompaniment.any()
        assert -32.1 <= level_db(example.accompaniment) <= -11.9


def test_ratios_are_as_set(band: Manifest) -> None:
    maker = maker_of(band, **{**OFF, "ratio_sd_db": 5.0, "ratio_mean_db": -4.0})
    ratios = []
    for k in range(150):
        example = maker(k)
        ratios.append(level_db(example.vocals) - level_db(example.accompaniment))
        noted = [note for note in example.notes if note.startswith("ratio")]
        assert float(noted[0].split()[1]) == pytest.approx(ratios[-1], abs=0.06)
    assert np.mean(ratios) == pytest.approx(-4, abs=1.6)
    assert np.std(ratios) == pytest.approx(5, abs=1.2)
    assert -16.01 < min(ratios) < max(ratios) < 12.01


def test_pairs_are_kept_together(library: Library) -> None:
    """Vocals say where they are, and the accompaniment the same upside down."""
    places = np.tile(np.linspace(0.1, 0.9, 10 * RATE, dtype=np.float32), (2, 1))
    library.pair("song", places, -0.5 * places)
    off = {**OFF, "pair_share": 1.0}
    manifest = library.manifest()
    for maker in (maker_of(manifest, **off), maker_of(manifest, **{**off, "speed_share": 1.0})):
        starts = set()
        for k in range(10):
            example = maker(k)
            inner = slice(50, -50)
            assert np.allclose(
                example.vocals[:, inner], -2 * example.accompaniment[:, inner], rtol=1e-4
            )
            starts.add(example.notes[0])
        assert len(starts) > 5


def test_a_pair_keeps_its_own_ratio(library: Library) -> None:
    library.pair("song", noise(6 * RATE, level=0.2), noise(6 * RATE, level=0.1, seed=1))
    maker = maker_of(library.manifest(), **{**OFF, "pair_share": 1.0})
    for k in range(5):
        example = maker(k)
        ratio = level_db(example.vocals) - level_db(example.accompaniment)
        assert ratio == pytest.approx(6, abs=0.5)


@pytest.mark.parametrize("speed", [0.03, 0.3])
def test_bandwidth_is_that_of_the_narrower_stem_and_moves_with_speed(
    band: Manifest, speed: float
) -> None:
    maker = maker_of(band, pair_share=1.0, mixup_share=0.0, speed_range=speed)
    for k in range(10):
        example = maker(k)
        own = 3400 if "song1" in example.notes[0] else 3500
        if "speed" in example.notes[0]:
            factor = float(example.notes[0].split()[-1])
            assert example.bandwidth_hz == pytest.approx(min(own * factor, RATE / 2), rel=0.01)
            assert abs(math.log(factor)) <= speed + 0.006
        else:
            assert example.bandwidth_hz == own
    loose = maker_of(band, **{**OFF, "mixup_share": 1.0})
    widths = {"song0": 3500, "song1": 3400, "voice": 2500, "tune": 3900, "hum": 3000}
    for k in range(10):
        example = loose(k)
        measured = [hz for name, hz in widths.items() if any(name in n for n in example.notes)]
        assert example.bandwidth_hz == min(measured)


def test_mixup_hears_both_stems_of_both_songs(library: Library) -> None:
    """Four tones tell vocals and accompaniment of two songs apart."""
    tones = [
        0.1 * np.sin(2 * np.pi * hz * np.arange(4 * RATE) / RATE) for hz in (400, 700, 1500, 2000)
    ]
    one, two, three, four = (np.stack((tone, tone)).astype(np.float32) for tone in tones)
    library.pair("one", one, two)
    library.pair("other", three, four)
    maker = maker_of(library.manifest(), **{**OFF, "pair_share": 1.0, "mixup_share": 1.0})
    both = 0
    for k in range(12):
        example = maker(k)
        spectra = [np.abs(np.fft.rfft(stem[0])) for stem in (example.vocals, example.accompaniment)]
        measured = [
            [bool(s[hz // 2] > 0.1 * s.max()) for hz in (400, 700, 1500, 2000)] for s in spectra
        ]
        one_song, other = ("one at" in str(example.notes)), ("other at" in str(example.notes))
        assert measured == [[one_song, False, other, False], [False, one_song, False, other]]
        both += one_song and other
    assert both in range(2, 11)


def test_pitch_moves_bandwidth(band: Manifest) -> None:
    maker = maker_of(band, **{**OFF, "pitch_share": 1.0, "full_band_hz": 3600})
    widths = {"song0": 3500, "song1": 3400, "voice": 2500, "tune": 3900, "hum": 3000}
    for k in range(10):
        example = maker(k)
        measured = {
            n.split(":")[0]: hz for n in example.notes for w, hz in widths.items() if w in n
        }
        (semitones,) = (float(n.split()[2]) for n in example.notes if "pitch" in n)
        expected = min(measured["music"], measured["vocals"] * 2 ** (semitones / 12))
        assert example.bandwidth_hz == pytest.approx(expected, rel=0.005)


def test_speed_changes_pitch(band: Manifest) -> None:
    maker = maker_of(band, **{**OFF, "pair_share": 1.0, "speed_share": 1.0})
    for k in range(10):
        example = maker(k)
        factor = float(example.notes[0].split()[-1])
        measured = (
            np.abs(np.fft.rfft(example.vocals[0] * np.hanning(COUNT), 8 * COUNT)).argmax() / 4
        )
        assert measured == pytest.approx(1500 * factor, rel=0.01)


def test_full_band_songs_get_their_shares(library: Library) -> None:
    library.pair("wide", *[noise(2 * RATE)] * 2, bandwidth_hz=3900)
    library.pair("narrow", *[noise(20 * RATE)] * 2, bandwidth_hz=2000)
    library.add("voice.wav", "vocals", noise(10 * RATE))
    library.add("tune.wav", "accompaniment", noise(10 * RATE))
    shares = {"full_band_pairs": 0.8, "full_band_vocals": 0.35, "full_band_music": 0.2}
    maker = maker_of(library.manifest(), full_band_hz=3000, **shares)
    manifest = maker.excerpts.manifest
    rng = np.random.default_rng(0)
    for pool, share, others in (
        (maker.excerpts.pairs, 0.8, {"narrow": 1.0}),
        (maker.excerpts.vocals, 0.35, {"narrow": 2 / 3, "voice": 1 / 3}),
        (maker.excerpts.music, 0.2, {"narrow": 2 / 3, "tune": 1 / 3}),
    ):
        names = [manifest[pool.draw(rng, []) or 0].name for _ in range(600)]
        assert sum("wide" in name for name in names) in chance(share, 600)
        for other, part in others.items():
            assert sum(other in name for name in names) in chance((1 - share) * part, 600)


def test_a_pool_draws_by_odds_without_what_failed() -> None:
    pool = Pool(np.array([3, 7, 9]), np.array([1.0, 0.0, 2.0]))
    rng = np.random.default_rng(0)
    drawn = [pool.draw(rng, []) for _ in range(300)]
    assert drawn.count(9) in chance(2 / 3, 300) and set(drawn) == {3, 9}
    assert {pool.draw(rng, [9]) for _ in range(50)} == {3}
    assert pool.draw(rng, [9, 3]) is None


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_training_never_hears_what_is_held_out(library: Library, share: float) -> None:
    """The vocals sing in the held-out part alone, so in training they are silent."""
    samples = 20 * COUNT
    vocals = np.zeros((1, samples), np.float32)
    vocals[:, int(samples * (1 - HELD_OUT)) :] = 0.4
    library.pair("song", vocals, constant(0.2, samples / RATE)[:1])
    maker = maker_of(library.manifest(), pair_share=share)
    for k in range(60):
        assert not maker(k).vocals.any()
    assert all((e.vocals > 0.3).all() for e in maker.validation(5))


def test_songs_to_validate_on_are_used_where_there_are_any(library: Library) -> None:
    library.pair("known", constant(0.1, 3), constant(0.1, 3))
    library.pair("unknown", constant(0.5, 3), constant(0.3, 3), split="valid")
    library.pair("never", constant(0.9, 3), constant(0.9, 3), split="test")
    maker = maker_of(library.manifest(), **{**OFF, "pair_share": 1.0})
    for example in maker.validation(3):
        assert np.allclose(example.vocals, 0.5) and np.allclose(example.accompaniment, 0.3)
    assert all("known" in maker(k).notes[0] and "un" not in maker(k).notes[0] for k in range(20))
    song = maker.excerpts.manifest[int(maker.excerpts.pairs.songs[0])]
    rngs = map(np.random.default_rng, range(200))
    starts = [maker.excerpts._stretch(rng, song, COUNT)[0] for rng in rngs]
    assert max(starts) + COUNT > 0.9 * 3 * RATE, (
        "nothing of the training songs needs to be held out"
    )


def test_validation_is_fixed_and_unchanged(band: Manifest) -> None:
    examples = maker_of(band).validation(5)
    again = maker_of(band, seed=9, **ALL).validation(5)
    assert all(equal(one, other) for one, other in zip(examples, again, strict=True))
    assert len(examples) == 5
    reader = AudioReader(band, RATE)
    for example in examples:
        name, start = example.notes[0].removeprefix("pair: ").removesuffix(" s").split(" at ")
        song = next(song for song in (band[k] for k in range(len(band))) if song.name == name)
        frames = reader.frames(song)
        assert float(start) >= frames / RATE * (1 - HELD_OUT) - 0.1
        whole = reader.read(song, "vocals", 0, frames)
        begin = round(float(start) * RATE)
        near = range(max(0, begin - 500), begin + 500)  # the note is rounded
        differences = (np.abs(whole[:, s : s + COUNT] - example.vocals).max() for s in near)
        assert min(differences) < 1e-4  # one excerpt is resampled as the whole is


@pytest.mark.parametrize("seconds", [0.3, 1.2, 3.0])
def test_a_short_song_does_not_stop_validation(library: Library, seconds: float) -> None:
    """Long enough to train on, but its held-out part is shorter than an example."""
    library.pair("short", constant(0.3, seconds), constant(0.3, seconds))
    padded = maker_of(library.manifest(), **OFF).validation(4)
    assert len(padded) == 4
    assert all(e.vocals.shape == (2, COUNT) and e.vocals.any() for e in padded)
    library.pair("long", constant(0.6, 10), constant(0.6, 10))
    assert all(
        np.allclose(e.vocals, 0.6) for e in maker_of(library.manifest(), **OFF).validation(4)
    )
    assert maker_of(library.manifest()).validation(0) == []


def test_no_pairs_no_validation(library: Library) -> None:
    library.add("voice.wav", "vocals", noise(2 * RATE))
    library.add("tune.wav", "accompaniment", noise(2 * RATE))
    maker = maker_of(library.manifest(), pair_share=1.0)
    assert maker.validation(3) == []
    assert maker(0).vocals.any() and "pair" not in " ".join(maker(0).notes)


def test_short_recordings_are_joined(library: Library) -> None:
    for k in range(5):
        library.add(
            f"phrase{k}.wav", "vocals", constant(0.1 * (k + 1), 0.13), bandwidth_hz=3000 - 100 * k
        )
    library.add("tune.wav", "accompaniment", noise(3 * RATE))
    maker = maker_of(library.manifest(), **OFF)
    for k in range(10):
        example = maker(k)
        singing = np.abs(example.vocals[0]) > 1e-6
        assert singing.mean() > 0.95, "several phrases follow each other"
        phrases = [note for note in example.notes if note.startswith("vocals: ")]
        assert len(phrases) == 4
        widths = [3000 - 100 * k for k in range(5) if any(f"phrase{k}" in p for p in phrases)]
        assert example.bandwidth_hz == min(widths)
        assert np.abs(np.diff(example.vocals[0])).max() < 0.2 * np.abs(example.vocals).max()
    faster = maker_of(library.manifest(), **{**OFF, "speed_share": 1.0})
    assert all(faster(k).vocals.shape == (2, COUNT) for k in range(10))


def test_short_pairs_are_padded(library: Library) -> None:
    library.pair("jingle", constant(0.4, 0.3), constant(0.2, 0.3))
    maker = maker_of(library.manifest(), **{**OFF, "pair_share": 1.0})
    starts = set()
    for k in range(10):
        example = maker(k)
        measured = np.flatnonzero(example.vocals[0])
        assert np.array_equal(measured, np.flatnonzero(example.accompaniment[0]))
        assert len(measured) == round(0.3 * RATE) - round(0.3 * RATE * HELD_OUT)
        assert (np.diff(measured) == 1).all()
        starts.add(int(measured[0]))
    assert len(starts) > 5


@settings(max_examples=15)
@given(cuts=st.sets(st.integers(1, 39), max_size=6), speed=st.sampled_from([0.0, 1.0]))
def test_excerpts_keep_within_a_recording(
    tmp_path_factory: pytest.TempPathFactory, cuts: set[int], speed: float
) -> None:
    """Each recording has a value of its own; where one is long enough, excerpts have only one."""
    library = Library(tmp_path_factory.mktemp("cuts"))
    edges = [0, *sorted(cuts), 40]  # tenths of a second
    values = np.concatenate(
        [np.full((b - a) * RATE // 10, 0.1 + 0.1 * k) for k, (a, b) in enumerate(pairwise(edges))]
    )
    boundaries = " ".join(str(cut / 10) for cut in sorted(cuts))
    library.add("voice.wav", "vocals", values[None].astype(np.float32), boundaries_s=boundaries)
    library.add("tune.wav", "accompaniment", constant(0.5, 4))
    maker = maker_of(library.manifest(), **{**OFF, "speed_share": speed})
    long = max(b - a for a, b in pairwise(edges)) / 10
    for k in range(6):
        vocals = maker(k).vocals[0, 40:-40]
        if long > 0.5 * 1.14:
            assert np.ptp(vocals) < 0.02 * np.abs(vocals).max()


def test_settings_survive_json() -> None:
    changed = ExampleSettings(seconds=6, pair_share=0.5)
    again = ExampleSettings(**json.loads(json.dumps(dataclasses.asdict(changed))))
    assert again == changed


@pytest.mark.slow
def test_examples_are_quick_to_make(tmp_path: Path) -> None:
    """Three seconds at 44.1 kHz with the usual odds; the bar is loose, machines differ."""
    library = Library(tmp_path)
    library.pair("song", *[noise(60 * 44_100, seed=k) for k in range(2)], rate=44_100)
    library.add("voice.wav", "vocals", noise(60 * 44_100, 1), rate=44_100)
    library.add("tune.wav", "accompaniment", noise(60 * 44_100), rate=44_100)
    maker = ExampleMaker(AudioReader(library.manifest(), 44_100), ExampleSettings(), 1)
    maker(0)
    start = time.process_time()
    for k in range(1, 41):
        maker(k)
    assert (time.process_time() - start) / 40 < 0.15
