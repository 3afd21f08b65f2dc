"""All conditions through the real stages: shards, align, codes, prior, and what `tessera sample` paints of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from safetensors.torch import load_file

from launchers.cli import main
from pipeline.errors import ConfigError
from pipeline.samples import decode_image, decode_npy
from pipeline.shard_index import open_shards
from pipeline.shards import read_pass, read_samples
from stages.ask import guess_look, read_picture
from stages.codes.read import CodesDecode, open_codes
from stages.codes.read_conditions import ConditionDecode, conditions_of, encoders_of
from stages.conditioning.audio_encoder import AudioEncoder
from stages.conditioning.text_encoder import TextEncoder
from stages.evaluation.config import EvaluationConfig
from stages.evaluation.obedience import Asked, named, obedience_figures, read_asked, similarity_space
from stages.generate import Painter
from stages.perceptual import Perceptual
from tests import tiny_encoders

RECIPE = """
name: all
seed: 3
tracking: {mode: disabled}
shards: {source: birds, size: 32, count: 120, val: 0.2, shard_samples: 40, workers: 1}
align:
  image_side: 32
  embedding: 32
  text: {width: 32, layers: 2}
  image: {width: 32, layers: 2}
  audio: {width: 32, layers: 2}
  vocabulary: 800
  audio_seconds: 0.8
  data: {global_batch: 24}
  loop: {steps: 6}
vqvae:
  levels: [8, 4]
  codebook_sizes: [16, 32]
  channels: 16
  loss: {perceptual: 0.1}
  data: {global_batch: 24}
  loop: {steps: 6, log_every: 2}
codes: {variants: 2, conditions: {image: [grey, sketch], vector: auto}}
prior: {width: 32, depth: 2, heads: 2, drop_each: {class: 0.5, image: 0.5}, data: {global_batch: 24}, loop: {steps: 4}}
evaluation: {samples: 10, obedience: 9, reconstructions: 20, probe_steps: 4}
"""
EVERYTHING = ["audio", "class", "image", "text", "vector"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("conditions")
    (folder / "all.yaml").write_text(RECIPE)
    assert main(["run", str(folder / "all.yaml"), "--runs", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def run(runs: Path) -> Path:
    return runs / "all"


@pytest.fixture(scope="module")
def causal(run: Path) -> Path:
    """Another prior on the same codes: autoregressive, with a layer over the tokens."""
    prior = "prior: {kind: autoregressive, whole_every: 1, condition_layers: 1, "
    recipe = RECIPE.replace("name: all", "name: causal").replace("prior: {", prior).replace("steps: 4", "steps: 2")
    head, _, tail = recipe.partition("shards:")
    used = ", ".join(f"{name}: {run / name}" for name in ("shards", "align", "vqvae", "codes"))
    path = run.parent / "causal.yaml"
    path.write_text(f"{head}use: {{{used}}}\n{tail[tail.index('prior:') : tail.index('evaluation:')]}")
    assert main(["run", str(path), "--runs", str(run.parent)]) == 0
    return run.parent / "causal"


@pytest.fixture(scope="module", params=["masked", "autoregressive"])
def painter(request: pytest.FixtureRequest, run: Path) -> Painter:
    folder = run if request.param == "masked" else request.getfixturevalue("causal")
    return Painter.load(folder, device="cpu")


@pytest.fixture
def files(run: Path, tmp_path: Path) -> Iterator[Path]:
    sample = next(read_samples(open_shards(run / "shards").split("val")[0]))
    (tmp_path / "call.flac").write_bytes(sample.members["flac"])
    (tmp_path / "bird.jpg").write_bytes(sample.members["jpg"])
    mask = np.zeros((32, 32), np.uint8)
    mask[:, 16:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    yield tmp_path


def soundfile_of(path: Path) -> tuple[np.ndarray, int]:
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return samples.T, rate


def test_the_image_tower_looks_on_while_the_autoencoder_learns(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "vqvae" / "metrics.jsonl").read_text().splitlines()]
    seen = [line["train/perceptual"] for line in lines if "train/perceptual" in line]
    assert len(seen) == 3
    assert all(0 < value < 4 for value in seen)
    eye = Perceptual(run / "align" / "model" / "clip")
    images = torch.rand(2, 3, 32, 32).mul(2).sub(1).requires_grad_()
    assert float(eye(images, images).detach()) == 0
    eye(images, images.detach().flip(3)).backward()
    assert images.grad is not None and images.grad.abs().sum() > 0
    with pytest.raises(ConfigError, match=r"no vision model at .*nowhere"):
        Perceptual(run / "nowhere")


def test_the_codes_hold_unmasked_tokens_of_every_caption_and_the_sources(run: Path) -> None:
    about = open_codes(run / "codes").conditions
    sample = next(read_samples(open_shards(run / "codes").split("train")[0]))
    members = {name: decode_npy(sample.members[name]) for name in sample.members if name.endswith(".npy")}
    captions = json.loads(sample.members["json"])["captions"]

    assert sorted(about) == ["audio", "image", "text", "vector"]
    assert about["text"]["encoder"] == "align"
    counts = members["text.counts.npy"]
    assert len(counts) == len(captions) == len(members["text.pooled.npy"])
    assert members["text.npy"].shape == (counts.sum(), about["text"]["width"])
    assert members["text.npy"].dtype == np.float16
    assert counts.max() <= about["text"]["tokens"]
    assert members["grey.level0.npy"].shape == members["sketch.level0.npy"].shape == members["level0.npy"].shape
    assert not np.array_equal(members["sketch.level1.npy"], members["level1.npy"])


def test_stored_conditions_are_what_the_encoders_say_live(run: Path) -> None:
    codes = open_codes(run / "codes")
    encoders = encoders_of(codes.conditions, [run / "align"], torch.device("cpu"))
    told = ConditionDecode(codes.conditions, tuple(codes.grids))
    stored = next(read_pass(codes.shards.split("val"), CodesDecode(2, told=told), batch_size=4, limit=4))
    first = conditions_of(stored, EVERYTHING, len(codes.classes), {})

    live_about = {n: {**a, "cache": "live"} for n, a in codes.conditions.items() if n in ("audio", "text")}
    hears = ConditionDecode(live_about, tuple(codes.grids), encoders["audio"])
    coded, given = (
        list(islice(read_samples(one.split("val")[0]), 4)) for one in (codes.shards, open_shards(run / "shards"))
    )
    both = [replace(a, members={**b.members, **a.members}) for a, b in zip(coded, given, strict=True)]
    draws = [hears(sample, None, 0, any_of=False) for sample in both]
    batch = {k: torch.stack([torch.as_tensor(d[k]) for d in draws]) for k in draws[0] if k != "caption"}
    batch["caption"] = [d["caption"] for d in draws]
    second = conditions_of(batch, ["audio", "text"], 0, encoders)

    for name in ("audio", "text"):
        a, b = first[name], second[name]
        assert a.mask.any(dim=1).all()
        torch.testing.assert_close(a.pooled, b.pooled, atol=5e-3, rtol=5e-3)
        length = b.mask.shape[1]
        assert torch.equal(a.mask[:, :length], b.mask)
        torch.testing.assert_close(a.tokens[:, :length][b.mask], b.tokens[b.mask], atol=1e-2, rtol=1e-2)


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


def test_evaluation_measures_obedience_and_similarity_per_condition(run: Path) -> None:
    found = json.loads((run / "evaluation" / "results.json").read_text())["obedience"]
    assert sorted(found) == ["audio", "class", "grey", "sketch", "text", "vector_grey", "vector_sketch"]
    for mode, figures in found.items():
        assert figures["n"] == 9
        assert set(figures["obeyed"]) == set(figures["obeyed_by_real"]), mode
    assert set(found["class"]["obeyed"]) == {"class"}
    assert {"species", "background"} <= set(found["audio"]["obeyed"])
    for mode in ("text", "audio"):
        assert -1 <= found[mode]["similarity"] <= 1
        assert {"R@1", "R@5", "real_R@1", "real_similarity"} <= set(found[mode])
    assert 0 <= found["sketch"]["edge_f1"] <= 1 and found["grey"]["luma_psnr"] > 0
    assert next((run / "evaluation" / "samples").glob("*asked_by_class_text_audio_grey_sketch_*.png")).is_file()


def test_without_attributes_the_nearest_true_picture_is_asked_for(run: Path) -> None:
    painter, val = Painter.load(run, device="cpu"), open_shards(run / "shards").split("val")
    samples = list(islice((sample for shard in val for sample in read_samples(shard)), 20))
    real = torch.from_numpy(np.stack([read_picture(decode_image(s.members["jpg"]), 32) for s in samples]))
    asked = read_asked(painter, run / "codes", {}, [sample.key for sample in samples[:10]], "val")
    figures, _ = obedience_figures(EvaluationConfig(), painter, asked, real.permute(0, 3, 1, 2), None)
    for mode in ("text", "audio", "grey"):
        assert 0 <= figures[mode]["own_picture_R@1"] <= figures[mode]["own_picture_R@5"] <= 1
        assert figures[mode]["random_coverage"] >= 0 and "obeyed" not in figures[mode]
    assert "own_picture_R@1" not in figures["class"]


def test_a_caption_is_held_to_the_class_whose_name_it_says() -> None:
    asked = Asked({}, ["an Owl in the snow", "a photo of 1 bird"], {"class": torch.tensor([1, 1])})
    assert named(asked, {"class": ["0", "1"]}, ["duck", "owl"])["class"].tolist() == [1, -1]


def test_evaluation_goes_on_without_the_clip_that_said_the_captions(
    run: Path, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    painter = Painter.load(run, device="cpu")
    assert similarity_space(painter) is not None
    painter.about["text"] = {**painter.about["text"], "encoder": str(tmp_path)}
    assert similarity_space(painter) is None
    assert "similarity is left out: no text encoder at" in caplog.text


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

    assert main([*line[:4], "-n", "1", "--out", str(out), "--device", "cpu"]) == 0  # nothing of the larger line stays
    assert len(list(out.glob("*.png"))) == 2

    assert main(["sample", str(run), "--image", str(files / "bird.jpg"), "-n", "1", "--out", str(out)]) == 0
    asked = json.loads((out / "asked.json").read_text())
    assert asked["rows"][0]["as"] == "grey" and asked["guidance"] == 2.0  # as it was taken, what was the default

    (files / "prompts").write_text('\ufeffa blue bird\n{"audio": "%s", "as": null}\n' % (files / "call.flac"))
    assert main(["sample", str(run), "--prompts", str(files / "prompts"), "-n", "1", "--out", str(out)]) == 0
    assert [row.get("text") for row in json.loads((out / "asked.json").read_text())["rows"]] == ["a blue bird", None]


@pytest.mark.parametrize(
    ("flags", "message", "code"),
    [
        (["--text", " "], "an empty text says nothing", 2),
        (["--audio", "NOISE"], "is no readable sound", 3),
        (["--audio", "missing.wav"], "no sound at missing.wav", 2),
        (["--image", "NOISE"], "not a picture", 3),
        (["--mask", "NOISE"], "give --image too", 2),
        (["--image", "PICTURE", "--as", "oil"], "--as takes grey, sketch, picture; got 'oil'", 2),
        (["--image", "PICTURE", "--as", "picture"], "it knows grey, sketch", 2),
        (["--text", "a", "--text", "b", "--class", "0", "--class", "1", "--class", "2"], "times: once, or", 2),
        (["--guidance", "much"], "--guidance is a number or", 2),
        (["--prompts", "EMPTY"], "is empty", 2),
        (["--text", "a", "--prompts", "EMPTY"], "--prompts stands alone", 2),
        (["--text", "a \udcff bird"], "the text holds bytes that are no UTF-8", 2),
        (["--text", "a", "--guidance", "audio=2"], "guidance for audio, but what is asked for is text", 2),
        (["--text", "a", "--text", "b", "--audio", "CALL", "--audio", "missing.wav"], "no sound at missing.wav", 2),
        (["--audio", "LONG"], "minutes long; at most 10 are read", 3),
        (["--class", "crow"], "no class 'crow'", 2),
        (["--image", "PICTURE", "--mask", "PICTURE", "--as", "grey"], "--as and --mask do not go together", 2),
    ],
)
def test_errors_are_one_clear_line(
    run: Path, files: Path, flags: list[str], message: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    (files / "noise").write_bytes(b"neither sound nor picture" * 9)
    (files / "empty").write_text("\n")
    soundfile.write(files / "long.flac", np.zeros(8000 * 60 * 11, np.int16), 8000)
    names = {"NOISE": "noise", "EMPTY": "empty", "LONG": "long.flac", "PICTURE": "bird.jpg", "CALL": "call.flac"}
    given = [str(files / names[flag]) if flag in names else flag for flag in flags]

    assert main(["sample", str(run), *given, "--device", "cpu"]) == code
    said = capsys.readouterr().err
    assert message in said
    assert len(said.strip().splitlines()) <= 2, said


def run_with(run: Path, conditions: str, folder: Path) -> Path:
    """The recipe again with a prior that listens to these alone, on the same codes."""
    recipe = RECIPE.replace("name: all", "name: some").replace("steps: 4", "steps: 2")
    recipe = recipe.replace("prior: {", f"prior: {{conditions: [{conditions}], ").replace(
        "{class: 0.5, image: 0.5}", "0.1"
    )
    head, _, tail = recipe.partition("shards:")
    used = ", ".join(f"{name}: {run / name}" for name in ("shards", "align", "vqvae", "codes"))
    (folder / "some.yaml").write_text(f"{head}use: {{{used}}}\n{tail[tail.index('prior:') :]}")
    assert main(["run", str(folder / "some.yaml"), "--runs", str(folder)]) == 0
    return folder / "some"


def test_a_condition_the_run_was_not_trained_on_is_named(run: Path, tmp_path: Path) -> None:
    painter = Painter.load(run_with(run, "class", tmp_path), device="cpu")
    with pytest.raises(ConfigError, match="not trained on text: it listens to class"):
        painter(text="a red bird")


def test_a_prior_may_see_the_vector_of_a_source_and_not_its_codes(run: Path, files: Path) -> None:
    some = run_with(run, "vector", files)
    results = json.loads((some / "evaluation" / "results.json").read_text())
    assert set(results["obedience"]) == {"vector_grey", "vector_sketch"}
    assert "class_accuracy" not in results["samples"]  # it was told no class
    assert Painter.load(some, device="cpu")(image=files / "bird.jpg", as_="grey")[0].size == (32, 32)


@pytest.mark.parametrize("kind", [*tiny_encoders.TEXT, *tiny_encoders.AUDIO, "log-mel"])
def test_a_users_own_encoder_runs_through_codes_prior_and_sample(run: Path, kind: str, files: Path) -> None:
    make = {**tiny_encoders.TEXT, **tiny_encoders.AUDIO}.get(kind)
    where = str(make(files / kind)) if make else kind
    name = "text" if kind in tiny_encoders.TEXT else "audio"
    cache = "live" if kind in ("clip", "clap", "hubert") else "shards"
    chosen = {"text": "none", "audio": "none", name: where, "cache": cache}
    (files / "own.yaml").write_text(
        f"seed: 1\ntracking: {{mode: disabled}}\nuse: {{shards: {run / 'shards'}, vqvae: {run / 'vqvae'}}}\n"
        f"codes: {{conditions: {json.dumps(chosen)}}}\n"
        f"prior: {{width: 32, depth: 1, heads: 2, conditions: [{name}], data: {{global_batch: 12}},"
        " loop: {steps: 2}}\n"
    )
    assert main(["run", str(files / "own.yaml"), "--runs", str(files)]) == 0
    painter = Painter.load(files / "own", device="cpu")
    asked = {"text": "a red bird"} if name == "text" else {"audio": files / "call.flac"}
    assert painter(n=1, **asked)[0].size == (32, 32)


def test_sounds_are_aligned_to_a_pretrained_clip_that_stays_as_it_is(run: Path, files: Path) -> None:
    clip = tiny_encoders.clip(files / "clip")
    tiny_encoders.image_processor(files / "clip")
    (files / "pre.yaml").write_text(
        f"tracking: {{mode: disabled}}\nuse: {{shards: {run / 'shards'}}}\nalign: {{pretrained: {clip}, "
        "audio_seconds: 0.5, audio: {width: 32, layers: 1}, data: {global_batch: 12}, loop: {steps: 3}}\n"
    )
    assert main(["run", str(files / "pre.yaml"), "--runs", str(files)]) == 0
    model = files / "pre" / "align" / "model"
    kept, given = (load_file(folder / "model.safetensors") for folder in (model / "clip", clip))
    for name, tensor in given.items():
        assert torch.equal(kept[name], tensor), name
    assert TextEncoder.load(model / "clip")(["a red bird"]).pooled.shape == (1, 48)
    assert AudioEncoder.load(model / "audio")([soundfile_of(files / "call.flac")]).present().all()


def test_another_encoder_than_the_one_that_made_the_codes_is_refused(run: Path, files: Path) -> None:
    about = open_codes(run / "codes").conditions
    other = {"text": {**about["text"], "encoder": str(tiny_encoders.clip(files / "other"))}}
    with pytest.raises(ConfigError, match="another model than the one these codes were made with"):
        encoders_of(other, [], torch.device("cpu"))
    with pytest.raises(ConfigError, match="not where the run expects"):
        encoders_of({"text": about["text"]}, [files / "nowhere"], torch.device("cpu"))


def test_how_a_picture_is_meant_is_seen() -> None:
    colourful = np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8)
    grey = np.repeat(colourful[:, :, :1], 3, axis=2)
    assert guess_look(grey, ["grey", "source"]) == "grey"
    assert guess_look(colourful, ["grey", "source"]) == "picture"
    assert guess_look(colourful, ["grey", "sketch"]) == "grey"


def test_a_bad_caption_or_sound_in_foreign_shards_is_a_reject_with_its_reason(run: Path) -> None:
    from stages.codes.views import SampleReader

    sample = next(read_samples(open_shards(run / "shards").split("val")[0]))
    reader = SampleReader(32, 1, False, (), ("text", "audio"))
    assert reader(sample).error == ""
    assert "unreadable" in reader(replace(sample, members={**sample.members, "txt": b"\xff\xfe"})).error
    assert "unreadable" in reader(replace(sample, members={**sample.members, "flac": b"no sound"})).error
    assert "no picture" in reader(replace(sample, members={"txt": b"a bird"})).error
