"""Recipes: defaults < YAML < command line, and errors that say what to write instead."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pytest

from pipeline.config import Recipe, check, load_recipe, stage_config
from pipeline.errors import ConfigError
from pipeline.schema import differences, identity_part, plain, with_new_fields
from pipeline.stage import Stage
from pipeline.training_config import DataConfig, LoopConfig, identity


@dataclass(frozen=True, kw_only=True)
class Tracking:
    mode: str = "offline"
    run: str = ""


@dataclass(frozen=True, kw_only=True)
class Model:
    """Every kind of field a recipe may set."""

    levels: tuple[int, ...] = (16, 8)
    betas: tuple[float, float] = (0.9, 0.99)
    width: int = 128
    dropout: float = 0.0
    kind: Literal["masked", "autoregressive"] = "masked"
    guidance: float | dict[str, float] = 1.0
    init_from: str | None = None
    folder: Path | None = None
    flips: bool = True
    seed: int = 7
    workers: int = identity(0)
    data: DataConfig = field(default_factory=DataConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    tracking: Tracking = field(default_factory=Tracking, metadata={"identity": False})

    PRESETS = {"paper": {"levels": [8, 4], "loop": {"steps": 9}}}  # noqa: RUF012

    def __post_init__(self) -> None:
        if self.width % 4:
            raise ValueError(f"width must be a multiple of 4; got {self.width}. Nearest: {self.width // 4 * 4}.")


@dataclass(frozen=True, kw_only=True)
class Nothing:
    pass


@dataclass(frozen=True, kw_only=True)
class Anything:
    size: int = 64


MODEL = Stage(name="vqvae", config=Model, needs=lambda _: ("shards",), makes=("model",), run=lambda *_: {})
SHARDS = Stage(name="shards", config=Nothing, needs=lambda _: (), makes=("dataset.json",), run=lambda *_: {})
STAGES = (SHARDS, MODEL)


@pytest.fixture
def recipe_file(tmp_path: Path) -> Any:
    def write(text: str) -> Path:
        path = tmp_path / "mine.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def configured(path: Path, *overrides: str) -> Any:
    recipe = load_recipe(path, overrides)
    return check(recipe, STAGES)["vqvae"]


def test_the_command_line_lies_over_the_recipe_and_the_recipe_over_the_defaults(recipe_file: Any) -> None:
    path = recipe_file("seed: 3\nshards:\nvqvae: {width: 64, loop: {steps: 20}}\n")

    cfg = configured(path, "vqvae.loop.steps=30", "vqvae.levels=[32,16]", "vqvae.data.global_batch=48")

    assert (cfg.width, cfg.loop.steps, cfg.levels, cfg.data.global_batch) == (64, 30, (32, 16), 48)
    assert cfg.dropout == 0.0 and cfg.seed == 3


def test_a_section_keeps_its_own_seed_and_tracking_comes_from_the_top(recipe_file: Any) -> None:
    path = recipe_file("seed: 3\ntracking: {mode: disabled}\nshards:\nvqvae: {seed: 11}\n")

    cfg = configured(path)

    assert (cfg.seed, cfg.tracking.mode, cfg.tracking.run) == (11, "disabled", "mine")


def test_values_take_the_type_of_their_field(recipe_file: Any) -> None:
    path = recipe_file(
        "shards:\nvqvae: {dropout: 1e-3, width: 64.0, betas: [0, 1], guidance: {class: 2}, folder: a/b,"
        " data: {micro_batch: 8}, kind: autoregressive, init_from: null}\n"
    )

    cfg = configured(path)

    assert cfg.dropout == 0.001 and cfg.width == 64 and isinstance(cfg.width, int)
    assert cfg.betas == (0.0, 1.0) and cfg.guidance == {"class": 2.0} and cfg.folder == Path("a/b")
    assert cfg.data.micro_batch == "8" and cfg.kind == "autoregressive" and cfg.init_from is None


def test_a_preset_lies_under_the_section(recipe_file: Any) -> None:
    cfg = configured(recipe_file("shards:\nvqvae: {preset: paper, loop: {log_every: 3}}\n"))

    assert cfg.levels == (8, 4) and (cfg.loop.steps, cfg.loop.log_every) == (9, 3)
    with pytest.raises(ConfigError, match=r"no preset 'papr'. Did you mean 'paper'"):
        configured(recipe_file("shards:\nvqvae: {preset: papr}\n"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("vqvae: {widht: 3}", r"mine.yaml:2 .section vqvae.: unknown key 'widht'. Did you mean 'width'"),
        (
            "vqvae:\n  loop:\n    stepps: 3",
            r"mine.yaml:4 .section vqvae.loop.: unknown key 'stepps'. Did you mean 'steps'",
        ),
        ("vqave: {}", r"mine.yaml:2: 'vqave' is no stage of a recipe. Did you mean 'vqvae'"),
        ("vqvae: {width: three}", r"'width' must be a whole number; got 'three'"),
        ("vqvae: {width: 2.5}", r"'width' must be a whole number; got 2.5"),
        ("vqvae: {width: true}", r"'width' must be a whole number; got True"),
        ("vqvae: {width: null}", r"'width' must be a whole number; got None"),
        ("vqvae: {dropout: .nan}", r"'dropout' must be a number; got nan"),
        ("vqvae: {flips: 1}", r"'flips' must be true or false"),
        ("vqvae: {levels: 16}", r"'levels' must be a list, as in \[16\]"),
        ("vqvae: {betas: [1]}", r"'betas' must be a list of 2 values"),
        ("vqvae: {kind: maskd}", r"'kind' must be one of 'masked', 'autoregressive'"),
        ("vqvae: {guidance: [1]}", r"'guidance' must be a number or "),
        ("vqvae: {loop: 3}", r"'loop' must be a section with keys of steps"),
        ("vqvae: {width: 6}", r"section vqvae.: width must be a multiple of 4; got 6. Nearest: 4"),
        ("vqvae: {data: {global_batch: 50}}", r"positive multiple of data.lanes .12.; got 50"),
        ("vqvae: 3", r"'vqvae' must be a section"),
        ("name: ../up\nvqvae:", r"name '../up' becomes a folder"),
        ("seed: -1\nvqvae:", r"seed must be a whole number"),
        ("use: {vqvae: runs/a/vqvae}\nvqvae:", r"'vqvae' is both a section"),
        ("vqvae: {wandb_api_key: abc}", r"'vqvae.wandb_api_key' looks like a secret"),
        ("tracking: {token: abc}\nvqvae:", r"looks like a secret"),
        ("vqvae: {init_from: '${oc.env:MY_SECRET}'}", r"reads the secret MY_SECRET from the environment"),
        ("use: {vqvae: 'https://ann:pass@host/x'}", r"'use.vqvae' holds a key or a password"),
        ("vqvae: {init_from: hf_abcdefghijklmnopqrst}", r"'vqvae.init_from' holds a key or a password"),
        ("vqvae: {init_from: '${nowhere}'}", r"nowhere"),
        ("vqvae: [", r"not readable YAML"),
        ("vqvae: {width: 4}\nvqvae: {width: 8}", r"uplicate"),
        ("vqvae: !!python/object/apply:os.system ['true']", r"mine.yaml is not"),
    ],
)
def test_a_wrong_recipe_says_what_and_where(
    recipe_file: Any, text: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_SECRET", "hunter2")
    with pytest.raises(ConfigError, match=said) as caught:
        configured(recipe_file(f"shards: {{}}\n{text}\n"))
    assert str(caught.value).count("\n") <= 1 and "hunter2" not in str(caught.value)


def test_folders_may_begin_at_home_and_a_comment_in_an_override_is_refused(
    recipe_file: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    path = recipe_file("shards: {path: ~/birds}\nuse: {vqvae: ~/runs/base/vqvae}\nprior: {}\n")
    assert load_recipe(path).use == {"shards": "/home/ann/birds", "vqvae": "/home/ann/runs/base/vqvae"}
    with pytest.raises(ConfigError, match=r"what follows ' #' would be a comment. Quote the value"):
        load_recipe(path, ["prior.init_from=/data/my #1 run"])
    assert load_recipe(path, ["prior.init_from='/data/my #1 run'"]).sections["prior"]["init_from"] == "/data/my #1 run"


def test_a_wrong_override_is_placed_on_the_command_line(recipe_file: Any) -> None:
    path = recipe_file("shards:\nvqvae: {}\n")

    with pytest.raises(
        ConfigError, match=r"^command line \(section vqvae.loop\): unknown key 'step'. Did you mean 'steps'"
    ):
        configured(path, "vqvae.loop.step=3")
    with pytest.raises(ConfigError, match=r"'steps' is not an override: write stage.field=value"):
        configured(path, "steps")


def test_a_missing_input_stage_is_named(recipe_file: Any) -> None:
    with pytest.raises(ConfigError, match=r"stage 'vqvae' reads 'shards', which this recipe neither makes nor uses"):
        configured(recipe_file("vqvae: {}\n"))


def test_a_stage_may_check_its_config_against_the_recipe(recipe_file: Any) -> None:
    def divides(cfg: Model, recipe: Recipe) -> None:
        if (size := recipe.sections["shards"]["size"]) % cfg.levels[0]:
            raise ValueError(f"shards.size must be a multiple of {cfg.levels[0]}; got {size}.")

    checked = replace(MODEL, check=divides)
    recipe = load_recipe(recipe_file("shards: {size: 40}\nvqvae: {}\n"))
    with pytest.raises(ConfigError, match=r"mine.yaml:2 .section vqvae.: shards.size must be a multiple of 16; got 40"):
        check(recipe, (replace(SHARDS, config=Anything), checked))


def test_shards_that_exist_are_used_and_not_made(recipe_file: Any) -> None:
    recipe = load_recipe(recipe_file("shards: {path: data/x}\nvqvae: {}\n"))

    assert recipe.use == {"shards": "data/x"} and "shards" not in recipe.sections and recipe.has("shards")
    with pytest.raises(ConfigError, match=r"'shards.size' has no effect"):
        load_recipe(recipe_file("shards: {path: data/x, size: 64}\n"))


def test_a_second_instance_has_its_own_settings(recipe_file: Any) -> None:
    recipe = load_recipe(recipe_file("shards:\nvqvae: {}\nvqvae@large: {width: 256}\n"), ["vqvae@large.dropout=0.5"])

    configs = check(recipe, STAGES)

    assert configs["vqvae"].width == 128 and configs["vqvae@large"].width == 256
    assert configs["vqvae@large"].dropout == 0.5
    assert stage_config(recipe, MODEL).dropout == 0.0


def test_a_recipe_that_is_not_there_names_the_near_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "flowers.yaml").write_text("name: f\nshards:\n")
    monkeypatch.chdir(tmp_path)

    assert load_recipe("flowers").name == "f"
    with pytest.raises(ConfigError, match="Did you mean 'flowers'"):
        load_recipe("flower")
    with pytest.raises(ConfigError, match="is a folder, not a recipe"):
        load_recipe(tmp_path)


def test_a_recipe_that_grows_without_end_is_refused(recipe_file: Any) -> None:
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]

    with pytest.raises(ConfigError, match="values once its aliases are followed"):
        load_recipe(recipe_file("\n".join(levels)))
    with pytest.raises(ConfigError, match="contains itself"):
        load_recipe(recipe_file("a: &a [*a]"))
    with pytest.raises(ConfigError, match="larger than 1000 kB"):
        load_recipe(recipe_file("# " + "x" * 1_000_001))


def test_identity_leaves_out_marked_fields_at_any_depth() -> None:
    base = Model()
    other = Model(workers=3, data=DataConfig(workers=2), loop=LoopConfig(save_every=1), tracking=Tracking(mode="x"))

    assert identity_part(base) == identity_part(other)
    assert "tracking" not in identity_part(base) and identity_part(base)["loop"] == {"steps": 1000}
    assert identity_part(other, plain(base)) == identity_part(base)
    changed = identity_part(Model(width=4, loop=LoopConfig(steps=5)))
    assert differences(identity_part(base), changed) == ["width: 128 -> 4", "loop.steps: 1000 -> 5"]


def test_a_field_that_came_since_is_no_change_while_it_keeps_its_default() -> None:
    old = plain(Model(width=64))
    del old["dropout"], old["loop"]["steps"]

    filled = with_new_fields(Model, old)

    assert differences(filled, plain(Model(width=64))) == []
    assert differences(filled, plain(Model(width=64, dropout=0.1))) == ["dropout: 0.0 -> 0.1"]
    assert "dropout" not in old, "the old config itself stays as it is"


def test_a_field_that_changed_what_is_made_says_what_was_before_it() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Step:
        kind: str = field(default="new", metadata={"before": "old"})

    @dataclass(frozen=True, kw_only=True)
    class Trained:
        step: Step = field(default_factory=Step)

    assert differences(with_new_fields(Trained, {"step": {}}), plain(Trained())) == ["step.kind: old -> new"]
    assert differences(with_new_fields(Trained, {}), plain(Trained(step=Step(kind="old")))) == []


def test_fuzzed_recipes_never_end_in_another_error(recipe_file: Any) -> None:
    rng = random.Random(0)
    keys = [
        "vqvae",
        "shards",
        "use",
        "seed",
        "name",
        "tracking",
        "width",
        "loop",
        "steps",
        "levels",
        "data",
        "é",
        "a.b",
        "",
        "1",
    ]
    leaves = [
        "-1",
        "1e400",
        "'x'",
        "null",
        "[]",
        "{}",
        "true",
        "${x}",
        "'${oc.env:X}'",
        "2025-01-01",
        "!!binary aGk=",
        "~",
        "[1, [2]]",
        "*a",
        "&a 1",
    ]

    def value(depth: int) -> str:
        if depth and rng.random() < 0.6:
            return "{" + ", ".join(f"{rng.choice(keys)}: {value(depth - 1)}" for _ in range(rng.randint(0, 3))) + "}"
        return rng.choice(leaves)

    outcomes = set()
    for _ in range(300):
        text = "\n".join(f"{rng.choice(keys)}: {value(2)}" for _ in range(rng.randint(0, 3)))
        try:
            recipe = load_recipe(recipe_file(text))
            assert isinstance(recipe, Recipe)
            check(recipe, STAGES)
            outcomes.add("fine")
        except ConfigError:
            outcomes.add("refused")
    assert "refused" in outcomes


def test_a_config_with_a_required_field_gains_new_fields_too() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Source:
        source: str
        size: int = 4
        spoken: float = 0.0

    assert with_new_fields(Source, {"source": "birds", "size": 8}) == {"source": "birds", "size": 8, "spoken": 0.0}
