"""Vector quantizer with an exponential-moving-average codebook.

Turns each d-vector of a feature map into the index of its nearest codebook row. The codebook is a buffer: it follows
the data by EMA and never sees a gradient (VQ-VAE, van den Oord et al. 2017, appendix A.1). `forward` only adds to the
step's statistics; `follow`, once per optimizer step, sums them over all processes and moves the codebook, so codebooks
are the same on every process; on the micro-batch depends alone which of a step's vectors dead rows are drawn from.

Shapes: b batch, d code width, h w height and width of this level, n = b h w vectors, k codebook rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from stages.vqvae.nearest import nearest
from stages.vqvae.quantized import Quantized
from stages.vqvae.settings import CodebookSettings

_GOLDEN = 0.6180339887498949  # steps of the golden ratio fill the unit interval evenly
_PLASTIC = 0.7548776662466927  # and those of the plastic number do so independently of it


class VectorQuantizer(nn.Module):
    """`rows` codes of `width` numbers each: 8 are enough for `cosine`, the papers' `euclidean` takes 64.

    For `cosine` vectors and rows lie on the sphere of radius sqrt(width), so latents have unit mean square.
    """

    codebook: Tensor
    ema_counts: Tensor
    ema_sums: Tensor
    steps: Tensor
    revived: Tensor
    pending: Tensor

    def __init__(self, rows: int, width: int, settings: CodebookSettings | None = None) -> None:
        super().__init__()
        self.rows, self.width = rows, width
        self.settings = settings or CodebookSettings()
        self.register_buffer("codebook", self.place(torch.randn(rows, width)))
        self.register_buffer("ema_counts", torch.zeros(rows))  # all dead: the first step draws all from the data
        self.register_buffer("ema_sums", torch.zeros(rows, width))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        # What no checkpoint needs: the step's own statistics, one tensor for one all-reduce: sums | drawn | counts.
        self.register_buffer("pending", torch.zeros(rows * (2 * width + 1)), persistent=False)
        self.register_buffer("revived", torch.zeros((), dtype=torch.int64), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Move between devices, stay fp32: a model cast to bf16 as a whole would round its codebook away."""
        return super()._apply(lambda t: t.to(fn(t).device) if t.is_floating_point() else fn(t), recurse)  # type: ignore[no-untyped-call]

    def place(self, vectors: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        """Encoder outputs in the codebook's own space: onto the sphere for `cosine`."""
        if self.settings.metric == "cosine":
            vectors = F.normalize(vectors, dim=-1) * self.width**0.5
        return vectors

    def forward(self, features: Float[Tensor, "b d h w"]) -> Quantized:
        """Quantize; in training mode also count what was seen."""
        with torch.autocast(features.device.type, enabled=False):
            z = self.place(rearrange(features, "b d h w -> b h w d").float())
            flat = rearrange(z, "b h w d -> (b h w) d")
            codes = nearest(flat, self.codebook)
            if self.training:
                self.count(flat.detach(), codes)
            rows = F.embedding(codes, self.codebook)
            commitment = F.mse_loss(flat, rows)
            passed = rotate(flat, rows) if self.settings.gradient == "rotation" else flat + (rows - flat).detach()
        b, h, w, _ = z.shape
        return Quantized(
            latents=rearrange(passed, "(b h w) d -> b d h w", b=b, h=h, w=w),
            codes=rearrange(codes, "(b h w) -> b h w", b=b, h=h, w=w),
            loss=commitment,
            before=rearrange(z, "b h w d -> b d h w"),
        )

    def lookup(self, codes: Int[Tensor, "b h w"]) -> Float[Tensor, "b d h w"]:
        """The rows of the codebook these codes name."""
        rows: Tensor = rearrange(F.embedding(codes.long(), self.codebook), "b h w d -> b d h w")
        return rows

    @torch.no_grad()
    def count(self, vectors: Float[Tensor, "n d"], codes: Int[Tensor, " n"]) -> None:
        """Add vectors to the statistics of this optimizer step, and draw this process's share of candidates."""
        sums, drawn, counts = self._pending_views()
        before, n = counts.sum(dtype=torch.float64), len(vectors)
        sums.index_add_(0, codes, vectors)
        counts += torch.bincount(codes, minlength=self.rows)
        world, rank = (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)
        first, last = self.rows * rank // world, self.rows * (rank + 1) // world
        slots = torch.arange(first, last, device=vectors.device, dtype=torch.float64)
        jitter = (slots * _GOLDEN + self.steps * _PLASTIC).frac()
        picks = (slots - first + jitter) * (n / max(1, last - first))
        fresh = vectors[picks.long().clamp_(max=n - 1)]
        newer = (slots * _PLASTIC + (self.steps + before) * _GOLDEN).frac() * (before + n) < n  # a reservoir
        drawn[first:last] = torch.where(newer[:, None], fresh, drawn[first:last])

    @torch.no_grad()
    def follow(self, seed: int, *, revive: bool = True) -> None:
        """Move the codebook towards what was counted since the last call; once per optimizer step, on all processes.

        One all-reduce (the one place where a model talks to other processes: the codebook is shared state, and no
        gradient carries it). Rows that hardly anybody used take the place of an encoder output drawn from all
        processes, with their sums and counts. A step with anything not finite in it changes nothing.

        Args:
            seed: of (run seed, "revive", step); the same on all processes.
            revive: False keeps dead rows as they are, for the last part of training.
        """
        if dist.is_initialized() and dist.get_world_size() > 1:
            dist.all_reduce(self.pending)
        self.revived.zero_()
        sums, drawn, counts = self._pending_views()
        finite = torch.isfinite(self.pending.sum())
        self.pending.masked_fill_(~finite, 0.0)  # so nothing is dead either: no count is below a mean of 0
        weight = torch.where(finite, 1 - self.settings.decay, 0.0)
        self.ema_counts.lerp_(counts, weight)
        self.ema_sums.lerp_(sums, weight)
        fresh = self.place(self.ema_sums / self.ema_counts.clamp(min=1e-6)[:, None])
        moves = finite & (self.ema_counts > 1e-6)
        self.codebook.copy_(torch.where(moves[:, None], fresh, self.codebook))
        if revive:
            self._revive(drawn, self.settings.dead_below * counts.mean(), seed)
        self.steps += 1
        self.forget()

    def forget(self) -> None:
        """Drop what was counted since the last `follow`."""
        self.pending.zero_()

    def _revive(self, drawn: Tensor, threshold: Tensor, seed: int) -> None:
        """Dead rows become drawn vectors. Without fresh sums and counts they would be pulled back and die again."""
        order = torch.randperm(self.rows, generator=torch.Generator().manual_seed(seed)).to(drawn.device)
        dead = self.ema_counts < threshold
        self.revived.copy_(dead.sum())
        start = 2.0 * threshold  # light: a new row soon follows the vectors it attracts
        self.codebook.copy_(torch.where(dead[:, None], drawn[order], self.codebook))
        self.ema_counts.copy_(torch.where(dead, start, self.ema_counts))
        self.ema_sums.copy_(torch.where(dead[:, None], self.codebook * start, self.ema_sums))

    def _pending_views(self) -> tuple[Tensor, Tensor, Tensor]:
        size = self.rows * self.width
        sums, drawn = rearrange(self.pending[: 2 * size], "(two k d) -> two k d", two=2, k=self.rows)
        return sums, drawn, self.pending[2 * size :]


def rotate(vectors: Float[Tensor, "n d"], rows: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """The rows, reached from the vectors by a rotation and a scale that count as constants in the backward pass.

    Fifty et al. 2024, arXiv 2410.06424, equation 4: with unit v^, q^ and r = (v^ + q^) / |v^ + q^|,
    q = |q| / |v| (v - 2 r r'v + 2 q^ v^'v).
    """
    with torch.no_grad():
        v_unit, q_unit = F.normalize(vectors, dim=-1), F.normalize(rows, dim=-1)
        r = F.normalize(v_unit + q_unit, dim=-1)
        scale = rows.norm(dim=-1, keepdim=True) / vectors.norm(dim=-1, keepdim=True).clamp(min=1e-6)
    reflected = 2 * r * (vectors * r).sum(-1, keepdim=True)
    turned = 2 * q_unit * (vectors * v_unit).sum(-1, keepdim=True)
    rotated: Tensor = scale * (vectors - reflected + turned)
    return rotated
