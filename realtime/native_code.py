"""The machine code in `native/`, found and loaded: `native/step.cpp` is its other half."""

from __future__ import annotations

import ctypes
from functools import lru_cache
from pathlib import Path
from typing import Any

from stemwire.errors import BackendError
from stemwire.model.config import SeparatorConfig

FOLDER = Path(__file__).parent / "native"
LIBRARY = FOLDER / "libstemwire_step.so"
ABSENT = FOLDER / "absent.txt"  # why it was not built

_Handle = ctypes.c_void_p
_Address = ctypes.c_void_p
_Int32 = ctypes.c_int32
_Pointers = ctypes.POINTER(ctypes.c_void_p)

# Fields of a configuration that are handed over by their names.
_SIZES = (
    *("channels", "analysis_window", "stem_stride"),
    *("token_width", "heads", "window", "feed_forward", "blocks"),
)


class Config(ctypes.Structure):
    """`Config` of native/separator.h."""

    _fields_ = (
        *((name, _Int32) for name in ("stack", "unet", *_SIZES)),
        ("compression", ctypes.c_float),
        ("widths_count", _Int32),
        ("widths", ctypes.POINTER(_Int32)),
    )

    @classmethod
    def of(cls, config: SeparatorConfig) -> Config:
        """A network's configuration, as the machine code takes it."""
        widths = config.widths
        return cls(
            stack=config.variant == "stack",
            unet=config.variant == "unet",
            widths_count=len(widths),
            widths=(_Int32 * len(widths))(*widths),
            compression=config.compression,
            **{name: getattr(config, name) for name in _SIZES},
        )


@lru_cache(maxsize=1)
def library() -> Any:
    """The machine code.

    Raises:
        BackendError: if it was not built, or this processor cannot run it.
    """
    if not LIBRARY.is_file():
        reason = ABSENT.read_text(encoding="utf-8").strip() if ABSENT.is_file() else "unknown why"
        raise BackendError(
            f"backend 'native' was not built into this installation ({reason}); "
            "use backend 'onnx', or install Stemwire again where a C++ compiler is at hand"
        )
    try:
        found = ctypes.CDLL(str(LIBRARY))
    except OSError as error:
        raise BackendError(
            f"backend 'native' cannot be loaded ({error}); use backend 'onnx'"
        ) from error
    try:
        _declare(found)
        same = found.stemwire_config_size() == ctypes.sizeof(Config)
    except AttributeError:
        same = False
    if not same:
        raise BackendError(
            f"backend 'native': {LIBRARY} was built from other sources; install Stemwire again"
        )
    if not found.stemwire_runs_here():
        raise BackendError(
            "backend 'native' was built for processors with AVX2, FMA and F16C, which this one "
            "has not; use backend 'onnx'"
        )
    return found


@lru_cache(maxsize=1)
def brief() -> Any:
    """The same for calls so short that other Python threads need not run meanwhile.

    Whoever lets them may wait long for the interpreter to come back.
    """
    library()
    found = ctypes.PyDLL(str(LIBRARY))
    found.stemwire_stft.restype = _Handle
    found.stemwire_stft.argtypes = (*[ctypes.c_int] * 4, _Address, _Address)
    for name in ("stft_free", "stft_reset"):
        function = getattr(found, f"stemwire_{name}")
        function.restype, function.argtypes = None, (_Handle,)
    for name in ("analyse", "synthesise"):
        function = getattr(found, f"stemwire_{name}")
        function.restype, function.argtypes = None, (_Handle, _Address, _Address)
    return found


def _declare(found: Any) -> None:
    found.stemwire_network.restype = _Handle
    found.stemwire_workspace.restype = _Handle
    found.stemwire_workspace.argtypes = (_Handle, ctypes.c_int)
    found.stemwire_state.restype = ctypes.c_int64
    found.stemwire_state.argtypes = (_Handle,)
    found.stemwire_step.restype = None
    found.stemwire_step.argtypes = (_Handle, _Handle, ctypes.c_int, *[_Pointers] * 4)
    for name in ("network", "workspace"):
        free = getattr(found, f"stemwire_{name}_free")
        free.restype, free.argtypes = None, (_Handle,)


def obstacle() -> str:
    """Why it cannot be used here; "" if it can."""
    try:
        library()
    except BackendError as error:
        return str(error)
    return ""
