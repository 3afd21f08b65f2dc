"""In which order a masked prior fills in the codes of a level, and how many at each step.

The Halton order (Besnier et al. 2025, arXiv 2503.17076) spreads the codes of a step over the image as evenly as
possible, so that codes chosen at once, without seeing each other, depend on each other least.
"""

from __future__ import annotations

import functools
import math


def radical_inverse(index: int, base: int) -> float:
    """The digits of `index` in `base`, mirrored at the point: van der Corput's sequence."""
    value, scale = 0.0, 1.0 / base
    while index:
        index, digit = divmod(index, base)
        value += digit * scale
        scale /= base
    return value


@functools.cache
def halton_order(height: int, width: int) -> tuple[int, ...]:
    """Every cell of a grid once, as flat raster indices, in the order a Halton sequence of bases 2 and 3 meets them."""
    order: dict[int, None] = {}
    index = 1
    while len(order) < height * width:
        y, x = int(radical_inverse(index, 2) * height), int(radical_inverse(index, 3) * width)
        order.setdefault(y * width + x)
        index += 1
    return tuple(order)


def cosine_counts(n: int, steps: int) -> list[int]:
    """How many of n codes are known after each step: few at first, when little is certain (MaskGIT, section 3.3).

    At least one new code a step; no more steps than codes.
    """
    steps = min(steps, n)
    counts: list[int] = []
    for step in range(1, steps + 1):
        known = n - math.floor(n * math.cos(math.pi / 2 * step / steps) + 1e-9)
        least = counts[-1] + 1 if counts else 1
        counts.append(min(max(known, least), n - (steps - step)))
    return counts


def default_steps(n: int) -> int:
    """Parallel steps for a level of n codes: 8 for 16, 10 for 64, 14 for 1,024."""
    return min(n, 4 + round(math.log2(n)))
