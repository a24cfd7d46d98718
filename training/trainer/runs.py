"""Runs: from a command's arguments to a trained network in a folder."""

from __future__ import annotations

import ctypes
import dataclasses
import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from filelock import FileLock, Timeout
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy

from stemwire._version import __version__
from stemwire.errors import CheckpointError, ConfigError
from stemwire.files import atomic_write_text
from stemwire.model import Separator
from stemwire.model.checkpoint import load_checkpoint, read_notes
from stemwire.training.data.manifest import Manifest
from stemwire.training.data.reader import AudioReader
from stemwire.training.examples.clips import ClipMaker
from stemwire.training.examples.examples import ExampleMaker
from stemwire.training.trainer.logbook import Logbook
from stemwire.training.trainer.loop import Maker, Trainer, train
from stemwire.training.trainer.objectives import renew_head
from stemwire.training.trainer.settings import FILE, RunSettings, override, read_run

# What may change when a run goes on: none of it alters what a step learns, but the last step moves
# the end of the learning rate's fall.
CHANGEABLE = {
    "steps",
    "cooldown_steps",
    "validate_every",
    "save_every",
    "patience",
    "validation_examples",
    "accumulate",
}


@dataclasses.dataclass(frozen=True)
class Parent:
    """What a run starts from.

    Attributes:
        checkpoint: its weights.
        settings: of the run that made them, or with the network's configuration alone.
        history: descriptions of that run and its own parents, oldest first.
    """

    checkpoint: Path
    settings: RunSettings
    history: list[dict[str, Any]]


def find_parent(path: Path) -> Parent:
    """A run's folder (its best weights), a preset's folder or a checkpoint.

    Raises:
        CheckpointError: if it is none of them, or damaged.
    """
    if (path / FILE).exists():
        run = read_run(path)
        files = [path / f"{name}.safetensors" for name in ("best", "ema")]
        found = next((file for file in files if file.exists()), None)
        if found is None:
            raise CheckpointError(f"{path}: the run has saved no weights yet; let it go on first")
        steps = int(read_notes(found).get("step", 0))
        return Parent(found, RunSettings.from_dict(run["settings"]), history(run, steps))
    checkpoint = path / "weights.safetensors" if path.is_dir() else path
    config = load_checkpoint(checkpoint).config
    card = path / "preset.json"
    past: list[dict[str, Any]] = []
    if card.exists():
        known = json.loads(card.read_text(encoding="utf-8"))
        past = known.get("training") or [{"preset": known}]
    return Parent(checkpoint, RunSettings(network=config), past)


def history(run: dict[str, Any], steps: int) -> list[dict[str, Any]]:
    """A run and those it goes back to, without paths of this computer, oldest first.

    Args:
        run: what its folder says of it.
        steps: that its weights have learned.
    """
    data = {"sources": run["data"]["sources"]}
    own = {name: run[name] for name in ("settings", "stemwire")} | {"steps": steps, "data": data}
    return [*run["history"], own]


def build_network(settings: RunSettings, parent: Parent | None) -> Separator:
    """The network of a run, with its parent's weights or new ones from the seed.

    Raises:
        CheckpointError: if the parent's weights do not fit the settings.
    """
    torch.manual_seed(settings.seed)
    network = Separator(settings.network)
    if parent is not None:
        weights = load_checkpoint(parent.checkpoint).state_dict()
        own = network.state_dict()
        before = parent.settings
        if not before.network.lookahead:  # what comes after adds nothing at first
            weights |= {n: w for n, w in own.items() if n.startswith("ahead.")}
        elif (
            not settings.network.lookahead and before.ahead_share < 1
        ):  # it has learned to do without
            weights = {n: w for n, w in weights.items() if not n.startswith("ahead.")}
        for name in sorted(own.keys() | weights.keys()):
            shapes = [tuple(t[name].shape) if name in t else "missing" for t in (weights, own)]
            if shapes[0] != shapes[1]:
                raise CheckpointError(
                    f"{parent.checkpoint}: does not fit network settings of this run: {name} is "
                    f"{shapes[0]} there, {shapes[1]} here; leave out --set network.…, or train "
                    "without a parent"
                )
        network.load_state_dict(weights)
        if parent.settings.objective != settings.objective:
            torch.manual_seed(settings.seed)
            renew_head(network)
    return network


def sources_of(manifest: Manifest) -> list[dict[str, Any]]:
    """Where the training songs of a manifest come from: hours and songs by source and licence."""
    totals: dict[tuple[str, str, str], list[float]] = {}
    for index in range(len(manifest)):
        song = manifest[index]
        if song.split == "train":
            total = totals.setdefault((song.source, song.licence, song.kind), [0, 0.0])
            total[0] += 1
            total[1] += song.seconds / 3600
    names = ("source", "licence", "kind")
    return [
        dict(zip(names, key, strict=True)) | {"songs": int(songs), "hours": round(hours, 3)}
        for key, (songs, hours) in sorted(totals.items())
    ]


def _origin(folder: Path, parent: Parent | None) -> dict[str, Any]:
    """What a run started from: what its command says, or else what its folder has said before."""
    if parent is None and (folder / FILE).exists():
        before = read_run(folder)
        return {name: before[name] for name in ("parent", "history")}
    return {
        "parent": str(parent.checkpoint) if parent else None,
        "history": parent.history if parent else [],
    }


def cooled(source: Path, folder: Path, steps: int, changes: Sequence[str]) -> RunSettings:
    """Prepare the cooldown of a copy of a run, which itself goes on: weights that can be shipped.

    Args:
        source: folder of the run; it may be training meanwhile.
        folder: of the copy; one that is there is resumed.
        steps: that the copy learns, its learning rate falling to zero.
        changes: as of `override`; none of them may alter what a step learns.

    Returns:
        The copy's settings.

    Raises:
        ConfigError: if both folders are the same, or a change is not one that can be made.
        CheckpointError: if `source` is no run, or has saved nothing yet.
    """
    if folder.exists() and folder.samefile(source):
        raise ConfigError(
            f"{folder}: a cooldown learns on in a copy of the run; give another folder with -o"
        )
    description = read_run(source)
    if not (folder / FILE).exists():
        checkpoint = source / "checkpoint.pt"
        if not checkpoint.exists():
            raise CheckpointError(f"{source}: the run has saved no checkpoint yet; let it go on")
        own = RunSettings.from_dict(description["settings"])
        wanted = override(own, changes)
        _refuse_changes(source, wanted, own)
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(checkpoint, folder / "checkpoint.pt")
        step = torch.load(folder / "checkpoint.pt", map_location="cpu", weights_only=True)["step"]
        wanted = override(wanted, [f"steps={step + steps}", f"cooldown_steps={steps}"])
        description["settings"] = wanted.to_dict()
        _describe(folder, description)
    return RunSettings.from_dict(read_run(folder)["settings"])


def _describe(folder: Path, description: dict[str, Any]) -> None:
    atomic_write_text(folder / FILE, json.dumps(description, indent=1) + "\n")


def settle(folder: Path, wanted: RunSettings) -> RunSettings:
    """Settings to go on with, if `folder` holds a run already.

    Raises:
        ConfigError: if they differ from the run's own in what it learns.
    """
    if not (folder / FILE).exists():
        return wanted
    _refuse_changes(folder, wanted, RunSettings.from_dict(read_run(folder)["settings"]))
    return wanted


def _refuse_changes(folder: Path, wanted: RunSettings, own: RunSettings) -> None:
    mine, theirs = wanted.to_dict(), own.to_dict()
    differing = [n for n in mine if mine[n] != theirs[n] and n not in CHANGEABLE]
    if differing:
        raise ConfigError(
            f"{folder}: holds a run with other settings: {', '.join(differing)}; use another "
            "folder, or go on with that run's own command"
        )


def open_fabric(accelerator: str, devices: int) -> Fabric:
    """Fabric for this process: alone, or as one of those that torchrun started."""
    nodes = 1
    if "TORCHELASTIC_RUN_ID" in os.environ:
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        nodes = int(os.environ["WORLD_SIZE"]) // devices
    strategy = DDPStrategy() if devices * nodes > 1 else "auto"
    try:
        fabric = Fabric(
            accelerator=accelerator, devices=devices, num_nodes=nodes, strategy=strategy
        )
        fabric.launch()
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"accelerator {accelerator!r} with {devices} devices: {reason}; use --accelerator cpu, "
            "or as many --devices as there are"
        ) from error
    return fabric


def keep_memory() -> None:
    """Have the C library keep freed memory for what comes next, where it is glibc.

    A step frees and takes hundreds of arrays of some megabytes. Given back to the system, each
    comes again as pages that are cleared one by one: a sixth of the time of a step.
    """
    if sys.platform.startswith("linux") and hasattr(library := ctypes.CDLL(None), "mallopt"):
        trim_threshold, top_pad, mmap_threshold = -1, -2, -3  # malloc.h
        library.mallopt(mmap_threshold, 32 << 20)  # the most it takes
        library.mallopt(trim_threshold, 2**31 - 1)
        library.mallopt(top_pad, 64 << 20)


def run(
    settings: RunSettings,
    parent: Parent | None,
    data: Path,
    folder: Path,
    *,
    cache: Path | None = None,
    accelerator: str = "auto",
    devices: int = 1,
    workers: int = 1,
    command: Sequence[str] = (),
) -> bool:
    """Train, or go on training, in `folder`.

    Args:
        settings: of the run.
        parent: what it starts from; None starts from random weights.
        data: manifest that `stemwire data scan` wrote.
        folder: of the run.
        cache: folder that `stemwire data cache` wrote, or None to decode on the fly.
        accelerator: `auto`, `cpu`, `cuda` …
        devices: how many of them; torchrun's own numbers go before it.
        workers: processes that make examples, for each device.
        command: how it was called, to be written down.

    Returns:
        Whether it is complete; otherwise it was interrupted, and saved.
    """
    keep_memory()
    settings = settle(folder, settings)
    fabric = open_fabric(accelerator, devices)
    manifest = Manifest(data)
    reader = AudioReader(manifest, settings.network.sample_rate, cache)
    seconds = settings.examples.seconds + settings.context
    examples = dataclasses.replace(settings.examples, seconds=seconds)
    kind = ClipMaker if settings.pretraining else ExampleMaker
    maker: Maker = kind(reader, examples, settings.seed)
    network = build_network(settings, parent)
    with _alone(folder) if fabric.is_global_zero else nullcontext():
        if fabric.is_global_zero:
            description = {
                "settings": settings.to_dict(),
                **_origin(folder, parent),
                "data": {"manifest": str(data), "sources": sources_of(manifest)},
                "stemwire": __version__,
                "command": list(command),
            }
            _describe(folder, description)
        fabric.barrier()
        trainer = Trainer(fabric, network, settings)
        batch_s = settings.batch_size * settings.examples.seconds
        with (
            _until_told() as stop,
            Logbook(
                folder, settings.steps, batch_s, network.config.sample_rate, fabric.is_global_zero
            ) as logbook,
        ):
            return train(trainer, maker, folder, logbook, workers, stop)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other processes from training in a run's folder, made if missing.

    Raises:
        ConfigError: if one does already.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            yield
    except Timeout as error:
        raise ConfigError(
            f"{folder}: another process is training there; stop it first, or give another folder"
        ) from error


@contextmanager
def _until_told() -> Iterator[list[int]]:
    """The signals that have asked to stop, so far; a second one stops at once."""
    stop: list[int] = []

    def ask(number: int, frame: FrameType | None) -> None:
        if stop:
            raise KeyboardInterrupt
        stop.append(number)
        print("\nfinishing this step and saving; again to stop at once", file=sys.stderr)

    before = {n: signal.signal(n, ask) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def settings_for(
    objective: str, part: str | None, parent: Parent | None, changes: Sequence[str]
) -> RunSettings:
    """The parent's settings (or the defaults) with objective, part and overrides in place."""
    start = parent.settings if parent else RunSettings()
    if parent and parent.settings.objective != objective:
        start = dataclasses.replace(start, part="whole")  # of pretraining; learn everything now
    chosen = [f"objective={objective}", *([f"part={part}"] if part else []), *changes]
    return override(start, chosen)
