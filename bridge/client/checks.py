"""What a client asks of a server, checked before it is asked: errors are the local separator's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import numpy as np

from stemwire.bridge.client.address import CLIENT
from stemwire.bridge.protocol.messages import (
    DTYPES,
    VERSION,
    Control,
    Format,
    Hello,
    Stem,
    decode,
    encode,
)
from stemwire.errors import AudioError, ConfigError, ProtocolError
from stemwire.realtime.ring import Audio
from stemwire.realtime.stft import RATES
from stemwire.realtime.streaming import MAX_PEAK, first_invalid_sample, positive_int

LONGEST = 65_536  # samples of a block that can be promised
CHANNELS = 2


def make_hello(
    preset: str,
    sample_rate: int,
    channels: int,
    block_size: int | None,
    *,
    token: str,
    stems: Sequence[Stem],
    format: Format,
    stats: float,
) -> Hello:
    """The first message; see `AsyncSeparator.open` for the arguments.

    Raises:
        ConfigError: if no server can do it.
    """
    rate, channels = positive_int("sample_rate", sample_rate), positive_int("channels", channels)
    block = 0 if block_size is None else positive_int("block_size", block_size)
    low, high = RATES
    if not low <= rate <= high:
        raise ConfigError(
            f"sample rate {rate} Hz cannot be processed; expected a whole number from {low} to "
            f"{high} Hz: resample the audio first"
        )
    if channels > CHANNELS:
        raise ConfigError(
            f"{channels} channels cannot be separated; expected 1 to {CHANNELS}: mix them down"
        )
    if block > LONGEST:
        raise ConfigError(
            f"block_size={block} is more than a server takes at once; expected at most {LONGEST}, "
            "or None for blocks of any size"
        )
    names = get_args(Stem)
    if isinstance(stems, str) or not stems or sorted({*stems} & {*names}) != sorted(stems):
        raise ConfigError(f"stems={stems!r}: expected some of {', '.join(names)}, each once")
    if format not in DTYPES:
        raise ConfigError(f"format {format!r} is unknown; expected one of: {', '.join(DTYPES)}")
    hello = Hello(
        version=VERSION, token=token, rate=rate, channels=channels, format=format, block=block,
        stems=tuple(stems), preset=str(preset), stats=stats, client=CLIENT,
    )  # fmt: skip
    check_message(hello)
    return hello


def check_message(message: Hello | Control) -> None:
    """Refuse what a server would call malformed.

    Raises:
        ConfigError: with the reason.
    """
    try:
        same = decode(encode(message), from_client=True) == message
    except (ProtocolError, TypeError, ValueError) as error:
        raise ConfigError(f"this cannot be asked of a server: {error}") from error
    if not same:  # JSON has no NaN
        raise ConfigError(f"this cannot be asked of a server: {message}; numbers must be finite")


def checked_block(block: Audio, channels: int) -> Audio:
    """The block, if it can be separated: float32 (channels, n).

    Raises:
        AudioError: for a wrong shape or type, or NaN or Inf.
    """
    if not isinstance(block, np.ndarray) or block.dtype != np.float32:
        kind = getattr(block, "dtype", type(block).__name__)
        raise AudioError(f"a block must be a float32 array, not {kind}; convert it first")
    if block.ndim != 2 or block.shape[0] != channels:
        raise AudioError(
            f"a block must have shape ({channels}, n), not {block.shape}; channels come first"
        )
    if (bad := first_invalid_sample(block)) is not None:
        raise AudioError(
            f"NaN, Inf or beyond {MAX_PEAK:g} at sample {bad} of a block; nothing of it was taken: "
            "repair it and push again"
        )
    return block


def whole_blocks(block: Audio, channels: int, grain: int, block_size: int | None) -> Audio:
    """The block, if it also keeps what was promised of its size.

    Raises:
        AudioError: as `checked_block`.
        ConfigError: if its length is no multiple of `grain`.
    """
    block = checked_block(block, channels)
    if block.shape[1] % grain:
        raise ConfigError(
            f"a block of {block.shape[1]} samples breaks the promise of block_size={block_size}: "
            f"expected multiples of {grain}; push a shorter last block with flush(block), or load "
            "with block_size=None"
        )
    return block
