"""Configuration of the separator network: plain data, validated once, never changed."""

from __future__ import annotations

import dataclasses
import json
import typing
from typing import Any, Literal, Self

from stemwire.errors import ConfigError

Variant = Literal["stack", "unet", "bridge"]


@dataclasses.dataclass(frozen=True)
class SeparatorConfig:
    """Shape of a `Separator` and of the STFT frames that it works on.

    Attributes:
        variant: `unet` (primers at every resolution), `bridge` (convolutional U-Net with primers
            only at the bottom) or `stack` (no down-sampling after the stem).
        sample_rate: rate in Hz at which the network was, or will be, trained.
        channels: audio channels in and out.
        analysis_window: length of the analysis window and of the FFT, in samples at `sample_rate`.
        hop: samples from one frame to the next. The synthesis window is `2 * hop` long.
        lookahead: frames that the network has heard beyond the one it separates; each delays the
            stems by a hop.
        bands: groups of frequency bands, lowest first, each (bands, bins of a band). A band becomes
            one position of the finest level.
        widths: feature channels of each U-Net level; positions halve from level to level. `stack`
            uses the first alone.
        units: frame units at each place of the network.
        expansion: width within a frame unit, as a multiple of its channels.
        token_width: size of the token that a primer makes of one frame.
        heads: attention heads, each a band of neighbouring frequencies.
        window: frames a frame can attend to, itself included.
        feed_forward: width of the feed-forward part, as a multiple of `token_width`.
        blocks: primers at the bottom (`unet`, `bridge`) or in all (`stack`).
        taps: frames that vocals are filtered from, the one they are in and those before it.
        compression: exponent applied to the magnitudes that the network sees.

    Raises:
        ConfigError: if a value cannot work, naming it.
    """

    variant: Variant = "unet"
    sample_rate: int = 44_100
    channels: int = 2
    analysis_window: int = 2048
    hop: int = 512
    lookahead: int = 0
    bands: tuple[tuple[int, int], ...] = ((24, 4), (16, 8), (12, 16), (8, 32), (4, 88))
    widths: tuple[int, ...] = (64, 96, 128, 192)
    units: int = 2
    expansion: int = 2
    token_width: int = 320
    heads: int = 8
    window: int = 64
    feed_forward: int = 2
    blocks: int = 2
    taps: int = 1
    compression: float = 0.4

    def __post_init__(self) -> None:
        # JSON gives lists.
        if not isinstance(self.widths, list | tuple):
            raise ConfigError(f"widths must be a list of whole numbers, not {self.widths!r}")
        object.__setattr__(self, "widths", tuple(self.widths))
        if not isinstance(self.bands, list | tuple) or not all(
            isinstance(group, list | tuple) and len(group) == 2 for group in self.bands
        ):
            raise ConfigError(f"bands must be a list of (bands, bins of a band), not {self.bands}")
        object.__setattr__(self, "bands", tuple((count, width) for count, width in self.bands))
        if self.variant not in typing.get_args(Variant):
            raise ConfigError(
                f"variant {self.variant!r} is unknown; use one of {typing.get_args(Variant)}"
            )
        numbers = ("sample_rate", "channels", "analysis_window", "hop", "units", "expansion",
                   "token_width", "heads", "window", "feed_forward", "blocks", "taps")  # fmt: skip
        whole: dict[str, tuple[int, ...]] = {name: (getattr(self, name),) for name in numbers}
        whole |= {"widths": self.widths, "bands": tuple(n for group in self.bands for n in group)}
        for name, values in whole.items():
            if not values or any(type(v) is not int or v < 1 for v in values):
                raise ConfigError(f"{name} must be positive whole numbers, not {values}")
        if self.channels > 2:
            raise ConfigError(f"channels must be 1 or 2, not {self.channels}")
        if not isinstance(self.compression, int | float) or not 0.1 <= self.compression <= 1.0:
            raise ConfigError(f"compression must lie in 0.1 to 1.0, not {self.compression}")
        if self.hop < 8:
            raise ConfigError(f"hop must be at least 8 samples, not {self.hop}")
        if (
            self.analysis_window < 2 * self.hop
            or self.analysis_window % 2
            or self.analysis_window % self.hop
        ):
            raise ConfigError(
                f"analysis_window must be even and two or more whole hops (of {self.hop} samples), "
                f"not {self.analysis_window}"
            )
        if type(self.lookahead) is not int or not 0 <= self.lookahead < self.window:
            raise ConfigError(
                f"lookahead must be 0 to {self.window - 1} frames, less than the attention window, "
                f"not {self.lookahead}"
            )
        if (covered := sum(count * width for count, width in self.bands)) != self.bins:
            raise ConfigError(f"bands cover {covered} bins; there are {self.bins}, each in one")
        if self.positions(0) % 2 ** (self.levels - 1):
            raise ConfigError(
                f"{self.positions(0)} bands cannot be halved {self.levels - 1} times; make them a "
                f"multiple of {2 ** (self.levels - 1)}"
            )
        for level in range(self.levels):
            if self.token_width % self.positions(level) or self.positions(level) % self.heads:
                raise ConfigError(
                    f"level {level} has {self.positions(level)} frequency positions: token_width "
                    f"({self.token_width}) must be a multiple of it, and it of heads ({self.heads})"
                )

    @property
    def levels(self) -> int:
        """Number of frequency resolutions."""
        return 1 if self.variant == "stack" else len(self.widths)

    @property
    def bins(self) -> int:
        """Frequency bins that the network sees: all but the one at half the sample rate."""
        return self.analysis_window // 2

    @property
    def stems(self) -> tuple[str, ...]:
        """Names of the stems, in output order. The last is what the others leave."""
        return ("vocals", "instrumental")

    def positions(self, level: int) -> int:
        """Frequency positions at `level` (0 is the finest)."""
        return sum(count for count, _ in self.bands) >> level

    @property
    def ahead(self) -> tuple[int, ...]:
        """Frames after the one that is separated whose features its decoders see.

        Powers of two, then the newest: neighbours tell most.
        """
        nearer = (2**power for power in range(self.lookahead.bit_length()))
        return tuple(sorted({frame for frame in (*nearer, self.lookahead) if frame}))

    @property
    def feature_delays(self) -> tuple[int, ...]:
        """Frames whose features a step's decoders see, by their age in frames, oldest first."""
        return (self.lookahead, *(self.lookahead - k for k in self.ahead))

    @property
    def mixture_delays(self) -> tuple[int, ...]:
        """Frames of the mixture that a step filters, by their age in frames, oldest first."""
        return tuple(self.lookahead + tap for tap in reversed(range(self.taps)))

    @property
    def latency(self) -> int:
        """Samples from one going in to the same coming out, for blocks of any size."""
        return (2 + self.lookahead) * self.hop - 1

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON can hold; `from_dict` reads them back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Build a configuration from `to_dict`'s values.

        Raises:
            ConfigError: for unknown fields or values that cannot work.
        """
        if not isinstance(values, dict):
            raise ConfigError(f"a configuration must be a table of fields, not {values!r}")
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ConfigError(f"unknown configuration fields {unknown}; known are {sorted(known)}")
        try:
            return cls(**values)
        except TypeError as error:
            raise ConfigError(f"configuration has a value of the wrong type: {error}") from error


def config_text(config: SeparatorConfig) -> str:
    """One text for each configuration, to store and to compare."""
    return json.dumps(config.to_dict(), sort_keys=True)
