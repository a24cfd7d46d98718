"""`stemwire live`: karaoke from a sound card, and `--check`, which says what will work."""

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
    """A level in dB from the command line; "off" and "-inf" are none."""
    if text.lower() in ("off", "-inf"):
        return OFF
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def channel_list(text: str) -> tuple[int, ...]:
    """Channels such as "1,2" or "3"; "none" is none."""
    if text.lower() in ("none", ""):
        return ()
    return tuple(int(part) for part in text.split(","))


def add_parsers(commands: Commands, common: argparse.ArgumentParser) -> None:
    """Add `live` to the `stemwire` command."""
    parser = commands.add_parser(
        "live", parents=[common], help="karaoke: sound card in, vocals down, sound card out",
        description="Take music from a sound card, turn the vocals down (or the instruments), play "
        "it. Settings are kept for the next time. Without a terminal, or with --no-ui, a line of "
        "JSON a second says how things stand.",
    )  # fmt: skip
    device = parser.add_argument_group("devices (see `stemwire devices`)")
    device.add_argument("--input", metavar="DEV", help="number, name, part of one, or name@api")
    device.add_argument("--output", metavar="DEV", help="likewise")
    device.add_argument("--rate", type=int, help="sample rate in Hz (0: the output's)")
    device.add_argument("--block-size", type=int, metavar="N",
                        help=f"samples that the devices ask for at a time ({BLOCK})")  # fmt: skip
    device.add_argument("--music", type=channel_list, metavar="CH",
                        help="channels of the input that the music is on (1,2)")  # fmt: skip
    device.add_argument("--microphone", type=channel_list, metavar="CH",
                        help="channels of the input that the singer is on (none)")  # fmt: skip
    device.add_argument("--speakers", type=channel_list, metavar="CH",
                        help="channels of the output (1,2)")  # fmt: skip
    sound = parser.add_argument_group("sound")
    sound.add_argument("--vocals", type=level, metavar="DB", help="level of the vocals (off)")
    sound.add_argument("--instrumental", type=level, metavar="DB", help="of the instrumental (0)")
    sound.add_argument("--microphone-level", type=level, metavar="DB", help="of the singer (0)")
    sound.add_argument("--effect", action="append", default=[], metavar="STEM=CHAIN",
                       help="effects of vocals, instrumental or microphone, such as "
                       "'microphone=HighpassFilter | Reverb room_size=0.5', or a .vst3; nothing "
                       "after = is none; a microphone has a little reverb unless told "
                       "otherwise")  # fmt: skip
    sound.add_argument("--preset", help="name or folder (standard)")
    sound.add_argument("--backend", help="auto, native, onnx, torch or cuda (auto)")
    sound.add_argument("--margin", type=int, metavar="N",
                       help="samples that the separator may take, at least a block: more is later "
                       "and safer (0: what makes the delay two hops and a block)")  # fmt: skip
    sound.add_argument("--record", type=Path, metavar="DIR", help="record stems and mix there")
    parser.add_argument("--midi", metavar="PORT",
                        help="steer by this port, by all, or by a virtual one")  # fmt: skip
    parser.add_argument("--midi-map", metavar="MAP",
                        help="default, mackie or a file (what was learnt, or default)")  # fmt: skip
    parser.add_argument("--no-ui", action="store_true", help="lines of JSON instead of a screen")
    parser.add_argument("--in-process", action="store_true",
                        help="play in this process, not in one of its own")  # fmt: skip
    parser.add_argument("--freewheel", action="store_true",
                        help="for sound servers faster than time: wait for blocks")  # fmt: skip
    parser.add_argument("--seconds", type=float, help="end by itself")
    parser.add_argument("--forget", action="store_true", help="begin with the default settings")
    parser.add_argument("--check", action="store_true",
                        help="measure delay and speed, say what will work")  # fmt: skip
    parser.set_defaults(run=_live)


def _live(args: argparse.Namespace) -> int:
    extra("platformdirs", "stemwire live", LIVE)
    if args.check or args.in_process:
        extra("sounddevice", "stemwire live", LIVE)  # else the playing process alone imports it
    from stemwire.commands.preferences import Preferences

    wanted = _preferences(args, Preferences() if args.forget else Preferences.load())
    if args.check:
        from stemwire.realtime.live.check import check

        return check(
            wanted.input_device or None, wanted.output_device or None, wanted.sample_rate or None
        )
    session = _session(args, wanted)
    screen = not args.no_ui and sys.stdout.isatty() and sys.stdin.isatty()
    if screen:
        extra("textual", "the screen", LIVE)
    with session, _midi(wanted, session) as midi:
        if args.seconds is not None:
            threading.Thread(target=_end_after, args=(session, args.seconds), daemon=True).start()
        with contextlib.suppress(KeyboardInterrupt):
            _show(session, midi, screen)
        _remember(session, wanted, midi)
    for message in session.messages():  # of its end
        print(f"stemwire: {message}", file=sys.stderr)
    session.wait(0)  # raises what ended it, if nobody here did
    return 0


def _show(session: LiveSession, midi: MidiControl | None, screen: bool) -> None:
    """Screen or log until the user or the session ends it; the sound outlives what fails here."""
    if screen:
        from stemwire.screen.screen import run_screen

        problem = run_screen(session, midi)
    else:
        from stemwire.screen.log import run_log

        problem = run_log(session, LOG_S)
    if problem:
        print(f"stemwire: {problem}; Ctrl-C ends it", file=sys.stderr)
        session.wait()


def _end_after(session: LiveSession, seconds: float) -> None:
    if not session.wait(seconds):
        session.stop()


def _preferences(args: argparse.Namespace, saved: Preferences) -> Preferences:
    """What was saved, with what the command line says on top."""
    effects = dict(saved.effects)
    for text in args.effect:
        stem, separator, chain = text.partition("=")
        if not separator:
            raise ConfigError(f"--effect {text!r}: expected STEM=CHAIN, as 'microphone=Reverb'")
        effects[stem.strip()] = chain.strip()
    given = {
        "input_device": args.input, "output_device": args.output, "input_channels": args.music,
        "microphone_channels": args.microphone, "output_channels": args.speakers,
        "preset": args.preset, "backend": args.backend, "block_size": args.block_size,
        "vocals_db": args.vocals, "instrumental_db": args.instrumental,
        "microphone_db": args.microphone_level, "midi_port": args.midi, "midi_map": args.midi_map,
        "sample_rate": args.rate, "margin": args.margin, "effects": effects,
    }  # fmt: skip
    return dataclasses.replace(saved, **{k: v for k, v in given.items() if v is not None})


def _session(args: argparse.Namespace, wanted: Preferences) -> LiveSession:
    from stemwire.realtime.live.session import LiveSession

    session = LiveSession(
        input=wanted.input_device or None,
        output=wanted.output_device or None,
        preset=wanted.preset,
        vocals=wanted.vocals_db,
        instrumental=wanted.instrumental_db,
        microphone=wanted.microphone_db,
        sample_rate=wanted.sample_rate or None,
        block_size=wanted.block_size or BLOCK,
        margin=wanted.margin or None,
        channels=wanted.input_channels,
        microphone_channels=wanted.microphone_channels,
        output_channels=wanted.output_channels,
        effects=wanted.effects,
        record=args.record or "",
        backend=wanted.backend,
        freewheel=args.freewheel,
        process=not args.in_process,
    )
    session.steer("output", wanted.output_db)
    return session


def _remember(session: LiveSession, wanted: Preferences, midi: MidiControl | None) -> None:
    """Keep how the session was left for the next one."""
    dataclasses.replace(
        wanted,
        preset=session.status().preset,
        vocals_db=session.control("vocals"),
        instrumental_db=session.control("instrumental"),
        microphone_db=session.control("microphone"),
        output_db=session.control("output"),
        midi_map="" if midi is not None and midi.learnt else wanted.midi_map,
    ).save()


@contextlib.contextmanager
def _midi(wanted: Preferences, session: LiveSession) -> Iterator[MidiControl | None]:
    """MIDI control as long as the block lasts, if a port is wanted."""
    if not wanted.midi_port:
        yield None
        return
    extra("rtmidi", "MIDI", LIVE)
    from stemwire.bridge.midi.control import MidiControl
    from stemwire.bridge.midi.files import load_mapping
    from stemwire.commands.preferences import preferences_folder

    own = preferences_folder() / "midi.json"  # what was learnt
    mapping = load_mapping(wanted.midi_map or (own if own.exists() else "default"))
    which = None if wanted.midi_port == "all" else wanted.midi_port
    with MidiControl(session, mapping, which, report=session.tell, path=own) as control:
        yield control
