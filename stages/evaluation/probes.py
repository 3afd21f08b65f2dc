"""Train a probe on real pictures, and ask it what it sees.

The probe is trained on the split `train`, judged on real `val` first (its accuracy there is the ceiling of every
figure it gives), and kept in the stage folder, so that a resumed evaluation does not train it again.

Shapes: b batch, n pictures, d feature width.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.progress import Progress
from pipeline.randomness import normal, seed_of, uniform
from pipeline.shard_index import Shard
from pipeline.shards import open_batches
from pipeline.training_config import DataConfig
from stages.evaluation.config import EvaluationConfig
from stages.evaluation.pictures import LabelledDecode, attribute_numbers
from stages.evaluation.probe_model import Probe
from stages.images import CropDecode, picture_to_tensor

BATCH = 96
RATE = 3e-3


def get_probe(
    cfg: EvaluationConfig, train: list[Shard], values: Mapping[str, list[str]], size: int, out: Path
) -> Probe:
    """The probe of this evaluation: read back if it is there, trained otherwise. Deterministic."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(cfg.seed, "probe"))
        probe = Probe(values)
    path = out / "probe.safetensors"
    taught = hashlib.sha256("".join(shard.sha256 for shard in train).encode()).hexdigest()
    known = {"values": list(values.items()), "steps": cfg.probe_steps, "seed": cfg.seed, "shards": taught}
    about = json.dumps(known)
    if path.is_file() and (out / "probe.json").is_file() and (out / "probe.json").read_text() == about:
        probe.load_state_dict(load_file(path))
    else:
        _train(probe, cfg, train, size)
        save_file(probe.state_dict(), path)
        (out / "probe.json").write_text(about)
    return probe.eval().requires_grad_(False)


def _train(probe: Probe, cfg: EvaluationConfig, train: list[Shard], size: int) -> None:
    have = sum(shard.samples for shard in train)
    batch = max(1, min(BATCH, have))
    decode = LabelledDecode(CropDecode(size, random=True), probe.values)
    data = DataConfig(global_batch=batch, lanes=1)
    batches = open_batches(train, decode, data, seed=seed_of(cfg.seed, "probe data"), rank=0, world=1)
    optimizer = torch.optim.AdamW(probe.parameters(), lr=RATE, weight_decay=1e-3, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=cfg.probe_steps)
    with Progress(cfg.probe_steps, title="probe", items_per_step=batch) as bar:
        for step, (micro_batch,) in zip(range(cfg.probe_steps), batches, strict=False):
            images = disturb(picture_to_tensor(micro_batch["image"]), micro_batch["row"], cfg.seed, step)
            loss = masked_loss(probe(images), attribute_numbers(micro_batch, probe.values))
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
            bar.update(step + 1, {"loss": float(loss.detach())} if step % 50 == 0 else None)


def disturb(images: Float[Tensor, "b 3 h w"], rows: Tensor, seed: int, step: int) -> Float[Tensor, "b 3 h w"]:
    """Half of the pictures blurred as a tokenizer blurs, all a little noisy: the probe must not judge by crispness."""
    draws = uniform(seed_of(seed, "probe blur", step), rows, 2)
    blurred = F.interpolate(F.avg_pool2d(images, 2), size=images.shape[-2:], mode="bilinear")
    share = (draws[:, 0] < 0.5).float() * draws[:, 1]
    mixed = torch.lerp(images, blurred, share[:, None, None, None])
    noise = normal(seed_of(seed, "probe noise", step), rows, images[0].numel()).view_as(images)
    return mixed + 0.05 * noise


def masked_loss(logits: Mapping[str, Tensor], labels: Mapping[str, Tensor]) -> Tensor:
    """Cross-entropy summed over the attributes; where one is absent (-1) nothing is asked, and 0 of none at all."""
    losses = [values.sum() * 0.0 for values in logits.values()]
    for name, values in logits.items():
        if bool((labels[name] >= 0).any()):
            losses.append(F.cross_entropy(values, labels[name], ignore_index=-1))
    return torch.stack(losses).sum()


@torch.no_grad()
def answers(probe: Probe, images: Tensor, batch: int = 256) -> dict[str, Tensor]:
    """The value the probe sees for every attribute: int64 (n,) each. `images`: uint8 (n, 3, h, w)."""
    parts = [probe(picture_to_tensor(some)) for some in torch.split(images, batch)]
    return {name: torch.cat([part[name].argmax(1) for part in parts]) for name in probe.values}


def accuracies(seen: Mapping[str, Tensor], true: Mapping[str, Tensor]) -> dict[str, float]:
    """Share of right answers per attribute, where the attribute is there at all."""
    found = {}
    for name, labels in true.items():
        there = labels >= 0
        if bool(there.any()):
            found[name] = float((seen[name] == labels)[there].double().mean())
    return found


@torch.no_grad()
def features(network: Any, images: Tensor, batch: int = 256) -> Float[Tensor, "n d"]:
    """Features of uint8 pictures by `network` (a probe's `features`, or a trunk)."""
    return torch.cat([network(picture_to_tensor(some)) for some in torch.split(images, batch)])


def stack_labels(batches: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Attribute numbers of many batches as one tensor each."""
    gathered = list(batches)
    return {name: torch.cat([one[name] for one in gathered]) for name in gathered[0]} if gathered else {}
