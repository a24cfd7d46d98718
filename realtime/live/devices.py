"""Sound devices by number or name, through PortAudio (the package `sounddevice`).

PortAudio looks for devices once, when it is initialised; `rescan` has it look again. Nothing here
may be called from an audio callback.

A JACK server that dies takes PortAudio with it: closing a stream then waits for ten minutes, and
terminating PortAudio aborts the process (it asserts that JACK's client could be deactivated).
`close_stream` and `rescan` bear that: streams and library are left as they are, and a fresh copy of
the library takes over.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from stemwire.errors import AudioDeviceError, ConfigError
from stemwire.extras import silent_stderr
from stemwire.realtime.live.signal_masks import signal_mask_preserved

INSTALL = "pip install 'stemwire[live]'"
RATES = (8_000, 16_000, 22_050, 32_000, 44_100, 48_000, 88_200, 96_000, 176_400, 192_000)
LONGEST = 10.0  # seconds that a device may be late
JACK = "JACK Audio Connection Kit"  # its clients share one clock
PATIENCE = 2.0  # seconds that a living JACK server may take to answer

Direction = Literal["input", "output"]

_left: list[object] = []  # of dead servers: the collector must not touch them


@dataclass(frozen=True)
class Device:
    """A sound device as of the last scan.

    Attributes:
        number: PortAudio's, until the next `rescan`.
        name: as the system calls it.
        host_api: the system that it belongs to: ALSA, Core Audio, Windows WASAPI, JACK …
        inputs: channels that can be recorded.
        outputs: channels that can be played.
        sample_rate: that it prefers, Hz.
        input_latency: seconds, by default: for careful and for sturdy use.
        output_latency: the same of outputs.
        default_input: whether it is taken when none is named.
        default_output: the same of outputs.
    """

    number: int
    name: str
    host_api: str
    inputs: int
    outputs: int
    sample_rate: int
    input_latency: tuple[float, float]
    output_latency: tuple[float, float]
    default_input: bool
    default_output: bool

    def __str__(self) -> str:
        return f"{self.name}@{self.host_api}"

    def channels(self, direction: Direction) -> int:
        """Channels it has in that direction."""
        return self.inputs if direction == "input" else self.outputs

    def is_default(self, direction: Direction) -> bool:
        """Whether it is taken when none is named."""
        return self.default_input if direction == "input" else self.default_output


@cache
def sounddevice() -> Any:
    """The package, imported at the first call.

    Raises:
        ConfigError: if it or PortAudio is not installed.
        AudioDeviceError: if PortAudio does not start.
    """
    try:
        with silent_stderr():
            module = import_module("sounddevice")
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"live audio needs {error.name}, which is not installed: {INSTALL}"
        ) from error
    except OSError as error:
        raise ConfigError(
            f"live audio needs the PortAudio library ({error}); install it (Debian: apt-get "
            "install libportaudio2)"
        ) from error
    except Exception as error:  # PortAudioError, whose class the import would have given
        raise AudioDeviceError(
            f"PortAudio does not start ({error}); check the system's sound settings"
        ) from error
    atexit.register(_spare_the_exit)  # after its own handler, so it runs before
    return module


def list_devices() -> list[Device]:
    """All devices of the last scan, by number.

    Raises:
        ConfigError: if sounddevice or PortAudio is not installed.
        AudioDeviceError: if PortAudio fails.
    """
    sd = sounddevice()
    try:
        apis = sd.query_hostapis()
        found = sd.query_devices()
        defaults = (_default(sd, 0), _default(sd, 1))
    except sd.PortAudioError as error:
        raise AudioDeviceError(f"devices cannot be listed ({error}); try again") from error
    return [
        Device(
            number=number,
            name=" ".join(info["name"].split()),  # some have line ends in them
            host_api=apis[info["hostapi"]]["name"],
            inputs=info["max_input_channels"],
            outputs=info["max_output_channels"],
            sample_rate=round(info["default_samplerate"]),
            input_latency=(info["default_low_input_latency"], info["default_high_input_latency"]),
            output_latency=(
                info["default_low_output_latency"],
                info["default_high_output_latency"],
            ),
            default_input=number == defaults[0],
            default_output=number == defaults[1],
        )
        for number, info in enumerate(found)
    ]


def find_device(which: int | str | None, direction: Direction, channels: int = 1) -> Device:
    """The device that somebody means.

    Args:
        which: number, name, part of a name, host API (its default device), or "name@host api", of
            which both can be parts; upper and lower case are one. None is the system's default.
        direction: what it is wanted for.
        channels: that it must have at least.

    Raises:
        ConfigError: if sounddevice or PortAudio is not installed.
        AudioDeviceError: if there is none, or several, or it has too few channels.
    """
    devices = list_devices()
    fit = [device for device in devices if device.channels(direction) >= channels]
    if not fit:
        most = max((device.channels(direction) for device in devices), default=0)
        raise AudioDeviceError(
            f"no {direction} device with {channels} {direction} channels"
            + (f"; the largest has {most}: ask for fewer" if most else "")
            + f"; plug one in, or check permissions and the sound server ({_named(devices)})"
        )
    if which is None:
        if default := [device for device in devices if device.is_default(direction)]:
            return _fitting(default[0], direction, channels, fit)
        if len(fit) == 1:
            return fit[0]
        raise AudioDeviceError(
            f"the system has no default {direction} device; name one: {_named(fit)}"
        )
    if isinstance(which, int) or which.strip().isdecimal():
        number = int(which)
        if not 0 <= number < len(devices):
            raise AudioDeviceError(f"no device has the number {number}; use {_named(fit)}")
        return _fitting(devices[number], direction, channels, fit)
    matching = _matching(which, direction, devices)
    if not matching:
        raise AudioDeviceError(f"no {direction} device is called {which!r}; use {_named(fit)}")
    able = [device for device in matching if device in fit]
    if len(able) > 1:
        raise AudioDeviceError(
            f"{which!r} can be several {direction} devices; name one by its number, or as "
            f"'name@host api': {_named(able)}"
        )
    return able[0] if able else _fitting(matching[0], direction, channels, fit)


def supported_rates(
    device: Device, direction: Direction, rates: Sequence[int] = RATES
) -> tuple[int, ...]:
    """Those of `rates` that a device can run at as it stands; none if another program has it.

    This opens some devices for a moment.
    """
    sd = sounddevice()
    check = sd.check_input_settings if direction == "input" else sd.check_output_settings
    channels = min(2, device.channels(direction))
    good = []
    with silent_stderr():
        for rate in rates:
            with contextlib.suppress(sd.PortAudioError):
                check(device.number, channels, "float32", samplerate=rate)
                good.append(rate)
    return tuple(good)


def one_clock(source: Device, target: Device) -> bool:
    """Whether two devices are driven by one clock, so that one stream can have both."""
    return source.number == target.number or source.host_api == target.host_api == JACK


def rescan() -> None:
    """Have PortAudio look for devices again. No stream may be open that is to go on.

    Raises:
        ConfigError: if sounddevice or PortAudio is not installed.
        AudioDeviceError: if PortAudio does not start again.
    """
    sd = sounddevice()
    with silent_stderr(), signal_mask_preserved():
        try:
            if _jack_is_gone(sd):
                _take_fresh_library(sd)
            else:
                while sd._initialized:
                    sd._terminate()
            sd._initialize()
        except sd.PortAudioError as error:
            raise AudioDeviceError(
                f"PortAudio does not start again ({error}); check the system's sound settings"
            ) from error


def close_stream(stream: Any) -> None:
    """Close a sounddevice stream, or leave it alone if its device died in a way that hangs."""
    sd = sounddevice()
    try:
        numbers = set(stream.device) if isinstance(stream.device, tuple) else {stream.device}
        jack = any(_is_jack(sd, sd.query_devices(number)["hostapi"]) for number in numbers)
        with silent_stderr():
            if jack and _jack_is_gone(sd):
                _left.append(stream)
            else:
                stream.close(ignore_errors=True)
    except (sd.PortAudioError, ValueError):  # of the query: the device is not there any more
        stream.close(ignore_errors=True)


def plausible_latency(latency: float) -> float:
    """A driver's own latency in seconds, 0 if it cannot be true, as those of some JACK clients."""
    return latency if 0 <= latency < LONGEST else 0.0


def _default(sd: Any, which: int) -> int:
    """Number of the default input (0) or output (1) device, -1 if there is none."""
    number: int = sd.default.device[which]
    if number >= 0:
        return number
    call = sd._lib.Pa_GetDefaultOutputDevice if which else sd._lib.Pa_GetDefaultInputDevice
    return int(call())


def _matching(which: str, direction: Direction, devices: Sequence[Device]) -> list[Device]:
    """Devices that a text can mean: those whose whole name it is, or else those it is a part of."""
    text = " ".join(which.casefold().split())
    if whole := [d for d in devices if text in (d.name.casefold(), str(d).casefold())]:
        return whole
    if parts := [device for device in devices if text in device.name.casefold()]:
        return parts
    name, _, api = text.rpartition("@")
    of_api = [device for device in devices if api.strip() in device.host_api.casefold()]
    if name:
        return _matching(name, direction, of_api)
    if len({device.host_api for device in of_api}) == 1:  # a host API alone is its default device
        for info in sounddevice().query_hostapis():
            if info["name"] == of_api[0].host_api:
                number = info[f"default_{direction}_device"]
                return [device for device in of_api if device.number == number] or of_api
    return of_api


def _fitting(device: Device, direction: Direction, channels: int, fit: Sequence[Device]) -> Device:
    if device in fit:
        return device
    raise AudioDeviceError(
        f"device {device.number} ({device}) has {device.channels(direction)} {direction} channels, "
        f"not {channels}; use {_named(fit)}"
    )


def _named(devices: Sequence[Device]) -> str:
    return ", ".join(f"{device.number} ({device})" for device in devices) or "there are none"


def _is_jack(sd: Any, api: int) -> bool:
    return "JACK" in sd.query_hostapis(api)["name"]


def _jack_is_gone(sd: Any) -> bool:
    """Whether PortAudio is the client of a JACK server that has died, or hangs.

    Only opening a stream tells, in a thread because it waits for the server.
    """
    if not sd._initialized:
        return False
    numbers = [
        number
        for api in range(len(sd.query_hostapis()))
        if _is_jack(sd, api)
        for number in sd.query_hostapis(api)["devices"]
    ]
    if not numbers:
        return False
    answered = threading.Event()

    def ask() -> None:
        info = sd.query_devices(numbers[0])
        kind = sd.RawInputStream if info["max_input_channels"] else sd.RawOutputStream
        with contextlib.suppress(sd.PortAudioError):
            kind(
                info["default_samplerate"], 0, numbers[0], 1, "float32", callback=lambda *_: None
            ).close()
            answered.set()

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return not answered.is_set()


def _take_fresh_library(sd: Any) -> None:
    """Let sounddevice go on with another copy of PortAudio, which knows nothing of the first.

    The memory of the old one (some 200 kB) stays taken.
    """
    if not hasattr(os, "memfd_create"):
        raise AudioDeviceError("the JACK server has gone; start Stemwire again once it is back")
    # The loader knows files by number and name: an anonymous one, never closed, is a new one.
    file = os.memfd_create("portaudio")
    with os.fdopen(os.dup(file), "wb") as copy:
        copy.write(_library())
    _left.append(sd._lib)
    sd._lib = sd._ffi.dlopen(f"/proc/self/fd/{file}")
    sd._initialized = 0


@cache
def _library() -> bytes:
    """PortAudio's file."""
    for line in Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines():
        path = Path(line.split(maxsplit=5)[-1])
        if "portaudio" in path.name and ".so" in path.suffixes and path.is_file():
            return path.read_bytes()
    raise AudioDeviceError("the JACK server has gone; start Stemwire again once it is back")


def _spare_the_exit() -> None:
    """Keep sounddevice from terminating PortAudio at exit if that would abort the process."""
    sd = sounddevice()
    with silent_stderr(), contextlib.suppress(Exception):
        if _jack_is_gone(sd):
            sd._initialized = 0
