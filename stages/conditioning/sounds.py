"""Sounds of any rate, length and number of channels to one mono window.

Shapes: c channels, t samples, n samples of the window.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float

MOST_PHASES = 1000
"""Of a polyphase kernel: beyond it the kernel would fill the memory."""
SHORTEST = 400
"""Samples of the shortest window: a frame of 25 ms at 16 kHz."""
Sound = tuple[np.ndarray, int]
"""float32 (c, t) in [-1, 1] and samples per second."""


def window(sound: Sound, rate: int, seconds: float) -> Float[np.ndarray, " n"]:
    """Mono at `rate`, at most `seconds` long: of a longer sound the loudest stretch. Shorter ones stay short.

    Raises:
        ValueError: the sound is empty or holds numbers that are not finite.
    """
    samples, given = sound
    mono = np.asarray(samples, dtype=np.float32)
    mono = mono.mean(axis=0) if mono.ndim == 2 else mono
    if mono.size == 0 or not np.isfinite(mono).all():
        raise ValueError("the sound is empty or holds numbers that are not finite")
    if given != rate:
        mono = _resampled(mono, given, rate)
    wanted = round(seconds * rate)
    if len(mono) <= wanted:
        return mono
    energy = np.concatenate([[0.0], np.cumsum(mono.astype(np.float64) ** 2)])
    starts = np.arange(0, len(mono) - wanted + 1, max(1, rate // 20))
    best = int(starts[np.argmax(energy[starts + wanted] - energy[starts])])
    return mono[best : best + wanted]


def heard(sound: Sound, rate: int, seconds: float) -> Float[np.ndarray, " n"]:
    """The window an encoder hears, at least one frame of Kaldi's features long."""
    return padded(window(sound, rate, seconds), SHORTEST)


def _resampled(mono: Float[np.ndarray, " t"], given: int, rate: int) -> Float[np.ndarray, " n"]:
    """By a windowed sinc; at odd rates, whose kernel would fill the memory, in the frequency domain."""
    if given // math.gcd(given, rate) <= MOST_PHASES:
        from torchaudio.functional import resample

        return np.asarray(resample(torch.from_numpy(np.ascontiguousarray(mono)), given, rate).numpy())
    count = max(1, round(len(mono) * rate / given))
    spectrum = np.fft.rfft(mono)[: count // 2 + 1]
    return (np.fft.irfft(spectrum, count) * (count / len(mono))).astype(np.float32)


def padded(samples: Float[np.ndarray, " n"], count: int) -> Float[np.ndarray, " m"]:
    """Zeros behind it, up to `count` samples."""
    return np.pad(samples, (0, max(0, count - len(samples))))
