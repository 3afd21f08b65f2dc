"""The Weights & Biases side of tracking: how a run is opened, what its artifacts are, what must never reach it."""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.recipe_file import SECRET_VALUE

WANDB_ID = "wandb_id.json"
_SECRET_NAME = re.compile(r"token$|secret|password|passwd|api_?key|credential", re.IGNORECASE)


def open_wandb(
    out: Path, project: str, mode: str, names: Mapping[str, str], config: dict[str, Any], accelerator: Any | None
) -> Any:
    """The W&B run of a stage folder: a new one, or the same one again after a resume.

    Args:
        out: the stage folder; `wandb/` and `wandb_id.json` go there.
        mode: `offline` or `online`.
        names: `group`, `job_type` and `name`.
        accelerator: an `accelerate.Accelerator`, whose tracker API opens the run; None opens it directly (Accelerate's
            tracker logs through a logger that demands an initialised process state, which such a stage does not have).
    """
    os.environ.setdefault("WANDB_SILENT", "true")
    import wandb

    # x_disable_meta: wandb would store the whole command line, secrets included.
    settings = wandb.Settings(
        x_disable_meta=True, silent=True, console="off", save_code=False, disable_git=True, init_timeout=30
    )
    arguments: dict[str, Any] = {"mode": mode, "dir": str(out), "id": _wandb_id(out), "resume": "allow", **names}
    arguments["settings"] = settings
    if accelerator is None:
        return wandb.init(project=project, config=config, **arguments)
    from accelerate.tracking import filter_trackers

    accelerator.log_with = accelerator.log_with or filter_trackers("wandb")
    accelerator.init_trackers(project, config=config, init_kwargs={"wandb": arguments})
    return accelerator.get_tracker("wandb", unwrap=True)


def _wandb_id(out: Path) -> str:
    path = out / WANDB_ID
    if path.is_file():
        return str(json.loads(path.read_text(encoding="utf-8"))["id"])
    name = uuid.uuid4().hex[:10]
    path.write_text(json.dumps({"id": name}), encoding="utf-8")
    return name


@dataclass(frozen=True, kw_only=True)
class Made:
    """Something a stage made that another may use: an artifact of W&B."""

    name: str
    kind: str
    paths: tuple[Path, ...]
    metadata: Mapping[str, Any] = field(default_factory=dict)

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
    """What a finished stage folder (or a folder of shards) offers: its model, the description of its data, its figures.

    Shards and codes are described, never uploaded.
    """
    name = re.sub(r"[^\w.-]", "-", f"{folder.resolve().parent.name}-{folder.resolve().name}")[-120:]
    if (folder / "model").is_dir():
        return Made(name=name, kind="model", paths=(folder / "model",))
    if (folder / "dataset.json").is_file():
        return Made(name=name, kind="dataset", paths=(folder / "dataset.json",))
    if (folder / "results.json").is_file():
        return Made(name=name, kind="evaluation", paths=(folder / "results.json",))
    return None


def use(run: Any, made: Made) -> None:
    """Record that a run reads what another made."""
    if run.settings._offline:  # run.use_artifact refuses offline; this is the record it would have left
        run._log_artifact(made.to_wandb(), is_user_created=True, use_after_commit=True)
    else:
        run.use_artifact(made.to_wandb())


def redact(value: Any) -> Any:
    """A copy of plain data in which everything that looks like a secret is `[hidden]`."""
    if isinstance(value, Mapping):
        hide = "[hidden]"
        return {str(k): hide if _SECRET_NAME.search(str(k)) and v else redact(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [redact(item) for item in value]
    if isinstance(value, str):
        return SECRET_VALUE.sub("[hidden]", value)
    return value if isinstance(value, int | float | bool | type(None)) else str(value)
