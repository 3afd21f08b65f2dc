"""How codes are sampled: the settings every sampler of a prior takes. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ORDERS = ("halton", "confidence")
OF_IMAGES = ("vector", "picture")
"""Conditions that a user asks for by an image."""


@dataclass(frozen=True, kw_only=True)
class SampleSettings:
    """One contract for both kinds of prior."""

    guidance: float | dict[str, float] = 2.0
    """A number g: l0 + g (l_all - l0), 1 for none; or a number per condition: l0 + sum of g_i (l_i - l0),
    1 for those it does not name."""
    foretold: float = 0.0
    """How much of guidance, as far as it is above 1, is given to what the conditions alone foretell of the coarsest
    codes as well, each in its place (prior.foretold): more of what is said of places, at the cost of variety."""
    opposites: float = 0.0
    """How much guidance moves away, too, from a text with its opposites exchanged (words of `align.opposites`, such as
    left and right): who is where is obeyed better, at half more time for such texts. 1 to 3 helped, 6 did not. Above
    0, what `foretold` adds moves away from the exchanged text too, and candidates are also chosen by how much nearer
    they are to the text than to the exchanged one."""
    temperature: float = 1.0
    """Divides the logits; 0 takes the likeliest code."""
    top_k: int = 0
    """Only the likeliest k codes; 0 for all."""
    top_p: float = 1.0
    """Only the fewest codes that hold this share of the probability."""
    steps: tuple[int, ...] = ()
    """Masked: parallel steps per level, coarsest first; levels not named take 4 + log2(codes)."""
    order: str = "halton"
    """Masked: `halton` or `confidence` (MaskGIT's)."""
    ramp: bool = True
    """Masked: let guidance rise from 1 over the steps of each level."""
    candidates: int = 1
    """Pictures painted for each one that is kept: the nearest to the class's name, text, sound or picture alike asked
    for, in the space of the run's CLIP (DALL-E; Ramesh et al. 2021, section 2.6). A source is not compared."""
    confidence_noise: float = 4.5
    """Masked, order confidence: how freely codes are chosen in the first steps."""

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> SampleSettings:
        """The settings as JSON holds them, e.g. under `sampling` in a prior's config.json."""
        return cls(**{**values, "steps": tuple(values.get("steps", ()))})

    def weight_of(self, name: str) -> float:
        """The weight of one condition by itself; what is said of a picture has that of `image`, unless it is named."""
        assert isinstance(self.guidance, dict)
        return self.guidance.get(name, self.guidance.get("image", 1.0) if name in OF_IMAGES else 1.0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", tuple(int(n) for n in self.steps))
        if isinstance(self.guidance, dict):
            object.__setattr__(self, "guidance", {str(k): float(v) for k, v in self.guidance.items()})
        weights = self.guidance.values() if isinstance(self.guidance, dict) else [self.guidance]
        if not all(math.isfinite(weight) for weight in weights):
            raise ValueError(f"sampling.guidance must be finite; got {self.guidance}.")
        if not 1 <= self.candidates <= 64:
            raise ValueError(f"sampling.candidates is from 1 to 64; got {self.candidates}.")
        if not 0 <= self.foretold < math.inf:
            raise ValueError(f"sampling.foretold must be finite and not negative; got {self.foretold}.")
        if not 0 <= self.opposites < math.inf:
            raise ValueError(f"sampling.opposites must be finite and not negative; got {self.opposites}.")
        if self.temperature < 0:
            raise ValueError(f"sampling.temperature must not be negative; got {self.temperature}.")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"sampling.top_p lies in (0, 1]; got {self.top_p}.")
        if self.order not in ORDERS:
            raise ValueError(f"sampling.order is 'halton' or 'confidence'; got '{self.order}'.")
        if any(n < 1 for n in self.steps) or self.top_k < 0:
            raise ValueError(f"sampling.steps and top_k must be positive; got {list(self.steps)} and {self.top_k}.")
