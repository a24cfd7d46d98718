"""Sound devices by number or name, through PortAudio (the package `sounddevice`).

PortAudio scans for devices once, when it is initialised; `rescan` makes it scan again. Nothing here
may be called from an audio callback.

If a JACK server dies, closing a stream of PortAudio takes ten minutes, and terminating PortAudio
aborts the process (it asserts that JACK's client could be deactivated). `close_stream` and `rescan`
handle that: they abandon streams and library, and load a fresh copy of the library.
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
MAX_LATENCY_S = 10.0  # higher reported latencies are not plausible
JACK = "JACK Audio Connection Kit"  # its clients share one clock
JACK_TIMEOUT_S = 2.0  # time in which a living JACK server responds

Direction = Literal["input", "output"]

_abandoned: list[object] = []  # streams and libraries of dead servers, which must not be freed


@dataclass(frozen=True)
class Device:
    """Sound device as of the last scan.

    Attributes:
        number: PortAudio's number, valid until the next `rescan`.
        name: name given by the system.
        host_api: audio system that it belongs to: ALSA, Core Audio, Windows WASAPI, JACK …
        inputs: number of input channels.
        outputs: number of output channels.
        sample_rate: default sample rate in Hz.
        input_latency: default low and high latency of the input in seconds.
        output_latency: the same for the output.
        default_input: whether it is the default input.
        default_output: whether it is the default output.
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
        """Number of channels in a direction."""
        return self.inputs if direction == "input" else self.outputs

    def is_default(self, direction: Direction) -> bool:
        """Whether it is the default in a direction."""
        return self.default_input if direction == "input" else self.default_output


@cache
def sounddevice() -> Any:
    """The package `sounddevice`, imported at the first call.

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
    atexit.register(_avoid_abort_at_exit)  # after its own handler, so it runs before
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
            name=" ".join(info["name"].split()),  # some contain line breaks
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
    """Find a device.

    Args:
        which: number, name, part of a name, host API (its default device), or "name@host api", both
            of which may be parts; case is ignored. None is the system's default.
        direction: input or output.
        channels: minimum number of channels.

    Raises:
        ConfigError: if sounddevice or PortAudio is not installed.
        AudioDeviceError: if none or several match, or it has too few channels.
    """
    devices = list_devices()
    fit = [device for device in devices if device.channels(direction) >= channels]
    if not fit:
        most = max((device.channels(direction) for device in devices), default=0)
        raise AudioDeviceError(
            f"no {direction} device with {channels} {direction} channels"
            + (f"; the largest has {most}: ask for fewer" if most else "")
            + f"; plug one in, or check permissions and the sound server ({_list_names(devices)})"
        )
    if which is None:
        if default := [device for device in devices if device.is_default(direction)]:
            return _with_channels(default[0], direction, channels, fit)
        if len(fit) == 1:
            return fit[0]
        raise AudioDeviceError(
            f"the system has no default {direction} device; name one: {_list_names(fit)}"
        )
    if isinstance(which, int) or which.strip().isdecimal():
        number = int(which)
        if not 0 <= number < len(devices):
            raise AudioDeviceError(f"no device has the number {number}; use {_list_names(fit)}")
        return _with_channels(devices[number], direction, channels, fit)
    matching = _matches(which, direction, devices)
    if not matching:
        raise AudioDeviceError(f"no {direction} device is called {which!r}; use {_list_names(fit)}")
    able = [device for device in matching if device in fit]
    if len(able) > 1:
        raise AudioDeviceError(
            f"{which!r} can be several {direction} devices; name one by its number, or as "
            f"'name@host api': {_list_names(able)}"
        )
    return able[0] if able else _with_channels(matching[0], direction, channels, fit)


def supported_rates(
    device: Device, direction: Direction, rates: Sequence[int] = RATES
) -> tuple[int, ...]:
    """Those of `rates` that a device supports now; none if another program is using it.

    Some devices are opened briefly.
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
    """Whether two devices share a clock, so that one stream can use both."""
    return source.number == target.number or source.host_api == target.host_api == JACK


def rescan() -> None:
    """Scan for devices again; no stream may be open.

    Raises:
        ConfigError: if sounddevice or PortAudio is not installed.
        AudioDeviceError: if PortAudio does not start again.
    """
    sd = sounddevice()
    with silent_stderr(), signal_mask_preserved():
        try:
            if _jack_is_gone(sd):
                _load_fresh_portaudio(sd)
            else:
                while sd._initialized:
                    sd._terminate()
            sd._initialize()
        except sd.PortAudioError as error:
            raise AudioDeviceError(
                f"PortAudio does not start again ({error}); check the system's sound settings"
            ) from error


def close_stream(stream: Any) -> None:
    """Close a sounddevice stream, or abandon it if closing would hang."""
    sd = sounddevice()
    try:
        numbers = set(stream.device) if isinstance(stream.device, tuple) else {stream.device}
        jack = any(_is_jack(sd, sd.query_devices(number)["hostapi"]) for number in numbers)
        with silent_stderr():
            if jack and _jack_is_gone(sd):
                _abandoned.append(stream)
            else:
                stream.close(ignore_errors=True)
    except (sd.PortAudioError, ValueError):  # of the query: the device has disappeared
        stream.close(ignore_errors=True)


def plausible_latency(latency: float) -> float:
    """Latency in seconds that a driver reports, or 0 if it is implausible (some JACK clients)."""
    return latency if 0 <= latency < MAX_LATENCY_S else 0.0


def _default(sd: Any, which: int) -> int:
    """Number of the default input (0) or output (1) device, -1 if there is none."""
    number: int = sd.default.device[which]
    if number >= 0:
        return number
    call = sd._lib.Pa_GetDefaultOutputDevice if which else sd._lib.Pa_GetDefaultInputDevice
    return int(call())


def _matches(which: str, direction: Direction, devices: Sequence[Device]) -> list[Device]:
    """Devices that match a text: by their full name, or else by a part of it."""
    text = " ".join(which.casefold().split())
    if whole := [d for d in devices if text in (d.name.casefold(), str(d).casefold())]:
        return whole
    if parts := [device for device in devices if text in device.name.casefold()]:
        return parts
    name, _, api = text.rpartition("@")
    of_api = [device for device in devices if api.strip() in device.host_api.casefold()]
    if name:
        return _matches(name, direction, of_api)
    if (
        len({device.host_api for device in of_api}) == 1
    ):  # a host API alone means its default device
        for info in sounddevice().query_hostapis():
            if info["name"] == of_api[0].host_api:
                number = info[f"default_{direction}_device"]
                return [device for device in of_api if device.number == number] or of_api
    return of_api


def _with_channels(
    device: Device, direction: Direction, channels: int, fit: Sequence[Device]
) -> Device:
    if device in fit:
        return device
    raise AudioDeviceError(
        f"device {device.number} ({device}) has {device.channels(direction)} {direction} channels, "
        f"not {channels}; use {_list_names(fit)}"
    )


def _list_names(devices: Sequence[Device]) -> str:
    return ", ".join(f"{device.number} ({device})" for device in devices) or "there are none"


def _is_jack(sd: Any, api: int) -> bool:
    return "JACK" in sd.query_hostapis(api)["name"]


def _jack_is_gone(sd: Any) -> bool:
    """Whether PortAudio is a client of a JACK server that has died or hangs.

    Only opening a stream shows it, in a thread because that waits for the server.
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
    responded = threading.Event()

    def open_stream() -> None:
        info = sd.query_devices(numbers[0])
        kind = sd.RawInputStream if info["max_input_channels"] else sd.RawOutputStream
        with contextlib.suppress(sd.PortAudioError):
            kind(
                info["default_samplerate"], 0, numbers[0], 1, "float32", callback=lambda *_: None
            ).close()
            responded.set()

    thread = threading.Thread(target=open_stream, daemon=True)
    thread.start()
    thread.join(JACK_TIMEOUT_S)
    return not responded.is_set()


def _load_fresh_portaudio(sd: Any) -> None:
    """Make sounddevice use a fresh copy of PortAudio.

    The memory of the old one (some 200 kB) is not freed.
    """
    if not hasattr(os, "memfd_create"):
        raise AudioDeviceError("the JACK server is gone; start Stemwire again once it is back")
    # The loader identifies files by inode and name: an anonymous file, never closed, is new to it.
    file = os.memfd_create("portaudio")
    with os.fdopen(os.dup(file), "wb") as copy:
        copy.write(_portaudio_file())
    _abandoned.append(sd._lib)
    sd._lib = sd._ffi.dlopen(f"/proc/self/fd/{file}")
    sd._initialized = 0


@cache
def _portaudio_file() -> bytes:
    """Content of PortAudio's library file."""
    for line in Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines():
        path = Path(line.split(maxsplit=5)[-1])
        if "portaudio" in path.name and ".so" in path.suffixes and path.is_file():
            return path.read_bytes()
    raise AudioDeviceError("the JACK server is gone; start Stemwire again once it is back")


def _avoid_abort_at_exit() -> None:
    """Keep sounddevice from terminating PortAudio at exit if that would abort the process."""
    sd = sounddevice()
    with silent_stderr(), contextlib.suppress(Exception):
        if _jack_is_gone(sd):
            sd._initialized = 0
