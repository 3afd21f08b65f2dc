"""What training a prior does per step, on val, for the eye and for the next stage.

Shapes: b batch, n codes of one level.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.backend import Backend
from pipeline.player import Player
from pipeline.shards import read_pass
from stages.codes.read import CodesDecode, CodeSet
from stages.conditioning.condition import Conditions, class_condition
from stages.prior.config import PriorConfig
from stages.prior.load import save_prior
from stages.prior.loss import Draw, Noise, causal_loss, masked_loss, surprise
from stages.prior.model import Prior
from stages.prior.sampling import sample
from stages.vqvae.images import rows_of_pictures, tensor_to_picture
from stages.vqvae.load import load_autoencoder
from stages.vqvae.model import Autoencoder

Batch = dict[str, Any]
PAINTED_CLASSES, PAINTED_EACH = 8, 8


class PriorTask:
    """Trains a prior over the codes of a tokenizer; evaluates and paints with the averaged weights."""

    best = ("bits_per_image", "min")

    def __init__(self, cfg: PriorConfig, backend: Backend, prior: Prior, codes: CodeSet, tokenizer: Path) -> None:
        self.cfg, self.backend, self.codes, self.tokenizer = cfg, backend, codes, tokenizer
        self.main = backend.player("prior", prior, cfg.optimizer, total_steps=cfg.loop.steps)
        self.players: dict[str, Player] = {"prior": self.main}
        self.noise = Noise(
            corrupt=cfg.corrupt,
            token_dropout=cfg.token_dropout,
            drop_each=cfg.drop_each,
            drop_all=cfg.drop_all,
            label_smoothing=cfg.label_smoothing,
        )
        self.figures: dict[str, float] = {}
        """What the last evaluation found."""
        self._autoencoder: Autoencoder | None = None

    def train_step(self, micro_batches: list[Batch], step: int) -> dict[str, Any]:
        """One step on codes and their classes."""
        learn = masked_loss if self.cfg.kind == "masked" else causal_loss
        draw = Draw(self.cfg.seed, step, self.noise)

        def loss_fn(net: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
            codes, conditions, rows = self._inputs(batch)
            loss, metrics = learn(net, self.codes.codebook_sizes, codes, conditions, rows, draw)
            return loss, {"loss": loss.detach(), **metrics}

        return self.main.update(loss_fn, micro_batches)

    def evaluate(self, step: int) -> dict[str, float]:
        """Bits per code of each level of val, given the coarser ones, and bits per image; the same on every rank."""
        if "val" not in self.codes.shards.splits:
            return {}
        num_levels = len(self.codes.grids)
        sums = torch.zeros(num_levels + 1, dtype=torch.float64, device=self.backend.device)
        for batch in self._val_batches():
            codes, conditions, rows = self._inputs(batch)
            with self.backend.autocast():
                bits = surprise(self._averaged(), codes, conditions, rows, self.cfg.seed)
            sums[:num_levels] += bits.double().sum(dim=0)
            sums[num_levels] += len(rows)
        self.backend.all_reduce_sum(sums)
        per_code = (sums[:num_levels] / sums[num_levels]).tolist()
        per_image = sum(bits * h * w for bits, (h, w) in zip(per_code, self.codes.grids, strict=True))
        self.figures = {f"bits_level{i}": bits for i, bits in enumerate(per_code)} | {"bits_per_image": per_image}
        return self.figures

    def paint(self, step: int) -> dict[str, np.ndarray]:
        """A grid of samples, a row per class, the same seeds every time; decoded by the tokenizer."""
        device = self.backend.device
        if self._autoencoder is None:
            self._autoencoder, _ = load_autoencoder(self.tokenizer, device)
        rows = min(PAINTED_CLASSES, len(self.codes.classes)) or PAINTED_CLASSES
        labels = torch.arange(rows, device=device).repeat_interleave(PAINTED_EACH)
        seeds = torch.arange(len(labels), device=device) + self.cfg.paint_seed
        with torch.no_grad(), self.backend.autocast():
            codes = sample(self._averaged(), self._conditions(labels), seeds, self.cfg.sampling)
            images = tensor_to_picture(self._autoencoder.decode(codes))
        return {"samples": rows_of_pictures(*np.split(images, rows))}

    def export(self, folder: Path) -> None:
        """The averaged weights."""
        save_prior(self._averaged(), folder, self.codes, self.cfg.sampling)

    def _averaged(self) -> Prior:
        assert isinstance(self.main.ema_model, Prior)
        return self.main.ema_model

    def _inputs(self, batch: Batch) -> tuple[list[Tensor], Conditions, Tensor]:
        batch = self.backend.to_device(batch)
        codes = [batch[f"level{i}"].long() for i in range(len(self.codes.grids))]
        return codes, self._conditions(batch["label"]), batch["row"]

    def _conditions(self, labels: Tensor) -> Conditions:
        if not self.codes.classes or "class" not in self.cfg.conditions:
            return {}
        return {"class": class_condition(labels, len(self.codes.classes))}

    def _val_batches(self) -> Any:
        share = max(1, min(64, self.cfg.eval_samples // self.backend.world))
        return read_pass(
            self.codes.shards.split("val"),
            CodesDecode(len(self.codes.grids)),
            batch_size=share,
            rank=self.backend.rank,
            world=self.backend.world,
            limit=self.cfg.eval_samples,
        )
