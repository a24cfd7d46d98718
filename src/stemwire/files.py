"""Files that are replaced as a whole: a reader finds the old content or the new, never a part."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO


@contextlib.contextmanager
def atomic_write(path: Path, *, private: bool = False) -> Iterator[IO[bytes]]:
    """A binary file that takes the place of `path` when the block ends, or leaves no trace.

    Folders above it are made. The content is on the disk before the name changes.

    Args:
        path: file to write.
        private: whether only this user may read it (mode 0600).

    Yields:
        The file to write to, under a temporary name beside `path`.

    Raises:
        OSError: if it cannot be written; `path` is then as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0)
    try:
        with os.fdopen(os.open(temporary, flags, 0o600 if private else 0o666), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def atomic_write_text(path: Path, text: str, *, private: bool = False) -> None:
    """Replace the text of a file, UTF-8; see `atomic_write`."""
    with atomic_write(path, private=private) as file:
        file.write(text.encode())
