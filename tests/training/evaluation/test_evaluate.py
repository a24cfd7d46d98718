"""`stemwire evaluate`: choice, separation and measurement, from files to figures."""

from __future__ import annotations

import argparse
import csv
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support import Audio, music, noise, random_separator, training_config, write_audio

import stemwire
from stemwire.errors import AudioError, CheckpointError, ConfigError, StemwireError
from stemwire.model.preset import find_preset
from stemwire.training.commands.evaluate import add_parsers
from stemwire.training.data.manifest import Manifest
from stemwire.training.data.scan import scan
from stemwire.training.evaluation.evaluate import (
    Excerpt,
    Plan,
    Result,
    choose_excerpts,
    evaluate,
    read_passage,
)
from stemwire.training.evaluation.methods import Baseline, Passage, StemFolder, Streamed

pytest.importorskip("soxr")

RATE = 8_000
MIXTURE = Baseline("mixture")
Stems = dict[str, Audio]
StemFolders = Callable[..., StemFolder]
NETWORK = training_config(analysis_window=1024, hop=512, bands=((32, 16),))  # quick at 8 kHz


def stems_of(channels: int, seconds: float, seed: int) -> dict[str, Audio]:
    count = round(seconds * RATE)
    voice = music(count, RATE, channels, seed)
    voice[:, : count // 4] = 0  # an introduction
    return {"vocals": voice, "accompaniment": noise(count, channels, seed + 50)}


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stereo and a mono pair for tests, a pair to train on, an instrumental, a song."""
    folder = tmp_path_factory.mktemp("songs") / "set"
    rows = []

    def add(name: str, kind: str, split: str, audio: Audio) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_audio(folder / name, audio, RATE, "FLOAT")
        rows.append({"path": name, "kind": kind, "split": split})

    pairs = (
        ("album/alpha", 2, 4.0, "test"),
        ("album/beta", 1, 3.0, "test"),
        ("other/alpha", 2, 2.0, "train"),
    )
    for seed, (name, channels, seconds, split) in enumerate(pairs):
        for stem, audio in stems_of(channels, seconds, seed).items():
            add(f"{name}/{stem}.wav", "pair", split, audio)
    add("band/tune.wav", "accompaniment", "test", noise(2 * RATE, 2, 90))
    add("solo/voice.wav", "vocals", "train", music(2 * RATE, RATE, 1, 91))
    add("radio/hit.wav", "mixture", "test", noise(2 * RATE, 2, 92))
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return folder


@pytest.fixture(scope="module")
def manifest(songs: Path, tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    target = tmp_path_factory.mktemp("manifest") / "songs.jsonl"
    scan([songs], target)
    return Manifest(target)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of a network that is quick at 8 kHz."""
    pytest.importorskip("torch")
    from stemwire.model.checkpoint import save_checkpoint

    path = tmp_path_factory.mktemp("run") / "ema.safetensors"
    save_checkpoint(random_separator(NETWORK), path)
    return path


def plan(manifest: Manifest, *methods: object, bss: bool = False, rate: int = RATE) -> Plan:
    return Plan(manifest, methods, rate, None, bss)  # type: ignore[arg-type]


def of(manifest: Manifest, name: str) -> Excerpt:
    return choose_excerpts(manifest, excerpts=[f"{name}:0:1"])[0]


def whole(manifest: Manifest, name: str) -> Excerpt:
    found = of(manifest, name)
    return Excerpt(found.index, manifest[found.index].name)


def passage(
    manifest: Manifest, name: str, start: float = 0, seconds: float | None = None
) -> Passage:
    excerpt = Excerpt(of(manifest, name).index, name, start, seconds)
    work = plan(manifest)
    return read_passage(excerpt, manifest[excerpt.index], work.reader(), RATE)


class TestChoice:
    def test_all_that_has_stems(self, manifest: Manifest) -> None:
        test = {"set/album/alpha", "set/album/beta", "set/band/tune.wav"}
        train = {"set/other/alpha", "set/solo/voice.wav"}
        assert {e.name for e in choose_excerpts(manifest)} == test | train
        assert {e.name for e in choose_excerpts(manifest, "train")} == train

    def test_middle(self, manifest: Manifest) -> None:
        chosen = {e.name: e for e in choose_excerpts(manifest, seconds=3)}
        assert (chosen["set/album/alpha"].start, chosen["set/album/alpha"].seconds) == (0.5, 3)
        assert (chosen["set/other/alpha"].start, chosen["set/other/alpha"].seconds) == (0, None)

    @pytest.mark.parametrize("song", ["set/album/beta", "album/beta", "beta"])
    def test_excerpts(self, manifest: Manifest, song: str) -> None:
        one, other = choose_excerpts(manifest, excerpts=[f"{song}:1:2", f"{song}:0.5:0.25"])
        assert one.name == "set/album/beta 1-3 s" and other.name == "set/album/beta 0.5-0.75 s"
        assert manifest[one.index].name == "set/album/beta"

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            (
                "alpha:0:1",
                "'alpha' means several songs; use one of: set/album/alpha, set/other/alpha",
            ),
            ("gamma:0:1", "'gamma' is unknown; use one of: set/"),
            ("hit:0:1", "unknown"),  # a mixture alone has nothing to be measured by
            ("beta:2:2", "does not lie within song 'set/album/beta', 0 to 3 s"),
            ("beta:-1:2", "does not lie within"),
            ("beta:0:0", "does not lie within"),
            ("beta:nan:1", "does not lie within"),
            ("beta:0:inf", "does not lie within"),
            ("beta:0", "is not SONG:START:SECONDS"),
            ("beta:0:long", "is not SONG:START:SECONDS"),
        ],
    )
    def test_bad_excerpts(self, manifest: Manifest, text: str, said: str) -> None:
        with pytest.raises(ConfigError, match=said):
            choose_excerpts(manifest, excerpts=[text])

    def test_nothing_left(self, manifest: Manifest) -> None:
        with pytest.raises(ConfigError, match=r"no song .* split 'dev' \(there are: test, train\)"):
            choose_excerpts(manifest, "dev")

    @pytest.mark.parametrize("seconds", [0, -1, math.nan, math.inf])
    def test_bad_seconds(self, manifest: Manifest, seconds: float) -> None:
        with pytest.raises(ConfigError, match="seconds must be positive"):
            choose_excerpts(manifest, seconds=seconds)


class TestPassage:
    def test_excerpt_is_a_slice(self, manifest: Manifest) -> None:
        whole = passage(manifest, "album/alpha").references
        assert whole.shape == (2, 2, 4 * RATE)
        part = passage(manifest, "album/alpha", 1.5, 2).references
        np.testing.assert_array_equal(part, whole[:, :, 12_000:28_000])
        np.testing.assert_array_equal(whole[0], stems_of(2, 4, 0)["vocals"])

    def test_mono_stays_mono(self, manifest: Manifest) -> None:
        assert passage(manifest, "album/beta").references.shape == (2, 1, 3 * RATE)

    def test_what_a_song_lacks_is_silence(self, manifest: Manifest) -> None:
        vocals, rest = passage(manifest, "tune").references
        assert not vocals.any() and rest.any()
        vocals, rest = passage(manifest, "solo/voice").references
        assert vocals.any() and not rest.any()


class TestFigures:
    def test_of_pairs(self, manifest: Manifest) -> None:
        work = plan(manifest, MIXTURE, Baseline("irm"), bss=True)
        mixture, irm = (r.stems["vocals"] for r in evaluate([whole(manifest, "beta")], work))
        assert mixture.improvement == 0 and irm.improvement > 6
        assert len(irm.windows["SDR"]) == 3 and irm.bss_eval["SDR"] > mixture.bss_eval["SDR"] + 6
        assert irm.silent_seconds == 0.75 and irm.leakage < -20 and mixture.leakage == 0

    def test_of_songs_without_vocals(self, manifest: Manifest) -> None:
        work = plan(manifest, Baseline("centre"), bss=True)
        found = evaluate([whole(manifest, "tune")], work)[0]
        assert found.kind == "accompaniment"
        instrumental, vocals = found.stems["instrumental"], found.stems["vocals"]
        assert math.isfinite(instrumental.sdr) and not instrumental.bss_eval
        assert vocals.leakage == pytest.approx(-instrumental.sdr, abs=1e-3)

    @pytest.mark.slow
    def test_do_not_depend_on_jobs(self, manifest: Manifest) -> None:
        work = plan(manifest, MIXTURE, Baseline("irm"), bss=True)
        excerpts = [whole(manifest, name) for name in ("beta", "tune", "voice")]

        def figures(results: list[Result]) -> str:  # NaN equals NaN as text
            return repr([(r.method, r.passage, r.stems) for r in results])

        alone = figures(evaluate(excerpts, work))
        assert alone.count("irm") == 3
        assert figures(evaluate(excerpts, work, jobs=2)) == alone

    @pytest.mark.parametrize("methods", [[], [MIXTURE, MIXTURE]])
    def test_methods_come_once(self, manifest: Manifest, methods: list[Baseline]) -> None:
        with pytest.raises(ConfigError, match="methods must be given, each once"):
            evaluate(choose_excerpts(manifest), plan(manifest, *methods))

    def test_methods_are_checked_before_songs_are_read(self, manifest: Manifest) -> None:
        done: list[int] = []
        with pytest.raises(ConfigError, match="'spleeter' needs audio at 44100 Hz"):
            methods = plan(manifest, MIXTURE, Baseline("spleeter"))
            evaluate(choose_excerpts(manifest), methods, progress=lambda n, total: done.append(n))
        assert not done


@pytest.fixture
def stem_folder(tmp_path: Path, manifest: Manifest) -> StemFolders:
    """Writes stems of album/alpha as another program might."""

    def make(rate: int = RATE, song: str = "album/alpha", **stems: Audio) -> StemFolder:
        for name, audio in stems.items():
            (tmp_path / song).mkdir(parents=True, exist_ok=True)
            write_audio(tmp_path / song / f"{name}.wav", audio, rate, "FLOAT")
        return StemFolder(tmp_path)

    return make


class TestStemFolders:
    def stems(self, manifest: Manifest, method: StemFolder, start: float = 0) -> Audio:
        part = passage(manifest, "album/alpha", start)
        return method.stems(part, plan(manifest).reader())

    @pytest.mark.parametrize("song", ["album/alpha", "set/album/alpha"])
    @pytest.mark.parametrize("rest", ["instrumental", "accompaniment"])
    def test_both(self, manifest: Manifest, stem_folder: StemFolders, song: str, rest: str) -> None:
        one, other = noise(4 * RATE, seed=1), noise(4 * RATE, seed=2)
        method = stem_folder(song=song, vocals=one, **{rest: other})
        np.testing.assert_array_equal(self.stems(manifest, method), np.stack((one, other)))
        late = self.stems(manifest, method, 1.5)
        np.testing.assert_array_equal(late, np.stack((one, other))[:, :, 12_000:])

    @pytest.mark.parametrize("given", ["vocals", "instrumental"])
    def test_one_gives_the_other(
        self, manifest: Manifest, given: str, stem_folder: StemFolders
    ) -> None:
        found = self.stems(manifest, stem_folder(**{given: noise(4 * RATE)}))
        mixture = passage(manifest, "album/alpha").mixture
        np.testing.assert_allclose(found.sum(0), mixture, atol=1e-6)
        index = ("vocals", "instrumental").index(given)
        np.testing.assert_array_equal(found[index], noise(4 * RATE))

    def test_perfect_stems_have_no_error(self, songs: Path, manifest: Manifest) -> None:
        found = evaluate([whole(manifest, "album/alpha")], plan(manifest, StemFolder(songs)))
        assert {score.sdr for score in found[0].stems.values()} == {math.inf}

    def test_at_the_songs_own_rate(self, songs: Path, manifest: Manifest) -> None:
        work = plan(manifest, StemFolder(songs), rate=11_025)
        found = evaluate([whole(manifest, "album/alpha")], work)
        assert found[0].stems["vocals"].sdr == math.inf  # resampled as the references are

    def test_at_the_rate_of_the_evaluation(
        self, manifest: Manifest, stem_folder: StemFolders
    ) -> None:
        soxr = pytest.importorskip("soxr")
        vocals = soxr.resample(stems_of(2, 4, 0)["vocals"].T, RATE, 11_025, "HQ").T
        work = plan(manifest, stem_folder(11_025, vocals=vocals), rate=11_025)
        assert evaluate([whole(manifest, "album/alpha")], work)[0].stems["vocals"].sdr > 60

    @pytest.mark.parametrize(
        ("stems", "rate", "message"),
        [
            ({}, RATE, r"neither vocals nor instrumental .* 'set/album/alpha'"),
            ({"drums": noise(4 * RATE)}, RATE, "neither vocals"),
            (
                {"vocals": noise(4 * RATE)},
                16_000,
                "is at 16000 Hz, song 'set/album/alpha' at 8000 Hz",
            ),
            ({"vocals": noise(100)}, RATE, "has 100 samples, song 'set/album/alpha' has 32000"),
            ({"vocals": noise(4 * RATE, 3)}, RATE, "3 channels"),
            ({"vocals": noise(4 * RATE) * np.float32(np.nan)}, RATE, "NaN"),
        ],
    )
    def test_bad_stems(
        self, manifest: Manifest, stem_folder: StemFolders, stems: Stems, rate: int, message: str
    ) -> None:
        method = stem_folder(rate, **stems)
        with pytest.raises(AudioError, match=message) as caught:
            evaluate([whole(manifest, "album/alpha")], plan(manifest, method))
        assert str(caught.value).startswith(f"{method.name} on set/album/alpha: ")

    def test_damaged(self, manifest: Manifest, tmp_path: Path) -> None:
        (tmp_path / "album" / "alpha").mkdir(parents=True)
        (tmp_path / "album" / "alpha" / "vocals.wav").write_bytes(b"RIFF of nothing")
        with pytest.raises(AudioError, match=r"vocals\.wav: cannot be read"):
            self.stems(manifest, StemFolder(tmp_path))

    def test_names_of_several_songs(self, manifest: Manifest, stem_folder: StemFolders) -> None:
        method = stem_folder(song="alpha", vocals=noise(4 * RATE))
        with pytest.raises(AudioError, match="'alpha' is the name of several songs"):
            self.stems(manifest, method)

    def test_no_folder(self, manifest: Manifest, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="no such folder of stems"):
            evaluate(choose_excerpts(manifest), plan(manifest, StemFolder(tmp_path / "away")))


class TestStreaming:
    def test_stems_are_the_engines_aligned(self, manifest: Manifest) -> None:
        part = passage(manifest, "other/alpha", 0.7, 0.5)
        found = Streamed("low").stems(part, plan(manifest).reader())
        separator = stemwire.load("low", RATE)
        whole = np.concatenate((separator.push(part.mixture), separator.flush()), 2)
        np.testing.assert_allclose(found, whole[:, :, separator.latency :], atol=1e-6)
        np.testing.assert_allclose(found.sum(0), part.mixture, atol=1e-5)  # so they are aligned

    def test_checkpoint_equals_its_preset(self, manifest: Manifest, tmp_path: Path) -> None:
        pytest.importorskip("torch")
        weights = tmp_path / "any.safetensors"
        shutil.copy(find_preset("low").folder / "weights.safetensors", weights)
        part = passage(manifest, "album/beta", 1, 0.5)
        one, other = (
            method.stems(part, plan(manifest).reader())
            for method in (Streamed("low"), Streamed(str(weights), checkpoint=True))
        )
        assert one.shape == part.references.shape
        np.testing.assert_allclose(one, other, atol=1e-4)

    def test_what_cannot_be_loaded(self, manifest: Manifest, tmp_path: Path) -> None:
        pytest.importorskip("torch")
        for method, error in (
            (Streamed("nothing"), ConfigError),
            (Streamed(str(tmp_path / "a.safetensors"), checkpoint=True), CheckpointError),
        ):
            with pytest.raises(error):
                evaluate(choose_excerpts(manifest), plan(manifest, method))

    def test_weights_that_are_not_finite(self, manifest: Manifest, tmp_path: Path) -> None:
        torch = pytest.importorskip("torch")
        from stemwire.model.checkpoint import save_checkpoint

        network = random_separator(NETWORK)
        with torch.no_grad():
            next(iter(network.parameters())).fill_(math.nan)
        save_checkpoint(network, tmp_path / "ema.safetensors")
        broken = Streamed(str(tmp_path / "ema.safetensors"), checkpoint=True)
        with pytest.raises(
            AudioError, match=r"ema\.safetensors on set/band/tune\.wav: stems hold NaN"
        ):
            evaluate([whole(manifest, "tune")], plan(manifest, broken))


def command(*arguments: object) -> int:
    """Run `stemwire evaluate`; errors come as they are."""
    parser = argparse.ArgumentParser()
    add_parsers(parser.add_subparsers(), argparse.ArgumentParser(add_help=False))
    args = parser.parse_args(["evaluate", *map(str, arguments)])
    return int(args.run(args))


class TestCommand:
    def test_report(
        self, songs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], checkpoint: Path
    ) -> None:
        pytest.importorskip("matplotlib")
        out = tmp_path / "deep" / "out"
        status = command(
            *(songs, "-o", out, f"--rate={RATE}", "--baseline=mixture", "--checkpoint", checkpoint),
            *("--excerpt=beta:0:2", "--excerpt=tune:0:1"),
        )
        assert status == 0
        said = capsys.readouterr().out
        assert "## Songs with vocals (1," in said and "## Songs without vocals (1," in said
        written = json.loads((out / "report.json").read_text())
        assert [(r["method"], r["passage"]) for r in written["results"]] == [
            (method, excerpt)
            for excerpt in ("set/album/beta 0-2 s", "set/band/tune.wav 0-1 s")
            for method in ("mixture", str(checkpoint))
        ]
        assert (out / "report.png").read_bytes().startswith(b"\x89PNG")

    def test_manifest_and_quick(
        self, manifest: Manifest, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert command(manifest.path, "--baseline", "centre", "--rate", RATE, "--no-bss-eval") == 0
        said = capsys.readouterr().out
        assert "Vocals alone (1," in said and "ISR |" not in said

    def test_shipped_presets_by_default(
        self, songs: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        command(songs, "--excerpt", "beta:1:0.3", "--rate", RATE, "--no-bss-eval")
        said = capsys.readouterr().out
        assert all(f"| {preset.name} |" in said for preset in stemwire.presets())

    @pytest.mark.slow
    def test_drift(
        self, songs: Path, tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        pytest.importorskip("matplotlib")
        options = ("--excerpt=beta:0:1", "--drift=2", f"--rate={RATE}", "-o", tmp_path)
        command(songs, "--checkpoint", checkpoint, *options)
        assert "## Drift" in capsys.readouterr().out
        drift = json.loads((tmp_path / "report.json").read_text())["drift"][0]
        assert len(drift["minutes"]) == 2 and abs(drift["change"]) < 0.2

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["--jobs", "0"], "jobs must be positive"),
            (["--baseline", "magic"], "'magic' is unknown"),
            (["--drift", "1"], "two minutes or more"),
            (["--drift", "2", "--baseline", "mixture"], "presets and checkpoints"),
            (["--drift", "2", "--excerpt", "tune:0:1"], "'set/band/tune.wav' is not a pair"),
            (["--split", "none"], "no song with stems"),
            (["--rate", "0"], "must be positive, not 0"),
            (["--cache", "away"], "not a cache"),
            (["--checkpoint", "away.safetensors"], "no such checkpoint"),
        ],
    )
    def test_bad_arguments(self, manifest: Manifest, arguments: list[str], said: str) -> None:
        with pytest.raises(StemwireError, match=said):
            command(manifest.path, "--no-bss-eval", *arguments)

    def test_bad_data(self, manifest: Manifest, songs: Path, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="is not a folder"):
            command(manifest.path, songs)
        with pytest.raises(ConfigError, match="cannot be read"):
            command(tmp_path / "away")
        with pytest.raises(ConfigError, match="no audio files"):
            command(tmp_path)

    def test_bad_songs_are_not_left_out_unsaid(self, songs: Path, tmp_path: Path) -> None:
        copy = tmp_path / "album"
        shutil.copytree(songs / "album", copy)
        write_audio(copy / "beta" / "vocals.wav", noise(100, 1), RATE, "FLOAT")
        with pytest.raises(AudioError, match=r"1 songs cannot be used, the first: .*differ"):
            command(tmp_path, "--baseline", "mixture", "--rate", RATE)
