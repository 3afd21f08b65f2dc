"""Whether a model of `transformers` that a recipe names is to be had, asked before anything is trained. Torch-free."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

SECONDS = 10
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")


def at_home(config: Any, *names: str) -> None:
    """Write out `~` in the folders a frozen config names."""
    for name in names:
        if (where := getattr(config, name)).startswith("~"):
            object.__setattr__(config, name, str(Path(where).expanduser()))


def check_finished(setting: str, folder: str) -> None:
    """ValueError where `folder`, a finished stage to start from, holds no weights; nothing where none is named."""
    if folder and not (Path(folder) / "model" / WEIGHTS[0]).is_file():
        raise ValueError(f"{setting}={folder} is no finished stage: {folder}/model/{WEIGHTS[0]} is not there.")


def check_model(setting: str, where: str) -> None:
    """ValueError where `where`, a folder or a hub id, holds no model; of an id that is not cached the hub is asked.

    Args:
        setting: the recipe's key, for the message.
    """
    if Path(where).is_dir() or where.startswith((".", "/", "~")) or where.count("/") > 1:
        if not (Path(where) / "config.json").is_file():
            raise ValueError(f"{setting}={where} is no folder with a model of transformers.")
    elif not _is_cached(where):
        if _offline():
            raise ValueError(f"{setting}={where} is not in the local cache, and HF_HUB_OFFLINE is set. Give a folder.")
        if why := _missing_on_hub(where):
            raise ValueError(f"{setting}={where} is not in the local cache, and {why}. Give a folder.")


def _offline() -> bool:
    names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    return any(os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE") for name in names)


def _is_cached(hub_id: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    def there(name: str) -> bool:
        return isinstance(try_to_load_from_cache(hub_id, name), str)

    return there("config.json") and any(map(there, WEIGHTS))


def _missing_on_hub(hub_id: str) -> str:
    """Why the hub will not give a model; empty where it will."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    try:
        HfApi().model_info(hub_id, timeout=SECONDS)
    except GatedRepoError:
        return "the hub gives it to those alone who were granted it (hf auth login)"
    except (RepositoryNotFoundError, HFValidationError):
        return "the hub has no such model"
    except Exception as error:  # whatever the network, a proxy or the hub's client raises
        return f"the hub cannot be reached ({type(error).__name__})"
    return ""
