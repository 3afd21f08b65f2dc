"""An autoencoder on disk: `config.json` says how to build it, `model.safetensors` holds its weights and codebooks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from pipeline.errors import ConfigError, DataError, MissingInputError
from stages.vqvae.model import Autoencoder


def save_autoencoder(model: Autoencoder, folder: Path, info: dict[str, Any]) -> None:
    """Write the model to `folder`; `info` (image_size, ...) joins what the model knows itself in config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    size = info.get("image_size")
    about = {
        "kind": "autoencoder",
        "model": model.arguments,
        "levels": list(model.levels),
        "codebook_sizes": list(model.codebook_sizes),
        "grids": [[size // f, size // f] for f in model.levels] if size else [],
        **info,
    }
    save_file(
        {name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()}, folder / "model.safetensors"
    )
    (folder / "model.safetensors").chmod(0o644)  # safetensors leaves it to its owner alone
    (folder / "config.json").write_text(json.dumps(about, indent=2) + "\n")


def start_from(model: Autoencoder, stage_folder: Path) -> None:
    """Give `model` the averaged weights and the codebooks of a finished vqvae stage.

    Raises:
        MissingInputError: no model in this folder.
        ConfigError: one of another shape.
        DataError: its file is damaged.
    """
    path = Path(stage_folder) / "model" / "model.safetensors"
    if not path.is_file():
        raise MissingInputError(f"vqvae.init_from={stage_folder} holds no trained autoencoder ({path} is not there).")
    try:
        model.load_state_dict(load_file(path))
    except (SafetensorError, OSError) as error:
        raise DataError(f"vqvae.init_from={stage_folder} is damaged: {str(error)[:200]}") from error
    except RuntimeError as error:
        raise ConfigError(f"vqvae.init_from={stage_folder} is of another shape: {str(error)[:200]}") from error


def load_autoencoder(stage_folder: Path, device: str | torch.device = "cpu") -> tuple[Autoencoder, dict[str, Any]]:
    """The model of a finished vqvae stage, in eval mode without gradients, and its config.json.

    Raises:
        MissingInputError: no model in this folder.
        DataError: a file is damaged or of another kind.
    """
    folder = Path(stage_folder) / "model"
    if not (folder / "config.json").is_file() or not (folder / "model.safetensors").is_file():
        raise MissingInputError(f"{stage_folder} holds no trained autoencoder (model/config.json, model.safetensors).")
    try:
        about = json.loads((folder / "config.json").read_text())
        model = Autoencoder(**about["model"])
        model.load_state_dict(load_file(folder / "model.safetensors"))
    except PermissionError as error:
        raise DataError(f"{error.filename or folder} may not be read: ask its owner for leave.") from error
    except Exception as error:  # anything a damaged file can raise
        raise DataError(f"{folder} is damaged or no autoencoder: {error}\nTrain it again with --redo vqvae.") from error
    return model.to(device).eval().requires_grad_(False), about
