"""Curves of the report: where their points lie, what shares a chart, how numbers read."""

from __future__ import annotations

import re

import numpy as np
import pytest

from launchers.report_curves import HEIGHT, MAX_POINTS, WIDTH, Chart, Line, charts_of, draw, short, thinned, ticks


def test_a_curve_goes_through_its_points_and_high_values_are_high() -> None:
    drawn = draw(Chart("loss", [Line("train", [(0, 0.0), (5, 10.0), (10, 5.0)], 0, dashed=False)]))

    path = re.search(r'class="line c0" d="M([^"]+)"/><circle', drawn)
    assert path
    xs, ys = zip(*(map(float, point.split()) for point in path[1].split("L")), strict=True)
    assert xs[0] < xs[1] < xs[2] and xs[1] - xs[0] == pytest.approx(xs[2] - xs[1], abs=0.2)
    assert ys[1] < ys[2] < ys[0] and ys[2] - ys[1] == pytest.approx(ys[0] - ys[2], abs=0.2)


def test_constant_tiny_and_huge_values_can_be_drawn() -> None:
    for values in ([0.0, 0.0], [1e-30, 2e-30], [1e300, -1e300], [5.0, 5.0], [-3.0, -2.0], [1.0] * 99 + [1e9]):
        drawn = draw(Chart("x", [Line("train", list(enumerate(values)), 0, dashed=False)]))
        assert not re.search(r"\b(nan|inf)\b", drawn)


def test_train_and_val_and_the_levels_of_one_figure_share_a_chart() -> None:
    points = [(1, 1.0), (2, 2.0)]
    names = ("val/level0_usage", "val/level1_usage", "train/loss", "val/loss", "train/loss_level0", "train/lr")
    charts = charts_of(dict.fromkeys(names, points) | {"val/once": points[:1]})

    assert [(chart.title, [line.label for line in chart.lines]) for chart in charts] == [
        ("loss", ["train", "val"]),
        ("loss by level", ["level 0, train"]),
        ("lr", ["train"]),
        ("usage by level", ["level 0, val", "level 1, val"]),
    ]


def test_long_curves_are_thinned_by_means() -> None:
    points = [(step, float(step % 2)) for step in range(4000)]

    thin = thinned(points, 400)
    assert len(thin) == 400
    assert thin[-1][0] == 3999
    assert {value for _, value in thin} == {0.5}


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.013, 0.0131), (-5, 12345), (1e-9, 2e-9), (999, 1001)])
def test_ticks_are_few_evenly_spaced_and_inside(low: float, high: float) -> None:
    found = ticks(low, high)

    assert 2 <= len(found) <= 6
    room = (high - low) * 1e-6
    assert all(low - room <= tick <= high + room for tick in found)
    assert np.allclose(np.diff(found), found[1] - found[0])


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (3481600, "3,481,600"),
        (16.57715, "16.58"),
        (0.00012345, "0.0001234"),
        (12345.6, "12,346"),
        (float("nan"), "nan"),
    ],
)
def test_numbers_are_short(value: float, words: str) -> None:
    assert short(value) == words


def test_a_long_curve_keeps_its_end_and_lies_inside_its_frame() -> None:
    points = [(step, 1 / step) for step in range(1, 5001)]
    svg = draw(charts_of({"train/loss": points})[0])

    path = max(re.findall(r' d="M([^"]+)"', svg), key=len)
    places = [tuple(map(float, pair.split())) for pair in path.split("L")]
    assert len(places) <= MAX_POINTS
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in places)
    assert [x for x, _ in places] == sorted(x for x, _ in places)
    assert thinned(points)[-1][0] == 5000


def test_a_chart_from_zero_shows_small_changes_small() -> None:
    lines = [Line("rate", [(0, 100.0), (1, 101.0)], 0, dashed=False)]

    def height(chart: Chart) -> float:
        found = re.search(r'class="line c0" d="M[\d.]+ ([\d.]+)L[\d.]+ ([\d.]+)"/><circle', draw(chart))
        assert found
        return float(found[1]) - float(found[2])

    assert height(Chart("a", lines)) > 100
    assert 0 < height(Chart("a", lines, from_zero=True)) < 5
