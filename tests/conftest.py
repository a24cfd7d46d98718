"""How the tests run, and the data and presets that several of them use."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from support import TESTS, Library, music, noise, random_preset, tiny_config

import stemwire

# Programs started in the background are told to ignore Ctrl-C; those that tests start must not.
signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # small networks: more threads only wait

settings.register_profile(
    "stemwire", deadline=None, max_examples=30, print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)  # fmt: skip
settings.load_profile("stemwire")

# Where slow tests run beside others too: they neither watch the clock nor hold devices or ports.
UNTIMED = (
    "model",
    "training",
    "realtime/backends",
    "realtime/test_streaming.py",
    "bridge/protocol",
)
# What has the machine for itself in any case: browsers, sound cards, measured memory, signals.
ALONE = (
    "bridge/web", "realtime/live/test_session.py", "test_memory.py",
    "training/trainer/test_runs.py", "training/tools/test_instrumentals.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs the machine for itself."""
    for item in items:
        path = item.path.relative_to(TESTS)
        slow = item.get_closest_marker("slow") is not None
        timed = slow and not any(path.is_relative_to(place) for place in UNTIMED)
        if timed or any(path.is_relative_to(place) for place in ALONE):
            item.add_marker(pytest.mark.alone)


@pytest.fixture
def preset_copy(tmp_path: Path) -> Path:
    """A shipped preset's folder, copied, to be damaged at will."""
    shipped = min(stemwire.presets(), key=lambda preset: preset.size)
    return Path(shutil.copytree(shipped.folder, tmp_path / "mine"))


@pytest.fixture(scope="session")
def tiny_preset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Preset folder of a tiny random network, for what need not sound."""
    return random_preset(tmp_path_factory.mktemp("tiny"), tiny_config())


@pytest.fixture(scope="session")
def ahead_preset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Likewise, of one that looks ahead and filters several frames."""
    config = tiny_config(analysis_window=512, hop=256, bands=((16, 16),), lookahead=3, taps=2)
    return random_preset(tmp_path_factory.mktemp("ahead"), config)


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path / "recordings")


@pytest.fixture(scope="session")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Training data as it lies on disk: two songs, a solo voice, an instrumental, and a manifest.

    All music stays below 1200 Hz and all vocals have partials above.
    """
    library = Library(tmp_path_factory.mktemp("recordings"))
    for number, rate in enumerate((8_000, 11_025)):
        time = np.arange(24 * rate) / rate
        more = {"rate": rate, "bandwidth_hz": 3500 - 100 * number}
        stems = []
        for pitch in (1500, 300):
            tone = np.sin(2 * np.pi * (pitch + 40 * number) * time) * (1 + np.sin(3 * time)) * 0.1
            stems.append(np.stack((tone, 0.7 * tone)).astype(np.float32))
        library.pair(f"song{number}", *stems, **more)
        library.add(f"song{number}/mixture.wav", "mixture", sum(stems), **more)
    solo = music(8_000 * 10, 8_000, 1)
    library.add("solo/voice 1.wav", "vocals", solo, bandwidth_hz=2500, boundaries_s="2.5 7")
    library.add("band/tune.flac", "accompaniment", noise(8_000 * 8, 2))
    library.add("band/other.flac", "accompaniment", noise(8_000 * 8, 2), split="test")
    return library.write_csv()


@pytest.fixture(scope="session")
def manifest(recordings: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `stemwire data scan` makes of `recordings`."""
    from stemwire.training.data.scan import scan

    path = tmp_path_factory.mktemp("manifest") / "songs.jsonl"
    scan([recordings], path)
    return path
