"""Paint images with a trained run: a grid, single files, and a JSON of what was asked."""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launchers.run_folders import run_folder
from pipeline.errors import ConfigError, DataError, Stopped
from pipeline.schema import did_you_mean, plain
from pipeline.stopping import StopRequest

if TYPE_CHECKING:
    from stages.ask import Ask
    from stages.generate import Painter

EXAMPLE = 'tessera sample runs/demo --text "a small bird with black wings" --class owl -n 8 --seed 1 --guidance 3'

COLUMNS = 8
FLAGS = {"classes": "cls", "text": "text", "audio": "audio", "image": "image", "as_": "as_", "mask": "mask"}
"""Repeatable flags and the fields of an ask they fill."""
KEYS = ("class", "text", "audio", "image", "as", "mask", "negative")
"""What a line of a prompts file may hold."""
FOLDER_BYTES = 180
"""Of a folder's name, most: file systems take 255 in all."""
RENAMED = {"class": "cls", "as": "as_"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """RUN, what to paint, and where to put it."""
    parser.add_argument("run", metavar="RUN", help="a run folder, or the name of one in runs/")
    what = parser.add_argument_group(
        "what to paint", "different ones combine; the same one again is another row; one given once counts for all rows"
    )
    what.add_argument("--class", dest="classes", action="append", metavar="N|NAME", help="a class")
    what.add_argument("--text", action="append", metavar="TEXT", help="a sentence")
    what.add_argument("--audio", action="append", metavar="FILE", help="a sound: wav, flac, ogg or mp3")
    what.add_argument("--image", action="append", metavar="FILE", help="a picture to start from")
    what.add_argument(
        "--as", dest="as_", action="append", metavar="LOOK", help="how to take --image: grey, sketch, picture, alike"
    )
    what.add_argument("--mask", action="append", metavar="FILE", help="white where --image is painted anew")
    what.add_argument("--negative", metavar="TEXT", help="what not to paint")
    what.add_argument(
        "--prompts",
        type=Path,
        metavar="FILE",
        help=f"a row per line: a sentence, or JSON with {', '.join(KEYS)} (files as seen from this folder)",
    )
    parser.add_argument(
        "--with", dest="with_", default="prior", metavar="STAGE", help="the stage that paints (default: prior)"
    )
    parser.add_argument("-n", type=int, default=16, metavar="N", help="images of each row (default: 16)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first image; the next ones count on")
    parser.add_argument(
        "--guidance", metavar="G", help="how strictly to obey: a number, or one for each, as in text=4,audio=1"
    )
    parser.add_argument(
        "--candidates", type=int, metavar="K", help="paint K for each picture and keep the one most like what is asked"
    )
    parser.add_argument("--device", metavar="DEVICE", help="cpu or cuda (default: cuda where there is one)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for the images (default: RUN/painted/<what>)")
    parser.add_argument("--json", action="store_true", help="print what was asked and the files as JSON")


def call(arguments: argparse.Namespace) -> int:
    """Exit code 0 when the images are written; the last line names the grid."""
    if not 1 <= arguments.n <= 10_000:
        raise ConfigError(f"-n must be from 1 to 10000; got {arguments.n}.")
    if not 0 <= arguments.seed < 2**62:
        raise ConfigError(f"--seed must be a whole number from 0; got {arguments.seed}.")
    if arguments.candidates is not None and not 1 <= arguments.candidates <= 64:
        raise ConfigError(f"--candidates must be from 1 to 64; got {arguments.candidates}.")
    guidance = read_guidance(arguments.guidance)
    wanted = rows_of(arguments)
    run = run_folder(arguments.run)
    from stages.ask import Ask
    from stages.generate import Painter, check_guidance

    asks = [_in_place(place, partial(Ask, **row)) for place, row in wanted]
    painter = Painter.load(run, with_=arguments.with_, device=arguments.device)

    def checked(ask: Ask) -> Ask:
        ask = _with_class(ask, painter)
        painter.check(ask, candidates=arguments.candidates)
        return ask

    # what cannot be painted is said before anything is
    asks = [_in_place(place, partial(checked, ask)) for ask, (place, _) in zip(asks, wanted, strict=True)]
    check_guidance(guidance, [name for ask in asks for name in painter.guided(ask)])
    out = arguments.out or run / "painted" / _folder_name(asks, arguments, painter.classes)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"no folder can be made at {out}: {error.strerror}. Name another:  --out DIR") from error
    began = time.monotonic()
    try:
        rows = [_paint(painter, ask, arguments, guidance) for ask in asks]
    except StopRequest:
        raise Stopped("stopped on request before the pictures were written; the same line paints them anew.") from None
    asked = _asked(arguments, run, asks, painter, guidance)
    asked["images_per_second"] = round(sum(map(len, rows)) / max(1e-9, time.monotonic() - began), 3)
    asked["files"] = _write(rows, [_label(ask, painter.classes) for ask in asks], out)
    text = json.dumps(asked, indent=1, ensure_ascii=False)
    (out / "asked.json").write_text(f"{text}\n", encoding="utf-8", errors="backslashreplace")
    line = text if arguments.json else f"Open {out / 'grid.png'}"
    print(line.encode("utf-8", "backslashreplace").decode())  # names of files need not be UTF-8
    return 0


def _in_place(place: str, make: Callable[[], Ask]) -> Ask:
    """What `make` returns; its errors begin with the place of the row."""
    try:
        return make()
    except (ConfigError, DataError) as error:
        raise type(error)(f"{place}{error}") from error


def rows_of(arguments: argparse.Namespace) -> list[tuple[str, dict[str, Any]]]:
    """Per row where it stands, "" or "FILE:LINE: ", and the fields of an ask; one empty row where nothing is asked for.

    Raises:
        ConfigError: flags do not match.
    """
    given = {field: getattr(arguments, flag) for flag, field in FLAGS.items() if getattr(arguments, flag)}
    if arguments.prompts is not None:
        if given:
            raise ConfigError("--prompts stands alone: put everything into the file, one row per line.")
        rows = read_prompts(arguments.prompts)
    else:
        count = max((len(values) for values in given.values()), default=1)
        for field, values in given.items():
            if len(values) not in (1, count):
                name = {"cls": "class", "as_": "as"}.get(field, field)
                raise ConfigError(
                    f"--{name} is given {len(values)} times and another flag {count} times: once, or as often."
                )
        rows = [("", {field: v[row if len(v) > 1 else 0] for field, v in given.items()}) for row in range(count)]
    if arguments.negative is not None:
        rows = [(place, {"negative": arguments.negative, **row}) for place, row in rows]
    return rows


def read_prompts(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """One row per line that is not empty, a sentence or a JSON object, with where it stands."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # not at U+2028, which JSON may hold
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--prompts {path} cannot be read: {getattr(error, 'strerror', None) or error}.") from error
    places = [(f"{path}:{number}", line) for number, line in enumerate(lines, 1) if line.strip()]
    rows = [(f"{place}: ", _row(line, place)) for place, line in places]
    if not rows:
        raise ConfigError(f"--prompts {path} is empty: write a sentence per line.")
    return rows


def _row(line: str, place: str) -> dict[str, Any]:
    if not line.lstrip().startswith("{"):
        return {"text": line.strip()}
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{place} is no JSON object ({error}).") from error
    if unknown := [key for key in values if key not in KEYS]:
        raise ConfigError(f"{place}: unknown key '{unknown[0]}'.{did_you_mean(unknown[0], KEYS)}")
    for key, value in values.items():
        if not isinstance(value, str | None) and not (key == "class" and type(value) is int):
            raise ConfigError(f"{place}: '{key}' must be text; got {json.dumps(value)[:60]}.")
        if isinstance(value, str) and not value.strip():
            raise ConfigError(f"{place}: an empty '{key}' says nothing: leave it out.")
    return {RENAMED.get(key, key): value for key, value in values.items()}


def read_guidance(text: str | None) -> float | dict[str, float] | None:
    """A number, or one per condition; ConfigError says how to write it."""
    if text is None:
        return None
    try:
        if "=" not in text:
            return _finite(text)
        pairs = [part.split("=") for part in text.split(",")]
        return {name.strip(): _finite(value) for name, value in pairs}
    except ValueError as error:
        raise ConfigError(f"--guidance is a number or  text=4,audio=1 ; got '{text}'.") from error


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text} is not finite")
    return value


def _with_class(ask: Ask, painter: Painter) -> Ask:
    if ask.cls is None or "class" not in painter.listens:
        return ask  # what the run does not listen to is refused by name
    return replace(ask, cls=painter.number_of(ask.cls))


def _paint(painter: Painter, ask: Ask, arguments: argparse.Namespace, guidance: Any) -> list[Any]:
    fields_of_ask = {field.name: getattr(ask, field.name) for field in fields(ask)}
    if isinstance(guidance, dict):  # weights of conditions that only other rows have
        guidance = {name: weight for name, weight in guidance.items() if name in painter.guided(ask)}
    how = {"guidance": guidance, "candidates": arguments.candidates}
    return list(painter(n=arguments.n, seed=arguments.seed, **how, **fields_of_ask))


def _asked(
    arguments: argparse.Namespace, run: Path, asks: list[Ask], painter: Painter, guidance: Any
) -> dict[str, Any]:
    from stages.prior.sampling import with_defaults

    settings = with_defaults(painter.settings, candidates=arguments.candidates)
    rows = []
    for ask in asks:
        row = {field.name: getattr(ask, field.name) for field in fields(ask) if getattr(ask, field.name) is not None}
        if "cls" in row:
            row["class"] = {"number": row.pop("cls"), "name": painter.classes[ask.cls]}  # type: ignore[index]
        row.pop("as_", None)
        if look := painter.reader.look_of(ask):
            row["as"] = look
        if settings.candidates > 1:
            row["candidates"] = painter.candidates(painter.reader.names([ask], painter.listens), settings)
        for name in ("text", "negative"):
            if (words := getattr(ask, name)) and (lost := painter.reader.cut_off(words)):
                row[f"{name}_cut_off"] = lost
        rows.append(row)
    return {
        "run": str(run),
        "with": arguments.with_,
        "rows": rows,
        "n": arguments.n,
        "seed": arguments.seed,
        "guidance": painter.settings.guidance if guidance is None else guidance,
        "sampling": {name: value for name, value in plain(settings).items() if name != "guidance"},
    }


def _label(ask: Ask, classes: list[str]) -> str:
    """A row's name in the grid; what the grid's letters cannot write stays in asked.json."""
    name = classes[ask.cls] if isinstance(ask.cls, int) and classes else ""
    files = [Path(str(path)).stem for path in (ask.audio, ask.image) if path is not None]
    how = [f"as {ask.as_}" if ask.as_ else "", f"not {ask.negative}" if ask.negative else ""]
    parts = [part for part in (name, ask.text, *files, *how) if part]
    return " ".join(part if part.isascii() else "(see asked.json)" for part in parts)


def _folder_name(asks: list[Ask], arguments: argparse.Namespace, classes: list[str]) -> str:
    """What the first row asks for, and a mark of everything asked: no other line writes over these pictures."""
    first = asks[0]
    files = [Path(str(path)).stem for path in (first.audio, first.image) if path is not None]
    name = classes[first.cls] if isinstance(first.cls, int) and classes else first.cls
    what = "-".join(str(part) for part in (name, first.text, *files) if part is not None) or "any"
    safe = "".join(letter if letter.isalnum() else "-" for letter in what)[:60]
    safe = safe.encode()[:FOLDER_BYTES].decode(errors="ignore")
    how = [arguments.n, arguments.seed, arguments.guidance, arguments.with_, arguments.candidates]
    everything = [*(str(_from_anywhere(ask)) for ask in asks), *how]
    mark = hashlib.sha256(json.dumps(everything).encode()).hexdigest()[:6]
    return f"{safe}{f'-and-{len(asks) - 1}' if len(asks) > 1 else ''}-seed{arguments.seed}-{mark}"


def _from_anywhere(ask: Ask) -> Ask:
    """The ask with the whole paths of its files: the same name typed elsewhere is another file."""
    files = {name: getattr(ask, name) for name in ("audio", "image", "mask")}
    return replace(ask, **{name: str(Path(file).resolve()) for name, file in files.items() if isinstance(file, str)})


def _earlier(out: Path) -> list[Path]:
    """Pictures that an earlier line has put into this folder, by its own account."""
    try:
        files = json.loads((out / "asked.json").read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [out / Path(str(file)).name for file in files]


def _write(rows: list[list[Any]], names: list[str], out: Path) -> list[str]:
    """Single files row by row, and one grid in lines of at most 8 pictures, named where there are several rows."""
    from stages.picture_grid import paint_grid

    for stale in _earlier(out):
        stale.unlink(missing_ok=True)
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
