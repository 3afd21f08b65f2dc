"""Settings of the stage `prior`. Torch-free."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from pipeline.hub import at_home
from pipeline.tracking import TrackingConfig
from pipeline.training_config import BackendConfig, DataConfig, LoopConfig, OptimizerConfig, identity
from stages.prior.settings import SampleSettings

KINDS = ("masked", "autoregressive")
CONDITIONS = ("auto", "class", "text", "audio", "image", "vector", "picture")
SHARES = ("dropout", "corrupt", "token_dropout", "label_smoothing", "drop_all", "wordless")


@dataclass(frozen=True, kw_only=True)
class PriorConfig:
    """A transformer over the codes of all levels. Levels, codebook sizes and classes come from the codes."""

    kind: str = "masked"
    """`masked` (few parallel steps) or `autoregressive` (one code per step, with a key-value cache)."""
    width: int = 128
    """Width of the transformer; a multiple of 4 x heads."""
    depth: int = 4
    """Layers."""
    heads: int = 4
    """Attention heads."""
    window: int = 0
    """Masked: side of attention windows on the finest level, in tokens; 0 attends in full. For 512 px and more."""
    fold: bool = field(default=True, metadata={"before": False})
    """One token for all codes of a finer level under one of the level above: a shorter sequence."""
    whole_every: int = 0
    """Autoregressive: one row in so many learns the codes of all levels, the others the coarsest alone, which
    cost little and decide what is painted; 0 takes as many as there are levels."""
    conditions: tuple[str, ...] = field(default=("auto",), metadata={"before": ["class"]})
    """What the prior listens to: class, text, audio, image, vector, picture; `auto` takes all that the codes hold."""
    attend: tuple[str, ...] = ("auto",)
    """The conditions that are read token by token; `auto` is all of them, [] none. The others are heard as one vector
    (and a source picture as what it shows at each place): cheaper, and blind to which word belongs to which."""
    condition_layers: int = 0
    """Transformer layers over the tokens of what `attend` names (not a source picture's), learned with the prior: the
    encoders are frozen, and one that reads from left to right does not say at a word what comes after it."""
    foretold: float = field(default=1.0, metadata={"before": 0.0})
    """All conditions as one vector are told to every place by itself too; this is the weight of the loss that asks what
    is told there for the coarse codes, so that what stands where is learned. 0: they are not told so."""
    dropout: float = 0.0
    """Dropout on the residual branches."""
    corrupt: float = 0.1
    """Share of the coarse codes replaced by random ones while a finer level is learned."""
    token_dropout: float = 0.0
    """Share of the codes shown that are hidden without being asked for; against overfitting small data."""
    label_smoothing: float = 0.0
    """Of the cross-entropy. At 0.1 a tenth of the codes sampled at temperature 1 is noise."""
    drop_each: float | dict[str, float] = 0.1
    """Chance to drop each condition by itself, so that guidance has something to lean on and every subset is learned:
    a number, or one per condition, as in {class: 0.5, text: 0.2}; one that is not named has 0.1. A picture's own vector
    takes the place of text and sound where it is kept: its chance is 0.65 unless it is named."""
    wordless: float = 0.0
    """Share of the rows with a text that hear its vector alone, not its words: what the vector of a sentence means is
    then learned for all that lies in its space, sounds with words in them first."""
    drop_all: float = 0.05
    """Chance to drop all conditions together."""
    sampling: SampleSettings = field(default_factory=SampleSettings)
    """How samples are painted unless told otherwise; pictures of training too, but for candidates and opposites."""
    init_from: str = ""
    """A finished prior stage whose weights to start from."""
    eval_samples: int = identity(1024)
    """Samples of val that an evaluation reads, at most."""
    paint_seed: int = identity(0)
    """Seed of the first picture painted in training; the others follow."""
    data: DataConfig = field(default_factory=DataConfig)
    """What is read."""
    loop: LoopConfig = field(default_factory=LoopConfig)
    """When to stop, log, evaluate and save."""
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(lr=1.5e-3, weight_decay=0.03, betas=(0.9, 0.96))
    )
    """How it steps."""
    backend: BackendConfig = field(default_factory=BackendConfig)
    """Precision and sharding."""
    tracking: TrackingConfig = field(default_factory=TrackingConfig, metadata={"identity": False})
    """Filled from the recipe."""
    seed: int = 0
    """Filled from the recipe."""

    def __post_init__(self) -> None:
        at_home(self, "init_from")
        self.backend.check(self.optimizer)
        if self.kind not in KINDS:
            raise ValueError(f"prior.kind is 'masked' or 'autoregressive'; got '{self.kind}'.")
        if self.heads < 1 or self.width % (4 * self.heads) or self.width < 1:
            step = 4 * max(1, self.heads)
            nearest = max(1, round(self.width / step)) * step
            raise ValueError(f"prior.width must be a multiple of 4 x heads = {step}; got {self.width}. Try {nearest}.")
        if self.depth < 1 or self.window < 0 or self.condition_layers < 0:
            raise ValueError(
                "prior.depth is positive, window and condition_layers not negative; got "
                f"{self.depth}, {self.window}, {self.condition_layers}."
            )
        self._check_attend()
        if self.whole_every < 0 or (self.whole_every and self.kind != "autoregressive"):
            raise ValueError(
                f"prior.whole_every is for kind 'autoregressive' and not negative; got {self.whole_every} with kind "
                f"'{self.kind}'. Leave it out."
            )
        if self.window and self.kind != "masked":
            raise ValueError("prior.window is for kind 'masked'. Set prior.window=0 or prior.kind=masked.")
        if not 0 <= self.foretold < math.inf:
            raise ValueError(f"prior.foretold is the weight of a loss, finite and not negative; got {self.foretold}.")
        if self.eval_samples < 1:
            raise ValueError(f"prior.eval_samples must be at least 1; got {self.eval_samples}.")
        if self.sampling.foretold and not self.foretold:
            raise ValueError(
                f"sampling.foretold={self.sampling.foretold} leans on what the conditions foretell, and with "
                "prior.foretold=0 they foretell nothing. Set one of them."
            )
        self._check_shares()

    def _check_shares(self) -> None:
        shares = {name: getattr(self, name) for name in SHARES}
        each = self.drop_each if isinstance(self.drop_each, dict) else {"": self.drop_each}
        shares |= {f"drop_each.{name}".rstrip("."): chance for name, chance in each.items()}
        for name, share in shares.items():
            if not 0 <= share < 1:
                raise ValueError(f"prior.{name} lies in [0, 1); got {share}.")
        weighed = self.sampling.guidance if isinstance(self.sampling.guidance, dict) else {}
        if unknown := (set(weighed) | set(each) - {""}) - (set(CONDITIONS) - {"auto"}):
            known, got = ", ".join(CONDITIONS[1:]), ", ".join(sorted(unknown))
            raise ValueError(f"prior.drop_each and sampling.guidance know {known}; got {got}.")
        if unknown := set(self.conditions) - set(CONDITIONS):
            raise ValueError(f"prior.conditions knows {', '.join(CONDITIONS)}; got {', '.join(sorted(unknown))}.")

    def _check_attend(self) -> None:
        if self.condition_layers and not self.attend:
            raise ValueError(
                "prior.condition_layers refine the tokens of what prior.attend names. Set condition_layers=0 or "
                "attend=[text]."
            )
        if "auto" not in self.conditions and (deaf := set(self.attend) - {"auto", *self.conditions}):
            raise ValueError(
                f"prior.attend names {', '.join(sorted(deaf))}, and prior.conditions does not: add it there, "
                "or take it out here."
            )
        if unknown := set(self.attend) - set(CONDITIONS):
            raise ValueError(f"prior.attend knows {', '.join(CONDITIONS)}; got {', '.join(sorted(unknown))}.")
