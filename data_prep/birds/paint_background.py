"""The four landscapes, each a panorama that scrolls: one number moves hills, trees and foliage together.

Strong edges (crests, trunks, firs against the sky) come from few shapes; leaves, grass and ripples are small and faint,
so they belong to large pictures and average out in small ones.
"""

from __future__ import annotations

import numpy as np

from data_prep.birds.palette import Colour, mix, shaded
from data_prep.birds.scene import Scene
from data_prep.birds.shapes import Canvas, Points, curve, ellipse, tube

GROUND = {"hill": 0.83, "lake": 0.83, "wood": 0.84, "snow": 0.83}
"""Where feet stand."""


def paint_background(canvas: Canvas, scene: Scene) -> None:
    """Sky, distance and the ground or perch the birds stand on."""
    _LANDSCAPES[scene.background](canvas, scene)


def _sky(canvas: Canvas, top: Colour, bottom: Colour, reach: float) -> None:
    share = np.clip(canvas.steps / reach, 0, 1)[:, None, None]
    canvas.pixels[:] = np.asarray(top, np.float32) * (1 - share) + np.asarray(bottom, np.float32) * share


def _waves(canvas: Canvas, base: float, waves: tuple[tuple[float, float, float], ...], pan: float) -> np.ndarray:
    """A hill line: waves of (height, number over a panorama two pictures wide, phase)."""
    x = 0.5 * canvas.steps + pan
    return np.asarray(base + sum(height * np.sin(2 * np.pi * (count * x + phase)) for height, count, phase in waves))


def _panorama(pan: float, places: np.ndarray) -> list[tuple[int, float]]:
    """(number, x) of the things standing at `places` (0 to 2) that are in the picture."""
    x = (places - 2 * pan + 0.3) % 2 - 0.3
    return [(number, float(at)) for number, at in enumerate(x) if at < 1.3]


def _sun(canvas: Canvas, scene: Scene, colour: Colour, height: float) -> None:
    centre = (0.12 + 0.76 * scene.sun, height)
    canvas.blend(canvas.patch([ellipse(centre, (0.072, 0.072))]), colour)


def _hill(canvas: Canvas, scene: Scene) -> None:
    level = 0.56 + scene.horizon
    _sky(canvas, (146, 202, 246), (206, 232, 246), 0.62)
    _sun(canvas, scene, (255, 246, 190), 0.13)
    far = _waves(canvas, level, ((0.05, 2, 0.0), (0.022, 3, 0.3)), scene.pan)
    canvas.below(far, (162, 214, 154), (126, 194, 112))
    trees, trunks = [], []
    for number, x in _panorama(scene.pan, np.arange(7) * 2 / 7 + np.array([0, 0.05, -0.04, 0.06, 0.0, 0.05, -0.05])):
        height = (0.16, 0.12, 0.19, 0.14, 0.18, 0.13, 0.15)[number]
        foot = float(np.interp(x, canvas.steps, far)) + 0.035
        trees.append(
            curve(
                [
                    (x, foot - height - 0.03),
                    (x + 0.34 * height, foot - 0.62 * height),
                    (x + 0.22 * height, foot - 0.14 * height),
                    (x - 0.22 * height, foot - 0.14 * height),
                    (x - 0.34 * height, foot - 0.62 * height),
                ]
            )
        )
        trunks.append(tube(np.array([(x, foot - 0.3 * height), (x, foot)]), (0.008, 0.01)))
    if trees:
        canvas.blend(canvas.patch(trunks), (128, 104, 76))
        canvas.blend(canvas.patch(trees), (112, 178, 110), (84, 154, 94))
        _leaves(canvas, trees, (150, 200, 110))
    near = _waves(canvas, 0.83, ((0.016, 1, 0.1),), scene.pan)
    canvas.below(near, (104, 180, 88), (60, 140, 66))
    _grass(canvas, near, (136, 196, 84))


def _lake(canvas: Canvas, scene: Scene) -> None:
    level = 0.5 + scene.horizon
    _sky(canvas, (178, 212, 246), (222, 236, 250), 0.5)
    peaks, caps = [], []
    for number, x in _panorama(scene.pan, np.arange(5) * 0.4 + np.array([0, 0.06, -0.05, 0.04, -0.03])):
        height = (0.3, 0.2, 0.26, 0.18, 0.24)[number]
        peaks.append(
            np.array([(x, level - height), (x + 0.9 * height, level + 0.01), (x - 0.9 * height, level + 0.01)])
        )
        cap = [(0, 0), (0.27, 0.3), (0.12, 0.24), (0.02, 0.34), (-0.1, 0.24), (-0.27, 0.3)]
        caps.append(np.array([(x + height * u, level - height + height * v) for u, v in cap]))
    if peaks:
        canvas.blend(canvas.patch(peaks), (160, 188, 224), (128, 164, 214))
        canvas.blend(canvas.patch(caps), (228, 238, 250))
    canvas.below(np.full(canvas.size, level), (98, 164, 224), (62, 124, 200))
    _ripples(canvas, scene, level)
    _jetty(canvas, scene)


def _jetty(canvas: Canvas, scene: Scene) -> None:
    posts = []
    for _, x in _panorama(scene.pan, np.arange(5) * 0.4):
        posts.append(np.array([(x - 0.026, 0.79), (x + 0.026, 0.79), (x + 0.03, 1.02), (x - 0.03, 1.02)]))
    if posts:
        canvas.blend(canvas.patch(posts), (128, 122, 130), (84, 108, 150))
    plank = np.array([(-0.02, 0.82), (1.02, 0.82), (1.02, 0.885), (-0.02, 0.885)])
    canvas.blend(canvas.patch([plank]), (186, 158, 128), (150, 122, 100))
    canvas.blend(canvas.patch([plank[[3, 2]]], stroke=0.016, line=True), (116, 84, 70))
    visible = canvas.shows(0.006)
    if visible:
        grain = [
            np.array([(x, y), (x + 0.2, y + 0.002)]) for x in np.arange(-0.1, 1, 0.23) for y in (0.836, 0.85, 0.866)
        ]
        canvas.blend(canvas.patch(grain, stroke=0.003, line=True), (112, 76, 52), opacity=0.7 * visible)


def _wood(canvas: Canvas, scene: Scene) -> None:
    level = 0.7 + scene.horizon
    _sky(canvas, (250, 204, 118), (253, 222, 156), 0.7)
    far: list[Points] = []
    near: list[Points] = []
    crowns: list[Points] = []
    for number, x in _panorama(scene.pan, np.arange(6) / 3 + np.array([0, 0.05, -0.05, 0.04, 0.0, -0.04])):
        width = (0.045, 0.03, 0.038, 0.05, 0.03, 0.04)[number]
        (near if number % 2 == 0 else far).append(
            tube(
                np.array([(x + 0.02, -0.1), (x, 0.3), (x - 0.01, level + 0.04)]),
                (0.7 * width, 0.8 * width, 1.15 * width),
            )
        )
        crowns.append(ellipse((x, -0.02), (0.2, 0.13 + 0.8 * width)))
    canvas.below(_waves(canvas, level, ((0.02, 2, 0.2),), scene.pan), (230, 154, 76), (194, 108, 54))
    for trunks, colour in ((far, (236, 176, 104)), (near, (198, 134, 82))):
        if trunks:
            canvas.blend(canvas.patch(trunks), colour)
    canvas.blend(canvas.patch(crowns), (236, 142, 62), (242, 168, 80))
    _leaves(canvas, crowns, (250, 190, 70))
    _litter(canvas, scene, level)
    branch = tube(np.array([(-0.05, 0.87), (0.25, 0.865), (0.6, 0.862), (1.05, 0.85)]), (0.034, 0.03, 0.027, 0.022))
    canvas.blend(canvas.patch([branch]), (150, 96, 66), (98, 60, 50))
    visible = canvas.shows(0.006)
    if visible:
        bark = [
            np.array([(x, y), (x + 0.09, y - 0.002)]) for x in np.arange(-0.1, 1, 0.12) for y in (0.856, 0.868, 0.878)
        ]
        canvas.blend(canvas.patch(bark, stroke=0.003, line=True), (40, 26, 30), opacity=0.5 * visible)


def _snow(canvas: Canvas, scene: Scene) -> None:
    level = 0.6 + scene.horizon
    _sky(canvas, (164, 180, 220), (240, 214, 220), 0.6)
    _sun(canvas, scene, (255, 250, 238), 0.16)
    canvas.below(_waves(canvas, level, ((0.03, 2, 0.5),), scene.pan), (208, 218, 240), (220, 228, 245))
    trees, caps = [], []
    for number, x in _panorama(scene.pan, np.arange(6) / 3 + np.array([0, 0.06, -0.04, 0.05, -0.05, 0.03])):
        height = (0.4, 0.28, 0.34, 0.42, 0.3, 0.36)[number]
        for tier in range(3):
            top, half = level + 0.06 - height * (1 - 0.27 * tier), height * (0.16 + 0.07 * tier)
            foot = top + 0.42 * height
            trees.append(np.array([(x, top), (x + half, foot), (x - half, foot)]))
            caps.append(
                np.array(
                    [
                        (x, top),
                        (x + 0.5 * half, top + 0.21 * height),
                        (x + 0.12 * half, top + 0.15 * height),
                        (x - 0.2 * half, top + 0.22 * height),
                        (x - 0.5 * half, top + 0.21 * height),
                    ]
                )
            )
    if trees:
        canvas.blend(canvas.patch(trees), (156, 180, 204), (132, 160, 192))
        canvas.blend(canvas.patch(caps), (228, 236, 248))
    canvas.below(_waves(canvas, 0.72, ((0.02, 1, 0.3),), scene.pan), (232, 238, 250), (190, 204, 234))
    _fence(canvas, scene)


def _fence(canvas: Canvas, scene: Scene) -> None:
    posts = [
        np.array([(x - 0.024, 0.86), (x + 0.024, 0.86), (x + 0.024, 1.02), (x - 0.024, 1.02)])
        for _, x in _panorama(scene.pan, np.arange(5) * 0.4)
    ]
    if posts:
        canvas.blend(canvas.patch(posts), (176, 164, 176), (164, 156, 176))
    rail = tube(np.array([(-0.05, 0.878), (0.5, 0.876), (1.05, 0.878)]), (0.026, 0.026, 0.026))
    canvas.blend(canvas.patch([rail]), (164, 146, 152), (142, 128, 144))
    cap = _waves(canvas, 0.836, ((0.006, 5, 0.0), (0.004, 9, 0.2)), scene.pan)
    top = np.stack([canvas.steps, cap], 1)
    snow = np.concatenate([top, [(1.01, 0.866), (-0.01, 0.866)]])
    canvas.blend(canvas.patch([snow]), (242, 246, 253), (222, 230, 248))


def _leaves(canvas: Canvas, crowns: list[Points], colour: Colour) -> None:
    """Leaves over tree crowns, laid out by the crown itself."""
    visible = canvas.shows(0.009)
    if not visible:
        return
    spiral = np.arange(1, 60)
    reach, angle = np.sqrt(spiral / 60)[:, None], 2.4 * spiral
    leaf = np.array([(-0.012, 0.0), (0.0, -0.006), (0.013, 0.001), (0.0, 0.006)])
    outlines = []
    for crown in crowns:
        middle = crown.mean(0)
        spread = 0.95 * reach * np.stack([np.cos(angle), np.sin(angle)], 1) * (crown.max(0) - crown.min(0)) / 2
        outlines += [middle + spot + leaf[:, :: (1 if i % 2 else -1)] for i, spot in enumerate(spread)]
    canvas.blend(canvas.within(canvas.patch(outlines), canvas.patch(crowns)), colour, opacity=0.5 * visible)


def _grass(canvas: Canvas, crest: np.ndarray, colour: Colour) -> None:
    """Blades along the crest and on the slope."""
    visible = canvas.shows(0.006)
    if not visible:
        return
    spots = np.arange(260)
    x = (spots * 0.618034) % 1
    y = np.interp(x, canvas.steps, crest) + 0.004 + 0.17 * (spots / 260) ** 1.2
    lean = 0.01 * np.sin(spots * 1.7)
    blades = [np.array([(a, b), (a + c, b - 0.022)]) for a, b, c in zip(x, y, lean, strict=True)]
    canvas.blend(canvas.patch(blades, stroke=0.0032, line=True), colour, opacity=0.6 * visible)


def _ripples(canvas: Canvas, scene: Scene, level: float) -> None:
    spots = np.arange(26)
    y = level + 0.02 + (1 - level) * 0.6 * (spots / 26) ** 1.3
    x = (spots * 0.618034 + scene.pan) % 1.2 - 0.2
    length = 0.06 + 0.1 * (spots / 26)
    lines = [np.array([(a, b), (a + c, b)]) for a, b, c in zip(x, y, length, strict=True)]
    canvas.blend(canvas.patch(lines, stroke=0.006, line=True), (190, 224, 248), opacity=0.4)


def _litter(canvas: Canvas, scene: Scene, level: float) -> None:
    """Fallen leaves on the ground."""
    visible = canvas.shows(0.008)
    if not visible:
        return
    spots = np.arange(150)
    x = (spots * 0.618034 + scene.pan) % 1
    y = level + 0.04 + (1 - level) * (spots / 150)
    leaf = np.array([(-0.013, 0.0), (0.0, -0.006), (0.014, 0.001), (0.0, 0.005)])
    for part, colour in ((0, (244, 170, 60)), (1, shaded((190, 70, 30)))):
        leaves = [leaf + spot for spot in np.stack([x, y], 1)[part::2]]
        canvas.blend(canvas.patch(leaves), mix(colour, (255, 220, 120), 0.1), opacity=0.6 * visible)


_LANDSCAPES = {"hill": _hill, "lake": _lake, "wood": _wood, "snow": _snow}
