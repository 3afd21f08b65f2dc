"""A recipe: dataclass defaults < YAML < command line. Answers without torch, in well under two seconds.

recipe = load_recipe("tiny", ["vqvae.loop.steps=200", "vqvae.data.global_batch=48"])
check(recipe, STAGES)
cfg = stage_config(recipe, stage)
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

from pipeline.errors import ConfigError
from pipeline.recipe_file import find_recipe, read_yaml, refuse_secrets
from pipeline.schema import SchemaError, build, did_you_mean
from pipeline.stage import Stage

RESERVED = ("name", "seed", "tracking", "use")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_INSTANCE = re.compile(r"[a-z_]+(@[A-Za-z0-9._-]{1,50})?")


@dataclass(frozen=True)
class Recipe:
    """One whole pipeline. A stage whose section is absent does not run."""

    name: str
    """The run's name: the recipe's `name:`, else the stem of its file."""
    path: Path
    seed: int
    data: dict[str, Any]
    """Everything, resolved: what runs/<name>/recipe.yaml holds."""
    sections: dict[str, dict[str, Any]]
    """Stage instance ('vqvae', 'prior@large') -> its settings."""
    use: dict[str, str]
    """Stage instance -> a finished folder elsewhere; `shards: {path: DIR}` is kept here too."""
    tracking: dict[str, Any]
    lines: dict[str, int] = field(default_factory=dict, compare=False)
    overrides: tuple[str, ...] = field(default=(), compare=False)

    def has(self, name: str) -> bool:
        """Whether a stage's folder will be there: it runs, or is taken from elsewhere."""
        return name in self.sections or name in self.use

    def place(self, key: str) -> str:
        """Where a dotted key was set: 'configs/tiny.yaml:12' or 'command line'."""
        while key:
            if any(item.partition("=")[0] == key or item.startswith(f"{key}.") for item in self.overrides):
                return "command line"
            if key in self.lines:
                return f"{self.path}:{self.lines[key]}"
            key = re.sub(r"(^|\.)[^.]*$|\[\d+\]$", "", key)
        return str(self.path)


def load_recipe(path_or_stem: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe and lay the overrides ('vqvae.loop.steps=200') over it; raises ConfigError."""
    path = find_recipe(path_or_stem)
    values, lines = read_yaml(path)
    overrides = tuple(overrides)
    values = _merge(values, overrides, path)
    refuse_secrets(values, str(path))
    name = str(values.get("name", path.stem))
    if not NAME.fullmatch(name):
        raise ConfigError(f"{path}: name '{name}' becomes a folder: use letters, digits, '.', '_' and '-'.")
    seed = values.get("seed", 0)
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**63:
        raise ConfigError(f"{path}: seed must be a whole number from 0 to 2**63 - 1; got {seed!r}.")
    use = {key: _at_home(str(value)) for key, value in _mapping(values, "use", path).items()}
    sections = {key: _mapping(values, key, path) for key in values if key not in RESERVED}
    _take_external_shards(sections, use, path)
    data = {**values, "name": name, "seed": seed}
    tracking = _mapping(values, "tracking", path)
    return Recipe(name, path, seed, data, sections, use, tracking, lines, overrides)


def _merge(values: dict[str, Any], overrides: tuple[str, ...], path: Path) -> dict[str, Any]:
    from omegaconf import OmegaConf

    for item in overrides:
        if not re.match(r"[A-Za-z_][\w@.-]*=", item):
            raise ConfigError(f"'{item}' is not an override: write stage.field=value, as in vqvae.loop.steps=200.")
        if re.search(r"\s#", item) and item.partition("=")[2][:1] not in ("'", '"', "[", "{"):
            raise ConfigError(f"'{item}': what follows ' #' would be a comment. Quote the value:  key='\"a #b\"'")
    try:
        merged = OmegaConf.merge(OmegaConf.create(values), OmegaConf.from_dotlist(list(overrides)))
        refuse_secrets(OmegaConf.to_container(merged, resolve=False), str(path))  # before they are looked up
        resolved = OmegaConf.to_container(merged, resolve=True, throw_on_missing=True)
    except ConfigError:
        raise
    except Exception as error:  # OmegaConf's errors share no base with yaml's
        raise ConfigError(f"{path}: {' '.join(str(error).split())[:300]}") from error
    assert isinstance(resolved, dict)
    return {str(key): value for key, value in resolved.items()}


def _mapping(values: Mapping[str, Any], key: str, path: Path) -> dict[str, Any]:
    value = values.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: '{key}' must be a section, as in {key}: {{field: value}}; got {value!r:.80}.")
    return {str(name): item for name, item in value.items()}


def _take_external_shards(sections: dict[str, dict[str, Any]], use: dict[str, str], path: Path) -> None:
    if "path" in sections.get("shards", {}):
        external = sections.pop("shards")
        if extra := [key for key in external if key != "path"]:
            raise ConfigError(
                f"{path}: 'shards.path' reads shards that exist, so 'shards.{extra[0]}' has no effect: remove one. "
                f"To make shards from raw images write 'source' instead of 'path'."
            )
        use["shards"] = _at_home(str(external["path"]))
    if both := [key for key in use if key in sections]:
        raise ConfigError(f"{path}: '{both[0]}' is both a section (it would run) and under 'use': remove one of them.")


def _at_home(folder: str) -> str:
    return str(Path(folder).expanduser()) if folder.startswith("~") else folder


def stage_of(instance: str, stages: Iterable[Stage]) -> Stage | None:
    """The stage an instance name ('prior@large') belongs to."""
    return next((stage for stage in stages if stage.name == instance.partition("@")[0]), None)


def instances(recipe: Recipe, stage: Stage) -> list[str]:
    """The recipe's sections for a stage: 'prior', then 'prior@large' in the order written."""
    return [name for name in recipe.sections if name.partition("@")[0] == stage.name]


def stage_config(recipe: Recipe, stage: Stage, instance: str | None = None) -> Any:
    """The stage's config with the recipe's values; raises ConfigError with the place and what to write instead.

    `preset` names one of the config's `PRESETS` ({name: values}); the section's own values lie over it. A field `seed`
    or `tracking` that the section does not give comes from the top of the recipe.
    """
    instance = instance or stage.name
    values = _with_preset(recipe, stage.config, instance)
    known = {item.name for item in fields(stage.config)}
    if "seed" in known:
        values.setdefault("seed", recipe.seed)
    if "tracking" in known:
        _fill_tracking(recipe, stage, values)
    try:
        return build(stage.config, values)
    except SchemaError as error:
        dotted = f"{instance}.{error.key}" if error.key else instance
        section = instance + (f".{error.key.rpartition('.')[0]}" if "." in error.key else "")
        raise ConfigError(f"{recipe.place(dotted)} (section {section}): {error}") from error


def _with_preset(recipe: Recipe, config: type, instance: str) -> dict[str, Any]:
    values = dict(recipe.sections.get(instance, {}))
    presets: Mapping[str, Mapping[str, Any]] | None = getattr(config, "PRESETS", None)
    if presets is None or "preset" not in values or "preset" in {item.name for item in fields(config)}:
        return values
    name = str(values.pop("preset"))
    if name not in presets:
        place = recipe.place(f"{instance}.preset")
        raise ConfigError(f"{place} (section {instance}): no preset '{name}'.{did_you_mean(name, presets)}")
    return _over(presets[name], values)


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    both = {key: _over(below[key], value) for key, value in above.items()
            if isinstance(value, Mapping) and isinstance(below.get(key), Mapping)}  # fmt: skip
    return {**below, **above, **both}


def _fill_tracking(recipe: Recipe, stage: Stage, values: dict[str, Any]) -> None:
    tracking = {**recipe.tracking, **(values.get("tracking") or {})}
    hint = get_type_hints(stage.config)["tracking"]
    if is_dataclass(hint) and "run" in {item.name for item in fields(hint)}:
        tracking.setdefault("run", recipe.name)
    values["tracking"] = tracking


def check(recipe: Recipe, stages: Iterable[Stage], idle: Collection[str] = ()) -> dict[str, Any]:
    """Everything that can be refused before work begins; returns {instance: config}. Raises ConfigError.

    Args:
        idle: instances that are not to run: what they need, a model of the hub say, need not be there.
    """
    stages = list(stages)
    known = [stage.name for stage in stages]
    for key in (*recipe.sections, *recipe.use):
        if not _INSTANCE.fullmatch(key) or stage_of(key, stages) is None:
            hint = did_you_mean(key.partition("@")[0], [*known, *RESERVED])
            raise ConfigError(f"{recipe.place(key)}: '{key}' is no stage of a recipe.{hint}")
    if not recipe.sections:
        raise ConfigError(f"{recipe.path}: no stage to run. Add a section: {', '.join(known)}.")
    found = {name: stage_config(recipe, stage, name) for stage in stages for name in instances(recipe, stage)}
    for name, cfg in found.items():
        stage = stage_of(name, stages)
        assert stage is not None
        for need in stage.needs(recipe):
            if not recipe.has(need):
                raise ConfigError(
                    f"{recipe.place(name)}: stage '{name}' reads '{need}', which this recipe neither makes nor uses. "
                    f"Add a section '{need}:', or  use: {{{need}: runs/OTHER/{need}}}."
                )
        if name not in idle:
            _check_together(recipe, stage, name, cfg)
    return found


def used_folders(run: Path) -> dict[str, Path]:
    """The stages that a run's recipe takes from elsewhere, by name.

    A folder that is not where the recipe says, as a relative one read from another place, is looked for beside the run.
    """
    if not (run / "recipe.yaml").is_file():
        return {}
    return located(run, load_recipe(run / "recipe.yaml").use)


def located(run: Path, use: Mapping[str, str]) -> dict[str, Path]:
    """The folders under `use` in the recipe of a run; of a relative one that is not here, the one beside the run."""
    given = {name: Path(folder) for name, folder in use.items()}
    beside = {name: run.resolve().parent / folder.parent.name / folder.name for name, folder in given.items()}
    return {n: beside[n] if not folder.is_dir() and beside[n].is_dir() else folder for n, folder in given.items()}


def folders_of(run: Path, stage: str) -> list[Path]:
    """The folders of a stage's instances: those the recipe uses from elsewhere, then the run's own; there or not."""
    used = [folder for name, folder in used_folders(run).items() if name.partition("@")[0] == stage]
    return [*used, run / stage, *sorted(run.glob(f"{stage}@*"))]


def _check_together(recipe: Recipe, stage: Stage, name: str, cfg: Any) -> None:
    if stage.check is not None:
        try:
            stage.check(cfg, recipe)
        except ValueError as error:
            raise ConfigError(f"{recipe.place(name)} (section {name}): {error}") from error
