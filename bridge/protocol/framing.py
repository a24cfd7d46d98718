"""What both ends of a connection check and cut alike."""

from __future__ import annotations

import math
from collections.abc import Iterator

from stemwire.bridge.protocol.messages import (
    HEADER,
    SEQUENCES,
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
    """Samples of which all frames of mixture but the last of a stream end at a multiple."""
    return math.gcd(hello.block or 1, welcome.hop)


def chunks(
    hello: Hello, limits: Limits, grain: int, position: int, audio: Audio
) -> Iterator[tuple[int, Audio]]:
    """Audio (parts, channels, n) in parts that fit into a frame, in whole grains if those do."""
    sample = frame_bytes(hello.format, audio.shape[0], hello.channels, 1) - HEADER.size
    most = max(1, (limits.message - HEADER.size) // sample)
    most = max(most - most % grain, min(most, grain))
    for at in range(0, audio.shape[2], most):
        yield position + at, audio[..., at : at + most]


def check_sequence(frame: Frame, expected: int) -> None:
    """Frames of a connection come in their order, none missing."""
    if frame.sequence != expected % SEQUENCES:
        raise ProtocolError("sequence", f"frame {frame.sequence} came where {expected} was due")


def check_grain(grain: int, position: int, count: int) -> None:
    """What follows a frame that broke the promise of `Hello.block` cannot be taken."""
    if count and position % grain:
        raise ProtocolError(
            "state", f"mixture after position {position}, which is no multiple of the promised "
            f"{grain}; only the last frame before a flush may end there"
        )  # fmt: skip


def check_audio(audio: Audio, position: int) -> None:
    """What is separated must be numbers that the network can bear."""
    if (bad := first_invalid_sample(audio)) is not None:
        raise ProtocolError(
            "audio", f"NaN, Inf or beyond {MAX_PEAK:g} at position {position + bad}"
        )
