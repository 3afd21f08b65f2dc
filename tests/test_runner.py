"""A recipe of small real stages: order, skip, resume, refuse, redo, and what every end leaves behind."""

from __future__ import annotations

import json
import os
import shlex
import signal
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import load_recipe
from pipeline.errors import ConfigError, DataError, MissingInputError, Stopped, TesseraError
from pipeline.owner import owning
from pipeline.runner import Outcome, Planned, RunOptions, plan_run, run_recipe
from pipeline.stage import Stage
from pipeline.stage_run import Job, refuse_changed
from pipeline.training_config import identity


@dataclass(frozen=True, kw_only=True)
class Numbers:
    count: int = 4
    workers: int = identity(0)


@dataclass(frozen=True, kw_only=True)
class Data:
    lanes: int = 12


@dataclass(frozen=True, kw_only=True)
class Sum:
    start: int = 0
    data: Data = field(default_factory=Data)
    fail: str = identity("")
    verbose: bool = identity(False)


def make_numbers(cfg: Numbers, inputs: dict[str, Path], out: Path) -> dict[str, Any]:
    assert inputs == {}
    print(f"drawing {cfg.count} numbers")
    (out / "dataset.json").write_text(json.dumps(list(range(cfg.count))))
    return {"count": cfg.count}


def add_up(cfg: Sum, inputs: dict[str, Path], out: Path) -> dict[str, Any]:
    (out / "visits").open("a").write("x")
    failures = {"data": DataError("shard 3 is torn."), "bug": KeyError("wdith"), "stop": Stopped("stopped at step 3.")}
    if cfg.fail in failures:
        raise failures[cfg.fail]
    if cfg.fail == "signal":
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    total = cfg.start + sum(json.loads((inputs["shards"] / "dataset.json").read_text()))
    (out / "model").mkdir(exist_ok=True)
    (out / "model" / "total").write_text(str(total))
    (out / "samples").mkdir(exist_ok=True)
    (out / "samples" / "step-1.png").write_bytes(b"")
    return {"total": total}


def add_again(cfg: Sum, inputs: dict[str, Path], out: Path) -> dict[str, Any]:
    total = cfg.start + int((inputs["vqvae"] / "model" / "total").read_text())
    if "codes" in inputs:
        total += int((inputs["codes"] / "total").read_text())
    (out / "total").write_text(str(total))
    return {"total": total}


SHARDS = Stage(name="shards", config=Numbers, needs=lambda _: (), makes=("dataset.json",), run=make_numbers)
VQVAE = Stage(name="vqvae", config=Sum, needs=lambda _: ("shards",), makes=("model",), run=add_up, distributed=True)
CODES = Stage(name="codes", config=Sum, needs=lambda _: ("vqvae",), makes=("total",), run=add_again)
PRIOR = Stage(name="prior", config=Sum, needs=lambda _: ("vqvae", "codes"), makes=("total",), run=add_again)
STAGES = (SHARDS, VQVAE, CODES, PRIOR)
RECIPE = "shards: {}\nvqvae: {}\ncodes: {}\nprior: {}\n"


class House:
    """A recipe file and a folder of runs."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.said = folder, [""]
        self.recipe("toy", RECIPE)

    def recipe(self, name: str, text: str) -> None:
        (self.folder / f"{name}.yaml").write_text(text)

    def run(self, *overrides: str, name: str = "toy", **options: Any) -> list[Outcome]:
        launch = options.pop("launch", lambda one, file: 1)
        self.said = []
        recipe = load_recipe(self.folder / f"{name}.yaml", overrides)
        return run_recipe(recipe, STAGES, self.options(**options), launch=launch, say=self.said.append)

    def plan(self, *overrides: str, **options: Any) -> dict[str, str]:
        recipe = load_recipe(self.folder / "toy.yaml", overrides)
        return {one.job.instance: one.state for one in plan_run(recipe, STAGES, self.options(**options))}

    def options(self, **options: Any) -> RunOptions:
        return RunOptions(runs=self.folder / "runs", **options)

    def json(self, path: str) -> Any:
        return json.loads((self.folder / "runs" / path).read_text())

    def visits(self, name: str = "toy") -> int:
        return len((self.folder / "runs" / name / "vqvae" / "visits").read_text())


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def test_stages_run_in_order_and_leave_a_manifest_each(house: House) -> None:
    outcomes = house.run("vqvae.start=10")

    assert [(one.instance, one.results) for one in outcomes] == [
        ("shards", {"count": 4}), ("vqvae", {"total": 16}), ("codes", {"total": 16}), ("prior", {"total": 32}),
    ]  # fmt: skip
    manifest = house.json("toy/vqvae/manifest.json")
    assert manifest["config"] == {"start": 10, "data": {"lanes": 12}} and manifest["results"] == {"total": 16}
    assert manifest["inputs"] == {"shards": house.json("toy/shards/manifest.json")["fingerprint"]}
    assert house.json("toy/vqvae/exit.json")["status"] == "finished"
    assert "start: 10" in (house.folder / "runs/toy/vqvae/config.yaml").read_text()
    assert "drawing 4 numbers" in (house.folder / "runs/toy/shards/log.txt").read_text()
    assert any(line.endswith("vqvae/samples/step-1.png") for line in house.said)


def test_the_same_line_again_skips_what_is_finished(house: House) -> None:
    house.run()
    outcomes = house.run("vqvae.verbose=true", "shards.workers=8")

    assert all(one.skipped for one in outcomes) and outcomes[-1].results == {"total": 12}
    assert house.visits() == 1


def test_a_changed_config_of_a_finished_stage_is_refused_with_the_difference(house: House) -> None:
    house.run()
    with pytest.raises(ConfigError) as refused:
        house.run("vqvae.start=3")
    assert "vqvae was finished with another config: start: 0 -> 3." in str(refused.value)
    line = f"toy.yaml vqvae.start=3 --runs {house.folder}/runs --redo vqvae"  # typed as it is, it works
    assert line in str(refused.value)
    assert house.visits() == 1


def test_a_changed_config_of_an_unfinished_stage_is_refused_too(house: House) -> None:
    with pytest.raises(Stopped):
        house.run("vqvae.fail=stop")
    with pytest.raises(ConfigError, match="was started with another config: start: 0 -> 3"):
        house.run("vqvae.start=3")
    assert house.run()[1].results == {"total": 6} and house.visits() == 2


def test_everything_is_refused_before_the_first_stage_starts(house: House) -> None:
    house.run(only="shards")
    house.run(until="vqvae")
    (house.folder / "runs/toy/shards").rename(house.folder / "gone")
    with pytest.raises(ConfigError):
        house.run("vqvae.start=3")
    assert not (house.folder / "runs/toy/shards").exists()


def test_redo_makes_a_stage_and_its_readers_again_and_keeps_the_old(house: House) -> None:
    house.run()
    assert house.plan("vqvae.start=3", redo="vqvae") == {
        "shards": "finished", "vqvae": "again", "codes": "again", "prior": "again",
    }  # fmt: skip
    assert house.run("vqvae.start=3", redo="vqvae")[-1].results == {"total": 18}
    assert house.json("toy/old/vqvae-1/manifest.json")["results"] == {"total": 6}
    assert not (house.folder / "runs/toy/old/vqvae-1/owner.json").exists()
    assert house.run("vqvae.start=3", redo="codes")[-1].results == {"total": 18}
    assert not (house.folder / "runs/toy/old/vqvae-2").exists()


def test_other_inputs_of_a_finished_stage_are_named(house: House) -> None:
    house.run()
    other = house.folder / "runs" / "toy" / "shards"
    other.rename(house.folder / "aside")
    with pytest.raises(ConfigError, match="vqvae was finished from other 'shards'"):
        house.run("shards.count=5")


def test_codes_of_another_tokenizer_are_refused(house: House) -> None:
    house.run()
    house.recipe(
        "second", f"shards: {{}}\nvqvae: {{start: 5}}\nuse: {{codes: {house.folder}/runs/toy/codes}}\nprior: {{}}\n"
    )
    with pytest.raises(ConfigError, match="codes was made with another 'vqvae'"):
        house.run(name="second")


def test_a_finished_stage_of_another_run_serves(house: House) -> None:
    house.run(until="vqvae")
    house.recipe("second", f"use: {{vqvae: {house.folder}/runs/toy/vqvae}}\ncodes: {{start: 100}}\n")
    assert house.run(name="second")[0].results == {"total": 106}

    house.recipe("third", f"use: {{vqvae: {house.folder}/runs/toy/shards}}\ncodes: {{}}\n")
    with pytest.raises(ConfigError, match="which stage 'shards' made"):
        house.run(name="third")
    house.recipe("fourth", f"use: {{vqvae: {house.folder}/nowhere}}\ncodes: {{}}\n")
    with pytest.raises(MissingInputError, match="must name the folder of a finished stage"):
        house.run(name="fourth")


def test_an_instance_reads_its_own_inputs_where_there_are_any(house: House) -> None:
    house.recipe("two", RECIPE + "codes@b: {start: 100}\nprior@b: {}\nprior@c: {start: 1}\n")
    results = {one.instance: one.results["total"] for one in house.run(name="two")[1:]}

    assert results == {"vqvae": 6, "codes": 6, "codes@b": 106, "prior": 12, "prior@b": 112, "prior@c": 13}
    assert [one.instance for one in house.run(name="two", only="prior@b")] == ["prior@b"]


def test_only_without_its_input_says_what_to_run_first(house: House) -> None:
    line = r"Run it first:  tessera run .*toy.yaml --runs .*/runs --until vqvae"
    with pytest.raises(MissingInputError, match=rf"stage 'codes' reads 'vqvae'.*\n{line}"):
        house.run(only="codes")
    with pytest.raises(ConfigError, match=r"--only code: the recipe has no such stage. Did you mean 'codes'"):
        house.run(only="code")


@pytest.mark.parametrize(
    ("fail", "kind", "status", "code"),
    [("data", DataError, "failed", 3), ("stop", Stopped, "stopped", 85), ("bug", TesseraError, "failed", 1),
     ("signal", Stopped, "stopped", 85)],
)  # fmt: skip
def test_every_end_leaves_its_exit_code_and_message(
    house: House, fail: str, kind: type, status: str, code: int
) -> None:
    with pytest.raises(kind) as caught:
        house.run(f"vqvae.fail={fail}")

    left = house.json("toy/vqvae/exit.json")
    assert (left["status"], left["exit_code"], left["message"]) == (status, code, str(caught.value))
    assert str(caught.value).count("\n") <= 1
    assert not (house.folder / "runs/toy/vqvae/manifest.json").exists()
    assert not (house.folder / "runs/toy/vqvae/owner.json").exists()
    if fail == "bug":
        assert "KeyError" in str(caught.value) and "log.txt" in str(caught.value)
        assert "Traceback" in (house.folder / "runs/toy/vqvae/log.txt").read_text()
    assert house.run()[-1].results == {"total": 12}


def test_a_stop_file_stops_before_the_next_stage_once(house: House) -> None:
    house.run(only="shards")
    (house.folder / "runs/toy/STOP").touch()
    with pytest.raises(Stopped):
        house.run()
    assert len(house.run()) == 4


def test_two_runs_in_one_stage_folder_are_refused(house: House) -> None:
    house.run(only="shards")
    with owning(house.folder / "runs/toy/vqvae"), pytest.raises(ConfigError, match=f"in use by process {os.getpid()}"):
        house.run()
    assert house.run()[1].results == {"total": 6}


def test_processes_that_divide_no_lanes_are_refused_when_asked_for_and_fitted_when_not(house: House) -> None:
    def planned(**options: Any) -> list[int]:
        recipe = load_recipe(house.folder / "toy.yaml", ["vqvae.data.lanes=12"])
        return [one.processes for one in plan_run(recipe, STAGES, house.options(processes=8, **options))]

    with pytest.raises(ConfigError, match=r"8 processes do not divide vqvae\.data\.lanes \(12\).*1, 2, 3, 4, 6, 12"):
        planned()
    assert planned(at_most=True) == [1, 6, 1, 1]


def test_several_processes_go_through_the_launcher(house: House) -> None:
    asked: list[tuple[str, int, str]] = []

    def launch(one: Planned, recipe_file: Path) -> int:
        asked.append((one.job.instance, one.processes, recipe_file.name))
        again = load_recipe(recipe_file)
        assert again.name == "toy" and again.sections["vqvae"] == {"start": 2}
        run_recipe(again, STAGES, house.options(only="vqvae"), launch=launch, say=lambda _: None)
        return 0

    assert house.run("vqvae.start=2", processes=3, launch=launch)[1].results == {"total": 8}
    assert asked == [("vqvae", 3, "recipe.yaml")]


@pytest.mark.parametrize(
    ("code", "kind"), [(85, Stopped), (2, ConfigError), (3, DataError), (1, TesseraError), (0, TesseraError)]
)
def test_a_launched_stage_without_a_manifest_never_counts_as_finished(house: House, code: int, kind: type) -> None:
    with pytest.raises(kind):
        house.run(processes=2, launch=lambda one, file: code)


def test_the_other_ranks_run_and_leave_the_manifest_to_rank_zero(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.run(only="shards")
    monkeypatch.setenv("RANK", "1")
    house.run(only="vqvae")
    assert (house.folder / "runs/toy/vqvae/model/total").read_text() == "6"
    assert (house.folder / "runs/toy/vqvae/log-rank1.txt").is_file()
    assert not (house.folder / "runs/toy/vqvae/manifest.json").exists()


@dataclass(frozen=True, kw_only=True)
class Trained(Sum):
    loop: int = 0


def test_a_stage_that_never_came_to_a_checkpoint_may_be_corrected(tmp_path: Path) -> None:
    stage = replace(VQVAE, config=Trained)
    job = Job(instance="vqvae", stage=stage, cfg=Trained(start=3), inputs={}, out=tmp_path, command="tessera run x")
    (tmp_path / "config.yaml").write_text("start: 0\nloop: 0\n")
    refuse_changed(job)
    (tmp_path / "checkpoints" / "step-00000004").mkdir(parents=True)
    with pytest.raises(ConfigError, match="was started with another config: start: 0 -> 3"):
        refuse_changed(job)


def test_a_stage_of_one_process_is_refused_where_a_launcher_started_several(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in "01":
        monkeypatch.setenv("RANK", rank)
        with pytest.raises(
            ConfigError, match=r"'shards' runs in one process, and a launcher started 2: type  tessera run"
        ):
            house.run(only="shards")
    assert not (house.folder / "runs/toy/shards").exists()


def test_the_line_to_type_can_be_typed(house: House) -> None:
    (house.folder / "my runs").mkdir()
    (house.folder / "my recipe.yaml").write_text(RECIPE)
    recipe = load_recipe(house.folder / "my recipe.yaml", ["name=toy", "vqvae.fail='a b'"])
    with pytest.raises(MissingInputError) as caught:
        run_recipe(recipe, STAGES, RunOptions(runs=house.folder / "my runs", only="codes"), launch=None, say=print)  # type: ignore[arg-type]
    line = str(caught.value).partition("Run it first:  ")[2]
    assert shlex.split(line) == [
        "tessera", "run", str(house.folder / "my recipe.yaml"), "name=toy", "vqvae.fail='a b'", "--runs",
        str(house.folder / "my runs"), "--until", "vqvae",
    ]  # fmt: skip


def test_what_a_finished_stage_needed_is_not_looked_for_again(house: House) -> None:
    there = [True]

    def look(cfg: Sum, recipe: Any) -> None:
        if not there[0]:
            raise ValueError("vqvae.perceptual=some/clip is not there.")

    stages = (SHARDS, replace(VQVAE, check=look), CODES, PRIOR)

    def run(**options: Any) -> list[Outcome]:
        recipe = load_recipe(house.folder / "toy.yaml")
        return run_recipe(recipe, stages, house.options(**options), launch=lambda one, file: 1, say=house.said.append)

    run(until="vqvae")
    there[0] = False
    assert [one.skipped for one in run()] == [True, True, False, False]
    with pytest.raises(ConfigError, match="some/clip is not there"):
        run(redo="vqvae")
    run(only="prior", redo="prior")
    (house.folder / "runs" / "toy" / "vqvae" / "manifest.json").unlink()
    with pytest.raises(ConfigError, match="some/clip is not there"):
        run()
