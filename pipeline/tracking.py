"""What a stage tells about itself: metrics.jsonl, pictures and tables on disk always; Weights & Biases where it works.

The files in the stage folder are the truth: `metrics.jsonl` is flushed line by line and cut back on resume. W&B goes
through Accelerate's tracker API, offline unless a key is set. No failure here ever stops a training: the first one
switches W&B off for the rest of the stage and says so, once.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from pipeline.progress import Progress, as_clock

__all__ = ["METRICS", "Made", "Progress", "Tracker", "TrackingConfig", "as_clock", "made_by", "read_metrics", "redact"]

METRICS = "metrics.jsonl"
WANDB_ID = "wandb_id.json"
MODES = ("auto", "offline", "online", "disabled")
_SECRET_NAME = re.compile(r"token$|secret|password|passwd|api_?key|credential", re.IGNORECASE)
_SECRET_VALUE = re.compile(r"hf_\w{16,}|AKIA[0-9A-Z]{12,}|\b[0-9a-f]{40}\b|(?<=://)[^/@\s]+(?=@)")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """Where a run is followed. Never part of a stage's identity."""

    mode: str = "auto"
    """`auto` (online where WANDB_API_KEY is set, else offline), `offline`, `online` or `disabled`."""
    project: str = "tessera"
    """W&B project."""
    run: str = ""
    """Name of the run: the W&B group. The name of the run folder where empty."""

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"tracking.mode is one of {', '.join(MODES)}; got '{self.mode}'.")

    def wandb_mode(self) -> str:
        """`online`, `offline` or `disabled`, after a look at the environment."""
        if "disabled" in (self.mode, os.environ.get("WANDB_MODE")):
            return "disabled"
        key = bool(os.environ.get("WANDB_API_KEY")) and os.environ.get("WANDB_MODE") != "offline"
        return "online" if key and self.mode in ("auto", "online") else "offline"


@dataclass(frozen=True, kw_only=True)
class Made:
    """Something a stage made that another may use: an artifact of W&B."""

    name: str
    kind: str
    paths: tuple[Path, ...]
    metadata: Mapping[str, Any]

    def to_wandb(self) -> Any:
        """The same files give the same digest, so W&B joins the stage that made them to the stages that use them."""
        import wandb

        artifact = wandb.Artifact(self.name, type=self.kind, metadata=redact(dict(self.metadata)))
        for path in self.paths:
            if path.is_dir():
                artifact.add_dir(str(path), name=path.name, policy="immutable", skip_cache=True)
            else:
                artifact.add_file(str(path), name=path.name, policy="immutable", skip_cache=True)
        return artifact


def made_by(folder: Path) -> Made | None:
    """What a finished stage folder (or a folder of shards) offers: its `model/`, else the description of its data.

    Shards and codes are described, never uploaded.
    """
    name = re.sub(r"[^\w.-]", "-", f"{folder.resolve().parent.name}-{folder.resolve().name}")[-120:]
    if (folder / "model").is_dir():
        return Made(name=name, kind="model", paths=(folder / "model",), metadata={})
    if (folder / "dataset.json").is_file():
        return Made(name=name, kind="dataset", paths=(folder / "dataset.json",), metadata={})
    return None


class Tracker:
    """Follows one stage of one run. Only the main process tracks; elsewhere every call does nothing.

    Use `Tracker.start`, then `log`, `images`, `table`, `artifact`, and `finish` at the end.
    """

    def __init__(self, out: Path | None) -> None:
        self.out = out
        self._file: IO[str] | None = None
        self._run: Any = None
        self._accelerator: Any = None
        self._warned: set[str] = set()

    @classmethod
    def start(
        cls, out: Path, cfg: TrackingConfig, stage: str, config: Mapping[str, Any], backend: Any | None = None
    ) -> Tracker:
        """Open metrics.jsonl and, unless disabled, a W&B run that goes on where an earlier process of this stage left.

        Args:
            out: the stage folder, `runs/<name>/<stage>`.
            stage: the job type.
            config: the stage's config as plain data; secrets in it are blanked.
            backend: anything with `is_main` and `accelerator`; None for a stage of one process without Accelerate.
        """
        if backend is not None and not backend.is_main:
            return cls(None)
        tracker = cls(out)
        out.mkdir(parents=True, exist_ok=True)
        tracker._open_file()
        if cfg.wandb_mode() != "disabled":
            tracker._try("wandb", lambda: tracker._open_wandb(cfg, stage, redact(dict(config)), backend))
        return tracker

    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        """One line of metrics.jsonl and one W&B row. Values are numbers or one-element tensors; nan and inf become null."""
        if self.out is None:
            return
        values = {name: _number(value) for name, value in metrics.items()}
        self._try("metrics", lambda: self._write(values, step))
        numbers = {name: value for name, value in values.items() if value is not None}
        self._wandb(lambda run: run.log(numbers, step=step))

    def images(self, pictures: Mapping[str, np.ndarray], step: int) -> list[Path]:
        """Save `samples/step-00000500-<name>.png` for every picture (uint8 (h, w, 3)); the paths, in order."""
        if self.out is None:
            return []
        saved: list[Path] = []
        self._try("pictures", lambda: saved.extend(self._save_pictures(pictures, step)))

        def send(run: Any) -> None:
            import wandb

            run.log({f"samples/{name}": [wandb.Image(np.asarray(p))] for name, p in pictures.items()}, step=step)

        self._wandb(send)
        return saved

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int | None = None) -> None:
        """Save `tables/<name>.json` and send a W&B table."""
        if self.out is None:
            return
        path = self.out / "tables" / f"{name}.json"
        content = {"columns": list(columns), "rows": [list(row) for row in rows]}
        self._try("tables", lambda: _write_json(path, content))

        def send(run: Any) -> None:
            import wandb

            run.log({f"tables/{name}": wandb.Table(columns=list(columns), data=content["rows"])}, step=step)

        self._wandb(send)

    def artifact(
        self,
        name: str,
        kind: str,
        files: Path | Iterable[Path],
        metadata: Mapping[str, Any] | None = None,
        uses: Iterable[Made | None] = (),
    ) -> None:
        """Record what this stage made and what it used for it; offline this is written down and joined on `wandb sync`."""
        if self.out is None:
            return
        inputs = [made for made in uses if made is not None]
        paths = (files,) if isinstance(files, Path) else tuple(files)
        lineage = {"uses": [made.name for made in inputs], **(metadata or {})}
        self._wandb(lambda run: [_use(run, made) for made in inputs])
        self._wandb(lambda run: run.log_artifact(Made(name=name, kind=kind, paths=paths, metadata=lineage).to_wandb()))

    def lineage(self, inputs: Iterable[Path], made: Path | None = None) -> None:
        """The same, read off folders: `inputs` are stage folders this stage read, `made` the folder it filled."""
        mine = made_by(made or self.out) if self.out is not None else None
        if mine is not None:
            self.artifact(mine.name, mine.kind, mine.paths, mine.metadata, [made_by(Path(folder)) for folder in inputs])

    def cut_back(self, step: int) -> None:
        """Forget every line after `step` (and a line a kill left half written): training resumes from there."""
        if self.out is None:
            return
        if self._file is not None:
            self._file.close()
        rows = [row for row in read_metrics(self.out) if row["step"] <= step]
        self._try("metrics", lambda: _write_lines(_metrics_path(self.out), rows))
        self._open_file()

    def finish(self, status: str = "finished") -> None:
        """Close everything. `status` is `finished`, `stopped` (on request, will be resumed) or `failed`."""
        self._wandb(lambda run: run.summary.update({"status": status}))
        self._wandb(lambda run: run.finish(exit_code=1 if status == "failed" else 0))
        self._run = None
        if self._accelerator is not None:
            self._accelerator.trackers.clear()  # the next stage in this process opens a run of its own
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, values: Mapping[str, float | None], step: int) -> None:
        if self._file is None:
            self._open_file()
        if self._file is not None:
            self._file.write(json.dumps({"step": step, **values}) + "\n")
            self._file.flush()

    def _open_file(self) -> None:
        path = _metrics_path(self.out)

        def opened() -> None:
            self._file = path.open("a", encoding="utf-8")

        self._file = None
        self._try("metrics", opened)

    def _open_wandb(self, cfg: TrackingConfig, stage: str, config: dict[str, Any], backend: Any | None) -> None:
        assert self.out is not None
        os.environ.setdefault("WANDB_SILENT", "true")
        import wandb

        run_name = cfg.run or self.out.resolve().parent.name
        # x_disable_meta: wandb would store the whole command line, secrets included.
        settings = wandb.Settings(
            x_disable_meta=True, silent=True, console="off", save_code=False, disable_git=True, init_timeout=30
        )
        arguments = {
            "mode": cfg.wandb_mode(), "dir": str(self.out), "id": _wandb_id(self.out), "resume": "allow",
            "group": run_name, "job_type": stage, "name": f"{run_name}/{stage}", "settings": settings,
        }  # fmt: skip
        accelerator = getattr(backend, "accelerator", None)
        if accelerator is None:
            self._run = wandb.init(project=cfg.project, config=config, **arguments)
            return
        from accelerate.tracking import filter_trackers

        self._accelerator = accelerator
        accelerator.log_with = accelerator.log_with or filter_trackers("wandb")
        accelerator.init_trackers(cfg.project, config=config, init_kwargs={"wandb": arguments})
        self._run = accelerator.get_tracker("wandb", unwrap=True)

    def _save_pictures(self, pictures: Mapping[str, np.ndarray], step: int) -> list[Path]:
        from PIL import Image

        assert self.out is not None
        folder = self.out / "samples"
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / f"step-{step:08d}-{name.replace('/', '-')}.png" for name in pictures]
        for path, picture in zip(paths, pictures.values(), strict=True):
            Image.fromarray(np.asarray(picture, dtype=np.uint8)).save(path)
        return paths

    def _wandb(self, call: Callable[[Any], Any]) -> None:
        run = self._run
        if run is not None and not self._try("wandb", lambda: call(run)):
            self._run = None

    def _try(self, what: str, call: Callable[[], Any]) -> bool:
        try:
            call()
        except Exception as error:  # tracking never stops a training, whatever goes wrong in it
            if what not in self._warned:
                self._warned.add(what)
                after = f"W&B is off for this stage; {METRICS} goes on" if what == "wandb" else "training goes on"
                _log.warning("tracking (%s) failed: %s: %s. %s.", what, type(error).__name__, error, after)
            return False
        return True


def read_metrics(out: Path) -> list[dict[str, Any]]:
    """The whole lines of `<out>/metrics.jsonl`, in file order; a line cut off by a kill is left out."""
    path = _metrics_path(out)
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []:
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
    return rows


def redact(value: Any) -> Any:
    """A copy of plain data in which everything that looks like a secret is `[hidden]`."""
    if isinstance(value, Mapping):
        hide = "[hidden]"
        return {str(k): hide if _SECRET_NAME.search(str(k)) and v else redact(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [redact(item) for item in value]
    if isinstance(value, str):
        return _SECRET_VALUE.sub("[hidden]", value)
    return value if isinstance(value, int | float | bool | type(None)) else str(value)


def _use(run: Any, made: Made) -> None:
    if run.settings._offline:  # run.use_artifact refuses offline; this is the record it would have left
        run._log_artifact(made.to_wandb(), is_user_created=True, use_after_commit=True)
    else:
        run.use_artifact(made.to_wandb())


def _metrics_path(out: Path | None) -> Path:
    assert out is not None
    return Path(out) / METRICS


def _number(value: Any) -> float | int | None:
    number = value if isinstance(value, int) else float(value)
    return number if math.isfinite(number) else None


def _wandb_id(out: Path) -> str:
    path = out / WANDB_ID
    if path.is_file():
        return str(json.loads(path.read_text(encoding="utf-8"))["id"])
    name = uuid.uuid4().hex[:10]
    _write_json(path, {"id": name})
    return name


def _write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")


def _write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    aside = path.with_suffix(".jsonl.part")
    aside.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    aside.replace(path)
