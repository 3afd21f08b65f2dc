"""Do the birds of a run obey? Every figure the recipe `birds` is judged by, on scenes never trained on.

    python benchmarks/obedience.py runs/birds [-n 200] [--out FILE] [--only NAME ...]

The judge is a probe like that of the run's evaluation, taught on shards of the split unseen too (half of them, rounded
down): from train alone it takes a robin with red wings for whatever it saw red wings on. Its accuracy on real pictures
stands first. Scenes are those of val and of the other shards of unseen. `text_*` and `two_birds` ask in wordings that
no shard contains; `unseen_pairs` asks in known ones for what never came together; mixtures, `small_black_korean` and
spoken sentences (these in voices never heard) are in known wordings too. Calls are sung anew, higher but slower or
lower but faster than any that training heard, before a louder place. `both` means: all that the sentence names is right
at once.

Shapes: n asks of one kind.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from data_prep.birds import COLOURS, SPECIES, Scene, attributes, call, describe, draw, wordings
from data_prep.birds.call import RATE, pitch_of
from data_prep.birds.captions import english, korean
from data_prep.birds.scene import TWO_BIRDS
from data_prep.birds.spoken import HELD_OUT_VOICES, Voicing, speak
from pipeline.config import used_folders
from pipeline.randomness import numpy_rng
from pipeline.shard_index import Shard, open_shards
from pipeline.shards import read_samples
from stages.ask import Ask
from stages.attributes import find_values
from stages.conditioning.sources import sketch
from stages.evaluation.config import EvaluationConfig
from stages.evaluation.probe_model import Probe
from stages.evaluation.probes import answers, features, get_probe
from stages.generate import Painter
from stages.images import picture_to_tensor, rows_of_pictures
from stages.metrics import edge_f1, luma_psnr, precision_recall_density_coverage
from stages.prior.sampling import with_defaults

KOREAN_SMALL_BLACK = "작은 새가 검은 날개를 가졌다"
Truth = dict[str, str]


class Judge:
    """Paints asks and says what the probe sees in them."""

    def __init__(self, run: Path, n: int, **settings: Any) -> None:
        self.n, self.painter = n, Painter.load(run)
        self.painter.settings = with_defaults(self.painter.settings, **settings)
        folder = used_folders(run).get("shards", run / "shards")
        shards = open_shards(folder)
        if shards.info["settings"].get("species") or shards.info["settings"].get("colours"):
            raise SystemExit(f"{folder} holds some of the species and colours alone: this asks for all of them.")
        self.size, self.seed = int(shards.info["image_size"]), int(shards.info["settings"].get("seed", 0))
        self.pairs = float(shards.info["settings"].get("pairs", TWO_BIRDS))
        self.margin = float(shards.info["settings"].get("margin", 1.125))
        train = shards.split("train")
        values = find_values(train, len(shards.info["classes"]))
        own = run / "obedience" / "judge"  # apart from probes that earlier judges, taught on train alone, left
        own.mkdir(parents=True, exist_ok=True)
        unseen = shards.split("unseen")
        taught, asked = unseen[: len(unseen) // 2], unseen[len(unseen) // 2 :]
        self.probe: Probe = get_probe(EvaluationConfig(), [*train, *taught], values, self.size, own)
        self.val, self.unseen = self.scenes(shards.split("val")), self.scenes(asked)
        self.pictures: dict[str, np.ndarray] = {}
        self.asks = 0
        """Of the test that ran last, the most that one figure rests on."""

    def scenes(self, split: Sequence[Shard]) -> list[Scene]:
        """The scenes behind a split's samples."""
        records = (json.loads(sample.members["json"]) for shard in split for sample in read_samples(shard))
        return [describe(self.seed, int(record["source"].rpartition("/")[2]), self.pairs) for record in records]

    def real(self, scenes: Sequence[Scene]) -> Tensor:
        """The true pictures, cut as `evaluation` cuts them: uint8 (n, 3, s, s)."""
        whole = math.ceil(self.size * self.margin)
        inside = slice(cut := (whole - self.size) // 2, cut + self.size)
        drawn = np.stack([np.asarray(draw(scene, whole))[inside, inside] for scene in scenes])
        return torch.from_numpy(rearrange(drawn, "n h w c -> n c h w").copy())

    def paint(self, name: str, asks: Sequence[Ask], **settings: Any) -> Tensor:
        """A picture per ask: uint8 (n, 3, s, s); the first twenty are kept for the eye."""
        self.asks = max(self.asks, len(asks))
        conditions = self.painter.reader.conditions(asks, self.painter.listens)
        opposed = self.painter.opposed([ask.text for ask in asks], **settings)
        seeds = torch.arange(len(asks)) + 3_000_000
        painted = self.painter.paint_conditions(conditions, seeds, opposed=opposed, **settings)
        self.pictures[name] = rows_of_pictures(*np.split(painted[:20], 2)) if len(painted) >= 20 else painted[0]
        return torch.from_numpy(rearrange(painted, "n h w c -> n c h w").copy())

    def score(self, painted: Tensor, truths: Sequence[Truth]) -> dict[str, float]:
        """Share of right answers per attribute that is asked for, and of asks with all of them right."""
        seen = self.seen(painted)
        hits: dict[str, list[bool]] = {}
        together = []
        for i, truth in enumerate(truths):
            right = {name: seen[name][i] == value for name, value in truth.items()}
            together.append(all(right.values()))
            for name, hit in right.items():
                hits.setdefault(name, []).append(hit)
        return {name: round(float(np.mean(hit)), 3) for name, hit in sorted(hits.items())} | {
            "both": round(float(np.mean(together)), 3)
        }

    def seen(self, painted: Tensor) -> dict[str, list[str]]:
        """What the probe sees, by name."""
        numbers = answers(self.probe, painted)
        return {name: [self.probe.values[name][i] for i in values.tolist()] for name, values in numbers.items()}

    def chance(self, painted: Tensor, name: str) -> Tensor:
        """The probe's probabilities (n, v) of one attribute."""
        with torch.no_grad():
            return self.probe(picture_to_tensor(painted))[name].softmax(dim=1)


def sentences(scene: Scene, language: str) -> list[tuple[str, Truth]]:
    """The held-out sentences about a scene, each with the attributes it names."""
    make = english if language == "english" else korean
    truth = attributes(scene)
    said = make(scene, numpy_rng("benchmark", scene.index), True)
    return [(text, {name: truth[name] for name in names if name in truth}) for text, names in said]


def one_each(scenes: Sequence[Scene], language: str, n: int) -> tuple[list[Ask], list[Truth]]:
    """One held-out sentence for each of n scenes, the wordings in turn."""
    chosen = [sentences(scene, language)[i % len(sentences(scene, language))] for i, scene in enumerate(scenes[:n])]
    return [Ask(text=text) for text, _ in chosen], [truth for _, truth in chosen]


def singles(scenes: Sequence[Scene]) -> list[Scene]:
    return [scene for scene in scenes if len(scene.birds) == 1]


def text(judge: Judge, language: str) -> dict[str, Any]:
    """Sentences of held-out wordings about one bird."""
    asks, truths = one_each(singles(judge.val), language, 2 * judge.n)
    return judge.score(judge.paint(f"text_{language}", asks), truths)


def small_and_black(judge: Judge) -> dict[str, Any]:
    """The sentence of the mission: small, with black wings."""
    asks = [Ask(text=KOREAN_SMALL_BLACK)] * judge.n
    return judge.score(judge.paint("small_black", asks), [{"size": "small", "wing": "black"}] * judge.n)


def never_seen_pairs(judge: Judge) -> dict[str, Any]:
    """Species and wing colours that never came together in training."""
    found = {}
    for language, form in (("english", "{} with {} wings"), ("korean", "{wing} 날개를 가진 {species}")):
        scenes = singles(judge.unseen)[: judge.n]
        words = [
            form.format(_a(s.species), s.birds[0].wing) if language == "english" else _korean(form, s) for s in scenes
        ]
        truths = [{"species": s.species, "wing": s.birds[0].wing} for s in scenes]
        found[language] = judge.score(judge.paint(f"unseen_{language}", [Ask(text=w) for w in words]), truths)
    return found


def _a(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def _korean(form: str, scene: Scene) -> str:
    words = wordings.KOREAN
    return form.format(wing=words["colour"][scene.birds[0].wing][0], species=words["species"][scene.species][0])


def two_birds(judge: Judge) -> dict[str, Any]:
    """Two birds: the colour in its place."""
    found = {}
    for language in ("english", "korean"):
        scenes = [scene for scene in judge.val if len(scene.birds) == 2]
        asks, truths = one_each(scenes, language, judge.n)
        placed = [{k: v for k, v in truth.items() if k.startswith(("left_", "right_"))} for truth in truths]
        found[language] = judge.score(judge.paint(f"two_{language}", asks), placed)
    return found


def never_heard(scene: Scene, rng: np.random.Generator) -> Scene:
    """The scene with a call that is higher but slower, or lower but faster, than any in training."""
    up, pitch, noise = rng.random() < 0.5, float(rng.uniform(0.2, 0.3)), float(rng.uniform(1.05, 1.3))
    how: dict[str, float] = {"pitch": pitch, "tempo": 0.8} if up else {"pitch": -pitch, "tempo": 1.25}
    return dataclasses.replace(scene, noise=noise, **how)  # type: ignore[arg-type]


def calls_of(judge: Judge, n: int) -> tuple[list[Scene], list[Ask], list[Scene]]:
    """n scenes of one bird, their calls as training never heard them, and the scenes as they sing so."""
    scenes, rng = singles(judge.val)[:n], numpy_rng("benchmark calls")
    strange = [never_heard(scene, rng) for scene in scenes]
    return scenes, [Ask(audio=(call(scene)[None], RATE)) for scene in strange], strange


def calls(judge: Judge) -> dict[str, Any]:
    """Calls as training never heard them: high ones slower, low ones faster than `align` played any such."""
    scenes, asks, strange = calls_of(judge, 2 * judge.n)
    painted = judge.paint("calls", asks)
    score = judge.score(painted, [{"species": s.species, "background": s.background} for s in scenes])
    order = torch.tensor([judge.probe.values["size"].index(size) for size in ("small", "medium", "large")])
    size = (judge.chance(painted, "size")[:, order] * torch.arange(3)).sum(dim=1)
    pitch = [pitch_of(s, s.birds[0]) for s in strange]
    return score | {"pitch_size_spearman": round(-spearman(pitch, size.tolist()), 3)}


def spoken_captions(judge: Judge) -> dict[str, Any]:
    """Sentences said aloud in voices that training never heard."""
    scenes = singles(judge.val)[: judge.n]
    rng = numpy_rng("benchmark voices")
    asks, truths = [], []
    for scene in scenes:
        truth = attributes(scene)
        size = wordings.ENGLISH["size"][truth["size"]][0]
        sentence = f"a {size} bird with {truth['wing']} wings"
        voice = HELD_OUT_VOICES[int(rng.integers(len(HELD_OUT_VOICES)))]
        said = speak(sentence, Voicing(voice, int(rng.integers(30, 71)), int(rng.integers(200, 261))))
        asks.append(Ask(audio=(said[None], RATE)))
        truths.append({"size": truth["size"], "wing": truth["wing"]})
    return judge.score(judge.paint("spoken", asks), truths)


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """Rank correlation, ties at their mean rank; 0 where one side never changes."""
    ranks = []
    for values in (a, b):
        _, place, count = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
        ranks.append((np.cumsum(count) - (count - 1) / 2)[place])
    if any(np.ptp(rank) == 0 for rank in ranks):
        return 0.0
    return float(np.corrcoef(*ranks)[0, 1])


def class_and_text(judge: Judge) -> dict[str, Any]:
    """The species by class, the wing colour by a sentence."""
    pairs = [(i % 8, COLOURS[(i * 5 + i // 8) % 8]) for i in range(judge.n)]
    asks = [Ask(cls=species, text=f"a bird with {colour} wings") for species, colour in pairs]
    truths = [{"species": SPECIES[species], "wing": colour} for species, colour in pairs]
    return judge.score(judge.paint("class_text", asks), truths)


def contradiction(judge: Judge) -> dict[str, Any]:
    """A sentence names one species, the call is another's: who wins follows the weights."""
    scenes = singles(judge.val)[: judge.n]
    others = [SPECIES[(SPECIES.index(s.species) + 3) % 8] for s in scenes]
    asks = [
        Ask(text=f"a picture of {_a(other)}", audio=(call(s)[None], RATE))
        for s, other in zip(scenes, others, strict=True)
    ]
    weights = [(0.5, 3.0), (1.0, 2.5), (1.75, 1.75), (2.5, 1.0), (3.0, 0.5)]
    shares = []
    for by_text, by_audio in weights:
        painted = judge.paint("contradiction", asks, guidance={"text": by_text, "audio": by_audio})
        seen = judge.seen(painted)["species"]
        won = [sum(a == b for a, b in zip(seen, w, strict=True)) for w in (others, [s.species for s in scenes])]
        shares.append(won[0] / max(1, sum(won)))
    rank = spearman([a - b for a, b in weights], shares)
    return {"text_wins": [round(share, 3) for share in shares], "spearman": round(rank, 3)}


def grey(judge: Judge) -> dict[str, Any]:
    """A grey picture and a sentence that names its colours."""
    return _from_source(judge, "grey")


def drawing(judge: Judge) -> dict[str, Any]:
    """A sketch and a sentence that names its colours."""
    return _from_source(judge, "sketch")


def _from_source(judge: Judge, kind: str) -> dict[str, Any]:
    scenes = singles(judge.val)[: judge.n]
    real = judge.real(scenes)
    pictures = [rearrange(one, "c h w -> h w c").numpy() for one in real]
    asks = [
        Ask(image=picture, as_=kind, text=f"{_a(s.birds[0].body)} bird with {s.birds[0].wing} wings")
        for picture, s in zip(pictures, scenes, strict=True)
    ]
    painted = judge.paint(kind, asks)
    found = judge.score(painted, [{"wing": s.birds[0].wing, "body": s.birds[0].body} for s in scenes])
    judge.pictures[f"{kind}_of"] = rows_of_pictures(
        *(rearrange(x[:10], "n c h w -> n h w c").numpy() for x in (real, painted))
    )
    if kind == "grey":
        near = luma_psnr(picture_to_tensor(painted), picture_to_tensor(real))
        return found | {"luma_psnr": round(float(near.mean()), 2)}
    lines = [torch.from_numpy(np.stack([sketch(p)[..., 0] < 128 for p in some])) for some in (_hwc(painted), pictures)]
    return found | {"edge_f1": round(float(edge_f1(*lines).mean()), 3)}


def _hwc(images: Tensor) -> list[np.ndarray]:
    return [rearrange(one, "c h w -> h w c").numpy() for one in images]


def coverage(judge: Judge) -> dict[str, Any]:
    """Coverage of val by what each mode paints for val's scenes, as a share of what other real pictures reach."""
    half = min(len(judge.val) // 2, 2 * judge.n)
    first, second = judge.val[:half], judge.val[half : 2 * half]
    real = [features(judge.probe.features, judge.real(some)) for some in (first, second)]
    ceiling = precision_recall_density_coverage(real[0], real[1], 5)["coverage"]
    pictures = _hwc(judge.real(first))
    rng, said = numpy_rng("benchmark coverage"), [sentences(scene, "english") for scene in first]
    modes: dict[str, list[Ask]] = {
        "class": [Ask(cls=s.species) for s in first],
        "text": [Ask(text=words[int(rng.integers(len(words)))][0]) for words in said],
        "audio": [Ask(audio=(call(s)[None], RATE)) for s in first],
        "grey": [Ask(image=picture, as_="grey") for picture in pictures],
        "sketch": [Ask(image=picture, as_="sketch") for picture in pictures],
    }
    found = {}
    for name, asks in modes.items():
        painted = features(judge.probe.features, judge.paint(f"coverage_{name}", asks))
        of = precision_recall_density_coverage(real[0], painted, 5)
        found[name] = round(of["coverage"] / ceiling, 3)
    return found | {"n": half, "ceiling": round(ceiling, 3)}


def real_pictures(judge: Judge) -> dict[str, Any]:
    """The probe on real pictures: the ceiling of everything."""
    found = {}
    for name, scenes in (("val", judge.val[: 5 * judge.n]), ("unseen", singles(judge.unseen)[: judge.n])):
        found[name] = judge.score(judge.real(scenes), [attributes(scene) for scene in scenes])
    return found


TESTS: dict[str, Callable[[Judge], dict[str, Any]]] = {
    "probe_on_real": real_pictures,
    "text_english": lambda judge: text(judge, "english"),
    "text_korean": lambda judge: text(judge, "korean"),
    "small_black_korean": small_and_black,
    "unseen_pairs": never_seen_pairs,
    "two_birds": two_birds,
    "calls": calls,
    "spoken": spoken_captions,
    "class_and_text": class_and_text,
    "contradiction": contradiction,
    "grey": grey,
    "sketch": drawing,
    "coverage": coverage,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("-n", type=int, default=200, help="asks of each kind")
    parser.add_argument("--candidates", type=int, help="pictures to choose from (default: the run's own)")
    parser.add_argument("--foretold", type=float, help="sampling.foretold (default: the run's own)")
    parser.add_argument("--opposites", type=float, help="sampling.opposites (default: the run's own)")
    parser.add_argument("--only", nargs="*", default=list(TESTS), choices=list(TESTS))
    parser.add_argument("--out", type=Path, help="folder for results.json and pictures (default: RUN/obedience)")
    arguments = parser.parse_args()
    own = {name: getattr(arguments, name) for name in ("candidates", "foretold", "opposites")}
    judge = Judge(arguments.run, arguments.n, **own)
    out = arguments.out or arguments.run / "obedience"
    out.mkdir(parents=True, exist_ok=True)
    file = out / "results.json"
    results = json.loads(file.read_text()) if file.is_file() else {}  # what is asked for again is measured again
    for name in arguments.only:
        began, judge.asks = time.monotonic(), 0
        found = TESTS[name](judge)
        results[name] = found | {"asks": judge.asks, "candidates": judge.painter.settings.candidates}
        print(f"{name:<20} {json.dumps(results[name])}  {time.monotonic() - began:.0f} s", flush=True)
    file.write_text(json.dumps(results, indent=1) + "\n")
    from PIL import Image

    for name, picture in judge.pictures.items():
        Image.fromarray(picture).save(out / f"{name}.png")


if __name__ == "__main__":
    main()
