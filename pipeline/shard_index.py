"""Shards and where their samples lie: sidecars, `dataset.json`, and an index made on first use for tars of others.

A shard folder holds `<split>-<000000>.tar`, beside each a sidecar `<split>-<000000>.json` (keys, byte offsets, sha256,
rejects) and at the root `dataset.json` with every shard's name, size and sha256, so that a URL needs no listing.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from pipeline.atomic_file import write_atomically
from pipeline.errors import ConfigError, DataError
from pipeline.samples import EXECUTABLE_MEMBERS, Sample, encode_json, last_part, split_member
from pipeline.tar_members import walk
from pipeline.tar_writer import TarWriter

DATASET = "dataset.json"
FORMAT = 1
REMOTE = ("http://", "https://", "s3://", "hf://")
_URL = re.compile(r"^(https?|s3|hf):/+(?=[^/])")  # a URL that went through Path has lost a slash
_SPLIT = re.compile(r"(?:^|[-_./])(train|valid|validation|val|test|unseen)(?=[-_./]|$)")


@dataclass(frozen=True)
class ShardIndex:
    """Per sample: its key, and extension -> (byte offset of the payload, size)."""

    keys: list[str]
    members: list[dict[str, tuple[int, int]]]


@dataclass(frozen=True)
class Shard:
    """One tar. `path` is a local path or a URL; `name` has no extension ("train-000000")."""

    path: str
    name: str
    split: str
    samples: int
    bytes: int
    sha256: str

    def index(self) -> ShardIndex:
        """Keys and offsets: read once from the sidecar, or from the index made on first use.

        Raises:
            DataError: the sidecar is missing, unreadable or belongs to other bytes.
        """
        return _load_index(self)


@dataclass(frozen=True)
class ShardSet:
    """An opened folder of shards. `info` is `dataset.json`, {} for tars made by others."""

    root: str
    info: dict[str, Any] = field(compare=False)
    splits: dict[str, list[Shard]]

    def split(self, name: str) -> list[Shard]:
        """The shards of one split, in order; ConfigError names the splits there are."""
        if name not in self.splits:
            raise ConfigError(f"{self.root} has no split '{name}'; it has: {', '.join(sorted(self.splits))}.")
        return self.splits[name]

    @property
    def fingerprint(self) -> str:
        """sha256 over {shard name: sha256}."""
        return hashlib.sha256(encode_json({s.name: s.sha256 for x in self.splits.values() for s in x})).hexdigest()


def is_remote(root: str | Path) -> bool:
    """Whether this is a URL of a kind that is read."""
    return str(root).startswith(REMOTE)


def sidecar_path(shard_path: str) -> str:
    """`.../train-000000.tar` -> `.../train-000000.json`."""
    return shard_path.removesuffix(".tar") + ".json"


def open_shards(root: str | Path) -> ShardSet:
    """Open a folder of shards, or the http(s), s3 or hf URL of one.

    Tars without `dataset.json` (made by others) are indexed once: split by `train`, `val` or `test` in their names
    (`train` if none), index stored beside them or, where the folder is read-only or another's file has that name, in
    the cache.

    Raises:
        ConfigError: no such folder, no tars in it, or a URL without `dataset.json`.
        DataError: `dataset.json` is unreadable, a shard it lists is missing, or a foreign tar is damaged.
    """
    text = _URL.sub(r"\1://", str(root)).rstrip("/")
    if is_remote(text):
        return _listed(text, _read_json(f"{text}/{DATASET}"))
    folder = Path(text).expanduser()
    if not folder.is_dir():
        raise ConfigError(f"no shard folder at {folder}.\nMake one:  tessera shard SOURCE {folder}")
    if (folder / DATASET).is_file():
        shards = _listed(str(folder), _read_json(str(folder / DATASET)))
        for shard in (s for x in shards.splits.values() for s in x):
            if not Path(shard.path).is_file():
                raise DataError(
                    f"{shard.path} is missing, though {folder / DATASET} lists it.\nRun the same `tessera shard` again."
                )
        return shards
    return _foreign(folder)


def _listed(root: str, info: dict[str, Any]) -> ShardSet:
    splits: dict[str, list[Shard]] = {name: [] for name in info.get("splits", {})}
    try:
        for entry in info["shards"]:
            splits.setdefault(entry["split"], []).append(Shard(path=f"{root}/{entry['name']}.tar", **entry))
    except (KeyError, TypeError) as error:
        raise DataError(f"{root}/{DATASET} is not a Tessera data set: {error!r}.") from None
    splits = {name: [s for s in shards if s.samples] for name, shards in splits.items()}
    return ShardSet(root, info, {name: shards for name, shards in splits.items() if shards})


def _read_json(path: str) -> dict[str, Any]:
    try:
        if is_remote(path):
            from pipeline.remote import read_remote  # it imports this module

            value = json.loads(read_remote(path))
        else:
            value = json.loads(Path(path).read_bytes())
    except FileNotFoundError:
        raise DataError(f"{path} is missing.") from None
    except (ValueError, OSError) as error:
        raise DataError(f"{path} cannot be read ({type(error).__name__}: {error}).") from error
    if not isinstance(value, dict):
        raise DataError(f"{path} holds no JSON object.")
    return value


@lru_cache(maxsize=32)  # ten thousand samples take some 6 MB
def _load_index(shard: Shard) -> ShardIndex:
    path = sidecar_path(shard.path)
    if is_remote(path):
        from pipeline.remote import local_sidecar  # it imports this module

        path = str(local_sidecar(shard))
    elif (cached := _cached_index(Path(shard.path))).is_file() and _own_sidecar(Path(path)) is None:
        path = str(cached)
    sidecar = _read_json(path)
    if sidecar.get("sha256") != shard.sha256:
        raise DataError(
            f"{path} belongs to other bytes than {shard.path}.\n"
            f"Check the folder:  tessera verify {Path(shard.path).parent}"
        )
    members = [{e: (int(at), int(size)) for e, (at, size) in m.items()} for m in sidecar["members"]]
    if len(members) != shard.samples or len(sidecar["keys"]) != shard.samples:
        raise DataError(f"{path} lists {len(members)} samples; {shard.samples} were written.")
    return ShardIndex(list(sidecar["keys"]), members)


def scan_tar(path: Path) -> ShardIndex:
    """Index a tar by walking its headers.

    Raises:
        DataError: damaged or cut off; a link, an absolute or `..` name; a member twice; a sample in two places; a
            member that other readers would execute (`pkl`, `pth`, ...).
    """
    keys: list[str] = []
    members: list[dict[str, tuple[int, int]]] = []
    seen: set[str] = set()
    with path.open("rb") as file:
        for member in walk(file, where=str(path)):
            key, extension = split_member(member.name)
            if last_part(extension) in EXECUTABLE_MEMBERS:
                raise DataError(f"{path}: member '{member.name}' could run code when read; never executed. Remove it.")
            if not keys or keys[-1] != key:
                if key in seen:
                    raise DataError(f"{path}: key '{key}' comes twice, or its members do not lie together.")
                seen.add(key)
                keys.append(key)
                members.append({})
            if extension in members[-1]:
                raise DataError(f"{path}: member '{member.name}' comes twice.")
            members[-1][extension] = (member.offset, member.size)
    return ShardIndex(keys, members)


def sha256_of(path: Path) -> str:
    """sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _foreign(folder: Path) -> ShardSet:
    tars = sorted(p for pattern in ("*.tar", "*/*.tar") for p in folder.glob(pattern) if _is_tar(p))
    if not tars:
        raise ConfigError(
            f"{folder} holds no shards (no {DATASET}, no .tar).\nMake some:  tessera shard SOURCE {folder}"
        )
    splits: dict[str, list[Shard]] = {}
    for tar in tars:
        name = tar.relative_to(folder).as_posix().removesuffix(".tar")
        shard = _index_foreign(tar, name)
        splits.setdefault(shard.split, []).append(shard)
    return ShardSet(str(folder), {}, splits)


def _is_tar(path: Path) -> bool:
    return path.is_file() and not path.name.startswith(".")


def split_of(name: str) -> str:
    """The split a foreign tar's name speaks of; `train` if none."""
    match = _SPLIT.search(name)
    return {"valid": "val", "validation": "val"}.get(match[1], match[1]) if match else "train"


def is_sidecar(value: Any) -> bool:
    """Whether the JSON beside a tar is what `sidecar` makes; others keep annotations under that name."""
    return isinstance(value, dict) and {"format", "shard", "bytes", "sha256", "members"} <= value.keys()


def _own_sidecar(path: Path) -> dict[str, Any] | None:
    """A sidecar of ours; None where there is none, or something else."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return value if is_sidecar(value) else None


def _is_older(index: Path, tar: Path) -> bool:
    """Whether a tar changed after it was indexed: padded to blocks, it may be as long as before."""
    return index.is_file() and index.stat().st_mtime_ns < tar.stat().st_mtime_ns


def _index_foreign(tar: Path, name: str) -> Shard:
    beside, cached = Path(sidecar_path(str(tar))), _cached_index(tar)
    for path in (beside, cached):
        known = None if _is_older(path, tar) else _own_sidecar(path)
        if known is not None and known["format"] == FORMAT and known["bytes"] == tar.stat().st_size:
            split = split_of(name)  # not as noted: the name begins at the folder that is opened
            return Shard(str(tar), name, split, known["samples"], known["bytes"], known["sha256"])
    index = scan_tar(tar)
    shard = Shard(str(tar), name, split_of(name), len(index.keys), tar.stat().st_size, sha256_of(tar))
    payload = sidecar(shard, index, [])
    try:
        if beside.exists() and _own_sidecar(beside) is None:
            raise FileExistsError(beside)  # another's file
        write_atomically(beside, payload)
    except OSError:  # a read-only folder, or a name that is taken
        cached.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(cached, payload)
    return shard


def cache_folder() -> Path:
    """Where what was fetched or indexed is kept: TESSERA_CACHE, or ~/.cache/tessera."""
    return Path(os.environ.get("TESSERA_CACHE") or Path.home() / ".cache" / "tessera")


def _cached_index(tar: Path) -> Path:
    facts = tar.stat() if tar.exists() else None
    what = f"{tar.resolve()}:{facts.st_size if facts else 0}:{facts.st_mtime_ns if facts else 0}"
    return cache_folder() / "indexes" / f"{hashlib.sha256(what.encode()).hexdigest()[:32]}.json"


def sidecar(shard: Shard, index: ShardIndex, rejects: list[dict[str, str]]) -> bytes:
    """The bytes of a sidecar."""
    return encode_json({
        "format": FORMAT, "shard": f"{shard.name}.tar", "split": shard.split, "samples": shard.samples,
        "bytes": shard.bytes, "sha256": shard.sha256, "keys": index.keys, "members": index.members, "rejects": rejects,
    })  # fmt: skip


def write_shard(
    folder: Path, name: str, split: str, samples: Iterable[Sample], rejects: list[dict[str, str]] | None = None
) -> Shard:
    """Write `<name>.tar`, then its sidecar; both appear only when complete.

    `rejects` ({"source", "reason", "detail"}) may still grow while `samples` is consumed.
    """
    with TarWriter(folder / f"{name}.tar") as tar:
        for sample in samples:
            tar.write(sample)
    shard = Shard(str(folder / f"{name}.tar"), name, split, len(tar.keys), tar.size, tar.sha256)
    index = ShardIndex(tar.keys, tar.members)
    write_atomically(folder / f"{name}.json", sidecar(shard, index, rejects or []))
    return shard


def write_dataset(folder: Path, shards: Iterable[Shard], info: dict[str, Any]) -> dict[str, Any]:
    """Write `dataset.json`, last: `info` plus `splits` (counts) and `shards` (name, split, samples, bytes, sha256)."""
    ordered = sorted(shards, key=lambda shard: (shard.split, shard.name))
    splits = {s: [x.samples for x in ordered if x.split == s] for s in sorted({x.split for x in ordered})}
    value = {
        **info,
        "format": FORMAT,
        "splits": {name: {"samples": sum(n), "shards": len(n)} for name, n in splits.items()},
        "shards": [{k: v for k, v in asdict(shard).items() if k != "path"} for shard in ordered],
    }
    write_atomically(folder / DATASET, json.dumps(value, ensure_ascii=False, sort_keys=True, indent=1).encode() + b"\n")
    return value
