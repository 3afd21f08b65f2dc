"""What training an autoencoder does per step, on val, for the eye and for the next stage.

Shapes: b batch, d code width, h w height and width of a level.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline import randomness
from pipeline.backend import Backend
from pipeline.player import Player
from pipeline.shard_index import Shard
from pipeline.shards import read_pass
from stages.images import center_decode, picture_to_tensor, rows_of_pictures, tensor_to_picture
from stages.vqvae.config import VQVAEConfig
from stages.vqvae.evaluate import PAINTED, figures_on
from stages.vqvae.load import save_autoencoder
from stages.vqvae.loss import feature_matching, fooling_loss, hinge_loss, pixel_loss, ramp
from stages.vqvae.model import Autoencoder, Reconstruction

Batch = dict[str, Any]
TOP_EVERY = 4  # every fourth picture is also decoded from the top alone: enough to learn it, a quarter of the cost


class AutoencoderTask:
    """Trains an autoencoder, and a patch discriminator beside it where the losses ask for one."""

    best = ("psnr", "max")

    def __init__(
        self,
        cfg: VQVAEConfig,
        backend: Backend,
        model: Autoencoder,
        discriminator: nn.Module | None,
        *,
        val: list[Shard],
        image_size: int,
        eye: nn.Module | None = None,
    ) -> None:
        self.cfg, self.backend, self.val, self.image_size = cfg, backend, val, image_size
        self.steps = cfg.loop.steps
        self.top_every = TOP_EVERY if cfg.loss.top and len(cfg.levels) > 1 else 0
        if not self.top_every:
            model.absent.requires_grad_(False)  # DDP waits for the gradient of every weight
        self.model = model
        self.main = backend.player("autoencoder", model, cfg.optimizer, total_steps=self.steps)
        self.players: dict[str, Player] = {"autoencoder": self.main}
        self.critic: Player | None = None
        if discriminator is not None:
            adam = replace(cfg.optimizer, kind="adamw")  # a critic that learns faster than its painter ends the game
            self.critic = backend.player("discriminator", discriminator, adam, total_steps=self.steps, ema=False)
            self.players["discriminator"] = self.critic
        self.eye = eye.to(backend.device) if eye is not None else None
        self.figures: dict[str, float] = {}
        """What the last evaluation found."""
        self._painted: Tensor | None = None

    def train_step(self, micro_batches: list[Batch], step: int) -> dict[str, Any]:
        """The autoencoder's step, its codebooks' step, then the discriminator's on the same reconstructions."""
        pairs: list[Batch] = []
        self.model.forget()  # a step that is tried again must not count twice

        def loss_fn(net: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
            images = picture_to_tensor(self.backend.to_device({"image": batch["image"]})["image"])
            output: Reconstruction = net(images, noise=self._noise(batch, step), top_every=self.top_every)
            loss, metrics = self._reconstruction(output, images)
            if self.critic is not None:
                pairs.append({"real": images, "fake": output.images.detach()})
                loss = loss + self._fool(output.images, images, step, metrics)
            return loss, metrics

        metrics = self.main.update(loss_fn, micro_batches)
        seed = randomness.seed_of(self.cfg.seed, "revive", step)
        metrics |= self.model.follow(seed, revive=step < self.cfg.revive_until * self.steps)
        # at step 0 too: DDP settles its buckets after a first backward, which resuming must find done
        if self.critic is not None and (step == 0 or step >= 0.5 * self.cfg.loss.adversarial_start * self.steps):
            metrics |= {f"discriminator_{key}": v for key, v in self.critic.update(_judge, pairs).items()}
        return metrics

    def evaluate(self, step: int) -> dict[str, float]:
        """PSNR, MSE, codebook use over a pass of val, by the averaged weights; the same on every rank."""
        if not self.val:
            return {}
        self.figures = figures_on(self._averaged(), self._val_batches(), self.backend)
        return self.figures

    def paint(self, step: int) -> dict[str, np.ndarray]:
        """Originals, reconstructions and, with several levels, what the top alone says: row under row."""
        if not self.val:
            return {}
        if self._painted is None:
            batch = next(read_pass(self.val, center_decode(self.image_size), batch_size=PAINTED, limit=PAINTED))
            self._painted = picture_to_tensor(batch["image"].to(self.backend.device))
        model = self._averaged()
        with torch.no_grad(), self.backend.autocast():
            output = model(self._painted, top_every=1 if self.top_every else 0)
        rows = [self._painted, output.images] + ([] if output.top_images is None else [output.top_images])
        return {"reconstructions": rows_of_pictures(*[tensor_to_picture(row) for row in rows])}

    def export(self, folder: Path) -> None:
        """The averaged weights and the codebooks."""
        save_autoencoder(self._averaged(), folder, {"image_size": self.image_size})

    def _averaged(self) -> Autoencoder:
        assert isinstance(self.main.ema_model, Autoencoder)
        return self.main.ema_model

    def _val_batches(self) -> Any:
        share = max(1, min(64, self.cfg.val_samples // self.backend.world))
        return read_pass(
            self.val,
            center_decode(self.image_size),
            batch_size=share,
            rank=self.backend.rank,
            world=self.backend.world,
            limit=self.cfg.val_samples,
        )

    def _noise(self, batch: Batch, step: int) -> list[Tensor] | None:
        """One standard normal per level, a function of (seed, step, global row)."""
        if self.cfg.bottleneck != "gaussian":
            return None
        rows, noise = batch["row"].to(self.backend.device), []
        for level, (factor, width) in enumerate(zip(self.model.levels, self.model.widths, strict=True)):
            side = self.image_size // factor
            seed = randomness.seed_of(self.cfg.seed, "vae noise", level, step)
            noise.append(randomness.normal(seed, rows, width * side * side).view(len(rows), width, side, side))
        return noise

    def _reconstruction(self, output: Reconstruction, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        weights = self.cfg.loss
        scale = {"l1": weights.l1, "mse": weights.mse, "multiscale": weights.multiscale, "chroma": weights.chroma}
        loss = pixel_loss(output.images, images, **scale)
        mse = (output.images.detach().float() - images).square().mean()
        metrics = {"pixel_loss": loss.detach(), "psnr": -10 * torch.log10(mse / 4)}
        if self.eye is not None:
            seen = self.eye(output.images, images)
            metrics["perceptual"] = seen.detach()
            loss = loss + weights.perceptual * seen
        if output.top_images is not None:
            top = pixel_loss(output.top_images, images[:: self.top_every], **scale)
            metrics["top_loss"] = top.detach()
            loss = loss + weights.top * top
        bottleneck = {"vq": weights.commitment, "gaussian": weights.kl}.get(self.cfg.bottleneck, 0.0)
        for i, level in enumerate(output.levels):
            if bottleneck:
                metrics[f"level{i}_{'kl' if self.cfg.bottleneck == 'gaussian' else 'commitment'}"] = level.loss.detach()
                loss = loss + bottleneck * level.loss
        return loss, {"loss": loss.detach(), **metrics}

    def _fool(self, fake: Tensor, real: Tensor, step: int, metrics: dict[str, Tensor]) -> Tensor:
        """The discriminator's part of the loss, ramped in late: early on it has nothing to say about detail."""
        assert self.critic is not None
        weights = self.cfg.loss
        start = weights.adversarial_start * self.steps
        weight = weights.adversarial * ramp(step, start, weights.adversarial_ramp * self.steps)
        if weight == 0.0:
            return fake.new_zeros(())
        logits, features = self.critic.model(fake)
        with torch.no_grad():
            real_features = self.critic.model(real)[1]
        fooling, matching = fooling_loss(logits), feature_matching(real_features, features)
        metrics |= {"fooling": fooling.detach(), "feature_matching": matching.detach()}
        return weight * (fooling + weights.feature_matching * matching)


def _judge(net: nn.Module, pair: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """The discriminator's loss on real and rebuilt pictures, in one pass."""
    logits, _ = net(torch.cat([pair["real"], pair["fake"]]))
    real, fake = logits.chunk(2)
    loss = hinge_loss(real, fake)
    return loss, {"loss": loss.detach(), "real": real.detach().float().mean(), "fake": fake.detach().float().mean()}
