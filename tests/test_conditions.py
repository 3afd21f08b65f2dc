"""All conditions through the real stages: shards, align, codes, prior, evaluation."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from launchers.cli import main
from pipeline.batch import Draw
from pipeline.errors import ConfigError
from pipeline.samples import decode_image, decode_npy
from pipeline.shard_index import open_shards
from pipeline.shards import read_samples
from stages.ask import Ask, guess_look
from stages.codes.read import open_codes
from stages.codes.read_conditions import ConditionDecode
from stages.codes.views import SampleReader
from stages.conditioning.image_encoder import ImageEncoder
from stages.conditioning.text_encoder import TextEncoder
from stages.evaluation.config import EvaluationConfig
from stages.evaluation.measure import Real, with_codes
from stages.evaluation.obedience import Asked, named, obedience_figures, read_asked, similarity_space
from stages.evaluation.probe_model import Probe
from stages.generate import Painter
from stages.given_files import read_picture
from stages.perceptual import Perceptual
from stages.prior.load import load_prior
from tests.conditions_run import RECIPE


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


def test_what_the_conditions_foretell_is_learned_with_the_prior(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "prior" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["train/loss_foretold"] for line in lines if "train/loss" in line]
    assert losses and all(0 < loss < 20 for loss in losses)
    prior, _ = load_prior(run / "prior")
    assert prior.arguments["foretells"] and prior.foretold(prior.guide({}, {}, 2)) is not None


def test_the_codes_hold_unmasked_tokens_of_every_caption_and_the_sources(run: Path) -> None:
    about = open_codes(run / "codes").conditions
    sample = next(read_samples(open_shards(run / "codes").split("train")[0]))
    members = {name: decode_npy(sample.members[name]) for name in sample.members if name.endswith(".npy")}
    captions = json.loads(sample.members["json"])["captions"]

    assert sorted(about) == ["audio", "image", "picture", "text", "vector"]
    assert about["text"]["encoder"] == "align"
    counts = members["text.counts.npy"]
    assert len(counts) == len(captions) == len(members["text.pooled.npy"])
    assert members["text.npy"].shape == (counts.sum(), about["text"]["width"])
    assert members["text.npy"].dtype == np.float16
    assert counts.max() <= about["text"]["tokens"]
    assert members["grey.level0.npy"].shape == members["sketch.level0.npy"].shape == members["level0.npy"].shape
    assert not np.array_equal(members["sketch.level1.npy"], members["level1.npy"])


def test_the_vector_of_the_picture_is_what_the_clip_sees_in_its_first_view(run: Path) -> None:
    coded, given = (next(read_samples(open_shards(run / one).split("val")[0])) for one in ("codes", "shards"))
    clip = ImageEncoder.load(run / "align" / "model" / "clip")
    views = SampleReader(32, 2, flips=False)(given).views
    seen = clip(torch.from_numpy(views)).pooled
    stored = torch.from_numpy(decode_npy(coded.members["picture.vector.npy"]).astype(np.float32))
    torch.testing.assert_close(stored, seen[0], atol=5e-3, rtol=5e-3)
    assert not torch.allclose(stored, seen[1], atol=5e-3)


def test_evaluation_measures_obedience_and_similarity_per_condition(run: Path) -> None:
    found = json.loads((run / "evaluation" / "results.json").read_text())["obedience"]
    assert sorted(found) == ["audio", "class", "grey", "picture", "sketch", "text", "vector_grey", "vector_sketch"]
    for mode, figures in found.items():
        assert figures["n"] == 9
        assert set(figures["obeyed"]) == set(figures["obeyed_by_real"]), mode
    assert set(found["class"]["obeyed"]) == {"class"}
    assert {"species", "background"} <= set(found["audio"]["obeyed"])
    for mode in ("text", "audio"):
        assert -1 <= found[mode]["similarity"] <= 1
        assert {"R@1", "R@5", "real_R@1", "real_similarity"} <= set(found[mode])
    assert 0 <= found["sketch"]["edge_f1"] <= 1 and found["grey"]["luma_psnr"] > 0
    assert next((run / "evaluation" / "samples").glob("*asked_by_class_text_audio_picture_grey_sketch_*.png")).is_file()


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


def test_a_picture_without_codes_is_not_asked_for(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    val = open_shards(run / "shards").split("val")
    keys = [sample.key for shard in val for sample in read_samples(shard)][:6]
    pictures, labels = torch.arange(8, dtype=torch.uint8).reshape(8, 1, 1, 1).expand(-1, 3, 1, 1), torch.arange(8)
    real = Real(pictures, labels, {"size": labels}, [*keys[:3], "rejected", *keys[3:], "another"])
    left = with_codes(real, run / "codes", "val")
    assert left.keys == keys
    assert left.labels.tolist() == left.attributes["size"].tolist() == left.images[:, 0, 0, 0].tolist()
    assert left.labels.tolist() == [0, 1, 2, 4, 5, 6]
    assert "2 pictures of val have no codes" in caplog.text
    assert with_codes(left, run / "codes", "val") is left


def test_a_caption_is_held_to_the_class_whose_name_it_says() -> None:
    asked = Asked({}, ["an Owl in the snow", "a photo of 1 bird"], {"class": torch.tensor([1, 1])})
    assert named(asked, {"class": ["0", "1"]}, ["duck", "owl"])["class"].tolist() == [1, -1]


def test_what_the_data_says_a_caption_names_counts_before_its_words(run: Path) -> None:
    captions, green = ["a green hill", "a green bird", "a green wing"], torch.tensor([0, 0, 0])
    told = {"body": torch.tensor([0, 1, -1])}
    asked = Asked({}, captions, {"body": green}, told)
    assert named(asked, {"body": ["green", "red"]}, [])["body"].tolist() == [-1, 0, 0]
    painter, val = Painter.load(run, device="cpu"), open_shards(run / "shards").split("val")
    samples = list(islice((sample for shard in val for sample in read_samples(shard)), 10))
    values = {"body": ["black", "blue"], "class": ["0", "1"]}
    read = read_asked(painter, run / "codes", values, [sample.key for sample in samples], "val").named
    first = [json.loads(sample.members["json"])["named"][0] for sample in samples]
    assert read["body"].tolist() == ["body" in names for names in first]
    assert read["class"].tolist() == ["species" in names for names in first]
    assert 0 < sum(read["body"].tolist()) < 10


def test_evaluation_goes_on_without_the_clip_that_said_the_captions(
    run: Path, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    assert similarity_space(Painter.load(run, device="cpu")) is not None
    painter = Painter.load(run, device="cpu")
    told = {"text": painter.reader.conditions([Ask(text="a red bird")], painter.listens)["text"]}
    painter.about["text"] = {**painter.about["text"], "encoder": str(tmp_path)}
    assert similarity_space(painter) is None
    painter.settings = replace(painter.settings, candidates=3)  # as a recipe may ask
    assert len(painter.paint_conditions(told, torch.arange(1))) == 1
    assert "similarity is left out: no text encoder at" in caplog.text


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


def test_a_condition_the_run_was_not_trained_on_is_named(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    deaf = run_with(run, "class", tmp_path)
    assert main(["sample", str(deaf), "--text", "a red bird", "--device", "cpu"]) == 2
    said = capsys.readouterr().err
    assert "not trained on text: it listens to class" in said and "Traceback" not in said
    painter = Painter.load(deaf, device="cpu")
    with pytest.raises(ConfigError, match="not trained on text: it listens to class"):
        painter(text="a red bird")


def test_a_prior_may_see_the_vector_of_a_source_and_not_its_codes(run: Path, files: Path) -> None:
    some = run_with(run, "vector", files)
    results = json.loads((some / "evaluation" / "results.json").read_text())
    assert set(results["obedience"]) == {"vector_grey", "vector_sketch"}
    assert "class_accuracy" not in results["samples"]  # it was told no class
    painter = Painter.load(some, device="cpu")
    assert painter(image=files / "bird.jpg", as_="grey")[0].size == (32, 32)
    for look in ("picture", "alike"):
        with pytest.raises(ConfigError, match=f"taken as '{look}': it knows grey, sketch"):
            painter(image=files / "bird.jpg", as_=look)


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


def test_training_hears_every_caption_as_its_encoder_says_it(run: Path) -> None:
    codes = open_codes(run / "codes")
    encoder = TextEncoder.load(run / "align" / "model" / "clip")
    told = ConditionDecode({"text": codes.conditions["text"]}, tuple(codes.grids))
    sample = next(read_samples(codes.shards.split("train")[0]))
    captions = json.loads(sample.members["json"])["captions"]
    said = {caption: encoder([caption]) for caption in captions}
    heard: dict[str, int] = dict.fromkeys(captions, 0)
    for row in range(60):
        fields = told(sample, Draw(0, 0, 0, row), 0, any_of=True)
        count, pooled = fields["text_count"], torch.as_tensor(fields["text_pooled"]).float()
        near = {text: float((one.pooled[0] - pooled).abs().max()) for text, one in said.items()}
        text = min(near, key=lambda name: near[name])
        assert near[text] < 5e-3 and count == int(said[text].mask.sum())
        tokens = torch.as_tensor(fields["text"][:count]).float()
        torch.testing.assert_close(tokens, said[text].tokens[0][said[text].mask[0]], atol=1e-2, rtol=1e-2)
        heard[text] += 1
    assert len(captions) > 2 and min(heard.values()) > 0


def test_captions_that_name_no_attribute_are_judged_by_their_own_picture(run: Path) -> None:
    painter, val = Painter.load(run, device="cpu"), open_shards(run / "shards").split("val")
    samples = list(islice((sample for shard in val for sample in read_samples(shard)), 20))
    real = torch.from_numpy(np.stack([read_picture(decode_image(s.members["jpg"]), 32) for s in samples]))
    values = {"class": [str(i) for i in range(8)]}
    asked = read_asked(painter, run / "codes", values, [sample.key for sample in samples[:10]], "val")
    silent = replace(asked, captions=["a photo"] * 10, named={})
    probe = Probe(values).eval()
    figures, _ = obedience_figures(EvaluationConfig(), painter, silent, real.permute(0, 3, 1, 2), probe)
    assert figures["text"]["obeyed"] == {} and 0 <= figures["text"]["own_picture_R@1"] <= 1
    assert "own_picture_R@1" not in figures["audio"]
