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
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from pipeline.progress import Progress
from pipeline.wandb_run import Made, made_by, open_wandb, redact, use

__all__ = ["METRICS", "Made", "Progress", "Tracker", "TrackingConfig", "made_by", "read_metrics"]

METRICS = "metrics.jsonl"
MODES = ("auto", "offline", "online", "disabled")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """Where a run is followed. Never part of a stage's identity."""

    mode: str = "auto"
    """`auto` and `online` (online where WANDB_API_KEY is set, else offline), `offline` or `disabled`."""
    project: str = "tessera"
    """W&B project."""
    run: str = ""
    """Name of the run: the W&B group. The name of the run folder where empty."""

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"tracking.mode is one of {', '.join(MODES)}; got '{self.mode}'.")

    def wandb_mode(self) -> str:
        """`online`, `offline` or `disabled`, after a look at the environment."""
        wanted = os.environ.get("WANDB_MODE", "").lower()
        if "disabled" in (self.mode, wanted):
            return "disabled"
        key = bool(os.environ.get("WANDB_API_KEY")) and wanted in ("", "online", "run")  # `dryrun` is offline too
        return "online" if key and self.mode in ("auto", "online") else "offline"


class Tracker:
    """Follows one stage of one run. Only the main process tracks; elsewhere every call does nothing.

    Use `Tracker.start`, then `log`, `images`, `table`, `artifact`, and `finish` at the end.
    """

    def __init__(self, out: Path | None, inputs: tuple[Path, ...] = ()) -> None:
        self.out, self.inputs = out, inputs
        self._file: IO[str] | None = None
        self._run: Any = None
        self._accelerator: Any = None
        self._warned: set[str] = set()

    @classmethod
    def start(
        cls,
        out: Path,
        cfg: TrackingConfig,
        stage: str,
        config: Mapping[str, Any],
        backend: Any | None = None,
        inputs: Mapping[str, Path] | None = None,
    ) -> Tracker:
        """Open metrics.jsonl and, unless disabled, a W&B run that goes on where an earlier process of this stage left.

        Args:
            out: the stage folder, `runs/<name>/<stage>`.
            stage: the job type.
            config: the stage's config as plain data; secrets in it are blanked.
            backend: anything with `is_main` and `accelerator`; None for a stage of one process without Accelerate.
            inputs: the stage's inputs; with what the stage made they become W&B artifacts when it has finished.
        """
        if backend is not None and not backend.is_main:
            return cls(None)
        tracker = cls(out, tuple((inputs or {}).values()))
        out.mkdir(parents=True, exist_ok=True)
        tracker._open_file()
        if cfg.wandb_mode() != "disabled":
            accelerator = getattr(backend, "accelerator", None)
            tracker._try("wandb", lambda: tracker._open_wandb(cfg, stage, redact(dict(config)), accelerator))
        return tracker

    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        """One line of metrics.jsonl, one W&B row. Values: numbers or one-element tensors; nan and inf become null."""
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
        """Record what this stage made and what it used for it; `wandb sync` joins what was recorded offline."""
        if self.out is None:
            return
        inputs = [made for made in uses if made is not None]
        paths = (files,) if isinstance(files, Path) else tuple(files)
        lineage = {"uses": [made.name for made in inputs], **(metadata or {})}
        for used in inputs:
            self._wandb(lambda run, used=used: use(run, used))  # type: ignore[misc]
        self._wandb(lambda run: run.log_artifact(Made(name=name, kind=kind, paths=paths, metadata=lineage).to_wandb()))

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
        if status == "finished":
            self._wandb(lambda run: self._join())
        self._wandb(lambda run: run.summary.update({"status": status}))
        self._wandb(lambda run: run.finish(exit_code=1 if status == "failed" else 0))
        self._run = None
        if self._accelerator is not None:
            self._accelerator.trackers.clear()  # the next stage in this process opens a run of its own
        if self._file is not None:
            self._file.close()
            self._file = None

    def _join(self) -> None:
        """Name what the stage read and what it made."""
        assert self.out is not None
        if made := made_by(self.out):
            self.artifact(made.name, made.kind, made.paths, uses=map(made_by, self.inputs))

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

    def _open_wandb(self, cfg: TrackingConfig, stage: str, config: dict[str, Any], accelerator: Any | None) -> None:
        assert self.out is not None
        run_name = cfg.run or self.out.resolve().parent.name
        names = {"group": run_name, "job_type": stage, "name": f"{run_name}/{stage}"}
        self._run = open_wandb(self.out, cfg.project, cfg.wandb_mode(), names, config, accelerator)
        self._accelerator = accelerator

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


def _metrics_path(out: Path | None) -> Path:
    assert out is not None
    return Path(out) / METRICS


def _number(value: Any) -> float | int | None:
    number = value if isinstance(value, int) else float(value)
    return number if math.isfinite(number) else None


def _write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")


def _write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    aside = path.with_suffix(".jsonl.part")
    aside.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    aside.replace(path)
