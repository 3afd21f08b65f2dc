"""A whole recipe: the stages in order, each skipped, resumed, run or refused.

Everything that can be refused is refused before the first stage starts. A stage of one process runs in this process;
one of several goes through `launch`, which starts the processes and returns their exit code.
"""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from pipeline import artifacts
from pipeline.artifacts import MANIFEST
from pipeline.atomic_file import write_atomically
from pipeline.config import Recipe, check, instances, stage_of
from pipeline.errors import ConfigError, DataError, Stopped, TesseraError
from pipeline.owner import OWNER, owning
from pipeline.progress import as_clock
from pipeline.recipe_file import PACKAGED
from pipeline.schema import did_you_mean
from pipeline.shard_index import open_shards
from pipeline.stage import Results, Stage
from pipeline.stage_run import Job, refuse_changed, refuse_data, run_stage
from pipeline.stopping import STOP_FILE
from pipeline.training_config import DataConfig

SHOWN_NUMBERS = 8


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What the command line adds to a recipe."""

    runs: Path = Path("runs")
    until: str | None = None
    only: str | None = None
    redo: str | None = None
    processes: int = 1
    at_most: bool = False
    """Whether fewer processes are welcome where a stage's lanes do not divide by `processes`."""


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A stage instance, what state its folder is in, and what it will do."""

    job: Job
    state: str
    """'finished', 'resume', 'new', or 'again' (asked for by --redo)."""
    processes: int
    at_step: int
    steps: int | None
    images: int | None

    def as_json(self) -> dict[str, Any]:
        """For `--dry-run --json`."""
        names = ("state", "processes", "at_step", "steps", "images")
        folders = {name: str(folder) for name, folder in self.job.inputs.items()}
        return {"stage": self.job.instance, "folder": str(self.job.out), "inputs": folders} | {
            name: getattr(self, name) for name in names
        }


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A stage that is finished now."""

    instance: str
    out: Path
    results: Results
    seconds: float
    skipped: bool


Launch = Callable[[Planned, Path], int]


def plan_run(recipe: Recipe, stages: Sequence[Stage], options: RunOptions) -> list[Planned]:
    """The selected stages in order, with their states; raises everything that can be refused before work begins."""
    names = [name for stage in stages for name in instances(recipe, stage)]
    again = _with_dependents(options.redo, recipe, stages, names) if options.redo else set()
    selected = _selected(names, options)
    idle = {name for name in names if artifacts.is_finished(options.runs / recipe.name / name)} - again
    configs = check(recipe, stages, idle | (set(names) - set(selected) if options.only else set()))
    planned = []
    for name in selected:
        job = make_job(recipe, stages, name, configs[name], options.runs)
        one = _planned(job, again=name in again, options=options)
        if one.state != "again":
            refuse_changed(job)
        planned.append(one)
    _refuse_missing(planned)
    coming = {one.job.out for one in planned if one.state != "finished"}
    _refuse_data(recipe, [one for one in planned if one.job.inputs.get("shards") not in coming])
    for shards in {one.job.inputs["shards"] for one in planned if "shards" in one.job.inputs} - coming:
        _refuse_few(planned, shards)
    return planned


def _refuse_few(planned: list[Planned], shards: Path) -> None:
    """ConfigError where shards do not fill a batch of stages to come that read them or their codes; what all take."""
    coded = {one.job.out: one.job.inputs.get("shards") for one in planned if one.job.stage.name == "codes"}
    wanted: dict[str, DataConfig] = {}
    for job in (one.job for one in planned if one.state != "finished"):
        read = job.inputs.get("shards", coded.get(job.inputs.get("codes", Path())))
        if read == shards and isinstance(data := getattr(job.cfg, "data", None), DataConfig):
            wanted[job.instance] = data
    count = sum(shard.samples for shard in open_shards(shards).splits.get("train", [])) if wanted else 0
    advice = []
    for name, data in wanted.items():
        if 0 < count < data.global_batch:
            lanes = min(data.lanes, count)
            advice += [f"{name}.data.lanes={lanes}"] * (lanes < data.lanes)
            advice.append(f"{name}.data.global_batch={count // lanes * lanes}")
    if advice:
        raise ConfigError(
            f"{shards} holds {count} samples to train on, fewer than one global batch. Add to the line:\n"
            + " ".join(advice)
        )


def _refuse_data(recipe: Recipe, planned: list[Planned]) -> None:
    """What stages that are still to come ask of shards that are finished."""
    for one in planned:
        if one.state != "finished":
            refuse_data(one.job, recipe)


def make_job(recipe: Recipe, stages: Iterable[Stage], instance: str, cfg: Any, runs: Path) -> Job:
    """A stage instance with its folders. 'prior@large' reads 'codes@large' where the recipe has it, else 'codes'."""
    stage = stage_of(instance, stages)
    assert stage is not None
    _, at, tag = instance.partition("@")
    inputs = {}
    for need in stage.needs(recipe):
        name = need + at + tag if at and recipe.has(need + at + tag) else need
        inputs[need] = Path(recipe.use[name]) if name in recipe.use else runs / recipe.name / name
        _refuse_other_stage(need, inputs[need])
    shown = recipe.path.stem if recipe.path.parent in (PACKAGED, Path("configs")) else str(recipe.path)
    elsewhere = [] if runs == Path("runs") else ["--runs", str(runs)]
    command = shlex.join(["tessera", "run", shown, *recipe.overrides, *elsewhere])
    return Job(
        instance=instance, stage=stage, cfg=cfg, inputs=inputs, out=runs / recipe.name / instance, command=command
    )


def _refuse_other_stage(need: str, folder: Path) -> None:
    if artifacts.is_finished(folder):
        made_by = str(artifacts.read_manifest(folder).get("stage"))
        if made_by.partition("@")[0] != need.partition("@")[0]:
            raise ConfigError(f"'use: {need}' names {folder}, which stage '{made_by}' made: name a folder of '{need}'.")


def _planned(job: Job, *, again: bool, options: RunOptions) -> Planned:
    loop, data = getattr(job.cfg, "loop", None), getattr(job.cfg, "data", None)
    processes = options.processes if job.stage.distributed else 1
    lanes = getattr(data, "lanes", None)
    if lanes is not None and options.at_most:
        processes = max(n for n in range(1, processes + 1) if lanes % n == 0)
    if lanes is not None and lanes % processes:
        raise ConfigError(
            f"{processes} processes do not divide {job.instance}.data.lanes ({lanes}). "
            f"Counts that do: {', '.join(str(n) for n in range(1, lanes + 1) if lanes % n == 0)}."
        )
    at_step = 0 if again else max(_checkpoints(job.out), default=0)
    started = (job.out / "config.yaml").is_file()
    state = "again" if again else "finished" if job.finished else "resume" if started else "new"
    steps, global_batch = getattr(loop, "steps", None), getattr(data, "global_batch", None)
    images = steps * global_batch if steps and global_batch else None
    return Planned(job=job, state=state, processes=processes, at_step=at_step, steps=steps, images=images)


def _checkpoints(out: Path) -> list[int]:
    found = (re.fullmatch(r"step-(\d+)", path.name) for path in (out / "checkpoints").glob("step-*"))
    return [int(match.group(1)) for match in found if match]


def _selected(names: list[str], options: RunOptions) -> list[str]:
    if options.only:
        return _matching(options.only, names, "--only")
    if options.until:
        last = _matching(options.until, names, "--until")[-1]
        return names[: names.index(last) + 1]
    return names


def _matching(wanted: str, names: list[str], flag: str) -> list[str]:
    """A stage's name means all its instances; an instance's name only itself."""
    found = [name for name in names if wanted in (name, name.partition("@")[0])]
    if not found:
        raise ConfigError(f"{flag} {wanted}: the recipe has no such stage.{did_you_mean(wanted, names)}")
    return found


def _with_dependents(wanted: str, recipe: Recipe, stages: Sequence[Stage], names: list[str]) -> set[str]:
    found = set(_matching(wanted, names, "--redo"))
    for name in names:  # in order, so one pass reaches everything downstream
        stage = stage_of(name, stages)
        assert stage is not None
        tag = name.partition("@")[2]
        if any(need in found or f"{need}@{tag}" in found for need in stage.needs(recipe)):
            found.add(name)
    return found


def _refuse_missing(planned: list[Planned]) -> None:
    """An input must be finished already, or be made by this run before it is read."""
    coming = {one.job.out for one in planned if one.state != "finished"}
    for one in planned:
        ready = {name: path for name, path in one.job.inputs.items() if path not in coming}
        marks = replace(one.job, inputs=ready).input_fingerprints()
        if one.state != "again":
            refuse_changed(one.job, marks)


def run_recipe(
    recipe: Recipe,
    stages: Sequence[Stage],
    options: RunOptions,
    *,
    launch: Launch,
    say: Callable[[str], None] = print,
) -> list[Outcome]:
    """Run what the options select and say one line per stage.

    Raises:
        ConfigError, MissingInputError: refused before the first stage starts, or as soon as the shards are finished.
        Stopped: stopped on request; the same call resumes.
        DataError, TesseraError: a stage failed; later stages did not start.
    """
    planned = plan_run(recipe, stages, options)
    run_dir = options.runs / recipe.name
    run_dir.mkdir(parents=True, exist_ok=True)
    for one in planned:
        if one.state == "again" and one.job.out.exists():
            say(f"{one.job.instance}: the old folder is kept as {_move_aside(one.job.out)}")
    recipe_file = write_recipe(recipe, run_dir)
    outcomes = []
    for one in planned:
        outcomes.append(_run_one(one, run_dir, recipe_file, launch, say))
        if one.state != "finished":
            if one.job.stage.name == "shards":
                _refuse_few(planned, one.job.out)
            _refuse_data(recipe, [other for other in planned if other.job.inputs.get("shards") == one.job.out])
    return outcomes


def _run_one(one: Planned, run_dir: Path, recipe_file: Path, launch: Launch, say: Callable[[str], None]) -> Outcome:
    job, began = one.job, time.monotonic()
    if (run_dir / STOP_FILE).exists():
        (run_dir / STOP_FILE).unlink(missing_ok=True)
        raise Stopped(f"stopped on request before '{job.instance}'; the same line typed again resumes.")
    skipped = job.finished
    if skipped or one.processes == 1:
        if not skipped:
            say(_beginning(one))
        results = run_stage(job)
    else:
        say(_beginning(one))
        results = _launched(one, launch(one, recipe_file))
    seconds = time.monotonic() - began
    say(f"{job.instance}: finished before, skipped" if skipped else f"{job.instance}: finished in {as_clock(seconds)}")
    if line := headline(results):
        say(f"  {line}")
    if not skipped and (picture := newest_picture(job.out)):
        say(f"  picture: {picture}")
    return Outcome(instance=job.instance, out=job.out, results=results, seconds=seconds, skipped=skipped)


def _beginning(one: Planned) -> str:
    parts = [f"{one.job.instance}: {'resumes' if one.state == 'resume' else 'starts'}"]
    if one.steps:
        parts.append(f"step {one.at_step} of {one.steps}")
    if one.processes > 1:
        parts.append(f"{one.processes} processes")
    return ", ".join(parts)


def _launched(one: Planned, code: int) -> Results:
    """The results of a stage that other processes ran, or the error their exit code stands for."""
    if code == 0 and one.job.finished:
        return dict(artifacts.read_manifest(one.job.out)["results"])
    kinds: dict[int, type[TesseraError]] = {kind.exit_code: kind for kind in (ConfigError, DataError)}
    if code == Stopped.exit_code:
        raise Stopped(f"'{one.job.instance}' was stopped on request; the same line typed again resumes.")
    raise kinds.get(code, TesseraError)(
        f"'{one.job.instance}' ended with exit code {code} and no {MANIFEST}; its own words are above and in "
        f"{one.job.out}/log*.txt."
    )


def _move_aside(folder: Path) -> Path:
    """Rename a stage folder to <run>/old/<stage>-<n>; refused while a run owns it."""
    old = folder.parent / "old"
    old.mkdir(exist_ok=True)
    number = 1
    while (aside := old / f"{folder.name}-{number}").exists():
        number += 1
    with owning(folder):
        folder.rename(aside)
    (aside / OWNER).unlink(missing_ok=True)
    return aside


def write_recipe(recipe: Recipe, run_dir: Path) -> Path:
    """The resolved recipe, as a file that runs again by itself."""
    run_dir.mkdir(parents=True, exist_ok=True)
    header = f"# {recipe.path}" + (f" with {' '.join(recipe.overrides)}" if recipe.overrides else "")
    text = f"{header}\n{yaml.safe_dump(recipe.data, sort_keys=False, allow_unicode=True)}"
    write_atomically(run_dir / "recipe.yaml", text.encode())
    return run_dir / "recipe.yaml"


def headline(results: Results) -> str:
    """One short line: the stage's own 'headline', else its first numbers, those inside mappings too."""
    if isinstance(results.get("headline"), str):
        return str(results["headline"])
    return ", ".join(f"{name} {value:.4g}" for name, value in _numbers(results)[:SHOWN_NUMBERS])


def _numbers(results: Results, prefix: str = "") -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = []
    for name, value in results.items():
        if isinstance(value, dict):
            found += _numbers(value, f"{prefix}{name} ")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found.append((prefix + name, value))
    return found


def newest_picture(out: Path) -> Path | None:
    """The picture a stage painted last."""
    pictures = [*out.glob("samples/*.png"), *out.glob("*.png")]
    return max(pictures, key=lambda path: (path.stat().st_mtime, path.name), default=None)
