"""Output files of the data commands: replaced atomically, with errors for users."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from stemwire.errors import OutputError
from stemwire.files import atomic_write


@contextlib.contextmanager
def output_file(path: Path) -> Iterator[IO[bytes]]:
    """Binary file that replaces `path` if the block succeeds, and leaves no trace otherwise.

    Raises:
        OutputError: if the file cannot be written.
    """
    try:
        with atomic_write(path) as file:
            yield file
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be written ({error.strerror}); free space, check permissions, or "
            "choose another place with -o"
        ) from error
