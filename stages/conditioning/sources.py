"""Source pictures for image-to-image: what is left of a picture when its colours, or all but its lines, are taken away.

Training makes the source from the picture itself; painting brings a user's photo or doodle to the very same look.
A sketch is the picture's dark lines, and its edges in colour where no dark line runs already, all drawn with one pen;
a doodle's lines are whatever differs from its paper. Nothing is drawn by chance: the same pixels, the same bytes.

Lines are found and drawn on an easel, where the pen has the same width whatever the picture's size; every length
here without another unit is in pixels of the easel.

Shapes: h w height and width in pixels, k terms of a polynomial.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from scipy import ndimage

SOURCE_KINDS = ("grey", "sketch")
"""What `source_picture` can make."""

_EASEL, _EASEL_SIDE = 2.0, 64
"""Pixels of the easel for one of a picture of that short side. From there on the easel's side grows with the square
root of the picture's, so a line is 1.5 px wide in 64 px, 3 in 256 and 6 in 1024."""
_PEN = 3.0
"""Width of a line."""
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)

_LINE_WEAK, _LINE_STRONG, _EDGE_WEAK, _EDGE_STRONG = 0.012, 0.05, 0.015, 0.04
"""Hysteresis: weak places stay where they hang together with a strong one. Of colours in [0, 1]."""
_OFF_CENTRE, _ASIDE = 1.2, 3
"""A pixel of a dark line is this near to its middle, and darker than what lies this far aside, both ways."""
_BUSY, _BUSY_REACH = 0.3, 12.0
"""Where the mean of the edges around is this much, an edge counts half: feathers are not drawn one by one."""
_SHORTEST_LINE, _SHORTEST_EDGE, _SHORTEST_INK = 0.025, 0.1, 0.02
"""Shorter ones are texture or dust; in short sides."""
_BESIDE = 2
"""Edges this near to a dark line are its sides."""

_AREA = 0.075
"""Ink that holds a square of this radius, in short sides, is an area; narrower ink is a stroke."""
_FAINTEST = 0.1
"""Ink nearer to the paper than this is paper; colours in [0, 1]."""
_INK_WEAK, _INK_STRONG = 0.35, 0.45
"""Hysteresis of ink, in units of the darkest ink."""
_MOST_INK, _MOST_FILLED, _PLAIN = 0.4, 0.003, 0.02
"""A drawing has no more ink than this share of it, no more inner parts of areas, and paper that lies this near (root
mean square) to a smooth surface."""

_AROUND = ((-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1))
"""(down, right) of the neighbours p2 to p9 of Guo and Hall."""


def source_picture(pixels: UInt8[np.ndarray, "h w 3"], kind: str) -> UInt8[np.ndarray, "h w 3"]:
    """The picture's source of this kind, at the same size.

    Raises:
        ValueError: no such kind.
    """
    if kind not in SOURCE_KINDS:
        raise ValueError(f"no kind of source picture is called '{kind}'. Known: {', '.join(SOURCE_KINDS)}.")
    return grey(pixels) if kind == "grey" else as_sketch(pixels)


def grey(pixels: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """The luma (ITU-R BT.601) in all three channels."""
    return np.array(Image.fromarray(pixels).convert("L").convert("RGB"))


def as_sketch(pixels: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """Black lines on white, from a drawing on plain paper or from any other picture."""
    return from_doodle(pixels) if looks_drawn(pixels) else sketch(pixels)


def sketch(pixels: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """A line drawing of a photo or painting; borders between equally bright colours are lines too."""
    scene = _on_easel(pixels)
    edges, across = _edges(scene)
    calm = 1 / (1 + _blurred(edges, _BUSY_REACH) / _BUSY)
    edges, dark = edges * calm, _dark_lines(scene @ _LUMA) * calm
    lines = _held(_thinned(dark > _LINE_WEAK), dark, _LINE_WEAK, _LINE_STRONG, _SHORTEST_LINE)
    borders = _held(_ridges(edges, across) & ~_grown(lines, _BESIDE), edges, _EDGE_WEAK, _EDGE_STRONG, _SHORTEST_EDGE)
    return _drawn(_thinned(_grown(lines | borders, 1)), pixels.shape[:2])


def from_doodle(pixels: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """A user's own drawing in the look of `sketch`: white paper, black ink, one pen.

    Any ink, lighter, darker or of another colour, on any plain paper, in strokes of any width. Filled areas become
    their outlines, as `sketch` would draw them.
    """
    scene = _on_easel(pixels)
    ink = _ink(scene - _paper(scene))
    areas = _grown(_inner(ink), _area_radius(ink)) & ink
    strokes = ink & ~areas
    outlines = areas & _grown(~areas, 1)
    return _drawn(_thinned(strokes | outlines), pixels.shape[:2])


def looks_drawn(pixels: UInt8[np.ndarray, "h w 3"]) -> bool:
    """Whether this is a drawing, strokes on plain paper, rather than a photo or a painting.

    The paper may be of any colour and unevenly lit; a thing of some width on it is no stroke.
    """
    scene = _on_easel(pixels)
    unlike = scene - _paper(scene)
    ink = _ink(unlike)
    if ink.mean() > _MOST_INK or _inner(ink).mean() > _MOST_FILLED:
        return False
    bare = ~_grown(ink, 1)[..., None]
    # Blurred among paper only: the grain of a scan goes, hills and clouds stay.
    uneven = _blurred(unlike * bare, 2.0) / (_blurred(bare.astype(np.float32), 2.0) + 0.05)
    return bool(np.square(uneven).mean() < _PLAIN**2)


def _on_easel(pixels: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, "h2 w2 3"]:
    """The picture in [0, 1] at the size at which the pen is `_PEN` wide."""
    scale = _EASEL * min(1.0, _EASEL_SIDE / min(pixels.shape[:2])) ** 0.5
    height, width = (max(2, round(side * scale)) for side in pixels.shape[:2])
    placed = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(placed, np.float32) / 255


def _drawn(lines: Bool[np.ndarray, "h2 w2"], size: tuple[int, ...]) -> UInt8[np.ndarray, "h w 3"]:
    """Lines one pixel wide as strokes of the pen, at the picture's own (height, width)."""
    neighbours = sum(_seen(lines, *step).astype(int) for step in _AROUND)
    spread = 0.42 * _PEN
    full = spread * math.sqrt(2 * math.pi)
    # The weights make the profile 1 along a line, at its tips and on a dot; the blur rounds the stairs of slanted ones.
    weight = np.where(neighbours == 0, full, np.where(neighbours == 1, (full + 1) / 2, 1.0)) * lines
    profile = _blurred(weight.astype(np.float32), spread) * full
    rim = math.exp(-((_PEN / 2 / spread) ** 2) / 2)
    slope = rim * _PEN / 2 / spread**2
    paper = 255 * (0.5 - (profile - rim) / slope).clip(0, 1)
    sheet = Image.fromarray(paper.round().astype(np.uint8)).resize((size[1], size[0]), Image.Resampling.BICUBIC)
    return np.array(sheet.convert("RGB"))


def _edges(scene: Float[np.ndarray, "h w 3"]) -> tuple[Float[np.ndarray, "h w"], Float[np.ndarray, "h w"]]:
    """Strength of the edges in colour and the angle across them (Di Zenzo 1986).

    The two sides of a thin line have one peak together, at its middle.
    """
    down, right = np.gradient(_blurred(scene, 0.6), axis=(0, 1))
    products = np.stack([(right * right).sum(-1), (down * down).sum(-1), (down * right).sum(-1)], -1)
    strongest, across = _principal(*np.moveaxis(_blurred(products, 0.8), -1, 0))
    return np.sqrt(strongest.clip(0)), across


def _dark_lines(luma: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    """How much of a dark line's middle a pixel is (Steger 1998, section 2), 0 where one side of it is no brighter."""
    smooth = _blurred(luma, 1.0)
    down, right = np.gradient(smooth)
    (down_down, down_right), (_, right_right) = np.gradient(down), np.gradient(right)
    bend, across = _principal(right_right, down_down, down_right)
    slope = np.abs(np.sin(across) * down + np.cos(across) * right)
    between = smooth < np.minimum(*_both_sides(smooth, across, _ASIDE))  # the dark side of an edge is not
    return np.where((slope < _OFF_CENTRE * bend) & between, bend, 0)


def _principal(
    xx: Float[np.ndarray, "h w"], yy: Float[np.ndarray, "h w"], xy: Float[np.ndarray, "h w"]
) -> tuple[Float[np.ndarray, "h w"], Float[np.ndarray, "h w"]]:
    """The larger eigenvalue of [[xx, xy], [xy, yy]] and the angle of its vector, from right towards down."""
    return (xx + yy + np.hypot(xx - yy, 2 * xy)) / 2, np.arctan2(2 * xy, xx - yy) / 2


def _ridges(strength: Float[np.ndarray, "h w"], across: Float[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Pixels not weaker than their two neighbours in the direction `across`."""
    one, other = _both_sides(strength, across, 1)
    return (strength > one) & (strength >= other)


def _both_sides(
    values: Float[np.ndarray, "h w"], across: Float[np.ndarray, "h w"], steps: int
) -> tuple[Float[np.ndarray, "h w"], Float[np.ndarray, "h w"]]:
    """What lies `steps` pixels away on either side, in the nearest of eight directions."""
    sector = np.round(across / (math.pi / 4)).astype(int) % 4
    ways = [(steps * y, steps * x) for y, x in _AROUND[2:6]]
    one, other = ([_seen(values, sign * y, sign * x) for y, x in ways] for sign in (1, -1))
    return np.choose(sector, one), np.choose(sector, other)


def _ink(unlike: Float[np.ndarray, "h w 3"]) -> Bool[np.ndarray, "h w"]:
    """Pixels that are not paper, from how they differ from it."""
    distance = np.sqrt(np.square(unlike).mean(-1))
    least = max(_FAINTEST, 4.5 * float(np.median(distance)))  # the median is the grain of the paper
    inked = distance[distance > least]
    darkest = float(np.percentile(inked, 90)) if inked.size else 1.0
    weak, strong = max(least, _INK_WEAK * darkest), max(least, _INK_STRONG * darkest)
    return _held(distance > weak, distance, weak, strong, _SHORTEST_INK)


def _paper(scene: Float[np.ndarray, "h w 3"]) -> Float[np.ndarray, "h w 3"]:
    """The colour of the paper everywhere: a quadratic surface through most of the pixels.

    Least squares, reweighted so that pixels far from the surface, the ink, do not pull (Cauchy's weights).
    """
    height, width = scene.shape[:2]
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], -1).astype(np.float32)
    every = max(1, min(height, width) // 32)
    basis, colours = (a[::every, ::every].reshape(-1, a.shape[-1]) for a in (terms, scene))
    surface = np.zeros((terms.shape[-1], 3), np.float32)
    surface[0] = np.median(colours, 0)
    for _ in range(10):
        distance = np.square(colours - basis @ surface).mean(-1, keepdims=True)
        weight = 1 / (1 + distance / max(0.02**2, float(np.median(distance))))
        weighted = basis * weight
        surface = np.linalg.solve(weighted.T @ basis + 1e-4 * np.eye(len(surface)), weighted.T @ colours)
    return terms @ surface.astype(np.float32)


def _area_radius(ink: Bool[np.ndarray, "h w"]) -> int:
    return max(1, int(_AREA * min(ink.shape) + 0.5))


def _inner(ink: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """The middle parts of what is too wide for a stroke."""
    return ~_grown(~ink, _area_radius(ink))


def _held(
    mask: Bool[np.ndarray, "h w"], strength: Float[np.ndarray, "h w"], weak: float, strong: float, shortest: float
) -> Bool[np.ndarray, "h w"]:
    """The connected parts, above `weak` and not shorter than `shortest`, that hold one above `strong`."""
    kept = mask & (strength > weak)
    parts, count = ndimage.label(kept, np.ones((3, 3)))  # pixels that touch at a corner share a part
    part = parts[kept] - 1
    peak = np.zeros(count, strength.dtype)
    np.maximum.at(peak, part, strength[kept])
    size = np.bincount(part, minlength=count)
    kept[kept] = (peak[part] > strong) & (size[part] >= shortest * min(mask.shape))
    return kept


def _removable() -> tuple[Bool[np.ndarray, " 256"], Bool[np.ndarray, " 256"]]:
    """Which of the 256 neighbourhoods lose their pixel, in either half of a step (Guo and Hall 1989, algorithm A1)."""
    p2, p3, p4, p5, p6, p7, p8, p9 = ((np.arange(256) >> i) & 1 == 1 for i in range(8))
    runs = sum((~a & (b | c)).astype(int) for a, b, c in ((p2, p3, p4), (p4, p5, p6), (p6, p7, p8), (p8, p9, p2)))
    pairs = [(p9 | p2, p3 | p4, p5 | p6, p7 | p8), (p2 | p3, p4 | p5, p6 | p7, p8 | p9)]
    fewest = np.minimum(*(np.sum(four, 0) for four in pairs))
    rim = (runs == 1) & (fewest >= 2) & (fewest <= 3)
    return rim & ~((p2 | p3 | ~p5) & p4), rim & ~((p6 | p7 | ~p9) & p8)


_REMOVABLE = _removable()


def _thinned(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """The mask's middle lines, one pixel wide, as connected as the mask (Guo and Hall 1989)."""
    left, before = mask, None
    while before is None or np.count_nonzero(left) < before:
        before = np.count_nonzero(left)
        for removable in _REMOVABLE:
            framed = np.pad(left, 1).view(np.uint8)
            around = np.zeros(left.shape, np.uint8)
            for i, (y, x) in enumerate(_AROUND):
                around |= framed[1 + y :, 1 + x :][: left.shape[0], : left.shape[1]] << i
            left = left & ~removable[around]
    return left


def _grown(mask: Bool[np.ndarray, "h w"], by: int) -> Bool[np.ndarray, "h w"]:
    """Every pixel within `by` of the mask, in rows and in columns."""
    grown: np.ndarray = ndimage.binary_dilation(mask, np.ones((3, 3)), iterations=by)
    return grown


def _seen(values: np.ndarray, down: int, right: int, outside: int = 0) -> np.ndarray:
    """What every pixel sees at a distance: `values[y + down, x + right]`."""
    height, width = values.shape
    frame = max(abs(down), abs(right))
    framed = np.pad(values, frame, constant_values=outside)
    return framed[frame + down : frame + down + height, frame + right : frame + right + width]


def _blurred(values: Float[np.ndarray, "h w *c"], sigma: float) -> Float[np.ndarray, "h w *c"]:
    """Gaussian blur of the first two axes; the border repeats outwards."""
    blurred: np.ndarray = ndimage.gaussian_filter(
        values, sigma, mode="nearest", radius=math.ceil(3 * sigma), axes=(0, 1)
    )
    return blurred
