"""Backends: the same network in all of them, independent streams, clear error messages."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support import PRESETS, VARIANTS, music, random_separator, tiny_config

import stemwire
from stemwire.errors import BackendError, CheckpointError
from stemwire.model.config import SeparatorConfig
from stemwire.realtime.backends import BACKENDS, default_backend
from stemwire.realtime.backends.interface import Backend
from stemwire.realtime.backends.native_library import native_problem
from stemwire.realtime.backends.onnx_backend import OnnxBackend
from stemwire.realtime.backends.torch_backend import TorchStream
from stemwire.realtime.stft import MAX_HOPS

TORCH = importlib.util.find_spec("torch") is not None
STEPS = 500


def has_gpu() -> bool:
    if not TORCH:
        return False
    import torch

    return torch.cuda.is_available()


needs_torch = pytest.mark.skipif(not TORCH, reason="needs torch")
needs_gpu = pytest.mark.skipif(not has_gpu(), reason="needs a CUDA GPU")
needs_native = pytest.mark.skipif(bool(native_problem()), reason=native_problem())
NATIVE = pytest.param("native", marks=needs_native)
every_backend = pytest.mark.parametrize(
    "kind",
    [
        NATIVE,
        "onnx",
        pytest.param("torch", marks=needs_torch),
        pytest.param("cuda", marks=needs_gpu),
    ],
)
without_torch = pytest.mark.parametrize("kind", [NATIVE, "onnx"])


def test_onnx_runtime_is_kept_from_telling_what_it_is_used_for(tmp_path: Path) -> None:
    """Left to itself it keeps an identifier and a data base, and sends events to its makers."""
    names = ("HOME", "XDG_CACHE_HOME", "LOCALAPPDATA")
    environment = {**os.environ, **dict.fromkeys(names, str(tmp_path))}
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    program = (
        "import numpy, stemwire\nstemwire.load(backend='onnx').push(numpy.zeros((2, 4096), 'f4'))"
    )
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def backend_of(preset: str | Path, kind: str) -> Backend:
    return stemwire.load(preset, backend=kind).backend


def frames_of(config: SeparatorConfig, count: int, seed: int = 0, level: float = 5.0) -> np.ndarray:
    """Noise at the level of music whose loudness moves, with a silence: complex (count, C, F)."""
    rng = np.random.default_rng(seed)
    shape = (count, config.channels, config.bins + 1, 2)
    loudness = level * np.exp(np.sin(np.arange(count) / 9)).reshape(-1, 1, 1, 1)
    frames = (loudness * rng.standard_normal(shape)).astype(np.float32)
    frames[count // 2 : count // 2 + 5] = 0.0
    return frames.view(np.complex64)[..., 0]


def steps(stream: object, frames: np.ndarray) -> np.ndarray:
    return np.stack([stream.step(frame).copy() for frame in frames])  # type: ignore[attr-defined]


@needs_torch
@without_torch
@pytest.mark.parametrize("preset", PRESETS)
def test_they_equal_torch_for_shipped_presets(preset: str, kind: str) -> None:
    one, other = (backend_of(preset, kind).open() for kind in (kind, "torch"))
    frames = frames_of(stemwire.load(preset).config, STEPS)
    difference = np.abs(steps(one, frames) - steps(other, frames))
    assert difference.max() / np.sqrt(np.mean(np.abs(frames) ** 2)) <= 1e-3


@needs_torch
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    "changes",
    [
        {"channels": 1, "window": 4},
        {"window": 7, "lookahead": 3},
        {"window": 1},
        {"taps": 3},
        {"lookahead": 2, "taps": 4},
    ],
)
def test_onnx_equals_torch_for_random_weights(
    tmp_path: Path, variant: str, changes: dict[str, int]
) -> None:
    from stemwire.model.checkpoint import save_checkpoint
    from stemwire.model.export import export_onnx

    separator = random_separator(tiny_config(variant, **changes), seed=len(changes))
    save_checkpoint(separator, tmp_path / "weights.safetensors")
    export_onnx(separator.config, tmp_path / "step.onnx")
    frames = frames_of(separator.config, STEPS)
    got = steps(OnnxBackend(tmp_path / "step.onnx", separator.config).open(), frames)
    expected = steps(TorchStream(separator), frames)
    assert np.abs(got - expected).max() / np.sqrt(np.mean(np.abs(frames) ** 2)) <= 1e-3
    assert np.abs(got).mean() > 0.05 * np.abs(frames).mean()  # vocals there are


@needs_torch
@pytest.mark.parametrize("preset", PRESETS)
@without_torch
def test_torch_backend_separates_as_others_do(preset: str, kind: str) -> None:
    audio = music(20_000, 44_100)
    expected = stemwire.load(preset, backend=kind).push(audio)
    separator = stemwire.load(preset, backend="torch")
    assert separator.backend.name == "torch"
    np.testing.assert_allclose(separator.push(audio), expected, atol=1e-4)


@needs_gpu
@pytest.mark.parametrize("preset", PRESETS)
def test_cuda_equals_cpu(preset: str) -> None:
    audio = music(60_000, 44_100)
    one, other = (stemwire.load(preset, backend=kind) for kind in ("cuda", "torch"))
    for _ in range(2):  # after the reset in flush, too
        np.testing.assert_allclose(one.push(audio), other.push(audio), atol=1e-3)
        np.testing.assert_allclose(one.flush(), other.flush(), atol=1e-3)


@pytest.mark.parametrize("preset", PRESETS)
@every_backend
def test_streams_of_one_backend_are_independent(preset: str, kind: str) -> None:
    backend, config = backend_of(preset, kind), stemwire.load(preset).config
    songs = [frames_of(config, 12, seed) for seed in (1, 2)]
    alone = [steps(backend.open(), song) for song in songs]
    one, other = backend.open(), backend.open()
    for k in range(12):
        for stream, song, expected in zip((one, other), songs, alone, strict=True):
            np.testing.assert_array_equal(stream.step(song[k]), expected[k])
    assert np.abs(alone[0] - alone[1]).max() > 0


@pytest.mark.parametrize("preset", PRESETS)
@every_backend
def test_steps_in_one_go_are_those_one_by_one(preset: str, kind: str) -> None:
    backend, config = backend_of(preset, kind), stemwire.load(preset).config
    song = frames_of(config, 90)  # the windows fill up and go round
    alone, stream = steps(backend.open(), song), backend.open()
    at, count = 0, 1
    while at < len(song):
        vocals = stream.run(song[at : at + count])
        np.testing.assert_array_equal(vocals, alone[at : at + count])
        at, count = at + count, count % MAX_HOPS + 1


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("before", [1, 2, 5])
@every_backend
def test_reset_starts_again(preset: str, kind: str, before: int) -> None:
    stream, config = backend_of(preset, kind).open(), stemwire.load(preset).config
    song = frames_of(config, 12)
    first = steps(stream, song)
    assert np.abs(steps(stream, song) - first).max() > 0  # the past matters
    for count in (before, before + 1):  # an even and an odd number of steps
        stream.reset()
        steps(stream, frames_of(config, count, seed=7))
        stream.reset()
        np.testing.assert_array_equal(steps(stream, song), first)


@every_backend
def test_a_step_leaves_its_input_alone(kind: str) -> None:
    preset = PRESETS[0]
    (frame,) = frames_of(stemwire.load(preset).config, 1)
    kept = frame.copy()
    vocals = backend_of(preset, kind).open().step(frame)
    np.testing.assert_array_equal(frame, kept)
    assert vocals.shape == frame.shape and vocals.dtype == np.complex64
    assert (vocals[:, -1] == 0).all()


@pytest.mark.parametrize("preset", PRESETS)
@every_backend
def test_streams_may_go_from_batch_to_batch(preset: str, kind: str) -> None:
    """Each has its own place in the rings of the past, wherever it has been and whoever with."""
    backend, config = backend_of(preset, kind), stemwire.load(preset).config
    count, length, rng = 5, 80, np.random.default_rng(0)  # more frames than a window
    songs = [frames_of(config, length, seed) for seed in range(count)]
    alone = [steps(backend.open(), song) for song in songs]
    streams = [backend.open() for _ in range(count)]
    batches = [backend.batch(4), backend.batch(3)]
    at = [0] * count
    streams[0].step(songs[1][0])
    streams[0].reset()
    while min(at) < length:
        batch, most = batches[which := int(rng.integers(2))], (4, 3)[which]
        ready = [k for k in range(count) if at[k] < length]
        chosen = rng.permutation(ready)[: rng.integers(1, most + 1)].tolist()
        if rng.random() < 0.5:
            chosen.sort()
        found = batch.step([streams[k] for k in chosen], [songs[k][at[k]] for k in chosen])
        for k, vocals in zip(chosen, found, strict=True):
            np.testing.assert_allclose(vocals, alone[k][at[k]], rtol=0, atol=1e-3)
            at[k] += 1
    assert np.abs(alone[0]).max() > 1.0


@pytest.mark.parametrize("preset", PRESETS)
@without_torch
def test_what_was_long_ago_changes_no_bit(preset: str, kind: str) -> None:
    """Wherever the rings stand when a song begins, it is what it would be from the start."""
    backend, config = backend_of(preset, kind), stemwire.load(preset).config
    song = frames_of(config, 20)
    silence = np.zeros((700, *song.shape[1:]), np.complex64)  # more than the network looks back
    late = backend.open()
    steps(late, silence)
    first = steps(late, song)
    later = backend.open()
    steps(later, silence[:-17])
    np.testing.assert_array_equal(steps(later, song), first)


def test_names_in_the_message_and_auto() -> None:
    auto = stemwire.load(backend="auto").backend
    assert auto is stemwire.load(backend=default_backend()).backend
    for wrong in ("tensorrt", "", "ONNX", None):
        with pytest.raises(BackendError) as caught:
            stemwire.load(backend=wrong)  # type: ignore[arg-type]
        assert repr(wrong) in str(caught.value)
        assert all(name in str(caught.value) for name in BACKENDS)


@needs_torch
@pytest.mark.skipif(has_gpu(), reason="a GPU is there")
def test_cuda_without_a_gpu() -> None:
    with pytest.raises(BackendError, match=r"no CUDA GPU.*onnx"):
        stemwire.load(backend="cuda")


@pytest.mark.parametrize("damage", [b"", b"garbage" * 100, None])
def test_a_damaged_graph_is_named(preset_copy: Path, damage: bytes | None) -> None:
    graph = preset_copy / "step.onnx"
    graph.write_bytes(graph.read_bytes()[:-1000] if damage is None else damage)
    with pytest.raises(CheckpointError) as caught:
        stemwire.load(preset_copy, backend="onnx")
    assert str(graph) in str(caught.value)


@pytest.mark.parametrize("kind", [NATIVE, pytest.param("torch", marks=needs_torch)])
def test_damaged_weights_are_named(preset_copy: Path, kind: str) -> None:
    weights = preset_copy / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(CheckpointError) as caught:
        stemwire.load(preset_copy, backend=kind)
    assert str(weights) in str(caught.value)


def foreign_graph(path: Path, names: tuple[str, str], shape: list[object]) -> None:
    """A valid ONNX graph that hands its input on."""
    onnx = pytest.importorskip("onnx")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    ends = [helper.make_tensor_value_info(name, kind, shape) for name in names]
    node = helper.make_node("Identity", [names[0]], [names[1]])
    graph = helper.make_graph([node], "g", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("names", "shape"),
    [
        (("image", "label"), ["batch", 3, 224, 224]),
        (("frame", "vocals"), ["batch", 2, 1025]),
        (("frame", "vocals"), ["batch", 1, 2, 1025]),
    ],
)
def test_a_foreign_graph_is_refused(
    preset_copy: Path, names: tuple[str, str], shape: list[object]
) -> None:
    foreign_graph(preset_copy / "step.onnx", names, shape)
    with pytest.raises(CheckpointError, match=r"step\.onnx"):
        stemwire.load(preset_copy, backend="onnx")


@needs_torch
def test_the_graph_of_another_network_is_refused(preset_copy: Path, tmp_path: Path) -> None:
    """Same frames, other weights: the separator would use one network's hop with another's."""
    from stemwire.model.export import export_onnx

    config = SeparatorConfig(hop=128, widths=(4,), window=4, blocks=1, token_width=256)
    export_onnx(config, preset_copy / "step.onnx")
    with pytest.raises(CheckpointError, match=r"step\.onnx"):
        stemwire.load(preset_copy, backend="onnx")
