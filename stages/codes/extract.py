"""Write every image of a shard folder as codes: one output shard per input shard, restartable, split over processes.

A shard counts as done when its sidecar's sha256 is that of its tar. Process r of P takes shards r, r + P, ...; none
talks to another. The first one waits until all are there and writes `dataset.json`.

Shapes: b views in one pass, v views per image, h and w of a level.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from glob import escape
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.artifacts import read_json, write_json
from pipeline.atomic_file import TEMPORARY
from pipeline.errors import ConfigError, DataError, out_of_memory
from pipeline.samples import CAPTION_MEMBERS, Sample, decode_npy, encode_npy
from pipeline.shard_files import read_samples
from pipeline.shard_index import Shard, ShardSet, sha256_of, write_dataset, write_shard
from pipeline.stopping import heed_stop_file
from pipeline.tar_writer import fits
from stages.codes import latents as latent_sums
from stages.codes.config import CodesConfig, ConditionsConfig
from stages.codes.encode_conditions import ConditionEncoders
from stages.codes.views import Read, ReadAll, SampleReader
from stages.images import picture_to_tensor
from stages.vqvae.model import Autoencoder

COPIED = ("cls", *CAPTION_MEMBERS, "json")
NEVER_SAID = "no sample has any %s that can be read: no prior will listen to it"
TOO_LONG = "its name is too long for a tar beside the names of codes; tessera shard gives it a shorter one"
MANY = 1000
"""Samples from which on starting worker processes pays."""
SETTINGS = "extraction.json"
POLL_SECONDS = 0.2
log = logging.getLogger(__name__)


@dataclass
class Extractor:
    """One process's share of an extraction."""

    model: Autoencoder
    image_size: int
    cfg: CodesConfig
    flips: bool
    out: Path
    tokenizer: str
    encoders: ConditionEncoders = field(default_factory=lambda: ConditionEncoders(ConditionsConfig()))

    def __post_init__(self) -> None:
        self.device = next(self.model.parameters()).device
        self.at_once = max(1, self.cfg.batch_size)
        self.said = self.encoders.about()
        kinds, heard = self.cfg.conditions.image, tuple(self.said)
        self.reader = SampleReader(self.image_size, self.cfg.variants, self.flips, kinds, heard)
        self.read_all: ReadAll = lambda samples: map(self.reader, samples)

    def settle(self) -> None:
        """Refuse a folder begun with another tokenizer or other views.

        Raises:
            ConfigError: what differs.
        """
        mine = {
            "tokenizer": self.tokenizer, "variants": self.cfg.variants, "flips": self.flips,
            "latents": self.cfg.latents, "image_size": self.image_size, "sources": list(self.cfg.conditions.image),
        }  # fmt: skip
        mine |= {f"{name} encoder": f"{one['fingerprint'][:12]} {one['cache']}" for name, one in self.said.items()}
        path = self.out / SETTINGS
        before = read_json(path)
        changed = [f"{k}: {str(before[k])[:20]} -> {str(v)[:20]}" for k, v in mine.items() if before.get(k, v) != v]
        if changed:
            raise ConfigError(
                f"{self.out} holds codes made with another {'; '.join(changed)}.\nMake them again with --redo codes."
            )
        if not before:
            write_json(path, mine)

    def write(self, shard: Shard, report: Callable[[int], None]) -> Shard:
        """Encode one shard, unless that is done; `report` gets the number of its samples that are."""
        finished = self.finished(shard)
        if finished is not None:
            return finished
        (folder := (self.out / shard.name).parent).mkdir(parents=True, exist_ok=True)  # train/00000 lies in one
        last = escape(Path(shard.name).name)
        for leftover in folder.glob(f".{last}.*{TEMPORARY}*"):  # of a killed process; no other has this shard
            leftover.unlink(missing_ok=True)
        rejects: list[dict[str, str]] = []
        return write_shard(self.out, shard.name, shard.split, self._samples(shard, rejects, report), rejects)

    def finished(self, shard: Shard) -> Shard | None:
        """The output of an input shard as an earlier process left it; None where it is missing or damaged."""
        tar, sidecar = self.out / f"{shard.name}.tar", self.out / f"{shard.name}.json"
        try:
            facts = json.loads(sidecar.read_bytes())
            whole = facts["bytes"] == tar.stat().st_size and facts["sha256"] == sha256_of(tar)
            summed = self.cfg.latents == "none" or not facts["samples"] or self.sums_path(shard.name).is_file()
            counted = not self.said or self.counts_path(shard.name).is_file()
            if whole and summed and counted and facts["samples"] + len(facts["rejects"]) == shard.samples:
                return Shard(str(tar), shard.name, shard.split, facts["samples"], facts["bytes"], facts["sha256"])
        except (OSError, ValueError, KeyError, TypeError):
            pass
        return None

    def sums_path(self, name: str) -> Path:
        """Where the sums of one shard's latents lie."""
        return self.out / "latents" / f"{name}.json"

    def _samples(self, shard: Shard, rejects: list[dict[str, str]], report: Callable[[int], None]) -> Iterator[Sample]:
        """The output samples of a shard; its sums and counts are written before its tar appears."""
        total: latent_sums.Sums | None = None
        read, done, longest = self._read(shard, rejects), 0, 0
        said = {"text": 0, "audio": 0}
        while chunk := list(islice(read, max(1, self.at_once // self.cfg.variants))):
            codes, befores, chunk_sums = self.encode(np.concatenate([one.views for one in chunk]))
            total = latent_sums.add(total, chunk_sums) if chunk_sums else total
            told = self.encoders.members([one.said for one in chunk], [one.sample for one in chunk])
            more = [{**a, **b, **c} for a, b, c in zip(self._sources(chunk), told, self._seen(chunk), strict=True)]
            for i, one in enumerate(chunk):
                span = slice(i * self.cfg.variants, (i + 1) * self.cfg.variants)
                longest = max(longest, longest_text(told[i]))
                yield self._coded(one.sample, [c[span] for c in codes], [b[span] for b in befores], more[i])
            said["text"] += sum(bool(one.said.captions) for one in chunk)
            said["audio"] += sum(one.said.sound is not None for one in chunk)
            done += len(chunk)
            report(done)
        if total is not None:
            self.sums_path(shard.name).parent.mkdir(parents=True, exist_ok=True)
            write_json(self.sums_path(shard.name), total)
        if self.said:
            self.counts_path(shard.name).parent.mkdir(parents=True, exist_ok=True)
            write_json(self.counts_path(shard.name), {"text_tokens": longest, "said": said})

    def _read(self, shard: Shard, rejects: list[dict[str, str]]) -> Iterator[Read]:
        for one in self.read_all(read_samples(shard)):
            if error := one.error or ("" if fits(f"{one.sample.key}.{self._longest_member(one)}") else TOO_LONG):
                log.warning("shard %s, sample '%s' has no codes: %s", shard.name, one.sample.key, error)
                rejects.append({"source": one.sample.key, "reason": "unreadable", "detail": error})
            else:
                yield one

    def _longest_member(self, one: Read) -> str:
        """The longest name of what is written of a sample."""
        names = ["latent0.npy" if self.cfg.latents == "full" else "level0.npy", *set(COPIED) & set(one.sample.members)]
        names += [f"{kind}.{'level0' if self.encoders.vector is None else 'vector'}.npy" for kind in one.sources]
        names += ["picture.vector.npy"] * (self.encoders.picture is not None)
        names += [
            f"{name}.pooled.npy" for name in ("text", "audio") if name in self.said and self.cfg.conditions.stored
        ]
        return max(names, key=len)

    def _sources(self, chunk: list[Read]) -> list[dict[str, bytes]]:
        """Codes of each sample's source pictures: `<kind>.level<i>.npy` (v, h, w)."""
        found: list[dict[str, bytes]] = [{} for _ in chunk]
        for kind in sorted({kind for one in chunk for kind in one.sources}):
            here = [i for i, one in enumerate(chunk) if kind in one.sources]
            codes, _, _ = self.encode(np.concatenate([chunk[i].sources[kind] for i in here]), latents=False)
            for n, i in enumerate(here):
                span = slice(n * self.cfg.variants, (n + 1) * self.cfg.variants)
                found[i] |= {f"{kind}.level{level}.npy": encode_npy(c[span]) for level, c in enumerate(codes)}
            if self.encoders.vector is not None:
                pictures = np.stack([chunk[i].sources[kind][0] for i in here])
                seen = self.encoders.vectors(self.encoders.vector, pictures)
                for i, vector in zip(here, seen, strict=True):
                    found[i][f"{kind}.vector.npy"] = vector
        return found

    def _seen(self, chunk: list[Read]) -> list[dict[str, bytes]]:
        """What a CLIP sees in each picture."""
        if self.encoders.picture is None:
            return [{} for _ in chunk]
        vectors = self.encoders.vectors(self.encoders.picture, np.stack([one.views[0] for one in chunk]))
        return [{"picture.vector.npy": vector} for vector in vectors]

    def counts_path(self, name: str) -> Path:
        """Where the longest text of one shard is noted, and how many samples say something."""
        return self.out / "conditions" / f"{name}.json"

    def encode(
        self, pictures: np.ndarray, *, latents: bool = True
    ) -> tuple[list[np.ndarray], list[np.ndarray], latent_sums.Sums | None]:
        """Codes of uint8 (b, 3, s, s), in as many passes as memory asks for.

        Returns:
            Codes (b, h, w) per level, uint16 or uint32; latents float16 (b, d, h, w) where kept; sums of the latents.
        """
        parts: list[tuple[list[Tensor], list[Tensor]]] = []
        total: latent_sums.Sums | None = None
        at = 0
        while at < len(pictures):
            step = self.at_once
            try:
                codes, befores = self._encode_once(pictures[at : at + step])
            except RuntimeError as error:
                self._halve(error)
                continue
            if latents and self.cfg.latents != "none":
                exact = [self.model.lookup(c, i) for i, c in enumerate(codes)]
                total = latent_sums.add(total, latent_sums.level_sums(befores, exact))
            parts.append(([c.cpu() for c in codes], [b.half().cpu() for b in befores]))
            at += step
        joined = [torch.cat(level).numpy() for level in zip(*(codes for codes, _ in parts), strict=True)]
        full = latents and self.cfg.latents == "full"
        kept = zip(*(befores for _, befores in parts), strict=True) if full else ()
        sizes = self.model.codebook_sizes
        smallest = [c.astype(code_type(k)) for c, k in zip(joined, sizes, strict=True)]
        return smallest, [torch.cat(level).numpy() for level in kept], total

    @torch.no_grad()
    def _encode_once(self, pictures: np.ndarray) -> tuple[list[Tensor], list[Tensor]]:
        images = picture_to_tensor(torch.from_numpy(pictures).to(self.device))
        levels = self.model.quantize(images)
        return [level.codes for level in levels if level.codes is not None], [level.before for level in levels]

    def _halve(self, error: RuntimeError) -> None:
        """Take half as many views at once when memory ran out; anything else is passed on."""
        if not out_of_memory(error) or self.at_once == 1:
            raise error
        self.at_once //= 2
        log.warning("memory ran out: %d views at once from here on", self.at_once)

    def _coded(
        self, sample: Sample, codes: list[np.ndarray], befores: list[np.ndarray], more: dict[str, bytes]
    ) -> Sample:
        members = {f"level{i}.npy": encode_npy(c) for i, c in enumerate(codes)}
        members |= {f"latent{i}.npy": encode_npy(b) for i, b in enumerate(befores)}
        return Sample(sample.key, members | more | {e: sample.members[e] for e in COPIED if e in sample.members})


def longest_text(members: dict[str, bytes]) -> int:
    """Tokens of the longest caption among a sample's members; 0 where none is stored."""
    return int(decode_npy(members["text.counts.npy"]).max()) if "text.counts.npy" in members else 0


def code_type(rows: int) -> type[np.unsignedinteger]:
    """The smallest type that holds a code of this codebook."""
    return np.uint16 if rows <= 1 << 16 else np.uint32


def own_shards(source: ShardSet, rank: int, world: int) -> list[Shard]:
    """The input shards of one process of `world`: every world-th of all splits."""
    return [shard for name in sorted(source.splits) for shard in source.splits[name]][rank::world]


def extract(extractor: Extractor, source: ShardSet, *, rank: int, world: int, report: Callable[[int], None]) -> None:
    """Write this process's shards; the first process then waits for the others and writes `dataset.json`.

    Args:
        report: called with the number of samples this process has done.

    Raises:
        ConfigError: the folder was begun with another tokenizer or other views.
        DataError: another process finished nothing for `cfg.timeout_seconds`.
    """
    extractor.out.mkdir(parents=True, exist_ok=True)
    extractor.settle()
    done = 0

    def report_within(samples: int) -> None:
        heed_stop_file(extractor.out)
        report(done + samples)

    own = own_shards(source, rank, world)
    with extractor.reader.reading(_workers(extractor, own, world)) as extractor.read_all:
        for shard in own:
            extractor.write(shard, report_within)
            done += shard.samples
            report(done)
    if rank == 0:
        written = _all_of(extractor, own_shards(source, 0, 1))
        write_dataset(extractor.out, written, _about(extractor, source, written))


def _workers(extractor: Extractor, own: list[Shard], world: int) -> int:
    """Processes that read: one per core of this process's share, where sketches of many pictures are to be drawn."""
    if extractor.cfg.workers:
        return extractor.cfg.workers
    missing = sum(shard.samples for shard in own if extractor.finished(shard) is None)
    much = "sketch" in extractor.cfg.conditions.image and missing >= MANY
    return len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", world)) if much else 1


def _all_of(extractor: Extractor, shards: list[Shard]) -> list[Shard]:
    """Every output shard, waiting for those of other processes."""
    written: list[Shard] = []
    for shard in shards:
        since, there = time.monotonic(), -1
        while (found := extractor.finished(shard)) is None:
            if there < 0 or time.monotonic() - since > extractor.cfg.timeout_seconds:
                before, there = there, sum((extractor.out / f"{one.name}.json").is_file() for one in shards)
                if there == before:
                    raise DataError(
                        f"{extractor.out / shard.name}.tar did not come from another process within "
                        f"{extractor.cfg.timeout_seconds} s.\nType the same line again to go on."
                    )
                since = time.monotonic()  # others finish, though not this one
            heed_stop_file(extractor.out)
            time.sleep(POLL_SECONDS)
        written.append(found)
    return written


def _about(extractor: Extractor, source: ShardSet, written: list[Shard]) -> dict[str, Any]:
    """What `dataset.json` says beside splits and shards."""
    model, size = extractor.model, extractor.image_size
    levels = [
        {"height": size // factor, "width": size // factor, "codebook_size": rows, "factor": factor}
        for factor, rows in zip(model.levels, model.codebook_sizes, strict=True)
    ]
    about = {
        "tokenizer": extractor.tokenizer, "levels": levels, "image_size": size, "variants": extractor.cfg.variants,
        "flips": extractor.flips, "classes": source.info.get("classes", []),
        "modalities": source.info.get("modalities", []), "rejects": _rejects(extractor.out, written),
        "conditions": _conditions(extractor, source, written),
    }  # fmt: skip
    if extractor.cfg.latents != "none":
        total: latent_sums.Sums | None = None
        for shard in (s for s in written if s.split == "train" and s.samples):
            total = latent_sums.add(total, json.loads(extractor.sums_path(shard.name).read_bytes()))
        about["latents"] = latent_sums.statistics(total) if total else []
    return about


def _conditions(extractor: Extractor, source: ShardSet, written: list[Shard]) -> dict[str, Any]:
    """What a prior can listen to besides the class: encoders and their widths, kinds of source pictures."""
    found: dict[str, Any] = {name: dict(about) for name, about in extractor.said.items()}
    counts = [read_json(extractor.counts_path(s.name)) for s in written if s.samples]
    for name in {"text", "audio"} & set(found):
        if counts and not any(one.get("said", {name: 1})[name] for one in counts):  # tars made by others: who knows
            log.warning(NEVER_SAID, name)
            del found[name]
    if "text" in found:
        found["text"]["tokens"] = max((one.get("text_tokens", 0) for one in counts), default=0)
    kinds = [*extractor.cfg.conditions.image, *(["source"] if _has_pairs(extractor, source, written) else [])]
    return found | ({"image": {"kinds": kinds}} if kinds else {})


def _has_pairs(extractor: Extractor, source: ShardSet, written: list[Shard]) -> bool:
    """Whether samples bring a source picture of their own: as `dataset.json` says, else as the shards show."""
    if "modalities" in source.info:
        return "source" in source.info["modalities"]
    return any("source.level0.npy" in members for shard in written for members in shard.index().members)


def _rejects(out: Path, written: list[Shard]) -> dict[str, int]:
    total = sum(len(read_json(out / f"{shard.name}.json").get("rejects", [])) for shard in written)
    return {"unreadable": total} if total else {}
