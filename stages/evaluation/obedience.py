"""Does what is painted obey? Every condition of val alone, judged by probes where the data has attributes.

A caption is held to the attributes it names, as the data says (`named`) or word for word, a spoken sentence to those of
`spoken_named`; other sounds and a source picture to all of them, always beside what the true pictures reach. Without
attributes: is the nearest true picture its own?
Where text is a CLIP's, similarity and retrieval of what was said too, attributes or not.

Shapes: n samples.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from pipeline.errors import ConfigError
from pipeline.shards import read_pass
from stages.attributes import CLASS, in_words, named_by_caption, numbers_of, says
from stages.codes.read import CodesDecode, open_codes
from stages.codes.read_conditions import ConditionDecode, conditions_of, encoders_of
from stages.conditioning.align.loss import recalls
from stages.conditioning.condition import Conditions, stack_rows
from stages.conditioning.said import captions_of, transcript_of
from stages.conditioning.shared_space import Space
from stages.conditioning.sources import SOURCE_KINDS, source_picture
from stages.evaluation.config import EvaluationConfig
from stages.evaluation.probe_model import Probe, random_trunk
from stages.evaluation.probes import accuracies, answers, features
from stages.evaluation.samples import LEAST
from stages.evaluation.similarity import similarity_figures
from stages.generate import Painter
from stages.images import picture_to_tensor
from stages.metrics import edge_f1, luma, luma_psnr, precision_recall_density_coverage
from stages.picture_grid import paint_grid

log = logging.getLogger(__name__)
FIRST_SEED = 2_000_000
ORDER = ("class", "text", "audio", "picture")
"""Rows of the picture, after the true one; kinds of source pictures follow by name."""
BY = {"class": "by name", "text": "by caption", "audio": "by sound", "picture": "alike"}
SHOWN = 10


@dataclass(frozen=True)
class Asked:
    """Samples of val as they are asked for: conditions by mode, captions, and attributes as the probe numbers them.

    A mode is a condition alone; an image is one mode per kind of source picture (grey, sketch, source).
    """

    modes: dict[str, Conditions]
    captions: list[str]
    attributes: dict[str, Tensor]
    named: dict[str, Tensor] = field(default_factory=dict)
    """Whether the caption names an attribute: 1, 0, or -1 where the data does not say."""
    spoken: dict[str, Tensor] = field(default_factory=dict)
    """Whether the sentence in the sound names it: 1, 0, or -1 where nobody speaks, as in a call."""


class AskedDecode:
    """Codes, conditions, the first caption and the attributes of a sample."""

    def __init__(self, codes: CodesDecode, values: Mapping[str, list[str]]) -> None:
        self.codes, self.values = codes, values

    def __call__(self, sample: Any, draw: Any) -> dict[str, Any]:
        numbers = {f"attribute/{name}": number for name, number in numbers_of(sample, self.values).items()}
        first, named = _first_caption(sample), named_by_caption(sample)
        texts = {"named": first, "spoken": transcript_of(sample)}
        known = {
            f"{kind}/{name}": int(name in named[text]) if text in named else -1
            for kind, text in texts.items()
            for name in self.values
        }
        return {**self.codes(sample, draw), **numbers, **known, "first": first}


def _first_caption(sample: Any) -> str:
    """Empty too where it cannot be read: whoever listens to captions has refused the sample before."""
    try:
        return next(iter(captions_of(sample)), "")
    except ValueError:
        return ""


def read_asked(
    painter: Painter, codes_folder: Path, values: Mapping[str, list[str]], keys: list[str], split: str
) -> Asked:
    """The first samples of a split that have codes, with all the painter listens to; nothing if `keys` differ."""
    codes = open_codes(codes_folder)
    heard = {*painter.listens, *(["image"] if "vector" in painter.listens else [])}  # a vector is a source picture's
    about = {name: one for name, one in codes.conditions.items() if name in heard}
    live = encoders_of(about, painter.align, painter.device, only_live=True)
    told = ConditionDecode(about, tuple(codes.grids), live.get("audio")) if about else None
    modes: dict[str, Conditions] = {}
    captions: list[str] = []
    numbers: list[dict[str, Tensor]] = []
    known: dict[str, list[dict[str, Tensor]]] = {}
    kinds = about.get("image", {}).get("kinds", [""])
    for kind in kinds:
        decode = AskedDecode(CodesDecode(len(codes.grids), told=told and replace(told, kind=kind)), values)
        batches = list(read_pass(codes.shards.split(split), decode, batch_size=256, limit=len(keys)))
        if [key for batch in batches for key in batch["key"]] != keys:
            log.warning("codes and shards have other pictures: conditions are not evaluated one by one")
            return Asked({}, [], {})  # pictures and conditions would not match
        moved = [{k: v.to(painter.device) if isinstance(v, Tensor) else v for k, v in b.items()} for b in batches]
        rows = [conditions_of(batch, painter.listens, len(codes.classes), live) for batch in moved]
        for name in painter.listens:
            mode = kind if name == "image" else f"vector_{kind}" if name == "vector" and len(kinds) > 1 else name
            modes[mode] = {name: stack_rows([row[name] for row in rows])}
        captions = [text for batch in batches for text in batch["first"]]
        numbers = [{name: batch[f"attribute/{name}"] for name in values} for batch in batches]
        known = {
            kind: [{name: batch[f"{kind}/{name}"] for name in values} for batch in batches]
            for kind in ("named", "spoken")
        }
    modes = {
        mode: modes[mode] for mode in sorted(modes, key=lambda m: (ORDER.index(m) if m in ORDER else len(ORDER), m))
    }
    together = [
        {name: torch.cat([one[name] for one in some]) for name in values} for some in (numbers, *known.values())
    ]
    return Asked(modes, captions, *together)


def obedience_figures(
    cfg: EvaluationConfig,
    painter: Painter,
    asked: Asked,
    real: Tensor,
    probe: Probe | None,
    before_each: Callable[[], None] = lambda: None,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Figures per mode, and one picture: the true pictures, and under each what every mode is given and paints of it.

    Args:
        real: uint8 (2 n, 3, h, w): the true pictures of what is asked, then n others as the held-out ceiling.
        before_each: called before each mode.
    """
    figures: dict[str, Any] = {}
    n, space = len(asked.captions), similarity_space(painter)
    network: Any = probe.features if probe is not None else random_trunk()
    shown = {"true picture": _shown(real[:n])}
    for mode, alone in asked.modes.items():
        before_each()
        (condition,) = alone.values()
        here = condition.present().cpu()
        if not bool(here.any()):
            continue
        opposed, seeds = painter.opposed(asked.captions) if "text" in alone else {}, torch.arange(n) + FIRST_SEED
        painted = torch.from_numpy(painter.paint_conditions(alone, seeds, opposed=opposed)).permute(0, 3, 1, 2)
        found: dict[str, Any] = {"n": int(here.sum())}
        if probe is not None:
            words = {"text": named(asked, probe.values, painter.classes), "audio": heard(asked)}
            words[CLASS] = _only(asked, CLASS)
            held_to = {k: torch.where(here, v, -1) for k, v in words.get(mode, asked.attributes).items()}
            found["obeyed"] = accuracies(answers(probe, painted), held_to)
            found["obeyed_by_real"] = accuracies(answers(probe, real[:n]), held_to)
        if mode != CLASS and not found.get("obeyed"):  # no attributes, or captions that name none of them
            found |= _nearest(space, network, painted[here], real[:n][here])
        found |= _coverage(cfg, network, painted, real, here, "" if probe is not None else "random_")
        if "image" in alone:
            found |= _near_source(painted[here], real[:n][here])
        elif space is not None:
            found |= similarity_figures(space, mode, condition, painted, real[:n])
        figures[mode] = found
        if mode in SOURCE_KINDS:
            shown[f"{mode} given"] = [_given(one, mode) for one in shown["true picture"]]
        elif "image" in alone:  # of the data: it is known by its codes
            shown[f"{mode} given"] = _shown(torch.from_numpy(painter.source_of(condition, SHOWN)).permute(0, 3, 1, 2))
        shown[BY.get(mode, f"by {mode.replace('_', ' of ')}")] = _shown(painted)
    return figures, {f"asked_by_{'_'.join(figures)}": np.asarray(paint_grid(list(shown.values()), list(shown)))}


def similarity_space(painter: Painter) -> Space | None:
    """The space similarity is measured in; None, said, where its CLIP is not to be had: conditions may be stored."""
    try:
        return painter.space
    except ConfigError as error:
        log.warning("similarity is left out: %s", str(error).splitlines()[0])
        return None


def _nearest(space: Space | None, network: Any, painted: Tensor, real: Tensor) -> dict[str, float]:
    """Is the true picture that lies nearest to what was painted its own? What is asked where no attribute is known."""
    see = space.pictures if space is not None else lambda images: F.normalize(features(network, images), dim=-1)
    found = recalls(see(painted), see(real), torch.eye(len(real), dtype=torch.bool))
    return {f"own_picture_{name}": value for name, value in found.items()}


def _coverage(
    cfg: EvaluationConfig, network: Any, painted: Tensor, real: Tensor, here: Tensor, prefix: str
) -> dict[str, float]:
    """Coverage of the true pictures by what was painted for them, and as a share of what other true ones reach."""
    n = len(painted)
    if len(real) < 2 * n or int(here.sum()) < LEAST:
        return {}
    truth, other, ours = (features(network, some) for some in (real[:n][here], real[n : 2 * n][here], painted[here]))
    k = min(cfg.neighbours, len(truth) - 1)
    ceiling = precision_recall_density_coverage(truth, other, k)["coverage"]
    covered = precision_recall_density_coverage(truth, ours, k)["coverage"]
    return {f"{prefix}coverage": covered, f"{prefix}coverage_of_ceiling": covered / max(ceiling, 1e-9)}


def _only(asked: Asked, name: str) -> dict[str, Tensor]:
    return {key: numbers for key, numbers in asked.attributes.items() if key == name}


def named(asked: Asked, values: Mapping[str, list[str]], classes: Sequence[str]) -> dict[str, Tensor]:
    """The attributes a caption names: as the data says, else those whose value (a class's name) is a word of it."""
    held: dict[str, Tensor] = {}
    words = in_words(values, classes)
    for name, numbers in asked.attributes.items():
        said = [
            number >= 0 and says(caption, words[name][number])
            for number, caption in zip(numbers.tolist(), asked.captions, strict=True)
        ]
        known = asked.named.get(name, torch.full_like(numbers, -1))
        held[name] = torch.where(torch.where(known < 0, torch.tensor(said), known == 1), numbers, -1)
    return held


def heard(asked: Asked) -> dict[str, Tensor]:
    """The attributes a sound may tell: all of them, of a sentence that is spoken those it names."""
    unsaid = {name: known == 0 for name, known in asked.spoken.items()}
    return {name: torch.where(unsaid[name], -1, v) if name in unsaid else v for name, v in asked.attributes.items()}


def _near_source(painted: Tensor, real: Tensor) -> dict[str, float]:
    """How near the painted pictures stay to the light and the edges of the pictures their sources were made of."""
    a, b = picture_to_tensor(painted), picture_to_tensor(real)
    return {
        "luma_psnr": float(luma_psnr(a, b).mean()),
        "edge_f1": float(edge_f1(edges(a), edges(b)).mean()),
    }


def edges(images: Tensor) -> Tensor:
    """Where brightness changes most: bool (n, h, w), the steepest tenth of each picture."""
    grey = luma(images)[:, 0]
    steep = torch.zeros_like(grey)
    steep[:, 1:-1, 1:-1] = (grey[:, 1:-1, 2:] - grey[:, 1:-1, :-2]) ** 2 + (grey[:, 2:, 1:-1] - grey[:, :-2, 1:-1]) ** 2
    limit = steep.flatten(1).quantile(0.9, dim=1)
    return steep > limit[:, None, None]


def _shown(images: Tensor) -> list[Image.Image]:
    return [Image.fromarray(one) for one in images[:SHOWN].permute(0, 2, 3, 1).contiguous().numpy()]


def _given(picture: Image.Image, kind: str) -> Image.Image:
    return Image.fromarray(source_picture(np.asarray(picture), kind))
