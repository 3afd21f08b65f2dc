"""Stored pictures to crops and back. Training, evaluation and codes use the same scale; only the place differs.

Shapes: b batch, h w height and width in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from pipeline.errors import DataError
from pipeline.samples import Sample, decode_image, image_member, without_ends
from pipeline.shards import Draw

MARGIN = 1.125
"""Short side of a picture before cropping, in units of the crop's side."""


@dataclass(frozen=True)
class CropDecode:
    """A decode function of the reader: the square crop `image`, uint8 (3, size, size).

    A picture is first brought to a short side of 1.125 x size where it is larger, of size where it is smaller.
    """

    size: int
    random: bool = False
    """Where the crop lies: drawn per sample and step, or the centre."""
    flip: bool = False
    """Mirror every second picture; wrong where captions say left or right."""

    def __call__(self, sample: Sample, draw: Draw) -> dict[str, np.ndarray]:
        """`{"image": ...}`; DataError where the sample has no readable picture."""
        name = image_member(sample.members)
        if name is None:
            raise DataError(f"sample '{sample.key}' has no picture (jpg, png or webp).")
        pixels = fit_short_side(decode_image(sample.members[name], min_side=round(self.size * MARGIN)), self.size)
        spare = np.array(pixels.shape[:2]) - self.size
        place, mirrored = spare // 2, False
        if self.random or self.flip:
            rng = draw.rng("crop")
            drawn = rng.integers(0, spare + 1)
            place = drawn if self.random else place
            mirrored = self.flip and bool(rng.random() < 0.5)
        return {"image": cut(pixels, int(place[0]), int(place[1]), self.size, mirrored=mirrored)}


def train_decode(size: int, *, random_crop: bool = True, flip: bool = False) -> CropDecode:
    """Crops to train on."""
    return CropDecode(size, random_crop, flip)


def center_decode(size: int) -> CropDecode:
    """The centre of every picture: for evaluation."""
    return CropDecode(size)


def fit_short_side(pixels: UInt8[np.ndarray, "h w 3"], size: int) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Scale so that the short side is between `size` and `MARGIN` x `size`; as stored where it is already."""
    pixels = without_ends(pixels)
    height, width = pixels.shape[:2]
    short, most = min(height, width), round(size * MARGIN)
    if size <= short <= most:
        return pixels
    scale = (most if short > most else size) / short
    to = (max(size, round(width * scale)), max(size, round(height * scale)))
    return np.asarray(Image.fromarray(pixels).resize(to, Image.Resampling.LANCZOS))


def cut(
    pixels: UInt8[np.ndarray, "h w 3"], top: int, left: int, size: int, *, mirrored: bool = False
) -> UInt8[np.ndarray, "3 size size"]:
    """The square at (top, left), channels first."""
    crop = pixels[top : top + size, left : left + size]
    return rearrange(crop[:, ::-1] if mirrored else crop, "h w c -> c h w")


def picture_to_tensor(images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    """Bytes to [-1, 1], on whatever device they are."""
    return images.float().mul_(1 / 127.5).sub_(1.0)


def shown_to(
    images: Float[Tensor, "b 3 h w"], side: int, mean: Float[Tensor, "3 1 1"], deviation: Float[Tensor, "3 1 1"]
) -> Float[Tensor, "b 3 side side"]:
    """Pictures in [-1, 1] as a vision model of this side takes them; its mean and deviation are of [0, 1]."""
    pictures = images.float() * 0.5 + 0.5
    if pictures.shape[-2:] != (side, side):
        smaller = min(pictures.shape[-2:]) > side
        pictures = F.interpolate(pictures, (side, side), mode="area" if smaller else "bilinear")
    return (pictures - mean) / deviation


def tensor_to_picture(images: Float[Tensor, "b 3 h w"]) -> UInt8[np.ndarray, "b h w 3"]:
    """[-1, 1] to bytes, rounded, out of range cut off."""
    levels = images.detach().float().add(1.0).mul(127.5).round().clamp(0, 255).to(torch.uint8)
    return rearrange(levels, "b c h w -> b h w c").cpu().numpy()


def rows_of_pictures(*rows: UInt8[np.ndarray, "b h w 3"], gap: int = 2) -> UInt8[np.ndarray, "H W 3"]:
    """One picture: row under row, white gaps between."""
    framed = [np.pad(row, ((0, 0), (gap, gap), (gap, gap), (0, 0)), constant_values=255) for row in rows]
    return np.concatenate([rearrange(row, "b h w c -> h (b w) c") for row in framed])
