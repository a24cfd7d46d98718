"""Decoding any part of an audio file, bit-exact with decoding the whole file.

A reference is the path of a file that libsndfile reads, or `song.stem.mp4#k`: audio stream k of a
stem file, which needs PyAV. Seeking is not always accurate, so each decoder starts early
enough to be right at the requested samples:

- MP3 frames depend on bits of earlier frames (at most 511 bytes: 22 of the smallest frames) and on
  the earlier frame's overlap.
- libsndfile places the last page of a Vorbis file as if its end had not been trimmed, so reading
  must begin on an earlier page; a page has 255 segments at most.
- AAC frames overlap by half.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import soundfile
from numpy.typing import NDArray

from stemwire.errors import AudioError, ConfigError

Samples = NDArray[np.float32]
"""(frames, channels)."""

CHANNELS = 2  # at most
MP3_RUN_UP = 32 * 1152
AAC_RUN_UP = 4 * 1024
VORBIS_LAST_PAGE = 255 * 1024
STEM_FILE = re.compile(r"(.+\.stem\.mp4)#(\d+)", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Format:
    """Audio format of a file.

    Attributes:
        sample_rate: in Hz.
        channels: 1 or 2.
        frames: samples of each channel.
    """

    sample_rate: int
    channels: int
    frames: int


def split_reference(reference: str) -> tuple[Path, int | None]:
    """File of a reference, and the stream's number if it is in a stem file."""
    match = STEM_FILE.fullmatch(reference)
    return (Path(match[1]), int(match[2])) if match else (Path(reference), None)


def inspect(reference: str) -> Format:
    """Format of a reference, whose end is decoded to check that it is there.

    MP3, Vorbis and AAC files may claim slightly more than they hold; what they hold counts.

    Raises:
        AudioError: if it is missing, unreadable, cut short, empty or has more than two channels.
    """
    with _open_source(reference) as source:
        claimed = source.format
        tail = min(claimed.frames, claimed.sample_rate)
        held = len(source.read(claimed.frames - tail, tail))
    if held < tail and (source.exact or not held):
        _raise_cut(reference, claimed.frames - tail + held, claimed.sample_rate)
    return replace(claimed, frames=claimed.frames - tail + held)


def decode(reference: str, start: int, count: int, expected: Format, tolerance: int = 0) -> Samples:
    """Samples `start` to `start + count` of a reference, float32 (count, channels).

    Args:
        reference: audio to read.
        start: first sample, at least 0.
        count: number of samples; zeros past the end.
        expected: format when the reference was scanned.
        tolerance: samples by which it may be longer than that.

    Raises:
        AudioError: if it is missing, damaged, not finite, or has changed.
    """
    with _open_source(reference) as source:
        found = source.format
        surplus = found.frames - expected.frames
        allowed = tolerance if source.exact else max(tolerance, found.sample_rate)
        if found.sample_rate != expected.sample_rate or not 0 <= surplus <= allowed:
            raise AudioError(
                f"{printable(reference)}: has changed: {found.frames} samples at "
                f"{found.sample_rate} Hz, {expected.frames} at {expected.sample_rate} Hz when "
                "scanned; scan again"
            )
        length = max(0, min(count, expected.frames - start))
        samples = source.read(start, length) if length else np.empty((0, found.channels), "f4")
    if len(samples) < length:
        _raise_cut(reference, start + len(samples), found.sample_rate)
    if not np.isfinite(samples).all():
        raise AudioError(
            f"{printable(reference)}: NaN or Inf between {start / found.sample_rate:.2f} and "
            f"{(start + length) / found.sample_rate:.2f} s; repair the audio"
        )
    return np.pad(samples, ((0, count - length), (0, 0))) if length < count else samples


def _raise_cut(reference: str, frame: int, sample_rate: int) -> NoReturn:
    raise AudioError(
        f"{printable(reference)}: damaged or cut short at {frame / sample_rate:.2f} s; get a "
        "complete copy"
    )


def printable(name: str) -> str:
    r"""Path in valid UTF-8, for terminals and files: other bytes become `\\xNN`."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


@contextlib.contextmanager
def _open_source(reference: str) -> Iterator[_SoundFile | _StemFile]:
    """Open a reference; any failure becomes an `AudioError` that names it."""
    path, stream = split_reference(reference)
    try:
        if path.stat().st_size == 0:
            raise AudioError(f"{printable(reference)}: is empty (0 bytes); expected audio")
        with _SoundFile(path) if stream is None else _StemFile(path, stream) as source:
            if source.format.channels > CHANNELS:
                raise AudioError(
                    f"{printable(reference)}: has {source.format.channels} channels; "
                    "expected one or two: mix it down first"
                )
            if source.format.frames <= 0:
                raise AudioError(f"{printable(reference)}: holds no samples; expected audio")
            yield source
    except FileNotFoundError as error:
        raise AudioError(
            f"{printable(reference)}: no such file; restore it or scan again"
        ) from error
    except (OSError, soundfile.SoundFileError, *_av_errors()) as error:
        reason = getattr(error, "error_string", None) or getattr(error, "strerror", None) or error
        raise AudioError(
            f"{printable(reference)}: cannot be read as audio ({str(reason).rstrip('.')}); "
            "expected a format that libsndfile reads: get a complete copy, or convert it"
        ) from error


class _SoundFile:
    """File opened with libsndfile; `exact` if its header's length is reliable."""

    def __init__(self, path: Path) -> None:
        with _quiet(path.suffix.lower() == ".mp3"):
            self.file = soundfile.SoundFile(str(path) if os.name == "nt" else os.fsencode(path))
        self.format = Format(self.file.samplerate, self.file.channels, self.file.frames)
        self.exact = self.file.format != "MP3" and self.file.subtype != "VORBIS"

    def __enter__(self) -> _SoundFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def read(self, start: int, count: int) -> Samples:
        first = start
        if self.file.format == "MP3":
            first = max(0, start - MP3_RUN_UP)
        elif self.file.subtype == "VORBIS":
            first = max(0, min(start, self.format.frames - VORBIS_LAST_PAGE))
        with _quiet(self.file.format == "MP3"):  # about bits missing in the run-up
            if first:
                self.file.seek(first)
            samples: Samples = self.file.read(start + count - first, "float32", always_2d=True)
        return samples[start - first :]


class _StemFile:
    """Open stream of a stem file; sample 0 is at presentation time 0."""

    exact = False

    def __init__(self, path: Path, number: int) -> None:
        with contextlib.ExitStack() as stack:
            # Opened here: PyAV takes no names that are not UTF-8.
            self.container = stack.enter_context(_av().open(stack.enter_context(path.open("rb"))))
            streams = self.container.streams.audio
            if not number < len(streams):
                raise OSError(f"it has {len(streams)} audio streams, no number {number}")
            self.close = stack.pop_all().close
        self.stream = streams[number]
        rate = int(self.stream.rate)
        frames = round((self.stream.duration or 0) * self.stream.time_base * rate)
        self.format = Format(rate, int(self.stream.channels), frames)

    def __enter__(self) -> _StemFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self, start: int, count: int) -> Samples:
        rate, base = self.format.sample_rate, self.stream.time_base
        out = np.zeros((count, self.format.channels), np.float32)
        if start > AAC_RUN_UP:
            self.container.seek(int((start - AAC_RUN_UP) / (rate * base)), stream=self.stream)
        end = start
        for frame in self.container.decode(self.stream):
            if frame.format.name != "fltp":
                raise OSError(f"samples are {frame.format.name}; expected AAC")
            block = frame.to_ndarray().T
            position = round(frame.pts * base * rate)
            low, high = max(start, position), min(start + count, position + len(block))
            if low < high:
                out[low - start : high - start] = block[low - position : high - position]
                end = high
            if position + len(block) >= start + count:
                break
        return out[: end - start]


@lru_cache(maxsize=1)
def _av() -> Any:
    try:
        import av
    except ModuleNotFoundError as error:
        raise ConfigError(
            "stem files (.stem.mp4) need PyAV: pip install 'stemwire[train]'"
        ) from error
    av.logging.set_level(None)  # our own errors say what matters
    return av


def _av_errors() -> tuple[type[Exception], ...]:
    """PyAV's errors that are not `OSError`, if PyAV has been used."""
    return (_av().FFmpegError,) if _av.cache_info().currsize else ()


class _MutedStderr:
    """Context that hides the MP3 decoder's messages on standard error while any thread uses it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0
        self.saved: int | None = None
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget)

    def __enter__(self) -> None:
        with self.lock:
            self.users += 1
            if self.users == 1:
                with contextlib.suppress(OSError), Path(os.devnull).open("wb") as null:
                    self.saved = os.dup(2)  # fails where there is no standard error
                    os.dup2(null.fileno(), 2)

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.users -= 1
            if not self.users:
                self._restore()

    def _restore(self) -> None:
        if self.saved is not None:
            os.dup2(self.saved, 2)
            os.close(self.saved)
            self.saved = None

    def _forget(self) -> None:
        """Reset in a forked process, where the other threads are gone."""
        self.lock, self.users = threading.Lock(), 0
        self._restore()


_muted_stderr = _MutedStderr()


def _quiet(silent: bool) -> contextlib.AbstractContextManager[None]:
    return _muted_stderr if silent else contextlib.nullcontext()
