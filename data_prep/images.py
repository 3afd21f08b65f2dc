"""Pictures as they are stored: upright RGB, short side at margin x size, small enough files byte for byte.

Shapes: h image height, w image width.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from data_prep.config import ShardsConfig
from data_prep.rejects import RejectedError
from pipeline.errors import DataError
from pipeline.samples import (
    STORED_FORMATS,
    ImageHeader,
    TooManyPixelsError,
    decode_image,
    is_one_shape,
    read_header,
    without_ends,
)

SOURCE_FORMATS = (*STORED_FORMATS, "BMP", "GIF")
_EXTENSION = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}
_READ = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8")
_UNREAD = (b"II*\0", b"MM\0*", b"8BPS", b"%!PS", b"\0\0\0\x0cjP", b"\xff\x0a")


@dataclass(frozen=True)
class StoredImage:
    """A picture ready to be written."""

    extension: str
    payload: bytes
    width: int
    height: int


def stored_image(payload: bytes, cfg: ShardsConfig) -> StoredImage:
    """Check a picture and bring it to the stored size.

    A picture whose short side is at most `cfg.stored_side` keeps its pixels, and its very bytes when it is a plain
    upright RGB or grey JPEG, PNG or WebP; from half the training size on, decoding scales it up. Below it is rejected.
    Of a strip that is scaled the middle is stored, all that training looks at.

    Raises:
        RejectedError: not_an_image, unsupported_format, too_many_pixels, too_small, too_long_picture or damaged_image.
    """
    header = header_of(payload)
    if 2 * header.short_side < cfg.size:
        raise RejectedError("too_small", f"{header.width} x {header.height}; at least {-(-cfg.size // 2)} is needed")
    pixels = pixels_of(payload, cfg.stored_side)
    height, width = pixels.shape[:2]
    if header.short_side <= cfg.stored_side and _is_plain(header):
        return StoredImage(_EXTENSION[header.format], payload, width, height)
    pixels = scaled(without_ends(pixels), cfg.stored_side)
    extension = _EXTENSION.get(header.format, "png") if cfg.format == "keep" else cfg.format
    return StoredImage(extension, encode_image(pixels, extension, cfg.quality), pixels.shape[1], pixels.shape[0])


def stored_pair(payload: bytes, cfg: ShardsConfig, target: StoredImage) -> bytes:
    """A condition picture as PNG: the target's very size where the two have one shape, else its own short side."""
    header_of(payload)
    pixels = pixels_of(payload, cfg.stored_side)
    for one in (pixels, pixels := without_ends(pixels)):
        if is_one_shape(one.shape, (target.height, target.width)):
            return encode_image(_resized(one, target.width, target.height), "png", cfg.quality)
    return encode_image(scaled(pixels, cfg.stored_side), "png", cfg.quality)


def header_of(payload: bytes) -> ImageHeader:
    """The picture's header; RejectedError when it is none."""
    try:
        return read_header(payload, formats=SOURCE_FORMATS)
    except TooManyPixelsError as error:
        raise RejectedError("too_many_pixels", str(error)) from None
    except DataError as error:
        if payload.startswith(_UNREAD) or payload[4:8] == b"ftyp":
            raise RejectedError("unsupported_format", f"read are {', '.join(SOURCE_FORMATS)}") from None
        begins_well = payload.startswith(_READ) or payload[8:12] == b"WEBP"
        raise RejectedError("damaged_image" if begins_well else "not_an_image", str(error)) from None


def pixels_of(payload: bytes, min_side: int) -> np.ndarray:
    """uint8 (h, w, 3); a large JPEG comes at the smallest scale whose short side is at least `min_side`."""
    try:
        return decode_image(payload, min_side=min_side, formats=SOURCE_FORMATS)
    except DataError as error:
        raise RejectedError("damaged_image", str(error)) from None


def _is_plain(header: ImageHeader) -> bool:
    return (
        header.format in _EXTENSION
        and header.mode in ("RGB", "L")
        and header.orientation in (0, 1)
        and header.frames == 1
        and not header.transparent
    )


def scaled(pixels: np.ndarray, side: int) -> np.ndarray:
    """Short side to `side` pixels, never up; Lanczos over the whole area each new pixel covers."""
    height, width = pixels.shape[:2]
    short = min(height, width)
    if short <= side:
        return pixels
    return _resized(pixels, max(side, round(width * side / short)), max(side, round(height * side / short)))


def _resized(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    if pixels.shape[:2] == (height, width):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS))


def encode_image(pixels: np.ndarray, extension: str, quality: int) -> bytes:
    """Bytes of a jpg (4:4:4), png or webp; the same pixels give the same bytes.

    Raises:
        RejectedError: too_long_picture, for the format.
    """
    options: dict[str, dict[str, Any]] = {
        "jpg": {"format": "JPEG", "quality": quality, "subsampling": 0},
        "png": {"format": "PNG", "compress_level": 6},
        "webp": {"format": "WEBP", "quality": quality, "method": 4},
    }
    out = io.BytesIO()
    try:
        Image.fromarray(pixels).save(out, **options[extension])
    except (OSError, ValueError) as error:
        height, width = pixels.shape[:2]
        raise RejectedError(
            "too_long_picture", f"{width} x {height} as {extension} ({error}); try format=png"
        ) from None
    return out.getvalue()
