"""One stage in one process: finished, changed, resumed or refused; owner lock, log, exit.json, manifest.

Every rank of a multi-process stage enters `run_stage`. Rank 0 (RANK, default 0) owns the folder and writes the
manifest; the others check the same things by reading, and run.
"""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import yaml

from pipeline import artifacts
from pipeline.artifacts import MANIFEST
from pipeline.atomic_file import write_atomically
from pipeline.config import Recipe
from pipeline.errors import ConfigError, MissingInputError, Stopped, TesseraError
from pipeline.log_file import copied_to, messages_to
from pipeline.owner import owning
from pipeline.schema import differences, identity_part, plain, with_new_fields
from pipeline.stage import Results, Stage
from pipeline.stopping import StopRequest, stop_signals

SHOWN_DIFFERENCES = 8
LOOKED_ON = {("vqvae", "align")}
"""A stage and an input of it that only judged while it trained: nothing of it is left in what it made."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One stage of one run, ready to start."""

    instance: str
    """'prior', or 'prior@large'."""
    stage: Stage
    cfg: Any
    inputs: dict[str, Path]
    out: Path
    command: str = "tessera run RECIPE"
    """What a reader types to run this recipe; errors continue it."""

    @property
    def finished(self) -> bool:
        """Whether the manifest is there."""
        return artifacts.is_finished(self.out)

    def input_fingerprints(self) -> dict[str, str]:
        """{input: fingerprint}; raises MissingInputError naming the stage to run first, ConfigError on a wrong mix."""
        marks = {name: self._fingerprint(name, folder) for name, folder in self.inputs.items()}
        for name, folder in self.inputs.items():
            self._refuse_mixture(name, folder, marks)
        return marks

    def _fingerprint(self, name: str, folder: Path) -> str:
        if artifacts.is_finished(folder):
            return artifacts.fingerprint(folder)
        elsewhere = folder != self.out.parent / name
        if name == "shards" and elsewhere:  # shards made by others carry no manifest
            from pipeline.shard_index import open_shards

            return open_shards(folder).fingerprint
        missing = f"stage '{self.instance}' reads '{name}', but {folder} has no {MANIFEST}: "
        if elsewhere:
            raise MissingInputError(f"{missing}'use: {name}' must name the folder of a finished stage.")
        raise MissingInputError(
            f"{missing}the stage that makes '{name}' has not run, or was stopped before it finished.\n"
            f"Run it first:  {self.command} --until {name}"
        )

    def _refuse_mixture(self, name: str, folder: Path, marks: dict[str, str]) -> None:
        """Codes of one tokenizer never meet another. Shards may differ: a tokenizer serves images it never saw."""
        if not artifacts.is_finished(folder):
            return
        for source, mark in artifacts.read_manifest(folder)["inputs"].items():
            if source == "shards" or (name.partition("@")[0], source) in LOOKED_ON:
                continue
            if source in marks and marks[source] != mark:
                raise ConfigError(
                    f"stage '{self.instance}': {folder} was made with another '{source}' ({mark[:12]}) than "
                    f"{self.inputs[source]} ({marks[source][:12]}).\nMake it again:  {self.command} --redo {name}"
                )


def refuse_data(job: Job, recipe: Recipe) -> None:
    """ConfigError where a stage asks for what its shards do not hold; those a recipe names may have no manifest."""
    shards, ask = job.inputs.get("shards"), job.stage.check_data
    if ask is None or shards is None:
        return
    if not (artifacts.is_finished(shards) or shards in map(Path, recipe.use.values())):  # of tessera shard, of others
        return
    try:
        ask(job.cfg, recipe, shards)
    except ValueError as error:
        raise ConfigError(f"{job.instance}: {error}") from error


def refuse_changed(job: Job, inputs: dict[str, str] | None = None) -> None:
    """Raise ConfigError when the folder holds work of another config or of other inputs, and show the difference.

    Args:
        inputs: fingerprints of the inputs where they are known already.
    """
    before = _before(job)
    if before is None:
        return
    verb, config, old_inputs = before
    old = with_new_fields(type(job.cfg), config)
    changed = differences(identity_part(job.cfg, old), identity_part(job.cfg))
    if changed:
        shown = "; ".join(changed[:SHOWN_DIFFERENCES])
        more = f"; and {len(changed) - SHOWN_DIFFERENCES} more" if len(changed) > SHOWN_DIFFERENCES else ""
        raise ConfigError(f"{job.out} was {verb} with another config: {shown}{more}.\n{_ways_out(job)}")
    other = [name for name, mark in (inputs or {}).items() if old_inputs and old_inputs.get(name) != mark]
    if other:
        marks = f"{str(old_inputs.get(other[0]))[:12]} -> {(inputs or {})[other[0]][:12]}"
        raise ConfigError(f"{job.out} was {verb} from other '{other[0]}' ({marks}).\n{_ways_out(job)}")


def _before(job: Job) -> tuple[str, dict[str, Any], dict[str, str]] | None:
    """What an earlier run left: (verb, config, inputs); None in an empty folder."""
    if job.finished:
        manifest = artifacts.read_manifest(job.out)
        return "finished", manifest["config"], manifest["inputs"]
    if hasattr(job.cfg, "loop") and next((job.out / "checkpoints").glob("step-*"), None) is None:
        return None  # it never came to a checkpoint: there is nothing another config would spoil
    try:
        config = yaml.safe_load((job.out / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError):
        return None
    return ("started", config, artifacts.read_json(job.out / "env.json").get("inputs", {})) if config else None


def _ways_out(job: Job) -> str:
    return (
        f"Undo the change, or make it again:  {job.command} --redo {job.instance}  (or give the run a new name: name=X)"
    )


def run_stage(job: Job) -> Results:
    """Run, resume or skip one stage in this process and return its results.

    Raises:
        ConfigError, MissingInputError: refused before anything was written.
        Stopped: stopped on request; the same call resumes.
        TesseraError: anything else, with one line; the traceback is in log.txt.
    """
    if job.finished:
        refuse_changed(job, job.input_fingerprints())
        return dict(artifacts.read_manifest(job.out)["results"])
    inputs = job.input_fingerprints()
    refuse_changed(job, inputs)
    rank, world = (int(os.environ.get(name, default)) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1")))
    if world > 1 and not job.stage.distributed:
        raise ConfigError(
            f"'{job.instance}' runs in one process, and a launcher started {world}: type  {job.command}  without it, "
            "which starts the processes of trained stages itself (--processes N)."
        )
    if rank > 0:
        job.out.mkdir(parents=True, exist_ok=True)
        with _logged(job, job.out / f"log-rank{rank}.txt"):
            return job.stage.run(job.cfg, job.inputs, job.out)
    with owning(job.out):
        if not job.finished:  # another run may have finished it before this one became the owner
            _run_as_owner(job, inputs)
    return dict(artifacts.read_manifest(job.out)["results"])


def _run_as_owner(job: Job, inputs: dict[str, str]) -> None:
    _write_beginning(job, inputs)
    try:
        with _logged(job, job.out / "log.txt"):
            results = job.stage.run(job.cfg, job.inputs, job.out)
            artifacts.write_manifest(
                job.out,
                stage=job.instance,
                config=identity_part(job.cfg),
                inputs=inputs,
                results=results,
                makes=job.stage.makes,
            )
    except TesseraError as error:
        _write_exit(job, "stopped" if isinstance(error, Stopped) else "failed", error.exit_code, str(error))
        raise
    except BaseException as error:
        _write_exit(job, "failed", 1, f"{type(error).__name__}: {error}")
        raise
    _write_exit(job, "finished", 0, "")


def _write_beginning(job: Job, inputs: dict[str, str]) -> None:
    artifacts.write_json(job.out / "env.json", {**artifacts.environment(), "inputs": inputs})
    text = yaml.safe_dump(plain(job.cfg), sort_keys=False, allow_unicode=True)
    write_atomically(job.out / "config.yaml", text.encode())
    _write_exit(job, "running", None, "")  # a killed process cannot correct what an earlier one wrote


def _write_exit(job: Job, status: str, exit_code: int | None, message: str) -> None:
    ended = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    value = {"status": status, "exit_code": exit_code, "message": message, "at": ended}
    artifacts.write_json(job.out / "exit.json", value)


@contextmanager
def _logged(job: Job, path: Path) -> Iterator[None]:
    """Copy messages to a log, turn stop signals into Stopped and surprises into one line with the place of the log."""
    with copied_to(path) as log:
        log.write(f"--- {job.instance}, {time.strftime('%Y-%m-%d %H:%M:%S')}, process {os.getpid()}\n")
        try:
            with stop_signals(), messages_to(log):
                yield
        except StopRequest:
            message = f"'{job.instance}' was stopped on request; the same line typed again resumes."
            log.write(message + "\n")
            raise Stopped(message) from None
        except Stopped as error:
            log.write(f"{error}\n")
            raise
        except TesseraError:
            _keep_traceback(log)
            raise
        except Exception as error:
            _keep_traceback(log)
            text = " ".join(str(error).split())[:300]
            raise TesseraError(
                f"'{job.instance}' failed: {type(error).__name__}: {text}\nDetails: {path} (or --debug)."
            ) from error


def _keep_traceback(log: IO[str]) -> None:
    log.write(traceback.format_exc())
