"""Do the letters of a run obey, judged on printed faces, wordings and voices it was never trained on?

    python benchmarks/letters_score.py runs/letters data/letters [-n 520] [--out FILE]

The judge is a classifier trained on the real glyphs of the run's own train split; what it reads on the real glyphs of
held-out faces stands first. Captions and spoken names are those of SOURCE/heldout.

Shapes: n letters of one kind.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor

from pipeline.config import used_folders
from pipeline.shard_index import open_shards
from stages.ask import Ask
from stages.attributes import CLASS, find_values
from stages.evaluation.config import EvaluationConfig
from stages.evaluation.probe_model import Probe
from stages.evaluation.probes import accuracies, answers, features, get_probe
from stages.generate import Painter
from stages.images import rows_of_pictures
from stages.metrics import precision_recall_density_coverage

SHOWN = 26


def read_rows(source: Path, n: int) -> list[dict[str, Any]]:
    """n rows of the held-out table, spread over it, each letter as often."""
    rows = [json.loads(line) for line in (source / "metadata.jsonl").read_text().splitlines()]
    rows.sort(key=lambda row: (row["file_name"].rpartition("/")[2], row["label"]))
    order = np.random.default_rng(0).permutation(len(rows))
    by_letter: dict[str, list[dict[str, Any]]] = {}
    for i in order:
        by_letter.setdefault(rows[i]["label"], []).append(rows[i])
    if n > (most := 26 * min(map(len, by_letter.values()))):
        raise SystemExit(f"{source} holds {most} letters, each as often; asked for are two times {n // 2}. Lower -n.")
    return [by_letter[letter][i] for i in range(-(-n // 26)) for letter in sorted(by_letter)][:n]


def score(run: Path, source: Path, n: int, out: Path) -> dict[str, Any]:
    """Accuracies and coverage of n letters by class, by caption and by sound; their pictures go into `out`."""
    painter = Painter.load(run)
    train = open_shards(used_folders(run).get("shards", run / "shards")).split("train")
    probe: Probe = get_probe(EvaluationConfig(), train, find_values(train, 26), painter.image_size, out)
    held = source / "heldout"
    rows = read_rows(held, 2 * n)
    real = _stacked([_center(held / row["file_name"], painter.image_size) for row in rows])
    asked, truth = rows[:n], truth_of(rows[:n], painter.classes, probe)
    reference, other = (features(probe.features, some) for some in (real[:n], real[n:]))
    ceiling = precision_recall_density_coverage(reference, other, 5)["coverage"]
    results: dict[str, Any] = {"n": len(asked)}
    results["real_held_out_faces"] = {**accuracies(answers(probe, real[:n]), truth), "coverage": ceiling}
    for mode, asks in asks_of(asked, held).items():
        conditions = painter.reader.conditions(asks, painter.listens)
        painted = painter.paint_conditions(conditions, torch.arange(len(asks)) + 5_000_000)
        shown = painted[: min(4 * SHOWN, len(painted) // 4 * 4)]
        if len(shown):
            Image.fromarray(rows_of_pictures(*np.split(shown, 4))).save(out / f"{mode}.png")
        images = torch.from_numpy(rearrange(painted, "n h w c -> n c h w").copy())
        named = truth if mode == "text" else {CLASS: truth[CLASS]}
        share = precision_recall_density_coverage(reference, features(probe.features, images), 5)["coverage"] / ceiling
        results[mode] = {**accuracies(answers(probe, images), named), "coverage_of_ceiling": round(share, 3)}
        print(mode, json.dumps(results[mode]), flush=True)
    return results


def truth_of(rows: list[dict[str, Any]], classes: list[str], probe: Probe) -> dict[str, Tensor]:
    """Letter, weight and slant as the probe numbers them."""
    truth = {CLASS: torch.tensor([classes.index(row["label"]) for row in rows])}
    for name in ("weight", "slant"):
        truth[name] = torch.tensor([probe.values[name].index(row["attributes"][name]) for row in rows])
    return truth


def asks_of(rows: list[dict[str, Any]], held: Path) -> dict[str, list[Ask]]:
    """The same letters asked for by each condition alone."""
    return {
        "class": [Ask(cls=row["label"]) for row in rows],
        "text": [Ask(text=row["text"] if isinstance(row["text"], str) else row["text"][0]) for row in rows],
        "audio": [Ask(audio=held / row["audio"]) for row in rows],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("source", type=Path)
    parser.add_argument("-n", type=int, default=520, help="letters of each kind")
    parser.add_argument("--out", type=Path, help="folder for results.json and pictures (default: RUN/score)")
    arguments = parser.parse_args()
    out = arguments.out or arguments.run / "score"
    out.mkdir(parents=True, exist_ok=True)
    results = score(arguments.run, arguments.source, arguments.n, out)
    (out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results))


def _stacked(pictures: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(rearrange(np.stack(pictures), "n h w c -> n c h w").copy())


def _center(path: Path, side: int) -> np.ndarray:
    """The centre crop, as evaluation takes it of shards: unscaled."""
    picture = np.asarray(Image.open(path).convert("RGB"))
    top, left = ((np.array(picture.shape[:2]) - side) // 2).tolist()
    return picture[top : top + side, left : left + side]


if __name__ == "__main__":
    main()
