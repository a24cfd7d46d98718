"""Effect of MIDI input on the sound: three ways to receive, beside a busy Python thread.

    python benchmarks/midi_inputs.py [--seconds 10] [--rounds 1]

Needs jackd (with its dummy driver) and python-rtmidi. Counts the server's xruns while 200 messages
a second arrive: by RtMidi's callback, which runs in JACK's own thread and waits there for the
interpreter; by emptying RtMidi's ring every 10 ms; and by `midi.ports.Ports`, whose process has the
ports. Beside each the messages that came, and the CPU time of the process that Ports starts.
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

WAYS = ("callback", "ring", "process")
SENDER = """
import rtmidi, sys, time
out = rtmidi.MidiOut(rtapi=rtmidi.API_UNIX_JACK, name="sender")
out.open_virtual_port("faders")
print("ready", flush=True)
seconds = float(sys.stdin.readline())
end, count = time.monotonic() + seconds, 0
while time.monotonic() < end:
    out.send_message([0xB0, 20, count % 128])
    count += 1
    time.sleep(0.005)
print(count, flush=True)
sys.stdin.readline()
out.delete()
"""


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=1, help="of all ways in turn (1)")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)  # way, busy: in its own process
    args = parser.parse_args()
    if args.one:
        receive(args.one[0], args.one[1] == "busy", args.seconds)
        return
    print(
        f"{'way':10} {'beside':6} {'xruns':>6} {'sent':>6} {'came':>6} {'CPU of its process':>20}"
    )
    for _ in range(args.rounds):
        for beside, way in itertools.product(("quiet", "busy"), WAYS):
            command = [sys.executable, __file__, "--seconds", str(args.seconds)]
            subprocess.run([*command, "--one", way, beside], check=True)


def receive(way: str, busy: bool, seconds: float) -> None:
    """Receive for a while, with a server of our own; print a line."""
    name = f"stemwire_bench_{os.getpid()}"
    os.environ.update(JACK_DEFAULT_SERVER=name, JACK_NO_AUDIO_RESERVATION="1")
    log = tempfile.TemporaryFile("w+")  # noqa: SIM115
    words = f"jackd -n {name} -S -r -m -d dummy -r 44100 -p 512 -C 2 -P 2".split()
    server = subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT)
    time.sleep(2)
    pipe: Any = subprocess.PIPE
    sender = subprocess.Popen([sys.executable, "-c", SENDER], stdin=pipe, stdout=pipe, text=True)
    assert sender.stdin is not None and sender.stdout is not None
    sender.stdout.readline()
    got: list[bytes] = []
    close, pid = listen(way, got)
    if busy:
        threading.Thread(target=_burn, daemon=True).start()
    time.sleep(0.5)
    log.seek(0)
    before = log.read().count("XRun")
    used = _cpu(pid)
    sender.stdin.write(f"{seconds}\n")
    sender.stdin.flush()
    sent = int(sender.stdout.readline())
    time.sleep(0.5)
    used = _cpu(pid) - used
    log.seek(0)
    xruns = log.read().count("XRun") - before
    share = f"{used / seconds:.2%} of a core" if pid else "-"
    beside = "busy" if busy else "quiet"
    print(f"{way:10} {beside:6} {xruns:6} {sent:6} {len(got):6} {share:>20}", flush=True)
    close()
    sender.stdin.close()
    sender.wait()
    server.terminate()
    server.wait()
    os._exit(0)  # the busy thread won't


def listen(way: str, got: list[bytes]) -> tuple[Any, int]:
    """Receive into `got`; (how to close, process id of Ports or 0)."""
    if way == "process":
        from stemwire.bridge.midi.ports import Ports

        ports = Ports("sender", "jack", lambda _, data: got.append(data), lambda text: None)
        while not ports.opened:
            time.sleep(0.05)
        return ports.close, ports._process.pid
    import rtmidi

    midi_in = rtmidi.MidiIn(rtapi=rtmidi.API_UNIX_JACK, name="receiver")
    midi_in.open_port(0, "in")
    if way == "callback":
        midi_in.set_callback(lambda event, _: got.append(bytes(event[0])))
    else:
        threading.Thread(target=_empty, args=(midi_in, got), daemon=True).start()
    return lambda: None, 0


def _empty(midi_in: Any, got: list[bytes]) -> None:
    while True:
        while event := midi_in.get_message():
            got.append(bytes(event[0]))
        time.sleep(0.01)


def _burn() -> None:
    while True:
        sum(range(200_000))


def _cpu(pid: int) -> float:
    """Seconds of CPU time that a process has used."""
    if not pid:
        return 0.0
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
