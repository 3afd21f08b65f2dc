"""Letters nobody here drew: glyphs of Debian's fonts with captions and spoken names, built as a source folder.

    python benchmarks/letters.py build data/letters [--side 36] [--faces-dir /usr/share/fonts] [--seed 0]

Under a minute on 2 cores; then `tessera run letters`. It needs Debian's fonts and a speaker:

    apt-get install -y --no-install-recommends espeak-ng fonts-cmu fonts-clear-sans fonts-comfortaa fonts-comic-neue \
        fonts-dejavu fonts-dosis fonts-ebgaramond fonts-firacode fonts-go fonts-jetbrains-mono \
        fonts-lato fonts-liberation fonts-linuxlibertine fonts-manrope fonts-open-sans fonts-quicksand \
        fonts-roboto-unhinted fonts-sil-gentiumplus fonts-urw-base35 fonts-cabin fonts-crosextra-caladea fonts-karla \
        fonts-roboto-slab

OUT is in imagefolder layout: `metadata.jsonl`, `images/<letter>/`, `sounds/<letter>/`. OUT/heldout is a second such
folder with faces (whole families), voices and wordings that the first has none of: real glyphs to measure against.
The 26 letters are lower case; weight (thin, regular, bold) and slant are what the face's own name says. The same fonts,
Pillow and espeak-ng give the same bytes. Exit code 3 when fonts or espeak-ng are missing.

Shapes: h, w height and width of the picture, o oversampling, t samples of a sound.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from string import ascii_lowercase as LETTERS
from typing import Any, NamedTuple

import numpy as np
from einops import reduce
from PIL import Image, ImageDraw, ImageFont

from data_prep.images import encode_image
from data_prep.sounds import encode_flac, resampled
from pipeline.atomic_file import write_atomically
from pipeline.errors import ConfigError, DataError, TesseraError
from pipeline.randomness import numpy_rng

Families = Mapping[str, tuple[str, ...]]
"""Family names by the package that brings them. A fixed list without near copies (Carlito is Lato, FreeSans Helvetica
as Liberation Sans is): whatever else is installed changes nothing."""

FAMILIES: Families = {
    "fonts-cmu": ("CMU Concrete", "CMU Serif"),
    "fonts-clear-sans": ("Clear Sans", "Clear Sans Light", "Clear Sans Thin"),
    "fonts-comfortaa": ("Comfortaa",),
    "fonts-comic-neue": ("Comic Neue",),
    "fonts-dejavu": ("DejaVu Sans", "DejaVu Sans Mono", "DejaVu Serif"),
    "fonts-dosis": ("Dosis",),
    "fonts-ebgaramond": ("EB Garamond",),
    "fonts-firacode": ("Fira Code",),
    "fonts-go": ("Go",),
    "fonts-jetbrains-mono": ("JetBrains Mono",),
    "fonts-lato": ("Lato",),
    "fonts-liberation": ("Liberation Mono", "Liberation Sans", "Liberation Serif"),
    "fonts-linuxlibertine": ("Linux Biolinum O", "Linux Libertine O"),
    "fonts-manrope": ("Manrope",),
    "fonts-open-sans": ("Open Sans",),
    "fonts-quicksand": ("Quicksand", "Quicksand Light"),
    "fonts-roboto-unhinted": ("Roboto",),
    "fonts-sil-gentiumplus": ("Gentium Plus",),
    "fonts-urw-base35": ("C059", "P052", "URW Gothic"),
}
HELD_OUT_FAMILIES: Families = {
    "fonts-cabin": ("Cabin",),
    "fonts-crosextra-caladea": ("Caladea",),
    "fonts-karla": ("Karla",),
    "fonts-roboto-slab": ("Roboto Slab",),
}
LEAST_FACES, LEAST_HELD_OUT = 40, 6

WEIGHTS = {
    "thin": {"thin", "hairline", "light", "extralight", "ultralight"},
    "bold": {"bold", "extrabold", "demi", "heavy", "black"},
}
"""Words of a style's name; a name with none of them is regular."""
BETWEEN = {"medium", "semi", "semibold", "demibold", "retina", "cond", "condensed"}
"""Neither regular nor bold to the eye, or squeezed: such faces are left out."""
SLANTED = {"italic", "oblique", "slanted"}

WORDS = {
    "thin": ("thin", "light", "fine"),
    "regular": ("regular", "plain", "medium"),
    "bold": ("bold", "heavy", "thick"),
    "slanted": ("slanted", "italic", "leaning"),
    "upright": ("upright", "straight"),
}
WORDINGS = (
    "a {weight} {slant} letter {letter}",
    "the letter {letter}, {weight} and {slant}",
    "a {slant} {letter} with {weight} strokes",
    "{letter}, printed in {weight} {slant} type",
    "the {weight} lower-case {letter}, {slant}",
    "a {slant} letter {letter}, rather {weight}",
)
HELD_OUT_WORDINGS = ("{weight}, {slant}: the letter {letter}", "a printed {letter}, {slant} and {weight}")
CAPTIONS = 3

VOICES = (
    "en-us", "en-us+f2", "en-us+f4", "en-us+m2", "en-us+m7", "en-us-nyc+f1", "en-gb", "en-gb+f2", "en-gb+m3",
    "en-gb-scotland", "en-gb-x-rp+f4", "en-029+m1",
)  # fmt: skip
HELD_OUT_VOICES = ("en-us+f3", "en-us+m4", "en-gb+f5", "en-gb-x-rp+m5")
"""New throats (espeak-ng's variants) for accents of VOICES. A new accent would be another question: trained on VOICES,
an audio classifier hears 0.6 of the letters in West Midlands English (gbcwmd: b is "bay"), 0.97 to 0.99 in these."""
PITCHES, SPEEDS = (40, 60), (130, 160)
RATE = 16_000

MARGIN = 1.125
"""Pictures are stored this much larger than they are cropped; letters keep within every crop."""
FILL = 0.76
"""Longest side of a face's largest letter, at most, in units of the picture's side."""
WANDER = 1 / 24
"""How far from the middle a letter lies at most, in units of the picture's side."""
OVERSAMPLE = 4
VARIANTS = 7
"""Pictures of one letter of one face."""


@dataclass(frozen=True)
class Face:
    """A font file with all letters, and what its name says."""

    name: str
    path: str
    weight: str
    slant: str


class Voicing(NamedTuple):
    """One way to say a letter's name."""

    voice: str
    pitch: int
    speed: int

    @property
    def file_name(self) -> str:
        return f"{self.voice}-p{self.pitch}-s{self.speed}.flac"


@dataclass(frozen=True)
class Part:
    """What one source folder is made from."""

    faces: tuple[Face, ...]
    voices: tuple[str, ...]
    wordings: tuple[str, ...]

    def voicings(self) -> list[Voicing]:
        return [Voicing(*one) for one in itertools.product(self.voices, PITCHES, SPEEDS)]


def style_of(name: str) -> tuple[str, str] | None:
    """(weight, slant) of a full face name such as "Lato Thin Italic"; None where it is between two weights."""
    words = {word.lower() for word in re.findall(r"[A-Z]?[a-z]+", name)}
    if words & BETWEEN:
        return None
    weight = next((weight for weight, says in WEIGHTS.items() if words & says), "regular")
    return weight, "slanted" if words & SLANTED else "upright"


def open_font(path: str, size: float) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)


def draw_glyph(font: ImageFont.FreeTypeFont, letter: str) -> np.ndarray:
    """Ink of one letter, cut to its box: uint8 (h, w)."""
    left, top, right, bottom = font.getbbox(letter)
    left, top = math.floor(left), math.floor(top)
    canvas = Image.new("L", (math.ceil(right) - left, math.ceil(bottom) - top))
    ImageDraw.Draw(canvas).text((-left, -top), letter, fill=255, font=font)
    return np.asarray(canvas)


def find_faces(folder: Path, *tables: Families) -> list[list[Face]]:
    """The faces of each table's families below `folder`, sorted by name, no two drawn alike in all tables together."""
    fonts = sorted(_open_fonts(folder), key=lambda font: (*map(str, font.getname()), str(font.path)))
    known: set[str | bytes] = set()
    found: list[list[Face]] = []
    for table in tables:
        families = {family for some in table.values() for family in some}
        faces = [read_face(font, known) for font in fonts if font.getname()[0] in families]
        found.append([face for face in faces if face])
    return found


def _open_fonts(folder: Path) -> Iterator[ImageFont.FreeTypeFont]:
    for path in folder.rglob("*"):
        if path.suffix.lower() in (".ttf", ".otf") and path.is_file():
            with contextlib.suppress(OSError):  # somebody's broken font
                yield open_font(str(path), 40)


def read_face(font: ImageFont.FreeTypeFont, known: set[str | bytes]) -> Face | None:
    """None where letters are missing, or where the name or every picture is `known`, to which this face's are added."""
    name = " ".join(map(str, font.getname()))
    style = style_of(name)
    glyphs = [draw_glyph(font, letter) for letter in (*LETTERS, "\U0010ffff")]
    drawn = [b"%d %b" % (glyph.shape[1], glyph.tobytes()) for glyph in glyphs]  # the last one: a missing letter
    marks: set[str | bytes] = {name, b"".join(drawn[:-1])}
    complete = len(set(drawn)) > len(LETTERS) and all(glyph.any() for glyph in glyphs[:-1])
    if not style or not complete or known & marks:
        return None
    known |= marks
    return Face(name, str(font.path), *style)


def say_captions(letter: str, face: Face, wordings: tuple[str, ...], rng: np.random.Generator) -> list[str]:
    """Up to three true sentences about a letter of a face, in different wordings."""
    sentences = []
    for place in rng.permutation(len(wordings))[:CAPTIONS]:
        weight, slant = (str(rng.choice(WORDS[word])) for word in (face.weight, face.slant))
        sentence = wordings[place].format(letter=letter, weight=weight, slant=slant)
        sentences.append(re.sub(r"^a (?=[aeiou])", "an ", sentence))
    return sentences


def paint(ink: np.ndarray, side: int, rng: np.random.Generator) -> bytes:
    """PNG of dark grey `ink` (drawn OVERSAMPLE times larger) near the middle of light grey paper."""
    big = side * OVERSAMPLE
    canvas = np.zeros((big, big), np.float32)
    spare = [max(0.0, big * (2 / MARGIN - 1) - length) / 2 for length in ink.shape]  # the outermost crops show all ink
    top, left = (
        round((big - length) / 2 + min(room, WANDER * big) * rng.uniform(-1, 1))
        for length, room in zip(ink.shape, spare, strict=True)
    )
    canvas[top : top + ink.shape[0], left : left + ink.shape[1]] = ink
    share = reduce(canvas / 255, "(h o1) (w o2) -> h w", "mean", o1=OVERSAMPLE, o2=OVERSAMPLE)
    paper, grey = rng.uniform(190, 255), rng.uniform(0, 80)
    return encode_image(np.round(paper + (grey - paper) * share).astype(np.uint8), "png", 0)


def paint_face(face: Face, part: Part, out: Path, side: int, seed: int) -> list[dict[str, Any]]:
    """Write every picture of a face; its lines of the table."""
    largest = max(max(draw_glyph(open_font(face.path, 200), letter).shape) for letter in LETTERS)
    stem = re.sub(r"[^a-z0-9]+", "-", face.name.lower())
    voicings = part.voicings()
    rows = []
    for variant in range(VARIANTS):
        rng = numpy_rng(seed, "letters", face.name, variant)
        font = open_font(face.path, 200 * FILL * side * OVERSAMPLE / largest * rng.uniform(0.85, 1.0))
        for letter in LETTERS:
            name = f"images/{letter}/{stem}-{variant:02d}.png"
            (out / name).write_bytes(paint(draw_glyph(font, letter), side, rng))
            voicing = voicings[rng.integers(len(voicings))]
            row = {"file_name": name, "label": letter, "text": say_captions(letter, face, part.wordings, rng)}
            row |= {"audio": f"sounds/{letter}/{voicing.file_name}", "face": face.name, "voice": voicing.voice}
            rows.append(row | {"attributes": {"weight": face.weight, "slant": face.slant}})
    return rows


def speak(letter: str, voicing: Voicing) -> bytes:
    """FLAC of the letter's name, without the silence around it; a letter alone is read as its name, "a" too."""
    import soundfile

    says = ["espeak-ng", "-v", voicing.voice, "-p", str(voicing.pitch), "-s", str(voicing.speed), "--stdout", letter]
    done = subprocess.run(says, capture_output=True, check=False)
    if done.returncode or not done.stdout:
        raise DataError(f"espeak-ng did not say '{letter}': {done.stderr.decode(errors='replace').strip()[:200]}.")
    samples, rate = soundfile.read(io.BytesIO(done.stdout), dtype="float64")
    loud = np.flatnonzero(np.abs(samples) > 0.02 * np.abs(samples).max())
    return encode_flac(resample(samples[loud[0] : loud[-1] + 1], rate)[None].astype(np.float32), RATE)


def resample(samples: np.ndarray, rate: int) -> np.ndarray:
    """From `rate` to RATE per second, and to a peak of 0.8, between two silences."""
    silence = np.zeros(rate // 50)
    changed = resampled(np.concatenate([silence, samples, silence]), rate, RATE)
    changed *= 0.8 / np.abs(changed).max()
    return changed


def speak_letter(letter: str, part: Part, out: Path) -> int:
    """Write every voicing of one letter; how many they are."""
    for voicing in part.voicings():
        (out / "sounds" / letter / voicing.file_name).write_bytes(speak(letter, voicing))
    return len(part.voicings())


def build_folder(out: Path, part: Part, *, side: int = 36, seed: int = 0, workers: int = 1) -> dict[str, int]:
    """Write a source folder, its table last; counts. The number of workers changes no byte.

    Raises:
        ConfigError: there is a table already.
    """
    if (out / "metadata.jsonl").exists():
        raise ConfigError(f"{out} holds a data set already: remove it, or name another folder.")
    for kind, letter in itertools.product(("images", "sounds"), LETTERS):
        (out / kind / letter).mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(workers) as pool:
        sounds = pool.map(partial(speak_letter, part=part, out=out), LETTERS)
        rows = pool.map(partial(paint_face, part=part, out=out, side=side, seed=seed), part.faces)
        lines = [json.dumps(row) for row in itertools.chain.from_iterable(rows)]
        counts = {"faces": len(part.faces), "pictures": len(lines), "sounds": sum(sounds)}
    write_atomically(out / "metadata.jsonl", "\n".join([*lines, ""]).encode())
    return counts | {"voices": len(part.voices)}


def missing_packages(faces: Iterable[Face]) -> list[str]:
    """What to install: packages none of whose families is among `faces`, and the speaker."""
    have = [face.name for face in faces]
    tables = {**FAMILIES, **HELD_OUT_FAMILIES}
    missing = [] if shutil.which("espeak-ng") else ["espeak-ng"]
    return missing + [p for p, names in tables.items() if not any(h.startswith(f"{n} ") for h in have for n in names)]


def find_parts(folder: Path) -> tuple[Part, Part]:
    """What to train on and what is held out.

    Raises:
        DataError: too few faces, or no espeak-ng; says what to type.
    """
    faces, held_out = find_faces(folder, FAMILIES, HELD_OUT_FAMILIES)
    missing = missing_packages([*faces, *held_out])
    line = f"apt-get install -y --no-install-recommends {' '.join(missing)}"
    few = len(faces) < LEAST_FACES or len(held_out) < LEAST_HELD_OUT
    if few or "espeak-ng" in missing:
        raise DataError(
            f"{folder} has {len(faces)} faces and {len(held_out)} to hold out; {LEAST_FACES} and {LEAST_HELD_OUT} are "
            f"needed{', and espeak-ng' if 'espeak-ng' in missing else ''}. Type:  {line}"
        )
    if missing:
        print(f"letters: goes on with fewer faces; for all of them type:  {line}", file=sys.stderr)
    return Part(tuple(faces), VOICES, WORDINGS), Part(tuple(held_out), HELD_OUT_VOICES, HELD_OUT_WORDINGS)


def build(options: argparse.Namespace) -> None:
    """Write both source folders; the last line is JSON."""
    parts = find_parts(options.faces_dir)
    workers = min(4, len(os.sched_getaffinity(0)))
    places = {"train": options.out, "heldout": options.out / "heldout"}
    facts: dict[str, Any] = {}
    for (name, place), part in zip(places.items(), parts, strict=True):
        facts[name] = build_folder(place, part, side=options.side, seed=options.seed, workers=workers)
        styles = Counter(f"{face.weight} {face.slant}" for face in part.faces)
        print(
            f"{place}: {facts[name]['pictures']} pictures of {len(part.faces)} faces ({dict(sorted(styles.items()))})"
        )
    print(json.dumps(facts))


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """One subcommand each; its function under `run`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser("build", help="write OUT and OUT/heldout")
    command.add_argument("out", type=Path, metavar="OUT")
    command.add_argument("--side", type=int, default=36, help="pixels; 1.125 times the size to train at")
    command.add_argument("--faces-dir", type=Path, default=Path("/usr/share/fonts"))
    command.add_argument("--seed", type=int, default=0)
    command.set_defaults(run=build)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    try:
        options.run(options)
    except TesseraError as error:
        print(f"letters: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
