"""The discrete vocabulary of the birds and the colours it is painted in. RGB, 0 to 255."""

from __future__ import annotations

SPECIES = ("robin", "wren", "swallow", "woodpecker", "owl", "heron", "duck", "parrot")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "black", "white")
SIZES = ("small", "medium", "large")
HEADINGS = ("left", "right")
BACKGROUNDS = ("hill", "lake", "wood", "snow")

Colour = tuple[float, float, float]

PAINT: dict[str, Colour] = {
    "red": (208, 40, 44),
    "orange": (242, 128, 28),
    "yellow": (250, 214, 50),
    "green": (46, 148, 70),
    "blue": (40, 100, 208),
    "purple": (134, 66, 176),
    "black": (48, 48, 58),
    "white": (244, 242, 238),
}

INK: Colour = (70, 56, 74)
CREAM: Colour = (246, 234, 210)
SLATE: Colour = (76, 76, 94)


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """`first` with `share` (0 to 1) of it replaced by `second`."""
    return (
        first[0] + share * (second[0] - first[0]),
        first[1] + share * (second[1] - first[1]),
        first[2] + share * (second[2] - first[2]),
    )


def lit(colour: Colour) -> Colour:
    """The colour where the light falls on it."""
    return mix(colour, (255, 250, 226), 0.16)


def shaded(colour: Colour, depth: float = 0.3) -> Colour:
    """The colour in its own shadow, cooled a little."""
    return mix(colour, (28, 22, 62), depth)


def contrasting(colour: Colour) -> Colour:
    """A neutral that stands out on this colour: cream on dark plumage, slate on light."""
    light = 0.3 * colour[0] + 0.59 * colour[1] + 0.11 * colour[2]
    return SLATE if light > 175 else CREAM
