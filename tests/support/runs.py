"""Training runs, read back from their folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def log_of(run: Path) -> list[dict[str, Any]]:
    """Records of a run's log, one for each validation."""
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
