"""Our shard writer and reader against webdataset's usual recipe, interleaved in one process.

    OMP_NUM_THREADS=1 python benchmarks/shards.py [--side 256] [--samples 2000] [--rounds 3]

Process CPU seconds, one thread, page cache warm, no worker processes; the median of the rounds. Before anything is
timed both sides must agree: the two writers' samples byte for byte, the two readers' pixels within 2 of 255 (two JPEG
decoders). The ceiling of our reader, the JPEG decoder alone, is measured beside it. Prints a table and, as the last
line, JSON.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import webdataset
from PIL import Image

from pipeline.samples import Sample, decode_image
from pipeline.shard_index import Shard, write_shard
from pipeline.shards import Draw, open_batches, read_samples
from pipeline.training_config import DataConfig

BATCH = 96


def make_samples(count: int, side: int) -> list[Sample]:
    """Smooth random pictures as JPEG, some 60 of them different, each with a class."""
    rng = np.random.default_rng(0)
    payloads = []
    for _ in range(min(count, 60)):
        small = Image.fromarray(rng.integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8))
        out = io.BytesIO()
        small.resize((side, side), Image.Resampling.BICUBIC).save(out, "JPEG", quality=90)
        payloads.append(out.getvalue())
    return [Sample(f"{i:06d}", {"jpg": payloads[i % len(payloads)], "cls": b"%d" % (i % 10)}) for i in range(count)]


def write_ours(samples: list[Sample], folder: Path) -> Shard:
    """With sha256 and sidecar, as `tessera shard` writes."""
    return write_shard(folder, "train-000000", "train", samples)


def write_theirs(samples: list[Sample], folder: Path) -> None:
    """`ShardWriter`, which makes neither."""
    with webdataset.ShardWriter(str(folder / "theirs-%06d.tar"), maxcount=10**9, verbose=0) as sink:
        for sample in samples:
            sink.write({"__key__": sample.key, **sample.members})


def decode_ours(sample: Sample, draw: Draw) -> dict[str, Any]:
    """uint8 (3, h, w) and the class."""
    return {"image": decode_image(sample.members["jpg"]).transpose(2, 0, 1), "cls": int(sample.members["cls"])}


def read_ours(shards: list[Shard]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """One epoch of exact mode, shuffled in blocks."""
    batches = open_batches(shards, decode_ours, DataConfig(global_batch=BATCH), seed=0)
    for (batch,) in itertools.islice(batches, batches.samples_per_epoch // BATCH):
        yield batch["image"], batch["cls"]


def read_theirs(tar: Path, *, shuffle: int = 1000) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The usual recipe: shuffle buffer, Pillow, float32 (3, h, w) in [0, 1], stacked batches."""
    return iter(
        webdataset.WebDataset(str(tar), shardshuffle=False, empty_check=False)
        .shuffle(shuffle)
        .decode("torchrgb")
        .to_tuple("jpg", "cls")
        .batched(BATCH, partial=False)
    )


def read_theirs_uint8(tar: Path) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The same with uint8 pixels, so that what the float conversion costs is seen."""
    return iter(
        webdataset.WebDataset(str(tar), shardshuffle=False, empty_check=False)
        .shuffle(1000)
        .decode("rgb8")
        .to_tuple("jpg", "cls")
        .batched(BATCH, partial=False)
    )


def check_same(ours: Shard, theirs: Path, samples: list[Sample]) -> None:
    """The gate: both writers stored these samples; both readers give the same pixels for them."""
    assert list(read_samples(ours)) == samples
    stored = webdataset.WebDataset(str(theirs), shardshuffle=False, empty_check=False)
    assert [Sample(s["__key__"], {"jpg": s["jpg"], "cls": s["cls"]}) for s in stored] == samples
    mine = torch.from_numpy(np.stack([decode_ours(s, Draw(0, 0, 0, 0))["image"] for s in samples[:BATCH]]))
    image, cls = next(read_theirs(theirs, shuffle=0))
    assert cls.tolist() == [int(s.members["cls"]) for s in samples[:BATCH]]
    assert (mine.float() - image * 255).abs().max() <= 2.0
    sums = sorted(float(i.float().sum()) for images, _ in read_ours([ours]) for i in images)
    assert len(sums) == len(samples) // BATCH * BATCH and len(set(sums)) == min(60, len(samples))


def cpu_seconds(action: Callable[[], Any]) -> float:
    """Process CPU seconds of one call."""
    begin = time.process_time()
    action()
    return time.process_time() - begin


def exhaust(batches: Iterator[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Read to the end, touching every batch."""
    for image, _ in batches:
        float(image[0, 0, 0, 0])


def decode_all(samples: list[Sample]) -> None:
    """The ceiling of any reader here."""
    for sample in samples:
        decode_image(sample.members["jpg"])


def measure(samples: list[Sample], rounds: int, folder: Path) -> dict[str, list[float]]:
    """CPU seconds of each action, one after another in every round."""
    ours, theirs = folder / "ours", folder / "theirs"
    ours.mkdir()
    theirs.mkdir()
    shard, tar = write_ours(samples, ours), theirs / "theirs-000000.tar"
    write_theirs(samples, theirs)
    check_same(shard, tar, samples)
    actions: dict[str, Callable[[], Any]] = {
        "write, ours (sha256, sidecar, fsync)": lambda: write_ours(samples, ours),
        "write, webdataset.ShardWriter": lambda: write_theirs(samples, theirs),
        "read, ours (exact, uint8)": lambda: exhaust(read_ours([shard])),
        "read, webdataset + Pillow, float": lambda: exhaust(read_theirs(tar)),
        "read, webdataset + Pillow, uint8": lambda: exhaust(read_theirs_uint8(tar)),
        "decode_image alone": lambda: decode_all(samples),
    }
    taken: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(rounds):
        for name, action in actions.items():
            taken[name].append(cpu_seconds(action))
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--samples", type=int, default=2016)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    samples = make_samples(options.samples, options.side)
    with tempfile.TemporaryDirectory() as folder:
        taken = measure(samples, options.rounds, Path(folder))
    names = list(taken)
    median = {name: statistics.median(taken[name]) for name in names}
    for name in names:
        print(f"{name:40s} {options.samples / median[name]:10,.0f} samples per CPU second")
    pairs = {"write": (0, 1), "read_float": (2, 3), "read_uint8": (2, 4)}
    ratios = {}
    for what, (mine, other) in pairs.items():
        each = [b / a for a, b in zip(taken[names[mine]], taken[names[other]], strict=True)]
        ratios[what] = {"median": statistics.median(each), "min": min(each), "max": max(each)}
        print(f"{what}: {statistics.median(each):.1f}x ({min(each):.1f}-{max(each):.1f})")
    mean_bytes = sum(len(s.members["jpg"]) for s in samples) / len(samples)
    facts = {"side": options.side, "samples": options.samples, "mean_jpeg_bytes": round(mean_bytes)}
    print(json.dumps({**facts, "cpu_seconds": median, "ratios": ratios}))


if __name__ == "__main__":
    main()
