"""A prior on disk: `config.json` says how to build and sample it, `model.safetensors` holds its averaged weights."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from pipeline.errors import DataError, MissingInputError
from stages.codes.read import CodeSet
from stages.prior.model import Prior
from stages.prior.settings import SampleSettings


def save_prior(prior: Prior, folder: Path, codes: CodeSet, sampling: SampleSettings) -> None:
    """Write a prior over `codes` to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    about = {
        "kind": "prior",
        "model": prior.arguments,
        "classes": codes.classes,
        "conditions": prior.arguments["conditions"],
        "encoders": {k: v for k, v in codes.conditions.items() if k in prior.arguments["conditions"] or k == "image"},
        "sampling": asdict(sampling),
        "tokenizer": codes.tokenizer,
        "image_size": codes.image_size,
    }
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in prior.state_dict().items()}
    save_file(weights, folder / "model.safetensors")
    (folder / "model.safetensors").chmod(0o644)  # safetensors leaves it to its owner alone
    (folder / "config.json").write_text(json.dumps(about, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def load_prior(stage_folder: Path, device: str | torch.device = "cpu") -> tuple[Prior, dict[str, Any]]:
    """The model of a finished prior stage, in eval mode without gradients, and its config.json.

    `SampleSettings.of(about["sampling"])` are its sampling defaults.

    Raises:
        MissingInputError: no model in this folder.
        DataError: a file is damaged or of another kind.
    """
    folder = Path(stage_folder) / "model"
    if not (folder / "config.json").is_file() or not (folder / "model.safetensors").is_file():
        raise MissingInputError(f"{stage_folder} holds no trained prior (model/config.json, model.safetensors).")
    try:
        about = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        model = about["model"]
        if model.pop("cross_attention", False):  # before `attend`: all conditions or none
            model["attend"] = list(model["conditions"])
        prior = Prior(**model)
        prior.load_state_dict(load_file(folder / "model.safetensors"))
    except PermissionError as error:
        raise DataError(f"{error.filename or folder} may not be read: ask its owner for leave.") from error
    except Exception as error:  # anything a damaged file can raise
        raise DataError(f"{folder} is damaged or no prior: {error}\nTrain it again with --redo prior.") from error
    prior = prior.to(device).eval().requires_grad_(False)
    prior.settle()
    return prior, about
