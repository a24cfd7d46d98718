"""Settings that `stemwire live` saves between runs, in the platform's settings folder."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from stemwire.files import atomic_write_text
from stemwire.realtime.levels import HIGHEST_DB, OFF, STEMS

FILE = "live.json"
FOLDER_VARIABLE = "STEMWIRE_CONFIG_DIR"
MAX_CHANNELS = 64

Warn = Callable[[str], None]
_warned: set[str] = set()  # folders that could not be written to, reported once


def _print_warning(text: str) -> None:
    print(f"stemwire: {text}", file=sys.stderr)


@dataclass(frozen=True)
class Preferences:
    """Settings of a live session. Channels count from 1, as they are printed on sound cards.

    Attributes:
        input_device: name of the input device; "" is the system's default.
        output_device: name of the output device; "" is the system's default.
        input_channels: channels of the input with the music: left and right, or one.
        microphone_channels: channels of the input with singers; empty is no microphone.
        output_channels: channels of the output to play on, left and right in turn.
        preset: name or folder of the preset.
        backend: name of the backend, as for `stemwire.load`.
        block_size: samples per block; 0 is the command's default.
        sample_rate: sample rate in Hz; 0 is the output's own.
        margin: samples of margin for the worker; 0 is the default.
        effects: chains of effects by stem, as the command line takes them.
        vocals_db: level in dB; -inf is off.
        instrumental_db: level in dB; -inf is off.
        microphone_db: level in dB; -inf is off.
        output_db: level of everything in dB; -inf is off.
        midi_port: name of the MIDI port for controls; "" is none.
        midi_map: name or file of the MIDI map; "" is the learned one.
        unknown: settings of a newer version, saved again unchanged.
    """

    input_device: str = ""
    output_device: str = ""
    input_channels: tuple[int, ...] = (1, 2)
    microphone_channels: tuple[int, ...] = ()
    output_channels: tuple[int, ...] = (1, 2)
    preset: str = "standard"
    backend: str = "auto"
    block_size: int = 0
    sample_rate: int = 0
    margin: int = 0
    effects: Mapping[str, str] = field(default_factory=dict)
    vocals_db: float = OFF
    instrumental_db: float = 0.0
    microphone_db: float = 0.0
    output_db: float = 0.0
    midi_port: str = ""
    midi_map: str = ""
    unknown: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, warn: Warn = _print_warning, folder: Path | None = None) -> Preferences:
        """Read the saved settings; the defaults where there are none.

        Never raises. A damaged file is moved aside and the defaults are used; an invalid value is
        replaced by its default.

        Args:
            warn: called with a sentence about each problem.
            folder: folder of the file; None is `preferences_folder()`.
        """
        path = (folder or preferences_folder()) / FILE
        try:
            values = json.loads(path.read_bytes().decode("utf-8-sig"))
            if not isinstance(values, dict):
                raise ValueError(f"it holds a {type(values).__name__}, not an object")
        except FileNotFoundError:
            return cls()
        except OSError as error:
            warn(f"{path}: cannot be read ({error.strerror}); the default settings are used")
            return cls()
        except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, not an object
            warn(f"{path}: is damaged ({error}); the default settings are used{_set_aside(path)}")
            return cls()
        known = {}
        for each in fields(cls):
            if each.name in values and each.name != "unknown":
                value = values.pop(each.name)
                try:
                    known[each.name] = _READERS[str(each.type)](value)
                except ValueError as error:
                    default = _brief(_writable(getattr(cls(), each.name)))
                    warn(
                        f"{path}: {each.name} must be {error}, not {_brief(value)}; the default "
                        f"{default} is used"
                    )
        return cls(**known, unknown=values)

    def save(self, warn: Warn = _print_warning, folder: Path | None = None) -> bool:
        """Write the settings atomically; return whether they were written.

        Never raises: failures are reported to `warn`, once for each folder.

        Args:
            warn: called with a sentence that says why nothing could be saved.
            folder: folder of the file; None is `preferences_folder()`.
        """
        folder = folder or preferences_folder()
        values = {k: _writable(v) for k, v in asdict(self).items() if k != "unknown"}
        text = json.dumps({**self.unknown, **values}, indent=2) + "\n"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            atomic_write_text((folder / FILE).resolve(), text)  # a link stays a link
        except OSError as error:
            if str(folder) not in _warned:
                _warned.add(str(folder))
                warn(
                    f"{folder}: settings cannot be saved there ({error.strerror}); set "
                    f"{FOLDER_VARIABLE} to a folder that can be written to"
                )
            return False
        return True


def preferences_folder() -> Path:
    """Settings folder: `STEMWIRE_CONFIG_DIR`, or the platform's folder for this user."""
    if chosen := os.environ.get(FOLDER_VARIABLE):
        return Path(chosen).expanduser()
    from platformdirs import user_config_path  # of the extra `live`

    return user_config_path("stemwire", appauthor=False, roaming=True)


def _set_aside(path: Path) -> str:
    """Rename a damaged file without overwriting another; return a note for the warning."""
    number = 1
    while (aside := path.with_name(f"{path.stem}.damaged-{number}.json")).exists():
        number += 1
    try:
        path.rename(aside)
    except OSError:
        return ""
    return f", and the file is kept as {aside.name}"


def _brief(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:39]}…"


def _writable(value: object) -> object:
    return "off" if value == OFF else value


def _read_text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("text")
    return value


def _read_count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError("a whole number from 0")
    return value


def _read_decibels(value: object) -> float:
    if value == "off":
        return OFF
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not -1000 <= float(value) <= HIGHEST_DB:  # type: ignore[arg-type]
        raise ValueError(f'"off" or decibels up to {HIGHEST_DB:g}')
    return float(value)  # type: ignore[arg-type]


def _read_channels(value: object) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) > MAX_CHANNELS:
        raise ValueError(f"a list of at most {MAX_CHANNELS} channels")
    if not all(isinstance(v, int) and not isinstance(v, bool) and v >= 1 for v in value):
        raise ValueError("a list of channels, which count from 1")
    return tuple(value)


def _read_effects(value: object) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(chain, str) for chain in value.values()):
        raise ValueError("an object of chains by stem")
    if unknown := set(value) - {*STEMS, "microphone"}:
        raise ValueError(f"of {', '.join(STEMS)} or microphone alone ({', '.join(unknown)})")
    return value


_READERS: dict[str, Callable[[object], Any]] = {
    "str": _read_text,
    "int": _read_count,
    "float": _read_decibels,
    "tuple[int, ...]": _read_channels,
    "Mapping[str, str]": _read_effects,
}
