"""Evaluation's figures against known answers: a painter that returns the true pictures, and one that mixes them up."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from pipeline.batch import Draw
from pipeline.samples import decode_image
from pipeline.shard_index import open_shards
from pipeline.shards import read_samples
from stages.conditioning.condition import Condition, Conditions
from stages.conditioning.sources import source_picture
from stages.evaluation.config import EvaluationConfig
from stages.evaluation.measure import headline_of
from stages.evaluation.obedience import Asked, heard, obedience_figures, read_asked
from stages.evaluation.probe_model import Probe
from stages.evaluation.similarity import similarity_figures
from stages.generate import Painter
from stages.given_files import read_picture
from stages.images import center_decode, picture_to_tensor, tensor_to_picture
from stages.picture_grid import paint_grid

N = 10
COLOURS = ["red", "blue", "green", "yellow", "black", "white", "brown", "orange"]
VALUES = {"body": COLOURS, "class": list("01234567")}


class Copier:
    """Paints, whatever is asked, given pictures in their order."""

    def __init__(self, painter: Painter, pictures: Tensor) -> None:
        self.space, self.classes, self.pictures = painter.space, painter.classes, pictures
        self.source_of, self.opposed = painter.source_of, painter.opposed
        self.moved_from: dict[str, Conditions] = {}

    def paint_conditions(self, conditions: Conditions, seeds: Tensor, opposed: Conditions, **_: Any) -> np.ndarray:
        (name,) = conditions
        self.moved_from[name] = opposed
        painted: np.ndarray = self.pictures.permute(0, 2, 3, 1).numpy()
        return painted


class Sees:
    """A probe that knows the true pictures by heart: an answer for each, by its mean colour."""

    def __init__(self, known: Tensor, values: dict[str, list[str]], answers: dict[str, Tensor]) -> None:
        self.known, self.values, self.answers = known.float().mean(dim=(2, 3)), values, answers

    def features(self, images: Tensor) -> Tensor:
        return (images * 127.5 + 127.5).flatten(1)

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        mean = (images * 127.5 + 127.5).mean(dim=(2, 3))
        which = torch.cdist(mean, self.known).argmin(dim=1)
        return {
            name: torch.nn.functional.one_hot(numbers[which].clamp(min=0), len(self.values[name])).float()
            for name, numbers in self.answers.items()
        }


@pytest.fixture(scope="module")
def painter(run: Path) -> Painter:
    return Painter.load(run, device="cpu")


@pytest.fixture(scope="module")
def real(run: Path) -> Tensor:
    val = open_shards(run / "shards").split("val")
    samples = list(islice((sample for shard in val for sample in read_samples(shard)), 2 * N))
    pictures = np.stack([read_picture(decode_image(s.members["jpg"]), 32) for s in samples])
    return torch.from_numpy(pictures).permute(0, 3, 1, 2)


@pytest.fixture(scope="module")
def asked(run: Path, painter: Painter) -> Asked:
    val = open_shards(run / "shards").split("val")
    keys = [sample.key for sample in islice((s for shard in val for s in read_samples(shard)), N)]
    values = {
        "body": ["red", "blue", "green", "yellow", "black", "white", "brown", "orange"],
        "class": list("01234567"),
    }
    return read_asked(painter, run / "codes", values, keys, "val")


def test_captions_are_painted_away_from_their_opposites_where_the_recipe_says_so(
    run: Path, asked: Asked, real: Tensor
) -> None:
    painter = Painter.load(run, device="cpu")
    first, second = COLOURS[0], COLOURS[1]
    painter.reader.opposites = ((first, second),)
    assert any(first in caption or second in caption for caption in asked.captions), asked.captions
    for weight in (0.0, 2.0):
        painter.settings = replace(painter.settings, opposites=weight)
        copier: Any = Copier(painter, real[:N])
        obedience_figures(EvaluationConfig(neighbours=1), copier, asked, real, None)
        others = {name: given for name, given in copier.moved_from.items() if name != "text"}
        assert others and not any(others.values())
        assert bool(copier.moved_from["text"]) == (weight > 0)
    spoken = [caption.replace(first, "*").replace(second, first).replace("*", second) for caption in asked.captions]
    wanted = painter.reader.encoder("text")(spoken)
    torch.testing.assert_close(copier.moved_from["text"]["text"].pooled, wanted.pooled)


def figures_of(painter: Painter, asked: Asked, real: Tensor, painted: Tensor, probe: Any) -> dict[str, Any]:
    copier: Any = Copier(painter, painted)
    return obedience_figures(EvaluationConfig(neighbours=1), copier, asked, real, probe)[0]


def test_the_true_pictures_obey_as_well_as_themselves_and_mixed_up_ones_do_not(
    painter: Painter, asked: Asked, real: Tensor
) -> None:
    values = {
        "body": ["red", "blue", "green", "yellow", "black", "white", "brown", "orange"],
        "class": list("01234567"),
    }
    probe = Sees(real[:N], values, {name: asked.attributes[name] for name in values})
    same = figures_of(painter, asked, real, real[:N], probe)
    mixed = figures_of(painter, asked, real, real[:N].flip(0), probe)
    assert {"class", "text", "audio", "grey", "sketch", "picture"} <= set(same)
    for mode, found in same.items():
        assert set(found["obeyed"].values()) <= {1.0}, mode
        assert found["obeyed"] == found["obeyed_by_real"], mode
        assert found["coverage"] == pytest.approx(1.0), mode
        if "similarity" in found:
            assert found["similarity"] == pytest.approx(found["real_similarity"]), mode
            assert found["R@1"] == found["real_R@1"], mode
            assert mixed[mode]["similarity"] != pytest.approx(found["similarity"]), mode
            assert mixed[mode]["real_similarity"] == pytest.approx(found["real_similarity"]), mode
    for mode in ("grey", "sketch"):
        assert same[mode]["edge_f1"] == 1.0 and same[mode]["luma_psnr"] > 90
        assert mixed[mode]["edge_f1"] < 0.9 and mixed[mode]["luma_psnr"] < 30
    assert mixed["grey"]["obeyed"]["class"] < 0.7 and mixed["grey"]["obeyed_by_real"]["class"] == 1.0


def test_without_a_probe_the_true_picture_is_its_own_and_coverage_is_of_the_ceiling(
    painter: Painter, asked: Asked, real: Tensor
) -> None:
    silent = replace(asked, attributes={}, named={}, spoken={})
    same = figures_of(painter, silent, real, real[:N], None)
    mixed = figures_of(painter, silent, real, real[:N].roll(1, dims=0), None)
    for mode in ("text", "audio", "grey", "sketch", "picture"):
        assert same[mode]["own_picture_R@1"] == 1.0 and mixed[mode]["own_picture_R@1"] < 0.5, mode
        assert same[mode]["random_coverage"] == mixed[mode]["random_coverage"] == 1.0, mode
        one = figures_of(painter, silent, real, real[:1].expand(N, -1, -1, -1), None)[mode]
        assert one["random_coverage"] <= 0.5, mode
        assert one["random_coverage_of_ceiling"] == pytest.approx(
            one["random_coverage"] / (same[mode]["random_coverage"] / same[mode]["random_coverage_of_ceiling"])
        )


def test_rows_without_the_condition_do_not_count(painter: Painter, asked: Asked, real: Tensor) -> None:
    text = asked.modes["text"]["text"]
    here = torch.arange(N) < 6
    some = Condition(text.tokens, text.pooled, text.mask & here[:, None])
    probe = Sees(real[:N], VALUES, asked.attributes)
    wrong_where_absent = torch.where(here[:, None, None, None], real[:N], 255 - real[:N])
    only = replace(asked, modes={"text": {"text": some}})
    found = figures_of(painter, only, real, wrong_where_absent, probe)["text"]
    assert found["n"] == 6 and set(found["obeyed"].values()) <= {1.0}
    assert painter.space is not None
    whole = similarity_figures(painter.space, "text", some, real[:N], real[:N])
    assert found["similarity"] == pytest.approx(whole["similarity"])


def test_similarity_finds_its_own_and_the_same_words_are_as_good() -> None:
    class Plain:
        def pictures(self, images: Tensor) -> Tensor:
            return torch.nn.functional.normalize(images.float().flatten(1), dim=1)

        def asked(self, _: str, condition: Condition) -> Tensor:
            return torch.nn.functional.normalize(condition.pooled, dim=1)

    space: Any = Plain()
    eye = torch.eye(12)[:5].reshape(5, 3, 2, 2)
    texts = eye.flatten(1)[[0, 1, 2, 3, 3]]  # the last two say the same
    condition = Condition(texts[:, None], texts, torch.ones(5, 1, dtype=torch.bool))
    pictures = eye[[0, 1, 2, 3, 3]]
    found = similarity_figures(space, "text", condition, pictures, pictures.roll(1, dims=0))
    assert found["similarity"] == pytest.approx(1.0) and found["R@1"] == 1.0
    assert found["real_similarity"] == pytest.approx(0.2) and found["real_R@1"] == pytest.approx(0.2)


def test_a_spoken_sentence_is_held_to_what_it_names_and_a_call_to_everything() -> None:
    body = torch.tensor([3, 4, 5])
    asked = Asked({}, [], {"body": body}, {}, {"body": torch.tensor([1, 0, -1])})
    assert heard(asked)["body"].tolist() == [3, -1, 5]


def test_what_is_spoken_is_read_from_the_data_and_a_broken_caption_costs_no_figure(
    run: Path, painter: Painter, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stages.evaluation import obedience

    val = open_shards(run / "shards").split("val")
    samples = list(islice((sample for shard in val for sample in read_samples(shard)), N))
    captions = {sample.key: json.loads(sample.members["json"])["captions"][0] for sample in samples}
    named = {sample.key: json.loads(sample.members["json"])["named"][0] for sample in samples}
    monkeypatch.setattr(obedience, "transcript_of", lambda sample: captions[sample.key])

    def broken(sample: Any) -> list[str]:
        raise UnicodeDecodeError("utf-8", b"\xe9", 0, 1, "unexpected end of data")

    monkeypatch.setattr(obedience, "captions_of", broken)
    asked = read_asked(painter, run / "codes", {"body": ["red", "blue"]}, [s.key for s in samples], "val")
    assert asked.spoken["body"].tolist() == [int("body" in named[sample.key]) for sample in samples]
    assert asked.captions == [""] * N and set(asked.named["body"].tolist()) == {-1}


@pytest.mark.parametrize(
    ("found", "line"),
    [
        ({"text": {"n": 50, "obeyed": {}, "own_picture_R@1": 0.31}}, "its own by text 0.310 (chance 0.020)"),
        ({"audio": {"n": 9, "obeyed": {"class": 0.9, "size": 0.1}}}, "class by audio 0.90"),
        ({"text": {"n": 9, "obeyed": {"a": 0.5, "b": 1.0}}}, "text obeyed 0.75"),
        ({"grey": {"n": 9, "luma_psnr": 21.44, "edge_f1": 0.5}}, "grey keeps 21.4 dB of light"),
        ({"source": {"n": 9, "luma_psnr": 21.44, "edge_f1": 0.5}}, "source keeps 0.50 of the true picture's edges"),
    ],
)
def test_the_headline_says_how_each_condition_is_obeyed(found: dict[str, Any], line: str) -> None:
    assert line in headline_of({"reconstruction": {"psnr": 20.0}, "obedience": found})
    left_out = {"reconstruction": {"psnr": 20.0}, "samples": {"n": 5, "left_out": "val has 10 pictures"}}
    assert headline_of(left_out) == "PSNR 20.00 dB, nothing painted was compared: val has 10 pictures"


def test_a_probe_taught_on_other_shards_is_taught_anew(
    tmp_path: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stages.evaluation import probes

    taught: list[int] = []
    monkeypatch.setattr(probes, "_train", lambda probe, cfg, train, size: taught.append(len(train)))
    train = open_shards(run / "shards").split("train")
    values = {"class": list("01234567")}
    for shards in (train, train, train[:1]):
        assert isinstance(probes.get_probe(EvaluationConfig(), shards, values, 32, tmp_path), Probe)
    assert taught == [len(train), 1]


def test_the_source_of_a_pair_is_shown_as_its_codes_keep_it(
    run: Path, painter: Painter, asked: Asked, real: Tensor
) -> None:
    val, draw = open_shards(run / "shards").split("val"), Draw(0, 0, 0, 0)
    samples = islice((sample for shard in val for sample in read_samples(shard)), 4)
    crops = np.stack([center_decode(32)(sample, draw)["image"] for sample in samples]).transpose(0, 2, 3, 1)
    greys = torch.from_numpy(np.stack([source_picture(one, "grey") for one in crops])).permute(0, 3, 1, 2)
    levels = [level.codes for level in painter.autoencoder.quantize(picture_to_tensor(greys))]
    kept = tensor_to_picture(painter.autoencoder.decode([codes for codes in levels if codes is not None]))
    shown = painter.source_of(asked.modes["grey"]["image"], 4)
    assert np.abs(shown.astype(int) - kept).max() <= 1, "the codes that the stage stored, decoded"

    pair = replace(asked, modes={"source": asked.modes["grey"]})
    copier: Any = Copier(painter, real[:N])
    figures, pictures = obedience_figures(EvaluationConfig(), copier, pair, real, None)
    (picture,) = pictures.values()
    three = paint_grid([[Image.fromarray(one) for one in kept]] * 3, ["true picture", "source given", "by source"])
    assert list(figures) == ["source"] and picture.shape[0] == three.height, "true, given, painted"
