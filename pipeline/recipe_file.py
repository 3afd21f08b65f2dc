"""Finding and reading a recipe: YAML that cannot execute, grow without end or carry a secret; keys keep their lines."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import ConfigError
from pipeline.schema import did_you_mean

MAX_BYTES = 1_000_000
MAX_NODES = 50_000  # after aliases are followed: ten lines of nested aliases can stand for a billion values
PACKAGED = Path(__file__).resolve().parent / "recipes"
_SECRET = re.compile(
    r"(?i)(api_?key|secret|passw|credential|private_?key|access_?key|auth_?token|(^|[_.])(token|pwd|wandb_key)$)"
)
SECRET_VALUE = re.compile(r"hf_\w{16,}|AKIA[0-9A-Z]{12,}|\b[0-9a-f]{40}\b|(?<=://)[^/@\s]+(?=@)")
"""Tokens of Hugging Face, AWS and W&B, and what stands before the host in an address."""
_ENV = re.compile(r"\$\{oc\.env:\s*([^},]+)")


def find_recipe(name: str | Path) -> Path:
    """The file a recipe argument means: a path, or the stem of a file in ./configs or of a recipe that ships."""
    given = Path(name)
    if given.is_file():
        return given
    folders = [Path("configs"), PACKAGED]
    if given.suffix in ("", ".yaml", ".yml") and given.parent == Path():
        for folder in folders:
            if (candidate := folder / f"{given.stem}.yaml").is_file():
                return candidate
    stems = sorted({path.stem for folder in folders for path in folder.glob("*.yaml")})
    what = "is a folder, not a recipe" if given.is_dir() else "is no file and no recipe in configs/"
    raise ConfigError(f"recipe '{name}' {what}.{did_you_mean(given.stem, stems)}")


def read_yaml(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """The mapping in a YAML file, and {dotted key: line number} for the first two levels and below."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(f"{path} is larger than {MAX_BYTES // 1000} kB: a recipe is a short YAML file.")
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path} is not readable YAML: {_one_line(error)}") from error
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}.") from error
    if node is None:
        raise ConfigError(f"{path} is empty. The smallest recipe:  shards: {{source: birds}}  and  vqvae: {{}}")
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{path} must be a mapping of sections (shards: ..., vqvae: ...), not a {node.id}.")
    _check_size(node, path)
    return _load(text, path), _lines(node)


def _load(text: str, path: Path) -> dict[str, Any]:
    """OmegaConf's safe loader reads 1e-3 as a number (YAML 1.1 reads text) and refuses a key given twice."""
    from omegaconf import DictConfig, OmegaConf

    try:
        loaded = OmegaConf.create(text)
    except Exception as error:  # yaml's and OmegaConf's errors share no base
        raise ConfigError(f"{path} is not a usable recipe: {_one_line(error)}") from error
    assert isinstance(loaded, DictConfig)
    values = OmegaConf.to_container(loaded, resolve=False)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def _check_size(root: yaml.Node, path: Path) -> None:
    sizes: dict[int, int] = {}
    open_nodes: set[int] = set()

    def size(node: yaml.Node) -> int:
        if id(node) in open_nodes:
            raise ConfigError(f"{path}:{node.start_mark.line + 1} contains itself: an alias points to its own parent.")
        if id(node) not in sizes:
            open_nodes.add(id(node))
            sizes[id(node)] = 1 + sum(map(size, _children(node)))
            open_nodes.discard(id(node))
        return sizes[id(node)]

    if size(root) > MAX_NODES:
        raise ConfigError(f"{path} stands for more than {MAX_NODES} values once its aliases are followed.")


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [child for pair in node.value for child in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _lines(node: yaml.Node, key: str = "") -> dict[str, int]:
    found: dict[str, int] = {}
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            dotted = f"{key}.{name.value}" if key else str(name.value)
            found[dotted] = name.start_mark.line + 1
            found |= _lines(value, dotted)
    return found


def refuse_secrets(values: Any, place: str, key: str = "") -> None:
    """A recipe is copied into every run folder and report, so a key or password has no place in it."""
    if isinstance(values, Mapping):
        for name, value in values.items():
            dotted = f"{key}.{name}" if key else str(name)
            if _SECRET.search(str(name)):
                raise ConfigError(
                    f"{place}: '{dotted}' looks like a secret; a recipe is copied into run folders and reports. "
                    f"Set it in the environment instead (for W&B: WANDB_API_KEY)."
                )
            refuse_secrets(value, place, dotted)
    elif isinstance(values, list):
        for item in values:
            refuse_secrets(item, place, key)
    elif isinstance(values, str):
        for name in _ENV.findall(values):
            if _SECRET.search(name.strip()):
                raise ConfigError(f"{place}: '{key}' reads the secret {name.strip()} from the environment: remove it.")
        if SECRET_VALUE.search(values):
            raise ConfigError(
                f"{place}: '{key}' holds a key or a password; a recipe is copied into run folders and reports. "
                "Set it in the environment, or in the machine's own file for it (.netrc)."
            )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
