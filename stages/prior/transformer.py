"""The transformer under both kinds of prior: one sequence over all levels, positions in two dimensions.

Rotary positions in 2-D (axial RoPE; Heo et al. 2024, arXiv 2403.13298), normalised queries and keys (Dehghani et al.
2023), SwiGLU (Shazeer 2020), modulation by the pooled condition (adaLN; Peebles & Xie 2023), cross-attention on the
condition's tokens where a model has any.

Shapes: b batch, n tokens of the sequence, w width, h heads, d width of a head, t condition tokens, p positions, c
codes of the coarsest level.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from stages.conditioning.mixer import Mixed
from stages.prior.window import WindowPlan, windowed_attention


def rotary_table(positions: Float[Tensor, "p 2"], head_width: int, theta: float = 100.0) -> Float[Tensor, "p r 2"]:
    """Cosines and sines of r = d/2 angles for tokens at (y, x): half of them turn with y, the others with x.

    Args:
        positions: in cells of the finest grid, so tokens of different levels share one plane.
        head_width: d, a multiple of 4.
    """
    pairs = head_width // 4
    rates = theta ** (-torch.arange(pairs, dtype=torch.float32, device=positions.device) / pairs)
    angles = rearrange(positions[:, :, None] * rates, "p a r -> p (a r)")
    return torch.stack([angles.cos(), angles.sin()], dim=-1)


def rotate(x: Float[Tensor, "b h n d"], table: Float[Tensor, "n r 2"]) -> Float[Tensor, "b h n d"]:
    """Turn every pair (2i, 2i + 1) of a head by its token's angle; one complex product, not four real ones."""
    pairs = torch.view_as_complex(rearrange(x.float(), "b h n (r c) -> b h n r c", c=2).contiguous())
    return rearrange(torch.view_as_real(pairs * torch.view_as_complex(table.float())), "b h n r c -> b h n (r c)")


class Cache:
    """Keys and values of one layer for every position of a sequence; allocated once, filled from the left."""

    def __init__(self, positions: int) -> None:
        self.positions = positions
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def append(self, keys: Tensor, values: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """Write at `start`; return views (b, h, p, d) of everything up to there."""
        if self.keys is None or self.values is None:
            rows, heads, _, width = keys.shape
            self.keys = keys.new_zeros(rows, heads, self.positions, width)
            self.values = torch.zeros_like(self.keys)
        end = start + keys.shape[2]
        self.keys[:, :, start:end] = keys
        self.values[:, :, start:end] = values
        return self.keys[:, :, :end], self.values[:, :, :end]


@dataclass(frozen=True)
class Guide:
    """What the condition says to every layer; a sampler makes it once for all its steps."""

    modulations: list[Float[Tensor, "b _"]]
    memories: list[tuple[Tensor, Tensor] | None]
    """Per block; None where it does not attend to the conditions."""
    mask: Bool[Tensor, "b t"]
    in_place: Float[Tensor, "b n w"] | None = None
    """What the conditions say, and a source picture shows, at the place of every token."""
    foretold: Float[Tensor, "b c w"] | None = None
    """By that alone, a vector for each of the coarsest codes, in a model that foretells them."""


@dataclass(frozen=True)
class Context:
    """What every layer of one forward pass needs besides its input."""

    guide: Guide
    rotary: Float[Tensor, "n r 2"]
    causal: bool = False
    plan: WindowPlan | None = None
    start: int = 0


class SelfAttention(nn.Module):
    """Attention within the sequence: full, causal, in windows, or one token against a cache."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.query_norm = nn.LayerNorm(width // heads, bias=False)
        self.key_norm = nn.LayerNorm(width // heads, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, context: Context, layer: int, cache: Cache | None) -> Tensor:
        q, k, v = rearrange(self.qkv(x), "b n (three h d) -> three b h n d", three=3, h=self.heads)
        q = rotate(self.query_norm(q), context.rotary).to(v.dtype)
        k = rotate(self.key_norm(k), context.rotary).to(v.dtype)
        if cache is not None:
            k, v = cache.append(k, v, context.start)
        if context.plan is not None:
            mixed = windowed_attention(q, k, v, context.plan, shifted=layer % 2 == 1)
        else:  # a single cached query sees everything before it: no mask
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=context.causal and q.shape[2] > 1)
        result: Tensor = self.out(rearrange(mixed, "b h n d -> b n (h d)"))
        return result


class CrossAttention(nn.Module):
    """Attention on the condition's tokens; without position, as a condition has its own order inside."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.query_norm = nn.LayerNorm(width // heads, bias=False)
        self.key_norm = nn.LayerNorm(width // heads, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def memory(self, tokens: Float[Tensor, "b t w"]) -> tuple[Tensor, Tensor]:
        """Keys and values of the condition's tokens."""
        k, v = rearrange(self.key_value(tokens), "b t (two h d) -> two b h t d", two=2, h=self.heads)
        return self.key_norm(k).to(v.dtype), v

    def forward(self, x: Tensor, memory: tuple[Tensor, Tensor], mask: Bool[Tensor, "b t"]) -> Tensor:
        k, v = memory
        q = self.query_norm(rearrange(self.query(self.norm(x)), "b n (h d) -> b h n d", h=self.heads)).to(v.dtype)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=rearrange(mask, "b t -> b 1 1 t"))
        result: Tensor = self.out(rearrange(mixed, "b h n d -> b n (h d)"))
        return result


class SwiGLU(nn.Module):
    """Gated feed-forward layer with 8/3 of the width inside, as many weights as a plain one of 4."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = max(32, round(width * 8 / 3 / 32) * 32)
        self.up = nn.Linear(width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.up(x).chunk(2, dim=-1)
        result: Tensor = self.down(F.silu(gate) * value)
        return result


class Block(nn.Module):
    """Self-attention, cross-attention where asked for, feed-forward; each scaled and shifted by the condition."""

    def __init__(self, width: int, heads: int, *, dropout: float, cross_attention: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.attention = SelfAttention(width, heads)
        self.cross = CrossAttention(width, heads) if cross_attention else None
        self.feed_forward = SwiGLU(width)
        self.modulation = nn.Linear(width, 6 * width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, context: Context, layer: int, cache: Cache | None = None) -> Tensor:
        modulation = context.guide.modulations[layer]
        scale_a, shift_a, gate_a, scale_f, shift_f, gate_f = modulation[:, None].chunk(6, dim=-1)
        h = self.norm(x) * (1 + scale_a) + shift_a
        x = x + self.dropout(self.attention(h, context, layer, cache)) * (1 + gate_a)
        if (memory := context.guide.memories[layer]) is not None and self.cross is not None:
            x = x + self.cross(x, memory, context.guide.mask)
        h = self.norm(x) * (1 + scale_f) + shift_f
        x = x + self.dropout(self.feed_forward(h)) * (1 + gate_f)
        return x


class Transformer(nn.Module):
    """A stack of blocks with a modulated norm at the end.

    Args:
        cross_every: every so many blocks attend to the conditions' tokens, the last of each so many; 0: none does.

    Raises:
        ValueError: the width does not split into heads of a multiple of 4.
    """

    def __init__(self, width: int, depth: int, heads: int, *, dropout: float, cross_every: int) -> None:
        super().__init__()
        if width % (4 * heads):
            raise ValueError(f"width must be a multiple of 4 x heads = {4 * heads}; got {width}.")
        self.width, self.depth, self.heads = width, depth, heads
        self.blocks = nn.ModuleList(
            Block(width, heads, dropout=dropout, cross_attention=bool(cross_every) and (layer + 1) % cross_every == 0)
            for layer in range(depth)
        )
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(width, 2 * width)
        self.condition_norm = nn.LayerNorm(width)  # conditions come at any scale
        self._initialise()

    def heard(self, mixed: Mixed) -> Float[Tensor, "b w"]:
        """The conditions as one vector of a size that is known."""
        return F.silu(self.condition_norm(mixed.pooled))

    def guide(self, mixed: Mixed) -> Guide:
        """Scales, shifts and gates of every block and of the last norm; keys and values of the condition's tokens."""
        pooled = self.heard(mixed)
        blocks = [block for block in self.blocks if isinstance(block, Block)]
        modulations = [*(block.modulation(pooled) for block in blocks), self.modulation(pooled)]
        memories = [block.cross.memory(mixed.tokens) if block.cross is not None else None for block in blocks]
        return Guide(modulations, memories, mixed.mask)

    def forward(
        self, x: Float[Tensor, "b n w"], context: Context, caches: list[Cache] | None = None
    ) -> Float[Tensor, "b n w"]:
        for layer, block in enumerate(self.blocks):
            x = block(x, context, layer, caches[layer] if caches else None)
        scale, shift = context.guide.modulations[-1][:, None].chunk(2, dim=-1)
        result: Tensor = self.norm(x) * (1 + scale) + shift
        return result

    def _initialise(self) -> None:
        """Unit variance through every matrix, less on the residual branches, a small say for the condition."""
        for name, parameter in self.named_parameters():
            if parameter.ndim < 2:
                continue
            residual = name.endswith(("out.weight", "down.weight"))
            share = 0.1 if "modulation" in name else (8 * self.depth) ** -0.5 if residual else 1.0
            nn.init.normal_(parameter, std=share * self.width**-0.5)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
