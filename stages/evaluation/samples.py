"""What the prior paints, against real pictures: obedience, quality, diversity, speed.

n real pictures of val are the reference, n other ones the held-out ceiling, n painted ones take the classes of the
reference (or, where the painter knows none, its captions and sounds); one sampler setting (the recipe's) for every
figure, but that nothing is chosen among candidates: this is what the model itself paints.

Shapes: n pictures, d feature width.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pipeline.randomness import torch_generator
from stages.attributes import CLASS
from stages.conditioning.condition import Conditions
from stages.evaluation.config import EvaluationConfig
from stages.evaluation.probe_model import Probe, random_trunk
from stages.evaluation.probes import accuracies, answers, features
from stages.generate import Painter
from stages.images import picture_to_tensor, rows_of_pictures
from stages.metrics import frechet_distance, kernel_distance, precision_recall_density_coverage, sharpness

if TYPE_CHECKING:
    from stages.evaluation.measure import Real

GRID_CLASSES, GRID_EACH = 16, 10
LEAST = 8
"""Pictures in each set below which a distance between sets says nothing."""


def sample_figures(
    cfg: EvaluationConfig,
    painter: Painter,
    real: Real,
    probe: Probe | None,
    said: Conditions,
    opposed: Conditions | None = None,
) -> dict[str, Any]:
    """All figures on painted pictures; `n` says how many there were room for.

    Args:
        said: conditions of the reference, for a painter that listens to no class; may be empty.
        opposed: its captions with opposites exchanged, where the recipe's setting moves away from those.
    """
    n = min(cfg.samples, len(real.images) // 2)
    if n < LEAST:
        return {"n": n, "left_out": f"val has {len(real.images)} pictures, a comparison needs {2 * LEAST}"}
    reference, other = real.part(0, n), real.part(n, 2 * n)
    began = time.monotonic()
    seeds = torch.arange(n) + 1_000_000
    pictures = (
        painter.paint_conditions(said, seeds, opposed=opposed, candidates=1)
        if said
        else painter.paint(reference.labels, seeds, candidates=1)
    )
    painted = torch.from_numpy(pictures).permute(0, 3, 1, 2)
    figures: dict[str, Any] = {"n": n, "images_per_second": n / (time.monotonic() - began)}
    figures["painted_by"] = sorted(said) or [CLASS] * (CLASS in painter.listens)
    figures["sharpness"] = float(sharpness(picture_to_tensor(painted)).mean())
    if probe is not None and CLASS in probe.values and CLASS in painter.listens:
        asked = {CLASS: reference.attributes[CLASS]}
        found = accuracies(answers(probe, painted), asked)  # nothing where none of these pictures has a class
        figures |= {f"{name}_accuracy": share for name, share in found.items()}
    networks: dict[str, Callable[[Tensor], Tensor]] = {"random": random_trunk()}
    if probe is not None:
        networks["probe"] = probe.features
    for name, network in networks.items():
        sets = [features(network, images) for images in (reference.images, other.images, painted)]
        k = min(cfg.neighbours, n - 1)
        figures[name] = compare(*sets, k=k)
        # What nothing like the data reaches: an extractor that gives noise a high precision proves nothing by its own.
        noise = precision_recall_density_coverage(sets[0], features(network, _noise_like(reference.images)), k)
        figures[name] |= {f"noise_{figure}": noise[figure] for figure in ("precision", "coverage")}
    return figures


def _noise_like(images: Tensor) -> Tensor:
    """Uniform noise of the same shape, the same every time."""
    generator = torch_generator("evaluation noise")
    return torch.randint(0, 256, images.shape, generator=generator, dtype=torch.uint8)


def compare(reference: Tensor, other: Tensor, painted: Tensor, *, k: int) -> dict[str, float]:
    """Painted against reference, other real against reference (`ceiling_*`), and their ratio (`*_of_ceiling`)."""
    ours = precision_recall_density_coverage(reference, painted, k)
    ceiling = precision_recall_density_coverage(reference, other, k)
    figures = dict(ours) | {f"ceiling_{name}": value for name, value in ceiling.items()}
    figures |= {f"{name}_of_ceiling": ours[name] / max(ceiling[name], 1e-9) for name in ours}
    figures["frechet_distance"] = frechet_distance(reference, painted)
    figures["ceiling_frechet_distance"] = frechet_distance(reference, other)
    figures["kernel_distance"] = kernel_distance(reference, painted)
    return figures


def class_grid(painter: Painter) -> np.ndarray:
    """A row per class (the first 16), ten pictures each; without classes as many rows of whatever is painted."""
    classes = painter.classes if CLASS in painter.listens else []
    rows = min(GRID_CLASSES, len(classes)) or GRID_EACH
    labels = torch.arange(rows).repeat_interleave(GRID_EACH) if classes else torch.full((rows * GRID_EACH,), -1)
    pictures = painter.paint(labels, torch.arange(len(labels)))
    return rows_of_pictures(*np.split(pictures, rows))
