"""Settings of the stage `evaluation`. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.tracking import TrackingConfig


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """What is measured, on how many pictures."""

    samples: int = 1000
    """Pictures in each of the three sets: real reference, real held out, painted. Half of val where val is smaller."""
    obedience: int = 400
    """Samples of val that are asked for by each condition alone."""
    reconstructions: int = 1000
    """Pictures of val that are reconstructed."""
    probe_steps: int = 1200
    """Steps the probe trains for, 96 pictures each."""
    neighbours: int = 5
    """k of precision, recall, density and coverage."""
    tracking: TrackingConfig = field(default_factory=TrackingConfig, metadata={"identity": False})
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("samples", "obedience", "reconstructions", "probe_steps", "neighbours"):
            if getattr(self, name) < 1:
                raise ValueError(f"evaluation.{name} must be at least 1; got {getattr(self, name)}.")
