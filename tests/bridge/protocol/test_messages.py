"""Encoding and decoding of messages and frames, and limits of the codec."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from support.protocol_messages import either, formats, frames, refused

from stemwire.bridge.protocol import error_message, goodbye_message
from stemwire.bridge.protocol import messages as protocol
from stemwire.bridge.protocol.messages import (
    ERROR_CODES,
    HEADER,
    MIX_FRAME,
    TEXT_LIMIT,
    Error,
    Frame,
    Goodbye,
    Hello,
    Message,
    close_code,
    decode,
    decode_frame,
    encode,
    encode_frame,
    frame_bytes,
)
from stemwire.errors import ProtocolError


@given(either)
def test_messages_survive_encoding(sent: tuple[Message, bool]) -> None:
    message, from_client = sent
    text = encode(message)
    assert decode(text, from_client) == decode(text.encode(), from_client) == message
    json.loads(text)  # to others, too, it is JSON


@given(frames(), formats)
def test_frames_survive_encoding(frame: Frame, format: protocol.Format) -> None:
    data = encode_frame(frame, format)
    parts, channels, count = frame.audio.shape
    assert len(data) == frame_bytes(format, parts, channels, count)
    back = decode_frame(data, format, frame.kind, parts, channels)
    assert (back.kind, back.stream, back.sequence, back.position) == (
        frame.kind, frame.stream, frame.sequence, frame.position,
    )  # fmt: skip
    if format == "f32":
        np.testing.assert_array_equal(back.audio, frame.audio)
    else:
        full = np.clip(frame.audio.astype(np.float64), -1, 32767 / 32768)
        assert np.abs(back.audio - full).max(initial=0.0) <= 0.5 / 32768
        assert encode_frame(back, "s16") == data  # nothing more is lost
    assert back.audio.flags.aligned


def test_every_step_of_16_bits_survives() -> None:
    steps = np.arange(-32768, 32768).astype("<i2")
    data = HEADER.pack(MIX_FRAME, 0, 0, 0, 0, len(steps), 0) + steps.tobytes()
    frame = decode_frame(data, "s16", MIX_FRAME, 1, 1)
    assert encode_frame(frame, "s16") == data
    assert frame.audio.min() == -1.0 and frame.audio.max() == 32767 / 32768


@pytest.mark.filterwarnings("error")
def test_nan_and_infinity_are_silence_and_full_scale_in_16_bits() -> None:
    audio = np.asarray([[[np.nan, np.inf, -np.inf]]], np.float32)
    data = encode_frame(Frame(MIX_FRAME, 0, 0, 0, audio), "s16")
    assert np.frombuffer(data, "<i2", offset=24).tolist() == [0, 32767, -32768]
    assert np.isnan(audio[0, 0, 0])  # what was given stays


def test_numbers_of_frames_wrap() -> None:
    data = encode_frame(
        Frame(MIX_FRAME, 65_537, (1 << 32) + 5, 0, np.zeros((1, 1, 1), np.float32)), "f32"
    )
    frame = decode_frame(data, "f32", MIX_FRAME, 1, 1)
    assert (frame.stream, frame.sequence) == (1, 5)


def test_non_contiguous_audio_is_sent_in_order() -> None:
    audio = np.arange(24, dtype=np.float32).reshape(2, 12)[None, :, ::3]
    frame = decode_frame(
        encode_frame(Frame(MIX_FRAME, 0, 0, 0, audio), "f32"), "f32", MIX_FRAME, 1, 2
    )
    np.testing.assert_array_equal(frame.audio, audio)


def test_text_is_measured_in_bytes() -> None:
    fits = encode(Goodbye(reason="x" * (TEXT_LIMIT - len(encode(Goodbye(reason="x"))) + 1)))
    assert len(fits) == TEXT_LIMIT
    assert isinstance(decode(fits, True), Goodbye)
    for text in (fits + " ", encode(Goodbye(reason="ü" * (TEXT_LIMIT // 2))), "x" * 10_000_000):
        for data in (text, text.encode()):
            with refused("too_large"):
                decode(data, True)


def test_a_stem_cannot_be_listed_twice() -> None:
    with pytest.raises(ValueError, match="twice"):
        Hello(version=1, rate=44_100, channels=2, stems=("mix", "mix"))


def test_error_and_goodbye_messages() -> None:
    message = decode(error_message(ProtocolError("version", "ü" * 5000)), from_client=False)
    assert message == Error(code="version", text="ü" * 500, supported=(1,))
    assert decode(error_message(ProtocolError("audio", "NaN")), False) == Error(
        code="audio", text="NaN"
    )
    assert (
        decode(goodbye_message("bye"), True)
        == decode(goodbye_message("bye"), False)
        == Goodbye(reason="bye")
    )


def test_close_codes() -> None:
    assert {code: close_code(code) for code in ERROR_CODES if close_code(code) != 1008} == {
        "shutdown": 1001, "too_large": 1009,
    }  # fmt: skip
