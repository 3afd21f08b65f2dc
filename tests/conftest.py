"""For every test: shapes are checked at run time, no network, one thread."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from jaxtyping import install_import_hook

CHECKED = {
    "stages.vqvae": ("model", "encoder", "decoder", "bottleneck", "quantizer", "nearest", "fsq", "loss", "tiling"),
    "stages.prior": ("model", "fold", "depth_head", "transformer", "loss", "sampling", "order", "window"),
    "stages.conditioning": ("condition", "mixer", "source_codes", "sources"),
    "stages.conditioning.align": ("loss",),
    "pipeline": ("muon",),
    "stages": ("metrics", "layers"),
}
# Must come before the first import of what it checks; users never pay for it.
install_import_hook([f"{package}.{name}" for package, names in CHECKED.items() for name in names], "beartype.beartype")

import stages  # noqa: E402, F401 - before any model of transformers, which imports torchaudio

pytest_plugins = ["tests.conditions_run"]
