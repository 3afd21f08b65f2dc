"""Everything the stage measures, in order: probe, reconstructions, samples; into results.json, pictures and tables.

Every figure that depends on a feature extractor carries its name: `probe` (penultimate layer of the probe trained on
all attributes) or `random` (a fixed random network).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.artifacts import write_json
from pipeline.schema import plain
from pipeline.shard_index import open_shards
from pipeline.shards import read_pass, read_samples
from pipeline.stopping import heed_stop_file
from pipeline.tracking import Tracker
from stages.attributes import find_values
from stages.codes.read import open_codes
from stages.conditioning.condition import Conditions
from stages.evaluation.config import EvaluationConfig
from stages.evaluation.obedience import SHOWN, obedience_figures, read_asked
from stages.evaluation.pictures import LabelledDecode, attribute_numbers
from stages.evaluation.probe_model import Probe
from stages.evaluation.probes import accuracies, answers, get_probe, stack_labels
from stages.evaluation.reconstruction import code_use, reconstruction_figures
from stages.evaluation.samples import LEAST, class_grid, sample_figures
from stages.generate import Painter
from stages.images import center_decode
from stages.vqvae.load import load_autoencoder

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Real:
    """Real pictures of val: uint8 (n, 3, h, w), their classes (-1: none) and attribute numbers."""

    images: Tensor
    labels: Tensor
    attributes: dict[str, Tensor]
    keys: list[str] = field(default_factory=list)

    def part(self, first: int, last: int) -> Real:
        """Pictures `first` to `last`."""
        some = {name: numbers[first:last] for name, numbers in self.attributes.items()}
        return Real(self.images[first:last], self.labels[first:last], some, self.keys[first:last])


def measure(cfg: EvaluationConfig, inputs: dict[str, Path], out: Path) -> dict[str, Any]:
    """Fill the stage folder; the figures. Stages the recipe has not are left out."""
    out.mkdir(parents=True, exist_ok=True)
    tracker = Tracker.start(out, cfg.tracking, "evaluation", plain(cfg), inputs=inputs)
    tracker.cut_back(-1)  # of a run that was killed at its end
    shards = open_shards(inputs["shards"])
    model, about = load_autoencoder(inputs["vqvae"])
    size = int(about["image_size"])
    train, val = shards.split("train"), shards.splits.get("val") or shards.split("train")
    values = find_values(train, len(shards.info.get("classes", [])))
    probe = get_probe(cfg, train, values, size, out) if values else None
    real = read_real(val, probe, size, max(cfg.reconstructions, 2 * cfg.samples))
    results: dict[str, Any] = {"split": "val" if "val" in shards.splits else "train"}
    if probe is not None:
        results["probe_on_real"] = accuracies(answers(probe, real.images), real.attributes)
    heed_stop_file(out)
    figures, pictures = reconstruction_figures(model, real.part(0, cfg.reconstructions), probe)
    results["reconstruction"] = figures
    if "codes" in inputs:
        results["codes"] = code_use(inputs["codes"])
    if "prior" in inputs:
        painted, shown = measure_painting(cfg, inputs, real, probe, results["split"], out)
        results |= painted
        pictures |= shown
    results = {"headline": headline_of(results), **results}
    write_json(out / "results.json", results)
    tracker.images(pictures, 0)
    tracker.log(_flat(results), 0)
    tracker.table("figures", ["figure", "value"], [[name, value] for name, value in _flat(results).items()], 0)
    tracker.finish()
    return results


def measure_painting(
    cfg: EvaluationConfig, inputs: dict[str, Path], real: Real, probe: Probe | None, split: str, out: Path
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Figures and pictures of what the prior paints: by class or whatever comes, then by every condition alone."""
    painter = Painter.load(inputs["prior"].parent, with_=inputs["prior"].name)
    codes = inputs.get("codes")
    hears_more = codes is not None and bool(set(painter.listens) - {"class"})
    if codes is not None and hears_more:
        real = with_codes(real, codes, split)
    said = _said(cfg, painter, codes, real, split) if codes is not None else ({}, {})
    results: dict[str, Any] = {"samples": sample_figures(cfg, painter, real, probe, *said)}
    pictures = {"samples": class_grid(painter)}
    n, names = min(cfg.obedience, len(real.images) // 2), probe.values if probe is not None else {}
    keys = real.keys[:n] if hears_more and n >= LEAST else []
    asked = read_asked(painter, codes, names, keys, split) if codes is not None and keys else None
    if asked is not None and asked.captions:
        heed = partial(heed_stop_file, out)
        results["obedience"], shown = obedience_figures(cfg, painter, asked, real.images, probe, heed)
        results["candidates"] = painter.settings.candidates
        results["captions_shown"] = asked.captions[:SHOWN] if "text" in asked.modes else []
        pictures |= shown
    return results, pictures


def with_codes(real: Real, codes_folder: Path, split: str) -> Real:
    """The pictures that the stage codes did not reject: of the others nothing is said that one could ask for.

    All of them where the codes are of other shards: then nothing of theirs is asked for.
    """
    shards = open_codes(codes_folder).shards
    known = {sample.key for shard in shards.splits.get(split, []) for sample in read_samples(shard)}
    rows = [i for i, key in enumerate(real.keys) if key in known]
    if len(rows) in (0, len(real.keys)):
        return real
    log.warning(
        "%d pictures of %s have no codes and are left out of what is painted", len(real.keys) - len(rows), split
    )
    some = {name: numbers[rows] for name, numbers in real.attributes.items()}
    return Real(real.images[rows], real.labels[rows], some, [real.keys[i] for i in rows])


def _said(
    cfg: EvaluationConfig, painter: Painter, codes: Path, real: Real, split: str
) -> tuple[Conditions, Conditions]:
    """All that is said of the reference pictures, for a painter that listens to captions or sounds and no class.

    Also the captions with their opposites exchanged, where its settings move away from those.
    """
    n = min(cfg.samples, len(real.images) // 2)
    if "class" in painter.listens or not {"text", "audio"} & set(painter.listens) or n < LEAST:
        return {}, {}
    asked = read_asked(painter, codes, {}, real.keys[:n], split)
    said = {name: alone[name] for name, alone in asked.modes.items() if name in ("text", "audio")}
    return said, painter.opposed(asked.captions) if "text" in said else {}


def headline_of(results: dict[str, Any]) -> str:
    """One line: how well pictures come back, how well classes and each other condition are obeyed."""
    parts = [f"PSNR {results['reconstruction']['psnr']:.2f} dB"]
    samples = results.get("samples", {})
    if "class_accuracy" in samples:
        real = results.get("probe_on_real", {}).get("class", 1.0)
        parts.append(f"class accuracy of samples {samples['class_accuracy']:.3f} (of real pictures {real:.3f})")
    if "left_out" in samples:
        parts.append(f"nothing painted was compared: {samples['left_out']}")
    if "coverage_of_ceiling" in samples.get("probe", {}):
        parts.append(f"coverage {samples['probe']['coverage_of_ceiling']:.2f} of the ceiling")
    for mode, found in results.get("obedience", {}).items():
        obeyed = found.get("obeyed", {})
        if mode == "text" and obeyed:
            parts.append(f"text obeyed {sum(obeyed.values()) / len(obeyed):.2f}")
        elif "edge_f1" in found:
            edges = " of the true picture's edges" if mode == "source" else " of the edges"
            name, unit = ("luma_psnr", " dB of light") if mode == "grey" else ("edge_f1", edges)
            parts.append(f"{mode} keeps {found[name]:.{1 if mode == 'grey' else 2}f}{unit}")
        elif mode != "class" and "class" in obeyed:  # a sound need not tell every attribute of the picture
            parts.append(f"class by {mode} {obeyed['class']:.2f}")
        elif mode != "class" and "own_picture_R@1" in found:  # no attribute says whether it is obeyed
            chance = f" (chance {1 / found['n']:.3f})"
            parts.append(f"nearest true picture is its own by {mode} {found['own_picture_R@1']:.3f}{chance}")
    if results.get("split", "val") != "val":
        parts.append(f"all of it on {results['split']}: the shards have no val")
    return ", ".join(parts)


def read_real(val: list[Any], probe: Probe | None, size: int, most: int) -> Real:
    """The first `most` pictures of val: shards are shuffled when they are written, so these are as good as any."""
    decode = LabelledDecode(center_decode(size), probe.values if probe is not None else {})
    batches = list(read_pass(val, decode, batch_size=256, limit=most))
    names = probe.values if probe is not None else {}
    return Real(
        torch.cat([batch["image"] for batch in batches]),
        torch.cat([batch["label"] for batch in batches]),
        stack_labels(attribute_numbers(batch, names) for batch in batches),
        [key for batch in batches for key in batch["key"]],
    )


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """Nested figures under names with slashes."""
    flat: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}/")
        elif isinstance(value, int | float | np.floating):
            flat[f"{prefix}{name}"] = float(value)
    return flat
