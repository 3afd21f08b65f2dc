"""A finished run as a painter: names, words, sounds, pictures and seeds in, pictures out.

The command line, the report and evaluation use it.

    painter = Painter.load(Path("runs/birds"))
    images = painter(cls="owl", n=4, seed=7)
    images = painter(text="a small bird with black wings", audio="call.wav", n=4)

An image depends on its own seed and what was asked, never on the batch it was painted in.

Shapes: b images, h w a level's height and width.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Int
from PIL import Image
from torch import Tensor

from pipeline import artifacts
from pipeline.config import folders_of, used_folders
from pipeline.errors import ConfigError, MissingInputError
from pipeline.schema import did_you_mean
from stages.ask import Ask, Kept, Reader, number_of
from stages.codes.read_conditions import encoders_of
from stages.conditioning.condition import Condition, Conditions, choose_rows, class_condition, repeat_rows
from stages.conditioning.shared_space import NAMED, Space, own_align
from stages.conditioning.sounds import Sound
from stages.devices import place_of
from stages.given_files import Picture
from stages.images import tensor_to_picture
from stages.prior.load import load_prior
from stages.prior.model import Prior
from stages.prior.sampling import sample, with_defaults
from stages.prior.settings import SampleSettings
from stages.vqvae.load import load_autoencoder
from stages.vqvae.model import Autoencoder

log = logging.getLogger(__name__)
BATCH = 64
COMPARED = ("class", "text", "audio", "picture")
"""Conditions that may lie in one space with pictures; a class does by its name."""
CANDIDATE = 1 << 40
"""Candidates of one picture lie so many seeds apart: further than the seeds of any two pictures."""


class Painter:
    """A tokenizer and a prior over its codes, ready to paint."""

    def __init__(
        self,
        autoencoder: Autoencoder,
        prior: Prior,
        about: dict[str, Any],
        device: torch.device,
        align: Sequence[Path] = (),
    ) -> None:
        self.autoencoder, self.prior, self.device, self.align = autoencoder, prior, device, align
        self.classes: list[str] = list(about["classes"])
        self.image_size: int = about["image_size"]
        self.listens: list[str] = sorted(prior.arguments["conditions"])
        """The conditions it was trained on."""
        self.about: dict[str, Any] = about.get("encoders", {})
        self.settings = SampleSettings.of(about["sampling"])
        self._warned_of_opposites = False

    @classmethod
    def load(cls, run: Path, with_: str = "prior", device: str | torch.device | None = None) -> Painter:
        """Read a run folder.

        Args:
            run: `runs/<name>`.
            with_: the stage instance that paints: `prior` or `prior@<name>`.
            device: where to paint; a GPU where there is one.

        Raises:
            MissingInputError: the run has no such finished stage, or its tokenizer is not there.
            ConfigError: there is no such device.
            DataError: a file is damaged.
        """
        run = Path(run)
        place = place_of(device)
        folder = run / with_ if (run / with_).is_dir() else used_folders(run).get(with_, run / with_)
        if not folder.is_dir():
            painters = sorted(path.name for path in run.glob("prior*") if path.is_dir())
            raise MissingInputError(
                f"{run} has no stage '{with_}' to paint with.{did_you_mean(with_, painters) if painters else ''}\n"
                f"Train one:  tessera run RECIPE --until {with_ if with_.startswith('prior@') else 'prior'}"
            )
        if with_.partition("@")[0] != "prior":
            raise ConfigError(f"--with {with_}: a '{with_.partition('@')[0]}' does not paint. Name a prior.")
        prior, about = load_prior(folder, place)
        autoencoder, _ = load_autoencoder(_tokenizer_of(run, about["tokenizer"]), place)
        return cls(autoencoder, prior, about, place, _aligned(run))

    def __call__(  # what a user may ask for is one keyword each
        self,
        *,
        cls: int | str | None = None,
        text: str | None = None,
        audio: str | Path | Sound | None = None,
        image: Picture | None = None,
        n: int = 1,
        seed: int = 0,
        guidance: float | dict[str, float] | None = None,
        **more: Any,
    ) -> list[Image.Image]:
        """Paint `n` pictures of whatever is given, all of it together.

        Args:
            cls: a class by number or name.
            text: a sentence.
            audio: a sound file, or (float32 (channels, t), rate).
            image: a picture (a file, a PIL image, uint8 (h, w, 3)): a grey one to colour, a sketch to paint, one to
                paint more like, or what a mask keeps.
            n: how many.
            seed: of the first picture; the others count on.
            guidance: how strictly to obey: one number, or one per condition; the recipe's default where None.
            more: `as_`, `mask` and `negative` of an `Ask`; further fields of `SampleSettings`, such as `top_p`.

        Raises:
            ConfigError: no such class or file, or a condition this run was not trained on.
            DataError: a file that is no sound or no picture.
        """
        own = {name: more.pop(name) for name in ("as_", "mask", "negative") if name in more}
        ask = Ask(cls=cls, text=text, audio=audio, image=image, **own)
        changes = more | ({} if guidance is None else {"guidance": guidance})
        return [Image.fromarray(picture) for picture in self.fulfil(ask, torch.arange(n) + seed, **changes)]

    def fulfil(self, ask: Ask, seeds: Int[Tensor, " b"], **changes: Any) -> np.ndarray:
        """A picture per seed of what one ask wants: uint8 (b, height, width, 3)."""
        check_guidance(changes.get("guidance"), self.guided(ask))
        conditions = repeat_rows(self.reader.conditions([ask], self.listens), len(seeds))
        negative, kept = self.reader.negatives([ask], self.listens), self.reader.kept(ask)
        opposed = repeat_rows(self.opposed([ask.text], **changes), len(seeds))
        painted = self.paint_conditions(conditions, seeds, negative=negative, opposed=opposed, kept=kept, **changes)
        if kept is None:
            return painted
        mixed = kept.picture * kept.pixels + painted * (1 - kept.pixels)
        return np.asarray(mixed.round().astype(np.uint8))

    def opposed(self, texts: Sequence[str | None], **changes: Any) -> Conditions:
        """What `opposites` moves away from, a row per text; empty where the settings do not, or no text holds any."""
        if not with_defaults(self.settings, **changes).opposites or "text" not in self.listens:
            return {}
        if not self.reader.opposites and not self._warned_of_opposites:
            self._warned_of_opposites = True
            log.warning("sampling.opposites does nothing here: the texts are read by no 'align' that has opposites.")
        return self.reader.opposed(texts, self.listens)

    def paint(self, labels: Int[Tensor, " b"], seeds: Int[Tensor, " b"], **changes: Any) -> np.ndarray:
        """One picture per label (-1: none) and seed: uint8 (b, height, width, 3)."""
        return self.paint_conditions(self._class_conditions(labels), seeds, **changes)

    def paint_conditions(
        self,
        conditions: Conditions,
        seeds: Int[Tensor, " b"],
        *,
        negative: Conditions | None = None,
        opposed: Conditions | None = None,
        kept: Kept | None = None,
        **changes: Any,
    ) -> np.ndarray:
        """One picture per row of the conditions and seed: uint8 (b, height, width, 3).

        Args:
            negative: one row, which all of them move away from.
            opposed: a row for each, the texts with their opposites exchanged, which candidates are also held against.
            kept: codes that stay as they are in all of them.
            changes: fields of `SampleSettings`.
        """
        settings = with_defaults(self.settings, **changes)
        count = self.candidates(conditions, settings, chosen=changes.get("candidates") is not None)
        pictures = []
        for rows in torch.split(torch.arange(len(seeds)), max(1, BATCH // count)):
            several = rows.repeat_interleave(count)
            each = seeds[several] + CANDIDATE * (torch.arange(len(several)) % count)
            codes = sample(
                self.prior,
                choose_rows(conditions, several.to(self.device)),
                each.to(self.device),
                settings,
                negative=repeat_rows(negative or {}, len(several)),
                opposed=choose_rows(opposed or {}, several.to(self.device)),
                clamp=[c.expand(len(several), -1, -1) for c in kept.codes] if kept else None,
                clamp_mask=[w.expand(len(several), -1, -1) for w in kept.where] if kept else None,
            )
            painted = self._decoded(codes)
            if count > 1:
                asked, other = (choose_rows(one or {}, rows.to(self.device)) for one in (conditions, opposed))
                painted = self._nearest(painted, asked, other, settings)
            pictures.append(painted)
        return np.concatenate(pictures)

    def candidates(self, conditions: Collection[str], settings: SampleSettings, *, chosen: bool = False) -> int:
        """How many pictures to choose from: one where nothing asked for can be compared with a picture."""
        if settings.candidates == 1 or not any(name in COMPARED for name in conditions):
            return 1
        try:
            space = self.space
        except ConfigError as error:  # its CLIP is not where it was
            if chosen:
                raise
            log.warning("one candidate each: %s", str(error).splitlines()[0])
            return 1
        by_name = "class" in conditions and self._classes_are_words
        comparable = space is not None and (by_name or not space.names.isdisjoint(conditions))
        if chosen and not comparable:
            raise ConfigError(
                "candidates are compared in the space of a CLIP, and this run listens to none. Leave it out."
                if space is None
                else "candidates are compared in the space of a CLIP, and what is asked for lies elsewhere in this "
                "run: leave it out (sounds: or align them by a section 'align')."
            )
        return settings.candidates if comparable else 1

    def _nearest(
        self, painted: np.ndarray, conditions: Conditions, opposed: Conditions, settings: SampleSettings
    ) -> np.ndarray:
        """Of the candidates (b k, h, w, 3) the one of each row that is most like what it asks for."""
        assert self.space is not None
        weights = {n: settings.weight_of(n) for n in conditions} if isinstance(settings.guidance, dict) else None
        if (named := self._named(conditions)) is not None:
            conditions = {**conditions, NAMED: named}
            weights = weights and {**weights, NAMED: weights["class"]}
        pictures = rearrange(torch.from_numpy(painted), "n h w c -> n c h w")
        best = self.space.nearest(pictures, conditions, weights, opposed)
        chosen: np.ndarray = rearrange(painted, "(b k) h w c -> b k h w c", k=settings.candidates)
        return chosen[:, 0] if best is None else chosen[np.arange(len(chosen)), best.numpy()]

    def _named(self, conditions: Conditions) -> Condition | None:
        """The names of the classes asked for, as texts: beside a text they are obeyed too."""
        if "class" not in conditions or not self._classes_are_words:
            return None
        wanted = conditions["class"]
        said = self._class_names.map(lambda x: x[wanted.pooled.argmax(dim=1)])
        return replace(said, mask=said.mask & wanted.present()[:, None])

    @property
    def _classes_are_words(self) -> bool:
        """Whether the names of the classes say something in the space of the run's CLIP; numbers do not."""
        return self.space is not None and "text" in self.space.names and not all(map(str.isdecimal, self.classes))

    @cached_property
    def _class_names(self) -> Condition:
        """The name of every class, as a text."""
        names: Condition = self.reader.encoder("text")(self.classes)
        return names

    def codes(
        self, labels: Int[Tensor, " b"], seeds: Int[Tensor, " b"], **changes: Any
    ) -> list[Int[Tensor, "b _h _w"]]:
        """The codes `paint` decodes, coarsest first."""
        settings = with_defaults(self.settings, **changes)
        return sample(self.prior, self._class_conditions(labels), seeds.to(self.device), settings)

    @cached_property
    def reader(self) -> Reader:
        """What turns asks into conditions; encoders are loaded when first needed."""

        def load(name: str) -> Any:
            return encoders_of({name: self.about[name]}, self.align, self.device)[name]

        opposites = opposites_of(self.align, self.about)
        return Reader(self.autoencoder, self.image_size, self.classes, self.about, load, self.device, opposites)

    @cached_property
    def space(self) -> Space | None:
        """Where pictures and what is asked for lie side by side; loaded when first needed."""
        return Space.of(self.about, self.align, self.device)

    def number_of(self, cls: int | str | None) -> int:
        """A class's number; -1 for None; ConfigError lists the classes."""
        return number_of(cls, self.classes)

    def check(self, ask: Ask, candidates: int | None = None) -> None:
        """Read everything an ask names, as `fulfil` will; the same errors."""
        if candidates is not None:
            chosen = with_defaults(self.settings, candidates=candidates)
            self.candidates(self.reader.names([ask], self.listens), chosen, chosen=True)
        self.reader.conditions([ask], self.listens)
        self.reader.negatives([ask], self.listens)
        self.reader.kept(ask)

    def guided(self, ask: Ask) -> list[str]:
        """The conditions of an ask that guidance may give a weight; a negative text alone has that of a text."""
        names = ask.modalities
        return names if "text" in names or ask.negative is None else [*names, "text"]

    def source_of(self, condition: Condition, most: int) -> np.ndarray:
        """The source pictures behind the first conditions, as their codes keep them: uint8 (b, height, width, 3)."""
        flat = condition.tokens[:most, :, 0].long()
        levels = zip(torch.split(flat, self.prior.sizes, dim=1), self.prior.grids, strict=True)
        return self._decoded([rearrange(codes, "b (h w) -> b h w", h=h) for codes, (h, _) in levels])

    @torch.no_grad()
    def _decoded(self, codes: list[Tensor]) -> np.ndarray:
        return tensor_to_picture(self.autoencoder.decode(codes))

    def _class_conditions(self, labels: Tensor) -> Conditions:
        if "class" not in self.listens:
            return {}
        return {"class": class_condition(labels.to(self.device), len(self.classes))}


def check_guidance(wanted: float | dict[str, float] | None, given: Sequence[str]) -> None:
    """ConfigError where a weight is for a condition nobody gives."""
    if isinstance(wanted, dict) and (strange := sorted(set(wanted) - set(given))):
        asked = ", ".join(dict.fromkeys(given)) or "nothing"
        raise ConfigError(f"guidance for {strange[0]}, but what is asked for is {asked}.")


def _aligned(run: Path) -> list[Path]:
    """Where encoders of `align` may lie: in this run, or in one whose codes it uses; the fingerprint decides."""
    lending = [codes.resolve().parent for codes in folders_of(run, "codes") if codes.parent != run]
    return [folder for one in (run, *lending) for folder in folders_of(one, "align")]


def opposites_of(align: Sequence[Path], about: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """The pairs of words that the stage `align` behind the texts exchanged (`align.opposites`), by its manifest."""
    own = own_align(align, about) if about.get("text", {}).get("encoder") == "align" else None
    config = {} if own is None else artifacts.read_json(own / artifacts.MANIFEST).get("config", {})
    return tuple((str(one), str(other)) for one, other in config.get("opposites") or ())


def _tokenizer_of(run: Path, mark: str) -> Path:
    """The autoencoder whose codes the prior learned: of this run, or one that its recipe uses from elsewhere.

    Raises:
        ConfigError: there are finished ones, but none is it.
    """
    found = folders_of(run, "vqvae")
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
