"""Whether a model of `transformers` that a recipe names is to be had, asked before anything is trained. Torch-free."""

from __future__ import annotations

from pathlib import Path


def check_model(setting: str, where: str) -> None:
    """ValueError where `where`, a folder or a hub id, holds no model; of a hub id its config alone is fetched.

    Args:
        setting: the recipe's key, for the message.
    """
    if Path(where).is_dir() or where.startswith((".", "/", "~")) or where.count("/") > 1:
        if not (Path(where) / "config.json").is_file():
            raise ValueError(f"{setting}={where} is no folder with a model of transformers.")
        return
    import huggingface_hub

    try:
        huggingface_hub.hf_hub_download(where, "config.json")  # from the cache where the hub may not be asked
    except Exception as error:  # no network, no such model, no access: nearly any type
        away = "is not in the local cache, and HF_HUB_OFFLINE is set"
        why = away if _offline() else f"cannot be had ({_first(error)})"
        raise ValueError(f"{setting}={where} {why}. Give a folder.") from error


def _offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _first(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:120] if lines else type(error).__name__
