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
UNUSED = ("pooler.", "masked_spec_embed", "position_ids", "logit_scale")
"""Weights a checkpoint may lack: nothing asked of the model here depends on them."""
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


def quiet() -> None:
    """No bars and tables of transformers: loading a tower of a larger model leaves weights over, as it should."""
    from transformers.utils import logging

    for switch in (logging.disable_progress_bar, logging.set_verbosity_error):
        call: Any = switch
        call()


def load(cls: Any, where: str | Path, kind: str, **options: Any) -> Any:
    """`cls.from_pretrained(where)`; ConfigError says what to give instead where it fails."""
    quiet()
    try:
        return cls.from_pretrained(str(where), **SAFE, **options)
    except Exception as error:  # a damaged file raises nearly any type
        first = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
        raise ConfigError(f"no {kind} encoder at '{where}': {first}\n{_hint(where, kind, str(error))}") from error


def _hint(where: str | Path, kind: str, said: str) -> str:
    if "sentencepiece" in said.lower():
        return "Its tokenizer needs one more package:  pip install sentencepiece"
    if Path(str(where)).is_dir() or "safetensors" in said:
        return f"It must hold what `save_pretrained` of a {kind} model and its processor writes, as safetensors."
    return "Without network, or with HF_HUB_OFFLINE set, give a local folder with the model instead of a hub id."


def load_weights(cls: Any, where: str | Path, kind: str) -> nn.Module:
    """A frozen model in eval mode, fp32, from safetensors alone.

    Raises:
        ConfigError: nothing to load, or weights are missing that its output depends on.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # what a file lacks is drawn: the same every time, or no fingerprint would hold
        model, about = load(cls, where, kind, use_safetensors=True, dtype=torch.float32, output_loading_info=True)
    if missing := sorted(name for name in about["missing_keys"] if not any(part in name for part in UNUSED)):
        raise ConfigError(
            f"the {kind} encoder at '{where}' lacks weights ({missing[0]} and {len(missing) - 1} more): what it says "
            "would be random. Save a whole model there."
        )
    frozen: nn.Module = model.eval().requires_grad_(False)
    return frozen


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
