"""The native backend: equal to PyTorch, no memory errors, clear error messages."""

from __future__ import annotations

import _ctypes
import ctypes
import gc
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import ROOT, VARIANTS, music, random_separator, tiny_config

import stemwire
from stemwire.errors import BackendError, CheckpointError
from stemwire.model.config import SeparatorConfig
from stemwire.realtime.backends import native_library as native_code
from stemwire.realtime.backends.native_backend import NativeBackend
from stemwire.realtime.backends.native_library import load_library, native_problem
from stemwire.realtime.backends.native_stft import NativeSTFT
from stemwire.realtime.stft import StreamingSTFT

pytest.importorskip("torch", reason="random networks are PyTorch's")
from safetensors.numpy import load_file, save_file

from stemwire.model.checkpoint import load_checkpoint, save_checkpoint
from stemwire.realtime.backends.torch_backend import TorchStream

if os.environ.get("STEMWIRE_NATIVE") == "require":  # it was built, so it must run
    assert not native_problem(), native_problem()
pytestmark = pytest.mark.skipif(bool(native_problem()), reason=native_problem())


def frames_of(config: SeparatorConfig, count: int, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    shape = (count, config.channels, config.bins + 1, 2)
    loudness = 5.0 * np.exp(np.sin(np.arange(count) / 3)).reshape(-1, 1, 1, 1)
    return (loudness * rng.standard_normal(shape)).astype(np.float32).view(np.complex64)[..., 0]


def steps(stream: Any, frames: Any) -> Any:
    return np.stack([stream.step(frame).copy() for frame in frames])


def both(
    config: SeparatorConfig, folder: Path, seed: int = 0, half: bool = False
) -> tuple[NativeBackend, TorchStream]:
    path = folder / "weights.safetensors"
    save_checkpoint(random_separator(config, seed), path, half=half)
    return NativeBackend(path, config), TorchStream(load_checkpoint(path))


@st.composite
def configs(draw: st.DrawFn) -> SeparatorConfig:
    """Networks whose sizes fit no register: odd heads, rows shorter than a vector, any window."""
    levels = draw(st.integers(1, 3))
    fold = 2 ** (levels - 1)
    counts = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    counts[-1] += -sum(counts) % fold
    widths = [draw(st.integers(1, 9)) for _ in counts]
    widths[0] = max(widths[0], -(-8 // counts[0]))  # a hop has eight samples at least
    bands = tuple(zip(counts, widths, strict=True))
    bins, positions = sum(count * width for count, width in bands), sum(counts)
    window = draw(st.integers(1, 80))
    heads = draw(st.sampled_from([h for h in (1, 2, 3, 4) if not (positions >> levels - 1) % h]))
    return SeparatorConfig(
        variant=draw(st.sampled_from(VARIANTS)),
        channels=draw(st.integers(1, 2)),
        analysis_window=2 * bins,
        hop=bins,
        lookahead=draw(st.integers(0, min(4, window - 1))),
        bands=bands,
        units=draw(st.integers(1, 2)),
        expansion=draw(st.integers(1, 3)),
        taps=draw(st.integers(1, 3)),
        widths=tuple(draw(st.lists(st.integers(1, 14), min_size=levels, max_size=levels))),
        token_width=positions * draw(st.integers(1, 3)),
        heads=heads,
        window=window,
        feed_forward=draw(st.integers(1, 3)),
        blocks=draw(st.integers(1, 2)),
        compression=draw(st.floats(0.1, 1.0)),
    )


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(config=configs(), seed=st.integers(0, 99), half=st.booleans())
def test_it_equals_torch_whatever_the_sizes(
    tmp_path_factory: pytest.TempPathFactory, config: SeparatorConfig, seed: int, half: bool
) -> None:
    native, torch = both(config, tmp_path_factory.mktemp("native"), seed, half)
    frames = frames_of(config, 2 * config.window + 3, seed)
    expected = steps(torch, frames)
    got = steps(native.open(), frames)
    assert np.abs(got - expected).max() <= 1e-3 * np.abs(frames).max()


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_batch_changes_no_bit(tmp_path: Path, variant: str) -> None:
    native, _ = both(tiny_config(variant), tmp_path)
    songs = [frames_of(native.config, 12, seed) for seed in range(9)]
    alone = [steps(native.open(), song) for song in songs]
    streams, batch = [native.open() for _ in songs], native.batch(9)
    for k in range(12):
        chosen = list(range(9))[: k % 9 + 1]  # every number of them
        for j in range(9):
            if j not in chosen:
                np.testing.assert_array_equal(streams[j].step(songs[j][k]), alone[j][k])
        found = batch.step([streams[j] for j in chosen], [songs[j][k] for j in chosen])
        for j, vocals in zip(chosen, found, strict=True):
            np.testing.assert_array_equal(vocals, alone[j][k])


def test_a_batch_may_be_larger_than_a_step(tmp_path: Path) -> None:
    native, _ = both(tiny_config(), tmp_path)
    count = load_library().stemwire_most() + 3
    frames = frames_of(native.config, count)
    found = native.batch(2 * count).step([native.open() for _ in range(count)], list(frames))
    expected = [native.open().step(frame) for frame in frames]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_what_is_no_number_is_forgotten(tmp_path: Path, bad: float) -> None:
    """It must not stay in a margin, a mean or a window."""
    native, _ = both(tiny_config(), tmp_path)
    frames = frames_of(native.config, 200)
    hurt, whole = native.open(), native.open()
    hurt.step(np.full_like(frames[0], bad))
    whole.step(frames[0])
    others, expected = steps(hurt, frames), steps(whole, frames)
    assert np.abs(others[0] - expected[0]).max() > 0 or not np.isfinite(others[0]).all()
    np.testing.assert_array_equal(others[100:], expected[100:])


@pytest.mark.parametrize("variant", VARIANTS)
def test_one_client_s_nan_is_no_other_s(tmp_path: Path, variant: str) -> None:
    """In a batch they take turns in the same memory."""
    native, _ = both(
        tiny_config(variant, analysis_window=80, hop=40, bands=((20, 2),), token_width=40, heads=5),
        tmp_path,
    )
    song = frames_of(native.config, 8)
    alone = steps(native.open(), song)
    batch, fine = native.batch(2), native.open()
    for frame, vocals in zip(song, alone, strict=True):
        batch.step([native.open(), native.open()], [np.full_like(frame, np.nan)] * 2)
        np.testing.assert_array_equal(batch.step([fine], [frame])[0], vocals)


def test_streams_and_batches_keep_what_they_need(tmp_path: Path) -> None:
    frames = frames_of(tiny_config(), 4)
    stream, batch = (make(both(tiny_config(), tmp_path)[0]) for make in (NativeBackend.open, pair))
    gc.collect()
    one = steps(stream, frames)
    other = [batch[0].step([batch[1]], [frame])[0].copy() for frame in frames]
    np.testing.assert_array_equal(other, one)


def pair(native: NativeBackend) -> tuple[Any, Any]:
    return native.batch(1), native.open()


def test_a_stream_does_not_depend_on_other_streams(tmp_path: Path) -> None:
    native, _ = both(tiny_config(), tmp_path)
    songs = [frames_of(native.config, 300, seed) for seed in range(4)]
    alone = [steps(native.open(), song) for song in songs]

    def batched(song: Any) -> Any:
        batch, streams = native.batch(2), [native.open(), native.open()]
        return np.stack([batch.step(streams, [frame] * 2)[1].copy() for frame in song])

    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda song: steps(native.open(), song), songs))
        in_batches = list(pool.map(batched, songs))
    np.testing.assert_array_equal(together, alone)
    np.testing.assert_array_equal(in_batches, alone)


@pytest.mark.parametrize("change", ["lacks", "size", "turned", "more", "empty"])
def test_weights_that_do_not_fit_are_named(tmp_path: Path, change: str) -> None:
    both(tiny_config(), tmp_path)
    path = tmp_path / "weights.safetensors"
    tensors = load_file(path)
    if change == "lacks":
        del tensors["bottom.1.own.out.bias"]
    elif change == "size":
        tensors["bottom.1.own.out.bias"] = np.zeros(5, np.float32)
    elif change == "turned":
        tensors["bottom.1.feed.inner.weight"] = tensors["bottom.1.feed.inner.weight"].T.copy()
    elif change == "more":
        tensors["bottom.2.own.out.bias"] = tensors["bottom.1.own.out.bias"]
    else:
        tensors.clear()
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match="do not fit") as caught:
        NativeBackend(path, tiny_config())
    named = {"lacks": "no weights bottom.1.own.out.bias", "size": "bottom.1.own.out.bias is 5",
             "turned": "bottom.1.feed.inner.weight is", "empty": "no weights",
             "more": "no place for weights bottom.2.own.out.bias"}  # fmt: skip
    assert named[change] in str(caught.value)


@pytest.mark.filterwarnings("error")
def test_what_it_says_where_it_was_not_built(
    tmp_path: Path, preset_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_library.cache_clear()
    monkeypatch.setattr(native_code, "LIBRARY", tmp_path / "none.so")
    monkeypatch.setattr(native_code, "ABSENT", tmp_path / "absent.txt")
    (tmp_path / "absent.txt").write_text("no C++ compiler was found to build it\n")
    with pytest.raises(BackendError, match=r"no C\+\+ compiler was found.*backend 'onnx'"):
        stemwire.load(preset_copy, backend="native")
    gc.collect()
    separator = stemwire.load(preset_copy, 48_000)
    assert separator.backend.name == "onnx" and isinstance(separator._stft, StreamingSTFT)
    song = music(30_000, 48_000)
    separated = separator.push(song)
    (tmp_path / "none.so").write_bytes(b"no library")
    with pytest.raises(BackendError, match="cannot be loaded"):
        load_library()
    # A library, but another one.
    monkeypatch.setattr(native_code, "LIBRARY", Path(_ctypes.__file__))
    with pytest.raises(BackendError, match="built from other sources"):
        load_library()
    monkeypatch.undo()
    separator = stemwire.load(preset_copy, 48_000)
    assert separator.backend.name == "native" and isinstance(separator._stft, NativeSTFT)
    np.testing.assert_allclose(separator.push(song), separated, atol=1e-4)


@pytest.mark.skipif(not shutil.which("g++"), reason="needs a compiler (apt-get install g++)")
def test_a_library_of_an_older_version_is_told_from_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = ctypes.sizeof(native_code.NativeConfig)
    older = f'extern "C" {{ int stemwire_config_size() {{ return {size}; }} }}'
    (tmp_path / "older.cpp").write_text(older)
    made = tmp_path / "older.so"
    subprocess.run(["g++", "-shared", "-fPIC", tmp_path / "older.cpp", "-o", made], check=True)
    load_library.cache_clear()
    monkeypatch.setattr(native_code, "LIBRARY", made)
    with pytest.raises(BackendError, match="built from other sources"):
        load_library()
    assert stemwire.load("standard").backend.name == "onnx"
    monkeypatch.undo()
    assert not native_problem()


PROGRAM = """
import pathlib, sys
import numpy as np
from stemwire.model.checkpoint import read_config
from stemwire.realtime.backends import native_backend
from stemwire.realtime.backends import native_library as native_code

native_code.LIBRARY = pathlib.Path(sys.argv[1])
for path in sorted(pathlib.Path(sys.argv[2]).glob("*.safetensors")):
    config = read_config(path)
    backend = native_backend.NativeBackend(path, config)
    shape = (2 * config.window + 3, config.channels, config.bins + 1, 2)
    frames = np.random.default_rng(0).standard_normal(shape).astype("f4").view("c8")[..., 0]
    alone, streams, batch = backend.open(), [backend.open() for _ in range(5)], backend.batch(5)
    found = []
    for frame in frames:
        found.append(alone.step(frame).copy())
        assert all((other == found[-1]).all() for other in batch.step(streams, [frame] * 5))
    together = backend.open()
    for at in range(0, len(frames), 3):
        assert (together.run(frames[at : at + 3]) == found[at : at + 3]).all()
    print("clean", path.name)

from stemwire.realtime.backends.native_stft import NativeSTFT
from stemwire.realtime.stft import FrameGeometry

SIZES = (2048, 512, 1025), (2200, 550, 1025), (364, 91, 1025), (26, 13, 14), (2, 1, 2)
for size, hop, bins in SIZES:
    for channels in (1, 2):
        stft = NativeSTFT(FrameGeometry(size, hop, bins, 1.0), channels)
        for _ in range(4):
            stft.synthesise(stft.analyse(np.ones((channels, hop), np.float32)))
        stft.reset()
        print("clean", size, channels)
"""


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="needs a compiler (apt-get install g++)")
def test_sanitizers_find_nothing(tmp_path: Path) -> None:
    """Every reach beyond an array, and every undefined operation, ends the program."""
    flags = ["-std=c++17", "-O1", "-g", "-fno-math-errno", "-shared", "-fPIC"]
    flags += ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    flags += ["-mavx2", "-mfma", "-mf16c"]
    code = tmp_path / "step.so"
    command = ["g++", *flags, "-o", str(code), str(ROOT / "realtime/backends/native/step.cpp")]
    subprocess.run(command, check=True)
    odd = SeparatorConfig(
        channels=1,
        analysis_window=88,
        hop=44,
        lookahead=3,
        bands=((5, 1), (3, 13)),
        widths=(5, 7),
        units=2,
        expansion=3,
        token_width=24,
        heads=1,
        window=9,
        feed_forward=3,
        taps=4,
    )
    wide = tiny_config("stack", window=70, bands=((32, 1),))
    narrow = tiny_config("bridge", window=1)
    for k, config in enumerate([odd, wide, narrow, *map(tiny_config, VARIANTS)]):
        for half in (False, True):
            path = tmp_path / f"{k}{half}.safetensors"
            save_checkpoint(random_separator(config), path, half=half)
    sanitizer = subprocess.check_output(["g++", "-print-file-name=libasan.so"], text=True).strip()
    environment = {**os.environ, "LD_PRELOAD": sanitizer, "ASAN_OPTIONS": "detect_leaks=0"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(code), str(tmp_path)],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[:4000]
    assert done.stdout.count("clean") == 12 + 10
