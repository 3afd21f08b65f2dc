"""The one list of stages, in the order the data flows."""

from __future__ import annotations

from data_prep.stage import STAGE as SHARDS
from pipeline.stage import Stage
from stages.codes.stage import STAGE as CODES
from stages.conditioning.align.stage import STAGE as ALIGN
from stages.evaluation.stage import STAGE as EVALUATION
from stages.prior.stage import STAGE as PRIOR
from stages.vqvae.stage import STAGE as VQVAE

STAGES: tuple[Stage, ...] = (SHARDS, ALIGN, VQVAE, CODES, PRIOR, EVALUATION)
