"""Every random draw of Tessera: a pure function of (seed, purpose, step or epoch, row), so no generator state is saved.

`seed_of` hashes names and numbers to one integer. `uniform`, `normal` and `gumbel` are counter-based: entry (row, i)
depends on the seed, the row and i alone, never on the batch it is drawn in, the device or the number of processes.

Shapes: r rows, n draws per row.
"""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit integer (SplitMix64, Steele et al. 2014)
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


def seed_of(*parts: int | str) -> int:
    """A 63-bit seed from any names and numbers; the same on every machine and Python."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def numpy_rng(*parts: int | str) -> np.random.Generator:
    """A NumPy generator of its own for these names and numbers."""
    return np.random.Generator(np.random.Philox(seed_of(*parts)))


def torch_generator(*parts: int | str) -> torch.Generator:
    """A CPU torch generator of its own for these names and numbers."""
    import torch

    return torch.Generator().manual_seed(seed_of(*parts))


def _shift_right(x: torch.Tensor, bits: int) -> torch.Tensor:
    """Logical shift of signed 64-bit integers; torch's own shift is arithmetic."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: torch.Tensor) -> torch.Tensor:
    x = (x ^ _shift_right(x, 30)) * _MIX_1
    x = (x ^ _shift_right(x, 27)) * _MIX_2
    return x ^ _shift_right(x, 31)


def uniform(seed: int, rows: torch.Tensor, n: int) -> torch.Tensor:
    """Uniform draws in the open interval (0, 1).

    Args:
        seed: from `seed_of(run seed, purpose, step, ...)`.
        rows: int64 (r,), the global row (or image seed) of each line of the result.
        n: draws per row.

    Returns:
        float32 (r, n) on the device of `rows`.
    """
    import torch

    counters = torch.arange(1, n + 1, device=rows.device, dtype=torch.int64) * _GOLDEN
    starts = _mix(_mix(rows.to(torch.int64) * _GOLDEN + seed) + seed)
    bits = _shift_right(_mix(starts[:, None] + counters[None, :]), 40)  # 24 bits: exact in float32
    return ((bits.to(torch.float32) + 0.5) / (1 << 24)).clamp(max=1 - 2**-24)  # the highest would round to 1


def normal(seed: int, rows: torch.Tensor, n: int) -> torch.Tensor:
    """Standard normal draws, float32 (r, n), by Box-Muller on `uniform`."""
    u = uniform(seed, rows, 2 * n)
    return (-2.0 * u[:, :n].log()).sqrt() * (2.0 * math.pi * u[:, n:]).cos()


def gumbel(seed: int, rows: torch.Tensor, n: int) -> torch.Tensor:
    """Standard Gumbel draws, float32 (r, n): argmax(logits + gumbel) samples the softmax."""
    return -(-uniform(seed, rows, n).log()).log()
