"""The picture of a scene at any size."""

from __future__ import annotations

import numpy as np

from data_prep.birds.paint_background import GROUND, paint_background
from data_prep.birds.paint_bird import paint_bird
from data_prep.birds.scene import Scene
from data_prep.birds.shapes import Canvas


def draw(scene: Scene, size: int) -> np.ndarray:
    """uint8 (size, size, 3) RGB; the same picture at every size, with finer detail in larger ones."""
    canvas = Canvas(size)
    paint_background(canvas, scene)
    for bird in scene.birds:
        paint_bird(canvas, scene.species, bird, GROUND[scene.background], scene.sun)
    picture: np.ndarray = np.rint((canvas.pixels * scene.light).clip(0, 255)).astype(np.uint8)
    return picture
