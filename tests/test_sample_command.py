"""What `tessera sample` and the painter make of everything that may be asked for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from PIL import Image

from launchers.cli import main
from launchers.commands.sample import _label, read_prompts
from pipeline.config import load_recipe
from pipeline.errors import ConfigError, DataError
from pipeline.stopping import StopRequest
from stages.ask import Ask
from stages.generate import Painter
from stages.given_files import read_picture
from stages.images import fit_short_side
from tests.conditions_run import EVERYTHING


def test_no_line_writes_over_the_pictures_of_another(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = (
        ["--class", "0", "--class", "1"],
        ["--class", "0", "--class", "5"],
        ["--class", "0", "--class", "1", "-n", "2"],
    )
    for line in lines:
        assert main(["sample", str(run), "-n", "1", *line, "--device", "cpu"]) == 0
    grids = {said.split()[-1] for said in capsys.readouterr().out.splitlines() if said.startswith("Open")}
    assert len(grids) == 3


def test_another_prior_of_the_run_paints_and_what_was_asked_is_printed_as_json(
    run: Path, causal: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (other := tmp_path / "run").mkdir()
    for stage in run.iterdir():
        (other / stage.name).symlink_to(stage)
    (other / "prior@causal").symlink_to(causal / "prior")
    line = ["--text", "a red bird", "--class", "owl", "-n", "2", "--json", "--device", "cpu"]
    painted, told = [], []
    for number, (folder, which) in enumerate(((other, "prior"), (other, "prior@causal"), (causal, "prior"))):
        out = tmp_path / str(number)
        assert main(["sample", str(folder), *line, "--with", which, "--out", str(out)]) == 0
        told.append(json.loads(capsys.readouterr().out))
        assert {Path(file).parent for file in told[-1]["files"]} == {out}
        painted.append([one.read_bytes() for one in sorted(out.glob("0*.png"))])
    assert [(one["with"], one["rows"][0]["text"], one["rows"][0]["class"]["name"]) for one in told[:2]] == [
        ("prior", "a red bird", "owl"), ("prior@causal", "a red bird", "owl"),
    ]  # fmt: skip
    assert painted[0] != painted[1] == painted[2] and len(painted[0]) == 2
    assert main(["sample", str(other), *line, "--with", "prior@none"]) == 2
    assert "prior@none" in capsys.readouterr().err


def test_one_model_paints_from_every_subset(painter: Painter, files: Path) -> None:
    given = {
        "cls": "owl", "text": "작은 새가 검은 날개를 가졌다", "audio": files / "call.flac", "image": files / "bird.jpg",
    }  # fmt: skip
    assert painter.listens == EVERYTHING
    painted = {}
    for names in ([], ["cls"], ["text"], ["audio"], ["image"], ["cls", "text"], list(given)):
        pictures = painter(n=2, seed=5, **{name: given[name] for name in names})
        assert [picture.size for picture in pictures] == [(32, 32)] * 2
        painted[tuple(names)] = b"".join(picture.tobytes() for picture in pictures)
    again = painter(n=2, seed=5, **given)
    assert b"".join(picture.tobytes() for picture in again) == painted[tuple(given)]


def test_a_picture_like_another_is_asked_for_as_alike(painter: Painter, files: Path) -> None:
    bird = np.asarray(Image.open(files / "bird.jpg"))
    asks = [Ask(image=bird, as_="alike"), Ask(text="a red bird"), Ask(image=bird, as_="grey")]
    told = painter.reader.conditions(asks, painter.listens)
    assert {name: one.present().tolist() for name, one in told.items()} == {
        "image": [False, False, True], "picture": [True, False, False], "text": [False, True, False],
        "vector": [False, False, True],
    }  # fmt: skip
    plain, louder, named, chosen = (
        b"".join(one.tobytes() for one in painter(image=bird, as_="alike", n=4, **more))
        for more in ({"guidance": 1.0}, {"guidance": {"image": 6.0}}, {"guidance": 6.0}, {"candidates": 3})
    )
    assert plain != louder == named != chosen  # its weight is that of an image
    assert painter(image=bird, as_="alike", text="a red bird")[0].size == (32, 32)


def test_guidance_per_modality_and_a_negative_text_are_obeyed_in_the_formula(painter: Painter, files: Path) -> None:
    ask = {"text": "a red bird", "audio": files / "call.flac", "n": 1}
    plain = painter(guidance={"text": 3.0, "audio": 1.0}, **ask)[0]
    assert plain.size == (32, 32)
    with pytest.raises(ConfigError, match="guidance for image, but what is asked for is text, audio"):
        painter(guidance={"image": 3.0}, **ask)
    without = painter(text="a red bird", negative="a red bird", guidance=5.0, n=4, temperature=0)
    neutral = painter(text="a red bird", guidance=1.0, n=4, temperature=0)
    for a, b in zip(without, neutral, strict=True):  # l + g (l - l) is l, whatever g
        assert np.array_equal(np.asarray(a), np.asarray(b))


def test_a_mask_keeps_the_rest_of_the_picture(painter: Painter, files: Path) -> None:
    pictures = painter(image=files / "bird.jpg", mask=files / "mask.png", text="a red bird", n=3)
    original = np.asarray(Image.open(files / "bird.jpg").convert("RGB").resize((32, 32), Image.Resampling.LANCZOS))
    for picture in pictures:
        kept = np.asarray(picture)[:, :14].astype(int) - original[:, :14]
        assert np.abs(kept).max() <= 2
    right = [np.asarray(picture)[:, 20:] for picture in pictures]
    assert not np.array_equal(right[0], right[1])


def test_a_picture_is_continued_on_a_larger_canvas(painter: Painter, files: Path) -> None:
    original = np.asarray(Image.open(files / "bird.jpg").convert("RGB").resize((16, 16), Image.Resampling.LANCZOS))
    canvas, mask = np.full((32, 32, 3), 255, np.uint8), np.full((32, 32), 255, np.uint8)
    canvas[8:24, 8:24], mask[8:24, 8:24] = original, 0
    picture = np.asarray(painter(image=canvas, mask=mask, text="a red bird")[0])
    assert np.abs(picture[10:22, 10:22].astype(int) - original[2:14, 2:14]).max() <= 2
    assert picture[:6].min() < 250  # painted, and not the white of the canvas


def test_the_command_paints_rows_and_says_what_was_asked(
    run: Path, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = files / "out"
    line = ["sample", str(run), "--text", "a red bird", "--text", "작은 새", "--class", "owl", "-n", "2"]
    assert main([*line, "--guidance", "text=3,class=1", "--out", str(out), "--device", "cpu"]) == 0
    asked = json.loads((out / "asked.json").read_text())

    assert [row["text"] for row in asked["rows"]] == ["a red bird", "작은 새"]
    assert all(row["class"]["name"] == "owl" for row in asked["rows"])
    assert asked["guidance"] == {"text": 3.0, "class": 1.0}
    assert asked["sampling"]["temperature"] == 1.0
    assert len(asked["files"]) == 5
    assert all(Path(file).is_file() for file in asked["files"])

    some = [
        "sample",
        str(run),
        "--text",
        "a red bird",
        "--class",
        "owl",
        "--candidates",
        "2",
        "-n",
        "1",
        "--out",
        str(out),
    ]
    assert main([*some, "--device", "cpu"]) == 0
    assert json.loads((out / "asked.json").read_text())["rows"][0]["candidates"] == 2

    assert main([*line[:4], "-n", "1", "--out", str(out), "--device", "cpu"]) == 0  # nothing of the larger line stays
    assert len(list(out.glob("*.png"))) == 2

    assert main(["sample", str(run), "--image", str(files / "bird.jpg"), "-n", "1", "--out", str(out)]) == 0
    asked = json.loads((out / "asked.json").read_text())
    assert asked["rows"][0]["as"] == "grey" and asked["guidance"] == 2.0  # as it was taken, what was the default

    (files / "prompts").write_text('\ufeffa blue bird\n{"audio": "%s", "as": null}\n' % (files / "call.flac"))
    assert main(["sample", str(run), "--prompts", str(files / "prompts"), "-n", "1", "--out", str(out)]) == 0
    assert [row.get("text") for row in json.loads((out / "asked.json").read_text())["rows"]] == ["a blue bird", None]

    bird = str(files / "bird.jpg")
    given = [
        {"text": "red", "negative": "blue", "class": "owl"},
        {"image": bird, "mask": str(files / "mask.png"), "text": "red"},
        {"image": bird, "as": "sketch", "audio": str(files / "call.flac")},
    ]
    (files / "prompts").write_text("".join(json.dumps(row) + "\n" for row in given))
    assert main(["sample", str(run), "--prompts", str(files / "prompts"), "-n", "1", "--out", str(out)]) == 0
    rows = json.loads((out / "asked.json").read_text())["rows"]
    assert [row | ({"class": row["class"]["name"]} if "class" in row else {}) for row in rows] == given


def test_what_of_a_text_is_not_read_is_said_and_kept(run: Path, files: Path, caplog: pytest.LogCaptureFixture) -> None:
    out = files / "long-text"
    said = " ".join(["a red bird in the snow"] * 20 + ["beside a heron"])
    assert main(["sample", str(run), "--text", said, "-n", "1", "--out", str(out), "--device", "cpu"]) == 0
    [row] = json.loads((out / "asked.json").read_text())["rows"]
    assert row["text"] == said and row["text_cut_off"].endswith("beside a heron")
    assert caplog.text.count("cut off: '") == 1 and "longer than its encoder takes; cut off: '" in caplog.text
    assert max(map(len, caplog.messages)) < 200


@pytest.mark.parametrize(
    ("kind", "rate"),
    [("wav", 44_100), ("wav", 7_919), ("flac", 96_000), ("ogg", 22_050), ("mp3", 11_025), ("opus", 48_000)],
)
def test_sounds_of_any_kind_and_rate_steer_a_picture_silence_too(
    painter: Painter, files: Path, kind: str, rate: int
) -> None:
    stereo = np.stack([np.sin(np.arange(4410) / 9), np.zeros(4410)], axis=1).astype(np.float32)
    for name, samples in (("tone", stereo), ("silence", np.zeros_like(stereo))):
        how = {"format": "OGG", "subtype": "OPUS"} if kind == "opus" else {}
        soundfile.write(path := files / f"{name}.{kind}", samples, rate, **how)
        assert painter(audio=path)[0].size == (32, 32)
    heard = painter.reader.conditions([Ask(audio=files / f"{name}.{kind}") for name in ("tone", "silence")], ["audio"])
    tone, silence = heard["audio"].pooled
    whole = painter.reader.conditions([Ask(audio=(stereo.T, rate))], ["audio"])["audio"].pooled[0]
    assert torch.cosine_similarity(tone, whole, dim=0) > 0.95, "a compressed tone is the tone"
    assert (tone - silence).norm() > 1e-3


def test_sounds_given_as_numbers_are_looked_at_too(painter: Painter) -> None:
    with pytest.raises(DataError, match="finite"):
        painter(audio=(np.full((1, 800), np.nan, np.float32), 8000))
    with pytest.raises(DataError, match="11 minutes long; at most 10"):
        painter(audio=(np.zeros(660, np.float32), 1))
    for wrong in (np.zeros(800, np.int16), np.zeros((800, 2), np.float32)):  # loud, and the wrong way round
        with pytest.raises(DataError, match=r"floats from -1 to 1, finite, \(t,\) or \(channels, t\).*; got"):
            painter(audio=(wrong, 8000))


def test_a_row_of_prompts_ends_at_a_newline_alone(tmp_path: Path) -> None:
    strange = "a bird\u2028in the\x0bsnow"
    (tmp_path / "rows").write_bytes(f'{{"text": "{strange[:13]}"}}\r\n{strange}\n'.encode())
    assert [row["text"] for _, row in read_prompts(tmp_path / "rows")] == [strange[:13], strange]


def test_a_strip_is_cut_before_it_is_scaled() -> None:
    strip = np.zeros((2, 90_000, 3), np.uint8)
    strip[:, 44_999:45_001] = 255
    square = read_picture(strip, 64)
    assert square.shape == (64, 64, 3) and square[:, 24:40].mean() > 200
    assert fit_short_side(strip, 64).shape == (64, 16 * 64, 3)
    assert fit_short_side(strip.swapaxes(0, 1), 64).shape == (16 * 64, 64, 3)


def test_a_picture_given_as_such_is_turned_upright_as_its_file_is(tmp_path: Path) -> None:
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:, :20] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    Image.fromarray(pixels).save(tmp_path / "phone.png", exif=exif)
    by_path = read_picture(tmp_path / "phone.png", 16)
    assert np.array_equal(read_picture(Image.open(tmp_path / "phone.png"), 16), by_path)
    assert not np.array_equal(read_picture(pixels, 16), by_path)


def test_the_same_name_typed_elsewhere_is_another_picture(
    run: Path, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for place in "ab":
        (tmp_path / place).mkdir()
        shutil.copy(files / "call.flac", tmp_path / place / "call.flac")
        monkeypatch.chdir(tmp_path / place)
        assert main(["sample", str(run), "-n", "1", "--audio", "call.flac", "--device", "cpu"]) == 0
    grids = {said.split()[-1] for said in capsys.readouterr().out.splitlines() if said.startswith("Open")}
    assert len(grids) == 2 and all(Path(grid).is_file() for grid in grids)


def test_a_stopped_line_says_that_nothing_was_kept(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stops(*_: object, **__: object) -> None:
        raise StopRequest

    monkeypatch.setattr(Painter, "fulfil", stops)
    assert main(["sample", str(run), "-n", "1", "--out", str(tmp_path / "out"), "--device", "cpu"]) == 85
    assert "before the pictures were written; the same line paints them anew" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message", "code"),
    [
        (["--text", " "], "an empty text says nothing", 2),
        (["--audio", "NOISE"], "is no readable sound", 3),
        (["--audio", "missing.wav"], "no sound at missing.wav", 2),
        (["--image", "NOISE"], "not a picture", 3),
        (["--mask", "NOISE"], "give --image too", 2),
        (["--image", "PICTURE", "--as", "oil"], "--as takes grey, sketch, picture, alike; got 'oil'", 2),
        (["--text", "a", "--text", "b", "--class", "0", "--class", "1", "--class", "2"], "times: once, or", 2),
        (["--guidance", "much"], "--guidance is a number or", 2),
        (["--text", "a", "--guidance", "nan"], "--guidance is a number or", 2),
        (["--audio", "NAN"], "is no readable sound", 3),
        (["--prompts", "EMPTY"], "is empty", 2),
        (["--text", "a", "--prompts", "EMPTY"], "--prompts stands alone", 2),
        (["--text", "a \udcff bird"], "the text holds bytes that are no UTF-8", 2),
        (["--text", "a", "--guidance", "audio=2"], "guidance for audio, but what is asked for is text", 2),
        (["--text", "a", "--text", "b", "--audio", "CALL", "--audio", "missing.wav"], "no sound at missing.wav", 2),
        (["--audio", "LONG"], "minutes long; at most 10 are read", 3),
        (["--class", "crow"], "no class 'crow'", 2),
        (["--image", "PICTURE", "--mask", "PICTURE", "--as", "grey"], "--as and --mask do not go together", 2),
        (["--prompts", "HOLLOW"], "hollow:2: an empty 'text' says nothing", 2),
        (["--prompts", "LATIN"], "latin cannot be read: 'utf-8' codec", 2),
        (["--prompts", "CROW"], "crow:3: no class 'crow'", 2),
        (["--prompts", "GONE"], "gone:2: no picture at gone.jpg", 2),
        (["--prompts", "DEEP"], "deep:1 is no JSON object", 2),
        (
            ["--image", "PICTURE", "--mask", "WHITE"],
            "the mask is all white (nothing of the picture would stay): pai",
            2,
        ),
        (["--image", "WIDE", "--mask", "EDGE"], "all black (nothing is new) in the centre square that is painted", 2),
        (["--text", "a", "--out", "NOISE/deeper"], "Not a directory. Name another", 2),
        (["--text", "a", "--device", "gpu"], "no device 'gpu' here", 2),
        (["--text", "a", "--out", "NOISE"], "noise: File exists. Name another", 2),
    ],
)
def test_errors_are_one_clear_line(
    run: Path, files: Path, flags: list[str], message: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    (files / "noise").write_bytes(b"neither sound nor picture" * 9)
    (files / "empty").write_text("\n")
    (files / "hollow").write_text('a bird\n{"text": " "}\n')
    (files / "latin").write_bytes("un bel été\n".encode("latin-1"))
    soundfile.write(files / "long.flac", np.zeros(8000 * 60 * 11, np.int16), 8000)
    soundfile.write(files / "nan.wav", np.full(800, np.nan, np.float32), 8000, subtype="FLOAT")
    (files / "crow").write_text('a bird\n\n{"class": "crow"}\n')
    (files / "gone").write_text('a bird\n{"image": "gone.jpg"}\n')
    (files / "deep").write_text("{" + '"a": {' * 100_000 + "\n")
    edge = np.zeros((40, 80), np.uint8)
    Image.fromarray(edge).save(files / "wide.png")
    edge[:, :10] = 255
    Image.fromarray(edge).save(files / "edge.png")
    Image.new("L", (9, 9), 255).save(files / "white.png")
    names = {
        "CROW": "crow",
        "GONE": "gone",
        "DEEP": "deep",
        "WIDE": "wide.png",
        "EDGE": "edge.png",
        "WHITE": "white.png",
        "NAN": "nan.wav",
        "NOISE": "noise",
        "EMPTY": "empty",
        "HOLLOW": "hollow",
        "LATIN": "latin",
        "LONG": "long.flac",
        "PICTURE": "bird.jpg",
        "CALL": "call.flac",
    }
    names["NOISE/deeper"] = "noise/deeper"
    given = [str(files / names[flag]) if flag in names else flag for flag in flags]

    assert main(["sample", str(run), "--device", "cpu", *given]) == code
    said = capsys.readouterr().err
    assert message in said
    assert len(said.strip().splitlines()) <= 2, said


def test_a_folder_is_named_by_what_is_asked_in_any_script(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["-n", "1", "--device", "cpu", "--text", "\U00020000" * 70, "--class", "owl"]
    assert main(["sample", str(run), *line]) == 0
    folder = Path(capsys.readouterr().out.split()[-1]).parent
    assert folder.name.startswith("owl-\U00020000\U00020000") and len(folder.name.encode()) < 255


@pytest.mark.parametrize(
    ("flags", "rows"),
    [
        ("--image bird.jpg --mask mask.png --text red", [{"image": "bird.jpg", "mask": "mask.png", "text": "red"}]),
        ("--text red --negative blue --guidance 3", [{"text": "red", "negative": "blue"}]),
        (
            "--image bird.jpg --as sketch --audio call.flac",
            [{"image": "bird.jpg", "as": "sketch", "audio": "call.flac"}],
        ),
        (
            "--audio call.flac --audio call.flac --class 1",
            [{"audio": "call.flac", "class": {"number": 1, "name": "finch"}}] * 2,
        ),
        (
            "--image bird.jpg --image bird.jpg --as grey --as alike",
            [{"image": "bird.jpg", "as": "grey"}, {"image": "bird.jpg", "as": "alike"}],
        ),
    ],
)
def test_flags_alone_repeated_and_combined_are_written_down(
    run: Path, files: Path, flags: str, rows: list[dict[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(files)
    line = ["sample", str(run), *flags.split(), "-n", "1", "--out", "out", "--device", "cpu"]
    assert main(line) == 0
    asked = json.loads((files / "out" / "asked.json").read_text())
    names = Painter.load(run, device="cpu").classes
    expected = [{k: {"number": 1, "name": names[1]} if k == "class" else v for k, v in row.items()} for row in rows]
    assert asked["rows"] == expected
    assert asked["guidance"] == (3.0 if "--guidance" in flags else 2.0)
    assert len(list((files / "out").glob("0*.png"))) == len(rows)


def test_names_of_files_need_not_be_text(run: Path, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    odd = files / "b\udcedrd.jpg"
    odd.write_bytes((files / "bird.jpg").read_bytes())
    line = ["sample", str(run), "--image", str(odd), "-n", "1", "--out", str(files / "o\udcedt"), "--device", "cpu"]
    assert main(line) == 0
    assert json.loads((files / "o\udcedt" / "asked.json").read_bytes())["rows"][0]["image"] == str(odd)
    assert capsys.readouterr().out.splitlines()[-1].endswith("grid.png")


def test_what_was_painted_and_pictures_with_transparency_are_taken_too(painter: Painter, files: Path) -> None:
    first = painter(image=Image.open(files / "bird.jpg"), as_="grey")[0]
    assert painter(image=first, as_="grey")[0].size == (32, 32)
    pixels = np.full((32, 32, 4), 255, np.uint8)
    pixels[:, :, 3] = 0  # nothing to be seen: white
    white = np.full((32, 32, 3), 255, np.uint8)
    a, b = (painter(image=one, as_="sketch", text="a red bird", candidates=1)[0] for one in (pixels, white))
    assert np.array_equal(np.asarray(a), np.asarray(b))
    for wrong in (np.zeros((8, 8, 3)), np.zeros((8, 8, 2), np.uint8), np.zeros((3, 8, 8), np.uint8)):
        with pytest.raises(DataError, match="an image is uint8"):
            painter(image=wrong, as_="grey")


def test_a_negative_text_is_refused_by_a_run_that_hears_none(painter: Painter) -> None:
    with pytest.raises(ConfigError, match="trained on text; this one listens to class, image"):
        painter.reader.negatives([Ask(negative="a red bird")], ["class", "image"])


def test_a_run_is_measured_by_the_command_wherever_it_lies_and_whatever_it_is_called(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(runs / "all", again := tmp_path / "all, again")
    shutil.move(again / "vqvae", tmp_path / "lent" / "vqvae")
    recipe = yaml.safe_load((again / "recipe.yaml").read_text())
    del recipe["vqvae"]
    (again / "recipe.yaml").write_text(yaml.safe_dump(recipe | {"use": {"vqvae": "elsewhere/lent/vqvae"}}))
    monkeypatch.chdir(again)
    capsys.readouterr()
    assert main(["evaluate", ".", "evaluation.samples=8", "--redo", "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert results["samples"]["n"] == 8 and "obedience" in results
    assert (again / "report.html").is_file() and (again / "old" / "evaluation-1").is_dir()
    assert str(tmp_path / "lent" / "vqvae") in (again / "report.html").read_text()
    assert load_recipe(again / "recipe.yaml").name == "all"
    assert main(["evaluate", ".", "prior.width=64"]) == 2
    assert "'prior.width=64' is no setting of the evaluation" in capsys.readouterr().err


def test_a_row_whose_words_the_grid_cannot_write_says_where_they_are() -> None:
    assert _label(Ask(cls=1, text="노란 앵무새"), ["duck", "owl"]) == "owl (see asked.json)"
    asked = Ask(text="a red owl", image="photos/a.jpg", as_="grey", negative="snow")
    assert _label(asked, []) == "a red owl a as grey not snow"
    assert _label(Ask(text="a red owl"), []) == "a red owl" and _label(Ask(), []) == ""
