"""What training `align` does per step, on val, for the eye and for the next stage.

Shapes: b batch, n samples of val.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from pipeline.backend import Backend
from pipeline.errors import DataError
from pipeline.player import Player
from pipeline.randomness import seed_of
from pipeline.shard_index import Shard
from pipeline.shards import read_pass
from stages.conditioning.align.config import AlignConfig
from stages.conditioning.align.loss import SWAPPED, Bank, contrastive_loss, recalls, told_loss, told_rightly
from stages.conditioning.align.model import Towers
from stages.conditioning.align.read import AlignDecode, Opposite, exchanged
from stages.conditioning.pretrained import quiet
from stages.conditioning.text_encoder import longest_of
from stages.images import CropDecode, rows_of_pictures

Batch = dict[str, Any]
QUERIES, SHOWN = 6, 8
VAL_BATCH = 128


@dataclass(frozen=True)
class Processors:
    """What turns captions, pictures and sounds into what the towers take; saved beside them."""

    tokenizer: Any
    image: Any
    sound: Any | None
    values: dict[str, list[str]] = field(default_factory=dict)
    """The attributes that are told from vectors, not saved."""
    words: dict[str, list[str]] = field(default_factory=dict)
    """Their values as captions write them."""


ALSO = "also"
"""A field of a batch: further captions, `also0` and on."""


def texts_of(
    batch: Batch, opposites: Sequence[tuple[str, str]], read: Callable[[str], list[int]]
) -> tuple[list[str], list[int]]:
    """The texts of a batch as `Towers` takes them, and the rows whose opposites are exchanged in the last ones.

    First the text of every row, then the further captions of those rows, `also0` of all of them first.

    Args:
        read: the tokens of a text; where those of the exchanged one are the same, it says nothing wrong.
    """
    wrong = [exchanged(text, opposites) for text in batch["text"]] if opposites else []
    rows = [i for i, text in enumerate(wrong) if text != batch["text"][i] and read(text) != read(batch["text"][i])]
    more = sorted((name for name in batch if name.startswith(ALSO)), key=lambda name: int(name.removeprefix(ALSO)))
    return [*batch["text"], *(batch[name][i] for name in more for i in rows), *(wrong[i] for i in rows)], rows


def labels_of(batch: Batch, swapped: list[int], opposite: Opposite) -> dict[str, Tensor]:
    """The attributes (n, a) of pictures, of the texts of `texts_of` and of sounds that speak; -1: not said."""
    numbers, named = batch["attributes"], batch["named"].bool()
    first, *also = (torch.where(named[:, i], numbers, -1) for i in range(named.shape[1]))
    texts = torch.cat([first, *(some[swapped] for some in also), opposite(first[swapped])])
    speaking = {"audio": torch.where(batch["speaks"].bool()[:, None], first, -1)} if "speaks" in batch else {}
    return {"image": numbers, "text": texts, **speaking}


class AlignTask:
    """Trains the towers; searches val with the averaged weights."""

    best = ("recall", "max")

    def __init__(
        self,
        cfg: AlignConfig,
        backend: Backend,
        towers: Towers,
        processors: Processors,
        *,
        val: list[Shard],
        image_size: int,
    ) -> None:
        self.cfg, self.backend, self.processors, self.val, self.image_size = cfg, backend, processors, val, image_size
        self.main = backend.player("towers", towers, cfg.optimizer, total_steps=cfg.loop.steps)
        self.players: dict[str, Player] = {"towers": self.main}
        self.sizes = [len(values) for values in processors.values.values()]
        self.longest = longest_of(towers.clip.config.text_config, processors.tokenizer)
        self.modalities = ["image", "text", *(["audio"] if processors.sound is not None else [])]
        self.opposite = Opposite(processors.values, cfg.opposites)
        self.figures: dict[str, float] = {}
        """What the last evaluation found."""
        self._searched: tuple[int, dict[str, Any]] | None = None

    def train_step(self, micro_batches: list[Batch], step: int) -> dict[str, Any]:
        """One step over the global batch: the vectors of all its rows first, then the gradients piece by piece."""
        pieces = [self._inputs(batch) for batch in micro_batches]
        copies = self.backend.world * len(pieces)
        whole = self._bank(pieces) if copies > 1 else None
        size = len(pieces[0]["caption"])
        starts = iter(range(size * len(pieces) * self.backend.rank, size * copies, size))

        def loss_fn(net: nn.Module, piece: Batch) -> tuple[Tensor, dict[str, Tensor]]:
            vectors, answers = net(*piece["towers"])
            if whole is None:
                bank = Bank(vectors, piece["present"], piece["caption"])
            else:
                bank = whole.with_rows(vectors, next(starts))
            scale = self.main.model.scale()  # type: ignore[operator]
            # every piece has the whole gradient of the scale, but only its own rows' share of the others
            scale = scale.detach() + (scale - scale.detach()) / copies
            with torch.autocast(self.backend.device.type, enabled=False):  # bf16 cannot tell near logits apart
                loss, metrics = contrastive_loss(bank, scale)
                told = self._told(answers, piece["labels"], len(piece["caption"]))
            metrics |= {f"told_{name}": value.detach() for name, value in told.items()}
            whole_loss = loss * copies + self.cfg.attributes * sum(told.values(), start=torch.zeros_like(loss))
            return whole_loss, {"loss": loss.detach(), "temperature": 1 / scale.detach(), **metrics}

        return self.main.update(loss_fn, pieces)

    def _told(self, answers: dict[str, Tensor], labels: dict[str, Tensor], rows: int) -> dict[str, Tensor]:
        """The loss of what is told of attributes, from pictures, texts and sounds."""
        return {name: told_loss(answer, labels[name], self.sizes, rows) for name, answer in answers.items()}

    def evaluate(self, step: int) -> dict[str, float]:
        """R@1 and R@5 both ways between all modalities, over val; the same on every rank.

        Beside them what is told of attributes, and how often a picture lies nearer to its caption than to the opposite.
        """
        if not self.val:
            return {}
        found = self._search(step)
        vectors, present, caption = dict(found["vectors"]), found["present"], found["caption"]
        figures: dict[str, float] = {}
        if (wrong := vectors.pop(SWAPPED, None)) is not None and bool((rows := present[SWAPPED]).any()):
            nearer = ((vectors["text"] - wrong) * vectors["image"]).sum(dim=1) > 0
            figures["opposites_told_apart"] = float(nearer[rows].double().mean())
        for name, answer in found["answers"].items():
            if bool(((labels := found["labels"][name]) >= 0).any()):
                figures[f"attributes_from_{name}"] = told_rightly(answer, labels, self.sizes)
        for a, b in itertools.permutations(sorted(vectors), 2):
            both = present[a] & present[b]
            if not bool(both.any()):
                continue
            own = torch.eye(int(both.sum()), dtype=torch.bool, device=both.device)
            same = caption[both][:, None] == caption[both][None, :]
            alike = own | same if "text" in (a, b) else own
            of = recalls(vectors[a][both], vectors[b][both], alike)
            figures |= {f"{a}_to_{b}_{name}": value for name, value in of.items()}
        if found_in_five := [value for name, value in figures.items() if name.endswith("R@5")]:
            figures["recall"] = float(np.mean(found_in_five))
        self.figures = figures
        return figures

    def paint(self, step: int) -> dict[str, np.ndarray]:
        """What six captions (or sounds) of val find: their own picture first, then the nearest ones."""
        if not self.val:
            return {}
        found = self._searched[1] if self._searched and self._searched[0] == step else self._search(step)
        asks = "text" if bool(found["present"]["text"].any()) else "audio"
        if asks not in found["vectors"]:
            return {}
        rows = found["present"][asks].nonzero()[:QUERIES, 0]
        nearest = (found["vectors"][asks][rows] @ found["vectors"]["image"].T).topk(min(SHOWN, len(found["images"])))
        chosen = torch.cat([rows[:, None], nearest.indices], dim=1).cpu()
        pictures = found["images"].permute(0, 2, 3, 1).numpy()
        return {f"found_by_{asks}": rows_of_pictures(*(pictures[line.numpy()] for line in chosen))}

    def export(self, folder: Path) -> None:
        """The averaged towers as `transformers` saves them: `clip` with tokenizer and image processor, `audio`."""
        quiet()
        towers = self._averaged()
        towers.whole_clip().save_pretrained(str(folder / "clip"))
        self.processors.tokenizer.save_pretrained(str(folder / "clip"))
        self.processors.image.save_pretrained(str(folder / "clip"))
        if towers.audio is not None:
            assert self.processors.sound is not None
            towers.audio.config.sound_speeds = list(self.cfg.sound_speeds)  # `AudioEncoder.listen` plays them again
            towers.audio.save_pretrained(str(folder / "audio"))
            self.processors.sound.save_pretrained(str(folder / "audio"))
        for path in folder.glob("*/*.safetensors"):
            path.chmod(0o644)
        about = {"kind": "alignment", "modalities": self.modalities, "pretrained": self.cfg.pretrained}
        (folder / "config.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")

    def _averaged(self) -> Towers:
        assert isinstance(self.main.ema_model, Towers)
        return self.main.ema_model

    def _inputs(self, batch: Batch) -> Batch:
        """The towers' arguments on the device, who has what, and a number per caption."""
        texts, rows = texts_of(batch, self.cfg.opposites, self._cut)
        tokens = self.processors.tokenizer(
            texts, padding=True, truncation=True, max_length=self.longest, return_tensors="pt"
        )
        moved = self.backend.to_device(
            {
                "image": batch["image"], "sound": batch.get("sound"), "ids": tokens["input_ids"],
                "mask": tokens["attention_mask"], "text": batch["has_text"].bool(),
                "audio": batch["has_sound"].bool() if "has_sound" in batch else None,
                "caption": torch.tensor([seed_of(text) for text in batch["text"]]),
                "swapped": torch.tensor(rows, dtype=torch.int64) if self.cfg.opposites else None,
            }
        )  # fmt: skip
        present = {"image": torch.ones_like(moved["text"]), "text": moved["text"], "audio": moved["audio"]}
        if self.cfg.opposites:
            present[SWAPPED] = torch.zeros_like(moved["text"]).index_fill(0, moved["swapped"], True)
        return {
            "towers": (moved["image"], moved["ids"], moved["mask"], moved["sound"], moved["swapped"]),
            "present": present,
            "labels": self.backend.to_device(labels_of(batch, rows, self.opposite) if self.sizes else {}),
            "caption": moved["caption"],
        }

    def _cut(self, text: str) -> list[int]:
        """The tokens of a text that the tower reads."""
        ids: list[int] = self.processors.tokenizer(text, truncation=True, max_length=self.longest)["input_ids"]
        return ids

    @torch.no_grad()
    def _bank(self, pieces: list[Batch]) -> Bank:
        """The vectors of the whole global batch, as numbers."""
        with self.backend.autocast():
            ours = [self.main.model(*piece["towers"])[0] for piece in pieces]
        own = Bank(
            {name: torch.cat([one[name] for one in ours]) for name in ours[0]},
            {name: torch.cat([piece["present"][name] for piece in pieces]) for name in ours[0]},
            torch.cat([piece["caption"] for piece in pieces]),
        )
        return self._gathered(own)

    def _gathered(self, own: Bank) -> Bank:
        """The rows of all processes, in the order of the ranks."""
        if self.backend.world == 1:
            return own

        def gather(x: Tensor) -> Tensor:
            whole = [torch.empty_like(x) for _ in range(self.backend.world)]
            dist.all_gather(whole, x.contiguous())
            return torch.cat(whole)

        vectors = {name: gather(own.vectors[name]) for name in sorted(own.vectors)}
        present = {name: gather(own.present[name].to(torch.uint8)).bool() for name in sorted(own.vectors)}
        return Bank(vectors, present, gather(own.caption))

    @torch.no_grad()
    def _search(self, step: int) -> dict[str, Any]:
        """Vectors, captions and pictures of val, by the averaged weights. Every rank reads the same."""
        decode = AlignDecode(
            CropDecode(self.image_size),
            self.processors.sound,
            self.cfg.audio_seconds,
            any_caption=False,
            transcripts=self.cfg.transcripts,
            values=self.processors.values,
            words=self.processors.words,
        )
        towers, parts = self._averaged().eval(), []
        for batch in read_pass(self.val, decode, batch_size=VAL_BATCH, limit=self.cfg.val_samples):
            piece = self._inputs(batch)
            with self.backend.autocast():
                vectors, answers = towers(*piece["towers"])
            told = {name: (answer[: len(batch["image"])], piece["labels"][name]) for name, answer in answers.items()}
            parts.append((vectors, piece, batch["image"], told))
        if not parts:
            raise DataError(f"no sample of val can be read ({self.val[0].name} and on): see the rejects of the shards.")
        names = parts[0][0]
        found = {
            "answers": {name: torch.cat([part[3][name][0] for part in parts]) for name in parts[0][3]},
            "labels": {name: torch.cat([part[3][name][1][: len(part[2])] for part in parts]) for name in parts[0][3]},
            "vectors": {name: torch.cat([part[0][name] for part in parts]) for name in names},
            "present": {name: torch.cat([part[1]["present"][name] for part in parts]) for name in names},
            "caption": torch.cat([part[1]["caption"] for part in parts]),
            "images": torch.cat([part[2] for part in parts]),
        }
        self._searched = (step, found)
        return found
