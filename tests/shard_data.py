"""Small real shards for the reader's tests: numbered JPEGs, a class and now and then a caption."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.samples import Sample, decode_member
from pipeline.shard_index import Shard, open_shards, write_dataset, write_shard
from pipeline.shards import Draw

SIDE = 16


def jpeg(number: int, side: int = SIDE) -> bytes:
    rng = np.random.default_rng(number)
    pixels = np.kron(rng.integers(0, 256, (2, 2, 3)), np.ones((side // 2, side // 2, 1))).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=90)
    return out.getvalue()


def sample(number: int, broken: frozenset[int] = frozenset()) -> Sample:
    members = {"jpg": b"not a jpeg" if number in broken else jpeg(number), "cls": str(number % 7).encode()}
    if number % 3 == 0:
        members["txt"] = f"picture {number}".encode()
    return Sample(f"{number:06d}", members)


def write_shards(folder: Path, sizes: list[int], broken: frozenset[int] = frozenset(), pad: int = 0) -> list[Shard]:
    """Shards of split `train`, keys counted through; `pad` adds so many incompressible bytes per sample."""
    folder.mkdir(parents=True, exist_ok=True)
    shards, first = [], 0
    for i, size in enumerate(sizes):
        samples = [sample(number, broken) for number in range(first, first + size)]
        if pad:
            for one in samples:
                one.members["npy"] = np.random.default_rng(int(one.key)).bytes(pad)
        shards.append(write_shard(folder, f"train-{i:06d}", "train", samples))
        first += size
    write_dataset(folder, shards, {})
    return open_shards(folder).split("train")


def decode(one: Sample, draw: Draw) -> dict:
    """The picture with one random row of pixels inverted, so that pixels depend on the draw too."""
    pixels = decode_member("jpg", one.members["jpg"]).copy()
    pixels[draw.rng("row").integers(SIDE)] ^= 255
    return {"image": pixels.transpose(2, 0, 1), "cls": int(one.members["cls"]), "share": 0.5, "name": f"n{one.key}"}
