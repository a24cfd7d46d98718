"""Loading of the native code: `native/step.cpp` defines its C interface."""

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

# Fields with the same name in both configurations.
_SIZES = (
    *("channels", "analysis_window", "lookahead", "units", "expansion"),
    *("token_width", "heads", "window", "feed_forward", "blocks", "taps"),
)


class NativeConfig(ctypes.Structure):
    """`Config` of native/separator.h."""

    _fields_ = (
        *((name, _Int32) for name in ("stack", "unet", *_SIZES)),
        ("compression", ctypes.c_float),
        ("widths_count", _Int32),
        ("bands_count", _Int32),
        ("widths", ctypes.POINTER(_Int32)),
        ("bands", ctypes.POINTER(_Int32)),
    )

    @classmethod
    def of(cls, config: SeparatorConfig) -> NativeConfig:
        """Convert the configuration of a network."""
        widths, bands = config.widths, [n for group in config.bands for n in group]
        return cls(
            stack=config.variant == "stack",
            unet=config.variant == "unet",
            widths_count=len(widths),
            widths=(_Int32 * len(widths))(*widths),
            bands_count=len(config.bands),
            bands=(_Int32 * len(bands))(*bands),
            compression=config.compression,
            **{name: getattr(config, name) for name in _SIZES},
        )


@lru_cache(maxsize=1)
def load_library() -> Any:
    """The native library.

    Raises:
        BackendError: if it was not built, or this processor cannot run it.
    """
    if not LIBRARY.is_file():
        reason = (
            ABSENT.read_text(encoding="utf-8").strip() if ABSENT.is_file() else "reason unknown"
        )
        raise BackendError(
            f"backend 'native' was not built into this installation ({reason}); "
            "use backend 'onnx', or install a C++ compiler and then Stemwire again"
        )
    try:
        loaded = _declare_functions(ctypes.CDLL(str(LIBRARY)))
        matches = loaded is not None and loaded.stemwire_config_size() == ctypes.sizeof(
            NativeConfig
        )
    except OSError as error:
        raise BackendError(
            f"backend 'native' cannot be loaded ({error}); use backend 'onnx'"
        ) from error
    if not matches:
        raise BackendError(
            f"backend 'native': {LIBRARY} was built from other sources; install Stemwire again"
        )
    if not loaded.stemwire_runs_here():
        raise BackendError(
            "backend 'native' needs a processor with AVX2, FMA and F16C, which this one does not "
            "have; use backend 'onnx'"
        )
    return loaded


@lru_cache(maxsize=1)
def load_library_holding_gil() -> Any:
    """The native library, called without releasing the GIL.

    For short calls: a thread that releases the GIL may wait longer to get it back than the call
    takes.

    Raises:
        BackendError: as `load_library`.
    """
    return _declare_functions(ctypes.PyDLL(str(LIBRARY), handle=load_library()._handle))


def _declare_functions(loaded: Any) -> Any:
    """Declare the types of the library's functions; None if it lacks one of them."""
    types: dict[str, tuple[Any, tuple[Any, ...] | None]] = {
        "config_size": (ctypes.c_int, ()),
        "runs_here": (ctypes.c_int, ()),
        "most": (ctypes.c_int, ()),
        "network": (_Handle, None),
        "network_free": (None, (_Handle,)),
        "state": (ctypes.c_int64, (_Handle,)),
        "workspace": (_Handle, (_Handle, ctypes.c_int)),
        "workspace_free": (None, (_Handle,)),
        "step": (None, (_Handle, _Handle, ctypes.c_int, *[_Pointers] * 4)),
        "stft": (_Handle, (*[ctypes.c_int] * 4, _Address, _Address)),
        "stft_free": (None, (_Handle,)),
        "stft_reset": (None, (_Handle,)),
        "analyse": (None, (_Handle, _Address, _Address)),
        "synthesise": (None, (_Handle, _Address, _Address)),
    }
    for name, (result, arguments) in types.items():
        try:
            function = getattr(loaded, f"stemwire_{name}")
        except AttributeError:
            return None
        function.restype = result
        if arguments is not None:
            function.argtypes = arguments
    return loaded


def native_problem() -> str:
    """Reason why native code cannot be used here, or ""."""
    try:
        load_library()
    except BackendError as error:
        return str(error)
    return ""
