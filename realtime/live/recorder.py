"""Recording of stems to disk while they play, without ever blocking the audio.

Threads: `write` belongs to the worker. It copies into a preallocated ring and returns, whatever the
disk does; what does not fit is counted and recorded as silence, so that all stems stay aligned with
one another and with time. A thread of the recorder drains the ring. The two share counters with one
writer each, and no locks. `close` and the attributes are for the thread that controls the session.
"""

from __future__ import annotations

import contextlib
import os
import struct
import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np

from stemwire.errors import OutputError
from stemwire.realtime.levels import STEMS
from stemwire.realtime.ring import Audio

TRACKS = (*STEMS, "mix")
POLL_S = 0.05  # seconds between two drains of the ring
CHUNK = 1 << 14  # samples written at a time
HEADER_INTERVAL_S = 1.0  # seconds of audio between two updates of the headers
MAX_GAPS = 1000  # gaps that may be pending
RIFF_LIMIT = 0xFFFFFFFF  # bytes


class Recorder:
    """Writes stems to `folder/take-001/<name>.wav`, or the next free number.

    Files are 32-bit float WAV, RF64 beyond 4 GiB. Their headers are updated every second, so that
    they can be read even after a crash of the program or the machine. If the disk fills up or the
    folder disappears, recording stops, the files end at the same sample, and the audio goes on.

    Args:
        folder: folder of the takes; created if missing.
        sample_rate: sample rate of the stems in Hz.
        channels: number of channels of each stem.
        names: names of the stems, in their order.
        seconds_of_buffer: stall of the disk that is tolerated; 10 s of three stereo stems at
            44.1 kHz are 11 MB.
        report: called with a sentence about each problem, in the recorder's thread.
        prepare: called first by that thread.

    Attributes:
        folder: folder of this take.
        position: samples received since the start, including lost ones.
        recording: whether recording is still going on.

    Raises:
        OutputError: if the files cannot be created.
    """

    def __init__(
        self,
        folder: Path | str,
        sample_rate: int,
        channels: int,
        names: Sequence[str] = TRACKS,
        seconds_of_buffer: float = 10.0,
        report: Callable[[str], None] = lambda text: None,
        prepare: Callable[[], object] = lambda: None,
    ) -> None:
        self.folder = _next_take(Path(folder))
        self.position = 0
        self.recording = True
        self._rate, self._report, self._prepare = sample_rate, report, prepare
        self._files = _open_all(self.folder, names, sample_rate, channels)
        self._capacity = max(1, round(seconds_of_buffer * sample_rate))
        self._ring = np.empty((len(names), self._capacity, channels), np.float32)
        self._ring.fill(0.0)  # so that the memory is allocated now
        # Samples that entered and left the ring since the start, counted by worker and recorder.
        self._written = self._saved = 0
        self._dropped = 0
        self._gap = 0  # samples dropped since the last that were accepted
        # (samples accepted before it, length); appending and popping need no lock
        self._gaps: deque[tuple[int, int]] = deque()
        self._slow_disk_reported = False
        self._since_header_update = 0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stemwire recorder", daemon=True)
        self._thread.start()

    @property
    def seconds(self) -> float:
        """Duration of the take so far."""
        return self.position / self._rate

    @property
    def lost(self) -> int:
        """Samples received that are not in the files, or will not be."""
        return self._dropped + (0 if self.recording else self._written - self._saved)

    def write(self, stems: Audio) -> None:
        """Record the next samples, float32 (names, channels, n), without waiting; worker."""
        count = stems.shape[2]
        self.position += count
        if not self.recording:
            self._dropped += count
            return
        full = count > self._capacity - (self._written - self._saved)
        if full or (self._gap and len(self._gaps) >= MAX_GAPS):
            self._gap += count
            self._dropped += count
            return
        if self._gap:
            self._gaps.append((self._written, self._gap))
            self._gap = 0
        start = self._written % self._capacity
        first = min(count, self._capacity - start)
        turned = stems.transpose(0, 2, 1)
        self._ring[:, start : start + first] = turned[:, :first]
        self._ring[:, : count - first] = turned[:, first:]
        self._written += count

    def close(self, timeout: float = 10.0) -> None:
        """Write what is left and close the files; no `write` may follow.

        Args:
            timeout: seconds to wait for the disk; after that the failure is reported, and the
                files are left in the state of at most a second before it hung.
        """
        self._closing.set()
        self._thread.join(timeout)
        if self._thread.is_alive():
            self.recording = False
            self._report(f"{self.folder}: the disk does not answer; the recording may lack its end")

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # --- recorder's thread

    def _run(self) -> None:
        self._prepare()
        try:
            while not self._closing.wait(POLL_S):
                self._drain()
            self._drain()
            self._write_silence(self._gap)
            if self._dropped and self.recording:
                lost = self._dropped / self._rate
                self._report(
                    f"{self.folder}: {lost:.1f} s of {self.seconds:.1f} s are missing and stand as "
                    "silence, because the disk was too slow"
                )
        except OSError as error:
            self.recording = False
            reason = error.strerror or str(error)
            kept = min(file.frames for file in self._files) / self._rate
            self._report(
                f"{self.folder}: recording has stopped after {kept:.1f} s ({reason}); free some "
                "space or choose another folder, and record again"
            )
        finally:
            self.recording = False
            self._close_files()

    def _drain(self) -> None:
        """Write all that is in the ring, and silence for the gaps."""
        if self._dropped and not self._slow_disk_reported:
            self._slow_disk_reported = True
            self._report(
                f"{self.folder}: the disk is too slow for the recording: "
                f"{self._dropped / self._rate:.1f} s are missing so far and stand as silence"
            )
        end = self._written
        while True:
            if self._gaps and self._gaps[0][0] == self._saved:
                self._write_silence(self._gaps.popleft()[1])
            until = min(end, self._gaps[0][0]) if self._gaps else end
            if until == self._saved:
                return
            start = self._saved % self._capacity
            count = min(until - self._saved, self._capacity - start, CHUNK)
            for file, samples in zip(self._files, self._ring, strict=True):
                file.write(samples[start : start + count])
            self._saved += count
            self._update_headers(count)

    def _write_silence(self, count: int) -> None:
        silence = np.zeros((min(count, CHUNK), self._ring.shape[2]), np.float32)
        while count:
            some = min(count, CHUNK)
            for file in self._files:
                file.write(silence[:some])
            count -= some
            self._update_headers(some)

    def _update_headers(self, count: int) -> None:
        self._since_header_update += count
        if self._since_header_update >= HEADER_INTERVAL_S * self._rate:
            self._since_header_update = 0
            for file in self._files:
                file.update_header()

    def _close_files(self) -> None:
        """Close all files at the same sample."""
        frames = min(file.frames for file in self._files)
        for file in self._files:
            with contextlib.suppress(OSError):
                file.close(frames)


class WavFile:
    """A growing 32-bit float WAV file, readable at any time up to the last `update_header`.

    The header reserves space for the sizes of RF64 (EBU Tech 3306) from the start, as a JUNK chunk,
    which becomes the ds64 chunk when the file passes 4 GiB.
    """

    HEADER = struct.Struct("<4sI4s4sIQQQI4sIHHIIHHH4sII4sI")

    def __init__(self, path: Path, sample_rate: int, channels: int) -> None:
        self.path = path
        self.frames = 0
        self._rate, self._channels = sample_rate, channels
        self._file = path.open("xb", buffering=0)
        self._identity = os.fstat(self._file.fileno())
        self._write_bytes(memoryview(self._header()))

    def write(self, samples: Audio) -> None:
        """Append (n, channels), contiguous; raises `OSError` after a partial write."""
        data = np.ascontiguousarray(samples, "<f4")
        self._write_bytes(data.data.cast("B") if data.size else memoryview(b""))
        self.frames += len(data)

    def update_header(self) -> None:
        """Write the sizes into the header; raises `OSError` also if the file was removed."""
        there = os.stat(self.path)  # noqa: PTH116 - beside fstat
        if not os.path.samestat(there, self._identity):
            raise FileNotFoundError(2, "the file was replaced", str(self.path))
        self._file.seek(0)
        self._write_bytes(memoryview(self._header()))
        self._file.seek(0, os.SEEK_END)

    def close(self, frames: int) -> None:
        """Truncate the file to `frames` samples and close it."""
        self.frames = min(frames, self.frames)
        try:
            self._file.truncate(self.HEADER.size + self.frames * 4 * self._channels)
            self._file.seek(0)
            self._write_bytes(memoryview(self._header()))
        finally:
            self._file.close()

    def _write_bytes(self, data: memoryview) -> None:
        while data:
            data = data[self._file.write(data) or 0 :]

    def _header(self) -> bytes:
        width = 4 * self._channels
        size = self.frames * width
        whole = size + self.HEADER.size - 8
        large = whole > RIFF_LIMIT
        return self.HEADER.pack(
            b"RF64" if large else b"RIFF", RIFF_LIMIT if large else whole, b"WAVE",
            b"ds64" if large else b"JUNK", 28, *((whole, size, self.frames) if large else (0,) * 3),
            0,
            b"fmt ", 18, 3, self._channels, self._rate, self._rate * width, width, 32, 0,
            b"fact", 4, min(self.frames, RIFF_LIMIT),
            b"data", RIFF_LIMIT if large else size,
        )  # fmt: skip


def _next_take(folder: Path) -> Path:
    """Create a new folder `take-…` in `folder`, safely against other processes."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        numbers = [path.name[5:] for path in folder.glob("take-*")]
        number = max((int(text) for text in numbers if text.isdecimal()), default=0)
        while True:
            number += 1
            take = folder / f"take-{number:03d}"
            with contextlib.suppress(FileExistsError):
                take.mkdir()
                return take
    except OSError as error:
        raise OutputError(
            f"{folder}: cannot record there ({error.strerror}); check permissions and "
            "free space, or choose another folder"
        ) from error


def _open_all(folder: Path, names: Sequence[str], sample_rate: int, channels: int) -> list[WavFile]:
    files: list[WavFile] = []
    try:
        for name in names:
            files.append(WavFile(folder / f"{name}.wav", sample_rate, channels))  # noqa: PERF401
    except OSError as error:
        for file in files:
            with contextlib.suppress(OSError):
                file.close(0)
                file.path.unlink()
        with contextlib.suppress(OSError):
            folder.rmdir()
        raise OutputError(
            f"{folder}: cannot record there ({error.strerror}); check permissions and "
            "free space, or choose another folder"
        ) from error
    return files
