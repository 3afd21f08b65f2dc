"""How fast codes are sampled: 8 layers x width 512, 1,024 codes, random weights, batch 1.

    python benchmarks/sampling.py [--threads 1] [--positions 1024]

Compares the autoregressive prior with its key-value cache against the same prior run anew over all codes before each
one, and adds the masked prior of the same size. The uncached run is measured at evenly spaced positions, 32 by default,
and summed over all by the trapezoidal rule (its cost per position is smooth); `--positions 1024` measures every one.
Speeds of different methods with random weights: what they paint is not compared. Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import platform
import time

import numpy as np
import torch

from stages.conditioning.condition import class_condition
from stages.prior.model import Prior
from stages.prior.order import default_steps
from stages.prior.sampling import sample
from stages.prior.settings import SampleSettings

GRID, ROWS, WIDTH, DEPTH, HEADS = (32, 32), 1024, 512, 8, 8
CODES = GRID[0] * GRID[1]


def make_prior(kind: str) -> Prior:
    """A prior of the benchmark's size."""
    torch.manual_seed(0)
    prior = Prior(
        kind=kind, grids=[GRID], codebook_sizes=[ROWS], conditions={"class": 10}, width=WIDTH, depth=DEPTH, heads=HEADS
    )
    return prior.eval().requires_grad_(False)


def seconds_sampling(prior: Prior, rows: int, settings: SampleSettings) -> float:
    """Wall seconds to sample `rows` images at once."""
    conditions = {"class": class_condition(torch.zeros(rows, dtype=torch.int64), 10)}
    begin = time.perf_counter()
    sample(prior, conditions, torch.arange(rows), settings)
    return time.perf_counter() - begin


def seconds_uncached(prior: Prior, positions: int) -> float:
    """Wall seconds for all codes of one image when every code runs the whole prefix anew."""
    guide = prior.guide({"class": class_condition(torch.zeros(1, dtype=torch.int64), 10)}, {}, 1)
    codes = torch.zeros(1, CODES, dtype=torch.int64)
    at = np.unique(np.linspace(1, CODES, positions).round().astype(int))
    seconds = []
    for length in at.tolist():
        begin = time.perf_counter()
        prior.causal_logits([codes[:, :length]], guide)
        seconds.append(time.perf_counter() - begin)
    return float(np.interp(np.arange(1, CODES + 1), at, seconds).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--positions", type=int, default=32, help="prefix lengths at which the uncached run is timed")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    plain = SampleSettings(guidance=1.0)
    causal, masked = make_prior("autoregressive"), make_prior("masked")
    causal.causal_logits([torch.zeros(1, 64, dtype=torch.int64)], causal.guide({}, {}, 1))  # warm up
    with torch.no_grad():
        cached = seconds_sampling(causal, 1, plain)
        uncached = seconds_uncached(causal, arguments.positions)
        parallel = seconds_sampling(masked, 1, plain)
        cached_batch = seconds_sampling(causal, 8, plain) / 8
    result = {
        "benchmark": "sampling",
        "codes": CODES,
        "layers": DEPTH,
        "width": WIDTH,
        "parameters": sum(p.numel() for p in causal.parameters()),
        "threads": arguments.threads,
        "uncached_seconds": round(uncached, 2),
        "uncached_positions_measured": arguments.positions,
        "cached_seconds": round(cached, 2),
        "cached_seconds_per_image_batch_8": round(cached_batch, 2),
        "masked_seconds": round(parallel, 2),
        "masked_steps": default_steps(CODES),
        "cached_over_uncached": round(uncached / cached, 1),
        "masked_over_uncached": round(uncached / parallel, 1),
        "torch": torch.__version__,
        "machine": platform.processor() or platform.machine(),
    }
    print(f"{CODES} codes, {DEPTH} layers x {WIDTH}, batch 1, {arguments.threads} thread(s)")
    print(f"  uncached       {uncached:8.2f} s  ({arguments.positions} of {CODES} prefix lengths measured)")
    print(f"  cached         {cached:8.2f} s  {uncached / cached:6.1f} x")
    print(f"  masked, {default_steps(CODES)} steps {parallel:6.2f} s  {uncached / parallel:6.1f} x")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
