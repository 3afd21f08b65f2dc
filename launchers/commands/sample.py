"""Paint images with a trained run: a grid, single files, and a JSON of what was asked."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launchers.run_folders import run_folder
from pipeline.errors import ConfigError
from pipeline.schema import did_you_mean

if TYPE_CHECKING:
    from stages.generate import Painter

EXAMPLE = "tessera sample runs/tiny --class 0 --class 3 -n 8 --seed 1 --guidance 2"

COLUMNS = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """RUN, what to paint, and where to put it."""
    parser.add_argument("run", metavar="RUN", help="a run folder, or the name of one in runs/")
    parser.add_argument(
        "--class", dest="classes", action="append", metavar="N|NAME", help="what to paint; again for another row"
    )
    parser.add_argument(
        "--with", dest="with_", default="prior", metavar="STAGE", help="the stage that paints (default: prior)"
    )
    parser.add_argument("-n", type=int, default=16, metavar="N", help="images of each row (default: 16)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first image; the next ones count on")
    parser.add_argument("--guidance", type=float, metavar="G", help="how strictly to follow what was asked")
    parser.add_argument("--device", metavar="DEVICE", help="cpu or cuda (default: cuda where there is one)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for the images (default: RUN/painted/<what>)")
    parser.add_argument("--json", action="store_true", help="print what was asked and the files as JSON")


def call(arguments: argparse.Namespace) -> int:
    """Exit code 0 when the images are written; the last line names the grid."""
    if not 1 <= arguments.n <= 10_000:
        raise ConfigError(f"-n must be from 1 to 10000; got {arguments.n}.")
    if not 0 <= arguments.seed < 2**62:
        raise ConfigError(f"--seed must be a whole number from 0; got {arguments.seed}.")
    run = run_folder(arguments.run)
    from stages.generate import Painter

    painter = Painter.load(run, with_=arguments.with_, device=arguments.device)
    labels = [class_number(text, painter.classes, run) for text in arguments.classes or []]
    began = time.monotonic()
    wanted: list[int | None] = [*labels] or [None]
    rows = [_paint(painter, label, arguments) for label in wanted]
    asked = _asked(arguments, run, labels, painter.classes)
    asked["images_per_second"] = round(sum(map(len, rows)) / max(1e-9, time.monotonic() - began), 3)
    out = arguments.out or run / "painted" / _folder_name(arguments)
    asked["files"] = _write(rows, [painter.classes[label] for label in labels], out)
    (out / "asked.json").write_text(json.dumps(asked, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(json.dumps(asked, indent=1, ensure_ascii=False) if arguments.json else f"Open {out / 'grid.png'}")
    return 0


def class_number(text: str, classes: list[str], run: Path) -> int:
    """A class by number or name; ConfigError lists the classes there are."""
    if not classes:
        raise ConfigError(f"{run} was trained without classes: leave --class out.")
    if text in classes:
        return classes.index(text)
    if text.isdigit() and int(text) < len(classes):
        return int(text)
    shown = ", ".join(f"{number} {name}" for number, name in enumerate(classes[:40]))
    more = f", ... ({len(classes)} in all)" if len(classes) > 40 else ""
    hint = did_you_mean(text, classes) if "?" in did_you_mean(text, classes) else ""
    raise ConfigError(f"no class '{text}' in {run}.{hint}\nClasses: {shown}{more}")


def _paint(painter: Painter, label: int | None, arguments: argparse.Namespace) -> list[Any]:
    return list(painter(cls=label, n=arguments.n, seed=arguments.seed, guidance=arguments.guidance))


def _asked(arguments: argparse.Namespace, run: Path, labels: list[int], classes: list[str]) -> dict[str, Any]:
    return {
        "run": str(run),
        "with": arguments.with_,
        "classes": [{"number": label, "name": classes[label]} for label in labels],
        "n": arguments.n,
        "seed": arguments.seed,
        "guidance": arguments.guidance,
    }


def _folder_name(arguments: argparse.Namespace) -> str:
    what = "-".join(arguments.classes or ["any"])
    safe = "".join(letter if letter.isalnum() else "-" for letter in what)[:60]
    return f"{safe}-seed{arguments.seed}"


def _write(rows: list[list[Any]], names: list[str], out: Path) -> list[str]:
    """Single files row by row, and one grid in lines of at most 8 pictures, named by class where there are several."""
    from stages.generate import paint_grid

    out.mkdir(parents=True, exist_ok=True)
    files, lines, labels = [], [], []
    for number, row in enumerate(rows):
        for index, image in enumerate(row):
            image.save(path := out / f"{number:02d}-{index:04d}.png")
            files.append(str(path))
        for start in range(0, len(row), COLUMNS):
            lines.append(row[start : start + COLUMNS])
            labels.append(names[number] if len(names) > 1 and start == 0 else "")
    paint_grid(lines, labels if len(names) > 1 else None).save(out / "grid.png")
    return [str(out / "grid.png"), *files]
