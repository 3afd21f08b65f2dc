"""The call that goes with a picture: species is the pattern of syllables, pitch follows the painted size.

Behind it is the sound of the place: wind over a hill, water, rustling leaves, a winter wind. `dataclasses.replace` a
scene's `pitch`, `tempo` or `noise` to hear the same bird otherwise.

Shapes: t samples of mono sound.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_prep.birds.scene import Bird, Scene
from pipeline.randomness import numpy_rng

RATE = 16_000
SECONDS = 1.5
_MEDIUM_PITCH = 1500.0
"""Hz of a bird half the picture wide."""


@dataclass(frozen=True)
class Syllable:
    """Times in seconds, pitches in octaves from the bird's own."""

    start: float
    length: float
    low: float = 0.0
    high: float = 0.0
    """Pitch at the start and at the end."""
    overtones: int = 1
    rasp: float = 0.0
    """Depth of a fast tremor that roughens the sound."""
    snap: float = 0.0
    """0 swells and fades; 1 starts at once and rings out."""


def _repeat(count: int, gap: float, length: float, **how: float) -> tuple[Syllable, ...]:
    return tuple(Syllable(0.08 + gap * i, length, **how) for i in range(count))  # type: ignore[arg-type]


CALLS: dict[str, tuple[Syllable, ...]] = {
    "robin": (
        Syllable(0.08, 0.16, 0.0, 0.4),
        Syllable(0.28, 0.1, 0.5, 0.1),
        Syllable(0.42, 0.2, -0.2, 0.3),
        Syllable(0.7, 0.1, 0.6, 0.6),
        Syllable(0.86, 0.24, 0.4, -0.3),
    ),
    "wren": _repeat(13, 0.08, 0.055, low=-0.05, high=0.15),
    "swallow": tuple(
        Syllable(0.08 + 0.17 * i, 0.1, 0.45 - 0.9 * (i % 2), -0.45 + 0.9 * (i % 2), overtones=2) for i in range(6)
    ),
    "woodpecker": _repeat(15, 0.055, 0.045, overtones=3, snap=1.0),
    "owl": (Syllable(0.08, 0.4), Syllable(0.62, 0.14), Syllable(0.82, 0.42, 0.0, -0.08)),
    "heron": (Syllable(0.12, 0.75, 0.1, -0.35, overtones=6, rasp=0.9),),
    "duck": tuple(Syllable(0.08 + 0.32 * i, 0.22, 0.15, -0.25, overtones=6, snap=0.5) for i in range(3)),
    "parrot": (
        Syllable(0.08, 0.34, -0.5, 0.6),
        Syllable(0.5, 0.3, 0.6, -0.5),
        Syllable(0.88, 0.2, 0.0, 0.2, overtones=5, rasp=0.6),
    ),
}


def call(scene: Scene, rate: int = RATE) -> np.ndarray:
    """float32 (t,) within [-1, 1], 1.5 seconds; two birds call one after the other's start."""
    rng = numpy_rng(scene.seed, "bird call", scene.index)
    sound = _place(scene.background, rng, rate) * scene.noise
    for number, bird in enumerate(scene.birds):
        sound += (0.42 if number == 0 else 0.3) * _voice(scene, bird, rng, rate, delay=0.22 * number)
    return np.clip(sound, -1, 1).astype(np.float32)


def pitch_of(scene: Scene, bird: Bird) -> float:
    """The bird's own pitch in Hz: the larger it is painted, the lower."""
    return float(_MEDIUM_PITCH * (0.52 / bird.extent) ** 1.5 * 2**scene.pitch)


def _voice(scene: Scene, bird: Bird, rng: np.random.Generator, rate: int, delay: float) -> np.ndarray:
    sound = np.zeros(round(SECONDS * rate))
    for syllable in CALLS[scene.species]:
        pitch = pitch_of(scene, bird) * 2 ** rng.normal(0, 0.02)
        length = syllable.length / scene.tempo * rng.uniform(0.92, 1.08)
        wave = rng.uniform(0.8, 1.0) * _sing(syllable, pitch, length, rate)
        start = round((delay + syllable.start / scene.tempo + rng.uniform(-0.006, 0.006)) * rate)
        end = min(start + len(wave), len(sound))
        if end > start:
            sound[start:end] += wave[: end - start]
    return sound


def _sing(syllable: Syllable, pitch: float, length: float, rate: int) -> np.ndarray:
    """One syllable, overtones above the Nyquist frequency left out."""
    share = (np.arange(max(round(length * rate), 1)) + 0.5) / max(round(length * rate), 1)
    hertz = pitch * 2 ** (syllable.low + share * (syllable.high - syllable.low))
    phase = 2 * np.pi * np.cumsum(hertz) / rate
    tones = [np.sin(k * phase) / k * (k * hertz < 0.48 * rate) for k in range(1, syllable.overtones + 1)]
    swell = np.sin(np.pi * share) ** 0.7
    ring = np.minimum(share / 0.04, 1) * np.exp(-4 * share)
    envelope = swell + syllable.snap * (ring - swell)
    tremor = 1 - syllable.rasp * (0.5 + 0.5 * np.sin(2 * np.pi * 55 * share * length))
    return np.asarray(sum(tones) * envelope * tremor)


def _place(background: str, rng: np.random.Generator, rate: int) -> np.ndarray:
    """Noise with the colour and the rhythm of the place."""
    count = round(SECONDS * rate)
    time = np.arange(count) / rate
    hertz = np.fft.rfftfreq(count, 1 / rate)
    start, beat = rng.uniform(0, 1, 2)
    slow = 0.5 + 0.5 * np.sin(2 * np.pi * (time * (0.5 + 0.5 * beat) + start))
    colour, rhythm = {
        "hill": (1 / (1 + (hertz / 250) ** 2), 0.4 + 0.6 * slow),
        "lake": (np.exp(-(((hertz - 900) / 500) ** 2)), np.abs(np.sin(np.pi * (time * (3 + beat) + start))) ** 3),
        "wood": (1 / (1 + (3500 / (hertz + 1)) ** 4), slow**4 + 0.15),
        "snow": (np.exp(-(((hertz - 480) / 60) ** 2)), 0.3 + 0.7 * slow),
    }[background]
    noise = np.fft.irfft(np.fft.rfft(rng.normal(size=count)) * colour, count)
    return np.asarray(0.045 * rhythm * noise / noise.std())
