"""`stemwire midi`: which MIDI inputs there are, and what arrives at them."""

from __future__ import annotations

import argparse
import sys
import threading
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

ALL = ""  # instead of a port, for --show
HEADS = ("port", "kind", "channel", "number", "value")


def add_parsers(commands: Commands, common: argparse.ArgumentParser) -> None:
    """Add `midi` to the `stemwire` command."""
    midi = commands.add_parser(
        "midi", parents=[common], help="list MIDI inputs, or show what arrives",
        description="List the MIDI inputs with their numbers; or, with --show or --virtual, print "
        "a line for each message that arrives, until Ctrl-C. Inputs that are plugged in later are "
        "shown too.",
    )  # fmt: skip
    midi.add_argument("--show", nargs="?", const=ALL, metavar="PORT",
                      help="show what arrives: of an input's number or name (of all)")  # fmt: skip
    midi.add_argument("--virtual", action="store_true",
                      help="show what other programs send to a port 'Stemwire'")  # fmt: skip
    midi.add_argument("--api", metavar="NAME",
                      help="alsa, jack, core or winmm (STEMWIRE_MIDI_API)")  # fmt: skip
    midi.set_defaults(run=_midi)


def _midi(args: argparse.Namespace) -> int:
    from stemwire.errors import ConfigError

    if args.virtual and args.show:
        raise ConfigError("--virtual opens a port of its own; leave out either it or --show's PORT")
    if args.virtual or args.show is not None:
        return _show(args)
    return _list(args.api)


def _list(api: str | None) -> int:
    from stemwire.bridge.midi.ports import called, list_ports

    found = list_ports(api)
    for name, reason in found.refused.items():
        print(f"{called(name)} is not there: {reason}", file=sys.stderr)
    print(f"MIDI through {called(found.api)}: {len(found.ports)} inputs", file=sys.stderr)
    rows = [(str(number), name) for number, name in enumerate(found.ports)]
    if sys.stdout.isatty():
        table = Table("number", "input", box=None, pad_edge=False)
        for row in rows:
            table.add_row(*map(escape, row))
        Console().print(table)
    else:  # one line each, for other programs
        for row in (("number", "input"), *rows):
            print("\t".join(row))
    return 0


def _show(args: argparse.Namespace) -> int:
    from stemwire.bridge.midi.messages import describe
    from stemwire.bridge.midi.ports import VIRTUAL, Port, Ports

    port: Port = VIRTUAL if args.virtual else args.show or None
    if isinstance(port, str) and port.isdecimal():
        port = int(port)
    done = threading.Event()
    failures: list[OSError] = []
    aligned = sys.stdout.isatty()

    def line(*cells: str) -> None:
        try:
            if aligned:
                print(f"{cells[0]:32} {cells[1]:12} {cells[2]:>7} {cells[3]:>6}  {cells[4]}")
            else:
                print("\t".join(cells))
            sys.stdout.flush()
        except OSError as error:  # whoever read has gone, or the disk is full: `main` says so
            failures.append(error)
            done.set()

    def message(name: str, data: bytes) -> None:
        if not done.is_set():
            line(name, *describe(data))

    line(*HEADS)
    ports = Ports(port, args.api, message, lambda text: print(text, file=sys.stderr, flush=True))
    try:
        while not done.wait(1.0):  # with a timeout: Windows' Ctrl-C does not end a wait without
            pass
    except KeyboardInterrupt:  # the way to end it
        pass
    finally:
        ports.close()
    if failures:
        raise failures[0]
    return 0
