"""The judge of the birds: rank correlation that nothing can feign, true pictures as the data holds them."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest

from benchmarks.obedience import never_heard, one_each, sentences, spearman
from data_prep.birds import attributes, describe
from pipeline.config import load_recipe
from pipeline.randomness import numpy_rng


def test_rank_correlation_knows_ties_and_what_never_changes() -> None:
    assert spearman([1, 2, 3, 4], [10, 20, 30, 40]) == pytest.approx(1)
    assert spearman([1, 2, 3, 4], [9, 7, 5, 0]) == pytest.approx(-1)
    assert spearman([-2, -1, 0, 1, 2], [0.5] * 5) == 0
    assert spearman([1, 2, 3, 4], [1, 1, 2, 2]) == pytest.approx(0.8944, abs=1e-4)


@pytest.mark.parametrize("language", ["english", "korean"])
def test_a_sentence_is_held_to_what_it_names(language: str) -> None:
    scenes = [scene for scene in (describe(0, index) for index in range(40)) if len(scene.birds) == 1]
    for scene in scenes:
        truth = attributes(scene)
        for text, named in sentences(scene, language):
            assert named and "{" not in text and named.items() <= truth.items()
    asks, truths = one_each(scenes, language, 8)
    assert len(asks) == len(truths) == 8
    assert len({tuple(truth) for truth in truths}) > 1  # the wordings take turns


def test_the_calls_it_asks_with_are_none_that_align_hears() -> None:
    """Higher but slower, or lower but faster, than any call at any speed and tempo of the recipe."""
    align = load_recipe(Path("configs/birds.yaml")).sections["align"]
    played = list(itertools.product(align["sound_speeds"], align["sound_tempos"]))
    scenes = [describe(0, index) for index in range(3000)]
    heard = [(s.pitch + math.log2(v), s.tempo * v * t) for s in scenes for v, t in played]
    rng = numpy_rng("strange")
    for strange in (never_heard(scene, rng) for scene in scenes[:100]):
        up = strange.pitch > 0
        alike = [tempo for pitch, tempo in heard if (pitch >= strange.pitch if up else pitch <= strange.pitch)]
        assert len(alike) > 50
        assert min(alike) > strange.tempo if up else max(alike) < strange.tempo
        assert strange.noise > max(scene.noise for scene in scenes)
