"""What the stored codes say: pictures, and under them what the tokenizer paints from their codes alone."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import torch

from pipeline.samples import decode_npy
from pipeline.shard_files import read_samples
from pipeline.shard_index import ShardSet, open_shards
from pipeline.shards import read_pass
from stages.images import center_decode, rows_of_pictures, tensor_to_picture
from stages.vqvae.model import Autoencoder

SHOWN = 10


@torch.no_grad()
def decoded(source: ShardSet, codes: Path, model: Autoencoder, size: int) -> dict[str, np.ndarray]:
    """The first pictures of train (their centres) above what the first view of their stored codes decodes to.

    Returns:
        `decoded`: uint8 (height, width, 3); nothing where the first shard holds no picture.
    """
    shards = source.split("train")[:1]
    batch = next(read_pass(shards, center_decode(size), batch_size=SHOWN, limit=SHOWN), None)
    if batch is None:
        return {}
    wanted = {key: i for i, key in enumerate(batch["key"])}  # codes hold none whose caption or sound is damaged
    coded = islice(read_samples(open_shards(codes).split("train")[0]), SHOWN)
    samples = [sample for sample in coded if sample.key in wanted]
    if not samples:
        return {}
    device = next(model.parameters()).device
    levels = [
        torch.from_numpy(np.stack([decode_npy(s.members[f"level{i}.npy"])[0] for s in samples]).astype(np.int64))
        for i in range(len(model.levels))
    ]
    painted = tensor_to_picture(model.decode([level.to(device) for level in levels]))
    pictures = np.moveaxis(np.asarray(batch["image"]), 1, -1)[[wanted[sample.key] for sample in samples]]
    return {"decoded": rows_of_pictures(pictures, painted)}
