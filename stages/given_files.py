"""Pictures and sounds as a user gives them, files or numbers, with one clear error each.

Shapes: h, w of a picture, s side of the run's pictures, c channels and t samples of a sound.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from einops import rearrange
from jaxtyping import UInt8
from PIL import Image, ImageOps

from pipeline.errors import ConfigError, DataError
from pipeline.samples import MAX_SOUND_SECONDS, decode_image, decode_sound, rgb_of, without_ends
from stages.conditioning.sounds import Sound
from stages.images import cut, fit_short_side

Picture = str | Path | np.ndarray | Image.Image


def read_picture(what: Picture, size: int) -> UInt8[np.ndarray, "s s 3"]:
    """The centre square of a picture at the run's size.

    Raises:
        ConfigError: no such file.
        DataError: it is no picture.
    """
    pixels = without_ends(_pixels(what))
    short = min(pixels.shape[:2])
    if short != size:  # the whole short side, not the crop's margin: what a user gives is what is meant
        scale = size / short
        to = (max(size, round(pixels.shape[1] * scale)), max(size, round(pixels.shape[0] * scale)))
        pixels = np.asarray(Image.fromarray(pixels).resize(to, Image.Resampling.LANCZOS))
    pixels = fit_short_side(pixels, size)
    top, left = ((np.array(pixels.shape[:2]) - size) // 2).tolist()
    return np.ascontiguousarray(rearrange(cut(pixels, top, left, size), "c h w -> h w c"))


def read_sound(what: str | Path | Sound) -> Sound:
    """A sound file (wav, flac, ogg, opus, mp3) as (float32 (c, t), rate).

    Raises:
        ConfigError: no such file.
        DataError: no sound, one with numbers that are not finite, or longer than ten minutes.
    """
    if isinstance(what, tuple):
        samples, rate = np.asarray(what[0]), int(what[1])
        right = samples.ndim in (1, 2) and samples.size > 0 and samples.dtype.kind == "f" and rate > 0
        if not right or (samples.ndim == 2 and samples.shape[0] > samples.shape[1]) or not np.isfinite(samples).all():
            raise DataError(
                "audio=(samples, rate): samples are floats from -1 to 1, finite, (t,) or (channels, t), at `rate` a "
                f"second; got {samples.dtype} {samples.shape}."
            )
        if samples.shape[-1] > MAX_SOUND_SECONDS * rate:
            minutes = samples.shape[-1] / rate / 60
            raise DataError(f"audio is {minutes:.0f} minutes long; at most {MAX_SOUND_SECONDS // 60} are read.")
        return samples, rate
    import soundfile

    path = _file(what, "sound")
    try:
        facts = soundfile.info(str(path))
        if facts.frames > MAX_SOUND_SECONDS * facts.samplerate:
            raise DataError(
                f"{what} is {facts.frames / facts.samplerate / 60:.0f} minutes long; at most "
                f"{MAX_SOUND_SECONDS // 60} are read. Cut out the part that is meant."
            )
        return decode_sound(path.read_bytes())
    except DataError:
        raise
    except Exception as error:  # hostile bytes: decoders raise nearly any type
        reason = str(error).rpartition(">: ")[2][:120]
        raise DataError(f"{what} is no readable sound (wav, flac, ogg, opus or mp3): {reason}") from error


def like(mask: Picture, picture: Picture) -> np.ndarray:
    """The mask stretched to the picture's shape: both are then cut to the same square."""
    height, width = _pixels(picture).shape[:2]
    return np.asarray(Image.fromarray(_pixels(mask)).resize((width, height), Image.Resampling.NEAREST))


def _pixels(what: Picture) -> UInt8[np.ndarray, "h w 3"]:
    if isinstance(what, np.ndarray):
        if what.dtype != np.uint8 or what.size == 0 or what.shape[2:] not in ((), (3,), (4,)) or what.ndim < 2:
            raise DataError(f"an image is uint8 (h, w), (h, w, 3) or (h, w, 4); got {what.dtype} {what.shape}.")
        what = Image.fromarray(what)
    if isinstance(what, Image.Image):
        return rgb_of(ImageOps.exif_transpose(what))  # upright, as the same file is by its path
    try:
        return decode_image(_file(what, "picture").read_bytes())
    except DataError as error:
        raise DataError(f"{what}: {error}") from error


def _file(path: str | Path, kind: str) -> Path:
    if not Path(path).is_file():
        raise ConfigError(f"no {kind} at {path}.")
    if not os.access(path, os.R_OK):
        raise ConfigError(f"the {kind} at {path} may not be read.")
    return Path(path)
