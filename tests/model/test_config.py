"""SeparatorConfig: plain data, validated once."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import VARIANTS, tiny_config

from stemwire.errors import ConfigError
from stemwire.model.config import SeparatorConfig

WHOLE = [
    "sample_rate", "channels", "analysis_window", "hop", "units", "expansion",
    "token_width", "heads", "window", "feed_forward", "blocks", "taps",
]  # fmt: skip


@pytest.mark.parametrize("field", WHOLE)
@pytest.mark.parametrize("value", [0, -1, 1.5, 2.0, True, None, "64", float("nan")])
def test_whole_numbers_are_whole_and_positive(field: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=field):
        SeparatorConfig.from_dict({field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("variant", "resnet"),
        ("variant", None),
        ("variant", []),
        ("widths", ()),
        ("widths", (32, 0)),
        ("widths", (32, 48.0)),
        ("widths", "ab"),
        ("channels", 3),
        ("compression", 0.05),
        ("compression", 1.01),
        ("compression", float("nan")),
        ("analysis_window", 1022),
        ("analysis_window", 2049),
        ("hop", 31),
        ("hop", 500),
        ("hop", 1025),
        ("bands", ()),
        ("bands", ((63, 16), (2, 8))),
        ("bands", ((32, 16, 1), (8, 64))),
        ("bands", ((32, 16), (8, 63))),
        ("bands", ((36, 16), (28, 16), (0, 3))),
        ("bands", ((1022, 1), (1, 2))),
        ("bands", 64),
        ("lookahead", -1),
        ("lookahead", 64),
        ("lookahead", 2.0),
        ("lookahead", None),
        ("lookahead", True),
        ("token_width", 320 + 1),
        ("token_width", 96),
        ("heads", 3),
        ("heads", 64),
        ("analysis_window", 2048 + 16),
    ],
)
def test_a_value_that_cannot_work_is_named(field: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=field):
        SeparatorConfig(**{field: value})


@pytest.mark.parametrize(("field", "value"), [("widths", 5), ("compression", "0.4")])
@pytest.mark.parametrize("build", [lambda d: SeparatorConfig(**d), SeparatorConfig.from_dict])
def test_a_value_of_the_wrong_type_is_a_config_error(build: Any, field: str, value: Any) -> None:
    with pytest.raises(ConfigError):
        build({field: value})


def test_unknown_fields_are_named() -> None:
    with pytest.raises(ConfigError, match=r"depth.*window"):
        SeparatorConfig.from_dict({"hop": 512, "depth": 3})


@pytest.mark.parametrize("values", [None, 5, [], [1], "hop"])
def test_from_dict_takes_only_a_dictionary(values: Any) -> None:
    with pytest.raises(ConfigError):
        SeparatorConfig.from_dict(values)


def test_frozen_and_hashable() -> None:
    config = SeparatorConfig(widths=[8, 16])  # type: ignore[arg-type]
    assert config.widths == (8, 16)
    bands = [[32, 16], [32, 16]]
    assert SeparatorConfig(bands=bands).bands == ((32, 16), (32, 16))  # type: ignore[arg-type]
    assert hash(config) == hash(SeparatorConfig(widths=(8, 16)))
    for field in dataclasses.fields(config):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(config, field.name, getattr(config, field.name))


@given(
    variant=st.sampled_from(VARIANTS),
    channels=st.sampled_from((1, 2)),
    blocks=st.integers(1, 5),
    heads=st.sampled_from((1, 2, 4)),
    compression=st.floats(0.1, 1.0),
    rate=st.integers(8_000, 192_000),
    window=st.integers(3, 100),
    lookahead=st.integers(0, 2),
    taps=st.integers(1, 5),
)
def test_round_trip_through_json(variant: str, **changes: Any) -> None:
    config = tiny_config(variant, sample_rate=changes.pop("rate"), **changes)
    values = json.loads(json.dumps(config.to_dict()))
    assert SeparatorConfig.from_dict(values) == config
    assert set(values) == {field.name for field in dataclasses.fields(config)}


def test_missing_fields_take_their_defaults() -> None:
    assert SeparatorConfig.from_dict({}) == SeparatorConfig()
    assert SeparatorConfig.from_dict({"hop": 256}).hop == 256


def test_shape_of_the_network() -> None:
    unet = tiny_config("unet")
    assert (unet.levels, unet.bins, unet.stems) == (3, 32, ("vocals", "instrumental"))
    assert [unet.positions(level) for level in range(3)] == [16, 8, 4]
    assert tiny_config("stack").levels == 1


def test_each_frame_of_look_ahead_delays_by_a_hop() -> None:
    assert SeparatorConfig().latency == 1023
    assert SeparatorConfig(hop=256, lookahead=2).latency == 1023
    assert SeparatorConfig(lookahead=6).latency == 4095


@pytest.mark.parametrize(
    ("lookahead", "taps", "mixture", "features"),
    [
        (0, 1, (0,), (0,)),
        (0, 3, (2, 1, 0), (0,)),
        (1, 1, (1,), (1, 0)),
        (6, 1, (6,), (6, 5, 4, 2, 0)),
        (8, 2, (9, 8), (8, 7, 6, 4, 0)),
        (43, 1, (43,), (43, 42, 41, 39, 35, 27, 11, 0)),
    ],
)
def test_decoders_see_near_frames_ahead_and_the_newest(
    lookahead: int, taps: int, mixture: tuple[int, ...], features: tuple[int, ...]
) -> None:
    config = SeparatorConfig(lookahead=lookahead, taps=taps)
    assert (config.mixture_delays, config.feature_delays) == (mixture, features)
