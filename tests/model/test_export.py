"""ONNX export of the step: names, shapes, dynamic batch. Equality with torch: test_backends."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from support import VARIANTS, random_separator, tiny_config

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

import onnxruntime  # noqa: E402

from stemwire.model.export import export_onnx  # noqa: E402

AHEAD = {"lookahead": 2, "taps": 3}
every_kind = pytest.mark.parametrize(
    ("variant", "changes"), [*((variant, {}) for variant in VARIANTS), ("unet", AHEAD)]
)


def exported(path: Path, variant: str, changes: dict[str, int], seed: int = 0) -> tuple:
    separator = random_separator(tiny_config(variant, **changes), seed)
    export_onnx(separator.config, path / "step.onnx")
    weights = {name: w.numpy() for name, w in separator.state_dict().items()}
    options = onnxruntime.SessionOptions()
    options.add_external_initializers(
        list(weights), [onnxruntime.OrtValue.ortvalue_from_numpy(w) for w in weights.values()]
    )
    return separator, onnxruntime.InferenceSession(
        path / "step.onnx", options, providers=["CPUExecutionProvider"]
    )


@every_kind
def test_names_and_shapes_are_as_documented(
    tmp_path: Path, variant: str, changes: dict[str, int]
) -> None:
    separator, session = exported(tmp_path, variant, changes)
    config, shapes = separator.config, dict(separator.state_shapes())
    windows = {n: list(s) for n, s in shapes.items() if n.endswith(("_keys", "_values"))}
    after = [s for n, s in shapes.items() if n.endswith("_after")]
    others = [n for n in shapes if n not in windows and n != "mixture"]
    tails = [shapes[n] for n in others if not n.endswith("_after")]
    inputs, outputs = session.get_inputs(), session.get_outputs()
    wanted = {"frame": [2, 2, 33], "tails": [2, sum(map(math.prod, tails)) // 2], **windows}
    if changes:
        features = sum(math.prod(shape[1:]) for shape in after)
        wanted |= {"mixture": [3, 2, 2, 33], "features": [2, features]}
    assert {i.name: i.shape[1:] for i in inputs} == wanted
    assert all(shape[0] == 2 for shape in tails)
    assert {o.name: o.shape[1:] for o in outputs} == {
        "vocals": wanted["frame"], "new_tails": wanted["tails"],
        "newest": [config.heads, len(windows), config.token_width // config.heads],
        **({"new_features": [features]} if changes else {}),
    }  # fmt: skip
    assert [o.name for o in outputs][:3] == ["vocals", "new_tails", "newest"]
    assert {i.type for i in (*inputs, *outputs)} == {"tensor(float)"}
    assert all(isinstance(i.shape[0], str) for i in (*inputs, *outputs))  # a dynamic batch
    assert [file.name for file in tmp_path.iterdir()] == ["step.onnx"]


def test_the_graph_holds_no_weights(tmp_path: Path) -> None:
    separator, _ = exported(tmp_path, "unet", AHEAD)
    graph = onnx.load(tmp_path / "step.onnx", load_external_data=False)
    ours = [t for t in graph.graph.initializer if t.name in separator.state_dict()]
    assert {t.name for t in ours} == set(separator.state_dict())
    assert all(not t.raw_data and not t.float_data for t in ours)
    others = [t for t in graph.graph.initializer if t.name not in separator.state_dict()]
    assert sum(len(t.raw_data) for t in others) < 4_000


@every_kind
def test_a_batch_of_three_is_three_runs_of_one(
    tmp_path: Path, variant: str, changes: dict[str, int]
) -> None:
    separator, session = exported(tmp_path, variant, changes, seed=2)
    config = separator.config
    rng = np.random.default_rng(0)
    frames = 3 * rng.standard_normal((20, 3, 2, 2, 33)).astype(np.float32)
    before = config.mixture_delays[0]
    heard = np.concatenate((np.zeros((before, *frames.shape[1:]), np.float32), frames))
    older = [delay for delay in config.feature_delays if delay]

    def run(batch: slice) -> np.ndarray:
        count = len(range(3)[batch])
        feed = {i.name: np.zeros((count, *i.shape[1:]), np.float32) for i in session.get_inputs()}
        windows = [name for name in feed if name.endswith(("_keys", "_values"))]
        out, features = [], [np.zeros_like(feed["features"][:, 0])] * 2 if changes else []
        for k, frame in enumerate(frames[:, batch]):
            feed["frame"] = frame
            if changes:
                seen = [heard[k + before - delay, batch] for delay in config.mixture_delays]
                feed["mixture"] = np.stack(seen, 1)
                feed["features"] = np.stack([features[-delay] for delay in older], 1)
            vocals, feed["tails"], newest_keys, *new_features = session.run(None, feed)
            features += new_features
            for place, name in enumerate(windows):
                joined = np.concatenate((feed[name], newest_keys[:, :, place, None]), 2)
                feed[name] = joined[:, :, 1:]
            out.append(vocals)
        return np.stack(out)

    together = run(slice(0, 3))
    alone = np.concatenate([run(slice(k, k + 1)) for k in range(3)], 1)
    np.testing.assert_allclose(together, alone, atol=1e-5, rtol=1e-5)
    assert np.abs(alone[5:, 0] - alone[5:, 1]).max() > 0.1
    # And these are the separator's own.
    state, spec = separator.initial_state(3), torch.from_numpy(frames)
    with torch.no_grad():
        for frame, expected in zip(spec, together, strict=True):
            stems, state = separator.step(torch.complex(frame[:, :, 0], frame[:, :, 1]), state)
            got = torch.stack((stems[:, 0].real, stems[:, 0].imag), 2).numpy()
            np.testing.assert_allclose(got, expected, atol=1e-3)


def test_export_is_quiet(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    export_onnx(tiny_config(), tmp_path / "step.onnx")
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list
