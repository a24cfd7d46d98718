"""Store of measured facts about audio files, so that an unchanged file is never read twice.

Kept beside the manifest as `<manifest>.files`: one JSON line per file, written as soon as it is
measured, so that an interrupted scan resumes where it stopped. Deleting it only costs a full scan.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from stemwire.errors import AudioError, OutputError
from stemwire.training.data.decode import Format, decode, inspect, printable
from stemwire.training.data.names import STEM_STREAMS, STEM_SUFFIX, suffix_of
from stemwire.training.data.output import output_file

BATCH = 1024  # files given to the threads at a time
BLOCK = 1 << 20  # samples decoded at a time
STREAMS = sorted(number for numbers in STEM_STREAMS.values() for number in numbers)


@dataclass(frozen=True, slots=True)
class Fact:
    """State of one file when it was read.

    Attributes:
        size: in bytes.
        mtime_ns: modification time in ns.
        sample_rate: in Hz.
        channels: 1 or 2.
        frames: samples of each channel.
        sha256: of its bytes, hex digits.
        decoded: whether all of it was decoded, not only its end.
    """

    size: int
    mtime_ns: int
    sample_rate: int
    channels: int
    frames: int
    sha256: str
    decoded: bool


class FactStore:
    """Facts of files by path, read from and appended to a file.

    Args:
        path: path of that file, which need not exist. Incomplete lines are skipped.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known: dict[str, Fact] = {}
        self.read = 0  # files that had to be read
        try:
            with path.open("rb") as file:
                for line in file:
                    self._learn(line)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise OutputError(
                f"{path}: cannot be read ({error.strerror}); correct its permissions or delete it"
            ) from error

    def _learn(self, line: bytes) -> None:
        try:
            values = json.loads(line)
            file = values.pop("path")
            self.known[file] = Fact(**values)
        except (ValueError, KeyError, TypeError, AttributeError):
            return  # the last line of a scan that was killed

    def look_up(
        self, files: Iterable[str], jobs: int, decode_all: bool, progress: Callable[[], None]
    ) -> Iterator[tuple[str, Fact | str]]:
        """Each file with its fact, or with the reason why it has none, in order.

        Args:
            files: paths.
            jobs: files read at a time.
            decode_all: decode whole files, unless that was done before.
            progress: called once per file.

        Raises:
            OutputError: if the facts cannot be written.
        """
        queue = list(files)
        pool = ThreadPoolExecutor(jobs)  # hashing and decoding let other threads run

        def fact_or_reason(file: str) -> Fact | str:
            try:
                return self._fact_of(file, decode_all)
            except AudioError as error:
                return str(error)

        try:
            with self.path.open("ab") as log:
                log.write(b"\n")  # after a line that may be incomplete
                for first in range(0, len(queue), BATCH):
                    batch = queue[first : first + BATCH]
                    for file, fact in zip(batch, pool.map(fact_or_reason, batch), strict=True):
                        if isinstance(fact, Fact) and self.known.get(file) != fact:
                            self.known[file] = fact
                            self.read += 1
                            log.write(_line(file, fact))
                        progress()
                        yield file, fact
                    log.flush()
        except OSError as error:
            raise OutputError(
                f"{self.path}: cannot be written ({error.strerror}); free space, check "
                "permissions, or choose another place with -o"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)

    def _fact_of(self, file: str, decode_all: bool) -> Fact:
        try:
            status = Path(file).stat()
        except OSError as error:
            raise AudioError(f"{printable(file)}: {error.strerror or error}") from error
        fact = self.known.get(file)
        unchanged = fact and (fact.size, fact.mtime_ns) == (status.st_size, status.st_mtime_ns)
        if fact and unchanged and (fact.decoded or not decode_all):
            return fact
        format = measure(file, decode_all)
        try:
            with Path(file).open("rb") as opened:
                digest = hashlib.file_digest(opened, "sha256").hexdigest()
        except OSError as error:
            raise AudioError(f"{printable(file)}: cannot be read ({error.strerror})") from error
        return Fact(
            status.st_size,
            status.st_mtime_ns,
            format.sample_rate,
            format.channels,
            format.frames,
            digest,
            decode_all,
        )

    def rewrite(self, files: Iterable[str]) -> None:
        """Replace the stored facts by those of these files alone."""
        with output_file(self.path) as out:
            for file in files:
                if file in self.known:
                    out.write(_line(file, self.known[file]))


def _line(file: str, fact: Fact) -> bytes:
    return json.dumps({"path": file, **asdict(fact)}).encode("ascii") + b"\n"


def measure(file: str, decode_all: bool) -> Format:
    """Format of a file, of which the end or everything is decoded as a check.

    Raises:
        AudioError: if it cannot be decoded, or the streams of a stem file differ.
    """
    stems = suffix_of(file) == STEM_SUFFIX
    references = [f"{file}#{number}" for number in STREAMS] if stems else [file]
    formats = [inspect(reference) for reference in references]
    if len(set(formats)) > 1:
        raise AudioError(f"{printable(file)}: its streams differ in length, rate or channels")
    for reference in references if decode_all else ():
        for first in range(0, formats[0].frames, BLOCK):
            decode(reference, first, min(BLOCK, formats[0].frames - first), formats[0])
    return formats[0]
