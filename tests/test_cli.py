"""The commands: help with an example, one or two lines for an error, and the exit code that tells which kind."""

from __future__ import annotations

import argparse
import contextlib
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from launchers.answer import PATIENCE, answer
from launchers.cli import COMMANDS, build_parser, main
from pipeline.config import check, load_recipe
from pipeline.errors import ConfigError
from pipeline.recipe_file import PACKAGED

NAMES = [module.__name__.rpartition(".")[2] for module in COMMANDS]


@pytest.fixture(autouse=True)
def an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TESSERA_RUNS", raising=False)


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    try:
        code = main(words)
    except SystemExit as exit_:  # argparse leaves by itself
        code = int(exit_.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("name", NAMES)
def test_every_command_has_help_with_an_example(capsys: pytest.CaptureFixture[str], name: str) -> None:
    code, out, _ = said(capsys, name, "--help")

    assert code == 0 and f"Example:\n  tessera {name} " in out and "--debug" in out


@pytest.mark.parametrize("module", COMMANDS)
def test_the_example_of_every_help_is_a_line_that_parses(module: Any) -> None:
    words = shlex.split(module.EXAMPLE)
    assert words[0] == "tessera"
    _, rest = build_parser().parse_known_args(words[1:])
    assert not rest


def test_help_names_every_command_and_only_those(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = said(capsys, "--help")

    assert all(f"    {name}" in out for name in NAMES)
    assert not any(word in out for word in ("serve", "export", "launch", "compare", "doctor"))


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (["run", "nowhere"], 2, "error: recipe 'nowhere' is no file and no recipe in configs/."),
        (["run", "tiny", "vqvae.loop.stps=3"], 2, "error: command line (section vqvae.loop): unknown key 'stps'."),
        (["run", "tiny", "vqvae.levels=[8,4]", "--only", "vqave"], 2, "Did you mean 'vqvae'?"),
        (["run", "tiny", "--only", "codes"], 2, "Run it first:  tessera run tiny --until "),
        (["run", "tiny", "--processes", "0"], 2, "--processes must be at least 1"),
        (["run", "tiny", "--processes", "5"], 2, "Counts that do: 1, 2, 3, 4, 6, 12."),
        (["run", "tiny", "--dry-rum"], 2, "unrecognized arguments: --dry-rum. Did you mean '--dry-run'?"),
        (["sample", "runs/none", "-class", "3"], 2, "Did you mean '--class'?"),
        (["sample", "runs/none"], 2, "error: no run folder at 'runs/none'"),
        (["report", "none"], 2, "Make one:  tessera run tiny"),
        (["evaluate", "."], 2, "error: . has no recipe.yaml"),
        (["shard", "nowhere", "out"], 2, "nowhere"),
        (["verify", "nowhere"], 2, "nowhere"),
        (["frobnicate"], 2, "frobnicate"),
        (["shard", "birds", "out", "species=[a: b"], 2, "species=[a: b: "),
    ],
)  # fmt: skip
def test_an_error_is_a_line_or_two_and_an_exit_code(
    capsys: pytest.CaptureFixture[str], words: list[str], code: int, line: str
) -> None:
    found, out, err = said(capsys, *words)

    assert found == code and line in err and out == ""
    assert "Traceback" not in err
    if err.startswith("error: "):
        assert len(err.splitlines()) <= 2


def test_a_place_that_takes_nothing_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    Path("file").write_text("")
    found, _, err = said(capsys, "run", "tiny", "--runs", "file")
    assert found == 1 and "Traceback" not in err
    assert err.startswith("error: cannot write file") and "name another folder (--runs, --out)" in err


def test_a_traceback_only_with_debug(capsys: pytest.CaptureFixture[str]) -> None:
    _, _, err = said(capsys, "run", "nowhere", "--debug")

    assert "Traceback" in err and err.rstrip().splitlines()[-1].startswith("error: recipe 'nowhere'")


def test_a_dry_run_prints_the_plan_and_makes_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, _ = said(capsys, "run", "tiny", "--dry-run", "--json", "vqvae.loop.steps=7")

    plan = {one["stage"]: one for one in json.loads(out)}
    assert code == 0 and list(plan) == ["shards", "align", "vqvae", "codes", "prior", "evaluation"]
    assert plan["vqvae"]["state"] == "new" and plan["vqvae"]["steps"] == 7
    assert plan["vqvae"]["inputs"] == {"shards": "runs/tiny/shards"}
    assert list(tmp_path.iterdir()) == []
    plan_text = said(capsys, "run", "tiny", "--dry-run", "vqvae.loop.steps=7")[1]
    assert "vqvae        new, 7 steps" in plan_text and "new  reads birds\n" in plan_text
    assert "reads raw (not there yet)\n" in said(capsys, "run", "tiny", "--dry-run", "shards={source: raw}")[1]
    (tmp_path / "raw").mkdir()
    assert "reads raw\n" in said(capsys, "run", "tiny", "--dry-run", "shards={source: raw}")[1]


def test_overrides_may_stand_before_and_after_flags(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(
        capsys, "run", "tiny", "seed=3", "--dry-run", "vqvae.loop.steps=7", "--until", "vqvae", "name=x"
    )

    assert code == 0 and "seed 3" in out and "7 steps" in out and "codes" not in out and "runs/x" in out


def test_every_shipped_recipe_passes_its_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    from launchers.stages import STAGES

    monkeypatch.setattr("pipeline.hub._is_cached", lambda hub_id: True)  # their encoders are the hub's
    recipes = sorted(PACKAGED.glob("*.yaml"))
    assert any(path.stem == "tiny" for path in recipes)
    for path in recipes:
        check(load_recipe(path), STAGES)


@pytest.mark.parametrize(
    ("sections", "refused"),
    [
        ("shards: {source: birds}\ncodes: {}", False),  # 256 px: OpenAI's CLIP
        ("shards: {source: birds, size: 64}\ncodes: {}", True),
        ("use: {shards: HERE}\ncodes: {}", True),  # 64 px, says its dataset.json
        ("shards: {path: HERE}\ncodes: {}", True),
        ("use: {shards: ELSEWHERE}\ncodes: {}", False),  # nobody knows yet
        ("shards: {source: birds, size: 64}\nalign: {}\ncodes: {}", False),
        ("shards: {source: birds}\nalign: {}\ncodes: {conditions: {text: none}}", True),
        ("shards: {source: birds, size: 512}\nvqvae: {image_size: 128}\ncodes: {}", True),
        ("shards: {source: birds, size: 128}\nvqvae: {image_size: 256}\ncodes: {}", False),
    ],
)
def test_a_prior_is_asked_by_text_only_where_something_reads_it(sections: str, refused: bool, tmp_path: Path) -> None:
    from launchers.stages import STAGES

    recipe = tmp_path / "asked.yaml"
    (tmp_path / "dataset.json").write_text('{"image_size": 64}')
    sections = sections.replace("HERE", str(tmp_path))
    tokenizer = "" if "vqvae" in sections else "vqvae: {}\n"
    recipe.write_text(f"{sections}\n{tokenizer}prior: {{conditions: [text]}}\n")
    about = pytest.raises(ConfigError, match="nothing encodes it") if refused else contextlib.nullcontext()
    with about:
        check(load_recipe(recipe), STAGES)


@pytest.mark.parametrize(
    ("codes", "prior", "message"),
    [
        ("text: openai/none-such", "", "codes.conditions.text=openai/none-such is not in the local cache"),
        ("audio: ./none_such", "", "codes.conditions.audio=./none_such is no folder with a model"),
        ("text: log-mel", "", "codes.conditions.text=log-mel: log-mel hears sounds"),
        ("picture: ./bert", "", "codes.conditions.picture=./bert holds a model of type 'bert', and a CLIP is wanted"),
        ("audio: ./bert", "", "codes.conditions.audio=./bert holds a model of type 'bert', and one of clap, "),
        ("text: none", "conditions: [text]", "prior.conditions asks for text, and nothing encodes it"),
        ("picture: auto", "", "codes.conditions.picture=auto takes the CLIP of a stage align, and there is none"),
        ("text: none", "conditions: [picture]", "prior.conditions asks for picture, and no CLIP sees it"),
    ],
)
def test_encoders_are_looked_for_before_anything_is_made(
    codes: str,
    prior: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text('{"model_type": "bert"}')
    recipe = tmp_path / "late.yaml"
    stages = f"vqvae: {{}}\ncodes: {{conditions: {{{codes}}}}}\nprior: {{{prior}}}\n"
    recipe.write_text("shards: {source: birds, size: 32, count: 40}\n" + stages)
    code, _, err = said(capsys, "run", str(recipe), "--runs", str(tmp_path))
    assert code == 2 and message in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bert", "late.yaml"]


@pytest.mark.parametrize(
    ("sections", "setting"),
    [
        ("align: {pretrained: some/clip}\nvqvae: {}", "align.pretrained=some/clip"),
        ("vqvae: {loss: {perceptual: 0.1}, perceptual: some/clip}", "vqvae.perceptual=some/clip"),
    ],
)
def test_towers_of_the_hub_are_looked_for_before_anything_is_made(
    sections: str, setting: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "late.yaml"
    recipe.write_text(f"shards: {{source: birds, size: 32, count: 40}}\n{sections}\n")
    code, _, err = said(capsys, "run", str(recipe), "--runs", str(tmp_path))
    assert code == 2 and f"{setting} is not in the local cache" in err
    assert [path.name for path in tmp_path.iterdir()] == ["late.yaml"]


@pytest.mark.parametrize(("rank", "waits"), [("0", []), ("1", [PATIENCE])])
def test_one_rank_says_what_is_wrong_with_the_config_and_the_others_let_it_speak_first(
    rank: str, waits: list[float], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    waited: list[float] = []
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr("launchers.answer.time.sleep", waited.append)

    def refuse(_: argparse.Namespace) -> int:
        raise ConfigError("no such thing")

    assert answer(argparse.Namespace(debug=False, call=refuse)) == 2
    said = capsys.readouterr().err  # who is still there after waiting is alone with it
    assert said == ("error: no such thing\n" if rank == "0" else "error: rank 1: no such thing\n")
    assert waited == waits


def test_the_accelerate_line_without_a_gpu_names_the_one_that_works() -> None:
    pytest.importorskip("accelerate")
    from launchers.local import visible_devices

    if visible_devices():
        pytest.skip("there is a GPU")
    root = Path(__file__).resolve().parent.parent
    launch = [
        "accelerate.commands.launch",
        "--config_file",
        str(root / "accelerate_config.yaml"),
        "--num_processes",
        "2",
    ]
    rank = ["launchers.train", "vqvae", "--config", "tiny"]
    done = subprocess.run(
        [sys.executable, "-m", *launch, "--main_process_port", "0", "-m", *rank],
        capture_output=True, text=True, check=False, cwd=root,
    )  # fmt: skip
    assert done.returncode != 0
    assert "ACCELERATE_USE_CPU=1 accelerate launch --multi_gpu --num_processes 2 -m launchers.train" in done.stderr
