"""Search and EMA of the codebook against vector-quantize-pytorch, in one run: time, extra memory, exactness.

    python -m benchmarks.quantizer [--repeats 3] [--json FILE]

Both get the same float32 vectors. Ours: `nearest`, `count`, `follow`. Theirs: `VectorQuantize._codebook` in training
mode, which searches, moves its EMA and looks the rows up; the time of the whole module is printed beside it, ours
then with lookup, commitment and straight-through. CPU seconds on one thread; calls alternate, so that a busy machine
slows both alike. Extra memory is what torch allocates at the peak, less what is returned. About two minutes.

Shapes: n vectors, d code width, k codebook rows.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from stages.vqvae.nearest import nearest
from stages.vqvae.quantizer import VectorQuantizer
from stages.vqvae.settings import CodebookSettings

CASES = ({"n": 131_072, "d": 64, "k": 512}, {"n": 32_768, "d": 64, "k": 8192})
APART = 1e-5  # squared distances nearer than this may be told apart differently in float32


def main() -> None:
    """Print a table, and the same as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for case in CASES:
        row = compare(**case, repeats=arguments.repeats)
        rows.append(row)
        print(
            f"n={row['n']} d={row['d']} k={row['k']}: search + EMA {row['ours_s'] * 1e3:.0f} ms against "
            f"{row['theirs_s'] * 1e3:.0f} ms, {row['ratio']:.1f}x (each pair {row['ratio_min']:.1f}-"
            f"{row['ratio_max']:.1f}x); whole module {row['module_ratio']:.1f}x; extra memory {row['ours_mib']:.1f} "
            f"against {row['theirs_mib']:.0f} MiB; {row['wrong']} of {row['checked']} codes wrong, "
            f"{row['close']} too close to call",
            flush=True,
        )
    text = json.dumps({"threads": torch.get_num_threads(), "torch": torch.__version__, "cases": rows})
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n")


def compare(n: int, d: int, k: int, repeats: int) -> dict[str, Any]:
    """One size, every figure."""
    from vector_quantize_pytorch import VectorQuantize

    torch.manual_seed(0)
    vectors = torch.randn(n, d)
    ours = VectorQuantizer(k, d, CodebookSettings(metric="euclidean"))
    theirs = VectorQuantize(dim=d, codebook_size=k, decay=0.99).train()
    batch, features = vectors[None], vectors.T.reshape(1, d, n, 1).contiguous(memory_format=torch.channels_last)

    def search_and_follow() -> Tensor:
        codes = nearest(vectors, ours.codebook)
        ours.count(vectors, codes)
        ours.follow(0)
        return codes

    pairs = {
        "": (search_and_follow, lambda: theirs._codebook(batch)),
        "module_": (lambda: (ours(features), ours.follow(0)), lambda: theirs(batch)),
    }
    found: dict[str, Any] = {"n": n, "d": d, "k": k}
    found |= {"ours_mib": extra_mib(pairs[""][0]), "theirs_mib": extra_mib(pairs[""][1])}  # and both are warm
    for name, (mine, other) in pairs.items():
        times = [(seconds(mine), seconds(other)) for _ in range(1 if name else repeats)]
        ratios = [b / a for a, b in times]
        found |= {f"{name}ours_s": statistics.median(a for a, _ in times)}
        found |= {f"{name}theirs_s": statistics.median(b for _, b in times)}
        found |= {f"{name}ratio": statistics.median(ratios), f"{name}ratio_min": min(ratios)}
        found |= {f"{name}ratio_max": max(ratios)}
    return found | check(vectors, ours.codebook)


@torch.no_grad()
def seconds(call: Callable[[], object]) -> float:
    """CPU seconds of one call."""
    start = time.process_time()
    call()
    return time.process_time() - start


@torch.no_grad()
def extra_mib(call: Callable[[], object]) -> float:
    """Peak of what the call allocates through torch, less what it returns."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = call()
    held = peak = 0
    for event in profiler.profiler.kineto_results.events():  # type: ignore[union-attr]
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    kept = result if isinstance(result, tuple) else (result,)
    returned = sum(t.untyped_storage().nbytes() for t in kept if isinstance(t, Tensor))
    return max(0, peak - returned) / 2**20


@torch.no_grad()
def check(vectors: Tensor, codebook: Tensor) -> dict[str, int]:
    """Codes against float64 brute force, wherever the two nearest rows differ by more than `APART`."""
    codes, rows, wrong, close = nearest(vectors, codebook), codebook.double(), 0, 0
    for start in range(0, len(vectors), 2048):
        distances = torch.cdist(vectors[start : start + 2048].double(), rows).square()
        two, where = distances.topk(2, dim=1, largest=False)
        apart = two[:, 1] - two[:, 0] > APART
        close += int((~apart).sum())
        wrong += int((where[:, 0] != codes[start : start + 2048])[apart].sum())
    return {"checked": len(vectors), "wrong": wrong, "close": close}


if __name__ == "__main__":
    main()
