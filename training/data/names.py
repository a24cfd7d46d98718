"""What names of files and folders say about what is in them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stemwire.training.data.decode import shown

SUFFIXES = frozenset({  # of what libsndfile reads
    ".wav", ".wave", ".w64", ".rf64", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".mp2", ".aif",
    ".aiff", ".aifc", ".au", ".snd", ".caf", ".voc", ".sph", ".nist", ".svx", ".paf", ".ircam",
})  # fmt: skip
FOREIGN = frozenset({  # of what it does not
    ".m4a", ".mp4", ".aac", ".wma", ".ape", ".wv", ".mka", ".webm", ".mpc", ".tta", ".ac3", ".dts",
})  # fmt: skip
STEM_SUFFIX = ".stem.mp4"
STEM_STREAMS = {"mixture": (0,), "accompaniment": (1, 2, 3), "vocals": (4,)}

# Lower case, `_` for spaces and hyphens.
PARTS = frozenset({"drums", "bass", "other", "guitar", "piano", "percussion", "strings"})
WHOLE = frozenset({"drums", "bass", "other"})  # without one of these the parts are no accompaniment
FILE_ROLES = {
    **dict.fromkeys(("vocals", "vocal", "vox", "acapella", "acappella", "a_cappella"), "vocals"),
    **dict.fromkeys(
        ("accompaniment", "instrumental", "instrumentals", "instruments", "instrument", "inst",
         "no_vocals", "novocals", "karaoke"), "accompaniment",
    ),
    **dict.fromkeys(("mixture", "mix"), "mixture"),
}  # fmt: skip
PARALLEL_ROLES = {  # of folders that may hold the halves of pairs
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


def normal(name: str) -> str:
    """A name as the tables have it."""
    return re.sub(r"[\s_-]+", "_", name.strip().lower())


def suffix_of(name: str) -> str:
    """Suffix in lower case, `.stem.mp4` as one."""
    lower = name.lower()
    return STEM_SUFFIX if lower.endswith(STEM_SUFFIX) else Path(lower).suffix


def stem_of(name: str) -> str:
    """Name without its suffix, and without folders."""
    return Path(name).name.removesuffix(name[len(name) - len(suffix_of(name)) :])


def role_of(name: str) -> str | None:
    """What a file's name says: `vocals`, `accompaniment`, `mixture`, `parts`, or nothing."""
    stem = normal(stem_of(name))
    return "parts" if stem in PARTS else FILE_ROLES.get(stem)


def gather(stems: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Fields of `layouts.Found` from a song's files by role.

    `parts` are pieces of the accompaniment; they stand for it only where it has no file of its own
    and cannot be had better, as the mixture without the vocals.
    """
    fields: dict[str, Any] = {}
    for role in ("vocals", "accompaniment", "mixture"):
        files = stems.get(role, ())
        if len(files) > 1:
            names = ", ".join(shown(Path(file).name) for file in files)
            return {"problem": f"has several files for {role} ({names}); keep one"}
        if files:
            fields[role] = tuple(files)
    parts = stems.get("parts", ())
    kinds = {normal(stem_of(file)) for file in parts}
    if len(kinds) < len(parts):
        names = ", ".join(shown(Path(file).name) for file in parts)
        return {"problem": f"has a part twice ({names}); keep one of each"}
    derivable = "vocals" in fields and "mixture" in fields
    if parts and "accompaniment" not in fields and (kinds >= WHOLE or not derivable):
        fields["accompaniment"] = tuple(parts)
    return fields
