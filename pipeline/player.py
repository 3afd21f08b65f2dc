"""One trained model: its wrapper (DDP, DeepSpeed or none), optimizer, schedule, EMA and the state a checkpoint keeps.

Built by `Backend.player`. State goes out and comes back as flat dictionaries of tensors, so that a checkpoint is
safetensors and nothing in it can run code.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pipeline import ema as averages
from pipeline import schedule
from pipeline.errors import ConfigError, TesseraError
from pipeline.muon import Muon
from pipeline.training_config import OptimizerConfig

if TYPE_CHECKING:
    from pipeline.backend import Backend

log = logging.getLogger(__name__)
Batch = dict[str, Any]
LossFn = Callable[[nn.Module, Batch], tuple[Tensor, dict[str, Tensor]]]
TensorDict = dict[str, Tensor]
MOST_SKIPS = 10


class Player:
    """A model that takes optimizer steps: `model` is the plain module, `wrapped` what training forwards go through."""

    def __init__(
        self, backend: Backend, name: str, model: nn.Module, cfg: OptimizerConfig, *, total_steps: int, ema: bool
    ) -> None:
        self.backend, self.name, self.model, self.cfg = backend, name, model, cfg
        self.total_steps = total_steps
        self.steps = 0
        self.skips_in_a_row = 0
        self.ema_model = averages.frozen_copy(model) if ema else model
        self.has_ema = ema
        self.sharded = backend.cfg.zero_stage > 0
        if backend.is_main:
            warn_of_adamw(name, cfg, self.sharded)
        self.optimizer = _optimizer(model, cfg, self.sharded)
        if self.sharded:
            _in_autocast(model, backend)
        if backend.cfg.compile:
            model.compile()
        self.wrapped, self._prepared = backend.accelerator.prepare(model, self.optimizer)
        if self.sharded:
            self.wrapped.optimizer.clip_grad = cfg.clip
        elif backend.world == 1:
            self.wrapped = model

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The weights this player trains."""
        return [p for p in self.model.parameters() if p.requires_grad]

    def update(self, loss_fn: LossFn, micro_batches: list[Batch], *, scale_lr: float = 1.0) -> dict[str, Any]:
        """One optimizer step over this rank's share of a global batch.

        Args:
            loss_fn: takes the wrapped model and a micro-batch on the device; returns the loss (mean over the
                micro-batch) and scalars to log.
            micro_batches: equally large parts of the share.
            scale_lr: multiplies the schedule's learning rate.

        Returns:
            The scalars averaged over the micro-batches, with `grad_norm`, `lr` and `skipped` (1.0 when the gradient
            was not finite and no rank stepped).
        """
        rate = schedule.learning_rate(self.steps, self.cfg, self.total_steps) * scale_lr
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        totals: dict[str, Tensor] = {}
        for i, micro_batch in enumerate(micro_batches):
            with self._sync(last=i == len(micro_batches) - 1):
                with self.backend.autocast():
                    loss, metrics = loss_fn(self.wrapped, micro_batch)
                self._backward(loss / len(micro_batches))
            for key, value in metrics.items():
                totals[key] = totals.get(key, 0.0) + value.detach() / len(micro_batches)
        grad_norm, skipped = self._step()
        self._count(skipped)
        return {**totals, "grad_norm": grad_norm, "lr": rate, "skipped": float(skipped)}

    def _sync(self, *, last: bool) -> contextlib.AbstractContextManager[Any]:
        """Gradients cross the ranks once, with the last micro-batch."""
        if self.sharded:
            self.wrapped.set_gradient_accumulation_boundary(last)
        elif self.backend.world > 1 and not last:
            return self.wrapped.no_sync()  # type: ignore[no-any-return]
        return contextlib.nullcontext()

    def _backward(self, loss: Tensor) -> None:
        if self.sharded:
            self.wrapped.backward(loss, scale_wrt_gas=False)
        else:  # only into this player's own weights: a second player's graph may run through the same loss
            torch.autograd.backward(loss, inputs=self.parameters)

    def _step(self) -> tuple[float | Tensor, bool]:
        """Clip and step, or skip a non-finite gradient; ranks agree because the gradient is already summed."""
        if self.sharded:
            self.wrapped.step()
            return float(self.wrapped.get_global_grad_norm() or 0.0), bool(self.wrapped.optimizer.overflow)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.cfg.clip or float("inf"))
        skipped = not bool(torch.isfinite(norm))
        if not skipped:
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm, skipped

    def forget_gradients(self) -> None:
        """Drop what a step that was broken off has left."""
        for p in self.parameters:
            p.grad = None

    def _count(self, skipped: bool) -> None:
        self.skips_in_a_row = self.skips_in_a_row + 1 if skipped else 0
        if self.skips_in_a_row >= MOST_SKIPS:
            raise TesseraError(
                f"{self.name}: the gradient was not finite for {MOST_SKIPS} steps in a row (step {self.steps}). "
                f"Lower optimizer.lr (now {self.cfg.lr}); the last checkpoint is good."
            )
        self.steps += 1

    def follow(self) -> None:
        """Move the EMA after a step; the loop calls it when the task is done, so codebooks have moved too."""
        if self.has_ema:
            decay = schedule.ema_decay(self.steps, self.cfg)
            averages.follow(self.ema_model, self.model.parameters(), self.model.buffers(), decay)

    # --- what a checkpoint keeps -------------------------------------------------------------------------------------

    def state(self) -> TensorDict:
        """Weights, EMA and, unless sharded, the optimizer: the same on every rank."""
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        if self.has_ema:
            tensors |= {f"ema.{k}": v for k, v in self.ema_model.state_dict().items()}
        if not self.sharded:
            tensors |= _optimizer_state(self.optimizer)
        return tensors

    def shard_state(self) -> TensorDict:
        """This rank's part of a ZeRO optimizer: fp32 master weights and Adam's moments; empty when not sharded."""
        if not self.sharded:
            return {}
        zero = self.wrapped.optimizer
        masters = {f"master.{i}": p.detach() for i, p in enumerate(zero.single_partition_of_fp32_groups)}
        return masters | _optimizer_state(zero.optimizer)

    def load_state(self, tensors: TensorDict, shard: TensorDict, steps: int) -> None:
        """Take back what `state` and `shard_state` gave, bit for bit."""
        self.steps, self.skips_in_a_row = steps, 0
        self.model.load_state_dict(_below(tensors, "model."))
        if self.has_ema:
            self.ema_model.load_state_dict(_below(tensors, "ema."))
        if not self.sharded:
            _load_optimizer(self.optimizer, tensors)
            return
        zero = self.wrapped.optimizer
        for i, partition in enumerate(zero.single_partition_of_fp32_groups):
            saved = shard.get(f"master.{i}")  # none: this rank is one more than there were
            if saved is None or saved.shape != partition.shape:
                raise ConfigError(
                    f"this ZeRO checkpoint was written by another number of processes than {self.backend.world}; "
                    "start the stage with the number it was started with, or --redo it."
                )
            partition.data.copy_(saved)
        _load_optimizer(zero.optimizer, shard)


def _in_autocast(model: nn.Module, backend: Backend) -> None:
    """Run the forward pass of a module in this run's precision, whoever calls it.

    DeepSpeed's engine switches autocast off around the module it wraps, on a GPU, where its own config asks for none.
    """
    forward = model.forward

    def in_precision(*arguments: Any, **named: Any) -> Any:
        with backend.autocast():
            return forward(*arguments, **named)

    model.forward = in_precision


def warn_of_adamw(name: str, cfg: OptimizerConfig, sharded: bool) -> None:
    """Say that `auto` comes to AdamW under ZeRO: a rate that was found for Muon is far too high for it."""
    if sharded and cfg.kind == "auto":
        log.warning(
            "%s: under ZeRO the optimizer is AdamW, and optimizer.lr stays %g: a rate found for Muon, such as 2e-2, is "
            "some ten times too high (optimizer.kind=adamw says that it is meant)",
            name,
            cfg.lr,
        )


def _optimizer(model: nn.Module, cfg: OptimizerConfig, sharded: bool) -> torch.optim.Optimizer:
    """AdamW or Muon. Weight decay for matrices and kernels only (Loshchilov & Hutter 2019).

    Embeddings, and the modules a model names in `by_adam`, are tables of independent rows: nothing to orthogonalise.
    """
    tables = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    by_adam = {id(p) for name in getattr(model, "by_adam", ()) for p in model.get_submodule(name).parameters()}
    trained = [p for p in model.parameters() if p.requires_grad]
    matrices = {id(p) for p in trained if p.ndim >= 2 and min(p.flatten(1).shape) > 1} - tables
    decayed = [p for p in trained if id(p) in matrices]
    rest = [p for p in trained if id(p) not in matrices]
    muon = cfg.kind == "muon" or (cfg.kind == "auto" and not sharded)
    turned = [p for p in decayed if muon and id(p) not in by_adam]
    kept = [p for p in decayed if not muon or id(p) in by_adam]
    groups: list[dict[str, Any]] = [
        {"params": turned, "weight_decay": cfg.weight_decay, "orthogonal": True},
        {"params": kept, "weight_decay": cfg.weight_decay},
        {"params": rest, "weight_decay": 0.0},
    ]
    kind = Muon if muon else torch.optim.AdamW
    return kind([group for group in groups if group["params"]], lr=cfg.lr, betas=cfg.betas, fused=True)


def _optimizer_state(optimizer: torch.optim.Optimizer) -> TensorDict:
    tensors: TensorDict = {}
    for g, group in enumerate(optimizer.param_groups):
        for i, p in enumerate(group["params"]):
            for key, value in optimizer.state.get(p, {}).items():
                tensors[f"optimizer.{g}.{i}.{key}"] = value if isinstance(value, Tensor) else torch.tensor(value)
    return tensors


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: TensorDict) -> None:
    for g, group in enumerate(optimizer.param_groups):
        for i, p in enumerate(group["params"]):
            saved = _below(tensors, f"optimizer.{g}.{i}.")
            optimizer.state.pop(p, None)
            if saved:
                # Adam's step counter lives beside the weights when fused, whatever device the file was read to.
                optimizer.state[p] = {key: value.to(p.device, copy=True) for key, value in saved.items()}


def _below(tensors: TensorDict, prefix: str) -> TensorDict:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
