"""The public face: what `import stemwire` gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support import PRESETS, noise

import stemwire


def test_all_names_exist() -> None:
    assert sorted(stemwire.__all__) == list(stemwire.__all__)
    for name in stemwire.__all__:
        assert getattr(stemwire, name) is not None


def test_every_error_is_a_stemwire_error() -> None:
    errors = [getattr(stemwire, name) for name in stemwire.__all__ if name.endswith("Error")]
    assert len(errors) == 9
    assert all(issubclass(error, stemwire.StemwireError) for error in errors)
    assert not issubclass(stemwire.StemwireError, (ValueError, OSError))


def test_first_example_of_the_documentation() -> None:
    separator = stemwire.load("standard", sample_rate=48000)
    block = noise(512)
    assert separator.push(block).shape == (2, 2, 512)
    assert separator.flush().shape == (2, 2, separator.latency)
    assert separator.stems == ("vocals", "instrumental")


def test_defaults() -> None:
    separator = stemwire.load()
    assert (separator.sample_rate, separator.channels, separator.block_size) == (44_100, 2, None)
    assert separator.backend.name in ("native", "onnx")


@pytest.mark.parametrize("name", PRESETS)
def test_separators_of_a_preset_share_the_network(name: str) -> None:
    assert stemwire.load(name).backend is stemwire.load(name, 48_000, 1).backend


@pytest.mark.parametrize(
    "settings",
    [
        {"sample_rate": 1},
        {"sample_rate": 7_999},
        {"sample_rate": 192_001},
        {"sample_rate": 44_100.5},
        {"sample_rate": "44100"},
        {"sample_rate": float("nan")},
        {"sample_rate": float("inf")},
        {"sample_rate": None},
        {"channels": 0},
        {"channels": 3},
        {"channels": -1},
        {"channels": 1.5},
        {"channels": True},
        {"channels": "2"},
        {"block_size": 0},
        {"block_size": -512},
        {"block_size": 1.5},
        {"block_size": "512"},
        {"block_size": float("nan")},
    ],
)
def test_settings_that_cannot_work(settings: dict[str, Any]) -> None:
    with pytest.raises(stemwire.ConfigError) as caught:
        stemwire.load(**settings)
    assert str(next(iter(settings.values()))) in str(caught.value)


@pytest.mark.parametrize("kind", [np.int32, np.int64, np.float64, float])
def test_whole_numbers_of_any_kind_will_do(kind: type) -> None:
    odd = stemwire.load("standard", kind(48_000), kind(2), kind(480))
    plain = stemwire.load("standard", 48_000, 2, 480)
    assert odd.latency == plain.latency
    np.testing.assert_array_equal(odd.push(noise(960)), plain.push(noise(960)))


def test_separator_class_is_there_when_asked_for() -> None:
    pytest.importorskip("torch")
    from stemwire.model.separator import Separator

    assert stemwire.model.Separator is Separator
    with pytest.raises(AttributeError, match="Demixer"):
        _ = stemwire.model.Demixer
