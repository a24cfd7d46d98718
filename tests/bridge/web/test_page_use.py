"""Use of the web page: keys, errors, layout, and its JavaScript against the specification."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

pytest.importorskip("msgspec")
pytest.importorskip("websockets")

from support import ROOT
from support.browser import need_chromium
from support.page_visit import (
    LIVE,
    OFF,
    SOUNDING,
    assert_clean,
    picture_folder,
    real_song,
    run_scenario,
    visit,
)
from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

from stemwire.bridge.protocol.messages import SUBPROTOCOL

need_chromium()
pytestmark = pytest.mark.slow


@pytest.fixture
def song(tmp_path: Path) -> Path:
    return real_song(tmp_path)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return picture_folder(tmp_path)


ALERT = "document.getElementById('alert').innerText"


def test_everything_can_be_done_with_keys(song: Path, pictures: Path) -> None:
    async def scenario() -> None:
        async with visit(song) as (page, _, _):
            mix = "stemwire.status().mix"
            await page.press("v")
            assert await page.run(f"{mix}.vocals") == 0
            await page.press("[", "[", "}", "b", "m")
            assert await page.run(mix) == {
                "vocals": -2, "instrumental": 1, "bypass": True, "mute": True
            }  # fmt: skip
            await page.press("b", "m", "v")
            assert await page.run(mix) == {
                "vocals": -48, "instrumental": 1, "bypass": False, "mute": False
            }  # fmt: skip
            await page.press("?")
            assert await page.run("document.getElementById('help').open")
            await page.picture(pictures / "help.png", 1280, 860)
            await page.press("s")  # the page's keys do not work in the help
            assert not await page.run("stemwire.status().running")
            await page.press("Escape")
            assert not await page.run("document.getElementById('help').open")
            # All controls are reachable with Tab, and the focus is visible.
            reached = []
            for _ in range(40):
                await page.press("Tab")
                reached.append(await page.run("document.activeElement.id"))
            for name in (
                "help-open",
                "device",
                "preset",
                "format",
                "vocals",
                "instrumental",
                "start",
                "record",
                "mute",
            ):
                assert name in reached
            await page.run("document.getElementById('vocals').focus()")
            await page.press("Home", "ArrowRight")
            assert await page.run(f"{mix}.vocals") == -47.5
            text = "document.getElementById('vocals').getAttribute('aria-valuetext')"
            assert await page.run(text) == "\N{MINUS SIGN}47.5 dB"
            outline = "getComputedStyle(document.activeElement).outlineStyle"
            assert await page.run(outline) == "solid"
            await page.picture(pictures / "focus.png", 1280, 860)
            await page.run("document.getElementById('start').focus()")
            await page.press("Enter")
            await page.until(SOUNDING)
            assert await page.run("document.getElementById('announce').textContent")
            await page.run("document.getElementById('start').focus()")
            await page.press(" ")
            await page.until(OFF)
            assert_clean(page)

    run_scenario(scenario())


def test_a_token_is_requested_and_kept(song: Path, pictures: Path) -> None:
    async def scenario() -> None:
        async with visit(song, tokens=("open sesame",)) as (page, _, _):
            await page.press("s")
            await page.until(f"{ALERT}.includes('token') && !stemwire.status().running")
            await page.picture(pictures / "token.png", 1280, 860)
            assert await page.run(CONTRAST) == []
            assert await page.run("document.activeElement.id") == "token"
            await page.call("Input.insertText", text="open sesame")
            await page.press("Enter")
            await page.until(LIVE)
            assert await page.run("document.getElementById('alert').hidden")
            assert await page.run(CONTRAST) == []
            await page.press("s")
            await page.until(OFF)
            await page.press("s")
            await page.until(LIVE)  # from the session storage
            assert_clean(page)

    run_scenario(scenario())


def test_tab_audio_and_reduced_motion(song: Path, pictures: Path) -> None:
    async def scenario() -> None:
        async with visit(song) as (page, _, _):
            still = [{"name": "prefers-reduced-motion", "value": "reduce"}]
            await page.call("Emulation.setEmulatedMedia", features=still)
            await page.run("document.querySelector('[name=source][value=display]').click()")
            await page.press("s")
            await page.until(SOUNDING)
            assert await page.run("stemwire.engine.source.label")
            pen = "document.querySelector('canvas').getContext('2d')"
            left = f"[...{pen}.getImageData(0, 0, 2, 99).data].join()"
            drawn = await page.run(left)
            await asyncio.sleep(1)
            assert await page.run(left) == drawn  # still images stay where they are drawn
            await page.press("s")
            await page.until(OFF)
            assert_clean(page, "Canvas2D")  # warns that reading back is slow

    run_scenario(scenario())


def test_error_messages(song: Path, pictures: Path) -> None:
    async def scenario() -> None:
        async with visit(song, deny=True) as (page, _, _):
            await page.press("s")
            await page.until(f"{ALERT}.includes('No permission')")
            await page.picture(pictures / "no-permission.png", 390, 844, phone=True)
            assert_clean(page)

        async with visit(song) as (page, server, _):
            await server.close()
            await page.press("s")
            await page.until(f"{ALERT}.includes('The server cannot be reached')")
            await page.until(OFF)
            await page.picture(pictures / "server-gone.png", 1280, 860, dark=True)
            assert_clean(page, "WebSocket connection", "Failed to load")

        async with visit(song, sessions=1) as (page, server, _):
            url = f"ws://127.0.0.1:{server.port}/stream"
            async with connect(url, subprotocols=[Subprotocol(SUBPROTOCOL)]) as other:
                hello = {"type": "hello", "version": 1, "rate": 48_000, "channels": 2}
                await other.send(json.dumps(hello | {"stems": ["vocals"]}))
                await other.recv()
                await page.press("s")
                await page.until(f"{ALERT}.includes('server is full')")
                await page.until(OFF)
                await other.send(json.dumps({"type": "goodbye"}))
            await page.press("s")
            await page.until(LIVE)

    run_scenario(scenario())


def test_late_stems_are_reported_until_they_are_on_time(song: Path, pictures: Path) -> None:
    async def scenario() -> None:
        async with visit(song) as (page, _, network):
            await page.press("s")
            await page.until(SOUNDING)
            network.freeze()
            await page.until(f"{ALERT}.includes('arrive too late')")
            assert await page.run("document.getElementById('connection').innerText") == "Too slow"
            await page.picture(pictures / "too-late.png", 1280, 860, whole=False)
            network.thaw()
            await page.until("document.getElementById('alert').hidden", 60)
            await page.press("s")
            await page.until(OFF, 60)
            assert_clean(page, "WebSocket connection")

    run_scenario(scenario())


CONTRAST = r"""(() => {
  const parse = (colour) => colour.match(/[\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b]
    .map((v) => v / 255).map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const back = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const poor = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || !element.checkVisibility() || element.closest(":disabled, option")) continue;
    const style = getComputedStyle(element);
    const [a, b] = [light(parse(style.color)), light(back(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) poor.push(`${element.id || element.className}: ${ratio.toFixed(2)}`);
  }
  return poor;
})()"""
SMALL = """[...document.querySelectorAll('button, select, [type=range], label.drop')]
  .filter((e) => e.checkVisibility() && e.getBoundingClientRect().height < 24).map((e) => e.id)"""


def test_accessible_names_contrast_and_sizes(pictures: Path) -> None:
    async def scenario() -> None:
        async with visit() as (page, _, _):
            for dark in (False, True):
                await page.picture(pictures / f"still-{dark}.png", 900, 1100, dark=dark)
                assert await page.run(CONTRAST) == []
            await page.picture(pictures / "narrow.png", 320, 640, phone=True)
            assert await page.run(SMALL) == []
            assert await page.run("document.documentElement.scrollWidth") <= 320
            await page.call("Accessibility.enable")
            nodes = (await page.call("Accessibility.getFullAXTree"))["nodes"]
            roles = set()
            for node in nodes:
                properties = (
                    {p["name"]: p["value"].get("value") for p in node["properties"]}
                    if ("properties" in node)
                    else {}
                )
                role = node.get("role", {}).get("value", "")
                roles.add(role)
                if properties.get("focusable") and role != "RootWebArea":
                    assert node.get("name", {}).get("value"), f"a {role} without a name"
            assert {"slider", "meter", "radio", "combobox", "main", "heading"} <= roles
            assert await page.run("document.querySelectorAll('[aria-live], [role=alert]').length")
            assert page.errors == []

    run_scenario(scenario())


JITTER = """(async () => {
  const { JitterBuffer } = await import("/static/jitter.js");
  const rate = 48000, buffer = new JitterBuffer(rate), seen = [];
  const play = (seconds, need, arrived = true) => {
    for (let i = 0; i < (seconds * rate) / 128; i++) {
      buffer.note(need(i), arrived, 128);
      if (buffer.surplus) buffer.leaveOut(Math.min(buffer.surplus, 240));
    }
    seen.push(buffer.delay);
  };
  play(1, () => 1000);                          // 0: settles
  play(2, (i) => (i === 300 ? 3000 : 1000));    // 1: late once: grows
  play(1.5, (i) => 1000 + 128 * i, false);      // 2: an outage: does not
  play(8, () => 1000);                          // 3: calm, but not for long enough
  play(60, () => 1000);                         // 4: shrinks, slowly
  play(3, (i) => 24000 + 200 * (i % 5));        // 5: always late from now on: grows to that
  return { seen, grown: buffer.grown, shrunk: buffer.shrunk };
})()"""


def test_the_jitter_buffer_grows_when_late_and_shrinks_slowly() -> None:
    async def scenario() -> None:
        async with visit() as (page, _, _):
            found = await page.run(JITTER)
        margin = 192
        settled, late, outage, calm, shrunk, again = found["seen"]
        assert settled == 1000 + margin
        assert late == outage == calm == settled + 0.04 * 48_000  # a step
        assert 1000 + margin <= shrunk < late
        assert again == 24800 + margin
        assert found["grown"] == 2 and found["shrunk"] > 2

    run_scenario(scenario())


CODEC = """(async (vectors) => {
  const { decode, decodeFrame, encodeFrame } = await import("/static/protocol.js");
  const wrong = [];
  const code = (work) => {
    try { work(); return null; } catch (error) { return error.code ?? String(error); }
  };
  const bytes = (text) =>
    new Uint8Array((text.match(/../g) ?? []).map((byte) => parseInt(byte, 16))).buffer;
  const hex = (data) =>
    [...new Uint8Array(data)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  const expect = (name, found, right) => {
    if (JSON.stringify(found) !== JSON.stringify(right)) wrong.push({ name, found, right });
  };
  for (const { name, from, text, means } of vectors.text) {
    if (from === "server") expect(name, decode(text).type, means.type);
  }
  for (const { name, from, text } of vectors.ignored) {
    if (from === "server") expect(name, decode(text), null);
  }
  for (const { name, from, text, error } of vectors.refused) {
    if (from === "server") expect(name, code(() => decode(text)), error);
  }
  for (const frame of vectors.frames) {
    const { name, format, kind, parts, channels, samples } = frame;
    const found = decodeFrame(bytes(frame.hex), format, kind, parts, channels);
    const flat = samples.flat(2);
    expect(name, [...found.samples], flat);
    for (const part of ["stream", "sequence", "position"]) expect(name, found[part], frame[part]);
    const header = { ...frame, count: samples[0][0].length };
    expect(name, hex(encodeFrame(header, Float32Array.from(flat), format)), frame.hex);
  }
  for (const { name, format, kind, parts, channels, hex: data, error } of vectors.refused_frames) {
    expect(name, code(() => decodeFrame(bytes(data), format, kind, parts, channels)), error);
  }
  const { samples, steps } = vectors.rounding;
  const header = { kind: 1, stream: 0, sequence: 0, position: 0, count: samples.length };
  const data = encodeFrame(header, Float32Array.from(samples), "s16");
  expect("rounding", [...new Int16Array(data, 24)], steps);
  return wrong;
})(%s)"""


def test_its_codec_matches_the_test_vectors() -> None:
    async def scenario() -> None:
        vectors = (ROOT / "tests" / "vectors" / "protocol-1.json").read_text(encoding="utf-8")
        async with visit() as (page, _, _):
            assert await page.run(CODEC % vectors) == []

    run_scenario(scenario())


def test_the_audio_thread_conceals_and_changes_its_delay_without_a_click() -> None:
    async def scenario() -> None:
        script = (ROOT / "tests" / "support" / "page_worklet.js").read_text(encoding="utf-8")
        async with visit() as (page, _, _):
            found = await page.run(script)
        # Two tones of amplitude 0.3 change by at most 0.0163 per sample; a click by far more.
        for name, result in found.items():
            assert result["jump"] < 0.022, name
            assert result["whole"], name
        calm = found["calm"]
        assert calm["underruns"] == calm["gaps"] == calm["concealed"] == 0
        assert calm["karaoke"] < 1e-6
        assert 500 + 275 < calm["first"] == calm["last"] < 500 + 2 * 275 + 3 * 128 + 192
        spike = found["spike"]
        assert (spike["underruns"], spike["grown"]) == (1, 1)
        assert spike["last"] > spike["first"] + 1000
        assert spike["before"] < 1e-6 and spike["after"] < 1e-6
        outage = found["outage"]
        assert (outage["underruns"], outage["grown"]) == (1, 0)
        assert outage["original"] < 1e-6 and outage["after"] < 1e-6
        assert outage["concealed"] == pytest.approx(1.5 * 48_000, rel=0.05)
        lost = found["lost"]
        assert lost["underruns"] == 1
        assert (lost["gaps"], lost["grown"]) == (1, 0)
        assert 30 * 275 <= lost["concealed"] < 30 * 275 + 512
        assert lost["after"] < 1e-6
        calmer = found["calmer"]
        assert calmer["shrunk"] > 3 and calmer["underruns"] == 0
        assert calmer["last"] < calmer["first"] - 3000
        assert calmer["after"] < 1e-6
        assert found["ab"]["original"] < 1e-6 and found["ab"]["half"] < 1e-6
        assert found["preset"]["latency"] == 275
        assert found["preset"]["original"] < 1e-6

    run_scenario(scenario())
