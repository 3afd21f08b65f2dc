"""The benchmark of choosers: the candidates are those `sample` paints, the likelihoods those of the prior."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.choosers import Kind, measure, paint, said_by_prior
from launchers.cli import main
from launchers.stages import STAGES
from pipeline.config import check, load_recipe
from stages.ask import Ask
from stages.conditioning.condition import choose_rows, repeat_rows
from stages.generate import CANDIDATE, Painter, opposites_of
from stages.prior.loss import surprise
from stages.prior.sampling import Guidance, sample

OPPOSITES = (("left", "right"), ("왼쪽", "오른쪽"))
ASKS = [Ask(text="a red bird left of a blue one"), Ask(text="a blue owl on the left, a red duck on the right")]
TEXTS = [ask.text for ask in ASKS]


@pytest.fixture(scope="module")
def judge(causal: Path) -> Any:
    painter = Painter.load(causal, device="cpu")
    assert painter.reader.opposites == (), "this run's align has learned none"
    painter.reader.opposites = OPPOSITES
    return SimpleNamespace(painter=painter, seen=lambda pictures: {"wing": ["red"] * len(pictures)})


def test_candidates_are_those_the_sampler_paints_and_away_moves_them(judge: Any) -> None:
    painter = judge.painter
    codes, pictures, conditions, wrong = paint(judge, ASKS, torch.tensor([4, 5]), 3, away=0.0)
    rows = torch.tensor([0, 0, 0, 1, 1, 1])
    asked = choose_rows(painter.reader.conditions(ASKS, painter.listens), rows)
    seeds = torch.tensor([4, 4, 4, 5, 5, 5]) + 3_000_000 + CANDIDATE * torch.tensor([0, 1, 2, 0, 1, 2])
    same = sample(painter.prior, asked, seeds, painter.settings)
    assert all(torch.equal(a, b) for a, b in zip(codes, same, strict=True))
    assert pictures.shape == (6, 3, 32, 32) and set(conditions) == set(wrong) == {"text"}
    away, _, _, _ = paint(judge, ASKS, torch.tensor([4, 5]), 3, away=2.0)
    none, _, _, _ = paint(judge, ASKS, torch.tensor([4, 5]), 3, away=1e-9)
    assert not torch.equal(away[0], codes[0]) and torch.equal(none[0], codes[0])
    assert paint(judge, [Ask(text="an owl")], torch.tensor([0]), 2, away=0.0)[3] == {}


def test_the_likelihoods_are_the_priors_own(judge: Any) -> None:
    prior = judge.painter.prior
    codes, _, conditions, wrong = paint(judge, ASKS, torch.tensor([0, 1]), 2, away=0.0)
    said = said_by_prior(prior, codes, conditions)
    bits = surprise(prior, [level.flatten(1) for level in codes], conditions, torch.arange(4), 0)
    counts = torch.tensor([level[0].numel() for level in codes])
    torch.testing.assert_close(said["all codes"], -(bits * counts).sum(dim=1) * math.log(2), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(said["coarse codes"], -bits[:, 0] * counts[0] * math.log(2), rtol=1e-4, atol=1e-3)
    assert (said["foretold codes"] < 0).all()
    assert not torch.allclose(said_by_prior(prior, codes, wrong)["foretold codes"], said["foretold codes"])


def test_a_chooser_is_worth_what_it_finds(judge: Any) -> None:
    kind = Kind(ASKS, [{"wing": "red"}, {"wing": "red"}], "text")
    assert set(measure(judge, kind, 4, 0.0).values()) == {1.0}

    def sometimes(pictures: Tensor) -> dict[str, list[str]]:
        return {"wing": ["red" if i % 4 == 2 else "blue" for i in range(len(pictures))]}

    found = measure(SimpleNamespace(painter=judge.painter, seen=sometimes), kind, 4, 0.0)  # type: ignore[arg-type]
    assert found["mean"] == 0.25 and found["any"] == 1.0
    assert all(value in (0.0, 0.5, 1.0) for name, value in found.items() if name != "mean")
    assert {"cosine", "gain of all codes", "cosine + 1.0 of its lead", "cosine + 0.5 foretold codes"} <= set(found)


def test_guidance_away_from_opposites_is_a_term_of_its_own_and_cancels_without_any(judge: Any) -> None:
    painter = judge.painter
    prior, told = painter.prior, painter.reader.conditions(ASKS, painter.listens)
    opposed = painter.reader.opposed([*TEXTS, None, ""], painter.listens)
    assert opposed["text"].present().tolist() == [True, True, False, False]
    assert painter.reader.opposed(["an owl", None], painter.listens) == {}
    opposed = choose_rows(opposed, torch.arange(2))
    settings = replace(painter.settings, guidance=2.0, opposites=3.0)
    said = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))  # of nothing, of the texts, of the exchanged
    none, text, other = said.split(2)

    guidance = Guidance.of(prior, told, 2, settings, opposed=opposed)
    assert guidance.weights == (2.0,) and guidance.away == 3.0
    torch.testing.assert_close(guidance.combine(said), none + 2 * (text - none) + 3 * (text - other))
    torch.testing.assert_close(guidance.combine(said, strength=0.0), text)
    cancelled = guidance.combine(torch.cat([none, text, text]))
    torch.testing.assert_close(cancelled, none + 2 * (text - none))
    for weight in (0.5, 1.0, 2.0, -2.0):  # whatever it weighs, and however far guidance has risen, foretold or not
        changed = replace(settings, guidance={"text": weight}, foretold=0.5)
        mine = Guidance.of(prior, told, 2, changed, opposed=opposed)
        alone = Guidance.of(prior, told, 2, replace(changed, opposites=0.0))
        same = torch.cat([none, text, text])
        fewer = same[:4] if alone.weights else text
        for strength in (0.25, 1.0):
            found = mine.combine(same, strength, same.flip(1))
            torch.testing.assert_close(found, alone.combine(fewer, strength, fewer.flip(1)))
    plain = Guidance.of(prior, told, 2, replace(settings, opposites=0.0), opposed=opposed)
    assert plain.weights == (2.0,) == Guidance.of(prior, told, 2, settings).weights
    with_class = told | painter.reader.conditions([Ask(cls="owl")] * 2, painter.listens)
    each = Guidance.of(prior, with_class, 2, replace(settings, guidance={"text": 4.0, "class": 2.0}), opposed=opposed)
    assert each.weights == (2.0, 4.0) and each.opposes == 1
    by_hand = prior.foretold(Guidance.of(prior, opposed, 2, replace(settings, opposites=0.0)).guide)
    assert by_hand is not None
    torch.testing.assert_close(prior.foretold(guidance.guide)[4:], by_hand[2:], rtol=1e-4, atol=1e-4)
    logits, said = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0)).unbind()
    shared = replace(guidance, share=0.5)  # of guidance 2, away 3
    (none, told_of, opposite), (nothing, known, turned) = logits.split(2), said.split(2)
    alone_logits = none + 2 * (told_of - none) + 3 * (told_of - opposite)
    torch.testing.assert_close(guidance.combine(logits), alone_logits)
    both = alone_logits + 0.5 * ((known - nothing) + 3 * (known - turned))
    torch.testing.assert_close(shared.combine(logits, foretold=said), both)

    seeds = torch.arange(2)
    painter.settings, before = settings, painter.settings
    try:
        painted = painter.fulfil(ASKS[0], seeds)
        alone = repeat_rows(choose_rows(told, torch.tensor([0])), 2)
        other_text = repeat_rows(choose_rows(opposed, torch.tensor([0])), 2)
        assert np.array_equal(painted, painter.paint_conditions(alone, seeds, opposed=other_text))
        assert not np.array_equal(painted, painter.paint_conditions(alone, seeds))
    finally:
        painter.settings = before


def test_the_opposites_are_those_of_the_runs_align(run: Path, tmp_path: Path) -> None:
    about = Painter.load(run, device="cpu").about
    assert opposites_of([], about) == opposites_of([run / "align"], about) == ()
    (lent := tmp_path / "lent").mkdir()
    (lent / "model").symlink_to(run / "align" / "model")
    manifest = json.loads((run / "align" / "manifest.json").read_text())
    manifest["config"]["opposites"] = [["left", "right"], ["왼쪽", "오른쪽"]]
    (lent / "manifest.json").write_text(json.dumps(manifest))
    assert opposites_of([tmp_path / "none", lent], about) == OPPOSITES, "the run's own is not there, one is lent"
    (other := tmp_path / "other").mkdir()
    (other / "manifest.json").write_text(json.dumps(manifest))
    shutil.copytree(run / "align" / "model", other / "model")
    weights = other / "model" / "clip" / "model.safetensors"
    save_file({k: v + 1 for k, v in load_file(weights).items()}, weights, {"format": "pt"})
    assert opposites_of([other, run / "align"], about) == (), "another one does not say this run's texts"
    assert opposites_of([other, lent], about) == OPPOSITES
    assert opposites_of([lent], about | {"text": about["text"] | {"encoder": "openai/clip"}}) == ()


def test_opposites_that_nobody_has_are_said(
    run: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    painter = Painter.load(run, device="cpu")
    assert painter.opposed(["a bird on the left"]) == {} and not caplog.records
    for _ in range(2):
        assert painter.opposed(["a bird on the left"], opposites=2.0) == {}
    assert [r.getMessage().partition(":")[0] for r in caplog.records] == ["sampling.opposites does nothing here"]
    assert main(["run", "tiny", "--dry-run", "prior.sampling.opposites=2"]) == 2
    assert "align.opposites=[[left,right]]" in capsys.readouterr().err
    assert main(["run", "tiny", "--dry-run", "prior.sampling.opposites=2", "align.opposites=[[left,right]]"]) == 0
    recipe = load_recipe("tiny", ["prior.sampling.opposites=2"])
    sections = {name: section for name, section in recipe.sections.items() if name != "align"}
    check(replace(recipe, sections=sections, use={"align": str(run / "align")}), STAGES)  # a lent one may have some
