"""What training a prior does per step, on val, for the eye and for the next stage.

Shapes: b batch, n codes of one level.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from pipeline.backend import Backend
from pipeline.player import Player
from pipeline.shards import read_pass
from stages.codes.read import CodesDecode, CodeSet
from stages.codes.read_conditions import Encoders, conditions_of
from stages.conditioning.condition import PICTURE, Conditions, class_condition
from stages.images import rows_of_pictures, tensor_to_picture
from stages.prior.config import PriorConfig
from stages.prior.load import save_prior
from stages.prior.loss import Draw, Noise, causal_loss, masked_loss, surprise
from stages.prior.model import Prior
from stages.prior.sampling import sample
from stages.vqvae.load import load_autoencoder
from stages.vqvae.model import Autoencoder

Batch = dict[str, Any]
PAINTED_CLASSES, PAINTED_EACH = 8, 8


class PriorTask:
    """Trains a prior over the codes of a tokenizer; evaluates and paints with the averaged weights."""

    best = ("bits_per_image", "min")

    def __init__(
        self,
        cfg: PriorConfig,
        backend: Backend,
        prior: Prior,
        codes: CodeSet,
        tokenizer: Path,
        *,
        decode: CodesDecode,
        live: Encoders,
    ) -> None:
        self.cfg, self.backend, self.codes, self.tokenizer = cfg, backend, codes, tokenizer
        self.decode, self.live, self.modalities = decode, live, sorted(prior.arguments["conditions"])
        self.main = backend.player("prior", prior, cfg.optimizer, total_steps=cfg.loop.steps)
        self.players: dict[str, Player] = {"prior": self.main}
        self.noise = Noise(
            corrupt=cfg.corrupt,
            token_dropout=cfg.token_dropout,
            foretold=cfg.foretold if prior.foretelling is not None else 0.0,
            drop_each=cfg.drop_each,
            drop_all=cfg.drop_all,
            wordless=cfg.wordless,
            label_smoothing=cfg.label_smoothing,
            whole_every=cfg.whole_every,
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
                bits = surprise(self._averaged(), codes, self._said(conditions), rows, self.cfg.seed)
            sums[:num_levels] += bits.double().sum(dim=0)
            sums[num_levels] += len(rows)
        self.backend.all_reduce_sum(sums)
        per_code = (sums[:num_levels] / sums[num_levels]).tolist()
        per_image = sum(bits * h * w for bits, (h, w) in zip(per_code, self.codes.grids, strict=True))
        self.figures = {f"bits_level{i}": bits for i, bits in enumerate(per_code)} | {"bits_per_image": per_image}
        return self.figures

    def paint(self, step: int) -> dict[str, np.ndarray]:
        """Grids of samples, the same seeds every time, decoded by the tokenizer.

        `samples`: a row per class (without classes whatever comes). `samples_<condition>`: for text, audio, image and
        picture eight samples of val, and under them what each alone paints.
        """
        device = self.backend.device
        if self._autoencoder is None:
            self._autoencoder, _ = load_autoencoder(self.tokenizer, device)
        painted = {"samples": self._painted_by_class()} if self._by_class() else {}
        others = [name for name in self.modalities if name != "class"]
        if others and "val" in self.codes.shards.splits:
            painted |= self._painted_by(others)
        return painted

    def _by_class(self) -> bool:
        return "class" in self.modalities or not self.modalities

    def _painted_by_class(self) -> np.ndarray:
        device = self.backend.device
        rows = min(PAINTED_CLASSES, len(self.codes.classes)) or PAINTED_CLASSES
        labels = torch.arange(rows, device=device).repeat_interleave(PAINTED_EACH)
        conditions = {"class": class_condition(labels, len(self.codes.classes))} if self.modalities else {}
        return rows_of_pictures(*np.split(self._sampled(conditions, len(labels)), rows))

    def _painted_by(self, names: list[str]) -> dict[str, np.ndarray]:
        decode = replace(self.decode, any_view=False)
        batch = next(read_pass(self.codes.shards.split("val"), decode, batch_size=PAINTED_EACH, limit=PAINTED_EACH))
        codes, conditions, rows = self._inputs(batch)
        grids = zip(codes, self.codes.grids, strict=True)
        real = self._decoded([rearrange(c, "b (h w) -> b h w", h=h) for c, (h, _) in grids])
        painted = {}
        for name in names:
            alone = {name: conditions[name]}
            painted[f"samples_{name}"] = rows_of_pictures(real, *(self._sampled(alone, len(rows), at) for at in (0, 1)))
        return painted

    def _sampled(self, conditions: Conditions, count: int, first: int = 0) -> np.ndarray:
        seeds = torch.arange(count, device=self.backend.device) + self.cfg.paint_seed + first * count
        with torch.no_grad(), self.backend.autocast():
            return self._decoded(sample(self._averaged(), conditions, seeds, self.cfg.sampling))

    def _decoded(self, codes: list[Tensor]) -> np.ndarray:
        assert self._autoencoder is not None
        with torch.no_grad(), self.backend.autocast():
            return tensor_to_picture(self._autoencoder.decode(codes))

    def export(self, folder: Path) -> None:
        """The averaged weights."""
        save_prior(self._averaged(), folder, self.codes, self.cfg.sampling)

    def _averaged(self) -> Prior:
        assert isinstance(self.main.ema_model, Prior)
        return self.main.ema_model

    def _said(self, conditions: Conditions) -> Conditions:
        """Without the vector of the very picture that is asked about: it is no part of what others say of it."""
        return {name: one for name, one in conditions.items() if name != PICTURE}

    def _inputs(self, batch: Batch) -> tuple[list[Tensor], Conditions, Tensor]:
        batch = self.backend.to_device(batch)
        codes = [batch[f"level{i}"].long() for i in range(len(self.codes.grids))]
        return codes, conditions_of(batch, self.modalities, len(self.codes.classes), self.live), batch["row"]

    def _val_batches(self) -> Any:
        share = max(1, min(64, self.cfg.eval_samples // self.backend.world))
        return read_pass(
            self.codes.shards.split("val"),
            replace(self.decode, any_view=False),
            batch_size=share,
            rank=self.backend.rank,
            world=self.backend.world,
            limit=self.cfg.eval_samples,
        )
