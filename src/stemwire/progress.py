"""The progress bar of commands that take a while."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn


@contextlib.contextmanager
def progress_bar(what: str, amount: ProgressColumn) -> Iterator[Callable[[int, int], None]]:
    """Show what is done, and the time left, on standard error, if that is a terminal.

    Args:
        what: in front of the bar.
        amount: column that says how much is done, as a share or a count.

    Yields:
        A function to be called with how much is done, and how much there is.
    """
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), amount)
    with Progress(
        *columns, TimeRemainingColumn(), console=console, transient=True,
        disable=not console.is_terminal,
    ) as bar:  # fmt: skip
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
