"""The plugin's network thread without a host, for its tests."""

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
    """Small presets named as those that ship; `low` has less latency than `standard`."""
    from stemwire.model.checkpoint import save_checkpoint
    from stemwire.training.trainer.export import export_preset

    shutil.copytree(make_preset(folder), folder / "standard")
    network = tiny_config(analysis_window=256, hop=128, bands=((8, 16),))
    save_checkpoint(random_separator(network), folder / "low.safetensors")
    card = {"description": "random weights", "licence": "MIT"}
    export_preset(folder / "low.safetensors", folder / "low", card)
    return str(folder / "standard"), str(folder / "low")


@dataclass
class ClientResult:
    """Result of a `network_client`; the other attributes are those of its JSON report.

    Attributes:
        stems: float32 (2, channels, n), NaN where they were late.
        log: contents of `plugin.log`.
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
    def first_separated(self) -> int:
        """Index of the first separated sample."""
        return int(np.flatnonzero(~np.isnan(self.stems[0, 0]))[0])


@dataclass
class Client:
    """Runs `network_client` in an environment of its own.

    Attributes:
        folder: folder for its files.
        environment: additional variables.
    """

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    def start(
        self,
        url: str,
        audio: Audio = SONG,
        rate: int = RATE,
        block: int = 512,
        delay: float = DELAY_MS,
        **options: object,
    ) -> Callable[[], ClientResult]:
        """Start the client; the returned function waits for its result."""
        given, separated, log = (self.folder / name for name in ("in.raw", "out.raw", LOG))
        log.unlink(missing_ok=True)
        given.write_bytes(np.ascontiguousarray(audio.T).tobytes())
        words = [build().program("network_client"), url, rate, audio.shape[0], block, delay]
        words += [given, separated, "log", log]
        words += [word for option in options.items() for word in option]
        process = subprocess.Popen(
            list(map(str, words)),
            env={**os.environ, **self.environment},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

        def end() -> ClientResult:
            out, errors = process.communicate(timeout=90)
            assert process.returncode in (0, 1), (process.returncode, errors)
            stems = np.fromfile(separated, np.float32).reshape(-1, 2, audio.shape[0])
            return ClientResult(stems.transpose(1, 2, 0), **json.loads(out), log=log.read_text())

        return end

    def run(self, url: str, audio: Audio = SONG, **options: Any) -> ClientResult:
        return self.start(url, audio, **options)()


def make_client(folder: Path) -> Client:
    """A client that neither reads nor writes the files of this computer's user."""
    names = ("XDG_STATE_HOME", "XDG_CONFIG_HOME", "STEMWIRE_RUNTIME_DIR", "HOME")
    return Client(folder, {name: str(folder / name.lower()) for name in names})


def separate_offline(audio: Audio, preset: str = "standard", rate: int = RATE) -> Audio:
    """Stems of `audio`, float32 (2, channels, n), aligned with it."""
    separator = stemwire.load(preset, rate, audio.shape[0])
    stems = np.concatenate((separator.push(audio), separator.flush()), 2)
    return np.asarray(stems[..., separator.latency : separator.latency + audio.shape[1]])


def sums_to(stems: Audio, audio: Audio) -> Audio:
    """Whether stems sum to the mixture, bool (n,); a shift of one sample makes it false."""
    return np.asarray((np.abs(stems.sum(0) - audio) < 1e-4).all(0))


def assert_exact(stems: Audio, expected: Audio, minimum: float) -> None:
    """All stems present are bit-exact, and at least the fraction `minimum` of samples is present.

    Some may be late, because tests run on busy machines.
    """
    present = ~np.isnan(stems)
    np.testing.assert_array_equal(stems[present], expected[present])
    assert present.mean() >= minimum, present.mean()
