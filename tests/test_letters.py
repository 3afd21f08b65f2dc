"""Letters: faces are read as their names say, the bytes repeat, and what is held out is nowhere else."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from benchmarks import letters
from benchmarks.letters import FAMILIES, HELD_OUT_FAMILIES, LETTERS, WORDS, Face, Part, Voicing
from data_prep import shard
from data_prep.verify import verify
from pipeline.shard_index import open_shards
from tests.test_sharding import config, samples_of

FONTS = Path("/usr/share/fonts")
needs_espeak = pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")


@pytest.fixture(scope="module")
def faces() -> list[list[Face]]:
    found = letters.find_faces(FONTS, FAMILIES, HELD_OUT_FAMILIES)
    if len(found[0]) < 2:
        pytest.skip(f"none of the fonts in the docstring of benchmarks/letters.py is in {FONTS}")
    return found


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """One picture of each letter and face, one sound of each letter and voice."""
    monkeypatch.setattr(letters, "VARIANTS", 1)
    monkeypatch.setattr(letters, "PITCHES", (50,))
    monkeypatch.setattr(letters, "SPEEDS", (160,))


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("name", "style"),
    [
        ("Lato Hairline Italic", ("thin", "slanted")),
        ("Clear Sans Light Regular", ("thin", "upright")),
        ("DejaVu Sans Book", ("regular", "upright")),
        ("CMU Serif BoldItalic", ("bold", "slanted")),
        ("Open Sans Extrabold", ("bold", "upright")),
        ("Cabin SemiBold Italic", None),
        ("DejaVu Sans Condensed Bold", None),
    ],
)
def test_weight_and_slant_are_what_the_name_says(name: str, style: tuple[str, str] | None) -> None:
    assert letters.style_of(name) == style


def test_a_face_has_26_letters_and_no_other_face_draws_the_same(faces: list[list[Face]]) -> None:
    everything = [face for some in faces for face in some]
    drawn = set()
    for face in everything[:10]:
        font = letters.open_font(face.path, 60)
        glyphs = [letters.draw_glyph(font, letter) for letter in LETTERS]
        assert all(glyph.max() > 200 for glyph in glyphs)
        assert len({glyph.tobytes() for glyph in glyphs}) == len(LETTERS)
        drawn.add(b"".join(glyph.tobytes() for glyph in glyphs))
    assert len(drawn) == len(everything[:10]) and len({face.name for face in everything}) == len(everything)


def test_a_copy_of_a_face_and_a_broken_font_are_passed_over(faces: list[list[Face]], tmp_path: Path) -> None:
    for name in ("one.ttf", "two.ttf"):
        shutil.copy(faces[0][0].path, tmp_path / name)
    (tmp_path / "three.ttf").write_bytes(b"no font")

    assert [face.name for face in letters.find_faces(tmp_path, FAMILIES)[0]] == [faces[0][0].name]


@pytest.mark.parametrize("wordings", [letters.WORDINGS, letters.HELD_OUT_WORDINGS])
def test_every_caption_says_letter_weight_and_slant(wordings: tuple[str, ...]) -> None:
    for number, letter in enumerate(LETTERS):
        face = Face("", "", ("thin", "regular", "bold")[number % 3], ("slanted", "upright")[number % 2])
        captions = letters.say_captions(letter, face, wordings, np.random.default_rng(number))
        assert len(set(captions)) == min(len(wordings), letters.CAPTIONS)
        for caption in captions:
            said = caption.replace(",", "").replace(":", "").split()
            named = [kind for kind in WORDS if set(said) & set(WORDS[kind])]
            assert sorted(named) == sorted([face.weight, face.slant]) and letter in said
            assert not re.match("a [aeiou]", caption)


def test_what_is_held_out_shares_no_family_voice_or_wording() -> None:
    names = [[family for some in table.values() for family in some] for table in (FAMILIES, HELD_OUT_FAMILIES)]
    assert not set(names[0]) & set(names[1]) and not set(letters.WORDINGS) & set(letters.HELD_OUT_WORDINGS)
    throats = [{voice.partition("+")[2] for voice in some} for some in (letters.VOICES, letters.HELD_OUT_VOICES)]
    assert not throats[0] & throats[1]
    accents = [{voice.partition("+")[0] for voice in some} for some in (letters.VOICES, letters.HELD_OUT_VOICES)]
    assert accents[1] <= accents[0]


def test_the_docstring_installs_what_the_tables_need() -> None:
    line = (letters.__doc__ or "").partition("--no-install-recommends")[2].partition("\n\n")[0]
    assert line.replace("\\", "").split() == ["espeak-ng", *FAMILIES, *HELD_OUT_FAMILIES]


@needs_espeak
def test_each_letter_is_a_short_sound_and_a_name_of_its_own(tmp_path: Path) -> None:
    for voice in {name.partition("+")[0] for name in (*letters.VOICES, *letters.HELD_OUT_VOICES)}:
        names = [
            subprocess.run(["espeak-ng", "-q", "-x", "-v", voice, letter], capture_output=True, check=True).stdout
            for letter in LETTERS
        ]
        assert len(set(names)) == len(LETTERS)
    for letter in "aw":  # an article that is a letter too, and the longest name
        (tmp_path / "x.flac").write_bytes(letters.speak(letter, Voicing("en-gb+f5", 40, min(letters.SPEEDS))))
        samples, rate = soundfile.read(tmp_path / "x.flac")
        assert rate == 16_000 and 0.2 < len(samples) / rate < 1 and 0.7 < abs(samples).max() < 0.9


@pytest.mark.parametrize("rate", [16_000, 22_050])
def test_resampling_keeps_the_tone(rate: int) -> None:
    tone = np.sin(2 * np.pi * 1000 * np.arange(rate // 4) / rate)
    changed = letters.resample(tone, rate)

    assert abs(len(changed) / letters.RATE - (len(tone) / rate + 2 * (rate // 50) / rate)) < 1e-3
    assert abs(np.abs(np.fft.rfft(changed)).argmax() * letters.RATE / len(changed) - 1000) < 5


@needs_espeak
@pytest.mark.usefixtures("small")
def test_the_bytes_repeat_for_any_number_of_workers_and_follow_the_seed(
    faces: list[list[Face]], tmp_path: Path
) -> None:
    part = Part(tuple(faces[0][:3]), ("en-us",), letters.WORDINGS)
    for name, seed, workers in (("one", 0, 1), ("two", 0, 2), ("other", 1, 1)):
        counts = letters.build_folder(tmp_path / name, part, seed=seed, workers=workers)
    assert counts == {"faces": 3, "pictures": 78, "sounds": 26, "voices": 1}

    one, other = files_of(tmp_path / "one"), files_of(tmp_path / "other")
    assert one == files_of(tmp_path / "two") and one.keys() == other.keys()
    pictures = [name for name in one if name.endswith(".png")]
    assert len(pictures) == 78 and sum(one[name] != other[name] for name in pictures) > 70
    for name in pictures[:26]:
        pixels = np.asarray(Image.open(tmp_path / "one" / name)).astype(int)
        paper = pixels[0, 0]
        assert pixels.shape == (36, 36) and pixels.min() < 0.75 * paper
        rim = np.ones_like(pixels, bool)
        rim[4:-4, 4:-4] = False  # every crop to 32 px shows what is within
        assert (abs(pixels - paper)[rim] <= 0.2 * paper).all()


@needs_espeak
@pytest.mark.usefixtures("small")
def test_both_folders_are_built_apart_and_tessera_shards_them(
    faces: list[list[Face]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if not faces[1]:
        pytest.skip(f"none of the fonts to hold out is in {FONTS}")
    for name in ("LEAST_FACES", "LEAST_HELD_OUT"):
        monkeypatch.setattr(letters, name, 1)
    monkeypatch.setattr(letters, "VOICES", ("en-us", "en-gb+f2"))
    monkeypatch.setattr(letters, "HELD_OUT_VOICES", ("en-us+m4",))
    (tmp_path / "fonts").mkdir()
    for face in (*faces[0][:2], *faces[1][:1]):
        shutil.copy(face.path, tmp_path / "fonts")
    out = tmp_path / "out"
    command = ["build", str(out), "--faces-dir", str(tmp_path / "fonts")]

    assert letters.main(command) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["heldout"]["pictures"] == 26
    rows, kept_out = rows_of(out), rows_of(out / "heldout")
    for column in ("face", "voice"):
        assert not {row[column] for row in rows} & {row[column] for row in kept_out}
    for folder, some in ((out, rows), (out / "heldout", kept_out)):
        shard(config(folder, val=0.2), tmp_path / f"{folder.name} shards")
        assert verify(tmp_path / f"{folder.name} shards") == []
        assert open_shards(tmp_path / f"{folder.name} shards").info["classes"] == list(LETTERS)
        samples = samples_of(tmp_path / f"{folder.name} shards")
        assert samples.keys() == {row["file_name"] for row in some}
        for row in some:
            sample: dict[str, Any] = samples[row["file_name"]]
            assert LETTERS[sample["cls"]] == row["label"] and sample["txt"] == row["text"][0] and "flac" in sample
            assert sample["json"]["attributes"] == row["attributes"]
    assert letters.main(command) == 2 and "remove it" in capsys.readouterr().err


def test_missing_fonts_are_one_line_that_says_what_to_type(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert letters.main(["build", str(tmp_path / "out"), "--faces-dir", str(tmp_path)]) == 3
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "apt-get install" in error and "fonts-dejavu" in error
    assert not (tmp_path / "out").exists()
