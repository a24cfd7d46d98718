"""A live session as JSON lines, for pipes, files and terminals without a screen."""

from __future__ import annotations

import json
import math
import os
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any, TextIO

from stemwire.realtime.live.status import Status, Steerable


def run_log(
    session: Steerable,
    interval_s: float = 1.0,
    stream: TextIO | None = None,
    stop: threading.Event | None = None,
) -> str:
    """Write a line for every message and, every `interval_s`, a line with all of `Status`.

    Returns when `stop` is set, when the session has stopped (after its last status), or when the
    reader has closed the pipe. A write blocks while the reader takes nothing, and delays `stop`:
    call this from a thread that audio does not depend on.

    Args:
        session: session to report on.
        interval_s: seconds between two statuses.
        stream: text stream to write to; None is standard output.
        stop: event that ends the log shortly after it is set.

    Returns:
        "" normally, or a sentence that says why the log could not be written. Such an error ends
        the log but is not raised, because the sound can go on.
    """
    stream = sys.stdout if stream is None else stream
    stop = stop or threading.Event()
    due = time.monotonic()
    try:
        while True:
            ending = stop.is_set()
            status = (
                session.status()
            )  # before the messages, so that none before "stopped" is missed
            now = datetime.now(UTC).isoformat(timespec="milliseconds")
            for message in session.messages():
                _write(stream, {"time": now, "message": message})
            _write(stream, {"time": now, **json_values(status)})
            stream.flush()
            if ending or status.state == "stopped":
                return ""
            due = max(due + interval_s, time.monotonic())  # no burst of lines after a long wait
            stop.wait(due - time.monotonic())
    except BrokenPipeError:
        _discard_buffer(stream)
        return ""
    except OSError as error:
        _discard_buffer(stream)
        return f"the log cannot be written ({error.strerror}); the sound goes on without it"
    except ValueError:
        if not stream.closed:
            raise
        return ""


def json_values(status: Status) -> dict[str, Any]:
    """All of a status, and its `delay`, as JSON values; NaN and infinities become None."""
    names = [*(each.name for each in fields(status)), "delay"]
    return {name: _plain(getattr(status, name)) for name in names}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write(stream: TextIO, line: dict[str, Any]) -> None:
    stream.write(json.dumps(line, allow_nan=False) + "\n")


def _discard_buffer(stream: TextIO) -> None:
    """Discard what is still buffered, so that Python does not complain at exit."""
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError):  # it has no descriptor
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
