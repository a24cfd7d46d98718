"""ONNX export of the step: names, shapes, dynamic batch. Equality with torch: test_backends."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import VARIANTS, random_separator, tiny_config

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

import onnxruntime  # noqa: E402

from stemwire.model.export import OuterStep, export_onnx  # noqa: E402

every_variant = pytest.mark.parametrize("variant", VARIANTS)


def exported(path: Path, variant: str, seed: int = 0) -> tuple:
    separator = random_separator(tiny_config(variant), seed)
    export_onnx(separator, path / "step.onnx")
    return separator, onnxruntime.InferenceSession(
        path / "step.onnx", providers=["CPUExecutionProvider"]
    )


@every_variant
def test_names_and_shapes_are_as_documented(tmp_path: Path, variant: str) -> None:
    separator, session = exported(tmp_path, variant)
    config = separator.config
    named = list(separator.state_shapes())
    windows = [(name, shape) for name, shape in named if not name.endswith("_conv")]
    width = sum(shape[2] for name, shape in named if name.endswith("_conv"))
    inputs, outputs = session.get_inputs(), session.get_outputs()
    assert [i.name for i in inputs] == ["frame", "tails", *(name for name, _ in windows)]
    assert [o.name for o in outputs] == ["vocals", "new_tails", "newest"]
    assert {i.type for i in (*inputs, *outputs)} == {"tensor(float)"}
    frame, tails = [2, 2, 33], [config.heads, 2, width]
    shapes = [frame, tails, *(list(shape) for _, shape in windows)]
    assert [i.shape[1:] for i in inputs] == shapes
    newest = [config.heads, len(windows), config.token_width // config.heads]
    assert [o.shape[1:] for o in outputs] == [frame, tails, newest]
    assert all(isinstance(i.shape[0], str) for i in (*inputs, *outputs))  # a dynamic batch
    onnx.checker.check_model(onnx.load(tmp_path / "step.onnx"))
    assert [file.name for file in tmp_path.iterdir()] == ["step.onnx"]


@every_variant
def test_a_batch_of_three_is_three_runs_of_one(tmp_path: Path, variant: str) -> None:
    separator, session = exported(tmp_path, variant, seed=2)
    names = [i.name for i in session.get_inputs()]
    rng = np.random.default_rng(0)
    frames = 3 * rng.standard_normal((20, 3, 2, 2, 33)).astype(np.float32)

    def run(batch: slice) -> np.ndarray:
        count = len(range(3)[batch])
        tails, *windows = (s.numpy() for s in OuterStep(separator).initial_state(count))
        out = []
        for frame in frames[:, batch]:
            feed = dict(zip(names, [frame, tails, *windows], strict=True))
            vocals, tails, newest = session.run(None, feed)
            windows = [
                np.concatenate((window, newest[:, :, k, None]), 2)[:, :, 1:]
                for k, window in enumerate(windows)
            ]
            out.append(vocals)
        return np.stack(out)

    together = run(slice(0, 3))
    alone = np.concatenate([run(slice(k, k + 1)) for k in range(3)], 1)
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert np.abs(alone[:, 0] - alone[:, 1]).max() > 0.1
    # And these are the separator's own.
    state, spec = separator.initial_state(3), torch.from_numpy(frames)
    with torch.no_grad():
        for frame, expected in zip(spec, together, strict=True):
            stems, state = separator.step(torch.complex(frame[:, :, 0], frame[:, :, 1]), state)
            got = torch.stack((stems[:, 0].real, stems[:, 0].imag), 2).numpy()
            np.testing.assert_allclose(got, expected, atol=1e-3)


@pytest.mark.parametrize("training", [False, True])
def test_export_leaves_the_separator_as_it_was(tmp_path: Path, training: bool) -> None:
    separator = random_separator(tiny_config()).train(training)
    before = {name: weight.clone() for name, weight in separator.state_dict().items()}
    export_onnx(separator, tmp_path / "step.onnx")
    assert separator.training == training
    assert all(torch.equal(before[name], w) for name, w in separator.state_dict().items())
    assert all(p.requires_grad for p in separator.parameters())


def test_export_is_quiet(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    export_onnx(random_separator(tiny_config()), tmp_path / "step.onnx")
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list
