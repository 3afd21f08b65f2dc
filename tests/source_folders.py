"""Small source folders for tests of data_prep, and pictures damaged in every way."""

from __future__ import annotations

import io
import random
import tarfile
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image

from pipeline.randomness import numpy_rng
from tests.test_samples import bomb


def photo(seed: int, width: int = 48, height: int = 40) -> Image.Image:
    """A smooth coloured picture, another one for each seed."""
    coarse = numpy_rng("photo", seed).integers(0, 256, (5, 6, 3)).astype(np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def save(image: Image.Image, path: Path, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def class_folders(root: Path, classes: str = "abc", per_class: int = 20) -> Path:
    """`root/a/000.jpg` and so on; sizes vary around what size 32 stores."""
    for number, name in enumerate(classes):
        for i in range(per_class):
            seed = 1000 * number + i
            save(photo(seed, 30 + seed % 90, 28 + seed % 50), root / name / f"{i:03d}.jpg", quality=90)
    return root


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def fuzzed_folder(root: Path, count: int, seed: int = 0) -> Path:
    """`count` files called pictures: whole, cut, with flipped bits, of every mode, of other formats, bombs, nothing."""
    root.mkdir(parents=True)
    draw = random.Random(seed)
    for number in range(count):
        name, payload = _fuzzed(draw, number)
        (root / f"{number:05d}{name}").write_bytes(payload)
    return root


def _fuzzed(draw: random.Random, number: int) -> tuple[str, bytes]:
    image = photo(number, draw.randint(8, 90), draw.randint(8, 90))
    suffix, kind = draw.choice([(".jpg", "JPEG"), (".png", "PNG"), (".webp", "WEBP"), (".gif", "GIF"), (".bmp", "BMP")])
    payload = bytearray(encoded(image, kind))
    fault = draw.randrange(9)
    if fault == 0:
        payload = payload[: draw.randrange(len(payload))]
    elif fault == 1:
        for _ in range(draw.randint(1, 20)):
            payload[draw.randrange(len(payload))] ^= 1 << draw.randrange(8)
    elif fault == 2:
        return suffix, draw.choice([b"", b"\0" * 700, draw.randbytes(900), b"<html>404</html>", bomb(14_000, 14_000)])
    elif fault == 3:
        return draw.choice([".jpg", ".png", ".webp"]), bytes(payload)
    elif fault == 4:
        mode = draw.choice(["1", "L", "P", "LA", "RGBA", "I;16"])
        other = Image.fromarray(np.zeros((40, 40), np.uint16) + number) if mode == "I;16" else image.convert(mode)
        return ".png", encoded(other, "PNG")
    elif fault == 5:
        suffix, payload = ".jpg", bytearray(encoded(image.convert("CMYK"), "JPEG"))
    elif fault == 6:
        animated = encoded(image, "WEBP", save_all=True, append_images=[photo(1, *image.size)])
        suffix, payload = ".webp", bytearray(animated)
    elif fault == 7:
        suffix, payload = draw.choice([".tif", ".jpg"]), bytearray(encoded(image, "TIFF"))
    return suffix, bytes(payload)


def foreign_tar(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, payload in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(payload)
            tar.addfile(info, io.BytesIO(payload))
    return path


def sound(path: Path, seconds: float = 0.1, kind: str = "FLAC") -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.sin(np.arange(int(16_000 * seconds)) / 9) / 2, 16_000, format=kind)
    return path.read_bytes()
