"""Bring every condition to the model's width, put a learned null where one is absent or dropped, refine the tokens.

Shapes: b batch, t tokens of one modality, n tokens of all modalities, d width of a modality, w width of the model.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from stages.conditioning.condition import Condition, Conditions
from stages.conditioning.source_codes import SourceCodes, image_condition

IMAGE = "image"


@dataclass(frozen=True)
class Mixed:
    """All conditions of a batch: tokens (b, n, w), all as one vector (b, w), mask (b, n)."""

    tokens: Float[Tensor, "b n w"]
    pooled: Float[Tensor, "b w"]
    mask: Bool[Tensor, "b n"]


class _Modality(nn.Module):
    """Projections, embedding and nulls of one modality; those of its tokens only where a model reads tokens.

    Args:
        dim, width: d and w.
        with_tokens: read its tokens.
        encoded: what an encoder says, at any loudness and around any mean; a class is one-hot and has neither.
        shared: width of the space its pooled vector shares with others, whose projection it goes through; 0: its own.
    """

    mean: Tensor

    def __init__(self, dim: int, width: int, *, with_tokens: bool, encoded: bool, shared: int) -> None:
        super().__init__()
        self.dim, self.encoded, self.heard = dim, encoded, shared or dim
        self.register_buffer("mean", torch.zeros(self.heard))
        self.pooled = None if shared else nn.Linear(dim, width)
        self.null_pooled = nn.Parameter(torch.randn(width) * 0.02)
        self.token = nn.Linear(dim, width) if with_tokens else None
        if with_tokens:
            self.embedding = nn.Parameter(torch.randn(width) * 0.02)
            self.null_token = nn.Parameter(torch.randn(width) * 0.02)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        state_dict.setdefault(f"{prefix}mean", self.mean)  # models saved before there was one took nothing away
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def normed(self, x: Tensor) -> Tensor:
        """Without its loudness, where an encoder says it."""
        return F.layer_norm(x, x.shape[-1:]) if self.encoded else x

    def vectors(self, condition: Condition) -> Tensor:
        """The pooled vectors as the projection takes them: (b, d), or of the shared space's width."""
        return self.normed(self.normed(condition.pooled[:, : self.heard]) - self.mean)

    def forward(self, condition: Condition, here: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens, pooled vector and mask; in a shared space of the pooled vector only the null of absent rows."""
        told = self.null_pooled.new_zeros(()) if self.pooled is None else self.pooled(self.vectors(condition))
        pooled = torch.where(here[:, None], told, self.null_pooled)
        if self.token is None:
            return pooled[:, None][:, :0], pooled, condition.mask[:, :0]
        tokens = (
            torch.where(here[:, None, None], self.token(self.normed(condition.tokens)), self.null_token)
            + self.embedding
        )
        first = torch.arange(tokens.shape[1], device=tokens.device) == 0
        return tokens, pooled, torch.where(here[:, None], condition.mask, first)  # the null is one token


class _Refiner(nn.Module):
    """Transformer layers over the tokens of all encoders, trained with the model while the encoders stay frozen.

    A causal text encoder (CLIP) does not know at a word what comes after it: in "a red bird left of a blue one" the
    tokens of "red bird" cannot say where it is. Looking both ways does (the token refiner of HunyuanVideo; Kong et al.
    2024, arXiv 2412.03603). Tokens keep what positions their encoders gave them.
    """

    def __init__(self, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Layer(width, heads, share=(8 * layers) ** -0.5) for _ in range(layers))

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        for layer in self.layers:
            tokens = layer(tokens, mask)
        return tokens


class _Layer(nn.Module):
    """Attention within the tokens that are there, then a feed-forward layer; `share` scales both at the start."""

    def __init__(self, width: int, heads: int, share: float) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.feed_forward_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width, bias=False)
        for layer, scale in ((self.qkv, 1.0), (self.out, share), (self.up, 1.0), (self.down, share)):
            nn.init.normal_(layer.weight, std=scale * layer.in_features**-0.5)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = rearrange(self.qkv(self.attention_norm(x)), "b n (three h d) -> three b h n d", three=3, h=self.heads)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=rearrange(mask, "b n -> b 1 1 n"))
        x = x + self.out(rearrange(mixed, "b h n d -> b n (h d)"))
        result: Tensor = x + self.down(F.gelu(self.up(self.feed_forward_norm(x))))
        return result


def _absent(rows: int, dim: int, device: torch.device) -> Condition:
    """A condition no row has: every parameter still takes part, as data-parallel training asks."""
    pooled = torch.zeros(rows, dim, device=device)
    return Condition(rearrange(pooled, "b d -> b 1 d"), pooled, pooled[:, :1].bool())


class ConditionMixer(nn.Module):
    """Conditions of any modalities -> one token sequence and one vector of the model's width.

    Args:
        width: w.
        modalities: width of the features of each modality. May be empty: an unconditional model.
        source: embeds the codes of a source picture, where `image` is among the modalities.
        layers, heads: of a transformer over the tokens of the encoders, where the model reads tokens.
        attend: modalities whose tokens are read, all of them where not given; no weights for those that nothing reads.
        shared: modalities whose pooled vectors lie in one space, that of a CLIP, and the width of it: one projection
            serves them all, so that what sentences teach sounds know too.
    """

    anchor: Tensor

    def __init__(
        self,
        width: int,
        modalities: Mapping[str, int],
        *,
        source: SourceCodes | None = None,
        layers: int = 0,
        heads: int = 1,
        attend: Collection[str] | None = None,
        shared: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        self.width = width
        shared = shared or {}
        read = [name for name in modalities if attend is None or name in attend]
        self.register_buffer("anchor", torch.zeros(0), persistent=False)  # knows the device when nothing else does
        self.modalities = nn.ModuleDict(
            {
                name: _Modality(
                    dim, width, with_tokens=name in read, encoded=name != "class", shared=shared.get(name, 0)
                )
                for name, dim in sorted(modalities.items())
                if name != IMAGE
            }
        )
        self.source = source
        self.space = nn.Linear(next(iter(shared.values())), width) if shared else None
        self.refiner = _Refiner(width, layers, heads) if layers and set(read) - {IMAGE} else None

    def forward(self, conditions: Conditions, kept: Mapping[str, Tensor], rows: int) -> Mixed:
        """Mix the conditions of `rows` samples.

        Args:
            conditions: any of the modalities; one that is missing counts as absent in every row.
            kept: bool (b,) per modality, False where the condition is dropped; a missing name keeps all rows.
            rows: b, which an empty dict could not tell.

        Raises:
            ValueError: a modality this model was not built for.
        """
        if unknown := sorted(set(conditions) - set(self.known())):
            raise ValueError(
                f"no such condition in this model: {', '.join(unknown)}; it takes {self.names() or 'none'}"
            )
        given = {name: self._given(name, conditions.get(name), rows) for name in self.modalities}
        here = {name: one.present() & kept.get(name, one.present()) for name, one in given.items()}
        parts = [self._modality(name)(one, here[name]) for name, one in given.items()]
        if self.space is not None:
            tokens, pooled, mask = parts[0]
            parts[0] = tokens, pooled + self._shared(self.space, given, here), mask
        if self.refiner is not None:
            tokens, pooled, mask = zip(*parts, strict=True)
            together = torch.cat(mask, dim=1)
            refined = self.refiner(torch.cat(tokens, dim=1), together)
            parts = [(refined, torch.stack(pooled).sum(dim=0), together)]
        if self.source is not None:
            image = conditions.get(IMAGE) or self.no_image(rows)
            parts.append(self.source(image, self.has_image(image, kept)))
        if not parts:
            return self._nothing(rows)
        tokens, pooled, mask = zip(*parts, strict=True)
        return Mixed(torch.cat(tokens, dim=1), torch.stack(pooled).sum(dim=0), torch.cat(mask, dim=1))

    @torch.no_grad()
    def centre(self, batches: Iterable[Conditions], enough: int) -> None:
        """Remember the mean vector of each encoder over `enough` samples, to be taken away from its vectors.

        Vectors of a CLIP lie in a narrow cone, those of each modality in another (Liang et al. 2022, arXiv 2203.02053,
        section 2): without their mean, what is left says more of the sample and lies where the others' does.
        """
        heard = {name: one for name, one in self.modalities.items() if isinstance(one, _Modality) and one.encoded}
        sums, counts = {name: torch.zeros_like(one.mean) for name, one in heard.items()}, dict.fromkeys(heard, 0)
        for conditions in batches:
            for name, one in heard.items():
                here = conditions[name].present()
                counts[name] += int(here.sum())
                sums[name] += (
                    one.normed(conditions[name].pooled[here, : one.heard].float()).sum(dim=0).to(one.mean.device)
                )
            if all(count >= enough for count in counts.values()):
                break
        for name, one in heard.items():
            one.mean.copy_(sums[name] / max(1, counts[name]))

    def names(self) -> str:
        """The modalities as one line for a message."""
        return ", ".join(self.known())

    def known(self) -> list[str]:
        """The modalities this model listens to."""
        return [*self.modalities, *([IMAGE] if self.source is not None else [])]

    def has_image(self, image: Condition, kept: Mapping[str, Tensor]) -> Bool[Tensor, " b"]:
        """Rows whose source picture is there and was not dropped."""
        here = image.present()
        return here & kept[IMAGE] if IMAGE in kept else here

    def no_image(self, rows: int) -> Condition:
        """An image condition no row has."""
        assert self.source is not None
        codes = torch.zeros(rows, sum(self.source.sizes), dtype=torch.int64, device=self.anchor.device)
        return image_condition([codes], torch.zeros(rows, dtype=torch.bool, device=codes.device))

    def _given(self, name: str, condition: Condition | None, rows: int) -> Condition:
        return _absent(rows, self._modality(name).dim, self.anchor.device) if condition is None else condition

    def _modality(self, name: str) -> _Modality:
        modality = self.modalities[name]
        assert isinstance(modality, _Modality)
        return modality

    def _shared(self, space: nn.Linear, given: Conditions, here: Mapping[str, Tensor]) -> Float[Tensor, "b w"]:
        """One vector for all that lies in the shared space: two that say the same say it as loud as one."""
        shared = [name for name in given if self._modality(name).pooled is None]
        told = torch.stack([self._modality(name).vectors(given[name]) for name in shared])
        there = torch.stack([here[name] for name in shared])[:, :, None]
        together = F.layer_norm((told * there).sum(dim=0), told.shape[-1:])
        pooled: Tensor = space(together) * there.any(dim=0)
        return pooled

    def _nothing(self, rows: int) -> Mixed:
        pooled = torch.zeros(rows, self.width, device=self.anchor.device)
        return Mixed(rearrange(pooled, "b w -> b 1 w")[:, :0], pooled, pooled[:, :0].bool())
