"""`stemwire stream`: separate a file, or raw samples in a pipe, on a server."""

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

STDIN = "-"  # as INPUT: standard input
RAW_DTYPES = {"f32le": "<f4", "s16le": "<i2"}
WIRE_FORMATS = {"f32le": "f32", "s16le": "s16"}  # sufficient for each kind of raw samples
STEMS = ("vocals", "instrumental", "mix")
READ_BYTES = 1 << 16  # limit of one read; it returns fewer rather than waiting
INTERRUPTED = 130  # exit status after Ctrl-C

DESCRIPTION = """\
Separate audio on a server (`stemwire serve`). A file becomes DIR/<name>/vocals.wav and
instrumental.wav, the same as `stemwire separate` writes.

With --raw, INPUT (- is standard input) holds raw samples with interleaved channels, and one stem is
written to standard output in the same format while the input arrives: as many samples as came in,
aligned with them; the latency shows only as waiting time. With several --stem, each sample frame
holds the channels of all stems, one stem after the other:

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
        "stream",
        parents=[common],
        help="split audio into stems on a server",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=DESCRIPTION,
    )
    parser.add_argument("input", metavar="INPUT", help="audio file; with --raw also -")
    parser.add_argument(
        "--to",
        required=True,
        metavar="URL",
        help="URL of the server, ws://HOST:PORT or wss://HOST:PORT",
    )
    parser.add_argument(
        "--preset", default="standard", help="name of a preset on the server (default: standard)"
    )
    parser.add_argument(
        "--token-file",
        type=Path,
        metavar="F",
        help="file whose first token to send (default: the token in STEMWIRE_TOKEN)",
    )
    parser.add_argument(
        "--ca-file",
        type=Path,
        metavar="F",
        help="PEM file of certificates to trust instead of the system's",
    )
    parser.add_argument(
        "--wire",
        choices=("f32", "s16"),
        help="sample format on the wire (default: f32; s16 for --raw s16le)",
    )
    files = parser.add_argument_group("files")
    files.add_argument("-o", "--output", type=Path, metavar="DIR", help="folder for the stems")
    files.add_argument(
        "--format",
        choices=sorted(SUBTYPES),
        help="file format: wav is 32-bit float, flac 24-bit (default: wav)",
    )
    raw = parser.add_argument_group("raw samples")
    raw.add_argument("--raw", choices=sorted(RAW_DTYPES), help="sample format of input and output")
    raw.add_argument("--rate", type=int, help="sample rate of the input, Hz (default: 44100)")
    raw.add_argument(
        "--channels", type=int, choices=(1, 2), help="channels of the input (default: 2)"
    )
    raw.add_argument(
        "--stem",
        action="append",
        choices=STEMS,
        help="stem to write (default: instrumental; mix if a level below is given)",
    )
    raw.add_argument(
        "--vocals",
        type=_decibels,
        metavar="DB",
        help="level of the vocals in the mix, dB or off (default: 0)",
    )
    raw.add_argument(
        "--instrumental",
        type=_decibels,
        metavar="DB",
        help="level of the instrumental in the mix, dB or off (default: 0)",
    )
    parser.set_defaults(run=_stream)


def _decibels(text: str) -> float:
    return -200.0 if text.lower() in ("off", "-inf") else float(text)


def _stream(args: argparse.Namespace) -> int:
    only = {
        True: ("output", "format"),
        False: ("rate", "channels", "stem", "vocals", "instrumental"),
    }[args.raw is not None]
    if given := [f"--{name}" for name in only if getattr(args, name) is not None]:
        use = "not for raw samples" if args.raw else "only for raw samples; add --raw"
        raise ConfigError(f"{', '.join(given)}: {use}, or leave it out")
    settings: dict[str, Any] = {
        "token": _token(args.token_file),
        "ca_file": args.ca_file,
        "format": args.wire or WIRE_FORMATS.get(args.raw, "f32"),
        "tell": lambda text: print(f"stemwire: {text}", file=sys.stderr, flush=True),
    }
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

    if args.input == STDIN:
        raise ConfigError("standard input must hold raw samples: add --raw f32le or --raw s16le")
    if args.output is None:
        raise ConfigError("no folder for the stems: add -o DIR")
    path, format = Path(args.input), args.format or "wav"
    if path.stem in ("", ".", ".."):
        raise ConfigError(f"{path}: has no name for a folder of stems; rename it")
    with contextlib.ExitStack() as stack:
        opened: list[RemoteSeparator] = []

        def opener(sample_rate: int, channels: int) -> StreamingSeparator:
            remote = connect(args.to, args.preset, sample_rate, channels, **settings)
            opened.append(stack.enter_context(remote))
            return cast("StreamingSeparator", remote)  # has the same methods

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
        f"  latency {report.latency} samples ({report.latency / report.sample_rate * 1e3:.1f} ms "
        f"when live, without the network; removed from the files)\n"
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
        raise ConfigError("levels apply to the mix only; add --stem mix, or leave them out")
    if sys.stdout.isatty():
        raise ConfigError("raw samples cannot be written to a terminal; add > FILE or | PROGRAM")
    rate, channels = args.rate or 44_100, args.channels or 2
    try:
        with (
            _open_input(args.input) as source,
            connect(args.to, args.preset, rate, channels, stems=stems, **settings) as remote,
        ):
            if "mix" in stems:
                remote.control(**levels)
            writer = _Writer(remote, args.raw)
            try:
                for block in _read_blocks(source, args.input, args.raw, rate, channels):
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
    except KeyboardInterrupt:  # the normal way to end, as for every program in a pipe
        return INTERRUPTED
    if writer.clipped:
        print(
            f"stemwire: {writer.clipped} samples exceeded full scale and were clipped; --raw f32le "
            "keeps them",
            file=sys.stderr,
        )
    return 0


@contextlib.contextmanager
def _open_input(name: str) -> Iterator[BinaryIO]:
    if name == STDIN:
        if sys.stdin is None or sys.stdin.isatty():
            raise ConfigError("a terminal sends no raw samples; add < FILE, or PROGRAM | in front")
        yield sys.stdin.buffer
        return
    try:
        file = Path(name).open("rb")  # noqa: SIM115
    except OSError as error:
        raise AudioError(f"{name}: cannot be opened ({error.strerror}); check the path") from error
    with file:
        yield file


def _read_blocks(
    source: BinaryIO, name: str, raw: str, rate: int, channels: int
) -> Iterator[Audio]:
    """Blocks of samples as they arrive, float32 (channels, n)."""
    kind = np.dtype(RAW_DTYPES[raw])
    size = kind.itemsize * channels
    read = cast("Callable[[int], bytes]", source.read1)  # type: ignore[attr-defined]
    rest, position = b"", 0
    while True:
        try:
            data = read(READ_BYTES)
        except OSError as error:
            raise AudioError(f"{name}: cannot be read ({error.strerror})") from error
        if not data:
            break
        data = rest + data
        complete = len(data) - len(data) % size
        rest = data[complete:]
        block = np.frombuffer(data[:complete], kind).reshape(-1, channels).T.astype(np.float32)
        if raw == "s16le":
            block /= 32768.0
        if (bad := first_invalid_sample(block)) is not None:
            raise AudioError(
                f"{name}: NaN, Inf or beyond {MAX_PEAK:g} at sample {position + bad} "
                f"({(position + bad) / rate:.3f} s); check that the samples are {raw}, {channels} "
                "channels"
            )
        position += block.shape[1]
        yield block
    if rest:
        raise AudioError(
            f"{name}: ends with {len(rest)} bytes of a sample's {size} ({channels} x {raw}); check "
            "--raw and --channels"
        )


class _Writer:
    """Writes stems to standard output as they arrive, in a thread of its own.

    Attributes:
        failure: error of standard output or of the session that ended the thread, or None.
        clipped: number of samples beyond full scale.
    """

    def __init__(self, remote: RemoteSeparator, raw: str) -> None:
        self._remote, self._raw = remote, raw
        self.failure: Exception | None = None
        self.clipped = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Wait until everything is written, or writing has failed."""
        while self._thread.is_alive():
            self._thread.join(0.5)  # a timeout, so that Ctrl-C works on Windows

    def _run(self) -> None:
        delay = self._remote.latency  # samples still to drop
        try:
            for stems in self._remote:
                drop = min(delay, stems.shape[2])
                delay -= drop
                self._write(stems[..., drop:])
        except Exception as error:
            self.failure = error
            self._remote.close()  # so that the sending thread does not wait for room

    def _write(self, stems: Audio) -> None:
        samples = stems.reshape(-1, stems.shape[2]).T
        if self._raw == "s16le":
            steps = np.rint(samples * 32768.0)
            limited = np.clip(steps, -32768, 32767)
            self.clipped += int((limited != steps).sum())
            samples = limited
        data = memoryview(samples.astype(RAW_DTYPES[self._raw]).tobytes())
        while data:  # not through sys.stdout, whose lock must be free at exit
            data = data[os.write(sys.stdout.fileno(), data) :]
