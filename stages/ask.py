"""What a user asks for, as conditions: a class, a sentence, a sound, a picture, and any mix of them.

Files are read with one clear error each; what they mean is left to the run's encoders and its tokenizer.

Shapes: b rows, h w height and width, n codes of a level, s side of the run's pictures.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange, reduce
from jaxtyping import UInt8
from torch import Tensor

from pipeline.errors import ConfigError
from pipeline.schema import did_you_mean
from stages.conditioning.align.read import exchanged
from stages.conditioning.condition import PICTURE, Condition, Conditions, class_condition
from stages.conditioning.sounds import Sound
from stages.conditioning.source_codes import image_condition
from stages.conditioning.sources import as_sketch, grey, looks_drawn
from stages.given_files import Picture, like, read_picture, read_sound
from stages.images import picture_to_tensor
from stages.vqvae.model import Autoencoder

log = logging.getLogger(__name__)
MOST_CLASSES = 40
ALIKE = "alike"
LOOKS = ("grey", "sketch", "picture", ALIKE)
GREY_SPREAD = 8
"""Channels of a picture that differ by less than this everywhere, but for one pixel in a hundred, are grey."""


@dataclass(frozen=True)
class Ask:
    """One row of pictures: everything given is obeyed together."""

    cls: int | str | None = None
    text: str | None = None
    audio: str | Path | Sound | None = None
    image: Picture | None = None
    as_: str | None = None
    """How to take `image`: a grey, sketch or picture as a source, or `alike`, to paint more like it; by its look where
    None, and then as a source."""
    mask: Picture | None = None
    """White where `image` is to be painted anew; the rest stays."""
    negative: str | None = None
    """What not to paint."""

    def __post_init__(self) -> None:
        for name in ("text", "negative"):
            words = getattr(self, name)
            if words is not None and not words.strip():
                raise ConfigError(f"an empty {name} says nothing: leave it out, or write what to paint.")
            try:
                (words or "").encode()
            except UnicodeEncodeError as error:
                raise ConfigError(f"the {name} holds bytes that are no UTF-8: {words!a}.") from error
        if self.as_ is not None and self.as_ not in LOOKS:
            raise ConfigError(f"--as takes {', '.join(LOOKS)}; got '{self.as_}'.")
        if self.mask is not None and self.image is None:
            raise ConfigError("a mask needs a picture to paint in: give --image too.")
        if self.as_ is not None and self.image is None:
            raise ConfigError("--as says how to take a picture: give --image too.")
        if self.as_ is not None and self.mask is not None:
            raise ConfigError("--as and --mask do not go together: under a mask the picture itself is kept.")

    @property
    def modalities(self) -> list[str]:
        """The conditions it gives; a picture under a mask is kept, not obeyed."""
        given = {"class": self.cls, "text": self.text, "audio": self.audio}
        found = [name for name, value in given.items() if value is not None]
        return found + (["image"] if self.image is not None and self.mask is None else [])


@dataclass(frozen=True)
class Kept:
    """In-painting: codes to keep (b, h, w) and where, per level; the picture and where its pixels stay."""

    codes: list[Tensor]
    where: list[Tensor]
    picture: UInt8[np.ndarray, "s s 3"]
    pixels: np.ndarray
    """float32 (s, s, 1), 1 where the picture stays, soft at the border."""


@dataclass
class Reader:
    """Turns asks into conditions, for one run."""

    autoencoder: Autoencoder
    image_size: int
    classes: list[str]
    about: dict[str, dict[str, Any]]
    load: Callable[[str], Any]
    """The encoder of a modality, loaded when it is first needed: a class needs none."""
    device: torch.device
    opposites: tuple[tuple[str, str], ...] = ()
    """Words that the run's `align` learned to tell apart by exchanging them, such as left and right."""
    _encoders: dict[str, Any] = field(default_factory=dict)
    _warned: set[str] = field(default_factory=set)

    def encoder(self, name: str) -> Any:
        """The run's encoder of a modality: text, audio, vector or picture."""
        if name not in self._encoders:
            self._encoders[name] = self.load(name)
            if name == "text":
                self._encoders[name].warned = True  # `conditions` says of each text what is cut
        return self._encoders[name]

    def cut_off(self, text: str) -> str:
        """The end of a text that its encoder does not take."""
        return str(self.encoder("text").cut_off(text)) if "text" in self.about else ""

    def conditions(self, asks: Sequence[Ask], listens: Sequence[str]) -> Conditions:
        """Conditions of one row per ask.

        Args:
            asks: what to paint.
            listens: the modalities the model was trained on.

        Raises:
            ConfigError: a condition this run was not trained on, an unknown class.
            DataError: a file that is no sound or no picture.
        """
        wanted = self.names(asks, listens)
        if strange := sorted(wanted - set(listens)):
            hint = " Give --as alike too." if strange[0] == "image" and PICTURE in listens else ""
            hint = (
                hint
                if listens
                else "\nA section 'align: {}' makes it listen to captions and sounds; folders are classes."
            )
            raise ConfigError(
                f"this run was not trained on {strange[0]}: it listens to {', '.join(listens) or 'nothing'}.{hint}"
            )
        makers = {
            "class": self._classes, "text": self._texts, "audio": self._sounds, "image": self._images,
            "vector": self._vectors, PICTURE: self._pictures,
        }  # fmt: skip
        for ask in asks:
            for words in (ask.text, ask.negative):
                if words and words not in self._warned and (lost := self.cut_off(words)):
                    self._warned.add(words)
                    shown = f"{lost[:80]} ..." if len(lost) > 80 else lost
                    log.warning("the text is longer than its encoder takes; cut off: '%s'", shown)
        return {name: makers[name](asks) for name in sorted(wanted)}

    def names(self, asks: Sequence[Ask], listens: Sequence[str]) -> set[str]:
        """The conditions these asks come to; some perhaps that the run was not trained on."""
        wanted = {name for ask in asks for name in ask.modalities}
        if PICTURE in listens and any(self._likened(ask) for ask in asks):
            wanted = (wanted | {PICTURE}) - (set() if any(self._is_source(ask) for ask in asks) else {"image"})
        if "image" in wanted and "vector" in listens:  # one picture may say both what and where
            wanted = (wanted | {"vector"}) - ({"image"} - set(listens))
        return wanted

    def negatives(self, asks: Sequence[Ask], listens: Sequence[str]) -> Conditions:
        """What guidance moves away from; empty where nobody says."""
        if not any(ask.negative for ask in asks):
            return {}
        if "text" not in listens:
            raise ConfigError(
                f"a negative text needs a run trained on text; this one listens to {', '.join(listens) or 'nothing'}."
            )
        return {"text": self._texts([Ask(text=ask.negative) for ask in asks])}

    def opposed(self, texts: Sequence[str | None], listens: Sequence[str]) -> Conditions:
        """The texts with their opposites exchanged; empty where none holds any, or the run's `align` knows none."""
        if not self.opposites or "text" not in listens:
            return {}
        swapped = [exchanged(text, self.opposites) if text else None for text in texts]
        if all(one == text for one, text in zip(swapped, texts, strict=True) if one):
            return {}
        return {"text": self._some(swapped, self.encoder("text"))}

    def kept(self, ask: Ask) -> Kept | None:
        """What an ask with a mask keeps of its picture."""
        if ask.mask is None or ask.image is None:
            return None
        picture = read_picture(ask.image, self.image_size)
        mask = like(ask.mask, ask.image)
        fresh = read_picture(mask, self.image_size).mean(axis=2) >= 128
        if fresh.all() or not fresh.any():
            what, why = ("white", "nothing of the picture would stay") if fresh.all() else ("black", "nothing is new")
            mixed = mask.min() < 128 <= mask.max()
            raise ConfigError(
                f"the mask is all {what} ({why})"
                + (
                    f" in the centre square that is painted, at its {self.image_size} pixels: crop the picture around "
                    "what is meant, or mask more boldly."
                    if mixed
                    else ": paint white what is to be new."
                )
            )
        stays = torch.from_numpy(~fresh)
        where = [self._whole_cells(stays, factor) for factor in self.autoencoder.levels]
        return Kept(self._codes(picture[None]), where, picture, _soft(~fresh))

    def _whole_cells(self, stays: Tensor, factor: int) -> Tensor:
        """(1, h, w), True where every pixel of a cell stays."""
        cells = reduce(stays.float(), "(h y) (w x) -> h w", "min", y=factor, x=factor)
        return (cells > 0)[None].to(self.device)

    def _codes(self, pictures: UInt8[np.ndarray, "b s s 3"]) -> list[Tensor]:
        images = torch.from_numpy(rearrange(pictures, "b h w c -> b c h w").copy()).to(self.device)
        with torch.no_grad():
            levels = self.autoencoder.quantize(picture_to_tensor(images))
        return [level.codes for level in levels if level.codes is not None]

    def _classes(self, asks: Sequence[Ask]) -> Condition:
        labels = torch.tensor([number_of(ask.cls, self.classes) for ask in asks], device=self.device)
        return class_condition(labels, len(self.classes))

    def _texts(self, asks: Sequence[Ask]) -> Condition:
        return self._some([ask.text for ask in asks], self.encoder("text"))

    def _sounds(self, asks: Sequence[Ask]) -> Condition:
        sounds = [None if ask.audio is None else read_sound(ask.audio) for ask in asks]
        return self._some(sounds, self.encoder("audio").listen)

    def _some(self, given: list[Any], encoder: Any) -> Condition:
        """Encode what is there; the other rows have no such condition."""
        rows = [i for i, one in enumerate(given) if one is not None]
        found: Condition = encoder([given[i] for i in rows])
        here = torch.tensor(rows, device=found.mask.device)

        def spread(x: Tensor) -> Tensor:
            return x.new_zeros(len(given), *x.shape[1:]).index_copy(0, here, x)

        return found.map(spread)

    def _images(self, asks: Sequence[Ask]) -> Condition:
        rows = [i for i, ask in enumerate(asks) if self._is_source(ask)]
        kinds = self.about.get("image", {}).get("kinds", [])
        pictures = np.stack([self._source(asks[i], kinds) for i in rows])
        found = image_condition(
            [rearrange(c, "b h w -> b (h w)") for c in self._codes(pictures)],
            torch.ones(len(rows), dtype=torch.bool, device=self.device),
        )
        here = torch.tensor(rows, device=self.device)
        return found.map(lambda x: x.new_zeros(len(asks), *x.shape[1:]).index_copy(0, here, x))

    def _vectors(self, asks: Sequence[Ask]) -> Condition:
        kinds = self.about.get("image", {}).get("kinds", [])
        return self._seen("vector", [self._source(ask, kinds) if self._is_source(ask) else None for ask in asks])

    def _pictures(self, asks: Sequence[Ask]) -> Condition:
        likened = [ask.image if self._likened(ask) else None for ask in asks]
        return self._seen(PICTURE, [None if one is None else read_picture(one, self.image_size) for one in likened])

    def _seen(self, name: str, pictures: list[np.ndarray | None]) -> Condition:
        stacked = [None if p is None else rearrange(torch.from_numpy(p.copy()), "h w c -> c h w") for p in pictures]
        return self._some(stacked, lambda given: self.encoder(name)(torch.stack(given)))

    def _is_source(self, ask: Ask) -> bool:
        return ask.image is not None and ask.mask is None and not self._likened(ask)

    def _likened(self, ask: Ask) -> bool:
        """Whether a picture is asked for that is like the one given."""
        return PICTURE in self.about and ask.as_ == ALIKE

    def look_of(self, ask: Ask) -> str | None:
        """How the picture of an ask is taken: as it says, or by its look; None without one or where a mask keeps it."""
        if ask.image is None or ask.mask is not None:
            return None
        kinds = self.about.get("image", {}).get("kinds", [])
        return ask.as_ or guess_look(read_picture(ask.image, self.image_size), kinds)

    def _source(self, ask: Ask, kinds: Sequence[str]) -> UInt8[np.ndarray, "s s 3"]:
        assert ask.image is not None
        pixels = read_picture(ask.image, self.image_size)
        look = ask.as_ or guess_look(pixels, kinds)
        trained = {"picture" if kind == "source" else kind for kind in kinds}
        if look not in trained:
            raise ConfigError(
                f"this run was not trained on a source taken as '{look}': it knows {', '.join(sorted(trained))}."
            )
        make = {"grey": grey, "sketch": as_sketch}.get(look)
        return pixels if make is None else make(pixels)


def guess_look(pixels: UInt8[np.ndarray, "h w 3"], kinds: Sequence[str]) -> str:
    """How a picture is meant, among what the run knows: a drawing as a sketch, a grey one as grey, else a picture."""
    known = ["picture" if kind == "source" else kind for kind in kinds]
    if "sketch" in known and looks_drawn(pixels):
        return "sketch"
    spread = np.quantile(pixels.max(axis=2).astype(int) - pixels.min(axis=2), 0.99)
    if "grey" in known and (spread < GREY_SPREAD or "picture" not in known):
        return "grey"
    return "picture" if "picture" in known or not known else known[0]


def number_of(cls: int | str | None, classes: Sequence[str]) -> int:
    """A class's number, given as itself, in digits or by name; -1 for None; ConfigError lists the classes."""
    if cls is None:
        return -1
    if not classes:
        raise ConfigError("this run was trained without classes: leave the class out.")
    if isinstance(cls, str) and cls in classes:
        return list(classes).index(cls)
    if str(cls).isdecimal() and int(cls) < len(classes):
        return int(cls)
    shown = ", ".join(f"{number} {name}" for number, name in enumerate(classes[:MOST_CLASSES]))
    more = f", ... ({len(classes)} in all)" if len(classes) > MOST_CLASSES else ""
    hint = did_you_mean(str(cls), classes)
    raise ConfigError(f"no class '{cls}'.{hint if '?' in hint else ''}\nClasses: {shown}{more}")


def _soft(stays: np.ndarray) -> np.ndarray:
    """1 where pixels stay, falling to 0 over three pixels towards what is painted."""
    from torch.nn.functional import avg_pool2d

    hard = torch.from_numpy(stays.astype(np.float32))[None, None]
    soft = avg_pool2d(torch.nn.functional.pad(hard, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    return (hard * soft)[0, 0].numpy()[:, :, None]
