"""Whether a model of `transformers` that a recipe names is to be had, asked before anything is trained. Torch-free."""

from __future__ import annotations

import os
from pathlib import Path


def check_model(setting: str, where: str) -> None:
    """ValueError where `where`, a folder or a hub id, holds no model. The hub itself is not asked.

    Args:
        setting: the recipe's key, for the message.
    """
    if Path(where).is_dir() or where.startswith((".", "/", "~")) or where.count("/") > 1:
        if not (Path(where) / "config.json").is_file():
            raise ValueError(f"{setting}={where} is no folder with a model of transformers.")
    elif os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE") and not _is_cached(where):
        raise ValueError(f"{setting}={where} is not in the local cache, and HF_HUB_OFFLINE is set. Give a folder.")


def _is_cached(hub_id: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(hub_id, "config.json"), str)
