"""`stemwire devices`: what sound can come from and go to."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from stemwire.realtime.live.devices import Device, Direction, list_devices, supported_rates

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

HEADS = ("number", "name", "host API", "default", "inputs", "outputs", "latency in, ms",
         "latency out, ms", "default rate", "input rates", "output rates")  # fmt: skip
NUMBERS = {"number", "inputs", "outputs", "default rate"}


def add_parsers(commands: Commands, common: argparse.ArgumentParser) -> None:
    """Add `devices` to the `stemwire` command."""
    devices = commands.add_parser(
        "devices", parents=[common], help="list sound devices",
        description="List the sound devices: whether one is the default, its channels, the delay "
        "that its driver gives by default (low to high), the sample rate that it prefers and those "
        "it can run at. Name a device by its number, its name or a part of it, 'name@host api', or "
        "the host API alone. A pipe gets a line for each device, with tabs between the fields.",
    )  # fmt: skip
    devices.add_argument("--no-rates", action="store_true",
                         help="don't try rates, which opens each device for a moment")  # fmt: skip
    devices.set_defaults(run=_devices)


def _devices(args: argparse.Namespace) -> int:
    devices = list_devices()
    terminal = sys.stdout.isatty()
    rows = [_row(device, not args.no_rates) for device in devices]
    if not terminal:  # one line each, for other programs
        for row in (HEADS, *rows):
            print("\t".join(row))
    elif rows:
        table = Table(box=None, pad_edge=False)
        for head in HEADS:
            table.add_column(head, justify="right" if head in NUMBERS else "left")
        for row in rows:
            table.add_row(*map(escape, row))
        Console().print(table)
    if not rows:
        print(
            "stemwire: no sound devices; plug one in, or check permissions and the sound server",
            file=sys.stderr,
        )
    return 0


def _row(device: Device, try_rates: bool) -> tuple[str, ...]:
    defaults = [
        name
        for name, is_it in (("input", device.default_input), ("output", device.default_output))
        if is_it
    ]
    return (
        str(device.number),
        device.name,
        device.host_api,
        ", ".join(defaults),
        str(device.inputs),
        str(device.outputs),
        _latency(device.input_latency, device.inputs),
        _latency(device.output_latency, device.outputs),
        str(device.sample_rate),
        _rates(device, "input") if try_rates else "",
        _rates(device, "output") if try_rates else "",
    )


def _latency(seconds: tuple[float, float], channels: int) -> str:
    both = dict.fromkeys(f"{1e3 * value:.1f}" for value in seconds)
    return " to ".join(both) if channels else ""


def _rates(device: Device, direction: Direction) -> str:
    if not device.channels(direction):
        return ""
    return " ".join(map(str, supported_rates(device, direction))) or "busy"
