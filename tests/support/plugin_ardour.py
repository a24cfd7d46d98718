"""Ardour without its UI: a session with the plugin on one of two tracks, and its export.

song = music(4 * 44_100, 44_100)
mix = render(folder, built, song, "ws://127.0.0.1:8765", {"Vocals": 0.0})
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from support import Audio, read_audio, write_audio
from support.plugin_build import Built

RATE = 44_100
SUPERCLOCK = 282_240_000  # ticks of Ardour's time in a second
SCANNER = Path("/usr/lib/ardour7/ardour-vst3-scanner")
PARAMETERS = ("Vocals", "Instrumental", "Bypass", "Preset", "Delay", "Server", "Autostart")

# Two tracks, the plugin on the first. With strict I/O a track stays stereo, whatever outputs a
# plugin has. Commands run in order, except for work in Ardour's own threads.
SCRIPT = """
AudioEngine:set_backend("None (Dummy)", "", "")
local s = create_session("{session}", "session", {rate})
for _, name in ipairs({{"wet", "dry"}}) do
  s:new_audio_track(2, 2, nil, 1, name, ARDOUR.PresentationInfo.max_order,
                    ARDOUR.TrackMode.Normal, true)
end
local route = s:route_by_name("wet")
route:set_strict_io(true)
local plugin = ARDOUR.LuaAPI.new_plugin(s, "Stemwire", ARDOUR.PluginType.VST3, "")
if plugin:isnil() then error("Ardour has not found the plugin") end
route:add_processor_by_index(plugin, 0, nil, true)
{settings}
sleep(1)
io.stderr:write("latency ", plugin:to_insert():signal_latency(), "\\n")
s:save_state("")
close_session()
quit()
"""


def need_ardour() -> None:
    """Skip the test, or all tests of a file if called at its top, without Ardour 7."""
    for program in ("ardour7-lua", "ardour7-export"):
        if shutil.which(program) is None or not SCANNER.is_file():
            pytest.skip(
                "Ardour 7 is not installed: apt-get install ardour", allow_module_level=True
            )


def _run(command: list[object], environment: dict[str, str]) -> str:
    done = subprocess.run(
        list(map(str, command)),
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout + done.stderr


def _install(home: Path, built: Built, environment: dict[str, str]) -> None:
    """Install the plugin where Ardour looks, and let Ardour scan it."""
    bundle = home / ".vst3" / "Stemwire.vst3"
    shutil.copytree(built.bundle, bundle)
    for module in bundle.rglob("*.so"):
        os.utime(module, (0, 10**9))  # the scan must be newer than the plugin
    libraries = {"LD_LIBRARY_PATH": str(SCANNER.parent)}
    _run([SCANNER, "-f", bundle], environment | libraries)
    for cached in (home / ".cache" / "ardour7" / "vst").iterdir():
        os.utime(cached)


def _add_song(session: Path, song: Audio) -> None:
    """Put a song at the start of both tracks; Ardour's own importer needs its UI."""
    files = session / "interchange" / "session" / "audiofiles"
    write_audio(files / "song.wav", song, RATE, "FLOAT")
    file = session / "session.ardour"
    tree = ET.parse(file)
    root = tree.getroot()

    def add(parent: str, tag: str, **attributes: object) -> None:
        element = root.find(parent)
        assert element is not None
        ET.SubElement(element, tag, {k.replace("_", "-"): str(v) for k, v in attributes.items()})

    length = song.shape[1] * SUPERCLOCK // RATE
    for channel in (0, 1):
        source = {"id": 9_001 + channel, "channel": channel, "gain": 1}
        texts = {"name": "song.wav", "origin": "song.wav", "type": "audio"}
        add("Sources", "Source", **source, **texts, flags="", take_id="")
    playlists = root.find("Playlists")
    assert playlists is not None
    for index, playlist in enumerate(playlists):
        ET.SubElement(playlist, "Region", {
            "id": str(9_100 + index), "name": "song", "type": "audio", "opaque": "1",
            "start": "a0", "position": "a0", "length": f"a{length}@a0", "sync-position": "a0",
            "fade-in-active": "0", "fade-out-active": "0", "scale-amplitude": "1", "channels": "2",
            "source-0": "9001", "source-1": "9002", "first-edit": "nothing",
            "master-source-0": "9001", "master-source-1": "9002",
        })  # fmt: skip
    span = {"start": "a0", "end": f"a{length}", "flags": "IsSessionRange"}
    add("Locations", "Location", id=9_200, name="session", **span)
    root.set("id-counter", "10000")
    tree.write(file, encoding="UTF-8", xml_declaration=True)


def render(
    folder: Path, built: Built, song: Audio, url: str, settings: dict[str, float]
) -> tuple[Audio, int]:
    """Export a session with a song on two tracks, one with the plugin and one without.

    Args:
        folder: empty folder, the home folder for Ardour.
        built: build of the plugin.
        song: float32 (2, n) at 44.1 kHz.
        url: address of the server.
        settings: parameters of the plugin by name, in dB or as an index of a list.

    Returns:
        The sum of both tracks, float32 (2, n), and the plugin's latency in Ardour, in samples.
    """
    home, session, output = folder / "home", folder / "session", folder / "out.wav"
    home.mkdir(parents=True)
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("XDG_") or "STATE" in k}
    environment = {**inherited, "HOME": str(home), "LANG": "C", "STEMWIRE_PLUGIN_SERVER": url}
    _install(home, built, environment)
    script = folder / "make.lua"
    lines = [
        f"ARDOUR.LuaAPI.set_processor_param(plugin, {PARAMETERS.index(name)}, {value})"
        for name, value in settings.items()
    ]
    script.write_text(SCRIPT.format(session=session, rate=RATE, settings="\n".join(lines)))
    printed = _run(["ardour7-lua", script], environment)
    _add_song(session, song)
    _run(["ardour7-export", "-b", "float", "-o", output, session, "session"], environment)
    latency = next(line for line in printed.splitlines() if line.startswith("latency "))
    return np.asarray(read_audio(output), np.float32), int(latency.split()[1])
