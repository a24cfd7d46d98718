"""Metrics of separation quality in dB, of float32 audio (..., channels, samples).

Scales differ: BSS Eval's SDR is a median over windows and in version 4 penalises filtering, the
SDR of a whole song weights loud parts more, and SI-SDR ignores a gain. Never quote one as another.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from stemwire.errors import AudioError
from stemwire.extras import lone_module
from stemwire.realtime.levels import STEMS

Audio = NDArray[np.float32]
Levels = NDArray[np.float64]

BSS_EVAL = ("SDR", "ISR", "SIR", "SAR")
FULL_16 = 32_768.0  # integer steps of full scale
BSS_WINDOW = 1.0  # seconds; also the hop, as in SiSEC 2016 and after
SILENT_WINDOW = 0.25  # seconds
SILENT_LEVEL = 1e-6  # -60 dB, of the mixture's mean power
LEAST_LEAKAGE = -120.0  # dB; inaudible, and exact silence has no level


@dataclass(frozen=True)
class Score:
    """Figures of one stem of one passage; NaN where a figure is undefined.

    Attributes:
        sdr: SDR of the whole passage.
        improvement: `sdr` minus that of the mixture as the estimate.
        si_sdr: scale-invariant SDR of the whole passage.
        leakage: energy where the stem should be silent, relative to the mixture there.
        silent_seconds: time that it should be silent while the mixture is not.
        bss_eval: SDR, ISR, SIR, SAR: medians over the windows.
        windows: the same for each window of 1 s.
    """

    sdr: float
    improvement: float
    si_sdr: float
    leakage: float
    silent_seconds: float
    bss_eval: dict[str, float] = field(default_factory=dict)
    windows: dict[str, list[float]] = field(default_factory=dict)


def ratio_db(signal: float, error: float) -> float:
    """10 log10(signal / error): infinite if one of them is zero, NaN if both are."""
    if signal == 0.0 or error == 0.0:
        return math.nan if signal == error else math.copysign(math.inf, signal - error)
    return 10 * math.log10(signal / error)


def energy(audio: Audio) -> float:
    """Sum of squares over all channels and samples."""
    return float(np.sum(np.square(audio, dtype=np.float64)))


def sdr(reference: Audio, estimate: Audio) -> float:
    """Signal-to-distortion ratio in dB: energy of the reference over energy of the difference."""
    return ratio_db(energy(reference), energy(reference - estimate))


def si_sdr(reference: Audio, estimate: Audio) -> float:
    """Scale-invariant SDR in dB (Le Roux et al. 2019, "SDR: half-baked or well done?").

    The reference is scaled to the least-squares fit first; one gain for all channels, and no mean
    is removed.
    """
    true, estimated = (np.asarray(audio, np.float64).ravel() for audio in (reference, estimate))
    if not (power := float(true @ true)):
        return math.nan
    target = float(estimated @ true) / power * true
    return ratio_db(float(target @ target), float(np.square(target - estimated).sum()))


def leakage(
    reference: Audio, estimate: Audio, mixture: Audio, sample_rate: int
) -> tuple[float, float]:
    """Level of an estimate where its reference is silent, and the length of that in seconds.

    All are cut into windows of 0.25 s (an incomplete last one is left out). A window counts if the
    reference's energy there is 60 dB or more below the mixture's mean over all windows, and the
    mixture's is not. The level is the estimate's energy over all windows that count, relative to
    the mixture's over the same, in dB: 0 for the mixture itself, -120 for silence and near silence.
    As the predicted energy at silence (PES, Schulze-Forster et al. 2019), but relative, so that it
    depends on no gain.

    Returns:
        Level in dB (NaN if no window counts), and seconds.
    """
    size = round(SILENT_WINDOW * sample_rate)
    count = mixture.shape[-1] // size
    if not count:
        return math.nan, 0.0

    def energies(audio: Audio) -> Levels:
        cut = audio[:, : count * size].reshape(len(audio), count, size)
        sums: Levels = np.square(cut, dtype=np.float64).sum((0, 2))
        return sums

    true, estimated, mixed = map(energies, (reference, estimate, mixture))
    floor = SILENT_LEVEL * mixed.mean()
    silent = (true <= floor) & (mixed > floor)
    if not silent.any():
        return math.nan, 0.0
    level = ratio_db(float(estimated[silent].sum()), float(mixed[silent].sum()))
    return max(level, LEAST_LEAKAGE), float(silent.sum() * size / sample_rate)


def bss_eval(references: Audio, estimates: Audio, sample_rate: int) -> Levels:
    """BSS Eval v4 of images, per window of 1 s, as `museval.eval_mus_track` computes it.

    Liutkus, Stöter and Ito, "The 2018 Signal Separation Evaluation Campaign": matching filters of
    512 taps for the whole signal, windows of 1 s without overlap, a last shorter one left out (but
    a signal shorter than one window is one window). As in museval's own store, infinite values
    count as undefined.

    Stems are rounded to 16 bits first, as the campaign's are. That matters where bands are empty,
    as in decoded Opus or MP3: without the rounding's noise the projection behind SIR and SAR has no
    stable solution (SIR of -30 dB for good separations); SDR stays the same.

    Args:
        references: (stems, channels, samples).
        estimates: of the same shape.
        sample_rate: in Hz.

    Returns:
        (4, stems, windows): SDR, ISR, SIR, SAR. NaN for windows in which a reference or an estimate
        is silent, and for all of them where one is silent throughout.

    Raises:
        ConfigError: if museval is not installed.
    """
    # `import museval` would load musdb and stempeg, which need the ffmpeg program; the metrics
    # themselves need only NumPy and SciPy.
    museval = lone_module("museval", "metrics", "BSS Eval")
    window = int(BSS_WINDOW * sample_rate)
    windows = max(1, references.shape[-1] // window)
    undefined = np.full((len(BSS_EVAL), len(references), windows), np.nan)
    if not all(np.any(stem.sum(0)) for audio in (references, estimates) for stem in audio):
        return undefined  # where museval raises
    try:
        with np.errstate(all="ignore"):
            values = museval.bss_eval(
                *(
                    np.round(stems.transpose(0, 2, 1) * FULL_16) / FULL_16
                    for stems in (references, estimates)
                ),
                window=window,
                hop=window,
                compute_permutation=False,
                framewise_filters=False,
                bsseval_sources_version=False,
            )[:4]
    except (np.linalg.LinAlgError, AttributeError) as error:
        # References that no matching filter can distinguish. museval's own answer to that is at a
        # place that NumPy 2 no longer has, hence the AttributeError.
        if isinstance(error, AttributeError) and not isinstance(
            error.__context__, np.linalg.LinAlgError
        ):
            raise
        return undefined
    levels: Levels = np.array(values, np.float64)
    levels[~np.isfinite(levels)] = np.nan
    return levels


def median(values: NDArray[np.float64] | list[float]) -> float:
    """Median of the finite values; NaN if there are none."""
    numbers = np.asarray(values, np.float64)
    numbers = numbers[np.isfinite(numbers)]
    return float(np.median(numbers)) if numbers.size else math.nan


def scores(
    references: Audio, estimates: Audio, sample_rate: int, with_bss_eval: bool = True
) -> dict[str, Score]:
    """Scores of one passage by stem.

    Args:
        references: (2, channels, samples): vocals and instrumental; the mixture is their sum.
        estimates: of the same shape.
        sample_rate: in Hz.
        with_bss_eval: whether to compute BSS Eval, which takes most of the time.

    Raises:
        AudioError: for estimates of another shape or with NaN or Inf.
        ConfigError: if museval is needed but not installed.
    """
    if estimates.shape != references.shape:
        raise AudioError(f"stems have shape {estimates.shape}, their references {references.shape}")
    if not np.isfinite(estimates).all():
        raise AudioError("stems hold NaN or Inf; correct the separation, or leave the method out")
    mixture: Audio = references.sum(0)
    frames = bss_eval(references, estimates, sample_rate) if with_bss_eval else None
    by_stem = {}
    for index, stem in enumerate(STEMS):
        reference, estimate = references[index], estimates[index]
        level = sdr(reference, estimate)
        per_window = {} if frames is None else {m: frames[k, index] for k, m in enumerate(BSS_EVAL)}
        by_stem[stem] = Score(
            level,
            level - sdr(reference, mixture),
            si_sdr(reference, estimate),
            *leakage(reference, estimate, mixture, sample_rate),
            {metric: median(values) for metric, values in per_window.items()},
            {metric: values.tolist() for metric, values in per_window.items()},
        )
    return by_stem
