"""Source pictures: grey is the luma, a sketch shows what there is to see, and a doodle comes to the same look."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from data_prep.birds import describe, draw
from stages.conditioning.sources import SOURCE_KINDS, as_sketch, from_doodle, grey, looks_drawn, sketch, source_picture
from stages.metrics import edge_f1

Colour = tuple[int, int, int]
WHITE, BLACK, FINE = (255, 255, 255), (0, 0, 0), 8


def inked(pixels: np.ndarray) -> np.ndarray:
    return pixels[..., 0] < 128


def f1(drawn: np.ndarray, wanted: np.ndarray, reach: int = 2) -> float:
    return float(edge_f1(torch.from_numpy(drawn)[None], torch.from_numpy(wanted)[None], reach))


def disc(side: int, radius: float, colour: Colour, ground: Colour) -> np.ndarray:
    """A filled circle at the centre, anti-aliased."""
    picture = Image.new("RGB", (side * FINE, side * FINE), ground)
    ends = (side / 2 - radius) * FINE, (side / 2 + radius) * FINE
    ImageDraw.Draw(picture).ellipse((ends[0], ends[0], ends[1], ends[1]), fill=colour)
    return np.asarray(picture.resize((side, side), Image.Resampling.BOX))


def distance_from_centre(side: int) -> np.ndarray:
    at = np.arange(side) + 0.5 - side / 2
    return np.hypot(at[:, None], at[None])


def doodle(side: int = 64, *, pen: float = 1.5, ink: Colour = BLACK, paper: Colour = WHITE) -> np.ndarray:
    """A bird of a few strokes, `pen` px wide in a picture of 64."""
    unit = side * FINE / 100
    picture = Image.new("RGB", (side * FINE, side * FINE), paper)
    brush = ImageDraw.Draw(picture)
    turn = np.linspace(0, 2 * np.pi, 90)
    strokes = [
        np.stack([42 + 24 * np.cos(turn), 56 + 17 * np.sin(turn)], 1),
        np.stack([74 + 12 * np.cos(turn), 30 + 12 * np.sin(turn)], 1),
        np.array([(86, 28), (97, 32), (85, 36)]),
        np.array([(30, 52), (42, 62), (56, 52)]),
        np.array([(36, 73), (36, 90)]),
        np.array([(50, 72), (50, 90)]),
        np.array([(4, 92), (30, 90), (70, 95), (96, 91)]),
    ]
    half = pen / 64 * 100 / 2 * unit
    for stroke in strokes:
        spots = np.concatenate([np.linspace(a, b, 60) for a, b in pairwise(stroke)]) * unit
        for x, y in spots:
            brush.ellipse((x - half, y - half, x + half, y + half), fill=ink)
    return np.asarray(picture.resize((side, side), Image.Resampling.BOX))


def scanned(pixels: np.ndarray, shade: float = 0.3, grain: float = 3.0) -> np.ndarray:
    """Darker towards one corner, with the noise of a scanner."""
    side = len(pixels)
    fall = np.linspace(0, 1, side)
    light = 1 - shade * (0.6 * fall[None] + 0.4 * fall[:, None] ** 2)
    noise = np.random.default_rng(0).normal(0, grain, pixels.shape)
    return (pixels * light[..., None] + noise).round().clip(0, 255).astype(np.uint8)


def test_grey_is_the_luma_in_three_channels() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (11, 7, 3), dtype=np.uint8)
    found = grey(pixels)
    assert found.dtype == np.uint8 and found.shape == pixels.shape
    assert (found == found[..., :1]).all()
    assert np.abs(found[..., 0] - pixels @ [0.299, 0.587, 0.114]).max() < 0.51


def test_every_kind_is_made_and_another_is_refused_with_the_known_ones() -> None:
    bird = draw(describe(0, 1), 72)
    assert [
        np.array_equal(source_picture(bird, kind), f(bird)) for kind, f in (("grey", grey), ("sketch", sketch))
    ] == [
        True,
        True,
    ]
    with pytest.raises(ValueError, match=r"'edges'.*grey, sketch"):
        source_picture(bird, "edges")


@pytest.mark.parametrize("colours", [((40, 60, 200), (230, 220, 180)), ((230, 220, 180), (40, 60, 200))])
@pytest.mark.parametrize("side", [64, 200])
def test_the_sketch_of_a_disc_is_its_rim(side: int, colours: tuple[Colour, Colour]) -> None:
    radius = 0.3 * side
    found = inked(sketch(disc(side, radius, *colours)))
    off = np.abs(distance_from_centre(side) - radius)
    line = (side / 64) ** 0.5
    assert off[found].max() < 2 * line
    assert f1(found, off < 0.5, reach=1) > 0.99  # all around


def test_a_line_is_one_and_a_half_pixels_wide_at_64_and_grows_with_the_side() -> None:
    def width(side: int) -> float:
        pixels = np.full((side, side, 3), 60, np.uint8)
        pixels[:, side // 2 :] = 200
        ink = 1 - sketch(pixels)[..., 0] / 255.0
        return float(ink.sum(1).mean())

    widths = [width(side) for side in (64, 256, 1024)]
    assert widths == pytest.approx([1.5, 3.0, 6.0], rel=0.15)


def test_a_border_between_equally_bright_colours_is_a_line() -> None:
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:, :32], pixels[:, 32:] = (200, 0, 0), (0, 102, 0)
    assert np.ptp(grey(pixels)) <= 1
    found = np.argwhere(inked(sketch(pixels)))
    assert set(found[:, 0]) >= set(range(1, 63))
    assert np.abs(found[:, 1] - 31.5).max() < 2


def test_a_dark_line_is_drawn_once_not_along_both_sides() -> None:
    for side, half in ((64, 1), (256, 2)):
        pixels = np.full((side, side, 3), (150, 190, 230), np.uint8)
        pixels[side // 2 - half : side // 2 + half] = 30
        crossings = np.diff(inked(sketch(pixels))[:, 4:-4].astype(int), axis=0) == 1
        assert (crossings.sum(0) == 1).all()


def test_a_flat_or_shaded_or_slightly_noisy_picture_has_no_lines() -> None:
    ramp = np.linspace(60, 200, 64)[:, None, None] * np.ones((1, 64, 3))
    noise = np.random.default_rng(0).normal(0, 4, (64, 64, 3))
    for pixels in (np.full((64, 64, 3), 90.0), ramp, 120 + noise):
        picture = pixels.round().astype(np.uint8)
        assert (sketch(picture) == 255).all()
        assert (as_sketch(picture) == 255).all()


def test_small_faint_texture_goes_and_what_it_lies_on_stays() -> None:
    plain = disc(128, 40, (60, 90, 60), (200, 210, 230))
    speckled = plain.astype(int)
    for y, x in np.random.default_rng(0).integers(4, 124, (60, 2)):
        speckled[y : y + 2, x : x + 2] += 18
    found = inked(sketch(speckled.clip(0, 255).astype(np.uint8)))
    assert f1(found, inked(sketch(plain)), reach=1) > 0.98


@pytest.mark.parametrize("index", range(6))
def test_the_sketch_of_a_bird_has_lines_and_mostly_paper(index: int) -> None:
    found = sketch(draw(describe(0, index), 72))
    assert (found == found[..., :1]).all()
    assert 0.05 < inked(found).mean() < 0.4
    assert found.min() < 20 and found.max() == 255


def test_a_shrunken_picture_gives_the_shrunken_sketch() -> None:
    large = draw(describe(0, 1), 144)
    small = np.asarray(Image.fromarray(large).resize((72, 72), Image.Resampling.BOX))
    shrunken = np.asarray(Image.fromarray(sketch(large)).resize((72, 72), Image.Resampling.BOX))
    assert f1(inked(sketch(small)), inked(shrunken)) > 0.85


REDRAWN: dict[str, Callable[[], np.ndarray]] = {
    "white on black": lambda: doodle(ink=WHITE, paper=BLACK),
    "blue pen on yellowish, shaded paper": lambda: scanned(doodle(ink=(40, 50, 160), paper=(245, 232, 190))),
    "thick strokes": lambda: doodle(pen=4.5),
    "thin strokes": lambda: doodle(pen=0.6),
    "pencil": lambda: scanned(doodle(pen=1.0, ink=(130, 130, 130), paper=(238, 236, 230)), 0.2),
    "chalk on a blackboard": lambda: scanned(doodle(pen=2.5, ink=(240, 235, 180), paper=(40, 70, 55))),
    "yellow pen": lambda: doodle(ink=(250, 215, 30)),
}


@pytest.mark.parametrize("how", REDRAWN)
def test_however_it_is_drawn_a_doodle_comes_to_one_look(how: str) -> None:
    plain, other = from_doodle(doodle()), REDRAWN[how]()
    assert looks_drawn(other)
    found = from_doodle(other)
    assert f1(inked(found), inked(plain), reach=1) > 0.95
    assert inked(found).mean() == pytest.approx(inked(plain).mean(), rel=0.2)  # one pen
    assert np.median(found) == 255


def test_a_plain_doodle_keeps_its_lines_and_its_dots() -> None:
    drawn = doodle().copy()
    drawn[18:20, 47:49] = 0  # an eye
    found = inked(from_doodle(drawn))
    assert f1(found, inked(drawn), reach=1) > 0.98
    assert found[17:21, 46:50].any()


def test_a_filled_area_becomes_its_outline_as_in_a_sketch() -> None:
    filled = disc(64, 20, BLACK, WHITE)
    assert not looks_drawn(filled)
    assert f1(inked(from_doodle(filled)), inked(sketch(filled)), reach=1) > 0.98


def test_drawings_are_told_from_paintings() -> None:
    birds = [draw(describe(0, index), 72) for index in range(24)]
    assert not any(looks_drawn(bird) for bird in birds)
    assert all(looks_drawn(sketch(bird)) for bird in birds)


@pytest.mark.parametrize("index", [None, 0, 1, 9])
def test_drawing_a_drawing_again_changes_little(index: int | None) -> None:
    once = as_sketch(doodle() if index is None else draw(describe(0, index), 72))
    twice = as_sketch(once)
    assert f1(inked(twice), inked(once), reach=1) > 0.95
    assert inked(as_sketch(twice)).mean() == pytest.approx(inked(twice).mean(), rel=0.1)


@pytest.mark.parametrize("size", [(8, 8), (64, 64), (65, 97), (300, 48), (1, 5), (1024, 1024)])
def test_any_size_goes_in_and_comes_out_the_same_every_time(size: tuple[int, int]) -> None:
    large = np.asarray(Image.fromarray(draw(describe(0, 2), 144)).resize(size[::-1]))
    before = large.copy()
    for make in (grey, sketch, from_doodle, as_sketch):
        found = make(large)
        assert found.shape == (*size, 3) and found.dtype == np.uint8
        assert np.array_equal(make(large), found)
    assert np.array_equal(large, before)
    found[:] = 0  # a writable copy of its own


def test_sources_need_no_torch() -> None:
    program = "import sys, stages.conditioning.sources; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
    assert SOURCE_KINDS == ("grey", "sketch")
