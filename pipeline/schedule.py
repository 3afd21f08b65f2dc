"""Learning rate and EMA decay as pure functions of the step, so a resumed run needs no scheduler state."""

from __future__ import annotations

import math

from pipeline.training_config import OptimizerConfig


def learning_rate(step: int, cfg: OptimizerConfig, total_steps: int) -> float:
    """Rate of step `step` (from 0): linear warm-up, then constant or cosine (SGDR, Loshchilov 2017, eq. 5)."""
    if step < cfg.warmup_steps:
        return cfg.lr * (step + 1) / cfg.warmup_steps
    if cfg.schedule == "constant":
        return cfg.lr
    progress = (step - cfg.warmup_steps) / max(1, total_steps - 1 - cfg.warmup_steps)
    cosine = 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))
    return cfg.lr * (cfg.final_lr + (1.0 - cfg.final_lr) * cosine)


def ema_decay(step: int, cfg: OptimizerConfig) -> float:
    """Decay after optimizer step `step`: short memory first, or a short run's average would be its initial weights."""
    return min(cfg.ema_decay, (1 + step) / (10 + step))
