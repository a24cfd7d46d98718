"""Visits to the web page with browser, server and network."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
import os
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

import stemwire
from stemwire.bridge.server.config import ServerConfig
from stemwire.bridge.server.server import Server
from support import ROOT, Audio
from support.browser import Page, browser
from support.tcp_proxy import TcpProxy

PICTURES = "STEMWIRE_PICTURES"  # environment variable: folder for screenshots
DOWNLOAD = """(async () => {
  const blob = stemwire.recordings.at(-1).files[%s];
  const reader = new FileReader();
  await new Promise((done) => { reader.onload = done; reader.readAsDataURL(blob); });
  return reader.result.split(",")[1];
})()"""
LIVE = "stemwire.status().connection.state === 'live'"
SOUNDING = "stemwire.status().sounding"
OFF = "!stemwire.status().running"


@contextlib.asynccontextmanager
async def visit(
    microphone: Path | None = None, deny: bool = False, **config: Any
) -> AsyncIterator[tuple[Page, Server, TcpProxy]]:
    """Open the page in a browser; the network before the server can be cut."""
    # A busy machine must not make the server refuse.
    settings = ServerConfig(host="127.0.0.1", port=0, threads=1, load=100.0, **config)
    async with (
        Server(settings) as server,
        TcpProxy(server.port) as network,
        browser(microphone, deny) as page,
    ):
        await page.go(f"http://127.0.0.1:{network.port}/")
        yield page, server, network


async def cut(network: TcpProxy, seconds: float) -> None:
    """Cut all connections, and refuse new ones for a while."""
    network.refusing = True
    network.cut()
    await asyncio.sleep(seconds)
    network.refusing = False


def run_scenario(scenario: Coroutine[Any, Any, None]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(240):
            await scenario

    asyncio.run(limited())


def real_song(folder: Path) -> Path:
    """Write a real song with 16 bits, as a file for the microphone."""
    audio, rate = soundfile.read(ROOT / "examples" / "excerpt.opus", dtype="float32")
    soundfile.write(folder / "song.wav", 0.7 * audio, rate, "PCM_16")
    return folder / "song.wav"


def picture_folder(default: Path) -> Path:
    """Folder for screenshots."""
    folder = Path(os.environ.get(PICTURES, default))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


async def record(page: Page) -> dict[str, Audio]:
    """Newest recording of the page, by file, each float32 (2, n)."""
    found = {}
    for name in ("mixture", "vocals", "instrumental", "mix"):
        data = base64.b64decode(await page.run(DOWNLOAD % json.dumps(name)))
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            assert (file.format, file.subtype) == ("WAV", "FLOAT")
            found[name] = file.read(dtype="float32", always_2d=True).T
    return found


def offline(mixture: Audio, rate: int, preset: str = "standard") -> Audio:
    """Stems that `stemwire separate` would write, float32 (2, 2, n)."""
    separator = stemwire.load(preset, rate, 2)
    whole = np.concatenate((separator.push(np.ascontiguousarray(mixture)), separator.flush()), 2)
    return whole[..., separator.latency :]


# Errors of the browser to expect after cut connections; it may request the icon at any time.
CUT = "WebSocket connection", "/static/icon.svg"


def assert_clean(page: Page, *allowed: str) -> None:
    """Check that there were no other errors, and no requests to other hosts."""
    errors = [error for error in page.errors if not any(part in error for part in allowed)]
    assert not errors, errors
    strange = [url for url in page.requests if "://127.0.0.1:" not in url]
    assert [url for url in strange if not url.startswith(("blob:http://127.0.0.1", "data:"))] == []
