"""Settings of training examples: plain data, part of the settings of a run."""

from __future__ import annotations

import dataclasses

from stemwire.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class ExampleSettings:
    """Settings of training examples; a `share` is the probability (0 to 1) of a change.

    Songs are drawn in proportion to their length. Real songs with full bandwidth are worth more
    than that: the three `full_band` shares of draws are reserved for them, and everything else
    (loose recordings, pairs of narrow bandwidth) shares the remaining draws.

    Attributes:
        seconds: length of an example.
        pair_share: excerpts of a real song, its stems kept together.
        no_vocals_share: examples without vocals.
        mixup_share: examples of two scenes on top of each other.
        full_band_hz: bandwidth in Hz above which a pair counts as full-band.
        full_band_pairs: draws of a pair that go to full-band ones.
        full_band_vocals: draws of loose vocals that come from full-band pairs.
        full_band_music: draws of loose music that come from full-band pairs.
        ratio_mean_db: mean level of vocals over accompaniment if they come from different songs.
        ratio_sd_db: standard deviation of that.
        pair_ratio_sd_db: standard deviation of the change of the vocals' level in a pair.
        quietest_db: lowest RMS level of a mixture in dB of full scale.
        loudest_db: highest; drawn uniformly between the two.
        speed_share: excerpts played faster or slower, pitch included.
        speed_range: largest natural logarithm of the speed (0.12 is two semitones).
        pitch_share: loose vocals with a pitch shift at the same speed.
        pitch_semitones: largest pitch shift in semitones, up or down.
        doubled_share: loose vocals sung twice: a second take, or a second singer.
        equaliser_share: loose vocals, and loose music, through a random equaliser.
        equaliser_sd_db: standard deviation of its gains.
        reverb_share: loose vocals put into a room.
        compression_share: loose vocals, and mixtures as a whole, with less dynamics.
        codec_share: examples with one or both stems through Ogg Vorbis, Opus or MP3.
        silence_share: examples with a stretch of one stem muted.
        swap_share: stems with left and right exchanged.
        invert_share: stems with polarity reversed.
        pan_sd_db: standard deviation of left over right, added to each stem.
        max_bad: largest share of unreadable songs (at least one is allowed).

    Raises:
        ConfigError: for an invalid value, naming the setting.
    """

    seconds: float = 320 * 512 / 44_100
    pair_share: float = 0.35
    no_vocals_share: float = 0.07
    mixup_share: float = 0.1
    full_band_hz: float = 8_000.0
    full_band_pairs: float = 0.8
    full_band_vocals: float = 0.35
    full_band_music: float = 0.2
    ratio_mean_db: float = -4.0
    ratio_sd_db: float = 5.0
    pair_ratio_sd_db: float = 3.0
    quietest_db: float = -32.0
    loudest_db: float = -12.0
    speed_share: float = 0.5
    speed_range: float = 0.12
    pitch_share: float = 0.1
    pitch_semitones: float = 2.0
    doubled_share: float = 0.15
    equaliser_share: float = 0.4
    equaliser_sd_db: float = 3.0
    reverb_share: float = 0.6
    compression_share: float = 0.15
    codec_share: float = 0.05
    silence_share: float = 0.05
    swap_share: float = 0.5
    invert_share: float = 0.5
    pan_sd_db: float = 1.5
    max_bad: float = 0.05

    def __post_init__(self) -> None:
        limits = {
            "seconds": (0.01, 600),
            "full_band_hz": (0, 1e6),
            "ratio_mean_db": (-60, 60),
            "quietest_db": (-100, 0),
            "loudest_db": (-100, 0),
            "speed_range": (0, 0.7),
            "pitch_semitones": (0, 12),
            "ratio_sd_db": (0, 30),
            "pair_ratio_sd_db": (0, 30),
            "equaliser_sd_db": (0, 30),
            "pan_sd_db": (0, 30),
        }
        for field in dataclasses.fields(self):
            low, high = limits.get(field.name, (0, 1))
            value = getattr(self, field.name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not low <= value <= high:
                raise ConfigError(
                    f"example setting {field.name} must be a number from {low:g} to {high:g}, "
                    f"not {value!r}"
                )
        if self.quietest_db > self.loudest_db:
            raise ConfigError(
                f"example setting quietest_db ({self.quietest_db:g}) must not be above "
                f"loudest_db ({self.loudest_db:g})"
            )
