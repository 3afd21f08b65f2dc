"""Settings of the stage `vqvae`, and its presets by image size. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from pipeline.hub import at_home
from pipeline.tracking import TrackingConfig
from pipeline.training_config import BackendConfig, DataConfig, LoopConfig, OptimizerConfig, identity
from stages.vqvae.settings import FSQ_STEPS, KINDS, CodebookSettings, LossSettings

DEFAULT_SIZES = {1: (8192,), 2: (1024, 8192), 3: (1024, 4096, 8192)}
"""Codebook rows by the number of levels: fewer at the top, where codes are few and each decides much."""

PRESETS: dict[str, dict[str, Any]] = {
    "vqvae2_paper": {
        "levels": [8, 4],
        "codebook_sizes": [512, 512],
        "code_widths": [64, 64],
        "channels": 64,
        "codebook": {"metric": "euclidean"},
        "loss": {"l1": 0.0, "mse": 1.0, "multiscale": 0.0, "top": 0.0},
        "optimizer": {"kind": "adamw", "lr": 3e-4, "schedule": "constant"},
    },
    "256": {"levels": [16, 8], "codebook_sizes": [1024, 8192], "channels": 96, "loss": {"adversarial": 0.1}},
    "512": {"levels": [32, 16, 8], "codebook_sizes": [1024, 4096, 8192], "channels": 96, "loss": {"adversarial": 0.1}},
    "1024": {"levels": [32, 16, 8], "codebook_sizes": [1024, 4096, 8192], "channels": 64, "loss": {"adversarial": 0.1}},
    "1024_light": {
        "levels": [64, 32, 16],
        "codebook_sizes": [1024, 4096, 8192],
        "channels": 64,
        "loss": {"adversarial": 0.1},
    },
}
"""`vqvae2_paper`: Razavi et al. 2019, appendix A, at 256 px. The others are named after the image size they are for."""
NO_SIZE = "%s does not say its image size (shards made by others). Set it:  vqvae.image_size=256"


@dataclass(frozen=True, kw_only=True)
class VQVAEConfig:
    """An autoencoder and its training. Two or more levels with `vq` make a VQ-VAE-2."""

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = PRESETS

    image_size: int | None = None
    """Side of the square training crop in pixels; that of the shards where not given."""
    levels: tuple[int, ...] = (16, 8)
    """Downsampling factors, coarsest first."""
    bottleneck: str = "vq"
    """`none` (autoencoder), `gaussian` (VAE), `vq`, or `fsq` (finite scalar quantization)."""
    codebook_sizes: tuple[int, ...] = ()
    """Rows per level; by the number of levels where not given."""
    code_widths: tuple[int, ...] = ()
    """Numbers per code and level; 8 where not given."""
    channels: int = 32
    """Feature channels at half resolution; two and four times as many further down."""
    blocks: int = 1
    """Residual blocks per resolution."""
    codebook: CodebookSettings = field(default_factory=CodebookSettings)
    """Distance, decay and gradient of `vq`."""
    revive_until: float = 0.8
    """Share of the steps in which dead rows are drawn anew; after it codebooks only settle."""
    loss: LossSettings = field(default_factory=LossSettings)
    """Weights of the losses."""
    perceptual: str = "auto"
    """The vision model behind `loss.perceptual`: a folder or hub id, or `auto`: the image tower of `align`."""
    flip: bool = False
    """Mirror every second picture in training; wrong where captions say left or right."""
    discriminator_channels: int = 32
    """Of the patch discriminator's first feature map."""
    init_from: str = ""
    """A finished vqvae stage of the same shape, whose weights and codebooks to start from."""
    val_samples: int = identity(1024)
    """Pictures of val an evaluation looks at, at most."""
    data: DataConfig = field(default_factory=DataConfig)
    loop: LoopConfig = field(default_factory=lambda: LoopConfig(steps=4000))
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(ema_decay=0.99))
    backend: BackendConfig = field(default_factory=BackendConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig, metadata={"identity": False})
    seed: int = 0

    def __post_init__(self) -> None:
        at_home(self, "perceptual", "init_from")
        if self.bottleneck not in KINDS:
            raise ValueError(f"bottleneck is one of {', '.join(KINDS)}; got '{self.bottleneck}'.")
        powers = all(f >= 2 and f & (f - 1) == 0 for f in self.levels)
        if not self.levels or not powers or list(self.levels) != sorted(set(self.levels), reverse=True):
            raise ValueError(
                f"levels are falling powers of two, coarsest first, such as [16, 8]; got {list(self.levels)}."
            )
        count = len(self.levels)
        if not self.codebook_sizes:
            object.__setattr__(self, "codebook_sizes", DEFAULT_SIZES.get(count, (8192,) * count))
        if not self.code_widths:
            object.__setattr__(self, "code_widths", (8,) * count)
        for name in ("codebook_sizes", "code_widths"):
            if len(getattr(self, name)) != count:
                raise ValueError(f"{name} needs one number per level, {count} in all; got {list(getattr(self, name))}.")
            if min(getattr(self, name)) < 1:
                raise ValueError(f"{name} are positive; got {list(getattr(self, name))}.")
        if self.bottleneck == "fsq" and (strange := sorted(set(self.codebook_sizes) - set(FSQ_STEPS))):
            raise ValueError(f"fsq has codebooks of {', '.join(map(str, FSQ_STEPS))} rows; got {strange[0]}.")
        if self.backend.zero_stage and self.loss.adversarial:
            raise ValueError(
                "backend.zero_stage shards one model, but loss.adversarial trains two. Set loss.adversarial=0, or "
                "backend.zero_stage=0 (plain DDP)."
            )
        self.backend.check(self.optimizer)
        if self.val_samples < 1:
            raise ValueError(f"val_samples must be at least 1; got {self.val_samples}.")
        if self.image_size is not None:
            self.check_size(self.image_size)

    def check_size(self, size: int) -> None:
        """ValueError unless pictures of this side divide into the coarsest level's patches."""
        unit = self.levels[0]
        if size < unit or size % unit:
            nearest = max(unit, round(size / unit) * unit)
            raise ValueError(
                f"image_size must be a multiple of {unit}, the coarsest level's factor; got {size}. Nearest: {nearest}."
            )
