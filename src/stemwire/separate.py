"""Separation of files, through the same streaming separator as live audio.

Memory use does not depend on the length: blocks are read, pushed and written one by one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from stemwire.errors import AudioError, ConfigError, OutputError, StemwireError
from stemwire.extras import silent_stderr
from stemwire.realtime.ring import Audio
from stemwire.realtime.streaming import StreamingSeparator, first_invalid_sample

BLOCK = 1 << 14  # samples read at a time
WAV_LIMIT = 0xFFFF0000  # bytes; beyond it a WAV file needs the RF64 header
STREAMED = 0x7FFFFF00  # size of the data chunk written by programs that cannot seek back
CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
SUBTYPES = {"wav": "FLOAT", "flac": "PCM_24"}

Opener = Callable[[int, int], StreamingSeparator]
"""(sample_rate, channels) -> separator for such audio."""


@dataclass(frozen=True)
class Report:
    """Result of separating one file.

    Attributes:
        files: paths of the stems.
        seconds: duration of the audio.
        elapsed: processing time in seconds.
        latency: latency of the separator in samples (removed in the files).
        sample_rate: sample rate of the audio in Hz.
        hop: samples between frames.
        hop_ms: percentiles of the processing time of one hop, milliseconds; hops that go through
            the network together share their time evenly.
        clipped: samples beyond full scale that were clipped by the format.
    """

    files: tuple[Path, ...]
    seconds: float
    elapsed: float
    latency: int
    sample_rate: int
    hop: int
    hop_ms: dict[str, float]
    clipped: int

    @property
    def real_time_factor(self) -> float:
        """Processing time per duration of audio; below 1 is faster than real time."""
        return self.elapsed / self.seconds


def separate_file(
    path: Path,
    folder: Path,
    open_separator: Opener,
    format: str = "wav",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Write `folder/<stem>.<format>` for each stem of `path`.

    The stems have the input's length, rate and channels, are sample-aligned with it and sum to it.
    They appear under their names only when all of them are complete.

    Args:
        path: audio file in a format that libsndfile reads.
        folder: folder for the stems; created if missing, existing stems are replaced.
        open_separator: opens the separator for the file's rate and channels.
        format: `wav` (32-bit float) or `flac` (24 bits).
        progress: called now and then with the samples done and in total.

    Raises:
        AudioError: if the input cannot be read, is empty, cut short or not finite.
        ConfigError: if its rate or channels cannot be processed, or a stem would overwrite it.
        OutputError: if the stems cannot be written.
    """
    start = time.perf_counter()
    with _open_input(path) as source:
        try:
            separator = open_separator(source.samplerate, source.channels)
        except StemwireError as error:
            raise type(error)(f"{path}: {error}") from error
        names = {stem: folder / f"{stem}.{format}" for stem in separator.stems}
        for target in names.values():
            if same_file(target, path):
                raise ConfigError(
                    f"{path}: would be overwritten by its own stem; choose another folder with -o"
                )
        with _atomic_files(list(names.values()), source, format) as sinks:
            clipped = 0
            for done, stems in _stems_of(path, source, separator):
                for sink, stem in zip(sinks, stems, strict=True):
                    _write(sink, stem)
                if format == "flac":
                    clipped += int((np.abs(stems) > 1).sum())
                progress(done, source.frames)
        return Report(
            files=tuple(names.values()),
            seconds=source.frames / source.samplerate,
            elapsed=time.perf_counter() - start,
            latency=separator.latency,
            sample_rate=source.samplerate,
            hop=separator.hop,
            hop_ms=separator.hop_times.summary(),
            clipped=clipped,
        )


def _open_input(path: Path) -> soundfile.SoundFile:
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise AudioError(f"{path}: is a directory; give the audio files in it")
        if not stat.S_ISREG(status.st_mode):
            raise AudioError(f"{path}: is a pipe or device; save its audio to a file first")
        if status.st_size == 0:
            raise AudioError(f"{path}: is empty (0 bytes); expected an audio file")
        _reject_truncated_wav(path)
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    except FileNotFoundError as error:
        raise AudioError(f"{path}: no such file; check the path") from error
    except OSError as error:
        raise AudioError(
            f"{path}: cannot be opened ({error.strerror}); check the path and its permissions"
        ) from error
    try:
        with silent_stderr():
            source = _Sequential(descriptor)
    except (soundfile.LibsndfileError, OSError, TypeError) as error:
        with contextlib.suppress(OSError):
            os.close(descriptor)
        reason = getattr(error, "error_string", error)
        raise AudioError(
            f"{path}: cannot be read as audio ({reason}); expected WAV, FLAC, Ogg, Opus, MP3 or "
            "another format that libsndfile reads: convert it first"
        ) from error
    if source.frames == 0:
        source.close()
        raise AudioError(f"{path}: holds no samples; expected audio")
    return source


class _Sequential(soundfile.SoundFile):  # type: ignore[misc]
    """File read from start to end without seeking.

    soundfile seeks after every read where it can, which makes an MP3 decoder lose the state that
    the next frame depends on.
    """

    def seekable(self) -> bool:
        return False


def same_file(one: Path, other: Path) -> bool:
    """Whether both paths exist and are the same file."""
    try:
        return one.samefile(other)
    except OSError:
        return False


def _reject_truncated_wav(path: Path) -> None:
    """Reject a WAV file that ends before its data chunk does, which libsndfile does not report."""
    with path.open("rb") as file:
        riff, _, wave = struct.unpack("<4sI4s", file.read(12).ljust(12))
        if (riff, wave) != (b"RIFF", b"WAVE"):
            return
        while len(head := file.read(8)) == 8:
            name, size = struct.unpack("<4sI", head)
            if name == b"data":
                there = path.stat().st_size - file.tell()
                if there < size < STREAMED:
                    raise AudioError(
                        f"{path}: truncated: has {there} of {size} bytes of audio; "
                        "get a complete copy"
                    )
                return
            file.seek(size + size % 2, os.SEEK_CUR)


def _stems_of(
    path: Path, source: soundfile.SoundFile, separator: StreamingSeparator
) -> Iterator[tuple[int, Audio]]:
    """Yield the samples read so far and the next aligned stems, (S, n, C)."""
    latency_left = separator.latency  # samples of latency still to drop
    done = 0
    while True:
        try:
            block: Audio = source.read(BLOCK, dtype="float32", always_2d=True).T
        except (soundfile.LibsndfileError, OSError) as error:
            raise AudioError(
                f"{path}: damaged after {done / source.samplerate:.1f} s ({error}); "
                "get a complete copy, or cut it there"
            ) from error
        if (bad := first_invalid_sample(block)) is not None:
            bad += done
            raise AudioError(
                f"{path}: NaN, Inf or absurdly loud at sample {bad} "
                f"({bad / source.samplerate:.3f} s); repair or cut the audio there"
            )
        done += block.shape[1]
        ended = block.shape[1] < BLOCK
        stems = separator.flush(block) if ended else separator.push(block)
        drop = min(latency_left, stems.shape[2])
        latency_left -= drop
        yield done, stems[:, :, drop:].transpose(0, 2, 1)
        if ended:
            break
    if done != source.frames:
        raise AudioError(
            f"{path}: truncated: has {done / source.samplerate:.2f} s of "
            f"{source.frames / source.samplerate:.2f} s; get a complete copy"
        )


@contextlib.contextmanager
def _atomic_files(
    targets: list[Path], like: soundfile.SoundFile, format: str
) -> Iterator[list[soundfile.SoundFile]]:
    """Open files under temporary names; renamed if the block succeeds, else removed."""
    folder = targets[0].parent
    parts = [folder / f".{target.name}.{os.getpid()}.part" for target in targets]
    size = like.frames * like.channels * 4
    container = "RF64" if format == "wav" and size > WAV_LIMIT else format.upper()
    made: list[Path] = []  # folders, innermost first
    try:
        try:
            made = [f for f in (folder, *folder.parents) if not f.exists()]
            folder.mkdir(parents=True, exist_ok=True)
            if blocked := [target for target in targets if target.is_dir()]:
                raise IsADirectoryError(errno.EISDIR, "a folder is in the way", str(blocked[0]))
            with contextlib.ExitStack() as stack:
                yield [
                    stack.enter_context(
                        soundfile.SoundFile(
                            os.open(part, CREATE, 0o666),
                            "w",
                            like.samplerate,
                            like.channels,
                            SUBTYPES[format],
                            format=container,
                        )
                    )
                    for part in parts
                ]
            for part in parts:  # closing reports no full disk; the file itself does
                if soundfile.info(os.fsencode(part)).frames != like.frames:
                    raise OSError("the disk is full")
            for part, target in zip(parts, targets, strict=True):
                os.replace(part, target)
        except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
            raise OutputError(
                f"{folder}: stems cannot be written ({error.strerror}: {error.filename}); move "
                "what is in the way, or choose another folder with -o"
            ) from error
        except (OSError, soundfile.LibsndfileError) as error:
            reason = getattr(error, "strerror", None) or error
            raise OutputError(
                f"{folder}: stems cannot be written ({reason}); "
                "check permissions and free space, or choose another folder with -o"
            ) from error
    except BaseException:
        with contextlib.suppress(OSError):
            for part in parts:
                part.unlink(missing_ok=True)
            for empty in made:
                empty.rmdir()
        raise


def _write(sink: soundfile.SoundFile, audio: Audio) -> None:
    try:
        sink.write(audio)
    except AssertionError as error:  # raised by soundfile when fewer samples were written
        raise OSError("the disk is full") from error
