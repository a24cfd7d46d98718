"""Progress bar for commands that take a while."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn


@contextlib.contextmanager
def progress_bar(what: str, amount: ProgressColumn) -> Iterator[Callable[[int, int], None]]:
    """Show progress and remaining time on standard error, if that is a terminal.

    Args:
        what: text in front of the bar.
        amount: column that shows the progress, as a percentage or a count.

    Yields:
        Function to call with the amounts done and in total.
    """
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), amount)
    with Progress(
        *columns,
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
