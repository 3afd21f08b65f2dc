"""How well the tokenizer keeps pictures, what its top level says alone, and which codes the train split uses.

Shapes: n pictures, h w height and width.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.shards import read_pass
from stages.codes.read import CodesDecode, open_codes
from stages.evaluation.probe_model import Probe
from stages.evaluation.probes import accuracies, answers
from stages.images import picture_to_tensor, rows_of_pictures, tensor_to_picture
from stages.metrics import ms_ssim, mse, num_scales, psnr, sharpness
from stages.vqvae.evaluate import use_of
from stages.vqvae.model import Autoencoder

if TYPE_CHECKING:
    from stages.evaluation.measure import Real

BATCH = 64
SHOWN = 8
BASELINE_SIDE = 8


@torch.no_grad()
def reconstruction_figures(
    model: Autoencoder, real: Real, probe: Probe | None
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Figures on real pictures sent through the model, and a picture of eight of them.

    `baseline_psnr` is what area-downsampling to 8 px and back gives (the better of bilinear and bicubic): a PSNR
    without it says nothing about a tokenizer.
    """
    sums: dict[str, float] = {}
    rebuilt, tops = [], []
    for part in torch.split(real.images, BATCH):
        images = picture_to_tensor(part)
        output = model(images, top_every=1 if len(model.levels) > 1 else 0)
        for name, values in _figures(images, output.images.clamp(-1, 1)).items():
            sums[name] = sums.get(name, 0.0) + float(values.double().sum())
        rebuilt.append(output.images)
        if output.top_images is not None:
            tops.append(output.top_images)
    figures: dict[str, Any] = {name: value / len(real.images) for name, value in sums.items()}
    figures["gain_over_baseline_db"] = figures["psnr"] - figures["baseline_psnr"]
    shown = [real.images[:SHOWN].permute(0, 2, 3, 1).numpy(), tensor_to_picture(rebuilt[0][:SHOWN])]
    shown += [tensor_to_picture(tops[0][:SHOWN])] if tops else []
    if probe is not None:
        figures["probe_accuracy"] = _judged(probe, rebuilt, real)
        if tops:
            figures["top_only_probe_accuracy"] = _judged(probe, tops, real)
    return figures, {"reconstructions": rows_of_pictures(*shown)}


def code_use(codes: Path) -> dict[str, Any]:
    """Per level over one pass of train: share of rows used, perplexity; bits per image as stored."""
    code_set = open_codes(codes)
    counts = [torch.zeros(k, dtype=torch.float64) for k in code_set.codebook_sizes]
    decode = CodesDecode(len(code_set.grids))
    for batch in read_pass(code_set.shards.split("train"), decode, batch_size=256):
        for i, count in enumerate(counts):
            count.add_(torch.bincount(batch[f"level{i}"].long().flatten(), minlength=len(count)))
    figures: dict[str, Any] = {}
    for i, count in enumerate(counts):
        figures |= {f"level{i}_{name}": value for name, value in use_of(count).items()}
    sizes = zip(code_set.grids, code_set.codebook_sizes, strict=True)
    figures["bits_per_image"] = sum(h * w * math.log2(k) for (h, w), k in sizes)
    return figures


def _figures(images: Tensor, rebuilt: Tensor) -> dict[str, Tensor]:
    smaller = F.interpolate(images, (BASELINE_SIDE, BASELINE_SIDE), mode="area")
    backs = [F.interpolate(smaller, images.shape[-2:], mode=mode).clamp(-1, 1) for mode in ("bilinear", "bicubic")]
    return {
        "psnr": psnr(rebuilt, images),
        "mse": mse(rebuilt, images),
        f"ms_ssim_{num_scales(*images.shape[-2:])}_scales": ms_ssim(rebuilt, images),
        "baseline_psnr": torch.stack([psnr(back, images) for back in backs]).amax(0),
        "sharpness": sharpness(rebuilt),
        "sharpness_of_real": sharpness(images),
    }


def _judged(probe: Probe, pictures: list[Tensor], real: Real) -> dict[str, float]:
    shown = torch.from_numpy(np.concatenate([tensor_to_picture(part) for part in pictures])).permute(0, 3, 1, 2)
    return accuracies(answers(probe, shown), real.attributes)
