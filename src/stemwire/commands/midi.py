"""`stemwire midi`: list the MIDI inputs, and show the messages that arrive at them."""

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

ALL = ""  # in place of a port, for --show: all inputs
COLUMNS = ("port", "kind", "channel", "number", "value")


def add_parsers(commands: Commands, common: argparse.ArgumentParser) -> None:
    """Add `midi` to the `stemwire` command."""
    midi = commands.add_parser(
        "midi",
        parents=[common],
        help="list MIDI inputs, or show their messages",
        description="List the MIDI inputs with their numbers; or, with --show or --virtual, print "
        "a line for each message that arrives, until Ctrl-C. Inputs that are plugged in later are "
        "included.",
    )
    midi.add_argument(
        "--show",
        nargs="?",
        const=ALL,
        metavar="PORT",
        help="show the messages of an input, by number or name (default: all inputs)",
    )
    midi.add_argument(
        "--virtual",
        action="store_true",
        help="show the messages that other programs send to a virtual port 'Stemwire'",
    )
    midi.add_argument(
        "--api",
        metavar="NAME",
        help="MIDI backend: alsa, jack, core or winmm (default: STEMWIRE_MIDI_API, or the first "
        "that works)",
    )
    midi.set_defaults(run=_midi)


def _midi(args: argparse.Namespace) -> int:
    from stemwire.errors import ConfigError

    if args.virtual and args.show:
        raise ConfigError(
            "--virtual opens a port of its own; leave out either it or the PORT of --show"
        )
    if args.virtual or args.show is not None:
        return _show(args)
    return _list(args.api)


def _list(api: str | None) -> int:
    from stemwire.bridge.midi.ports import api_label, list_ports

    listing = list_ports(api)
    for name, reason in listing.refused.items():
        print(f"{api_label(name)} is unavailable: {reason}", file=sys.stderr)
    print(f"MIDI through {api_label(listing.api)}: {len(listing.ports)} inputs", file=sys.stderr)
    rows = [(str(number), name) for number, name in enumerate(listing.ports)]
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

    def print_row(*cells: str) -> None:
        try:
            if aligned:
                print(f"{cells[0]:32} {cells[1]:12} {cells[2]:>7} {cells[3]:>6}  {cells[4]}")
            else:
                print("\t".join(cells))
            sys.stdout.flush()
        except OSError as error:  # the reader has gone, or the disk is full: `main` reports it
            failures.append(error)
            done.set()

    def on_message(name: str, data: bytes) -> None:
        if not done.is_set():
            print_row(name, *describe(data))

    print_row(*COLUMNS)

    def report(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    ports = Ports(port, args.api, on_message, report)
    try:
        while not done.wait(1.0):  # a timeout, so that Ctrl-C works on Windows
            pass
    except KeyboardInterrupt:  # the normal way to end
        pass
    finally:
        ports.close()
    if failures:
        raise failures[0]
    return 0
