"""Find every kind of damage in a folder of shards: bytes, sidecars, names, counts, members that do not decode.

Nothing is trusted: the tar is walked anew, hashed, and every member decoded; nothing in it is ever executed.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep.plan import PLAN
from pipeline.artifacts import read_json
from pipeline.errors import ConfigError, DataError
from pipeline.samples import DECODERS, decode_member, last_part
from pipeline.shard_index import DATASET, FORMAT, ShardIndex, is_sidecar, scan_tar, sha256_of


def verify(root: str | Path) -> list[str]:
    """Problems of a shard folder, one line each: `FILE: what is wrong`. An empty list means none.

    Raises:
        ConfigError: there is no such folder, or neither tars nor `dataset.json` in it.
    """
    return list(problems(Path(root).expanduser()))


def problems(root: Path) -> Iterator[str]:
    """The lines of `verify`, as they are found."""
    if not root.is_dir():
        raise ConfigError(f"{root} is no folder of shards." if root.exists() else f"no shard folder at {root}.")
    tars = {p.relative_to(root).as_posix().removesuffix(".tar"): p for p in sorted(root.rglob("*.tar"))}
    tars = {name: path for name, path in tars.items() if path.is_file() and not path.name.startswith(".")}
    listed, broken = _listed(root)
    yield from broken
    yield from _unfinished(root, tars)
    if not tars and listed is None and not broken:
        raise ConfigError(f"{root} holds no shards: neither {DATASET} nor a .tar.")
    for name in sorted(set(tars) | set(listed or {})):
        if name not in tars:
            yield f"{name}.tar: missing, though {DATASET} lists it"
            continue
        if listed is not None and name not in listed:
            yield f"{name}.tar: not listed in {DATASET}"
        yield from _shard_problems(tars[name], name, (listed or {}).get(name), own=listed is not None)
    if listed is not None:
        yield from _stray_sidecars(root, tars, listed)
        yield from _repeated_keys(root, tars)


def _unfinished(root: Path, tars: dict[str, Path]) -> Iterator[str]:
    """Folders that `tessera shard` was stopped in: `dataset.json` is written last."""
    for folder in sorted({path.parent for path in tars.values()}):
        if (folder / PLAN).is_file() and not (folder / DATASET).exists():
            where = f"{folder.relative_to(root).as_posix()}/{DATASET}".removeprefix("./")
            yield f"{where}: missing, so not all was sharded: type the line that shards it again"


def _listed(root: Path) -> tuple[dict[str, dict[str, Any]] | None, list[str]]:
    """The shards `dataset.json` lists, None where there is no such file, and what is wrong with the file itself."""
    path = root / DATASET
    if not path.exists():
        return None, []
    try:
        info = json.loads(path.read_bytes())
        listed = {str(entry["name"]): dict(entry) for entry in info["shards"]}
        found = {name: [0, 0] for name in info["splits"]}
        for entry in listed.values():
            counts = found.setdefault(entry["split"], [0, 0])
            counts[0], counts[1] = counts[0] + entry["samples"], counts[1] + 1
        stated = {name: [split["samples"], split["shards"]] for name, split in info["splits"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return None, [f"{DATASET}: unreadable ({type(error).__name__}: {error})"]
    wrong = [] if len(listed) == len(info["shards"]) else [f"{DATASET}: lists a shard twice"]
    wrong += [] if info.get("format") == FORMAT else [f"{DATASET}: format {info.get('format')}, expected {FORMAT}"]
    return listed, wrong + [
        f"{DATASET}: split '{name}' states {stated.get(name)} samples and shards, its shards add up to {found[name]}"
        for name in found
        if stated.get(name) != found[name]
    ]


def _shard_problems(tar: Path, name: str, entry: dict[str, Any] | None, *, own: bool) -> Iterator[str]:
    sha256, size = sha256_of(tar), tar.stat().st_size
    if entry is not None and (entry.get("sha256"), entry.get("bytes")) != (sha256, size):
        yield f"{name}.tar: {size} bytes with sha256 {sha256[:12]}, {DATASET} says {_short(entry)}"
    sidecar, wrong = _sidecar(tar, name)
    if not own and not is_sidecar(sidecar):  # what lies beside the tars of others is theirs
        sidecar, wrong = {}, ""
    if wrong:
        yield wrong
    if sidecar and (sidecar.get("sha256"), sidecar.get("bytes")) != (sha256, size):
        yield f"{name}.tar: {size} bytes with sha256 {sha256[:12]}, its sidecar says {_short(sidecar)}"
    try:
        index = scan_tar(tar)
    except DataError as error:
        yield f"{name}.tar: {str(error).replace(f'{tar}: ', '')}"
        return
    if sidecar:
        yield from _sidecar_problems(name, sidecar, index, entry)
    elif not own:
        yield from _half_samples(name, index)
    yield from _member_problems(tar, name, index, own=own)


def _short(facts: dict[str, Any]) -> str:
    return f"{facts.get('bytes')} bytes with sha256 {str(facts.get('sha256'))[:12]}"


def _sidecar(tar: Path, name: str) -> tuple[dict[str, Any], str]:
    path = tar.with_suffix(".json")
    if not path.exists():
        return {}, f"{name}.json: missing beside {name}.tar"
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        return {}, f"{name}.json: unreadable ({type(error).__name__}: {error})"
    return (value, "") if isinstance(value, dict) else ({}, f"{name}.json: holds no JSON object")


def _sidecar_problems(
    name: str, sidecar: dict[str, Any], index: ShardIndex, entry: dict[str, Any] | None
) -> Iterator[str]:
    members = [{extension: list(place) for extension, place in found.items()} for found in index.members]
    if sidecar.get("format") != FORMAT:
        yield f"{name}.json: format {sidecar.get('format')}, expected {FORMAT}"
    if sidecar.get("samples") != len(index.keys):
        yield f"{name}.json: states {sidecar.get('samples')} samples, the tar holds {len(index.keys)}"
    if sidecar.get("keys") != index.keys:
        yield f"{name}.json: its keys are not those of the tar"
    elif sidecar.get("members") != members:
        yield f"{name}.json: its members or byte offsets are not those of the tar"
    if sidecar.get("shard") != f"{name.rpartition('/')[2]}.tar" and sidecar.get("shard") != f"{name}.tar":
        yield f"{name}.json: belongs to {sidecar.get('shard')}"
    if not isinstance(sidecar.get("rejects"), list):
        yield f"{name}.json: no list of rejects"
    if entry is not None and (entry.get("samples"), entry.get("split")) != (len(index.keys), sidecar.get("split")):
        yield f"{name}.tar: {len(index.keys)} samples of '{sidecar.get('split')}', {DATASET} says otherwise"


def _member_problems(tar: Path, name: str, index: ShardIndex, *, own: bool) -> Iterator[str]:
    with tar.open("rb") as file:
        for key, members in zip(index.keys, index.members, strict=True):
            for extension, (offset, size) in members.items():
                if last_part(extension) not in DECODERS:
                    continue  # stored by others, never read here
                file.seek(offset)
                kind = "txt" if extension == "cls" and not own else extension  # others write names there
                try:
                    decode_member(kind, file.read(size))
                except DataError as error:
                    yield f"{name}.tar: {key}.{extension}: {error}"


def _half_samples(name: str, index: ShardIndex) -> Iterator[str]:
    """Tars of others say nowhere what a sample holds: one sample alone without a member has lost it."""
    counts = Counter(extension for members in index.members for extension in members)
    usual = {extension for extension, count in counts.items() if 2 <= count == len(index.members) - 1}
    for key, members in zip(index.keys, index.members, strict=True):
        for extension in sorted(usual - set(members)):
            yield f"{name}.tar: sample {key} has no .{extension}, as every other one has"


def _stray_sidecars(root: Path, tars: dict[str, Path], listed: dict[str, Any]) -> Iterator[str]:
    for path in sorted(root.glob("*-[0-9][0-9][0-9][0-9][0-9][0-9].json")):
        if path.stem not in tars and path.stem not in listed:
            yield f"{path.name}: a sidecar without a shard"


def _repeated_keys(root: Path, tars: dict[str, Path]) -> Iterator[str]:
    """Keys in two shards; codes keep those of their shards, and others number each split from 0."""
    apart = "tokenizer" in read_json(root / DATASET)
    homes: dict[str, dict[str, str]] = {}
    for name, tar in tars.items():
        sidecar, _ = _sidecar(tar, name)
        keys, home = sidecar.get("keys"), homes.setdefault(str(sidecar.get("split")) if apart else "", {})
        for key in keys if isinstance(keys, list) and all(isinstance(one, str) for one in keys) else ():
            if home.setdefault(key, name) != name:
                yield f"{name}.tar: key {key} is also in {home[key]}.tar"
                break
