"""Checks of what a client asks of a server, made before it is sent.

Errors that the local separator knows too have the same texts, for the checks are its own.
"""

from __future__ import annotations

from typing import get_args

from stemwire.bridge.client.address import CLIENT_NAME
from stemwire.bridge.client.options import ConnectionOptions
from stemwire.bridge.protocol.messages import (
    DTYPES,
    VERSION,
    Control,
    Hello,
    Stem,
    decode,
    encode,
)
from stemwire.errors import ConfigError, ProtocolError
from stemwire.realtime.ring import Audio
from stemwire.realtime.stft import check_rate
from stemwire.realtime.streaming import block_size_error, check_block, check_channels, positive_int

MAX_BLOCK_SIZE = 65_536  # samples of a block that can be promised
MAX_CHANNELS = 2


def make_hello(
    preset: str,
    sample_rate: int,
    channels: int,
    block_size: int | None,
    options: ConnectionOptions,
) -> Hello:
    """The first message to a server; see `stemwire.connect` for the arguments.

    Raises:
        ConfigError: for arguments that no server supports.
    """
    rate = positive_int("sample_rate", sample_rate)
    channels = positive_int("channels", channels)
    block = 0 if block_size is None else positive_int("block_size", block_size)
    check_rate(rate)
    check_channels(channels, MAX_CHANNELS)
    if block > MAX_BLOCK_SIZE:
        raise ConfigError(
            f"block_size={block} is more than a server takes at once; expected at most "
            f"{MAX_BLOCK_SIZE}, or None for blocks of any size"
        )
    stems, names = options.stems, get_args(Stem)
    if isinstance(stems, str) or not stems or sorted({*stems} & {*names}) != sorted(stems):
        raise ConfigError(f"stems={stems!r}: expected some of {', '.join(names)}, each once")
    if options.format not in DTYPES:
        raise ConfigError(
            f"format {options.format!r} is unknown; expected one of: {', '.join(DTYPES)}"
        )
    hello = Hello(
        version=VERSION,
        token=options.token,
        rate=rate,
        channels=channels,
        format=options.format,
        block=block,
        stems=tuple(stems),
        preset=str(preset),
        stats=options.stats,
        client=CLIENT_NAME,
    )
    check_message(hello)
    return hello


def check_message(message: Hello | Control) -> None:
    """Refuse a message that a server would call malformed.

    Raises:
        ConfigError: with the reason.
    """
    try:
        same = decode(encode(message), from_client=True) == message
    except (ProtocolError, TypeError, ValueError) as error:
        raise ConfigError(f"invalid request to a server: {error}") from error
    if not same:  # JSON has no NaN
        raise ConfigError(f"invalid request to a server: {message}; numbers must be finite")


def check_sized_block(block: Audio, channels: int, grain: int, block_size: int | None) -> None:
    """Refuse a block that cannot be separated or breaks the promise of `block_size`.

    Args:
        block: the block, expected as float32 (channels, n).
        channels: channels of the stream.
        grain: samples of which n must be a multiple.
        block_size: the promised block size, for the error.

    Raises:
        AudioError: as `check_block`.
        ConfigError: if n is no multiple of `grain`.
    """
    check_block(block, channels)
    if block.shape[1] % grain:
        raise block_size_error(block.shape[1], block_size, grain)
