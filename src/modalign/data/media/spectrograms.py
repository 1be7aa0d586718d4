"""From a waveform to what an audio encoder reads: the published recipes, each by name.

They are incompatible with one another, and much of the difference between published numbers on the same
data is theirs. A waveform is (N,) float32 at the recipe's rate; an empty one is refused by the reader, a
silent one gives the finite value that each recipe states.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Wave = np.ndarray

FLOOR = 1e-7


def fill(wave: Wave, length: int) -> Wave:
    """Repeat a waveform until it has ``length`` samples, cut there, and clip to [-1, 1]."""
    return np.clip(np.resize(wave, length), -1.0, 1.0).astype(np.float32)


def windows(wave: Wave, size: int, hop: int) -> np.ndarray:
    """All frames of ``size`` samples that start every ``hop`` and lie wholly inside: (frames, size)."""
    return np.lib.stride_tricks.sliding_window_view(wave, size)[::hop]


def log_stft(wave: Wave) -> np.ndarray:
    """Recipe ``ogm``: 3 s at 22.05 kHz, log(|STFT| + 1e-7), (1, 257, 188) float32.

    Repeated or cut to 3 s, clipped, 512-point STFT every 353 samples under a periodic Hann window, frames
    centered with reflected ends. Silence gives log(1e-7) everywhere. Source: OGM-GE (Peng et al., CVPR
    2022), code; ReconBoost uses the same.
    """
    padded = np.pad(fill(wave, 3 * 22050), 256, mode="reflect")
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(512) / 512)
    spectrum = np.abs(np.fft.rfft(windows(padded, 512, 353) * hann, axis=1))
    return np.log(spectrum.T[None] + FLOOR).astype(np.float32)


def standardized_spectrogram(wave: Wave) -> np.ndarray:
    """Recipe ``pmr``: 10 s at 16 kHz, log power density, z-scored per recording, (1, 257, 1004) float32.

    Windows of 512 samples (Tukey, mean removed) that overlap by 353. Silence has no spread and gives zeros.
    Source: PMR (Fan et al., CVPR 2023), code.
    """
    from scipy.signal import spectrogram

    filled = fill(wave, 160_000).astype(np.float64)  # in float32 the mean of a constant is not that constant
    power = spectrogram(filled, 16_000, nperseg=512, noverlap=353)[2]
    logs = np.log(np.abs(power) + FLOOR)
    return ((logs - logs.mean()) / (logs.std() + 1e-9))[None].astype(np.float32)


def kaldi_fbank(wave: Wave) -> np.ndarray:
    """Recipe ``fbank``: 128 Kaldi log-mel energies every 10 ms at 16 kHz, (1, 1024, 128) float32.

    Mean removed, frames of 25 ms that lie wholly inside (a shorter recording is padded with zeros to one
    frame), mean of each frame removed, pre-emphasis 0.97, Hann window, 512-point power spectrum,
    triangles between 20 Hz and 8 kHz; zero frames up to 1,024 (10.24 s) or cut there; then (x + 4.503877)
    / (2 * 5.141276). Silence gives the log of the smallest float32 step. Source: MMPareto (Wei & Hu, ICML
    2024) and Diagnosing & Re-learning (Wei et al., ECCV 2024), code; Kaldi's ``compute-fbank-feats``.
    """
    wave = np.asarray(wave, np.float64)
    frames = windows(np.pad(wave - wave.mean(), (0, max(0, 400 - len(wave)))), 400, 160)[:1024]
    frames = frames - frames.mean(axis=1, keepdims=True)
    frames = frames - 0.97 * np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
    frames = frames * (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 399))
    power = np.abs(np.fft.rfft(frames, 512, axis=1)) ** 2
    energy = np.log(np.maximum(power @ mel_bank(128, 512, 16_000, 20.0).T, np.finfo(np.float32).eps))
    energy = np.pad(energy, ((0, 1024 - len(energy)), (0, 0)))
    return ((energy + 4.503877) / (2 * 5.141276))[None].astype(np.float32)


def log_mel(wave: Wave) -> np.ndarray:
    """Recipe ``digit``: 1 s at 8 kHz, 40 log-mel energies every 20 ms, (1, 40, 50) float32.

    A shorter recording is centered in silence, not repeated: a repeated digit would be another word. 256-point
    power spectrum under a periodic Hann window, triangles between 0 and 4 kHz, log(x + 1e-7), so silence
    gives log(1e-7).
    """
    wave = np.clip(wave[:8000], -1.0, 1.0)
    before = (8000 - len(wave)) // 2
    padded = np.pad(wave, (before + 48, 8000 - len(wave) - before + 48))
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(256) / 256)
    power = np.abs(np.fft.rfft(windows(padded, 256, 160) * hann, axis=1)) ** 2
    return np.log(mel_bank(40, 256, 8000, 0.0) @ power.T + FLOOR)[None].astype(np.float32)


def mel_bank(bands: int, points: int, rate: int, lowest: float) -> np.ndarray:
    """Triangles of equal width on Kaldi's mel scale, 1127 ln(1 + f/700), as (bands, points/2 + 1).

    They reach from ``lowest`` to half the rate (Hz); the highest bin lies on the last triangle's foot and
    is zero.
    """

    def mel(hertz: np.ndarray) -> np.ndarray:
        return np.asarray(1127.0 * np.log1p(np.asarray(hertz) / 700.0))

    corners = np.linspace(mel(np.array(lowest)), mel(np.array(rate / 2)), bands + 2)
    position = mel(np.arange(points // 2 + 1) * rate / points)[None]
    left, center, right = (corners[i : i + bands, None] for i in range(3))
    rising, falling = (position - left) / (center - left), (right - position) / (right - center)
    return np.maximum(np.minimum(rising, falling), 0.0)


@dataclass(frozen=True)
class AudioRecipe:
    """A named way from a waveform to an array.

    Attributes:
        rate: samples per second that ``transform`` expects.
        transform: waveform (N,) to an array of ``shape``.
        shape: of the result.
    """

    rate: int
    transform: Callable[[Wave], np.ndarray]
    shape: tuple[int, ...]


AUDIO_RECIPES = {
    "ogm": AudioRecipe(22_050, log_stft, (1, 257, 188)),
    "pmr": AudioRecipe(16_000, standardized_spectrogram, (1, 257, 1004)),
    "fbank": AudioRecipe(16_000, kaldi_fbank, (1, 1024, 128)),
    "digit": AudioRecipe(8_000, log_mel, (1, 40, 50)),
}
