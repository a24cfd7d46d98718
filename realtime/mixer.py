"""Mixing of stems: effects, gains and bypass."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from stemwire.realtime.effects import Chain
from stemwire.realtime.ring import Audio, Ring

RAMP_S = 0.02  # duration of changes of gains, bypass and presets


class Ramp:
    """Gain that moves linearly to its target, sample by sample.

    Args:
        value: initial gain.
        samples: duration of a change by 1.
    """

    def __init__(self, value: float, samples: int) -> None:
        self.value, self._step = value, 1.0 / samples

    def to(self, target: float, count: int) -> Audio | float:
        """Gains of the next samples, float32 (count,), or one number if nothing changes."""
        if self.value == target:
            return target
        away = target - self.value
        steps = np.arange(1, count + 1, dtype=np.float32) * self._step
        line: Audio = self.value + math.copysign(1, away) * np.minimum(steps, abs(away))
        self.value = float(line[-1]) if steps[-1] < abs(away) else target
        return line


class Mixer:
    """Effects, levels and bypass of one stream of stems.

    Args:
        chains: effects of each stem; they are aligned with one another.
        sample_rate: sample rate in Hz.
        channels: number of channels of each stem.
        block_size: largest number of samples of a block.
        gains: initial gains of the stems.

    Attributes:
        delay: delay of the effects in samples, for stems and mix alike.
        failures: blocks in which effects failed and passed a stem unchanged.
    """

    def __init__(
        self,
        chains: Sequence[Chain],
        sample_rate: int,
        channels: int,
        block_size: int,
        gains: Sequence[float] = (0.0, 0.0),
    ) -> None:
        self.chains = tuple(chains)
        self.delay = max(chain.latency for chain in self.chains)
        for chain in self.chains:
            chain.align(self.delay)
        samples = max(1, round(RAMP_S * sample_rate))
        self._gains = [Ramp(gain, samples) for gain in gains]
        self._bypass = Ramp(0.0, samples)
        self._raw = Ring((len(self.chains), channels), self.delay + block_size)
        self._raw.reset(zeros=self.delay)

    @property
    def failures(self) -> int:
        """Blocks in which effects failed and passed a stem unchanged."""
        return sum(chain.failures for chain in self.chains)

    def mix(
        self, stems: Audio, gains: Sequence[float], bypass: float
    ) -> tuple[Audio, Audio, Audio]:
        """Mix one block.

        Args:
            stems: float32 (stems, channels, n).
            gains: target gain of each stem.
            bypass: 1 for the sum of the unprocessed stems, without gains and effects.

        Returns:
            Unprocessed stems, stems after their effects, and the mix, all `delay` samples late:
            float32 (stems, channels, n) twice, and (channels, n).
        """
        count = stems.shape[-1]
        self._raw.write(stems)
        raw, shaped = np.empty_like(stems), np.empty_like(stems)
        self._raw.read_into(raw)
        mix = np.zeros(stems.shape[1:], np.float32)
        for index, chain in enumerate(self.chains):
            shaped[index] = chain.process(np.ascontiguousarray(stems[index]))
            mix += shaped[index] * self._gains[index].to(gains[index], count)
        mix += (raw.sum(0) - mix) * self._bypass.to(bypass, count)
        return raw, shaped, mix

    def reset(self) -> None:
        """Discard the past audio; gains are kept."""
        for chain in self.chains:
            chain.reset()
        self._raw.reset(zeros=self.delay)
