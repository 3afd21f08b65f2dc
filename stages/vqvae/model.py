"""The autoencoder: one encoder and decoder, four systems by bottleneck and number of levels.

`none` is an autoencoder, `gaussian` a VAE, `vq` or `fsq` with one level a VQ-VAE, with two or more a VQ-VAE-2 (Razavi
et al. 2019, arXiv 1906.00446): each finer level is encoded knowing what the coarser ones already say. Every layer sees
a neighbourhood only, so any picture whose sides are multiples of the coarsest factor goes through.

Shapes: b batch, d code width, H W image, h w height and width of a level, k codebook rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from stages.vqvae.bottleneck import Bottleneck, Gaussian, make_bottleneck
from stages.vqvae.decoder import Decoder
from stages.vqvae.encoder import Encoder, width_at
from stages.vqvae.fsq import FiniteScalarQuantizer
from stages.vqvae.quantized import Quantized
from stages.vqvae.quantizer import VectorQuantizer
from stages.vqvae.settings import KINDS, CodebookSettings


@dataclass
class Reconstruction:
    """What one pass through the autoencoder gives."""

    images: Float[Tensor, "b 3 H W"]
    top_images: Float[Tensor, "some 3 H W"] | None
    """Decoded from level 0 alone, for every `top_every`-th image."""
    levels: list[Quantized]
    """Coarsest first."""


class Autoencoder(nn.Module):
    """Images in [-1, 1] to latents at several factors and back.

    Args:
        levels: downsampling factors, coarsest first, powers of two, each finer than the one before.
        bottleneck: `none`, `gaussian`, `vq` or `fsq`.
        codebook_sizes: rows per level (`vq`, `fsq`).
        code_widths: d per level; `fsq` has its own.
        channels: of the widest feature maps' finest level (half resolution).
        blocks: residual blocks per factor.
        codebook: distance, decay and gradient of `vq`; a mapping of `CodebookSettings`' fields.
    """

    def __init__(
        self,
        *,
        levels: Sequence[int] = (16, 8),
        bottleneck: str = "vq",
        codebook_sizes: Sequence[int] = (1024, 8192),
        code_widths: Sequence[int] = (8, 8),
        channels: int = 32,
        blocks: int = 2,
        codebook: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        check_levels(levels, bottleneck, codebook_sizes, code_widths)
        settings = CodebookSettings(**(codebook or {}))
        self.arguments: dict[str, Any] = {
            "levels": list(levels), "bottleneck": bottleneck, "codebook_sizes": list(codebook_sizes),
            "code_widths": list(code_widths), "channels": channels, "blocks": blocks, "codebook": asdict(settings),
        }  # fmt: skip
        self.levels, self.kind = tuple(levels), bottleneck
        rows = codebook_sizes if bottleneck in ("vq", "fsq") else [0] * len(levels)
        parts = [make_bottleneck(bottleneck, k, d, settings) for k, d in zip(rows, code_widths, strict=True)]
        self.widths = tuple(part.width for part in parts)
        self.bottlenecks = nn.ModuleList(parts)
        self.encoder = Encoder(self.levels, channels, blocks)
        self.decoder = Decoder(self.levels, channels, blocks, self.widths)
        per_code = 2 if bottleneck == "gaussian" else 1
        # beside its own features a finer level sees the canvas: what the coarser levels have said
        seen = [width_at(factor, channels) * (1 if i == 0 else 2) for i, factor in enumerate(levels)]
        self.to_code = nn.ModuleList(nn.Conv2d(c, per_code * d, 1) for c, d in zip(seen, self.widths, strict=True))
        self.absent = nn.ParameterList(nn.Parameter(torch.zeros(d, 1, 1)) for d in self.widths[1:])

    @property
    def parts(self) -> list[Bottleneck]:
        """The bottleneck of each level, coarsest first."""
        return cast(list[Bottleneck], list(self.bottlenecks))

    @property
    def reach(self) -> int:
        """Pixels to each side that a pixel of the reconstruction may depend on, at most."""
        return self.encoder.reach + self.decoder.reach + self.levels[0]

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """Rows per level; empty where there are no codes."""
        return tuple(p.rows for p in self.parts if isinstance(p, VectorQuantizer | FiniteScalarQuantizer))

    def forward(
        self, images: Float[Tensor, "b 3 H W"], *, noise: list[Tensor] | None = None, top_every: int = 0
    ) -> Reconstruction:
        """Encode, quantize, decode.

        Args:
            images: in [-1, 1], sides multiples of the coarsest factor.
            noise: standard normal (b, d, h, w) per level for `gaussian`; without it the mean is decoded.
            top_every: decode every so many images a second time from level 0 alone; 0 for none.
        """
        levels, canvas = self._encode(images, noise)
        last = len(levels) - 1
        canvas = self.decoder.grow(self.decoder.add(canvas, levels[last].latents, last), last)
        top = self.decode_latents([levels[0].latents[::top_every]]) if top_every else None
        return Reconstruction(self.decoder.paint(canvas), top, levels)

    def encode(self, images: Float[Tensor, "b 3 H W"]) -> list[Int[Tensor, "b _h _w"]]:
        """Codes per level, coarsest first. ValueError where the bottleneck has none."""
        codes = [level.codes for level in self._encode(images)[0]]
        if any(c is None for c in codes):
            raise ValueError(f"bottleneck '{self.kind}' has no codes; `latents` gives what it has.")
        return [c for c in codes if c is not None]

    def latents(self, images: Float[Tensor, "b 3 H W"]) -> list[Float[Tensor, "b _d _h _w"]]:
        """Latents before quantization per level, coarsest first, in the codebook's own space."""
        return [level.before for level in self._encode(images)[0]]

    def quantize(self, images: Float[Tensor, "b 3 H W"]) -> list[Quantized]:
        """Codes and latents of every level in one pass, coarsest first."""
        return self._encode(images)[0]

    def decode(self, codes: list[Int[Tensor, "b _h _w"]]) -> Float[Tensor, "b 3 H W"]:
        """Images in [-1, 1] from the codes of all levels, coarsest first; finer levels left out stay absent."""
        if not self.codebooks():
            raise ValueError(f"bottleneck '{self.kind}' has no codes to decode; `decode_latents` takes what it has.")
        return self.decode_latents([self.lookup(c, i) for i, c in enumerate(codes)])

    def lookup(self, codes: Int[Tensor, "b h w"], level: int) -> Float[Tensor, "b d h w"]:
        """The latents these codes of one level stand for."""
        rows: Tensor = rearrange(F.embedding(codes.long(), self.codebooks()[level]), "b h w d -> b d h w")
        return rows

    def decode_top(self, codes: Int[Tensor, "b h w"]) -> Float[Tensor, "b 3 H W"]:
        """The stand-alone coarse image of level 0."""
        return self.decode([codes])

    def decode_latents(self, latents: list[Float[Tensor, "b _d _h _w"]]) -> Float[Tensor, "b 3 H W"]:
        """Images in [-1, 1] from latents after the bottleneck; levels left out at the end are learned blanks."""
        canvas = None
        for i in range(len(self.levels)):
            if i < len(latents):
                level = latents[i]
            else:
                assert canvas is not None
                level = self.absent[i - 1].expand(len(canvas), -1, *canvas.shape[2:])
            canvas = self.decoder.grow(self.decoder.add(canvas, level, i), i)
        assert canvas is not None
        return self.decoder.paint(canvas)

    def codebooks(self) -> list[Float[Tensor, "_k _d"]]:
        """The rows of each level; empty where there are none."""
        return [p.codebook for p in self.parts if isinstance(p, VectorQuantizer | FiniteScalarQuantizer)]

    def follow(self, seed: int, *, revive: bool = True) -> dict[str, Tensor]:
        """Let the codebooks follow what was seen since the last call; once per optimizer step, on all processes.

        Args:
            seed: of (run seed, "revive", step), the same on all processes.
            revive: draw dead rows anew.

        Returns:
            `level<i>_revived`: rows drawn anew.
        """
        revived = {}
        for i, part in enumerate(self.parts):
            if isinstance(part, VectorQuantizer):
                part.follow(seed + i, revive=revive)
                revived[f"level{i}_revived"] = part.revived.clone()
        return revived

    def forget(self) -> None:
        """Drop what was seen since the last `follow`, before a step is tried again."""
        for part in self.parts:
            if isinstance(part, VectorQuantizer):
                part.forget()

    def _encode(self, images: Tensor, noise: list[Tensor] | None = None) -> tuple[list[Quantized], Tensor | None]:
        """All levels, and the canvas with all but the last of them on it."""
        images = images.contiguous(memory_format=torch.channels_last)
        levels: list[Quantized] = []
        canvas: Tensor | None = None
        for i, features in enumerate(self.encoder(images)):
            known = features if canvas is None else torch.cat([features, canvas], dim=1)
            part, z = self.parts[i], self.to_code[i](known)
            levels.append(part(z, noise[i]) if noise is not None and isinstance(part, Gaussian) else part(z))
            if i + 1 < len(self.levels):
                canvas = self.decoder.grow(self.decoder.add(canvas, levels[-1].latents, i), i)
        return levels, canvas


def check_levels(levels: Sequence[int], bottleneck: str, sizes: Sequence[int], widths: Sequence[int]) -> None:
    """ValueError, with what to write instead, unless these describe an autoencoder."""
    if bottleneck not in KINDS:
        raise ValueError(f"bottleneck is one of {', '.join(KINDS)}; got '{bottleneck}'.")
    powers = all(factor >= 2 and factor & (factor - 1) == 0 for factor in levels)
    if not levels or not powers or list(levels) != sorted(set(levels), reverse=True):
        raise ValueError(f"levels are falling powers of two such as [16, 8], coarsest first; got {list(levels)}.")
    if len(widths) != len(levels) or (bottleneck in ("vq", "fsq") and len(sizes) != len(levels)):
        raise ValueError(
            f"{len(levels)} levels need as many code_widths and codebook_sizes; got {list(widths)} and {list(sizes)}."
        )
