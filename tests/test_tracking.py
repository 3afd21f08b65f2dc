"""Tracking: what stays on disk, what reaches W&B, and that no failure of it ever stops a training."""

from __future__ import annotations

import io
import json
import logging
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from pipeline import tracking
from pipeline.progress import Progress, as_clock
from pipeline.tracking import Tracker, TrackingConfig, made_by, read_metrics
from pipeline.wandb_run import redact

OFF = TrackingConfig(mode="disabled")


def wandb_records(folder: Path) -> Iterator[Any]:
    """Every record of the offline runs in a stage folder: a LevelDB log of protocol buffers."""
    from wandb.proto import wandb_internal_pb2 as pb

    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        data, at, buffer = path.read_bytes(), 7, b""
        while at + 7 <= len(data):
            left = 32768 - at % 32768
            if left < 7:
                at += left
                continue
            _, size, kind = struct.unpack("<IHB", data[at : at + 7])
            if kind == 0:
                at += left
                continue
            if at + 7 + size > len(data):
                break  # still being written
            buffer = (b"" if kind in (1, 2) else buffer) + data[at + 7 : at + 7 + size]
            at += 7 + size
            if kind in (1, 4):
                yield pb.Record.FromString(buffer)


def rows_of(record: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}


def test_metrics_are_on_disk_before_the_next_step(tmp_path: Path) -> None:
    tracker = Tracker.start(tmp_path, OFF, "vqvae", {})
    tracker.log({"train/loss": torch.tensor(0.5), "train/psnr": float("nan"), "train/codes": np.float32(2)}, 20)

    line = (tmp_path / "metrics.jsonl").read_text()  # before any finish: a killed process has lost nothing
    assert json.loads(line) == {"step": 20, "train/loss": 0.5, "train/psnr": None, "train/codes": 2.0}


def test_a_resume_forgets_the_lines_after_its_checkpoint_and_the_one_a_kill_cut(tmp_path: Path) -> None:
    tracker = Tracker.start(tmp_path, OFF, "vqvae", {})
    for step in (10, 20, 30):
        tracker.log({"loss": step}, step)
    tracker.finish()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 40, "lo')

    again = Tracker.start(tmp_path, OFF, "vqvae", {})
    again.cut_back(20)
    again.log({"loss": 31}, 30)
    assert [(row["step"], row["loss"]) for row in read_metrics(tmp_path)] == [(10, 10), (20, 20), (30, 31)]


def test_only_the_main_process_writes(tmp_path: Path) -> None:
    tracker = Tracker.start(tmp_path / "stage", TrackingConfig(), "vqvae", {}, SimpleNamespace(is_main=False))
    tracker.log({"loss": 1.0}, 1)
    tracker.images({"grid": np.zeros((4, 4, 3), np.uint8)}, 1)
    tracker.cut_back(0)
    tracker.finish()
    assert not (tmp_path / "stage").exists()


def wait_for_exits(out: Path, count: int) -> None:
    """W&B's own process writes the last records some milliseconds after `finish` has returned."""
    deadline = time.monotonic() + 20
    while sum(record.WhichOneof("record_type") == "exit" for record in wandb_records(out)) < count:
        assert time.monotonic() < deadline, "W&B never closed its files"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def offline_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stage tracked through a real Accelerator, stopped at step 2 and resumed."""
    from accelerate import Accelerator

    run = tmp_path_factory.mktemp("runs") / "sparrow"
    shards, out = run / "shards", run / "vqvae"
    shards.mkdir(parents=True)
    (shards / "dataset.json").write_text('{"format": 1}')
    backend = SimpleNamespace(is_main=True, accelerator=Accelerator(cpu=True))
    config = {"lr": 0.1, "data": {"url": "https://ann:pw@host/x"}, "hub_token": "hf_abcdefghijklmnopqrstuv"}
    for steps, status in ((range(1, 3), "stopped"), (range(3, 5), "finished")):
        cfg = TrackingConfig(mode="offline")
        tracker = Tracker.start(out, cfg, "vqvae", config, backend, {"shards": shards})
        for step in steps:
            tracker.log({"train/loss": 1 / step}, step)
        tracker.images({"grid": np.full((8, 8, 3), 7, np.uint8)}, steps[-1])
        tracker.table("usage", ["level", "usage"], [[0, 1.0]], steps[-1])
        (out / "model").mkdir(exist_ok=True)
        (out / "model" / "config.json").write_text("{}")
        tracker.finish(status)
    wait_for_exits(out, 2)
    return out


def test_wandb_gets_metrics_pictures_tables_and_one_run_over_a_resume(offline_run: Path) -> None:
    records = list(wandb_records(offline_run))
    runs = [record.run for record in records if record.WhichOneof("record_type") == "run"]
    history = [rows_of(record) for record in records if record.WhichOneof("record_type") == "history"]

    assert len({run.run_id for run in runs}) == 1
    assert (runs[0].project, runs[0].run_group, runs[0].job_type) == ("tessera", "sparrow", "vqvae")
    assert runs[0].display_name == "sparrow/vqvae"
    losses = {row["_step"]: row["train/loss"] for row in history if "train/loss" in row}
    assert losses == {1: 1.0, 2: 0.5, 3: pytest.approx(1 / 3), 4: 0.25}
    assert sum("samples/grid/_type" in row or "samples/grid" in row for row in history) == 2
    assert any(key.startswith("tables/usage") for row in history for key in row)


def test_artifacts_join_the_stage_to_its_inputs(offline_run: Path) -> None:
    artifacts = [r.artifact for r in wandb_records(offline_run) if r.WhichOneof("record_type") == "artifact"]
    by_name = {artifact.name: artifact for artifact in artifacts}

    assert by_name["sparrow-shards"].type == "dataset"
    assert by_name["sparrow-shards"].use_after_commit
    assert by_name["sparrow-vqvae"].type == "model"
    assert not by_name["sparrow-vqvae"].use_after_commit
    again = made_by(offline_run)
    assert again is not None
    assert again.to_wandb().digest == by_name["sparrow-vqvae"].digest  # so the next stage's input is this output


def test_pictures_and_tables_are_files_too(offline_run: Path) -> None:
    from PIL import Image

    with Image.open(offline_run / "samples" / "step-00000004-grid.png") as picture:
        assert np.asarray(picture).tolist() == np.full((8, 8, 3), 7).tolist()
    assert json.loads((offline_run / "tables" / "usage.json").read_text())["rows"] == [[0, 1.0]]


def test_no_secret_reaches_wandb(offline_run: Path) -> None:
    everything = b"".join(path.read_bytes() for path in offline_run.rglob("*") if path.is_file())
    assert b"0.1" in everything
    assert b"hf_abcdefghij" not in everything
    assert b"ann:pw" not in everything


def test_redaction_leaves_ordinary_settings_alone() -> None:
    config = {"tokens": 4, "monkey": "x", "url": "https://host/x", "levels": (16, 8), "path": Path("a")}
    assert redact(config) == {"tokens": 4, "monkey": "x", "url": "https://host/x", "levels": [16, 8], "path": "a"}
    assert redact({"wandb_api_key": "abc", "nested": [{"password": "x"}]}) == {
        "wandb_api_key": "[hidden]",
        "nested": [{"password": "[hidden]"}],
    }


def test_a_failing_tracker_warns_once_and_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = Tracker.start(tmp_path, OFF, "vqvae", {})

    asked: list[str] = []

    class Broken:
        def __getattr__(self, name: str) -> Any:
            asked.append(name)
            raise ConnectionError("no route to host")

    tracker._run = Broken()
    with caplog.at_level(logging.WARNING):
        for step in range(5):
            tracker.log({"loss": step}, step)
        tracker.finish()
    assert len(caplog.records) == 1
    assert "no route to host" in caplog.text
    assert asked == ["log"]  # a server that does not answer is not asked at every step
    assert len(read_metrics(tmp_path)) == 5


def test_an_input_that_cannot_be_read_does_not_stop_the_end_of_a_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(_: Path) -> None:
        raise PermissionError("dataset.json: not yours")

    (tmp_path / "model").mkdir()
    monkeypatch.setattr(tracking, "made_by", refuse)
    tracker = Tracker.start(tmp_path, OFF, "prior", {}, inputs={"codes": tmp_path})
    tracker._run = SimpleNamespace(summary={}, finish=lambda exit_code: None)
    tracker.finish("finished")
    assert "not yours" in caplog.text


def test_a_wandb_that_cannot_start_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError("disk quota exceeded")

    monkeypatch.setattr(tracking, "open_wandb", refuse)
    tracker = Tracker.start(tmp_path, TrackingConfig(mode="offline"), "vqvae", {})
    tracker.log({"loss": 1.0}, 1)
    assert "disk quota exceeded" in caplog.text
    assert len(read_metrics(tmp_path)) == 1


@pytest.mark.parametrize(
    ("mode", "key", "environment", "expected"),
    [
        ("auto", "", "", "offline"),
        ("auto", "k", "", "online"),
        ("online", "", "", "offline"),
        ("offline", "k", "", "offline"),
        ("online", "k", "offline", "offline"),
        ("auto", "k", "disabled", "disabled"),
        ("online", "k", "dryrun", "offline"),
        ("auto", "k", "online", "online"),
        ("disabled", "k", "", "disabled"),
    ],
)
def test_wandb_is_online_only_with_a_key(
    mode: str, key: str, environment: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("WANDB_API_KEY", key), ("WANDB_MODE", environment)):
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name, raising=False)
    assert TrackingConfig(mode=mode).wandb_mode() == expected


def test_a_log_file_gets_a_plain_line_every_few_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    stream = io.StringIO()
    with Progress(100, title="vqvae", items_per_step=8, start=50, every_seconds=10, stream=stream) as progress:
        for step in range(51, 101):
            now[0] += 1.0
            progress.update(step, {"loss": 0.25})
    lines = stream.getvalue().splitlines()
    assert len(lines) == 5
    assert lines[0] == "vqvae  step 60/100  loss 0.25  8 images/s  0:40 left"
    assert lines[-1] == "vqvae  step 100/100  loss 0.25  8 images/s"


def test_a_terminal_gets_a_bar() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    with Progress(10, title="prior", stream=stream) as progress:
        progress.update(10, {"loss": 0.5})
    assert "10/10" in stream.getvalue()


def test_times_read_as_a_clock() -> None:
    assert [as_clock(s) for s in (0, 61, 3723.4)] == ["0:00", "1:01", "1:02:03"]
