"""What the report reads of a run folder: for every stage its state, results, metrics, pictures and tables.

A run may be half done, stopped or damaged. Whatever can be read is read; what cannot is left out or said in `note`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from pipeline.artifacts import MANIFEST, read_json, read_manifest
from pipeline.config import located
from pipeline.errors import ConfigError, DataError, MissingInputError
from pipeline.tracking import METRICS, read_metrics

RECIPE = "recipe.yaml"
PICTURES = ("*.png", "samples/**/*.png", "pictures/**/*.png")
ORDER = ("shards", "align", "vqvae", "codes", "prior", "gan", "evaluation")
_SIGNS = (MANIFEST, METRICS, "config.yaml", "env.json", "exit.json", "samples")
_PAINTED = re.compile(r"step-(\d+)-(.+)")


@dataclass(frozen=True)
class Picture:
    """A PNG a stage painted; `step` is None for one that belongs to no step."""

    path: Path
    name: str
    step: int | None


@dataclass(frozen=True)
class StageFolder:
    """One stage of a run, as far as it got."""

    name: str
    """Instance name: 'prior' or 'prior@large'."""
    folder: Path
    results: dict[str, Any] = field(default_factory=dict)
    finished: bool = False
    note: str = ""
    """Why it is not finished, or which run it was taken from."""

    @property
    def kind(self) -> str:
        """The stage of an instance: 'prior' of 'prior@large'."""
        return self.name.partition("@")[0]

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """The whole lines of metrics.jsonl."""
        try:
            return read_metrics(self.folder)
        except (OSError, ValueError):
            return []

    @cached_property
    def series(self) -> dict[str, list[tuple[int, float]]]:
        """{metric: (step, value) by step}, finite values only; of two lines for a step the later counts."""
        found: dict[str, dict[int, float]] = {}
        for row in self.rows:
            for name, value in row.items():
                if name != "step" and is_number(value):
                    found.setdefault(name, {})[row["step"]] = float(value)
        return {name: sorted(points.items()) for name, points in found.items()}

    @property
    def last_step(self) -> int | None:
        """The last step that left a line."""
        return max((row["step"] for row in self.rows), default=None)

    @cached_property
    def pictures(self) -> list[Picture]:
        """Every PNG in the stage folder, by name, oldest first."""
        inside = [path for place in PICTURES for path in self.folder.glob(place)]
        return sorted(map(_picture, inside), key=lambda one: (one.name, one.step or 0, one.path))

    def tables(self) -> Iterator[tuple[str, list[Any], list[list[Any]]]]:
        """Name, columns and rows of every `tables/*.json`."""
        for path in sorted(self.folder.glob("tables/**/*.json")):
            content = read_json(path)
            columns, rows = content.get("columns"), content.get("rows")
            if isinstance(columns, list) and isinstance(rows, list):
                yield path.stem, columns, [row for row in rows if isinstance(row, list)]


@dataclass(frozen=True)
class RunFolder:
    """A run: its recipe as text and its stages in the order the data flows."""

    name: str
    recipe: str
    stages: tuple[StageFolder, ...]

    def of_kind(self, *kinds: str) -> list[StageFolder]:
        """The stages of these kinds, every instance."""
        return [stage for stage in self.stages if stage.kind in kinds]


def read_run(run_dir: Path) -> RunFolder:
    """Everything the report shows; raises ConfigError where `run_dir` is not the folder of a run."""
    folders = [path for path in run_dir.iterdir() if _is_stage(path)] if run_dir.is_dir() else []
    recipe = run_dir / RECIPE
    if not folders and not recipe.is_file():
        raise ConfigError(
            f"{run_dir} is not a run folder: it holds neither {RECIPE} nor the folder of a stage.\n"
            "Give one that `tessera run` made:  tessera report runs/tiny"
        )
    text = recipe.read_text(encoding="utf-8", errors="replace") if recipe.is_file() else ""
    stages = {path.name: _stage(path.name, path) for path in folders}
    for name, path in located(run_dir, _borrowed(text)).items():
        if name not in stages and path.is_dir():
            stages[name] = _stage(name, path, taken_from=str(path))
    ordered = sorted(stages.values(), key=lambda stage: (_rank(stage.kind), stage.name))
    return RunFolder(name=run_dir.resolve().name, recipe=text, stages=tuple(ordered))


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """('a.b', value) of nested mappings and of lists of mappings, in their order."""
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
            yield from flat({str(i): item for i, item in enumerate(value)}, f"{name}.")
        elif isinstance(value, Mapping):
            yield from flat(value, f"{name}.")
        else:
            yield name, value


def is_number(value: Any) -> bool:
    """Whether it is a finite number (true and false are none)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _stage(name: str, folder: Path, taken_from: str = "") -> StageFolder:
    note = f"from {taken_from}" if taken_from else ""
    try:
        results = read_manifest(folder)["results"]
    except MissingInputError:
        return StageFolder(name, folder, note=note)
    except (DataError, OSError) as error:
        return StageFolder(name, folder, note=str(error))
    return StageFolder(name, folder, results if isinstance(results, dict) else {}, finished=True, note=note)


def _is_stage(path: Path) -> bool:
    return path.is_dir() and any((path / sign).exists() for sign in _SIGNS)


def _rank(kind: str) -> int:
    return ORDER.index(kind) if kind in ORDER else len(ORDER)


def _borrowed(recipe: str) -> dict[str, str]:
    """{stage: folder} of finished stages of other runs, named under `use` in the recipe."""
    try:
        values = yaml.safe_load(recipe)
    except yaml.YAMLError:
        return {}
    use = values.get("use") if isinstance(values, dict) else None
    return {str(name): str(path) for name, path in use.items()} if isinstance(use, dict) else {}


def _picture(path: Path) -> Picture:
    painted = _PAINTED.fullmatch(path.stem)
    return Picture(path, painted[2], int(painted[1])) if painted else Picture(path, path.stem, None)


def as_json(value: Any) -> str:
    """A value that fits no cell otherwise, in one line."""
    return json.dumps(value, ensure_ascii=False, default=str)
