"""A client of the plugin's network thread, without a host, for the tests of it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import stemwire
from support import Audio, music, random_separator, tiny_config
from support.bridge_server import make_preset
from support.plugin_build import build

RATE, DELAY_MS = 44_100, 100
LIVE = {"pace": 0.5, "delay": 400}  # half of real time: tests run on busy machines
SONG = music(2 * RATE, RATE)
LOG = "plugin.log"


def make_presets(folder: Path) -> tuple[str, str]:
    """Small ones with the names of those that ship; `low` is less late than `standard`."""
    from stemwire.model.checkpoint import save_checkpoint
    from stemwire.training.trainer.export import export_preset

    shutil.copytree(make_preset(folder), folder / "standard")
    network = tiny_config(analysis_window=256, hop=128, bands=((8, 16),))
    save_checkpoint(random_separator(network), folder / "low.safetensors")
    card = {"description": "random weights", "licence": "MIT"}
    export_preset(folder / "low.safetensors", folder / "low", card)
    return str(folder / "standard"), str(folder / "low")


@dataclass
class Ran:
    """What came of a client.

    Attributes:
        stems: float32 (2, channels, n), NaN where they did not come in time.
    """

    stems: Audio
    failed: bool
    dry: int
    lost: int
    reconnects: int
    resumes: int
    closing: float
    code: str
    text: str
    log: str

    @property
    def begin(self) -> int:
        """The first sample that was separated."""
        return int(np.flatnonzero(~np.isnan(self.stems[0, 0]))[0])


@dataclass
class Client:
    """A `network_client` at work, in an environment of its own.

    Attributes:
        environment: more variables.
    """

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    def start(
        self, url: str, audio: Audio = SONG, rate: int = RATE, block: int = 512,
        delay: float = DELAY_MS, **options: object,
    ) -> Callable[[], Ran]:  # fmt: skip
        """Begin; what is returned waits for the end."""
        given, came, log = (self.folder / name for name in ("in.raw", "out.raw", LOG))
        log.unlink(missing_ok=True)
        given.write_bytes(np.ascontiguousarray(audio.T).tobytes())
        words = [url, rate, audio.shape[0], block, delay, given, came, "log", log]
        process = subprocess.Popen(
            [str(build().program("network_client")),
             *map(str, (*words, *(x for pair in options.items() for x in pair)))],
            env={**os.environ, **self.environment}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

        def end() -> Ran:
            out, errors = process.communicate(timeout=90)
            assert process.returncode in (0, 1), (process.returncode, errors)
            stems = np.fromfile(came, np.float32).reshape(-1, 2, audio.shape[0])
            return Ran(stems.transpose(1, 2, 0), **json.loads(out), log=log.read_text())

        return end

    def run(self, url: str, audio: Audio = SONG, **options: Any) -> Ran:
        return self.start(url, audio, **options)()


def make_client(folder: Path) -> Client:
    """Nothing of this computer's user is read or written."""
    names = ("XDG_STATE_HOME", "XDG_CONFIG_HOME", "STEMWIRE_RUNTIME_DIR", "HOME")
    return Client(folder, {name: str(folder / name.lower()) for name in names})


def offline(audio: Audio, preset: str, rate: int = RATE) -> Audio:
    """Stems of the whole, (2, channels, n), aligned with it."""
    separator = stemwire.load(preset, rate, audio.shape[0])
    stems = np.concatenate((separator.push(audio), separator.flush()), 2)
    return np.asarray(stems[..., separator.latency : separator.latency + audio.shape[1]])


def aligned(stems: Audio, audio: Audio) -> Audio:
    """Where stems sum to the mixture, bool (n,): what is shifted by a sample does not."""
    return np.asarray((np.abs(stems.sum(0) - audio) < 1e-4).all(0))


def assert_there(stems: Audio, expected: Audio, least: float) -> None:
    """What came is right to the bit; some may be late, for tests run on busy machines."""
    there = ~np.isnan(stems)
    np.testing.assert_array_equal(stems[there], expected[there])
    assert there.mean() >= least, there.mean()
