"""One bird on a canvas: tail, legs, body and head, plumage marks, the folded wing with its feathers, beak and eye.

A dark outline runs round everything, as in a picture book, so a white bird shows on snow and a green one on a hill.
Feather tips are part of the outline at any size; barbs and down appear as soon as the canvas can show them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from data_prep.birds.anatomy import Anatomy, Mark
from data_prep.birds.great_birds import GREAT_BIRDS
from data_prep.birds.palette import CREAM, INK, PAINT, SLATE, Colour, contrasting, lit, mix, shaded
from data_prep.birds.scene import Bird
from data_prep.birds.shapes import Canvas, Patch, Points, curve, ellipse, smooth, tube, turn
from data_prep.birds.songbirds import SONGBIRDS

_ANATOMY = SONGBIRDS | GREAT_BIRDS
_WHITE: Colour = (255, 255, 255)


@dataclass(frozen=True)
class Stance:
    """From a species' own frame to the canvas."""

    anatomy: Anatomy
    bird: Bird
    ground: float

    @property
    def unit(self) -> float:
        """Length on the canvas of 1 in the bird's frame."""
        return self.bird.extent / self.anatomy.bulk

    @property
    def outline(self) -> float:
        """Width of the ink around it."""
        return 0.0045 + 0.007 * self.bird.extent

    def place(self, points: Points, tilted: bool = True) -> Points:
        """The points on the canvas; legs stand, everything else tilts about the feet."""
        turned = turn(np.asarray(points, float), (0.0, -0.3), -self.bird.tilt) if tilted else np.asarray(points, float)
        facing = 1.0 if self.bird.heading == "right" else -1.0
        x = self.bird.x + facing * self.unit * (turned[:, 0] - self.anatomy.centre)
        return np.stack([x, self.ground + self.unit * turned[:, 1]], 1)

    def head(self, points: Points) -> Points:
        """Points of the head: nodding, then placed."""
        return self.place(turn(np.asarray(points, float), self.anatomy.neck, self.bird.nod))

    def tail(self, points: Points) -> Points:
        """Points of the tail: lifted, then placed."""
        return self.place(turn(np.asarray(points, float), self.anatomy.rump, self.bird.tail_lift))


def paint_bird(canvas: Canvas, species: str, bird: Bird, ground: float, sun: float) -> None:
    """Draw a bird whose feet stand at height `ground` (y, in picture sides), lit from x = `sun`."""
    stance = Stance(_ANATOMY[species], bird, ground)
    body, wing = PAINT[bird.body], PAINT[bird.wing]
    _legs(canvas, stance)
    _tail(canvas, stance, wing)
    outlines = _silhouette(stance, species)
    crest = [stance.head(smooth(part)) for part in stance.anatomy.crest]
    canvas.blend(canvas.patch(outlines + crest, stroke=2 * stance.outline), INK)
    canvas.blend(canvas.patch(crest), lit(wing), wing)
    shape = canvas.patch(outlines)
    if shape is None:
        return
    _plumage(canvas, stance, shape, body, sun)
    for mark in stance.anatomy.marks:
        _mark(canvas, stance, mark, shape, (body, wing))
    _wing(canvas, stance, wing)
    _face(canvas, stance, species)


def _silhouette(stance: Stance, species: str) -> list[Points]:
    outlines = [stance.place(smooth(stance.anatomy.body)), stance.head(smooth(stance.anatomy.head))]
    if species == "heron":
        top = turn(np.array([(0.11, -0.92)]), stance.anatomy.neck, stance.bird.nod)[0]
        spine = [tuple(top), (0.16, -0.84), (0.2, -0.74), (0.14, -0.65), (0.15, -0.56), (0.06, -0.47)]
        outlines.append(stance.place(tube(np.array(spine), (0.05, 0.047, 0.047, 0.06, 0.08, 0.09))))
    return outlines


def _legs(canvas: Canvas, stance: Stance) -> None:
    bones = []
    for hip_x, hip_y, foot in stance.anatomy.legs:
        hip = turn(np.array([(hip_x, hip_y)]), (0.0, -0.3), -stance.bird.tilt)[0]
        knee = (0.5 * (hip[0] + foot) - 0.015, 0.5 * hip[1])
        bones.append(stance.place(np.array([hip, knee, (foot, 0.0)]), tilted=False))
        for toe in (0.075, 0.02, -0.045):
            bones.append(stance.place(np.array([(foot, -0.012), (foot + toe, 0.012)]), tilted=False))
    width = 0.03 * stance.unit
    canvas.blend(canvas.patch(bones, stroke=width + stance.outline, line=True), INK)
    canvas.blend(canvas.patch(bones, stroke=width, line=True), stance.anatomy.leg_colour)


def _tail(canvas: Canvas, stance: Stance, wing: Colour) -> None:
    feathers = [stance.tail(smooth(part)) for part in stance.anatomy.tail]
    canvas.blend(canvas.patch(feathers, stroke=2 * stance.outline), INK)
    for feather, tone in zip(feathers, (shaded(wing, 0.22), wing), strict=False):
        patch = canvas.patch([feather])
        canvas.blend(patch, tone, shaded(tone, 0.25))
        _barbs(canvas, stance, patch, feather, shaded(tone, 0.4))


def _plumage(canvas: Canvas, stance: Stance, shape: Patch, body: Colour, sun: float) -> None:
    """Body and head: light from above, shadow below, down where it can be seen."""
    canvas.blend(shape, lit(body), shaded(body, 0.26))
    top = stance.place(np.array([(0.1, -0.7)]))[0]
    glow_at = (float(top[0]) + 0.3 * stance.unit * (sun - 0.5), float(top[1]))
    canvas.glow(glow_at, 0.42 * stance.unit, (255, 252, 236), 0.3, shape)
    visible = canvas.shows(0.012 * stance.unit)
    if not visible:
        return
    grid = np.stack(np.meshgrid(np.arange(-0.5, 0.45, 0.05), np.arange(-1.05, 0.0, 0.04)), -1).reshape(-1, 2)
    grid[:, 0] += 0.025 * (np.round(grid[:, 1] / 0.04) % 2)
    arc = np.array([(-0.022, -0.004), (-0.012, 0.012), (0.004, 0.012), (0.016, -0.002)])
    tufts = [stance.place(arc + spot) for spot in grid]
    down = canvas.within(canvas.patch(tufts, stroke=0.006 * stance.unit, line=True), shape)
    canvas.blend(down, shaded(body, 0.5), opacity=0.3 * visible)


def _mark(canvas: Canvas, stance: Stance, mark: Mark, shape: Patch, colours: tuple[Colour, Colour]) -> None:
    place = stance.head if mark.on_head else stance.place
    if mark.tone == "chevrons":
        (left, top), (right, bottom) = mark.outline
        spots = [(x, y) for y in np.linspace(top, bottom, 4) for x in np.linspace(left, right, 3)]
        chevron = np.array([(-0.04, -0.02), (0.0, 0.03), (0.04, -0.02)])
        lines = [stance.place(chevron + spot) for spot in spots]
        patch = canvas.patch(lines, stroke=0.03 * stance.unit, line=True)
        canvas.blend(canvas.within(patch, shape), contrasting(colours[0]))
        return
    patch = canvas.within(canvas.patch([place(smooth(mark.outline))]), shape)
    contrast = contrasting(colours[0])
    tone = {"contrast": contrast, "dark": SLATE if contrast == CREAM else INK, "pale": mix(colours[0], contrast, 0.55)}
    canvas.blend(patch, tone[mark.tone], shaded(tone[mark.tone], 0.12), mark.opacity)


def _wing_frame(stance: Stance, points: Points) -> Points:
    """From the wing's frame (x from shoulder 0 to tip 1, y down the body) to the canvas."""
    shoulder, tip = np.array(stance.anatomy.shoulder), np.array(stance.anatomy.wing_tip)
    along = tip - shoulder
    down = np.array([along[1], -along[0]])
    local = shoulder + points[:, :1] * along + points[:, 1:] * down
    return stance.place(turn(local, stance.anatomy.shoulder, stance.bird.wing_lift))


@cache
def _flight_feathers(anatomy: Anatomy) -> list[Points]:
    """Fanned from the belly, where the innermost lies lowest, to the tip; in the wing's frame."""
    depth, feathers = anatomy.wing_depth, []
    for rank in np.linspace(1.0, 0.0, anatomy.primaries).tolist():
        end = (1.0 - 0.5 * rank, 0.1 * depth + 0.8 * depth * rank**0.8)
        root = (0.05, 0.25 * depth * rank)
        middle = (0.5 * (root[0] + end[0]), 0.5 * (root[1] + end[1]) + 0.1 * depth)
        feathers.append(tube(np.array([root, middle, end]), (0.1, 0.3 * depth, 0.05)))
    return feathers


@cache
def _coverts(depth: float) -> Points:
    """The small feathers at the front of the wing, as one outline in its frame."""
    along = np.array([-0.1, 0.06, 0.36, 0.62, 0.5, 0.36, 0.24, 0.08])
    down = depth * np.array([0.1, -0.3, -0.34, -0.05, 0.32, 0.4, 0.66, 0.62])
    return curve(np.stack([along, down], 1))


def _wing(canvas: Canvas, stance: Stance, wing: Colour) -> None:
    """Flight feathers fanned from tip to belly, coverts over them, bars of the species."""
    feathers = [_wing_frame(stance, feather) for feather in _flight_feathers(stance.anatomy)]
    coverts = _wing_frame(stance, _coverts(stance.anatomy.wing_depth))
    canvas.blend(canvas.patch([*feathers, coverts], stroke=1.6 * stance.outline), INK)
    edge = 0.012 * stance.unit
    for number, feather in enumerate(feathers):
        tone = (
            shaded(wing, 0.1 + 0.12 * (number % 2)) if wing != PAINT["black"] else mix(wing, _WHITE, 0.1 * (number % 2))
        )
        canvas.blend(canvas.patch([feather], stroke=edge), shaded(wing, 0.55))
        patch = canvas.patch([feather])
        canvas.blend(patch, tone)
        _barbs(canvas, stance, patch, feather, shaded(wing, 0.45))
    canvas.blend(canvas.patch([coverts], stroke=edge), shaded(wing, 0.55))
    patch = canvas.patch([coverts])
    canvas.blend(patch, lit(wing), wing)
    _scallops(canvas, stance, patch, wing)
    _bars(canvas, stance, wing)


def _barbs(canvas: Canvas, stance: Stance, patch: Patch | None, feather: Points, tone: Colour) -> None:
    """The shaft and the fine slanted lines of one feather."""
    visible = canvas.shows(0.012 * stance.unit)
    if not visible or patch is None:
        return
    half = len(feather) // 2
    one, other = feather[:half:1], feather[::-1][:half:1]
    shaft = 0.5 * (one + other)
    lines = [np.stack([shaft[i], one[min(i + 2, half - 1)]]) for i in range(1, half)]
    lines += [np.stack([shaft[i], other[min(i + 2, half - 1)]]) for i in range(1, half)]
    barbs = canvas.within(canvas.patch([*lines, shaft], stroke=0.005 * stance.unit, line=True), patch)
    canvas.blend(barbs, tone, opacity=0.5 * visible)


def _scallops(canvas: Canvas, stance: Stance, coverts: Patch | None, wing: Colour) -> None:
    """Rows of small rounded feathers on the front of the wing."""
    visible = canvas.shows(0.02 * stance.unit)
    if not visible:
        return
    depth = stance.anatomy.wing_depth
    arc = np.stack([0.05 * np.cos(np.linspace(-1.4, 1.4, 7)), 0.11 * depth * np.sin(np.linspace(-1.4, 1.4, 7))], 1)
    spots = [
        (x, y * depth + 0.1 * depth * (row % 2))
        for row, x in enumerate(np.arange(0.0, 0.56, 0.09))
        for y in np.arange(-0.4, 0.7, 0.2)
    ]
    arcs = [_wing_frame(stance, arc + spot) for spot in spots]
    patch = canvas.within(canvas.patch(arcs, stroke=0.009 * stance.unit, line=True), coverts)
    canvas.blend(patch, shaded(wing, 0.5), opacity=0.6 * visible)


def _bars(canvas: Canvas, stance: Stance, wing: Colour) -> None:
    """Wing bars in a neutral that stands out."""
    depth = stance.anatomy.wing_depth
    lines = []
    for bar in range(stance.anatomy.wing_bars):
        x = 0.42 + 0.14 * bar
        reach = 0.55 - 0.1 * bar
        lines.append(
            _wing_frame(stance, np.array([(x + 0.04, -0.12 * depth), (x, 0.2 * depth), (x - 0.06, reach * depth)]))
        )
    if lines:
        canvas.blend(canvas.patch(lines, stroke=0.04 * stance.unit, line=True), contrasting(wing))


def _face(canvas: Canvas, stance: Stance, species: str) -> None:
    """Beak and eyes."""
    anatomy = stance.anatomy
    beaks = [stance.head(np.asarray(part) if len(part) < 6 else smooth(part)) for part in anatomy.beak]
    canvas.blend(canvas.patch(beaks, stroke=1.4 * stance.outline), INK)
    canvas.blend(canvas.patch(beaks), lit(anatomy.beak_colour), shaded(anatomy.beak_colour))
    x, y, radius = anatomy.eye
    eyes = [(x, y), (x - 0.25, y)] if species == "owl" else [(x, y)]
    iris: Colour = (252, 196, 40) if species == "owl" else (250, 246, 236)
    for eye in eyes:
        for scale, colour in ((1.5, INK), (1.2, iris), (0.74, (16, 12, 20))):
            canvas.blend(canvas.patch([stance.head(ellipse(eye, (scale * radius, scale * radius)))]), colour)
        glint = ellipse((eye[0] + 0.25 * radius, eye[1] - 0.3 * radius), (0.26 * radius, 0.26 * radius))
        canvas.blend(canvas.patch([stance.head(glint)]), _WHITE)
