"""A codebook that follows the same vectors in one process or several.

`python -m tests.toy_codebook OUT` as one rank of several: writes `OUT/<revive>-rank<r>.pt`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from stages.vqvae.quantizer import VectorQuantizer
from stages.vqvae.settings import CodebookSettings

STEPS, BATCH, MICRO_BATCHES = 4, 8, 2


def followed(*, revive: bool, rank: int = 0, world: int = 1) -> dict[str, Tensor]:
    """All buffers after a few steps; every rank sees its share of each step's batch, in micro-batches."""
    torch.manual_seed(0)
    quantizer = VectorQuantizer(32, 6, CodebookSettings(metric="euclidean", decay=0.7)).train()
    for step in range(STEPS):
        batch = torch.randn(BATCH, 6, 4, 4, generator=torch.Generator().manual_seed(step))
        for part in batch.chunk(world)[rank].chunk(MICRO_BATCHES):
            quantizer(part)
        quantizer.follow(step, revive=revive)
    return quantizer.state_dict()


def main() -> None:
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    for revive in (False, True):
        state = followed(revive=revive, rank=rank, world=world)
        torch.save(state, Path(sys.argv[1]) / f"{revive}-rank{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
