"""A headless Chromium, controlled over the DevTools protocol, with a file as its microphone."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless=new", "--no-sandbox", "--no-first-run", "--disable-gpu", "--disable-dev-shm-usage",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--remote-debugging-port=0", "--autoplay-policy=no-user-gesture-required",
    "--use-fake-device-for-media-stream", "--hide-scrollbars",
)  # fmt: skip
ALLOW, DENY = "--use-fake-ui-for-media-stream", "--deny-permission-prompts"
ATTACH = {"autoAttach": True, "waitForDebuggerOnStart": True, "flatten": True}
KEYS = {
    "Enter": ("Enter", 13),
    "Tab": ("Tab", 9),
    " ": ("Space", 32),
    "Escape": ("Escape", 27),
    "ArrowRight": ("ArrowRight", 39),
    "ArrowLeft": ("ArrowLeft", 37),
    "Home": ("Home", 36),
    "End": ("End", 35),
}


def need_chromium() -> str:
    """Path of the browser; skips the test if there is none."""
    for name in PROGRAMS:
        if (path := shutil.which(name)) is not None:
            return path
    pytest.skip("no Chromium here; on Debian: apt-get install chromium")


class Page:
    """A page of the browser.

    Attributes:
        errors: exceptions, and errors and warnings on the console.
        requests: URLs that were requested, including websockets.
    """

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._loaded = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self.errors: list[str] = []
        self.requests: list[str] = []

    async def open(self) -> None:
        """Subscribe to the events of the page and its workers."""
        await self.call("Target.setAutoAttach", **ATTACH)
        for domain in ("Page", "Runtime", "Network", "Log", "DOM"):
            await self.call(f"{domain}.enable")

    async def listen(self) -> None:
        """Receive messages from the browser until it ends."""
        with contextlib.suppress(ConnectionClosed):
            async for text in self._socket:
                message = json.loads(text)
                if (number := message.get("id")) is not None:
                    waiting = self._waiting.pop(number)
                    if not waiting.done():
                        waiting.set_result(message)
                else:
                    self._event(message["method"], message["params"])

    def _event(self, method: str, params: dict[str, Any]) -> None:
        if method == "Page.loadEventFired":
            self._loaded.set()
        elif method == "Target.attachedToTarget":
            task = asyncio.create_task(self._listen_to(params["sessionId"]))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Network.webSocketCreated":
            self.requests.append(params["url"])
        elif method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            text = details.get("exception", {}).get("description", details["text"])
            self.errors.append(f"exception: {text}")
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            self.errors.append(f"console: {params['args']}")
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.errors.append(f"log: {params['entry']['text']} {params['entry'].get('url', '')}")

    async def _listen_to(self, worker: str) -> None:
        """Subscribe to the events of a worker, and let it run."""
        for method in ("Runtime.enable", "Network.enable", "Log.enable"):
            with contextlib.suppress(AssertionError):  # not every kind of worker supports all
                await self.call(method, worker)
        await self.call("Runtime.runIfWaitingForDebugger", worker)

    async def call(self, method: str, worker: str = "", **params: Any) -> dict[str, Any]:
        """Send a command of the DevTools protocol to the page or a worker; returns its result."""
        number = next(self._numbers)
        self._waiting[number] = asyncio.get_running_loop().create_future()
        command = {"id": number, "method": method, "params": params}
        await self._socket.send(json.dumps(command | ({"sessionId": worker} if worker else {})))
        async with asyncio.timeout(60):
            answer = await self._waiting[number]
        assert "error" not in answer, f"{method}: {answer['error']}"
        return dict(answer["result"])

    async def go(self, url: str) -> None:
        """Load a page."""
        self._loaded.clear()
        await self.call("Page.navigate", url=url)
        async with asyncio.timeout(30):
            await self._loaded.wait()

    async def run(self, expression: str) -> Any:
        """Evaluate an expression in the page, awaiting promises; returns its value."""
        result = await self.call(
            "Runtime.evaluate",
            expression=expression,
            awaitPromise=True,
            returnByValue=True,
            userGesture=True,
        )
        assert "exceptionDetails" not in result, f"{expression}: {result['exceptionDetails']}"
        return result["result"].get("value")

    async def until(self, expression: str, seconds: float = 20.0) -> Any:
        """Wait until an expression is true; returns its value."""
        end = asyncio.get_running_loop().time() + seconds
        while not (value := await self.run(expression)):
            now = asyncio.get_running_loop().time()
            assert now < end, f"{expression} did not become true; {self.errors}"
            await asyncio.sleep(0.05)
        return value

    async def press(self, *keys: str) -> None:
        """Press keys one after another: characters, or names in `KEYS`."""
        for key in keys:
            code, number = KEYS.get(key, ("", 0))
            text = {"Enter": "\r"}.get(key, key) if len(key) == 1 or key == "Enter" else ""
            event = {"key": key, "code": code, "windowsVirtualKeyCode": number}
            await self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **event)
            await self.call("Input.dispatchKeyEvent", type="keyUp", **event)

    async def picture(
        self,
        path: Path,
        width: int,
        height: int,
        *,
        dark: bool = False,
        phone: bool = False,
        whole: bool = True,
        settle: float = 2.5,
    ) -> None:
        """Save a screenshot of the page, of its whole length if `whole`.

        Spectrograms restart when their size or colours change, so it waits `settle` seconds.
        """
        look = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        await self.call("Emulation.setEmulatedMedia", features=look)
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if phone else 1,
            mobile=phone,
        )
        if whole:
            await asyncio.sleep(0.2)
            height = max(height, await self.run("document.documentElement.scrollHeight"))
            await self.call(
                "Emulation.setDeviceMetricsOverride",
                width=width,
                height=height,
                deviceScaleFactor=2 if phone else 1,
                mobile=phone,
            )
        await asyncio.sleep(settle)
        data = (await self.call("Page.captureScreenshot", format="png"))["data"]
        path.write_bytes(base64.b64decode(data))

    async def choose_file(self, selector: str, path: Path) -> None:
        """Select a file in an input element."""
        root = (await self.call("DOM.getDocument"))["root"]["nodeId"]
        node = (await self.call("DOM.querySelector", nodeId=root, selector=selector))["nodeId"]
        await self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path)])


@contextlib.asynccontextmanager
async def browser(microphone: Path | None = None, deny: bool = False) -> AsyncIterator[Page]:
    """A browser with one empty page.

    Args:
        microphone: WAV file that the microphone plays once; beeps if there is none.
        deny: whether pages are denied the microphone.
    """
    program = need_chromium()
    flags = [DENY if deny else ALLOW]
    if microphone is not None:
        flags.append(f"--use-file-for-fake-audio-capture={microphone}%noloop")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [program, *FLAGS, *flags, f"--user-data-dir={profile}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            address = await _address(Path(profile) / "DevToolsActivePort", process)
            async with connect(address, max_size=None, compression=None) as socket:
                page = Page(socket)
                listening = asyncio.create_task(page.listen())
                await page.open()
                yield page
                listening.cancel()
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


async def _address(file: Path, process: subprocess.Popen[bytes]) -> str:
    """URL of the DevTools websocket of the empty page."""
    for _ in range(600):
        assert process.poll() is None, f"the browser ended with {process.returncode}"
        with contextlib.suppress(OSError, ValueError, IndexError, StopIteration):
            port = int(file.read_text().splitlines()[0])
            targets = json.loads(
                await asyncio.to_thread(_read, f"http://127.0.0.1:{port}/json/list")
            )
            return str(next(t["webSocketDebuggerUrl"] for t in targets if t["type"] == "page"))
        await asyncio.sleep(0.1)
    raise AssertionError("the browser did not start")


def _read(url: str) -> bytes:
    with urlopen(url) as answer:
        return bytes(answer.read())
