"""`stemwire stream`: separate on a server: a file into files, or raw samples from pipe to pipe."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np
from rich.progress import TaskProgressColumn

from stemwire.errors import AudioError, ConfigError, StemwireError
from stemwire.progress import progress_bar
from stemwire.realtime.streaming import MAX_PEAK, first_invalid_sample
from stemwire.separate import SUBTYPES, Report, separate_file

if TYPE_CHECKING:
    from stemwire.bridge.client.separator import RemoteSeparator
    from stemwire.realtime.ring import Audio
    from stemwire.realtime.streaming import StreamingSeparator

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

PIPE = "-"  # as INPUT: standard input
RAW = {"f32le": "<f4", "s16le": "<i2"}
WIRE = {"f32le": "f32", "s16le": "s16"}  # what is enough for them
STEMS = ("vocals", "instrumental", "mix")
READ_BYTES = 1 << 16  # at most at a time; less if less is there, so that nothing waits
INTERRUPTED = 130  # exit status

DESCRIPTION = """\
Let a server (`stemwire serve`) separate. A file becomes DIR/<name>/vocals.wav and
instrumental.wav, as `stemwire separate` would write them.

With --raw, INPUT (- is standard input) holds bare samples, channels interleaved, and one stem goes
to standard output in the same form as it plays: as many samples as came, in their places. The
delay shows as time alone. With several --stem the output has all their channels, stem after stem:

  ffmpeg -i song.mp3 -f f32le -ar 44100 -ac 2 - |
    stemwire stream - --to ws://studio:8765 --raw f32le --rate 44100 --channels 2 |
    ffplay -f f32le -ar 44100 -ch_layout stereo -
  sox song.wav -t raw -e signed -b 16 - rate 48000 channels 2 |
    stemwire stream - --to ws://studio:8765 --raw s16le --rate 48000 --stem vocals |
    sox -t raw -e signed -b 16 -r 48000 -c 2 - vocals.wav
"""


def add_parsers(commands: Commands, common: argparse.ArgumentParser) -> None:
    """Add `stream` to the `stemwire` command."""
    parser = commands.add_parser(
        "stream", parents=[common], help="split audio into stems on a server",
        formatter_class=argparse.RawDescriptionHelpFormatter, description=DESCRIPTION,
    )  # fmt: skip
    parser.add_argument("input", metavar="INPUT", help="audio file; with --raw also -")
    parser.add_argument("--to", required=True, metavar="URL",
                        help="of the server, ws://HOST:PORT or wss://HOST:PORT")  # fmt: skip
    parser.add_argument("--preset", default="standard", help="that the server has (standard)")
    parser.add_argument("--token-file", type=Path, metavar="F",
                        help="its first token lets us in (or STEMWIRE_TOKEN does)")  # fmt: skip
    parser.add_argument("--ca-file", type=Path, metavar="F",
                        help="certificates (PEM) to trust instead of the system's")  # fmt: skip
    parser.add_argument("--wire", choices=("f32", "s16"),
                        help="samples on the way (f32; s16 for --raw s16le)")  # fmt: skip
    files = parser.add_argument_group("files")
    files.add_argument("-o", "--output", type=Path, metavar="DIR", help="folder for the stems")
    files.add_argument("--format", choices=sorted(SUBTYPES),
                       help="wav is 32-bit float, flac 24-bit (wav)")  # fmt: skip
    raw = parser.add_argument_group("raw samples")
    raw.add_argument("--raw", choices=sorted(RAW), help="kind of samples, in and out")
    raw.add_argument("--rate", type=int, help="samples per second (44100)")
    raw.add_argument("--channels", type=int, choices=(1, 2), help="of the input (2)")
    raw.add_argument("--stem", action="append", choices=STEMS,
                     help="that is wanted (instrumental; mix with a level below)")  # fmt: skip
    raw.add_argument("--vocals", type=_decibels, metavar="DB", help="level in the mix, or off (0)")
    raw.add_argument("--instrumental", type=_decibels, metavar="DB", help="likewise")
    parser.set_defaults(run=_stream)


def _decibels(text: str) -> float:
    return -200.0 if text.lower() in ("off", "-inf") else float(text)


def _stream(args: argparse.Namespace) -> int:
    only = {
        True: ("output", "format"),
        False: ("rate", "channels", "stem", "vocals", "instrumental"),
    }[args.raw is not None]
    if given := [f"--{name}" for name in only if getattr(args, name) is not None]:
        use = "not for raw samples" if args.raw else "for raw samples alone; add --raw"
        raise ConfigError(f"{', '.join(given)}: {use}, or leave it out")
    settings: dict[str, Any] = {
        "token": _token(args.token_file), "ca_file": args.ca_file,
        "format": args.wire or WIRE.get(args.raw, "f32"),
        "tell": lambda text: print(f"stemwire: {text}", file=sys.stderr, flush=True),
    }  # fmt: skip
    if args.raw:
        return _stream_raw(args, settings)
    return _stream_file(args, settings)


def _token(file: Path | None) -> str:
    if file is None:
        return os.environ.get("STEMWIRE_TOKEN", "").strip()
    from stemwire.bridge.server.config import read_tokens

    return read_tokens(file)[0]


# Files


def _stream_file(args: argparse.Namespace, settings: dict[str, Any]) -> int:
    from stemwire.bridge.client.separator import connect

    if args.input == PIPE:
        raise ConfigError("standard input takes raw samples: add --raw f32le or --raw s16le")
    if args.output is None:
        raise ConfigError("where do the stems go? add -o DIR")
    path, format = Path(args.input), args.format or "wav"
    if path.stem in ("", ".", ".."):
        raise ConfigError(f"{path}: gives its stems no name; rename it")
    with contextlib.ExitStack() as stack:
        opened: list[RemoteSeparator] = []

        def opener(sample_rate: int, channels: int) -> StreamingSeparator:
            remote = connect(args.to, args.preset, sample_rate, channels, **settings)
            opened.append(stack.enter_context(remote))
            return cast("StreamingSeparator", remote)  # of the same shape

        with progress_bar(path.name, TaskProgressColumn()) as update:
            report = separate_file(path, args.output / path.stem, opener, format, update)
        _describe(path, report, opened[0])
    return 0


def _describe(path: Path, report: Report, remote: RemoteSeparator) -> None:
    figures = remote.statistics
    print(f"{path}: {report.seconds:.1f} s in {report.elapsed:.1f} s")
    for file in report.files:
        print(f"  {file}")
    print(
        f"  delay {report.latency} samples ({report.latency / report.sample_rate * 1e3:.1f} ms "
        f"when live, without the network; taken out of the files)\n"
        f"  real-time factor {report.real_time_factor:.3f} "
        f"({1 / report.real_time_factor:.1f} times faster than it plays)\n"
        f"  {figures.bytes_up / 1e6:.1f} MB up, {figures.bytes_down / 1e6:.1f} MB down, "
        f"{figures.connections} connection{'s'[: figures.connections != 1]}"
    )
    if report.clipped:
        print(
            f"  {report.clipped} samples exceeded full scale and were clipped; --format wav keeps "
            "them"
        )


# Raw samples


def _stream_raw(args: argparse.Namespace, settings: dict[str, Any]) -> int:
    from stemwire.bridge.client.separator import connect

    levels = {"vocals": args.vocals or 0.0, "instrumental": args.instrumental or 0.0}
    mixed = args.vocals is not None or args.instrumental is not None
    stems = tuple(dict.fromkeys(args.stem or ["mix" if mixed else "instrumental"]))
    if mixed and "mix" not in stems:
        raise ConfigError("levels are for the mix; add --stem mix, or leave them out")
    if sys.stdout.isatty():
        raise ConfigError("raw samples are not for a terminal; add > FILE or | PROGRAM")
    rate, channels = args.rate or 44_100, args.channels or 2
    try:
        with (
            _opened(args.input) as source,
            connect(args.to, args.preset, rate, channels, stems=stems, **settings) as remote,
        ):
            if "mix" in stems:
                remote.control(**levels)
            writer = _Writer(remote, args.raw)
            try:
                for block in _blocks(source, args.input, args.raw, rate, channels):
                    remote.send(block)
                    if writer.failure is not None:
                        break
                else:
                    remote.finish()
                writer.wait()
            except StemwireError:
                if writer.failure is None:
                    raise
            if writer.failure is not None:
                raise writer.failure
    except KeyboardInterrupt:  # the way to end it, as for all of a pipe's programs
        return INTERRUPTED
    if writer.clipped:
        print(
            f"stemwire: {writer.clipped} samples exceeded full scale and were clipped; --raw f32le "
            "keeps them",
            file=sys.stderr,
        )
    return 0


@contextlib.contextmanager
def _opened(name: str) -> Iterator[BinaryIO]:
    if name == PIPE:
        if sys.stdin is None or sys.stdin.isatty():
            raise ConfigError(
                "no raw samples come from a terminal; add < FILE, or PROGRAM | before"
            )
        yield sys.stdin.buffer
        return
    try:
        file = Path(name).open("rb")  # noqa: SIM115
    except OSError as error:
        raise AudioError(f"{name}: cannot be opened ({error.strerror}); check the path") from error
    with file:
        yield file


def _blocks(source: BinaryIO, name: str, raw: str, rate: int, channels: int) -> Iterator[Audio]:
    """Samples as they come, float32 (channels, n)."""
    kind = np.dtype(RAW[raw])
    size = kind.itemsize * channels
    read = cast("Callable[[int], bytes]", source.read1)  # type: ignore[attr-defined]
    rest, done = b"", 0
    while True:
        try:
            data = read(READ_BYTES)
        except OSError as error:
            raise AudioError(f"{name}: cannot be read ({error.strerror})") from error
        if not data:
            break
        data = rest + data
        whole = len(data) - len(data) % size
        rest = data[whole:]
        block = np.frombuffer(data[:whole], kind).reshape(-1, channels).T.astype(np.float32)
        if raw == "s16le":
            block /= 32768.0
        if (bad := first_invalid_sample(block)) is not None:
            raise AudioError(
                f"{name}: NaN, Inf or beyond {MAX_PEAK:g} at sample {done + bad} "
                f"({(done + bad) / rate:.3f} s); check that the samples are {raw}, {channels} "
                "channels"
            )
        done += block.shape[1]
        yield block
    if rest:
        raise AudioError(
            f"{name}: ends with {len(rest)} bytes of a sample's {size} ({channels} x {raw}); check "
            "--raw and --channels"
        )


class _Writer:
    """Writes stems to standard output in a thread of its own, as they come.

    Attributes:
        failure: of standard output, or of the session, once it has ended so.
        clipped: samples beyond full scale.
    """

    def __init__(self, remote: RemoteSeparator, raw: str) -> None:
        self._remote, self._raw = remote, raw
        self.failure: Exception | None = None
        self.clipped = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Until all is written, or has failed."""
        while self._thread.is_alive():
            self._thread.join(0.5)  # with a timeout: Windows' Ctrl-C does not end a wait without

    def _run(self) -> None:
        late = self._remote.latency
        try:
            for stems in self._remote:
                drop = min(late, stems.shape[2])
                late -= drop
                self._write(stems[..., drop:])
        except Exception as error:
            self.failure = error
            self._remote.close()  # whoever sends is not to wait for room

    def _write(self, stems: Audio) -> None:
        samples = stems.reshape(-1, stems.shape[2]).T
        if self._raw == "s16le":
            steps = np.rint(samples * 32768.0)
            limited = np.clip(steps, -32768, 32767)
            self.clipped += int((limited != steps).sum())
            samples = limited
        data = memoryview(samples.astype(RAW[self._raw]).tobytes())
        while data:  # not through sys.stdout: its lock must be free when the program ends
            data = data[os.write(sys.stdout.fileno(), data) :]
