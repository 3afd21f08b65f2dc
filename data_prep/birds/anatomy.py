"""How each species is built: outlines in its own frame, heading right, y down, feet at y = 0.

Every bird fits a box about 1 on its longer side, so the same `extent` makes birds equally big. Plumage marks tell the
species apart besides the outline; their tone follows the colours of the bird (see `paint_bird`).
"""

from __future__ import annotations

from dataclasses import dataclass

from data_prep.birds.palette import Colour

Outline = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Mark:
    """A patch of plumage on the body: tone is contrast, dark, pale or wing."""

    tone: str
    outline: Outline
    opacity: float = 1.0
    on_head: bool = False


@dataclass(frozen=True)
class Anatomy:
    """The parts of one species."""

    body: Outline
    head: Outline
    neck: tuple[float, float]
    """Where the head nods."""
    beak: tuple[Outline, ...]
    beak_colour: Colour
    eye: tuple[float, float, float]
    """Centre and radius."""
    shoulder: tuple[float, float]
    wing_tip: tuple[float, float]
    wing_depth: float
    """Width of the folded wing over its length."""
    primaries: int
    tail: tuple[Outline, ...]
    rump: tuple[float, float]
    """Where the tail turns."""
    legs: tuple[tuple[float, float, float], ...]
    """x and y of the hip and x of the foot."""
    leg_colour: Colour
    marks: tuple[Mark, ...] = ()
    wing_bars: int = 0
    crest: tuple[Outline, ...] = ()
    centre: float = 0.0
    """x of the middle of the box."""
    bulk: float = 1.0
    """Correction of the extent, so that slender and stout birds look equally big."""


HORN: Colour = (82, 74, 78)
AMBER: Colour = (244, 160, 40)
SOOT: Colour = (52, 46, 56)
