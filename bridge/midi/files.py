"""Files (JSON) of MIDI maps, and the built-in maps."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from stemwire.bridge.midi.map import MODES, TARGETS, Binding, Mapping, Mode
from stemwire.bridge.midi.messages import ANY, HIGHEST, KINDS, Source
from stemwire.errors import ConfigError, OutputError
from stemwire.files import atomic_write_text

FORMAT, VERSION = "stemwire midi map", 1
_KEYS = ("source", "number", "channel", "target", "mode")


def default_mapping() -> Mapping:
    """Built-in map for any controller; see `map.py`."""
    levels = ("vocals", "instrumental", "microphone", "output")
    buttons = ("bypass", "mute", "solo vocals", "preset next")
    return Mapping(
        [
            *(Binding(Source("cc", 7, 1 + i), name) for i, name in enumerate(levels)),
            *(Binding(Source("cc", 80 + i), name) for i, name in enumerate(buttons)),
            Binding(Source("program", 0, 16), "preset"),
        ]
    )


def mackie_mapping() -> Mapping:
    """Built-in map for surfaces that speak Mackie Control; see `map.py`."""
    faders = {1: "vocals", 2: "instrumental", 3: "microphone", 9: "output"}  # channels
    notes = {
        8: "solo vocals",
        9: "solo instrumental",
        10: "solo microphone",
        16: "mute",
        24: "bypass",
        46: "preset previous",
        47: "preset next",
    }
    return Mapping(
        [
            *(Binding(Source("bend", 0, channel), name) for channel, name in faders.items()),
            *(Binding(Source("note", number, 1), name) for number, name in notes.items()),
        ]
    )


BUILT_IN: dict[str, Callable[[], Mapping]] = {"default": default_mapping, "mackie": mackie_mapping}


def load_mapping(where: str | Path) -> Mapping:
    """Load a map by the name of a built-in one, or from a file that `save_mapping` wrote.

    Raises:
        ConfigError: for a file that is missing, is not a map, or has an invalid entry; it names
            file, entry, and what was expected.
    """
    if isinstance(where, str) and where in BUILT_IN:
        return BUILT_IN[where]()
    try:
        data = json.loads(Path(where).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"{where}: {error.strerror or error}; name a MIDI map's file, or {_join_or(BUILT_IN)}"
        ) from error
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError too
        raise ConfigError(
            f"{where}: not JSON ({error}); correct it, or delete it and start from a built-in map"
        ) from error
    return _read(data, str(where))


def save_mapping(mapping: Mapping, path: Path) -> None:
    """Write a map atomically; missing folders are created.

    Raises:
        OutputError: if it cannot be written.
    """
    data = {
        "format": FORMAT,
        "version": VERSION,
        "bindings": [_entry(binding) for binding in mapping.bindings],
    }
    try:
        atomic_write_text(path, json.dumps(data, indent=2) + "\n")
    except OSError as error:
        raise OutputError(
            f"{path}: the MIDI map cannot be saved: {error.strerror or error}; free space, or "
            "choose another folder"
        ) from error


def _entry(binding: Binding) -> dict[str, Any]:
    source = binding.source
    entry: dict[str, Any] = {"source": source.kind}
    if HIGHEST[source.kind]:
        entry["number"] = source.number
    entry |= {"channel": source.channel or "any", "target": binding.target}
    if binding.mode != "toggle":
        entry["mode"] = binding.mode
    return entry


def _read(data: object, name: str) -> Mapping:
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise ConfigError(f'{name}: not a MIDI map; expected {{"format": "{FORMAT}", ...}}')
    if data.get("version") != VERSION:
        raise ConfigError(
            f"{name}: version {data.get('version')!r} of MIDI maps; this Stemwire reads {VERSION}: "
            "update it, or learn the controls again"
        )
    entries = data.get("bindings")
    if not isinstance(entries, list):
        raise ConfigError(f"{name}: bindings must be a list, not {_kind(entries)}")
    bindings: list[Binding] = []
    for number, entry in enumerate(entries, 1):
        try:
            binding = _binding(entry)
            for earlier, other in enumerate(bindings, 1):
                if other.source.overlaps(binding.source):
                    raise ConfigError(f"{binding.source} is bound by binding {earlier} already")
        except ConfigError as error:
            raise ConfigError(f"{name}: binding {number}: {error}; correct or remove it") from None
        bindings.append(binding)
    return Mapping(bindings)


def _binding(entry: object) -> Binding:
    if not isinstance(entry, dict):
        raise ConfigError(f"expected an object with {', '.join(_KEYS)}, not {_kind(entry)}")
    if unknown := sorted(set(entry) - set(_KEYS)):
        raise ConfigError(f"{unknown[0]!r} is unknown; expected {', '.join(_KEYS)}")
    kind = entry.get("source")
    if kind not in KINDS:
        raise ConfigError(f"source must be {_join_or(KINDS)}, not {_shown(kind)}")
    number: Any = entry.get("number", None if HIGHEST[kind] else 0)
    if not _is_integer(number) or not 0 <= number <= HIGHEST[kind]:
        raise ConfigError(f"number of {kind} must be 0 to {HIGHEST[kind]}, not {_shown(number)}")
    channel: Any = entry.get("channel", "any")
    if channel != "any" and (not _is_integer(channel) or not 1 <= channel <= 16):
        raise ConfigError(f'channel must be 1 to 16 or "any", not {_shown(channel)}')
    target, mode = entry.get("target"), entry.get("mode", "toggle")  # checked further by Binding
    if not isinstance(target, str):
        raise ConfigError(f"target must be one of {', '.join(TARGETS)}, not {_shown(target)}")
    if not isinstance(mode, str):
        raise ConfigError(f"mode must be {_join_or(MODES)}, not {_shown(mode)}")
    source = Source(kind, number, ANY if channel == "any" else channel)
    return Binding(source, target, cast(Mode, mode))


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _shown(value: object) -> str:
    return "nothing" if value is None else json.dumps(value)[:40]


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "text", type(None): "nothing"}
    return names.get(type(value), _shown(value))


def _join_or(names: Any) -> str:
    *most, last = names
    return f"{', '.join(most)} or {last}"
