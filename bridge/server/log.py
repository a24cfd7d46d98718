"""Log of a server: a line for each event on standard error, as text or as JSON."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from collections.abc import Iterator
from datetime import UTC, datetime

_PLAIN = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class LineFormatter(logging.Formatter):
    """Formatter of time, level, event and its fields.

    Args:
        as_json: whether to write one JSON object per line instead of text.
        worker: number of the process if there are several, or None.
    """

    def __init__(self, as_json: bool, worker: int | None = None) -> None:
        super().__init__()
        self._json, self._worker = as_json, worker

    def format(self, record: logging.LogRecord) -> str:
        fields = {key: value for key, value in vars(record).items() if key not in _PLAIN}
        if self._worker is not None:
            fields["worker"] = self._worker
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        error = self.formatException(record.exc_info) if record.exc_info else ""
        if self._json:
            line = {"time": at, "level": record.levelname.lower(), "event": record.getMessage()}
            return json.dumps(
                {**line, **fields, **({"trace": error} if error else {})}, default=str
            )
        details = "".join(f" {key}={value!r}" for key, value in fields.items() if value != "")
        return f"{at} {record.levelname.lower():7} {record.getMessage()}{details}" + (
            f"\n{error}" if error else ""
        )


@contextlib.contextmanager
def lines_to_stderr(style: str, worker: int | None = None) -> Iterator[None]:
    """Write the server's log to standard error meanwhile.

    Args:
        style: "text" or "json".
        worker: number of the process if there are several, or None.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter(style == "json", worker))
    loggers = [logging.getLogger(name) for name in ("stemwire", "websockets")]
    before = [(logger.handlers, logger.propagate, logger.level) for logger in loggers]
    for logger, level in zip(loggers, (logging.INFO, logging.ERROR), strict=True):
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)
    try:
        yield
    finally:
        for logger, (handlers, propagate, level) in zip(loggers, before, strict=True):
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)
