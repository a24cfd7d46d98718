"""Roles and splits that names of files and folders imply."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stemwire.training.data.decode import printable

SUFFIXES = frozenset({  # that libsndfile reads
    ".wav", ".wave", ".w64", ".rf64", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".mp2", ".aif",
    ".aiff", ".aifc", ".au", ".snd", ".caf", ".voc", ".sph", ".nist", ".svx", ".paf", ".ircam",
})  # fmt: skip
UNSUPPORTED_SUFFIXES = frozenset({  # that it does not read
    ".m4a", ".mp4", ".aac", ".wma", ".ape", ".wv", ".mka", ".webm", ".mpc", ".tta", ".ac3", ".dts",
})  # fmt: skip
STEM_SUFFIX = ".stem.mp4"
STEM_STREAMS = {"mixture": (0,), "accompaniment": (1, 2, 3), "vocals": (4,)}

# Names as `normalised` returns them.
PARTS = frozenset({"drums", "bass", "other", "guitar", "piano", "percussion", "strings"})
# Without all of these, parts are no accompaniment.
ESSENTIAL_PARTS = frozenset({"drums", "bass", "other"})
FILE_ROLES = {
    **dict.fromkeys(("vocals", "vocal", "vox", "acapella", "acappella", "a_cappella"), "vocals"),
    **dict.fromkeys(
        ("accompaniment", "instrumental", "instrumentals", "instruments", "instrument", "inst",
         "no_vocals", "novocals", "karaoke"), "accompaniment",
    ),
    **dict.fromkeys(("mixture", "mix"), "mixture"),
}  # fmt: skip
PARALLEL_ROLES = {  # of folders that may hold the stems of pairs
    **FILE_ROLES,
    **dict.fromkeys(("accompaniments", "backing_tracks"), "accompaniment"),
    **dict.fromkeys(("mixtures", "mixes"), "mixture"),
}
FOLDER_ROLES = {
    **PARALLEL_ROLES,
    **dict.fromkeys(
        ("acapellas", "acappellas", "a_cappellas", "voice", "voices", "singing", "solo_singing"),
        "vocals",
    ),
    "music": "accompaniment",
}
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("valid", "validation", "val"), "valid"),
    **dict.fromkeys(("test", "testing"), "test"),
    "dev": "dev",
}


def normalised(name: str) -> str:
    """Name in lower case with `_` for spaces and hyphens, as in the tables."""
    return re.sub(r"[\s_-]+", "_", name.strip().lower())


def suffix_of(name: str) -> str:
    """Suffix in lower case, `.stem.mp4` as one."""
    lower = name.lower()
    return STEM_SUFFIX if lower.endswith(STEM_SUFFIX) else Path(lower).suffix


def stem_of(name: str) -> str:
    """Name without its suffix, and without folders."""
    return Path(name).name.removesuffix(name[len(name) - len(suffix_of(name)) :])


def role_of(name: str) -> str | None:
    """Role that a file's name implies: `vocals`, `accompaniment`, `mixture`, `parts` or None."""
    stem = normalised(stem_of(name))
    return "parts" if stem in PARTS else FILE_ROLES.get(stem)


def song_fields(stems: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Fields of `layouts.SongFiles` from a song's files by role.

    `parts` are parts of the accompaniment; they replace it only if it has no file of its own and
    is not the mixture minus the vocals.
    """
    fields: dict[str, Any] = {}
    for role in ("vocals", "accompaniment", "mixture"):
        files = stems.get(role, ())
        if len(files) > 1:
            names = ", ".join(printable(Path(file).name) for file in files)
            return {"problem": f"has several files for {role} ({names}); keep one"}
        if files:
            fields[role] = tuple(files)
    parts = stems.get("parts", ())
    kinds = {normalised(stem_of(file)) for file in parts}
    if len(kinds) < len(parts):
        names = ", ".join(printable(Path(file).name) for file in parts)
        return {"problem": f"has a part twice ({names}); keep one of each"}
    derivable = "vocals" in fields and "mixture" in fields
    if parts and "accompaniment" not in fields and (kinds >= ESSENTIAL_PARTS or not derivable):
        fields["accompaniment"] = tuple(parts)
    return fields
