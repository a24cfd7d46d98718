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
from stemwire.training.trainer.warm_start import with_lookahead, without_lookahead

# Settings that may change when a run is resumed: none alters what a step learns, except that the
# last step determines when the learning rate falls.
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
    """Weights that a run starts from.

    Attributes:
        checkpoint: file with the weights.
        settings: settings of the run that trained them, or defaults for the network.
        history: descriptions of that run and its own parents, oldest first.
    """

    checkpoint: Path
    settings: RunSettings
    history: list[dict[str, Any]]


def find_parent(path: Path) -> Parent:
    """Parent from a run's folder (its best weights), a preset's folder or a checkpoint.

    Raises:
        CheckpointError: if it is none of them, or damaged.
    """
    if (path / FILE).exists():
        run = read_run(path)
        files = [path / f"{name}.safetensors" for name in ("best", "ema")]
        found = next((file for file in files if file.exists()), None)
        if found is None:
            raise CheckpointError(
                f"{path}: the run has saved no weights yet; train it further first"
            )
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
    """Descriptions of a run and its parents, without local paths, oldest first.

    Args:
        run: description in its folder; see `read_run`.
        steps: number of steps that its weights were trained for.
    """
    data = {"sources": run["data"]["sources"]}
    own = {name: run[name] for name in ("settings", "stemwire")} | {"steps": steps, "data": data}
    return [*run["history"], own]


def build_network(settings: RunSettings, parent: Parent | None) -> Separator:
    """Network of a run, with its parent's weights or random ones from the seed.

    Raises:
        CheckpointError: if the parent's weights do not fit the settings.
    """
    torch.manual_seed(settings.seed)
    network = Separator(settings.network)
    if parent is not None:
        weights = load_checkpoint(parent.checkpoint).state_dict()
        own = network.state_dict()
        before, lookahead = parent.settings, settings.network.lookahead
        if lookahead and not before.network.lookahead:
            weights = with_lookahead(weights, network)
        elif not lookahead and before.ahead_share < 1:  # it has learned to do without
            weights = without_lookahead(weights, before.network.lookahead)
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
    """Sources of a manifest's training songs: number and hours by source, licence and kind."""
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
    """Parent and history of a run, from its command or else from its folder."""
    if parent is None and (folder / FILE).exists():
        before = read_run(folder)
        return {name: before[name] for name in ("parent", "history")}
    return {
        "parent": str(parent.checkpoint) if parent else None,
        "history": parent.history if parent else [],
    }


def prepare_cooldown(source: Path, folder: Path, steps: int, changes: Sequence[str]) -> RunSettings:
    """Prepare the cooldown of a copy of a run, to get weights to ship while the run continues.

    Args:
        source: folder of the run, which may be training meanwhile.
        folder: folder of the copy; an existing copy is resumed.
        steps: number of steps over which the copy's learning rate falls to zero.
        changes: as for `override`; none of them may alter what a step learns.

    Returns:
        Settings of the copy.

    Raises:
        ConfigError: if both folders are the same, or a change is not allowed.
        CheckpointError: if `source` is not a run, or has saved nothing yet.
    """
    if folder.exists() and folder.samefile(source):
        raise ConfigError(
            f"{folder}: a cooldown trains a copy of the run; give another folder with -o"
        )
    description = read_run(source)
    if not (folder / FILE).exists():
        checkpoint = source / "checkpoint.pt"
        if not checkpoint.exists():
            raise CheckpointError(
                f"{source}: the run has saved no checkpoint yet; train it further"
            )
        own = RunSettings.from_dict(description["settings"])
        requested = override(own, changes)
        _refuse_changes(source, requested, own)
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(checkpoint, folder / "checkpoint.pt")
        step = torch.load(folder / "checkpoint.pt", map_location="cpu", weights_only=True)["step"]
        requested = override(requested, [f"steps={step + steps}", f"cooldown_steps={steps}"])
        description["settings"] = requested.to_dict()
        _write_description(folder, description)
    return RunSettings.from_dict(read_run(folder)["settings"])


def _write_description(folder: Path, description: dict[str, Any]) -> None:
    atomic_write_text(folder / FILE, json.dumps(description, indent=1) + "\n")


def resumed_settings(folder: Path, requested: RunSettings) -> RunSettings:
    """Requested settings, checked against those of a run that `folder` may hold.

    Raises:
        ConfigError: if they differ from the run's own in what it learns.
    """
    if not (folder / FILE).exists():
        return requested
    _refuse_changes(folder, requested, RunSettings.from_dict(read_run(folder)["settings"]))
    return requested


def _refuse_changes(folder: Path, requested: RunSettings, own: RunSettings) -> None:
    mine, theirs = requested.to_dict(), own.to_dict()
    differing = [n for n in mine if mine[n] != theirs[n] and n not in CHANGEABLE]
    if differing:
        raise ConfigError(
            f"{folder}: holds a run with other settings: {', '.join(differing)}; use another "
            "folder, or resume that run with its own command"
        )


def open_fabric(accelerator: str, devices: int) -> Fabric:
    """Launched Fabric of this process, which may be one of several that torchrun started."""
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
    """Have the C library keep freed memory for reuse, if it is glibc.

    A step frees and allocates hundreds of arrays of some megabytes. Memory returned to the system
    comes back as pages that are cleared one by one, which takes a sixth of the time of a step.
    """
    if sys.platform.startswith("linux") and hasattr(library := ctypes.CDLL(None), "mallopt"):
        trim_threshold, top_pad, mmap_threshold = -1, -2, -3  # malloc.h
        library.mallopt(mmap_threshold, 32 << 20)  # largest value allowed
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
    """Train in `folder`, or resume the run there.

    Args:
        settings: settings of the run.
        parent: weights to start from; None starts from random weights.
        data: manifest that `stemwire data scan` wrote.
        folder: folder of the run.
        cache: folder that `stemwire data cache` wrote, or None to decode on the fly.
        accelerator: `auto`, `cpu`, `cuda` …
        devices: number of devices; torchrun's numbers take precedence.
        workers: processes that make examples, for each device.
        command: command-line arguments, for the record.

    Returns:
        Whether the run is complete; otherwise it was interrupted and saved.
    """
    keep_memory()
    settings = resumed_settings(folder, settings)
    fabric = open_fabric(accelerator, devices)
    manifest = Manifest(data)
    reader = AudioReader(manifest, settings.network.sample_rate, cache)
    seconds = settings.examples.seconds + settings.context
    examples = dataclasses.replace(settings.examples, seconds=seconds)
    kind = ClipMaker if settings.pretraining else ExampleMaker
    maker: Maker = kind(reader, examples, settings.seed)
    network = build_network(settings, parent)
    with _locked(folder) if fabric.is_global_zero else nullcontext():
        if fabric.is_global_zero:
            description = {
                "settings": settings.to_dict(),
                **_origin(folder, parent),
                "data": {"manifest": str(data), "sources": sources_of(manifest)},
                "stemwire": __version__,
                "command": list(command),
            }
            _write_description(folder, description)
        fabric.barrier()
        trainer = Trainer(fabric, network, settings)
        batch_s = settings.batch_size * settings.examples.seconds
        with (
            _stop_signals() as stop,
            Logbook(
                folder, settings.steps, batch_s, network.config.sample_rate, fabric.is_global_zero
            ) as logbook,
        ):
            return train(trainer, maker, folder, logbook, workers, stop)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lock a run's folder, created if missing, against training by other processes.

    Raises:
        ConfigError: if another process is training there.
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
def _stop_signals() -> Iterator[list[int]]:
    """List of the signals to stop received so far; a second one stops at once."""
    stop: list[int] = []

    def ask(number: int, frame: FrameType | None) -> None:
        if stop:
            raise KeyboardInterrupt
        stop.append(number)
        print("\nfinishing this step and saving; press again to stop at once", file=sys.stderr)

    before = {n: signal.signal(n, ask) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def settings_for(
    objective: str, part: str | None, parent: Parent | None, changes: Sequence[str]
) -> RunSettings:
    """Parent's settings (or the defaults) with objective, part and overrides applied."""
    start = parent.settings if parent else RunSettings()
    if parent and parent.settings.objective != objective:
        start = dataclasses.replace(start, part="whole")  # from pretraining; now train everything
    chosen = [f"objective={objective}", *([f"part={part}"] if part else []), *changes]
    return override(start, chosen)
