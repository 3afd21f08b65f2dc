"""The first pictures of a data set on one sheet: what a person looks at before training on it."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from PIL import Image, ImageOps

from pipeline.samples import decode_image, image_member
from pipeline.shard_files import read_samples
from pipeline.shard_index import open_shards

COLUMNS, ROWS = 10, 4
MOST_SIDE = 128


def save_contact_sheet(shards: Path, size: int, path: Path) -> None:
    """Write the first `COLUMNS` x `ROWS` pictures of train, cut square, at most `MOST_SIDE` px each."""
    side = min(size, MOST_SIDE)
    samples = (sample for shard in open_shards(shards).split("train") for sample in read_samples(shard))
    sheet = Image.new("RGB", (COLUMNS * (side + 2) + 2, ROWS * (side + 2) + 2), "white")
    for i, sample in enumerate(islice(samples, COLUMNS * ROWS)):
        if name := image_member(sample.members):
            picture = ImageOps.fit(Image.fromarray(decode_image(sample.members[name])), (side, side))
            sheet.paste(picture, (2 + i % COLUMNS * (side + 2), 2 + i // COLUMNS * (side + 2)))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
