"""`stemwire devices`: list of the sound devices."""

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

HEADS = (
    *("number", "name", "host API", "default", "inputs", "outputs"),
    *("latency in, ms", "latency out, ms", "default rate", "input rates", "output rates"),
)
NUMBERS = {"number", "inputs", "outputs", "default rate"}


def add_parsers(commands: Commands, common: argparse.ArgumentParser) -> None:
    """Add `devices` to the `stemwire` command."""
    devices = commands.add_parser(
        "devices",
        parents=[common],
        help="list sound devices",
        description="List the sound devices with their channels, the latency that the driver "
        "reports by default (low to high), the default sample rate and the supported ones. Refer "
        "to a device by its number, its name or a part of it, 'name@host api', or the host API "
        "alone. Without a terminal the output is one line per device, with tabs between fields.",
    )
    devices.add_argument(
        "--no-rates",
        action="store_true",
        help="don't test sample rates, which briefly opens each device",
    )
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
    directions = {"input": device.default_input, "output": device.default_output}
    defaults = [name for name, is_default in directions.items() if is_default]
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
