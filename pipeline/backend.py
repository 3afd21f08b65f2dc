"""Processes, devices, precision and the optimizer step: everything that knows Accelerate or DeepSpeed.

A `Backend` is started once per process. It makes a `Player` of each model that is trained; `Player.update` is one
optimizer step over a global batch's share: backward over the micro-batches, gradient sync on the last one, clipping,
the skip of a non-finite step on all ranks, the schedule and the EMA. DeepSpeed's plugin is built in code, so the same
command works under accelerate, torchrun and Slurm.
"""

from __future__ import annotations

import contextlib
import os
import socket
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator, DeepSpeedPlugin
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import DistributedDataParallelKwargs, DistributedType, InitProcessGroupKwargs
from torch import Tensor, nn

from pipeline.errors import ConfigError
from pipeline.player import Player
from pipeline.training_config import BackendConfig, OptimizerConfig


class Backend:
    """One process of a training run: its rank, its device and its collectives."""

    def __init__(self, accelerator: Accelerator, cfg: BackendConfig, seed: int) -> None:
        self.accelerator = accelerator
        self.cfg = cfg
        self.seed = seed
        self.device: torch.device = accelerator.device
        self.rank: int = accelerator.process_index
        self.world: int = accelerator.num_processes
        self.is_main = self.rank == 0

    @classmethod
    def start(cls, cfg: BackendConfig, *, seed: int) -> Backend:
        """Join the other processes and pick the device.

        Raises:
            ConfigError: Accelerate sees another number of processes than the launcher started; every such mode is
                otherwise silent (ranks that train alone), so it is refused here.
        """
        on_cpu = not torch.cuda.is_available() or os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true")
        expected = int(os.environ.get("WORLD_SIZE", "1"))
        if cfg.zero_stage:
            _prepare_deepspeed_environment(on_cpu)
        else:  # Accelerate's own note of an earlier stage, or of its launcher: here the config says it
            os.environ.pop("ACCELERATE_USE_DEEPSPEED", None)
        group = ("gloo" if on_cpu else "nccl") if "LOCAL_RANK" in os.environ else None  # a lone process has no group
        for state in (AcceleratorState, GradientState, PartialState):
            state._reset_state()  # a stage that ran before in this process may have asked for another mode
        accelerator = Accelerator(
            cpu=on_cpu and not cfg.zero_stage,
            mixed_precision="no",  # autocast is ours: the quantizer switches it off around the search
            deepspeed_plugin=_deepspeed_plugin(cfg.zero_stage) if cfg.zero_stage else None,
            kwargs_handlers=[
                InitProcessGroupKwargs(backend=group, timeout=timedelta(seconds=cfg.timeout_seconds)),
                DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True),
            ],
        )
        if accelerator.num_processes != expected or (dist.is_initialized() and dist.get_world_size() != expected):
            raise ConfigError(
                f"the launcher started {expected} processes but Accelerate sees {accelerator.num_processes}: each "
                "would train alone. On CPU type:  ACCELERATE_USE_CPU=1 accelerate launch --multi_gpu --num_processes "
                f"{expected} -m launchers.train STAGE --config RECIPE"
            )
        if cfg.zero_stage and accelerator.distributed_type != DistributedType.DEEPSPEED:
            raise ConfigError(f"backend.zero_stage={cfg.zero_stage} was asked for, but Accelerate chose plain DDP.")
        torch.manual_seed(seed)
        return cls(accelerator, cfg, seed)

    @property
    def use_bf16(self) -> bool:
        """bf16 where asked for, or by default on a GPU that has it; the CPU stays in fp32 (bf16 is slower there)."""
        if self.cfg.precision == "auto":
            return self.device.type == "cuda" and torch.cuda.is_bf16_supported()
        return self.cfg.precision == "bf16"

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The precision every forward pass of a run happens in."""
        if not self.use_bf16:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def to_device(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch with its tensors on this process's device."""
        return {k: v.to(self.device, non_blocking=True) if isinstance(v, Tensor) else v for k, v in batch.items()}

    def player(
        self, name: str, model: nn.Module, cfg: OptimizerConfig, *, total_steps: int, ema: bool = True
    ) -> Player:
        """Put `model` on the device, wrap it for this run's processes and give it an optimizer."""
        return Player(self, name, model.to(self.device), cfg, total_steps=total_steps, ema=ema)

    def barrier(self) -> None:
        """Wait for every process."""
        if self.world > 1:
            dist.barrier()

    def any(self, flag: bool) -> bool:
        """True on every rank when it is true on one."""
        if self.world == 1:
            return flag
        votes = torch.tensor([float(flag)], device=self.device)
        dist.all_reduce(votes, op=dist.ReduceOp.MAX)
        return bool(votes.item())

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        """Sum over the ranks, in place."""
        if self.world > 1:
            dist.all_reduce(tensor)
        return tensor

    def mean(self, metrics: dict[str, float]) -> dict[str, float]:
        """Average of each metric over the ranks; every rank passes the same names."""
        if self.world == 1 or not metrics:
            return metrics
        names = sorted(metrics)
        values = torch.tensor([metrics[name] for name in names], dtype=torch.float64, device=self.device)
        return dict(zip(names, (self.all_reduce_sum(values) / self.world).tolist(), strict=True))

    def gather_objects(self, item: Any) -> list[Any]:
        """What each rank passed, in the order of the ranks, on every rank."""
        if self.world == 1:
            return [item]
        gathered: list[Any] = [None] * self.world
        dist.all_gather_object(gathered, item)
        return gathered

    def finish(self) -> None:
        """Leave the process group, so that the next stage of this process starts afresh."""
        if dist.is_initialized():
            self.barrier()
            dist.destroy_process_group()


def _deepspeed_plugin(stage: int) -> DeepSpeedPlugin:
    """ZeRO with fp32 weights: Tessera's own autocast, inside the module, chooses the precision of the forward pass."""
    return DeepSpeedPlugin(
        hf_ds_config={
            "train_micro_batch_size_per_gpu": 1,  # a formality: `Player` scales the loss and marks the boundary itself
            "gradient_accumulation_steps": 1,
            "zero_optimization": {"stage": stage, "contiguous_gradients": True, "overlap_comm": False},
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "gradient_clipping": 0.0,  # set per player
            "steps_per_print": 10**9,
        }
    )


def _prepare_deepspeed_environment(on_cpu: bool) -> None:
    """What DeepSpeed reads from the environment; one process alone has no launcher to set it."""
    if on_cpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
        os.environ.pop("ACCELERATE_USE_CPU", None)  # it would make Accelerate ignore the plugin and use plain DDP
    if "WORLD_SIZE" not in os.environ:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        lone = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        os.environ.update(lone)
