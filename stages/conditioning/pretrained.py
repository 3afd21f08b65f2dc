"""Load models of `transformers` from a local folder or by hub id: no code from it, no pickles, one clear error.

Shapes: b batch, t tokens, d width.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.errors import ConfigError

SAFE = {"trust_remote_code": False}
FEW_TOKENS = 32
"""Most tokens an audio encoder passes on."""


def model_type(where: str | Path, kind: str) -> tuple[str, list[str]]:
    """`model_type` and `architectures` of a model's config.

    Args:
        where: a folder or a hub id.
        kind: `text`, `audio` or `image`, for the message.

    Raises:
        ConfigError: nothing there, or the hub cannot be reached.
    """
    from transformers import AutoConfig

    config = load(AutoConfig, where, kind)
    return str(config.model_type), list(getattr(config, "architectures", None) or [])


def load(cls: Any, where: str | Path, kind: str, **options: Any) -> Any:
    """`cls.from_pretrained(where)`; ConfigError says what to give instead where it fails."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        return cls.from_pretrained(str(where), **SAFE, **options)
    except (OSError, ValueError, ImportError, KeyError) as error:
        first = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
        local = Path(str(where)).is_dir()
        hint = (
            f"The folder must hold what `save_pretrained` of a {kind} model and its processor writes."
            if local
            else "Without network, or with HF_HUB_OFFLINE set, give a local folder with the model instead of a hub id."
        )
        raise ConfigError(f"no {kind} encoder at '{where}': {first}\n{hint}") from error


def load_weights(cls: Any, where: str | Path, kind: str) -> nn.Module:
    """A frozen model in eval mode, fp32, from safetensors alone."""
    model: nn.Module = load(cls, where, kind, use_safetensors=True, dtype=torch.float32)
    return model.eval().requires_grad_(False)


def fingerprint_of(model: nn.Module, *facts: Any) -> str:
    """sha256 over names, dtypes, shapes and bytes of all weights, and over what else decides the output."""
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def masked_mean(tokens: Tensor, mask: Tensor) -> Tensor:
    """Mean over the tokens that are there: (b, t, d), bool (b, t) -> (b, d)."""
    weight = mask[..., None].to(tokens.dtype)
    mean: Tensor = (tokens * weight).sum(1) / weight.sum(1).clamp(min=1)
    return mean


def to_width(x: Tensor, width: int) -> Tensor:
    """Zeros behind the last entries: tokens and pooled vectors of one condition have one width."""
    return x if x.shape[-1] == width else F.pad(x, (0, width - x.shape[-1]))
