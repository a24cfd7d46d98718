from __future__ import annotations

import dataclasses
import io
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from support import TESTS
from support.live_log import PLAYING, Session

from stemwire.realtime.live.status import Status
from stemwire.screen.log import json_values, run_log


def strict(text: str) -> list[dict[str, Any]]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def test_lines_hold_all_of_status_and_every_message() -> None:
    stream = io.StringIO()
    news = {1: ["playing"], 3: ["the card has gone", "stopped: “bye”\nand a second line"]}
    assert run_log(Session(3, news), 0.01, stream) == ""
    lines = strict(stream.getvalue())
    assert [line.get("message", line.get("state")) for line in lines] == [
        "playing", "playing", "playing", *news[3], "stopped",
    ]  # fmt: skip
    expected = {each.name for each in dataclasses.fields(Status)} | {"delay", "time"}
    assert expected == set(lines[1])
    assert all(set(line) == {"time", "message"} for line in lines if "message" in line)


def test_what_is_not_finite_is_null() -> None:
    plain = json_values(PLAYING)
    assert plain["controls"]["vocals"] is None
    assert plain["levels"]["output"] == [-3.0, None]
    assert plain["hop_ms"] == {"p50": 1.5, "max": None}
    assert plain["counters"]["samples"] == 2**40
    assert plain["delay"] == 1055
    assert plain["presets"] == ["standard", "low"]


def test_a_line_each_interval_and_an_end_at_once() -> None:
    stream, stop, session = io.StringIO(), threading.Event(), Session(10**9)
    log = threading.Thread(target=run_log, args=(session, 0.05, stream, stop))
    start = time.monotonic()
    log.start()
    while session.asked < 5:
        time.sleep(0.01)
    assert time.monotonic() - start >= 0.15  # four intervals, less what a thread's start takes
    stop.set()
    log.join(10)
    assert not log.is_alive()
    assert len(strict(stream.getvalue())) == session.asked


def test_stop_before_the_start_still_gives_one_status() -> None:
    stream, stop = io.StringIO(), threading.Event()
    stop.set()
    assert run_log(Session(10**9), 1000.0, stream, stop) == ""
    assert len(strict(stream.getvalue())) == 1


def test_lines_are_flushed_and_a_closed_pipe_ends_the_log() -> None:
    outlet, inlet = os.pipe()
    results: list[str] = []
    with os.fdopen(inlet, "w") as stream, os.fdopen(outlet) as reader:
        log = threading.Thread(target=lambda: results.append(run_log(Session(10**9), 0.01, stream)))
        log.start()
        assert strict(reader.readline())[0]["state"] == "playing"
        reader.close()
        log.join(10)
        assert not log.is_alive()
    assert results == [""]


def test_a_closed_stream_ends_the_log() -> None:
    stream = io.StringIO()
    stream.close()
    assert run_log(Session(), 0.01, stream) == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is always full")
def test_a_full_disk_is_told_not_raised() -> None:
    with open("/dev/full", "w") as stream:  # noqa: PTH123
        problem = run_log(Session(10**9), 0.01, stream)
    assert "No space left" in problem
    assert "the sound goes on" in problem


def test_a_reader_that_leaves_early_hears_no_complaint() -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from support.live_log import Session\n"
        "from stemwire.screen.log import run_log; sys.exit(run_log(Session(10**9), 0.01) or 0)"
    )
    command = [sys.executable, "-c", code, str(TESTS)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert strict(process.stdout.readline().decode())[0]["state"] == "playing"
        process.stdout.close()
        assert process.wait(30) == 0
        assert process.stderr is not None
        assert process.stderr.read() == b""
