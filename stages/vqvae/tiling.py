"""Pictures of any size through the autoencoder, tile by tile where memory is short.

A tile is encoded with a border as wide as a pixel of the reconstruction can see, so away from rounding it comes out as
it would from the whole picture.

Shapes: b batch, H W image.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from stages.vqvae.model import Autoencoder


@torch.no_grad()
def reconstruct(
    model: Autoencoder, images: Float[Tensor, "b 3 H W"], *, tile: int = 512, overlap: int | None = None
) -> Float[Tensor, "b 3 H W"]:
    """Encode and decode pictures of any size.

    Args:
        model: in eval mode.
        images: in [-1, 1]; sides need not be multiples of anything.
        tile: side of the part a tile contributes, in pixels, rounded up to the coarsest factor; 0 for no tiles.
        overlap: border around a tile, in pixels; as far as the model sees unless given.

    Returns:
        The reconstructions, of the same size.
    """
    unit = model.levels[0]
    height, width = images.shape[2:]
    padded = pad_to_multiple(images, unit)
    if not tile or max(padded.shape[2:]) <= tile:
        whole: Tensor = model(padded).images
        return whole[:, :, :height, :width]
    border = _round_up(model.reach if overlap is None else overlap, unit)
    result = torch.empty_like(padded)
    for rows, seen_rows in _spans(padded.shape[2], _round_up(tile, unit), border):
        for columns, seen_columns in _spans(padded.shape[3], _round_up(tile, unit), border):
            part = model(padded[:, :, seen_rows, seen_columns]).images
            inner_rows, inner_columns = _within(rows, seen_rows), _within(columns, seen_columns)
            result[:, :, rows, columns] = part[:, :, inner_rows, inner_columns].to(result.dtype)
    return result[:, :, :height, :width]


def pad_to_multiple(images: Float[Tensor, "b 3 H W"], unit: int) -> Tensor:
    """Repeat the last row and column until both sides are multiples of `unit`."""
    below, right = -images.shape[2] % unit, -images.shape[3] % unit
    return F.pad(images, (0, right, 0, below), mode="replicate") if below or right else images


def _spans(length: int, tile: int, border: int) -> Iterator[tuple[slice, slice]]:
    """Every tile of a side: what it contributes, and what it must see for that."""
    for start in range(0, length, tile):
        end = min(start + tile, length)
        yield slice(start, end), slice(max(0, start - border), min(length, end + border))


def _within(part: slice, seen: slice) -> slice:
    return slice(part.start - seen.start, part.stop - seen.start)


def _round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit
