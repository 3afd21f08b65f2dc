"""What is in picture number `index`: every attribute, discrete and continuous, from (seed, index) alone."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from data_prep.birds.palette import BACKGROUNDS, COLOURS, HEADINGS, SIZES, SPECIES
from pipeline.randomness import numpy_rng

TWO_BIRDS = 0.2
"""Share of the scenes with two birds, unless another is asked for."""
EXTENT = {"small": 0.36, "medium": 0.52, "large": 0.71}
PAIR_EXTENT = 0.44


@dataclass(frozen=True)
class Bird:
    """One bird: its colours, its place and how it holds itself. Lengths in picture sides, angles in radians."""

    wing: str
    body: str
    heading: str
    extent: float
    """The larger of its width and height."""
    x: float
    tilt: float
    nod: float
    wing_lift: float
    tail_lift: float


@dataclass(frozen=True)
class Scene:
    """One picture and its sound."""

    seed: int
    index: int
    species: str
    size: str
    background: str
    birds: tuple[Bird, ...]
    """One, or two from left to right."""
    light: float
    """Brightness of the whole picture, about 1."""
    sun: float
    """Where the light comes from, 0 left to 1 right."""
    pan: float
    """How far the landscape has scrolled, 0 to 1."""
    horizon: float
    """Height of the horizon above its usual place, in picture sides."""
    pitch: float
    """The call's own deviation from the pitch of its size, in octaves."""
    tempo: float
    """Syllables come this many times faster than usual."""
    noise: float
    """Loudness of the background sound."""


def _colours(rng: np.random.Generator, birds: int) -> list[tuple[str, str]]:
    """(wing, body) of each bird: wings differ from the body they lie on, and from the other bird's; so do bodies."""
    while True:  # rejection keeps the accepted draws uniform
        drawn = rng.integers(len(COLOURS), size=(birds, 2))
        apart = birds == 1 or bool((drawn[0] != drawn[1]).all())
        if apart and bool((drawn[:, 0] != drawn[:, 1]).all()):
            return [(COLOURS[wing], COLOURS[body]) for wing, body in drawn]


def _bird(rng: np.random.Generator, colours: tuple[str, str], extent: float, x: float) -> Bird:
    return Bird(
        wing=colours[0],
        body=colours[1],
        heading=HEADINGS[int(rng.integers(2))],
        extent=extent * float(rng.uniform(0.96, 1.04)),
        x=x + float(rng.uniform(-0.025, 0.025)),
        tilt=float(rng.uniform(-0.08, 0.08)),
        nod=float(rng.uniform(-0.12, 0.12)),
        wing_lift=float(rng.uniform(-0.06, 0.1)),
        tail_lift=float(rng.uniform(-0.08, 0.08)),
    )


def describe(seed: int, index: int, pairs: float = TWO_BIRDS) -> Scene:
    """The scene with this number; attributes are uniform, wing and body independent except that they differ.

    `pairs` is the share of scenes with two birds. A scene that has as many birds at another share is the same scene.
    """
    rng = numpy_rng(seed, "bird", index)
    count = 2 if rng.random() < pairs else 1
    species = SPECIES[int(rng.integers(len(SPECIES)))]
    size = SIZES[int(rng.integers(len(SIZES)))]
    background = BACKGROUNDS[int(rng.integers(len(BACKGROUNDS)))]
    colours = _colours(rng, count)
    extent = EXTENT[size] if count == 1 else PAIR_EXTENT
    places = (0.5,) if count == 1 else (0.265, 0.735)
    return Scene(
        seed=seed,
        index=index,
        species=species,
        size=size if count == 1 else "medium",
        background=background,
        birds=tuple(_bird(rng, pair, extent, x) for pair, x in zip(colours, places, strict=True)),
        light=float(rng.uniform(0.95, 1.04)),
        sun=float(rng.uniform(0.15, 0.85)),
        pan=float(rng.random()),
        horizon=float(rng.uniform(-0.02, 0.02)),
        pitch=float(rng.normal(0.0, 0.06)),
        tempo=float(rng.uniform(0.85, 1.2)),
        noise=float(rng.uniform(0.3, 1.0)),
    )


def kept_out(species: str) -> set[str]:
    """The wing colours never seen on a species in train and val: i and i + 3 (mod 8) of species i."""
    kind = SPECIES.index(species)
    return {COLOURS[kind], COLOURS[(kind + 3) % len(COLOURS)]}


def is_unseen(scene: Scene) -> bool:
    """Whether a bird has wings in a colour that is kept out of train and val for its species."""
    return any(bird.wing in kept_out(scene.species) for bird in scene.birds)


def is_of(scene: Scene, species: Collection[str], colours: Collection[str]) -> bool:
    """Whether all its birds are of these species, in these colours alone."""
    return scene.species in species and all({bird.wing, bird.body} <= set(colours) for bird in scene.birds)


def attributes(scene: Scene) -> dict[str, str]:
    """The categorical truth about the picture."""
    truth = {"species": scene.species, "background": scene.background}
    if len(scene.birds) == 1:
        bird = scene.birds[0]
        own = {"wing": bird.wing, "body": bird.body, "size": scene.size, "heading": bird.heading}
        return truth | own | {"count": "one"}
    left, right = scene.birds
    pair = {"left_wing": left.wing, "left_body": left.body, "right_wing": right.wing, "right_body": right.body}
    return truth | pair | {"count": "two"}
