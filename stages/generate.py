"""A finished run as a painter: names and seeds in, pictures out. The command line, the report and evaluation use it.

    painter = Painter.load(Path("runs/birds"))
    images = painter(cls="owl", n=4, seed=7)

An image depends on its own seed and what was asked, never on the batch it was painted in.

Shapes: b images, h w a level's height and width.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from PIL import Image, ImageDraw
from torch import Tensor

from pipeline import artifacts
from pipeline.config import load_recipe
from pipeline.errors import ConfigError, MissingInputError
from stages.conditioning.condition import Conditions, class_condition
from stages.prior.load import load_prior
from stages.prior.model import Prior
from stages.prior.sampling import sample, with_defaults
from stages.prior.settings import SampleSettings
from stages.vqvae.images import tensor_to_picture
from stages.vqvae.load import load_autoencoder
from stages.vqvae.model import Autoencoder

BATCH = 64
MARGIN, LABEL_WIDTH = 2, 96


class Painter:
    """A tokenizer and a prior over its codes, ready to paint."""

    def __init__(self, autoencoder: Autoencoder, prior: Prior, about: dict[str, Any], device: torch.device) -> None:
        self.autoencoder, self.prior, self.device = autoencoder, prior, device
        self.classes: list[str] = list(about["classes"])
        self.image_size: int = about["image_size"]
        sampling = about["sampling"]
        self.settings = SampleSettings(**{**sampling, "steps": tuple(sampling["steps"])})  # JSON knows no tuples

    @classmethod
    def load(cls, run: Path, with_: str = "prior", device: str | torch.device | None = None) -> Painter:
        """Read a run folder.

        Args:
            run: `runs/<name>`.
            with_: the stage instance that paints: `prior` or `prior@<name>`.
            device: where to paint; a GPU where there is one.

        Raises:
            MissingInputError: the run has no such finished stage, or its tokenizer is not there.
            DataError: a file is damaged.
        """
        run = Path(run)
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        folder = run / with_ if (run / with_).is_dir() else _used(run).get(with_, run / with_)
        if not folder.is_dir():
            raise MissingInputError(
                f"{run} has no stage '{with_}' to paint with.\nTrain one:  tessera run RECIPE --until {with_}"
            )
        prior, about = load_prior(folder, place)
        autoencoder, _ = load_autoencoder(_tokenizer_of(run, about["tokenizer"]), place)
        return cls(autoencoder, prior, about, place)

    def __call__(  # what a user may ask for is one keyword each
        self, *, cls: int | str | None = None, n: int = 1, seed: int = 0, guidance: Any = None, **settings: Any
    ) -> list[Image.Image]:
        """Paint `n` pictures.

        Args:
            cls: a class by number or name; None paints whatever the data shows.
            n: how many.
            seed: of the first picture; the others count on.
            guidance: how strictly to follow the class; the recipe's default where None.
            settings: further fields of `SampleSettings`, such as `temperature` or `top_p`.

        Raises:
            ConfigError: no such class.
        """
        labels = torch.full((n,), self.number_of(cls))
        seeds = torch.arange(n) + seed
        changes = settings | ({} if guidance is None else {"guidance": guidance})
        return [Image.fromarray(picture) for picture in self.paint(labels, seeds, **changes)]

    def paint(self, labels: Int[Tensor, " b"], seeds: Int[Tensor, " b"], **changes: Any) -> np.ndarray:
        """One picture per label (-1: none) and seed: uint8 (b, height, width, 3)."""
        parts = zip(torch.split(labels, BATCH), torch.split(seeds, BATCH), strict=True)
        return np.concatenate([self._paint(some, their_seeds, changes) for some, their_seeds in parts])

    def codes(
        self, labels: Int[Tensor, " b"], seeds: Int[Tensor, " b"], **changes: Any
    ) -> list[Int[Tensor, "b _h _w"]]:
        """The codes `paint` decodes, coarsest first."""
        settings = with_defaults(self.settings, **changes)
        return sample(self.prior, self._conditions(labels.to(self.device)), seeds.to(self.device), settings)

    def number_of(self, cls: int | str | None) -> int:
        """A class's number; -1 for None."""
        if cls is None:
            return -1
        if isinstance(cls, str) and cls in self.classes:
            return self.classes.index(cls)
        if isinstance(cls, int) and 0 <= cls < len(self.classes):
            return cls
        known = ", ".join(self.classes) if self.classes else "none: this run was trained without labels"
        raise ConfigError(f"no class {cls!r}. Classes: {known}")

    @torch.no_grad()
    def _paint(self, labels: Tensor, seeds: Tensor, changes: dict[str, Any]) -> np.ndarray:
        return tensor_to_picture(self.autoencoder.decode(self.codes(labels, seeds, **changes)))

    def _conditions(self, labels: Tensor) -> Conditions:
        if "class" not in self.prior.arguments["conditions"]:
            return {}
        return {"class": class_condition(labels, len(self.classes))}


def paint_grid(rows: Sequence[Sequence[Image.Image]], labels: Sequence[str] | None = None) -> Image.Image:
    """Pictures of one size, row under row on white; `labels` names the rows."""
    if not rows or not rows[0]:
        raise ValueError("a grid needs at least one picture.")
    width, height = rows[0][0].size
    left = LABEL_WIDTH if labels else 0
    columns = max(len(row) for row in rows)
    sheet = Image.new("RGB", (left + columns * (width + MARGIN), len(rows) * (height + MARGIN)), "white")
    pen = ImageDraw.Draw(sheet)
    for r, row in enumerate(rows):
        if labels:
            pen.text((4, r * (height + MARGIN) + height // 2 - 6), labels[r][:16], fill="black")
        for c, picture in enumerate(row):
            sheet.paste(picture, (left + c * (width + MARGIN), r * (height + MARGIN)))
    return sheet


def _used(run: Path) -> dict[str, Path]:
    """The stages this run's recipe takes from other runs."""
    recipe = run / "recipe.yaml"
    return {name: Path(folder) for name, folder in load_recipe(recipe).use.items()} if recipe.is_file() else {}


def _tokenizer_of(run: Path, mark: str) -> Path:
    """The autoencoder whose codes the prior learned: of this run, or one that its recipe uses from elsewhere.

    Raises:
        ConfigError: there are finished ones, but none is it.
    """
    used = [folder for name, folder in _used(run).items() if name.partition("@")[0] == "vqvae"]
    found = [*used, run / "vqvae", *sorted(run.glob("vqvae@*"))]
    finished = [folder for folder in found if artifacts.is_finished(folder)]
    for folder in finished:
        if artifacts.fingerprint(folder) == mark:
            return folder
    if finished:
        raise ConfigError(
            f"{finished[0]} is another tokenizer than the one this prior learned the codes of ({mark[:12]}).\n"
            "Train the prior again with --redo codes, or put the matching tokenizer back."
        )
    return found[0]
