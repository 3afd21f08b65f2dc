"""Cached against live conditions: bytes on disk, and what a training step waits for.

    python benchmarks/conditions.py runs/birds [--batch 24] [--batches 20]

Both ways are run here on the run's own codes and encoders: stored conditions are read from the code shards; live ones
are read as captions and sounds from the image shards and encoded on this machine.
"""

from __future__ import annotations

import argparse
import json
import time
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from pipeline.config import used_folders
from pipeline.samples import SOUND_MEMBERS
from pipeline.shard_index import open_shards
from pipeline.shards import read_samples
from stages.codes.read import open_codes
from stages.codes.read_conditions import ConditionDecode, conditions_of, encoders_of


def stacked(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Fields of samples as a batch."""
    return {
        name: [row[name] for row in rows] if isinstance(rows[0][name], str)
        else torch.stack([torch.as_tensor(row[name]) for row in rows])
        for name in rows[0]
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--batches", type=int, default=20)
    arguments = parser.parse_args()
    use = used_folders(arguments.run)
    folders = {name: use.get(name, arguments.run / name) for name in ("shards", "codes", "align")}
    codes = open_codes(folders["codes"])
    about = {name: one for name, one in codes.conditions.items() if name in ("text", "audio")}
    encoders = encoders_of(about, [folders["align"]], torch.device("cpu"))
    live_about = {name: {**one, "cache": "live"} for name, one in about.items()}
    stored = ConditionDecode(about, tuple(codes.grids))
    live = ConditionDecode(live_about, tuple(codes.grids), encoders.get("audio"))
    count = arguments.batch * arguments.batches
    coded = list(islice(read_samples(codes.shards.split("train")[0]), count))
    given = list(islice(read_samples(open_shards(folders["shards"]).split("train")[0]), count))
    result: dict[str, Any] = {
        "samples": len(coded),
        "stored_bytes_per_sample": _bytes(coded, lambda name: name.startswith(("text.", "audio."))),
        "live_bytes_per_sample": _bytes(given, lambda name: name in SOUND_MEMBERS),  # captions lie with codes anyway
        "codes_bytes_per_sample": _bytes(coded, lambda name: name.startswith("level")),
    }
    for name, decode, samples, asked in (("stored", stored, coded, {}), ("live", live, given, encoders)):
        began = time.perf_counter()
        for at in range(0, len(samples), arguments.batch):
            rows = [decode(sample, None, 0, any_of=False) for sample in samples[at : at + arguments.batch]]
            conditions_of(stacked(rows), list(about), 0, asked)
        batches = len(range(0, len(samples), arguments.batch))
        result[f"{name}_ms_per_batch"] = round(1000 * (time.perf_counter() - began) / batches, 1)
    result["live_over_stored"] = round(result["live_ms_per_batch"] / result["stored_ms_per_batch"], 1)
    print(json.dumps(result))


def _bytes(samples: list[Any], wanted: Any) -> int:
    sizes = (len(payload) for sample in samples for name, payload in sample.members.items() if wanted(name))
    return round(sum(sizes) / len(samples))


if __name__ == "__main__":
    main()
