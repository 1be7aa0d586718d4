"""From a waveform to what an audio encoder reads: the published recipes, each by name.

They are incompatible with one another, and much of the difference between published numbers on the same
data is theirs. A waveform is (N,) float32 at the recipe's rate; an empty one is refused by the reader, a
silent one gives the finite value that each recipe states.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

Wave = np.ndarray

FLOOR = 1e-7


def fill(wave: Wave, length: int) -> Wave:
    """Repeat a waveform until it has ``length`` samples, cut there, and clip to [-1, 1].

    >>> fill(np.array([0.5, 2.0]), 5).tolist()
    [0.5, 1.0, 0.5, 1.0, 0.5]
    """
    return np.clip(np.resize(wave, length), -1.0, 1.0).astype(np.float32)


def log_stft(wave: Wave, ends: Literal["reflect", "constant"] = "reflect") -> np.ndarray:
    """Recipe ``ogm``: 3 s at 22.05 kHz, log(|STFT| + 1e-7), (1, 257, 188) float32.

    Repeated or cut to 3 s, clipped, 512-point STFT every 353 samples under a periodic Hann window, frames
    centered with reflected ends, as librosa did by default before 0.9 (February 2022). Silence gives log(1e-7)
    everywhere. Source: OGM-GE (Peng et al., CVPR 2022), code, which names no version of librosa.

    Recipe ``reconboost`` has zeros beyond the ends, which changes the first and the last step. Source: ReconBoost (Hua
    et al., ICML 2024), the same code under librosa 0.10.1 by its requirements.

    >>> log_stft(np.zeros(22050)).shape
    (1, 257, 188)
    """
    from transformers.audio_utils import spectrogram, window_function

    spectrum = spectrogram(fill(wave, 3 * 22050), window_function(512, "hann"), 512, 353, power=1.0, pad_mode=ends)
    return np.log(spectrum[None] + FLOOR).astype(np.float32)


def standardized_spectrogram(wave: Wave, rate: int = 16_000, samples: int = 160_000) -> np.ndarray:
    """Recipe ``pmr``: 10 s at 16 kHz, log power density, z-scored per recording, (1, 257, 1004) float32.

    Windows of 512 samples (Tukey, mean removed) that overlap by 353. Silence has no spread and gives zeros.
    Source: PMR (Fan et al., CVPR 2023), code.

    Recipe ``pmr22`` takes as many samples at 22.05 kHz, which are 7.26 s: PMR's script for the sound of CREMA-D, and
    OGM-GE's for that of AVE, load at librosa's default rate. Recipe ``pmr3s`` takes 3 s at 16 kHz, (1, 257, 299): what
    PMR's training on CREMA-D reads, by a script that is not published.

    >>> standardized_spectrogram(np.zeros(16000)).shape
    (1, 257, 1004)
    """
    from scipy.signal import spectrogram

    filled = fill(wave, samples).astype(np.float64)  # in float32 the mean of a constant is not that constant
    power = spectrogram(filled, rate, nperseg=512, noverlap=353)[2]
    logs = np.log(np.abs(power) + FLOOR)
    return ((logs - logs.mean()) / (logs.std() + 1e-9))[None].astype(np.float32)


def kaldi_fbank(wave: Wave) -> np.ndarray:
    """Recipe ``fbank``: 128 Kaldi log-mel energies every 10 ms at 16 kHz, (1, 1024, 128) float32.

    Mean removed, frames of 25 ms that lie wholly inside (a shorter recording is padded with zeros to one
    frame), mean of each frame removed, pre-emphasis 0.97, Hann window, 512-point power spectrum,
    triangles between 20 Hz and 8 kHz; zero frames up to 1,024 (10.24 s) or cut there; then (x + 4.503877)
    / (2 * 5.141276). Silence gives the log of the smallest float32 step. Source: MMPareto (Wei & Hu, ICML
    2024) and Diagnosing & Re-learning (Wei et al., ECCV 2024), code; Kaldi's ``compute-fbank-feats``.

    >>> kaldi_fbank(np.zeros(16000)).shape
    (1, 1024, 128)
    """
    from transformers.audio_utils import spectrogram, window_function

    wave = np.asarray(wave, np.float64)
    wave = np.pad(wave - wave.mean(), (0, max(0, 400 - len(wave))))[: 1023 * 160 + 400]
    energy = spectrogram(
        wave, window_function(400, "hann", periodic=False), 400, 160, fft_length=512, power=2.0, center=False,
        preemphasis=0.97, remove_dc_offset=True, log_mel="log", mel_filters=mel_bank(128, 512, 16_000, 20.0),
        mel_floor=float(np.finfo(np.float32).eps), dtype=np.float64,
    ).T  # fmt: skip
    energy = np.pad(energy, ((0, 1024 - len(energy)), (0, 0)))
    return ((energy + 4.503877) / (2 * 5.141276))[None].astype(np.float32)


def log_mel(wave: Wave) -> np.ndarray:
    """Recipe ``digit``: 1 s at 8 kHz, 40 log-mel energies every 20 ms, (1, 40, 50) float32.

    A shorter recording is centered in silence, not repeated: a repeated digit would be another word. 256-point
    power spectrum under a periodic Hann window, triangles between 0 and 4 kHz, log(x + 1e-7), so silence
    gives log(1e-7).

    >>> log_mel(np.zeros(8000)).shape
    (1, 40, 50)
    """
    wave = np.clip(wave[:8000], -1.0, 1.0)
    before = (8000 - len(wave)) // 2
    from transformers.audio_utils import spectrogram, window_function

    padded = np.pad(wave, (before + 48, 8000 - len(wave) - before + 48))
    bank = mel_bank(40, 256, 8000, 0.0)
    energy = spectrogram(
        padded, window_function(256, "hann"), 256, 160, power=2.0, center=False, mel_filters=bank, mel_floor=0.0
    )
    return np.log(energy + FLOOR)[None].astype(np.float32)


def mel_bank(bands: int, points: int, rate: int, lowest: float) -> np.ndarray:
    """Return triangles of equal width on Kaldi's mel scale from ``lowest`` Hz to half the rate, (points/2 + 1, bands).

    >>> mel_bank(40, 256, 8000, 0.0).shape
    (129, 40)
    """
    from transformers.audio_utils import mel_filter_bank

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # Kaldi's lowest triangles may lie between two frequencies
        return np.asarray(
            mel_filter_bank(
                points // 2 + 1, bands, lowest, rate / 2, rate, None, "kaldi", triangularize_in_mel_space=True
            )
        )


@dataclass(frozen=True)
class AudioRecipe:
    """A named way from a waveform to an array.

    Attributes:
        rate: samples per second that ``transform`` expects.
        transform: waveform (N,) to an array of ``shape``.
        shape: of the result.

    >>> AUDIO_RECIPES["fbank"].shape
    (1, 1024, 128)
    """

    rate: int
    transform: Callable[[Wave], np.ndarray]
    shape: tuple[int, ...]


AUDIO_RECIPES = {
    "ogm": AudioRecipe(22_050, log_stft, (1, 257, 188)),
    "reconboost": AudioRecipe(22_050, partial(log_stft, ends="constant"), (1, 257, 188)),
    "pmr": AudioRecipe(16_000, standardized_spectrogram, (1, 257, 1004)),
    "pmr22": AudioRecipe(22_050, partial(standardized_spectrogram, rate=22_050), (1, 257, 1004)),
    "pmr3s": AudioRecipe(16_000, partial(standardized_spectrogram, samples=48_000), (1, 257, 299)),
    "fbank": AudioRecipe(16_000, kaldi_fbank, (1, 1024, 128)),
    "digit": AudioRecipe(8_000, log_mel, (1, 40, 50)),
}
