"""The encoders behind the conditions: a run's own, those of others, and which of several is the right one."""

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
from pipeline.errors import ConfigError
from pipeline.shard_index import open_shards
from pipeline.shards import read_pass, read_samples
from stages.codes import encode_conditions
from stages.codes.config import LARGE_TEXT, ConditionsConfig
from stages.codes.encode_conditions import ConditionEncoders
from stages.codes.read import CodesDecode, open_codes
from stages.codes.read_conditions import ConditionDecode, conditions_of, encoders_of
from stages.conditioning.audio_encoder import AudioEncoder
from stages.conditioning.shared_space import Space
from stages.conditioning.text_encoder import TextEncoder
from stages.generate import Painter
from tests import tiny_encoders
from tests.conditions_run import EVERYTHING


def soundfile_of(path: Path) -> tuple[np.ndarray, int]:
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return samples.T, rate


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
