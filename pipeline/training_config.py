"""Settings every trained stage shares: what it reads, how long it runs, how it steps, on what it runs. Torch-free."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any


def identity(default: Any, *, factory: Any = None) -> Any:
    """A field that says how a stage runs, not what it makes: changing it never makes a finished stage 'changed'."""
    if factory is not None:
        return field(default_factory=factory, metadata={"identity": False})
    return field(default=default, metadata={"identity": False})


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """How shards become global batches."""

    global_batch: int = 96
    """Samples per optimizer step over all processes: processes x micro-batch x accumulation. A multiple of lanes."""
    lanes: int = 12
    """Parallel runs the data is cut into; the number of processes must divide it (12 or 48 divide well)."""
    shuffle_shards: int = 4
    """Whole shards in one shuffling block of a lane."""
    mode: str = "exact"
    """`exact` (every sample at most once an epoch, resumable) or `resampled` (webdataset's endless mixture)."""
    shuffle_buffer: int = 1000
    """Samples in the shuffle buffer of `resampled`."""
    micro_batch: str = identity("auto")
    """Samples per forward pass of one process; `auto` takes the whole share; one process alone halves it where the
    first step does not fit into memory, several say what to set."""
    workers: int = identity(0)
    """Reader processes per training process; 0 reads in the training process."""

    def __post_init__(self) -> None:
        if self.global_batch <= 0 or self.lanes <= 0 or self.global_batch % self.lanes:
            raise ValueError(
                f"data.global_batch must be a positive multiple of data.lanes ({self.lanes}); got {self.global_batch}. "
                f"Nearest: {max(1, round(self.global_batch / max(1, self.lanes))) * max(1, self.lanes)}."
            )
        if self.shuffle_shards < 1 or self.shuffle_buffer < 1 or self.workers < 0:
            raise ValueError(
                "data.shuffle_shards and shuffle_buffer are at least 1, workers at least 0; got "
                f"{self.shuffle_shards}, {self.shuffle_buffer}, {self.workers}."
            )
        if self.mode not in ("exact", "resampled"):
            raise ValueError(f"data.mode is 'exact' or 'resampled'; got '{self.mode}'.")
        if self.micro_batch != "auto" and not (self.micro_batch.isdigit() and int(self.micro_batch) > 0):
            raise ValueError(f"data.micro_batch is 'auto' or a positive number; got '{self.micro_batch}'.")


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """When to stop, log, evaluate, paint and save."""

    steps: int = 1000
    """Optimizer steps in all."""
    log_every: int = identity(20)
    """Steps between lines of metrics.jsonl."""
    eval_every: int = identity(500)
    """Steps between evaluations on val; the last step is always evaluated."""
    paint_every: int = identity(1000)
    """Steps between sample pictures; the last step is always painted."""
    save_every: int = identity(500)
    """Steps between checkpoints."""
    save_minutes: float = identity(10.0)
    """Minutes between checkpoints, whichever comes first."""
    keep_last: int = identity(2)
    """Checkpoints kept besides the best."""

    def __post_init__(self) -> None:
        for name in ("steps", "log_every", "eval_every", "paint_every", "save_every", "keep_last"):
            if getattr(self, name) < 1:
                raise ValueError(f"loop.{name} must be at least 1; got {getattr(self, name)}.")


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """The optimizer, its schedule, clipping and the average of the weights."""

    kind: str = field(default="auto", metadata={"before": "adamw"})
    """`muon` (matrices and kernels by orthogonalised momentum, the rest by AdamW), `adamw`, or `auto`: muon unless
    ZeRO shards the optimizer."""
    lr: float = 1e-3
    """Peak learning rate."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Adam's decay rates."""
    weight_decay: float = 0.0
    """Decoupled weight decay; never applied to biases, norms and embeddings."""
    warmup_steps: int = 100
    """Steps of linear warm-up."""
    schedule: str = "cosine"
    """`cosine` down to `final_lr` x lr at the last step, or `constant`."""
    final_lr: float = 0.05
    """Last learning rate as a share of the peak."""
    clip: float = 1.0
    """Largest gradient norm; 0 switches clipping off."""
    ema_decay: float = 0.999
    """Decay of the exponential moving average of the weights; warms up as (1 + step) / (10 + step)."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", tuple(self.betas))
        if self.kind not in ("auto", "muon", "adamw"):
            raise ValueError(f"optimizer.kind is 'auto', 'muon' or 'adamw'; got '{self.kind}'.")
        if self.lr <= 0:
            raise ValueError(f"optimizer.lr must be positive; got {self.lr}.")
        if not 0 <= self.clip < math.inf:
            raise ValueError(f"optimizer.clip is the largest gradient norm, or 0 for none; got {self.clip}.")
        if self.schedule not in ("cosine", "constant"):
            raise ValueError(f"optimizer.schedule is 'cosine' or 'constant'; got '{self.schedule}'.")


@dataclass(frozen=True, kw_only=True)
class BackendConfig:
    """Precision and sharding. Identity: another precision makes other weights."""

    precision: str = "auto"
    """`auto` (bf16 on GPU, fp32 on CPU), `fp32` or `bf16`."""
    zero_stage: int = 0
    """DeepSpeed ZeRO stage: 0 (plain DDP), 1 or 2."""
    compile: bool = identity(False)
    """torch.compile the model."""
    timeout_seconds: int = identity(1800)
    """How long a process waits for the others before it gives up."""

    def __post_init__(self) -> None:
        if self.precision not in ("auto", "fp32", "bf16"):
            raise ValueError(f"backend.precision is 'auto', 'fp32' or 'bf16'; got '{self.precision}'.")
        if self.zero_stage not in (0, 1, 2):
            raise ValueError(f"backend.zero_stage is 0, 1 or 2; got {self.zero_stage}.")

    def check(self, optimizer: OptimizerConfig) -> None:
        """ValueError where ZeRO cannot shard this optimizer: Muon needs whole matrices, a shard is a flat piece."""
        if self.zero_stage and optimizer.kind == "muon":
            raise ValueError("backend.zero_stage shards AdamW only. Set optimizer.kind=adamw, or backend.zero_stage=0.")
