"""The prior: one transformer that learns the codes of images, coarse to fine, under any conditions.

All levels form one sequence, coarsest first. A code of a finer level carries the embedding of the coarse code above
it; with `fold` one token holds all fine codes of a coarse one. `masked` sees in both directions and fills hidden codes
of one level at a time (MaskGIT; Chang et al. 2022); `autoregressive` predicts code after code, level after
level: tokens in raster order, and the codes of a folded one in turn (`DepthHead`).

Shapes: b batch, n codes of one level (flattened in raster order), N codes of all levels, m tokens, s codes of a token,
e width of a code's part of it, w width, k codebook rows, a asked codes of the whole batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from stages.conditioning.condition import Conditions
from stages.conditioning.mixer import IMAGE, ConditionMixer
from stages.conditioning.source_codes import SourceCodes
from stages.prior.code_table import CodeTable, Looks
from stages.prior.depth_head import DepthHead
from stages.prior.fold import folds_of
from stages.prior.foretelling import Foretelling
from stages.prior.level_parts import EMBEDDING_STD, all_cells, embedding, make_head, make_unfold, of_codes
from stages.prior.transformer import Cache, Context, Guide, Transformer, rotary_table
from stages.prior.window import WindowPlan

KINDS = ("masked", "autoregressive")
Codes = list[Tensor]


@dataclass(frozen=True)
class Pass:
    """One way through the transformer: the codes shown, level by level, and what is asked about the last of them.

    A code equal to its codebook's size is hidden. `asked` (b, n) chooses codes of the last level; None asks for all.
    `foretold` asks too what the conditions say of the coarsest codes before any is seen.
    """

    codes: Codes
    conditions: Conditions
    kept: Mapping[str, Bool[Tensor, " b"]] = field(default_factory=dict)
    asked: Bool[Tensor, "b n"] | None = None
    foretold: bool = False


class Prior(nn.Module):
    """Transformer over the codes of all levels.

    Args:
        kind: `masked` or `autoregressive`.
        grids: height and width of every level, coarsest first; each a multiple of the one before.
        codebook_sizes: rows of every level's codebook.
        conditions: width of the features of each modality; empty for an unconditional model.
        width, depth, heads: of the transformer.
        dropout: on the residual branches.
        window: side of attention windows on the finest level, in its tokens; 0 attends in full. Masked only.
        fold: one token for all codes of a finer level under one of the level above.
        code_widths: of every level's codebook rows, where the model is to `know` what codes look like.
        attend: conditions whose tokens are read by cross-attention; the others are heard as one vector (and a source
            picture at every place). A class says everything in its vector.
        attend_every: every so many layers attend to them.
        condition_layers: transformer layers over those tokens before the model reads them.
        shared: conditions whose vectors lie in one space, that of a CLIP, and its width.
        foretells: the conditions as one vector are told to every place by itself too, and foretell the coarsest codes.

    Raises:
        ValueError: an unknown kind, grids that do not nest, windows with `autoregressive`, a width that does not split
            into the codes of a token.
    """

    def __init__(  # noqa: PLR0913 - a model receives plain arguments
        self,
        *,
        kind: str,
        grids: Sequence[Sequence[int]],
        codebook_sizes: Sequence[int],
        conditions: Mapping[str, int],
        width: int,
        depth: int,
        heads: int,
        dropout: float = 0.0,
        window: int = 0,
        fold: bool = False,
        code_widths: Sequence[int] = (),
        attend: Sequence[str] = (),
        attend_every: int = 1,
        condition_layers: int = 0,
        shared: Mapping[str, int] | None = None,
        foretells: bool = False,
    ) -> None:
        super().__init__()
        _check(kind, grids, codebook_sizes, window)
        self.arguments: dict[str, Any] = {
            "kind": kind, "grids": [list(grid) for grid in grids], "codebook_sizes": list(codebook_sizes),
            "conditions": dict(conditions), "width": width, "depth": depth, "heads": heads, "dropout": dropout,
            "window": window, "fold": fold, "code_widths": list(code_widths), "attend": list(attend),
            "attend_every": attend_every, "condition_layers": condition_layers, "shared": dict(shared or {}),
            "foretells": foretells,
        }  # fmt: skip
        self.kind, self.window = kind, window
        self.grids = [(int(h), int(w)) for h, w in grids]
        self.folds = folds_of(self.grids, fold=fold)
        self.codebook_sizes = list(codebook_sizes)
        self.mixer = ConditionMixer(
            width, conditions, attend=attend, source=self._source(width, attend) if IMAGE in conditions else None,
            layers=condition_layers, heads=heads, shared=shared,
        )  # fmt: skip
        self.trunk = Transformer(width, depth, heads, dropout=dropout, cross_every=attend_every if attend else 0)
        self._make_levels(width, code_widths, foretells=foretells and bool(conditions))
        self.by_adam = ("heads", *(["foretelling.head"] if self.foretelling is not None else []))
        """What Muon leaves to AdamW: a row of a head belongs to one code."""
        self.start = nn.Parameter(torch.randn(width) * EMBEDDING_STD) if kind == "autoregressive" else None
        self._remember_places(width // heads)
        self._check_window()

    def _source(self, width: int, attend: Sequence[str]) -> SourceCodes:
        parts = [one.part_width(width) for one in self.folds]
        return SourceCodes(self.grids, self.codebook_sizes, parts, width, with_tokens=IMAGE in attend)

    def _make_levels(self, width: int, code_widths: Sequence[int], *, foretells: bool) -> None:
        """Tables, places and heads of every level."""
        widths = zip(self.codebook_sizes, code_widths, strict=bool(code_widths))
        self.looks = nn.ModuleList(Looks(*one) for one in widths)
        looks: list[Any] = list(self.looks) or [None] * len(self.grids)
        levels = list(zip(self.codebook_sizes, looks, self.folds, strict=True))
        self.embeddings = nn.ModuleList(of_codes(size, one.part_width(width), look) for size, look, one in levels)
        self.above = nn.ModuleList(of_codes(size, width, look) for size, look, _ in levels[:-1])
        self.level_embedding = embedding(len(self.grids), width)
        self.row_embeddings = nn.ModuleList(embedding(one.tokens[0], width) for one in self.folds)
        self.column_embeddings = nn.ModuleList(embedding(one.tokens[1], width) for one in self.folds)
        self.unfold = nn.ModuleList(make_unfold(self.kind, width, one.slots, size, look) for size, look, one in levels)
        self.heads = nn.ModuleList(make_head(width, size, look) for size, look, _ in levels)
        self.foretelling = None
        if foretells:
            head = make_head(width, self.codebook_sizes[0], looks[0])
            self.foretelling = Foretelling(width, [one.tokens for one in self.folds], head)

    @torch.no_grad()
    def know(self, codebooks: Sequence[Float[Tensor, "_k _d"]]) -> None:
        """See what the codes of each level look like; it is kept with the weights."""
        for looks, codebook in zip(self.looks, codebooks, strict=True):
            assert isinstance(looks, Looks)
            looks.know(codebook)

    def settle(self) -> None:
        """Get ready to sample with weights that will not change: tables of codes are worked out once."""
        for module in self.modules():
            if isinstance(module, CodeTable):
                module.settle()

    def forward(self, passes: Sequence[Pass]) -> list[Tensor]:
        """Logits for training, in one call so that data-parallel training synchronises once.

        Returns:
            `masked`: per pass the logits (a, k) of the codes it asks for. `autoregressive`: for each level of each
            pass, logits (b, n, k). Behind those of a pass what is `foretold` (b, n, k) of the coarsest level.
        """
        logits: list[Tensor] = []
        for one in passes:
            guide = self.guide(one.conditions, one.kept, one.codes[0].shape[0])
            logits += (
                [self.hidden_logits(one.codes, guide, one.asked)]
                if self.kind == "masked"
                else (self.causal_logits(one.codes, guide))
            )
            if one.foretold and (foretold := self.foretold(guide)) is not None:
                logits.append(foretold)
        return logits

    def guide(self, conditions: Conditions, kept: Mapping[str, Tensor], rows: int) -> Guide:
        """The conditions of `rows` samples as every layer needs them."""
        mixed = self.mixer(conditions, kept, rows)
        told = [] if self.foretelling is None else [self.foretelling.projection(self.trunk.heard(mixed))]
        if self.mixer.source is not None:
            image = conditions.get(IMAGE) or self.mixer.no_image(rows)
            seen = self.mixer.source.in_place(image, self.mixer.has_image(image, kept))
            told.append(torch.cat([f.gather(x) for f, x in zip(self.folds, seen, strict=True)], dim=1))
        guide = self.trunk.guide(mixed)
        if not told:
            return guide
        in_place = torch.stack(told).sum(dim=0)
        if self.foretelling is None:
            return replace(guide, in_place=in_place)
        coarsest = in_place[:, : self.folds[0].count] + self._places(0, 0, self.folds[0].count)
        return replace(guide, in_place=in_place, foretold=F.layer_norm(coarsest, coarsest.shape[-1:]))

    def foretold(self, guide: Guide, cells: Any = slice(None)) -> Float[Tensor, "b ... k"] | None:
        """Logits of coarsest codes, `cells` of the level or all of it, from what the conditions say in place alone.

        None from a model that does not foretell.
        """
        if self.foretelling is None or guide.foretold is None:
            return None
        logits: Tensor = self.foretelling(guide.foretold[:, cells])
        return logits

    def _said(self, level: int, x: Float[Tensor, "... w"], guide: Guide, where: Any) -> Float[Tensor, "... k"]:
        """Logits of the codes `where` (an index of rows and codes) of a level."""
        logits: Tensor = self.heads[level](x).float()
        if level == 0 and self.foretelling is not None and guide.foretold is not None:
            logits = logits + self.foretelling.trusted(x, guide.foretold[where])
        return logits

    def hidden_logits(self, codes: Codes, guide: Guide, asked: Tensor | None = None) -> Tensor:
        """Logits of the last level shown, looking in both directions.

        Args:
            codes: int64 (b, n) per level shown; a code equal to the codebook's size is hidden.
            asked: bool (b, n) gives logits (a, k); int64 (a,), the same codes in every row, (b, a, k); None (b, n, k).
        """
        last = len(codes) - 1
        x = torch.cat([self._tokens(codes, level, guide) for level in range(last + 1)], dim=1)
        context = Context(guide, self.rotary[: x.shape[1]], plan=self._plan(last))
        x = self.trunk(x, context)[:, -self.folds[last].count :]
        x = self.folds[last].spread(self.unfold[last](x))
        where: Any = slice(None)
        if asked is not None:
            where = asked if asked.dtype == torch.bool else (slice(None), asked)
        return self._said(last, x[where], guide, where)

    def causal_logits(self, codes: Codes, guide: Guide) -> list[Float[Tensor, "b _n _k"]]:
        """Logits of every level, each code seeing only those before it.

        Levels may stop early; the last in part, where it is not folded.
        """
        tokens = [self._of_tokens(c, level) for level, c in enumerate(codes)]
        x = torch.cat(
            [self.causal_inputs(codes, level, 0, one.shape[1], guide) for level, one in enumerate(tokens)], dim=1
        )
        x = self.trunk(x, Context(guide, self.rotary[: x.shape[1]], causal=True))
        logits = []
        for level, part in enumerate(x.split([one.shape[1] for one in tokens], dim=1)):
            unfold, vectors = self.unfold[level], part
            if isinstance(unfold, DepthHead):
                of_codes = rearrange(unfold(part, tokens[level]), "b m s w -> b m (s w)")
                vectors = self.folds[level].spread(of_codes)
            logits.append(self._said(level, vectors, guide, (slice(None), slice(vectors.shape[1]))))
        return logits

    def next_token(
        self, codes: Codes, level: int, token: int, guide: Guide, caches: list[Cache]
    ) -> Float[Tensor, "b 1 s w"]:
        """What the trunk says of the codes of one token, given the caches of all before it; adds itself to them."""
        x = self.causal_inputs(codes, level, token, token + 1, guide)
        at = self.first[level] + token
        x = self.trunk(x, Context(guide, self.rotary[at : at + 1], causal=True, start=at), caches)
        unfold = self.unfold[level]
        return unfold.apart(x) if isinstance(unfold, DepthHead) else x[:, :, None]

    def next_logits(
        self, said: Float[Tensor, "b 1 s w"], level: int, known: Int[Tensor, "b 1 _k"], guide: Guide, token: int
    ) -> Float[Tensor, "b k"]:
        """Logits of the next code of a token, those of it that are known given."""
        unfold = self.unfold[level]
        x = unfold.next(said, known) if isinstance(unfold, DepthHead) else said[:, :, 0]
        return self._said(level, x[:, 0], guide, (slice(None), token))

    def caches(self) -> list[Cache]:
        """Empty caches for one run over the whole sequence."""
        return [Cache(sum(one.count for one in self.folds)) for _ in range(self.trunk.depth)]

    def causal_inputs(self, codes: Codes, level: int, begin: int, end: int, guide: Guide) -> Float[Tensor, "b m w"]:
        """Inputs of tokens [begin, end) of a level: the token before each, its own place and the code above it."""
        rows = codes[0].shape[0]
        if begin:
            before = self._embedded(codes, level, begin - 1, end - 1)
        else:
            assert self.start is not None
            last = self.folds[level - 1].count if level else 0
            first = self._embedded(codes, level - 1, last - 1, last) if level else self.start.expand(rows, 1, -1)
            before = torch.cat([first, self._embedded(codes, level, 0, end - 1)], dim=1)
        return self._placed(before, codes, level, begin, end, guide)

    def codes_of(self, level: int) -> Int[Tensor, "m s"]:
        """For every token of a level the places of its codes in raster order."""
        return self.get_buffer(f"codes{level}")

    def _of_tokens(self, codes: Int[Tensor, "b n"], level: int) -> Int[Tensor, "b m s"]:
        """The codes of a level token by token; of one that is not folded perhaps only its first codes."""
        return codes[:, self.codes_of(level)[: codes.shape[1]]]

    def _embedded(self, codes: Codes, level: int, begin: int, end: int) -> Float[Tensor, "b m w"]:
        """The embeddings of tokens [begin, end) of a level."""
        parts = self.embeddings[level](codes[level][:, self.codes_of(level)[begin:end]])
        together: Tensor = rearrange(parts, "b m s e -> b m (s e)")
        return together

    def _tokens(self, codes: Codes, level: int, guide: Guide) -> Float[Tensor, "b n w"]:
        count = self.folds[level].count
        return self._placed(self._embedded(codes, level, 0, count), codes, level, 0, count, guide)

    def _placed(self, x: Tensor, codes: Codes, level: int, begin: int, end: int, guide: Guide) -> Tensor:
        """Add the place of tokens [begin, end) of a level, the code above each and what the conditions say there."""
        x = x + self._places(level, begin, end)
        if guide.in_place is not None:
            x = x + guide.in_place[:, self.first[level] + begin : self.first[level] + end]
        if level:
            x = x + self.above[level - 1](codes[level - 1][:, self._parents(level)[begin:end]])
        return x

    def _places(self, level: int, begin: int, end: int) -> Float[Tensor, "m w"]:
        """Embeddings of the places [begin, end) of a level; only of the rows of the grid that hold them."""
        columns = self.folds[level].tokens[1]
        top, bottom = begin // columns, -(-end // columns)
        of_row, of_column = self.row_embeddings[level], self.column_embeddings[level]
        assert isinstance(of_row, nn.Embedding) and isinstance(of_column, nn.Embedding)
        grid = rearrange(of_row.weight[top:bottom], "r w -> r 1 w") + rearrange(of_column.weight, "c w -> 1 c w")
        cells = rearrange(grid, "r c w -> (r c) w")[begin - top * columns : end - top * columns]
        return cells + self.level_embedding.weight[level]

    def _check_window(self) -> None:
        """ValueError where the window does not fit the finest grid, or there is no level above it."""
        if self.window and len(self.grids) == 1:
            raise ValueError("window attends to the level above too, and there is one level alone: set it to 0.")
        self._plan(len(self.grids) - 1)

    def _plan(self, last: int) -> WindowPlan | None:
        if not self.window or last == 0 or last != len(self.grids) - 1:
            return None
        return WindowPlan(self.folds[last].tokens, self.folds[last - 1].tokens, self.first[last], self.window)

    def _parents(self, level: int) -> Int[Tensor, " n"]:
        return self.get_buffer(f"parents{level}")

    def _remember_places(self, head_width: int) -> None:
        """Positions of all tokens in cells of the finest grid, and for each token the code above it."""
        self.sizes = [h * w for h, w in self.grids]
        places = [one.tokens for one in self.folds]
        self.first = [sum(h * w for h, w in places[:level]) for level in range(len(places))]
        finest = torch.tensor(self.grids[-1])
        positions = [(all_cells(h, w) + 0.5) * finest / torch.tensor([h, w]) for h, w in places]
        self.register_buffer("rotary", rotary_table(torch.cat(positions), head_width), persistent=False)
        for level, one in enumerate(self.folds):
            self.register_buffer(f"codes{level}", one.places(), persistent=False)
        for level in range(1, len(self.grids)):
            (h, w), (above_h, above_w) = places[level], self.grids[level - 1]
            cells = all_cells(h, w) // torch.tensor([h // above_h, w // above_w])
            self.register_buffer(f"parents{level}", cells[:, 0] * above_w + cells[:, 1], persistent=False)

    rotary: Tensor


def _check(kind: str, grids: Sequence[Sequence[int]], codebook_sizes: Sequence[int], window: int) -> None:
    if kind not in KINDS:
        raise ValueError(f"kind is 'masked' or 'autoregressive'; got '{kind}'.")
    if len(grids) != len(codebook_sizes):
        raise ValueError(f"one codebook size per level: {len(grids)} grids, {len(codebook_sizes)} sizes.")
    for coarse, fine in itertools.pairwise(grids):
        if fine[0] % coarse[0] or fine[1] % coarse[1]:
            raise ValueError(f"a finer grid must be a multiple of the coarser one; got {coarse} and {fine}.")
    if window and kind != "masked":
        raise ValueError(
            "window is for kind 'masked'; the autoregressive prior attends to all codes before. Set window: 0."
        )
