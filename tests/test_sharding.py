"""The same bytes for any number of workers and after any kill; every file is accounted for; other plans are refused."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_prep import shard
from data_prep.config import ShardsConfig
from data_prep.rejects import REASONS
from data_prep.verify import verify
from pipeline.errors import ConfigError, DataError, TesseraError
from pipeline.samples import decode_image, decode_member, image_member
from pipeline.shard_index import open_shards, scan_tar
from tests.source_folders import class_folders, encoded, fuzzed_folder, photo, save


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return class_folders(tmp_path_factory.mktemp("photos"))


def config(source: Path | str, **changes: object) -> ShardsConfig:
    values = {"source": str(source), "size": 32, "val": 0.1, "shard_samples": 8, "workers": 1, **changes}
    return ShardsConfig(**values)  # type: ignore[arg-type]


def files_of(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.iterdir())}


def samples_of(out: Path) -> dict[str, dict[str, object]]:
    """{source: decoded members} of all splits, with the split under "split"."""
    found = {}
    for split, shards in open_shards(out).splits.items():
        for one in shards:
            raw = Path(one.path).read_bytes()
            for key, members in zip(one.index().keys, one.index().members, strict=True):
                values = {e: decode_member(e, raw[at : at + size]) for e, (at, size) in members.items()}
                found[values["json"]["source"]] = {**values, "split": split, "key": key}
    return found


def test_the_bytes_are_the_same_for_any_number_of_workers(folder: Path, tmp_path: Path) -> None:
    for workers in (1, 2, 3):
        shard(config(folder, workers=workers), tmp_path / str(workers))

    one = files_of(tmp_path / "1")
    assert len([name for name in one if name.endswith(".tar")]) == 8
    assert one == files_of(tmp_path / "2") == files_of(tmp_path / "3")
    assert verify(tmp_path / "2") == []


def test_another_seed_gives_another_order_and_split(folder: Path, tmp_path: Path) -> None:
    splits = []
    for seed in (0, 1):
        shard(config(folder, seed=seed), tmp_path / str(seed))
        splits.append({source: sample["split"] for source, sample in samples_of(tmp_path / str(seed)).items()})
    assert splits[0] != splits[1] and splits[0].keys() == splits[1].keys()


def _shard_in_own_group(cfg: ShardsConfig, out: Path, slow: float) -> None:
    os.setsid()
    shard(cfg, out, lambda done, total: time.sleep(slow))


def kill_and_rerun(cfg: ShardsConfig, out: Path, draw: random.Random, *, group: bool) -> int:
    """Start real processes and SIGKILL them after random times until one ends by itself; returns the kills."""
    context = multiprocessing.get_context("fork")
    kills = 0
    while True:
        process = context.Process(target=_shard_in_own_group, args=(cfg, out, 0.006))
        process.start()
        process.join(draw.uniform(0.002, 0.04) if kills < 8 else None)
        if process.exitcode is not None:
            assert process.exitcode == 0
            return kills
        assert process.pid is not None
        try:
            (os.killpg if group else os.kill)(process.pid, signal.SIGKILL)
        except ProcessLookupError:  # before setsid
            process.kill()
        process.join()
        kills += 1


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("seed", range(4))
def test_killed_and_run_again_gives_the_same_bytes(folder: Path, tmp_path: Path, workers: int, seed: int) -> None:
    shard(config(folder), tmp_path / "undisturbed")
    draw = random.Random(100 * workers + seed)

    kills = kill_and_rerun(config(folder, workers=workers), tmp_path / "killed", draw, group=seed % 2 == 0)

    assert kills >= 1
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "undisturbed")


def test_a_rerun_writes_only_what_is_missing_or_damaged(folder: Path, tmp_path: Path) -> None:
    shard(config(folder), tmp_path)
    before, times = files_of(tmp_path), {p.name: p.stat().st_mtime_ns for p in tmp_path.glob("*.tar")}
    (tmp_path / "train-000001.tar").unlink()
    (tmp_path / "train-000002.json").write_bytes(b"{")
    damaged = bytearray(before["train-000003.tar"])
    damaged[600] ^= 1
    (tmp_path / "train-000003.tar").write_bytes(damaged)
    (tmp_path / "dataset.json").unlink()

    shard(config(folder, workers=2), tmp_path)

    assert files_of(tmp_path) == before
    rewritten = {p.name for p in tmp_path.glob("*.tar") if p.stat().st_mtime_ns != times[p.name]}
    assert rewritten == {"train-000001.tar", "train-000002.tar", "train-000003.tar"}


def test_an_error_in_the_middle_of_a_shard_leaves_no_shard_of_that_name(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from data_prep import images

    calls = iter(range(10**6))

    def breaks(*arguments: object) -> bytes:
        if next(calls) == 11:
            raise RuntimeError("the encoder broke")
        return real(*arguments)  # type: ignore[arg-type]

    real: Callable[..., bytes] = images.encode_image
    monkeypatch.setattr(images, "encode_image", breaks)
    with pytest.raises(DataError, match=r"\.jpg: it cannot be converted .RuntimeError: the encoder broke"):
        shard(config(folder), tmp_path / "out")
    left = files_of(tmp_path / "out")
    assert not [name for name in left if ".part-" in name] and "dataset.json" not in left
    tars, sidecars = ({Path(n).stem for n in left if n.endswith(end)} for end in (".tar", ".json"))
    assert len(tars) >= 1 and sidecars - {"plan"} == tars


@pytest.mark.parametrize(
    "change", [{"size": 48}, {"seed": 3}, {"shard_samples": 9}, {"val": 0.2}, {"format": "png"}, {"quality": 80}]
)
def test_changed_settings_are_refused_and_named(folder: Path, tmp_path: Path, change: dict[str, object]) -> None:
    shard(config(folder), tmp_path)
    before = files_of(tmp_path)
    with pytest.raises(ConfigError, match=f"{next(iter(change))}: .* -> "):
        shard(config(folder, **change), tmp_path)
    assert files_of(tmp_path) == before
    shard(config(folder, workers=2, max_reject_rate=0.5), tmp_path)
    assert files_of(tmp_path) == before


def test_a_changed_source_and_a_folder_of_other_tars_are_refused(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "photos", "ab", 12)
    shard(config(source), tmp_path / "out")
    save(photo(7), source / "a" / "new.jpg")
    with pytest.raises(ConfigError, match=r"24 items .* then, 25"):
        shard(config(source), tmp_path / "out")
    (tmp_path / "out" / "plan.json").unlink()
    with pytest.raises(ConfigError, match="not planned here"):
        shard(config(source), tmp_path / "out")


def test_small_files_are_copied_and_large_ones_scaled(tmp_path: Path) -> None:
    source = tmp_path / "photos"
    small = {
        "small.jpg": encoded(photo(1, 36, 50), "JPEG", quality=60),
        "small.png": encoded(photo(2, 33, 33), "PNG"),
        "small.webp": encoded(photo(3, 40, 36), "WEBP"),
        "grey.jpg": encoded(photo(4, 36, 36).convert("L"), "JPEG"),
    }
    source.mkdir()
    for name, payload in small.items():
        (source / name).write_bytes(payload)
    large = save(photo(5, 300, 200), source / "large.jpg", quality=95)
    save(photo(6, 30, 30).convert("RGBA"), source / "alpha.png")
    shard(config(source, val=0), tmp_path / "out")

    samples = samples_of(tmp_path / "out")
    raw = (tmp_path / "out" / "train-000000.tar").read_bytes()
    index = scan_tar(tmp_path / "out" / "train-000000.tar")
    stored = {}
    for key, members in zip(index.keys, index.members, strict=True):
        at, size = members[str(image_member(members))]
        stored[key] = raw[at : at + size]
    assert {name: stored[str(samples[name]["key"])] for name in small} == small
    assert samples["large.jpg"]["jpg"].shape == (36, 54, 3)  # type: ignore[attr-defined]
    assert samples["alpha.png"]["jpg"].shape == (30, 30, 3)  # type: ignore[attr-defined]
    from PIL import Image

    reference = np.asarray(Image.open(large).resize((54, 36), Image.Resampling.LANCZOS)).astype(float)
    error = (samples["large.jpg"]["jpg"] - reference) ** 2
    assert 10 * np.log10(255**2 / error.mean()) > 35


@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "keep"])
def test_the_format_asked_for_is_the_format_stored(kind: str, tmp_path: Path) -> None:
    for suffix in ("jpg", "png", "webp", "bmp"):
        save(photo(1, 90, 80), tmp_path / "photos" / f"p.{suffix}")
    shard(config(tmp_path / "photos", format=kind, val=0), tmp_path / "out")
    found = {name: image_member(sample) for name, sample in samples_of(tmp_path / "out").items()}
    keep = {"p.jpg": "jpg", "p.png": "png", "p.webp": "webp", "p.bmp": "png"}
    assert found == (keep if kind == "keep" else dict.fromkeys(keep, kind))


def test_rejects_have_a_reason_each_and_every_file_is_accounted_for(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "photos", "ab", 15)
    whole = (source / "a" / "003.jpg").read_bytes()
    broken = {
        "empty.jpg": (b"", "empty_file"), "text.jpg": (b"<html>404</html>", "not_an_image"),
        "cut.jpg": (whole[: len(whole) // 2], "damaged_image"),
        "tiff.jpg": (b"II*\0" + bytes(99), "unsupported_format"),
        "scan.tif": (b"II*\0" + bytes(99), "unsupported_format"),
        "tiny.png": (encoded(photo(1, 15, 90), "PNG"), "too_small"),
    }  # fmt: skip
    for name, (payload, _) in broken.items():
        (source / "a" / name).write_bytes(payload)
    os.mkfifo(source / "a" / "pipe.jpg")
    with pytest.raises(DataError, match=r"7 of 37 files cannot be used \(18.9%.*\n.*max_reject_rate=0.2") as caught:
        shard(config(source, val=0, shard_samples=40), tmp_path / "out")
    assert "2 x unsupported_format" in str(caught.value)
    results = shard(config(source, val=0, shard_samples=40, max_reject_rate=0.2), tmp_path / "out")

    lines = [json.loads(line) for line in (tmp_path / "out" / "rejects.jsonl").read_text().splitlines()]
    expected = {f"a/{name}": reason for name, (_, reason) in broken.items()} | {"a/pipe.jpg": "unreadable_file"}
    assert {line["source"]: line["reason"] for line in lines} == expected
    assert (results["samples"], results["rejected"]) == (30, 7)
    assert verify(tmp_path / "out") == []


def test_many_broken_files_stop_the_work_before_its_end(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "photos", "ab", 40)
    for path in sorted(source.rglob("*.jpg"))[::3]:
        path.write_bytes(b"broken")
    with pytest.raises(DataError, match=r"3[0-9]\..%, the limit is 5\.0%"):
        shard(config(source, shard_samples=30), tmp_path / "out")
    assert not (tmp_path / "out" / "dataset.json").exists()
    assert len(list((tmp_path / "out").glob("*.tar"))) == 1


def test_fuzzed_pictures_are_accepted_or_reported_and_nothing_else_happens(tmp_path: Path) -> None:
    count = 1000
    source = fuzzed_folder(tmp_path / "photos", count)
    started = time.monotonic()
    for workers in (1, 2):
        results = shard(config(source, max_reject_rate=1, workers=workers), tmp_path / str(workers))

    assert results["samples"] + results["rejected"] == count
    assert count * 0.2 < results["rejected"] < count * 0.8
    assert files_of(tmp_path / "1") == files_of(tmp_path / "2")
    assert verify(tmp_path / "1") == []
    lines = [json.loads(line) for line in (tmp_path / "1" / "rejects.jsonl").read_text().splitlines()]
    assert len(lines) == results["rejected"] and {line["reason"] for line in lines} <= set(REASONS)
    for sample in samples_of(tmp_path / "1").values():
        pixels = sample[str(image_member(sample))]
        assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3  # type: ignore[attr-defined]
    assert time.monotonic() - started < 60
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 1_500_000


def test_settings_outside_their_range_are_refused() -> None:
    for wrong in ({"size": 2}, {"val": 1.0}, {"format": "gif"}, {"quality": 0}, {"margin": 0.5}, {"source": ""}):
        with pytest.raises(ValueError):
            config("x", **wrong) if "source" not in wrong else config("")


def test_decoding_at_a_reduced_scale_stays_close_to_the_whole_picture() -> None:
    from data_prep.images import scaled

    payload = encoded(photo(3, 1200, 1000), "JPEG", quality=95)
    quick = scaled(decode_image(payload, min_side=72), 72).astype(float)
    whole = scaled(decode_image(payload), 72).astype(float)
    assert quick.shape == whole.shape and np.abs(quick - whole).mean() < 1.5


def _live_processes_of_group(group: int) -> list[str]:
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] not in "ZX":
            found.append(status.parent.name)
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_workers_end_with_a_killed_parent(folder: Path, tmp_path: Path) -> None:
    cfg = config(folder, workers=2, shard_samples=1)
    process = multiprocessing.get_context("fork").Process(target=_shard_in_own_group, args=(cfg, tmp_path, 5))
    process.start()
    assert process.pid is not None
    deadline = time.monotonic() + 20
    while len(_live_processes_of_group(process.pid)) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    begun = len(_live_processes_of_group(process.pid))
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert begun >= 3
    while _live_processes_of_group(process.pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert _live_processes_of_group(process.pid) == []


def test_a_worker_that_dies_is_one_clear_error_and_the_rerun_finishes(folder: Path, tmp_path: Path) -> None:
    shard(config(folder), tmp_path / "undisturbed")

    def kill_a_worker(done: int, total: int) -> None:
        for child in multiprocessing.active_children()[:1]:
            child.kill()

    with pytest.raises(TesseraError, match=r"a worker process died.*\n--workers 1 "):
        shard(config(folder, workers=2), tmp_path / "out", kill_a_worker)
    shard(config(folder, workers=2), tmp_path / "out")
    assert files_of(tmp_path / "out") == files_of(tmp_path / "undisturbed")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_stop_leaves_no_process_and_no_half_file(folder: Path, tmp_path: Path, workers: int) -> None:
    class Stop(BaseException):
        pass

    def stop(done: int, total: int) -> None:
        if done > 0:
            raise Stop

    with pytest.raises(Stop):
        shard(config(folder, workers=workers, shard_samples=3), tmp_path, stop)
    assert multiprocessing.active_children() == []
    assert not [name for name in files_of(tmp_path) if ".part-" in name or name == "dataset.json"]
