"""Smooth shapes on a canvas of any size: outlines in picture sides, drawn with coverage, so 64 and 1024 px agree.

Outlines are closed curves through a few control points; Pillow fills them on a grid several times finer than the
canvas and the mean of each cell is the coverage of its pixel. All work stays inside a shape's bounding box.

Shapes: n points of (x, y); h w of the box a shape touches; s canvas side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageDraw

from data_prep.birds.palette import Colour

Points = np.ndarray
"""float (n, 2)."""


def _spline_basis(steps: int) -> np.ndarray:
    """Catmull-Rom weights of four neighbouring control points at `steps` places of the middle span."""
    t = np.arange(steps) / steps
    weights = [-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2]
    return 0.5 * np.stack(weights, 1)


_STEPS = 7
_BASIS = _spline_basis(_STEPS)


def curve(points: Sequence[tuple[float, float]] | Points, closed: bool = True) -> Points:
    """The smooth line through the points; closed, or from the first to the last."""
    knots = np.asarray(points, dtype=np.float64)
    if closed:
        knots = np.concatenate([knots[-1:], knots, knots[:2]])
    else:
        knots = np.concatenate([2 * knots[:1] - knots[1:2], knots, 2 * knots[-1:] - knots[-2:-1]])
    spans = np.stack([knots[:-3], knots[1:-2], knots[2:-1], knots[3:]], 1)
    line: Points = np.matmul(_BASIS, spans).reshape(-1, 2)
    return line if closed else np.concatenate([line, knots[-2:-1]])


@cache
def smooth(outline: tuple[tuple[float, float], ...]) -> Points:
    """`curve` of an outline that never changes."""
    return curve(outline)


def tube(points: Sequence[tuple[float, float]] | Points, radii: Sequence[float]) -> Points:
    """A rounded band along the smooth line through the points, with a radius at each of them."""
    spine = curve(points, closed=False)
    ends = np.concatenate([2 * spine[:1] - spine[1:2], spine, 2 * spine[-1:] - spine[-2:-1]])
    along = _unit(ends[2:] - ends[:-2])
    across = np.stack([-along[:, 1], along[:, 0]], 1)
    radius = np.interp(np.arange(len(spine)), np.arange(len(radii)) * _STEPS, radii)[:, None]
    cap = np.linspace(-np.pi / 2, np.pi / 2, 7)[1:-1, None]
    end = spine[-1] + radius[-1] * (np.cos(cap) * along[-1] - np.sin(cap) * across[-1])
    start = spine[0] - radius[0] * (np.cos(cap) * along[0] - np.sin(cap) * across[0])
    return np.concatenate([spine + radius * across, end, (spine - radius * across)[::-1], start])


_CIRCLE = np.linspace(0, 2 * np.pi, 28, endpoint=False)


def ellipse(centre: tuple[float, float], radii: tuple[float, float], angle: float = 0.0) -> Points:
    """An ellipse as a polygon of 28 points."""
    around = np.stack([radii[0] * np.cos(_CIRCLE), radii[1] * np.sin(_CIRCLE)], 1)
    return np.asarray(turn(around, (0.0, 0.0), angle) + centre)


def turn(points: Points, pivot: tuple[float, float], angle: float) -> Points:
    """The points turned about a pivot; y points down, so a positive angle turns clockwise."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.asarray((points - pivot) @ np.array([[cos, sin], [-sin, cos]]) + pivot)


def _unit(vectors: Points) -> Points:
    return np.asarray(vectors / (np.sqrt((vectors * vectors).sum(1, keepdims=True)) + 1e-9))


def _outset(outline: Points, distance: float) -> Points:
    """The closed outline moved outwards; corners mitred up to twice the distance."""
    after = np.concatenate([outline[1:], outline[:1]]) - outline
    twice_area = float((outline[:, 0] * after[:, 1] - outline[:, 1] * after[:, 0]).sum())
    normal = _unit(after[:, ::-1] * (np.array([1.0, -1.0]) if twice_area > 0 else np.array([-1.0, 1.0])))
    corner = normal + np.concatenate([normal[-1:], normal[:-1]])
    return np.asarray(outline + distance * corner / np.maximum(0.5 * (corner * corner).sum(1, keepdims=True), 0.5))


@dataclass(frozen=True)
class Patch:
    """Coverage 0 to 1 of a box of pixels: float32 (h, w, 1)."""

    cover: np.ndarray
    rows: slice
    columns: slice


class Canvas:
    """A square picture in the making; coordinates run from 0 to 1, x to the right and y down."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.grain = max(2, min(6, 640 // size))
        self.pixels = np.zeros((size, size, 3), np.float32)
        self.steps = ((np.arange(size) + 0.5) / size).astype(np.float32)

    def shows(self, length: float) -> float:
        """How much of a detail this long can be seen here: 0 below a pixel and a half, 1 above three pixels."""
        return min(max(length * self.size / 1.5 - 1.0, 0.0), 1.0)

    def patch(self, outlines: Sequence[Points], stroke: float = 0.0, line: bool = False) -> Patch | None:
        """Coverage of all outlines together, widened by half a `stroke`, or of `line`s that wide; None off canvas."""
        if not outlines:
            return None
        corners = np.concatenate(outlines)
        left, top = (self._edge(math.floor((edge - stroke) * self.size)) for edge in corners.min(0).tolist())
        right, bottom = (self._edge(math.ceil((edge + stroke) * self.size)) for edge in corners.max(0).tolist())
        width, height = right - left, bottom - top
        if width < 1 or height < 1:
            return None
        grain, low = self.grain, np.array([left, top])
        image = Image.new("L", (width * grain, height * grain))
        draw = ImageDraw.Draw(image)
        for outline in outlines:
            corner_list = ((outline * self.size - low) * grain).ravel().tolist()
            if line:
                joint = "curve" if stroke * self.size > 4 else None  # gaps at the bends show from there on
                draw.line(corner_list, fill=255, width=max(1, round(stroke * self.size * grain)), joint=joint)
                continue
            draw.polygon(corner_list, fill=255)
            if stroke:
                draw.polygon(((_outset(outline, stroke / 2) * self.size - low) * grain).ravel().tolist(), fill=255)
        cells = np.frombuffer(image.reduce(grain).tobytes(), np.uint8).reshape(height, width, 1)
        return Patch(cells * np.float32(1 / 255), slice(top, bottom), slice(left, right))

    def _edge(self, pixel: int) -> int:
        return min(max(pixel, 0), self.size)

    def blend(self, patch: Patch | None, top: Colour, bottom: Colour | None = None, opacity: float = 1.0) -> None:
        """Lay a colour, or a vertical gradient over the patch, on the picture."""
        if patch is None:
            return
        colour = np.asarray(top, np.float32)
        if bottom is not None:
            share = np.linspace(0, 1, len(patch.cover), dtype=np.float32)[:, None, None]
            colour = colour + share * (np.asarray(bottom, np.float32) - colour)
        under = self.pixels[patch.rows, patch.columns]
        under += (patch.cover * np.float32(opacity)) * (colour - under)

    def within(self, patch: Patch | None, limit: Patch | None) -> Patch | None:
        """The part of a patch inside another."""
        if patch is None or limit is None:
            return None
        top, left = max(patch.rows.start, limit.rows.start), max(patch.columns.start, limit.columns.start)
        bottom, right = min(patch.rows.stop, limit.rows.stop), min(patch.columns.stop, limit.columns.stop)
        if bottom <= top or right <= left:
            return None
        rows, columns = slice(top, bottom), slice(left, right)
        return Patch(_crop(patch, rows, columns) * _crop(limit, rows, columns), rows, columns)

    def glow(self, centre: tuple[float, float], radius: float, colour: Colour, opacity: float, limit: Patch) -> None:
        """Soft light around a point, on a patch only."""
        x = (self.steps[None, limit.columns] - centre[0]) / radius
        y = (self.steps[limit.rows, None] - centre[1]) / radius
        soft = np.maximum(1 - x * x - y * y, 0)[:, :, None]
        self.blend(Patch(limit.cover * soft * soft, limit.rows, limit.columns), colour, opacity=opacity)

    def below(self, height: np.ndarray, top: Colour, bottom: Colour) -> None:
        """Fill everything under a line given at every column, (s,), with a gradient down to the lower edge."""
        start = min(max(math.floor(float(height.min()) * self.size) - 1, 0), self.size - 1)
        rows = slice(start, self.size)
        slope = np.gradient(height) * self.size
        cover = (self.steps[rows, None] - height) * (self.size / np.sqrt(1 + slope * slope)) + 0.5
        cover = cover.clip(0, 1).astype(np.float32)[:, :, None]
        self.blend(Patch(cover, rows, slice(0, self.size)), top, bottom)


def _crop(patch: Patch, rows: slice, columns: slice) -> np.ndarray:
    top, left = rows.start - patch.rows.start, columns.start - patch.columns.start
    return patch.cover[top : top + rows.stop - rows.start, left : left + columns.stop - columns.start]
