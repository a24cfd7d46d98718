"""`stemwire live`: karaoke from a sound card, and `--check`, which prints what will work."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import math
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from stemwire.errors import ConfigError
from stemwire.extras import LIVE, extra
from stemwire.realtime.levels import OFF

if TYPE_CHECKING:
    from stemwire.bridge.midi.control import MidiControl
    from stemwire.commands.preferences import Preferences
    from stemwire.realtime.live.session import LiveSession

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

BLOCK = 512  # samples: one hop of `standard` at 44.1 kHz, so that no buffering is added
LOG_S = 1.0


def level(text: str) -> float:
    """A level in dB from the command line; "off" and "-inf" are silence."""
    if text.lower() in ("off", "-inf"):
        return OFF
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def channel_list(text: str) -> tuple[int, ...]:
    """Channels such as "1,2" or "3"; "none" is no channel."""
    if text.lower() in ("none", ""):
        return ()
    return tuple(int(part) for part in text.split(","))


def add_parsers(commands: Commands, common: argparse.ArgumentParser) -> None:
    """Add `live` to the `stemwire` command.

    Options whose `dest` is a field of `Preferences` override the saved setting.
    """
    parser = commands.add_parser(
        "live",
        parents=[common],
        help="karaoke: sound card in, vocals down, sound card out",
        description="Take music from a sound card, turn the vocals (or the instruments) down and "
        "play it. Settings are saved for the next run. Without a terminal, or with --no-ui, the "
        "status is printed as a line of JSON every second.",
    )
    device = parser.add_argument_group("devices (see `stemwire devices`)")
    device.add_argument(
        "--input",
        dest="input_device",
        metavar="DEV",
        help="input device: number, name, part of a name, or name@api",
    )
    device.add_argument(
        "--output", dest="output_device", metavar="DEV", help="output device, likewise"
    )
    device.add_argument(
        "--rate",
        dest="sample_rate",
        type=int,
        metavar="RATE",
        help="sample rate in Hz (0: the output's default)",
    )
    device.add_argument("--block-size", type=int, metavar="N", help=f"samples per block ({BLOCK})")
    device.add_argument(
        "--music",
        dest="input_channels",
        type=channel_list,
        metavar="CH",
        help="input channels with the music (1,2)",
    )
    device.add_argument(
        "--microphone",
        dest="microphone_channels",
        type=channel_list,
        metavar="CH",
        help="input channels with the singer (none)",
    )
    device.add_argument(
        "--speakers",
        dest="output_channels",
        type=channel_list,
        metavar="CH",
        help="output channels to play to (1,2)",
    )
    sound = parser.add_argument_group("sound")
    sound.add_argument(
        "--vocals", dest="vocals_db", type=level, metavar="DB", help="level of the vocals (off)"
    )
    sound.add_argument(
        "--instrumental",
        dest="instrumental_db",
        type=level,
        metavar="DB",
        help="level of the instrumental (0)",
    )
    sound.add_argument(
        "--microphone-level",
        dest="microphone_db",
        type=level,
        metavar="DB",
        help="level of the microphone (0)",
    )
    sound.add_argument(
        "--effect",
        action="append",
        default=[],
        metavar="STEM=CHAIN",
        help="effects of vocals, instrumental or microphone, such as "
        "'microphone=HighpassFilter | Reverb room_size=0.5', or a .vst3; STEM= removes them; by "
        "default the microphone has a little reverb",
    )
    sound.add_argument("--preset", help="name or folder of the preset (standard)")
    sound.add_argument("--backend", help="auto, native, onnx, torch or cuda (auto)")
    sound.add_argument(
        "--margin",
        type=int,
        metavar="N",
        help="samples of margin for the separation, at least a block; more adds latency and is "
        "safer (0: as many as make the latency two hops and a block)",
    )
    sound.add_argument("--record", type=Path, metavar="DIR", help="record stems and mix to DIR")
    parser.add_argument(
        "--midi",
        dest="midi_port",
        metavar="PORT",
        help="MIDI port to take controls from, 'all', or 'virtual' to open one",
    )
    parser.add_argument(
        "--midi-map",
        metavar="MAP",
        help="MIDI map: default, mackie or a file (the learned map, or default)",
    )
    parser.add_argument("--no-ui", action="store_true", help="print JSON lines, no screen")
    parser.add_argument(
        "--in-process", action="store_true", help="play in this process instead of a separate one"
    )
    parser.add_argument(
        "--freewheel",
        action="store_true",
        help="wait for every block, for sound servers that run faster than real time",
    )
    parser.add_argument("--seconds", type=float, help="stop after SECONDS")
    parser.add_argument("--forget", action="store_true", help="ignore the saved settings")
    parser.add_argument(
        "--check",
        action="store_true",
        help="measure latency and speed, and print which settings will work",
    )
    parser.set_defaults(run=_live)


def _live(args: argparse.Namespace) -> int:
    extra("platformdirs", "stemwire live", LIVE)
    if args.check or args.in_process:
        extra("sounddevice", "stemwire live", LIVE)  # otherwise only the playing process imports it
    from stemwire.commands.preferences import Preferences

    preferences = _preferences(args, Preferences() if args.forget else Preferences.load())
    if args.check:
        from stemwire.realtime.live.check import check

        return check(
            preferences.input_device or None,
            preferences.output_device or None,
            preferences.sample_rate or None,
        )
    session = _create_session(args, preferences)
    screen = not args.no_ui and sys.stdout.isatty() and sys.stdin.isatty()
    if screen:
        extra("textual", "the screen", LIVE)
    with session, _midi(preferences, session) as midi:
        if args.seconds is not None:
            threading.Thread(target=_stop_after, args=(session, args.seconds), daemon=True).start()
        with contextlib.suppress(KeyboardInterrupt):
            _show(session, midi, screen)
        _save_preferences(session, preferences, midi)
    for message in session.messages():  # about the end of the session
        print(f"stemwire: {message}", file=sys.stderr)
    session.wait(0)  # raises the error that ended it, if any
    return 0


def _show(session: LiveSession, midi: MidiControl | None, screen: bool) -> None:
    """Run screen or log until the user or the session ends it; if it fails, the sound goes on."""
    if screen:
        from stemwire.screen.screen import run_screen

        problem = run_screen(session, midi)
    else:
        from stemwire.screen.log import run_log

        problem = run_log(session, LOG_S)
    if problem:
        print(f"stemwire: {problem}; press Ctrl-C to stop", file=sys.stderr)
        session.wait()


def _stop_after(session: LiveSession, seconds: float) -> None:
    if not session.wait(seconds):
        session.stop()


def _preferences(args: argparse.Namespace, saved: Preferences) -> Preferences:
    """Saved settings, overridden by those of the command line."""
    effects = dict(saved.effects)
    for text in args.effect:
        stem, separator, chain = text.partition("=")
        if not separator:
            raise ConfigError(f"--effect {text!r}: expected STEM=CHAIN, as 'microphone=Reverb'")
        effects[stem.strip()] = chain.strip()
    options = {each.name: getattr(args, each.name, None) for each in dataclasses.fields(saved)}
    given = {name: value for name, value in options.items() if value is not None}
    return dataclasses.replace(saved, **{**given, "effects": effects})


def _create_session(args: argparse.Namespace, preferences: Preferences) -> LiveSession:
    from stemwire.realtime.live.session import LiveSession

    session = LiveSession(
        input=preferences.input_device or None,
        output=preferences.output_device or None,
        preset=preferences.preset,
        vocals=preferences.vocals_db,
        instrumental=preferences.instrumental_db,
        microphone=preferences.microphone_db,
        sample_rate=preferences.sample_rate or None,
        block_size=preferences.block_size or BLOCK,
        margin=preferences.margin or None,
        channels=preferences.input_channels,
        microphone_channels=preferences.microphone_channels,
        output_channels=preferences.output_channels,
        effects=preferences.effects,
        record=args.record or "",
        backend=preferences.backend,
        freewheel=args.freewheel,
        process=not args.in_process,
    )
    session.steer("output", preferences.output_db)
    return session


def _save_preferences(
    session: LiveSession, preferences: Preferences, midi: MidiControl | None
) -> None:
    """Save the final state of the session for the next one."""
    dataclasses.replace(
        preferences,
        preset=session.status().preset,
        vocals_db=session.control("vocals"),
        instrumental_db=session.control("instrumental"),
        microphone_db=session.control("microphone"),
        output_db=session.control("output"),
        midi_map="" if midi is not None and midi.learnt else preferences.midi_map,
    ).save()


@contextlib.contextmanager
def _midi(preferences: Preferences, session: LiveSession) -> Iterator[MidiControl | None]:
    """MIDI control for the duration of the block; None without a port."""
    if not preferences.midi_port:
        yield None
        return
    extra("rtmidi", "MIDI", LIVE)
    from stemwire.bridge.midi.control import MidiControl
    from stemwire.bridge.midi.files import load_mapping
    from stemwire.commands.preferences import preferences_folder

    learned = preferences_folder() / "midi.json"
    mapping = load_mapping(preferences.midi_map or (learned if learned.exists() else "default"))
    port = None if preferences.midi_port == "all" else preferences.midi_port
    with MidiControl(session, mapping, port, report=session.tell, path=learned) as control:
        yield control
