"""Two published streaming separators, run hop by hop; `speed.py` compares their speed.

Weights are random, which does not affect the time. The peers are used as installed from their
packages; none of their code is part of this project.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType

import numpy as np
import numpy.typing as npt
import torch

INSTALL = (
    "pip install einops==0.8.2 einx==0.4.3 && "
    "pip install --no-deps denoiser==0.1.5 hs-tasnet==0.3.4"
)
HS_TASNET_VOCALS = 2  # of drums, bass, vocals, other


@dataclass(frozen=True)
class Peer:
    """Streaming separator with state: `step` takes the next hop of audio."""

    name: str
    sample_rate: int  # Hz
    hop: int  # samples per channel and call
    channels: int
    params: int
    step: Callable[[npt.NDArray[np.float32]], object]  # (channels, hop)


class _Placeholder(ModuleType):
    """An empty module from which any name can be imported; the names cannot be used."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None)

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return None


@contextmanager
def _placeholder_modules(*names: str) -> Iterator[None]:
    """Stand in for modules that a package imports for files, plots or training, not for steps.

    They are removed again afterwards, so that no other import in this process finds them.
    """
    added = [name for name in names if name not in sys.modules]
    sys.modules.update({name: _Placeholder(name) for name in added})
    try:
        yield
    finally:
        for name in added:
            del sys.modules[name]


def _params(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _demucs_peer(name: str, hidden: int) -> Peer:
    """Streaming (causal) Demucs of PyPI `denoiser`: 16 kHz mono, hop 256."""
    demucs = import_module("denoiser.demucs")
    model = demucs.Demucs(hidden=hidden, sample_rate=16_000).eval()
    streamer = demucs.DemucsStreamer(model)

    def step(hop: npt.NDArray[np.float32]) -> object:
        with torch.inference_mode():
            return streamer.feed(torch.from_numpy(hop))

    return Peer(name, model.sample_rate, streamer.stride, model.chin, _params(model), step)


def _hs_tasnet_peer(name: str, small: bool) -> Peer:
    """HS-TasNet of PyPI `hs-tasnet`: 44.1 kHz stereo, window 1024, hop 512."""
    with _placeholder_modules(
        "hs_tasnet.alternative_rnns",
        "hs_tasnet.trainer",
        "librosa",
        "loguru",
        "matplotlib",
        "matplotlib.pyplot",
        "sounddevice",
        "torchaudio",
        "torchaudio.functional",
        "torchcodec",
        "torchcodec.encoders",
    ):
        hs_tasnet = import_module("hs_tasnet")
    model = hs_tasnet.HSTasNet(small=small).eval()
    step = model.init_stateful_transform_fn(return_reduced_sources=[HS_TASNET_VOCALS])
    return Peer(
        name, model.sample_rate, model.overlap_len, model.audio_channels, _params(model), step
    )


def peers() -> list[Peer]:
    """Build all peers, in eval mode and with torch on one thread (process-wide)."""
    torch.set_num_threads(1)
    try:
        return [
            _demucs_peer("Demucs streamer dns48", hidden=48),
            _demucs_peer("Demucs streamer dns64", hidden=64),
            _hs_tasnet_peer("HS-TasNet small", small=True),
            _hs_tasnet_peer("HS-TasNet", small=False),
        ]
    except ImportError as error:
        raise ImportError(f"{error}; the peers need: {INSTALL}") from error
