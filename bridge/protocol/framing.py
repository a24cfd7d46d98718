"""Checks and splitting of audio frames that both ends share."""

from __future__ import annotations

import math
from collections.abc import Iterator

from stemwire.bridge.protocol.messages import (
    HEADER,
    SEQUENCE_MODULUS,
    Frame,
    Hello,
    Limits,
    Welcome,
    frame_bytes,
)
from stemwire.errors import ProtocolError
from stemwire.realtime.ring import Audio
from stemwire.realtime.streaming import MAX_PEAK, first_invalid_sample

Data = str | bytes  # a text or a binary message


def grain(hello: Hello, welcome: Welcome) -> int:
    """Number of samples at whose multiples frames of mixture end, except the last of a stream."""
    return math.gcd(hello.block or 1, welcome.hop)


def chunks(
    hello: Hello, limits: Limits, grain: int, position: int, audio: Audio
) -> Iterator[tuple[int, Audio]]:
    """Split audio (parts, channels, n) into chunks that fit into a frame, at grains if possible.

    Yields:
        Position and audio of each chunk.
    """
    sample = frame_bytes(hello.format, audio.shape[0], hello.channels, 1) - HEADER.size
    most = max(1, (limits.message - HEADER.size) // sample)
    most = max(most - most % grain, min(most, grain))
    for at in range(0, audio.shape[2], most):
        yield position + at, audio[..., at : at + most]


def check_sequence(frame: Frame, expected: int) -> None:
    """Check that no frame of a connection is missing, repeated or out of order."""
    if frame.sequence != expected % SEQUENCE_MODULUS:
        raise ProtocolError("sequence", f"frame {frame.sequence}; expected {expected}")


def check_grain(grain: int, position: int, count: int) -> None:
    """Check that no mixture follows a frame that broke the promise of `Hello.block`."""
    if count and position % grain:
        raise ProtocolError(
            "state",
            f"mixture after position {position}, which is not a multiple of the promised "
            f"{grain}; only the last frame before a flush may end there",
        )


def check_audio(audio: Audio, position: int) -> None:
    """Check that all samples are numbers in the range that the network tolerates."""
    if (bad := first_invalid_sample(audio)) is not None:
        raise ProtocolError(
            "audio", f"NaN, Inf or beyond {MAX_PEAK:g} at position {position + bad}"
        )
