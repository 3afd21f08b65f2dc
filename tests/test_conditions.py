"""All conditions through the real stages: shards, align, codes, prior, evaluation."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file

from launchers.cli import main
from pipeline.batch import Draw
from pipeline.errors import ConfigError
from pipeline.samples import decode_image, decode_npy
from pipeline.shard_index import open_shards
from pipeline.shards import read_pass, read_samples
from stages.ask import Ask, guess_look, read_picture
from stages.codes import encode_conditions
from stages.codes.config import LARGE_TEXT, ConditionsConfig
from stages.codes.encode_conditions import ConditionEncoders
from stages.codes.read import CodesDecode, open_codes
from stages.codes.read_conditions import ConditionDecode, conditions_of, encoders_of
from stages.codes.views import SampleReader
from stages.conditioning.audio_encoder import AudioEncoder
from stages.conditioning.image_encoder import ImageEncoder
from stages.conditioning.shared_space import Space
from stages.conditioning.text_encoder import TextEncoder
from stages.evaluation.config import EvaluationConfig
from stages.evaluation.measure import Real, with_codes
from stages.evaluation.obedience import Asked, named, obedience_figures, read_asked, similarity_space
from stages.evaluation.probe_model import Probe
from stages.generate import Painter
from stages.perceptual import Perceptual
from stages.prior.load import load_prior
from tests import tiny_encoders
from tests.conditions_run import EVERYTHING, RECIPE


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


def test_what_align_encodes_shares_one_projection_less_its_mean(run: Path, files: Path) -> None:
    from transformers import ASTForAudioClassification

    prior = Painter.load(run, device="cpu").prior
    assert prior.arguments["shared"] == {"audio": 32, "picture": 32, "text": 32, "vector": 32}
    means = {name: prior.mixer.modalities[name].mean for name in prior.mixer.modalities}
    assert {name: bool(mean.any()) for name, mean in means.items()} == {
        "audio": True, "class": False, "picture": True, "text": True, "vector": True,
    }  # fmt: skip
    encoder = AudioEncoder.load(run / "align" / "model" / "audio")
    samples, rate = soundfile.read(files / "call.flac", dtype="float32")
    features = encoder.features([(samples[None], rate)])
    tower = ASTForAudioClassification.from_pretrained(run / "align" / "model" / "audio").eval()
    with torch.no_grad():
        said = tower(input_values=features["values"]).logits
    assert torch.allclose(encoder.encode(features).pooled[:, :32], said, atol=1e-5)


def test_an_asked_sound_is_heard_at_every_speed_that_align_played(run: Path, files: Path) -> None:
    encoder = AudioEncoder.load(run / "align" / "model" / "audio")
    samples, rate = soundfile_of(files / "call.flac")

    found = encoder.listen([(samples, rate)])

    assert encoder.speeds == (0.9, 1.0, 1.1)
    played = [encoder([(samples, round(rate * speed))]).pooled[:, :32] for speed in encoder.speeds]
    mean = torch.stack([one / one.norm() for one in played]).mean(dim=0)
    assert torch.allclose(found.pooled[:, :32], mean / mean.norm(), atol=1e-5)
    assert torch.equal(found.tokens, encoder([(samples, rate)]).tokens)
    plain = AudioEncoder.load("log-mel")
    assert torch.equal(plain.listen([(samples, rate)]).pooled, plain([(samples, rate)]).pooled)


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


def test_a_condition_the_run_was_not_trained_on_is_named(run: Path, tmp_path: Path) -> None:
    painter = Painter.load(run_with(run, "class", tmp_path), device="cpu")
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

    (files / "on.yaml").write_text(
        f"tracking: {{mode: disabled}}\nuse: {{shards: {run / 'shards'}, vqvae: {run / 'vqvae'}, "
        f"align: {files / 'pre' / 'align'}}}\ncodes: {{conditions: {{picture: auto}}}}\n"
        "prior: {width: 32, depth: 1, heads: 2, data: {global_batch: 12}, loop: {steps: 2}}\n"
    )
    assert main(["run", str(files / "on.yaml"), "--runs", str(files)]) == 0
    painter = Painter.load(files / "on", device="cpu")
    assert painter.prior.arguments["shared"] == {"audio": 48, "picture": 48, "text": 48}
    assert painter(audio=files / "call.flac", candidates=2)[0].size == (32, 32)


def test_another_encoder_than_the_one_that_made_the_codes_is_refused(run: Path, files: Path) -> None:
    about = open_codes(run / "codes").conditions
    other = {"text": {**about["text"], "encoder": str(tiny_encoders.clip(files / "other"))}}
    with pytest.raises(ConfigError, match="another model than the one these codes were made with"):
        encoders_of(other, [], torch.device("cpu"))
    with pytest.raises(ConfigError, match="not where the run expects"):
        encoders_of({"text": about["text"]}, [files / "nowhere"], torch.device("cpu"))


def test_captions_of_large_pictures_are_read_by_a_clip_where_nobody_says_who_should(
    run: Path, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu = torch.device("cpu")
    assert LARGE_TEXT == "openai/clip-vit-large-patch14"
    monkeypatch.setattr(encode_conditions, "LARGE_TEXT", str(tiny_encoders.clip(files / "large")))  # no network here

    def names(cfg: ConditionsConfig, modalities: list[str], align: Path | None, size: int) -> dict[str, str]:
        return ConditionEncoders.load(cfg, modalities, align, cpu, size).names

    there = ["text", "audio"]
    assert names(ConditionsConfig(), there, None, 256) == {"text": str((files / "large").resolve())}
    assert names(ConditionsConfig(), there, None, 255) == {}
    assert names(ConditionsConfig(), ["audio"], None, 256) == {}
    assert names(ConditionsConfig(text="none"), there, None, 256) == {}
    assert names(ConditionsConfig(), there, run / "align", 256) == {"text": "align", "audio": "align"}


def test_a_folder_may_be_named_from_home(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(files))
    assert ConditionsConfig(text="~/clip").text == str(files / "clip")


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


def test_of_several_aligned_models_the_one_that_said_the_texts_chooses(run: Path, tmp_path: Path) -> None:
    about = {"text": Painter.load(run, device="cpu").about["text"]}
    other = shutil.copytree(run / "align" / "model", tmp_path / "align" / "model").parent
    weights = load_file(other / "model" / "clip" / "model.safetensors")
    save_file(
        {name: 1.1 * w for name, w in weights.items()}, other / "model" / "clip" / "model.safetensors", {"format": "pt"}
    )
    picture = torch.randint(256, (1, 3, 32, 32), dtype=torch.uint8)

    def sees(*align: Path) -> torch.Tensor:
        space = Space.of(about, align)
        assert space is not None
        return space.pictures(picture)

    assert not torch.equal(sees(other), sees(run / "align"))
    assert torch.equal(sees(other, run / "align"), sees(run / "align"))
    assert torch.equal(sees(run / "align", other), sees(run / "align"))
