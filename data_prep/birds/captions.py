"""Sentences about a scene, in English and Korean."""

from __future__ import annotations

import re

import numpy as np

from data_prep.birds import wordings
from data_prep.birds.scene import Scene, attributes
from pipeline.randomness import numpy_rng

SENTENCES_PER_LANGUAGE = 5
LONG = 0.5
"""Share of the captions of one bird that are two sentences; of two birds one says enough, and is read sooner."""
_ALTERNATIVES = re.compile(r"\[([^\[\]]*)\]")
_SLOT = re.compile(r"{(\w+)}")
_COLOUR_SLOTS = ("wing", "body", "left_wing", "left_body", "right_wing", "right_body")


Told = tuple[str, list[str]]
"""A sentence and the attributes it names."""


def captions(scene: Scene, *, held_out: bool = False) -> list[str]:
    """The sentences of `told`."""
    return [sentence for sentence, _ in told(scene, held_out=held_out)]


def told(scene: Scene, *, held_out: bool = False) -> list[Told]:
    """True captions of the picture in both languages, shuffled, each with the attributes it names.

    The same ones for the same scene. With `held_out` all the wordings that shards never contain, instead of some of the
    usual ones.
    """
    rng = numpy_rng(scene.seed, "bird captions", scene.index)
    sentences = english(scene, rng, held_out) + korean(scene, rng, held_out)
    return [sentences[place] for place in rng.permutation(len(sentences))]


def english(scene: Scene, rng: np.random.Generator, held_out: bool = False) -> list[Told]:
    """Sentences in English."""
    return [(text, _named(scene, template)) for text, template in _english(scene, rng, held_out)]


def first_sentences(scene: Scene) -> dict[str, list[str]]:
    """The first sentence of every English caption that `told` gives, with the attributes it names."""
    said = _english(scene, numpy_rng(scene.seed, "bird captions", scene.index))
    return {text.split(". ")[0]: _named(scene, template.split(". ")[0]) for text, template in said}


def _english(scene: Scene, rng: np.random.Generator, held_out: bool = False) -> list[tuple[str, str]]:
    """Captions in English and the template of each."""
    one = wordings.ONE_ENGLISH_HELD_OUT if held_out else wordings.ONE_ENGLISH
    two = wordings.TWO_ENGLISH_HELD_OUT if held_out else wordings.TWO_ENGLISH
    sentences = []
    for template in _some(rng, one if len(scene.birds) == 1 else two, LONG * (len(scene.birds) == 1), held_out):
        words = attributes(scene)
        for slot, choices in wordings.ENGLISH.items():
            if slot in words:
                words[slot] = _one_of(rng, choices[words[slot]])
        sentences.append((re.sub(r"\ba (?=[aeiou])", "an ", template.format(**words)), template))
    return sentences


def korean(scene: Scene, rng: np.random.Generator, held_out: bool = False) -> list[Told]:
    """Sentences in Korean."""
    one = wordings.ONE_KOREAN_HELD_OUT if held_out else wordings.ONE_KOREAN
    two = wordings.TWO_KOREAN_HELD_OUT if held_out else wordings.TWO_KOREAN
    truth = attributes(scene)
    sentences = []
    for template in _some(rng, one if len(scene.birds) == 1 else two, LONG * (len(scene.birds) == 1), held_out):
        words: dict[str, str] = {}
        for slot in ("size", "background", "species", "heading"):
            if slot in truth:
                words[slot] = _one_of(rng, wordings.KOREAN[slot][truth[slot]])
        for slot in _COLOUR_SLOTS:
            if slot in truth:
                words[slot] = _one_of(rng, wordings.KOREAN["colour"][truth[slot]])
                words[f"{slot}_shade"] = _one_of(rng, wordings.KOREAN["shade"][truth[slot]])
        sentences.append((template.format(**words), _named(scene, template)))
    return sentences


def _named(scene: Scene, template: str) -> list[str]:
    """The attributes whose value stands in a sentence of this template; the species is the class too."""
    slots = {slot.removesuffix("_shade") for slot in _SLOT.findall(template)}
    return sorted(slots & set(attributes(scene)) | ({"class"} if "species" in slots else set()))


def _some(rng: np.random.Generator, templates: tuple[str, ...], long: float, every: bool) -> list[str]:
    if every:
        return list(templates)
    order = iter(rng.permutation(len(templates)))
    chosen = [
        ". ".join(templates[next(order)] for _ in range(1 + (rng.random() < long)))
        for _ in range(SENTENCES_PER_LANGUAGE)
    ]
    return [_expanded(rng, template) for template in chosen]


def _expanded(rng: np.random.Generator, template: str) -> str:
    """One alternative of each `[one|another]`, left to right."""
    return _ALTERNATIVES.sub(lambda found: _one_of(rng, tuple(found[1].split("|"))), template)


def _one_of(rng: np.random.Generator, words: tuple[str, ...]) -> str:
    return words[int(rng.integers(len(words)))]
