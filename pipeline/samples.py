"""What a sample is: a key and its members, each an extension and its bytes, with one explicit decoder per extension.

Nothing here runs code found in data: an extension without a decoder (`pkl`, `pth`, ...) is refused. Image headers are
read before pixels, formats are allow-listed, arrays are loaded without pickles.

Shapes: h image height, w image width; sounds are (channels, t).
"""

from __future__ import annotations

import io
import json
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError

from pipeline.errors import DataError

try:
    import simplejpeg
except ImportError:  # optional: the extra `fast`; Pillow decodes the same pixels, 2.4 times slower
    simplejpeg = None

IMAGE_MEMBERS = ("jpg", "png", "webp")
SOUND_MEMBERS = ("flac", "wav")
LOUDEST = 1e6
"""Most that a sound may hold; some keep whole numbers of 16 bits in floats, none comes near this."""
CAPTION_MEMBERS = ("txt", "text", "caption")
"""Ours are the first; tars made by others have any."""
SAME_SHAPE = 0.02
LONGEST = 16
"""Longest side of a picture that is looked at, in units of its short side."""
EXECUTABLE_MEMBERS = frozenset({"pkl", "pickle", "pyd", "pth", "pt", "ckpt", "joblib", "dill"})
"""Members other readers unpickle, which runs whatever code they hold; refused wherever they turn up."""
STORED_FORMATS = ("JPEG", "PNG", "WEBP")
MAX_PIXELS = 50_000_000
_TOO_MANY = f"the picture claims too many pixels; at most {MAX_PIXELS:,} are decoded."
MAX_MEMBER_BYTES = 64 << 20
MAX_SOUND_SECONDS = 600
_ORIENTATION = 0x0112
T = TypeVar("T")
_MEMBER = re.compile(r"((?:.*/|)[^./][^.]*)\.([^/]+)", re.DOTALL)


class TooManyPixelsError(DataError):
    """A picture larger than `MAX_PIXELS`: a photograph to scale down, or a decompression bomb."""


@dataclass(frozen=True)
class Sample:
    """One sample as it is stored.

    `members` maps an extension, everything after the first dot of the file name (`jpg`, `source.png`, `level0.npy`),
    to its bytes. An absent modality is an absent member.
    """

    key: str
    members: dict[str, bytes]


def split_member(name: str) -> tuple[str, str]:
    """`"a/000001.source.png"` -> `("a/000001", "source.png")`, as WebDataset does.

    Raises:
        DataError: absolute, `..` or control characters in the name, no key or no extension.
    """
    match = _MEMBER.fullmatch(name)
    if not match or name.startswith("/") or ".." in name.split("/") or not name.isprintable():
        raise DataError(f"member {name[:120]!r} is not named <key>.<extension> below the archive's root.")
    return match[1], match[2].lower()


def label_of(sample: Sample) -> int:
    """The number in a sample's `.cls`; -1 where there is none, or a name, as tars made by others have it."""
    try:
        return int(sample.members.get("cls", b"-1"))
    except ValueError:
        return -1


def record_of(sample: Sample) -> dict[str, Any]:
    """The object in a sample's `.json`; empty where there is none, or something else, as tars made by others may have.

    Raises:
        ValueError: it is no JSON; the reader counts the sample as unreadable.
    """
    try:
        record = json.loads(sample.members["json"]) if "json" in sample.members else {}
    except RecursionError as error:
        raise ValueError("JSON nested too deeply") from error
    return record if isinstance(record, dict) else {}


def captions_in(record: Mapping[str, Any]) -> list[str]:
    """The captions that a sample's JSON holds under `captions` or `caption`, one or a list of them."""
    more = record.get("captions", record.get("caption"))
    return [text for text in (more if isinstance(more, list) else [more]) if isinstance(text, str)]


def is_one_shape(one: Sequence[int], other: Sequence[int]) -> bool:
    """Whether two pictures (height, width) differ in size alone."""
    return abs(one[1] * other[0] / (one[0] * other[1]) - 1) <= SAME_SHAPE


def without_ends(pixels: np.ndarray) -> np.ndarray:
    """The middle (h2, w2, 3) of a strip (h, w, 3) longer than `LONGEST` short sides: whole it may fill the memory."""
    most = LONGEST * min(pixels.shape[:2])
    top, left = (max(0, (side - most) // 2) for side in pixels.shape[:2])
    return pixels[top : top + most, left : left + most]


def last_part(extension: str) -> str:
    """The part of an extension that says how it is decoded: `source.png` -> `png`."""
    return extension.rpartition(".")[2]


def image_member(members: dict[str, Any]) -> str | None:
    """The extension of a sample's picture, or None."""
    return next((e for e in (*IMAGE_MEMBERS, "jpeg") if e in members), None)


@dataclass(frozen=True)
class ImageHeader:
    """What a picture says of itself before a pixel is decoded; sizes are before `orientation` is applied."""

    format: str
    width: int
    height: int
    mode: str
    orientation: int
    frames: int
    transparent: bool

    @property
    def short_side(self) -> int:
        return min(self.width, self.height)


def read_header(payload: bytes, *, formats: tuple[str, ...] = STORED_FORMATS) -> ImageHeader:
    """Format, size, mode and EXIF orientation.

    Raises:
        DataError: no picture of these formats, or more than `MAX_PIXELS` pixels.
    """
    return _guarded(lambda: _header_of(_open_image(payload, formats)))


def decode_image(
    payload: bytes, *, min_side: int | None = None, formats: tuple[str, ...] = STORED_FORMATS
) -> np.ndarray:
    """Decode a picture to RGB, upright, transparency on white.

    Args:
        payload: the bytes of a JPEG, PNG or WebP file.
        min_side: a JPEG may be decoded at a reduced scale as long as its short side stays at least this.
        formats: what Pillow may try.

    Returns:
        uint8 (h, w, 3).

    Raises:
        DataError: not a picture of these formats, damaged, cut off, or more than `MAX_PIXELS` pixels.
    """
    return _guarded(lambda: _decode_image(payload, min_side, formats))


def _guarded(decode: Callable[[], T]) -> T:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of odd EXIF and palettes; the pixels decide
            return decode()
    except DataError:
        raise
    except Image.DecompressionBombError as error:  # Pillow's own, higher limit, before ours is asked
        raise TooManyPixelsError(_TOO_MANY) from error
    except UnidentifiedImageError as error:
        raise DataError("not a picture of a known format.") from error
    except Exception as error:  # hostile bytes: decoders raise nearly any type
        raise DataError(f"not a readable picture ({type(error).__name__}: {str(error)[:120]}).") from error


def _open_image(payload: bytes, formats: tuple[str, ...]) -> Image.Image:
    image = Image.open(io.BytesIO(payload), formats=formats)
    _check_pixels(*image.size)
    return image


def _check_pixels(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise TooManyPixelsError(_TOO_MANY)


def _header_of(image: Image.Image) -> ImageHeader:
    orientation = int(image.getexif().get(_ORIENTATION, 1))
    frames = int(getattr(image, "n_frames", 1))
    transparent = "transparency" in image.info
    return ImageHeader(image.format or "", image.width, image.height, image.mode, orientation, frames, transparent)


def _decode_image(payload: bytes, min_side: int | None, formats: tuple[str, ...]) -> np.ndarray:
    if simplejpeg is not None and payload[:2] == b"\xff\xd8" and "JPEG" in formats:
        try:
            return _fast_jpeg(payload, min_side)
        except ValueError:
            pass  # CMYK, or damage that Pillow may take: whether simplejpeg is installed decides nothing
    image = _open_image(payload, formats)
    orientation = int(image.getexif().get(_ORIENTATION, 1))
    if min_side is not None and image.format == "JPEG":
        scale = _scale(min(image.size), min_side)
        image.draft("RGB", (image.width // scale, image.height // scale))
    return _upright(rgb_of(image), orientation)


def _scale(short: int, min_side: int) -> int:
    """The largest of the scales 1/8, 1/4, 1/2 and 1, which every decoder has, that leaves `min_side` pixels."""
    return next((scale for scale in (8, 4, 2) if -(-short // scale) >= min_side), 1)


def _fast_jpeg(payload: bytes, min_side: int | None) -> np.ndarray:
    height, width, color, _ = simplejpeg.decode_jpeg_header(payload)
    _check_pixels(width, height)
    if color in ("CMYK", "YCCK"):
        raise ValueError(color)
    scale = 1 if min_side is None else _scale(min(height, width), min_side)
    if scale == 1:
        pixels = simplejpeg.decode_jpeg(payload, colorspace="RGB")
    else:
        least = {"min_height": -(-height // scale), "min_width": -(-width // scale)}
        pixels = simplejpeg.decode_jpeg(payload, colorspace="RGB", **least)
    return _upright(pixels, _jpeg_orientation(payload))


def _jpeg_orientation(payload: bytes) -> int:
    if payload.find(b"Exif\0\0", 0, 1 << 17) < 0:
        return 1
    return int(Image.open(io.BytesIO(payload), formats=("JPEG",)).getexif().get(_ORIENTATION, 1))


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undo the EXIF orientation (TIFF 6.0, tag 274): bits of (orientation - 1) are mirror, flip, transpose."""
    if not 2 <= orientation <= 8:
        return pixels
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def rgb_of(image: Image.Image) -> np.ndarray:
    """A picture of any mode as uint8 (h, w, 3), transparency on white."""
    if image.mode.startswith("I;16") or image.mode == "I":  # Pillow would clip 16-bit grey instead of scaling it
        grey = (np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return np.array(image.convert("RGB"))


def decode_sound(payload: bytes) -> tuple[np.ndarray, int]:
    """Decode FLAC or WAV to (float32 (channels, t) in [-1, 1], samples per second).

    Raises:
        ValueError: it is empty, not finite or longer than `MAX_SOUND_SECONDS`.
    """
    import soundfile

    facts = soundfile.info(io.BytesIO(payload))
    if facts.frames > MAX_SOUND_SECONDS * facts.samplerate:
        minutes = facts.frames / facts.samplerate / 60
        raise ValueError(f"it is {minutes:.0f} minutes long, at most {MAX_SOUND_SECONDS // 60} are read")
    samples, rate = soundfile.read(io.BytesIO(payload), dtype="float32", always_2d=True)
    if samples.size == 0 or not np.isfinite(samples).all():
        raise ValueError("the sound is empty or holds numbers that are not finite")
    if np.abs(samples).max() > LOUDEST:
        raise ValueError(f"the sound holds numbers beyond {LOUDEST:g}, where 1 is full scale")
    return np.ascontiguousarray(samples.T), int(rate)


def decode_npy(payload: bytes) -> np.ndarray:
    """Decode one `.npy` array; arrays of Python objects are refused."""
    array: np.ndarray = np.lib.format.read_array(io.BytesIO(payload), allow_pickle=False)
    return array


def encode_npy(array: np.ndarray) -> bytes:
    """The bytes of a `.npy` file: the same array gives the same bytes."""
    out = io.BytesIO()
    np.lib.format.write_array(out, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
    return out.getvalue()


def encode_json(value: Any) -> bytes:
    """Compact JSON with sorted keys: the same value gives the same bytes."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()


DECODERS: dict[str, Callable[[bytes], Any]] = {
    **dict.fromkeys((*IMAGE_MEMBERS, "jpeg"), decode_image),
    **dict.fromkeys(SOUND_MEMBERS, decode_sound),
    "npy": decode_npy,
    "txt": lambda payload: payload.decode("utf-8"),
    "cls": int,
    "json": json.loads,
}


def decode_member(extension: str, payload: bytes) -> Any:
    """Decode one member by the last part of its extension.

    Returns:
        jpg, png, webp: uint8 (h, w, 3); txt: str; cls: int; json: the value; npy: the array;
        flac, wav: (float32 (channels, t), rate).

    Raises:
        DataError: no decoder for this extension, or the bytes are not what the extension says.
    """
    decoder = DECODERS.get(last_part(extension))
    if decoder is None:
        raise DataError(f"member '.{extension}' has no decoder here and is never executed; known: {sorted(DECODERS)}.")
    try:
        return decoder(payload)
    except DataError:
        raise
    except Exception as error:  # hostile bytes: decoders raise nearly any type
        raise DataError(
            f"member '.{extension}' cannot be decoded ({type(error).__name__}: {str(error)[:120]})."
        ) from error
