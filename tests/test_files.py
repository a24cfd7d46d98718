"""Files are replaced as a whole, or left as they were."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from support import files_below

from stemwire.files import atomic_write, atomic_write_text


def test_the_new_content_takes_the_place_of_the_old(tmp_path: Path) -> None:
    path = tmp_path / "made" / "on the way" / "a.bin"
    for content in (b"old", b"new"):
        with atomic_write(path) as file:
            file.write(content)
            assert not path.exists() or path.read_bytes() == b"old"
        assert path.read_bytes() == content
    atomic_write_text(path, "naïve")
    assert path.read_text(encoding="utf-8") == "naïve"
    assert files_below(tmp_path) == ["made/on the way/a.bin"]


@pytest.mark.parametrize("error", [OSError("full"), KeyboardInterrupt(), ValueError("no")])
def test_what_fails_leaves_no_trace(tmp_path: Path, error: BaseException) -> None:
    atomic_write_text(tmp_path / "a", "old")
    with pytest.raises(type(error)), atomic_write(tmp_path / "a") as file:
        file.write(b"half")
        raise error
    assert (tmp_path / "a").read_text() == "old"
    assert files_below(tmp_path) == ["a"]


def test_what_is_in_the_way_is_an_error_and_stays(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    with pytest.raises(OSError):
        atomic_write_text(tmp_path / "a", "text")
    assert (tmp_path / "a" / "b").is_dir() and files_below(tmp_path) == []


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
def test_private_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        atomic_write_text(tmp_path / "a", "open")
        atomic_write_text(tmp_path / "b", "mine", private=True)
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in "ab"]
    assert modes == [0o644, 0o600]
