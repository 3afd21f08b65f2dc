"""Of several pictures painted for each one that is kept: which, and when there is nothing to choose by."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.errors import ConfigError
from stages.ask import Ask
from stages.conditioning.condition import choose_rows, repeat_rows
from stages.conditioning.shared_space import AGREEMENT, LEAD, Space
from stages.generate import CANDIDATE, Painter
from tests import tiny_encoders


@pytest.mark.parametrize("asked", [["text"], ["audio"], ["cls", "text"], ["cls"]])
def test_of_several_candidates_the_nearest_to_what_was_asked_is_kept(
    painter: Painter, files: Path, asked: list[str]
) -> None:
    given = {name: {"text": "a red bird", "audio": files / "call.flac", "cls": "owl"}[name] for name in asked}
    chosen = [np.asarray(one) for one in painter(n=3, seed=5, candidates=4, **given)]
    space = painter.space
    assert space is not None
    conditions = painter.reader.conditions([Ask(**given)], painter.listens)
    said = {"text": painter.reader.encoder("text")(["owl"])} if "cls" in asked else {}  # a class counts by its name
    vectors = [space.asked(*one) for one in (*conditions.items(), *said.items()) if one[0] != "class"]
    assert len(vectors) == len(asked)
    wanted = torch.cat([one for one in vectors if one is not None]).sum(dim=0)
    for number, one in enumerate(chosen):
        seeds = [5 + number + CANDIDATE * k for k in range(4)]
        pictures = [np.asarray(painter(n=1, seed=seed, candidates=1, **given)[0]) for seed in seeds]
        seen = space.pictures(torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2))
        alike = seen @ wanted + ("audio" in asked) * AGREEMENT["audio"] * ((seen @ seen.T).sum(dim=1) - 1) / 3
        apart = [np.abs(one.astype(int) - picture).max() for picture in pictures]
        assert int(np.argmin(apart)) == int(alike.argmax())
        assert min(apart) <= 1, "a picture decoded beside others is the same but for how a value rounds"
        assert sorted(apart)[1] > 20


def test_a_source_alone_has_no_candidates_and_weights_count_between_text_and_sound(
    painter: Painter, files: Path
) -> None:
    once = painter(image=files / "bird.jpg", as_="grey", n=2)[1]
    painter.settings = replace(before := painter.settings, candidates=4)
    more = painter(image=files / "bird.jpg", as_="grey", n=2)[1]
    painter.settings = before
    assert np.array_equal(np.asarray(once), np.asarray(more))
    asks = [Ask(text="a red bird", audio=files / "call.flac")]
    conditions, space = painter.reader.conditions(asks, painter.listens), painter.space
    assert space is not None
    text, audio = (space.asked(name, conditions[name]) for name in ("text", "audio"))
    assert text is not None and audio is not None
    pictures = torch.randint(0, 256, (16, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    seen = space.pictures(pictures)
    others = ((seen @ seen.T).sum(dim=1) - 1) / (len(seen) - 1)
    for weights in ({"text": 5.0, "audio": 1.0}, {"text": 1.0, "audio": 5.0}):
        best = space.nearest(pictures, conditions, weights)
        assert best is not None
        asked = weights["text"] * text[0] + weights["audio"] * audio[0]
        assert best.item() == (seen @ asked + weights["audio"] * AGREEMENT["audio"] * others).argmax().item()
    by_sound = space.nearest(pictures, {"audio": conditions["audio"]})
    assert by_sound is not None and by_sound.item() == (seen @ audio[0] + AGREEMENT["audio"] * others).argmax().item()
    assert space.nearest(pictures, {"class": conditions["text"]}) is None


def test_the_lead_over_the_exchanged_sentence_counts_where_the_setting_moves_away_from_it(
    painter: Painter, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["a red owl on the left, a blue duck on the right", "a red owl"]
    monkeypatch.setattr(painter.reader, "opposites", (("left", "right"), ("owl", "duck")))
    monkeypatch.setattr(painter, "settings", replace(painter.settings, opposites=2.0))
    conditions = painter.reader.conditions([Ask(text=text) for text in texts], painter.listens)
    opposed, space = painter.opposed([texts[0], None]), painter.space
    assert space is not None and opposed["text"].present().tolist() == [True, False]
    asked, other = space.asked("text", conditions["text"]), space.asked("text", opposed["text"])
    assert asked is not None and other is not None
    pictures = torch.randint(0, 256, (64, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    changed = 0
    for some in torch.split(pictures, 8):
        seen = space.pictures(some).unflatten(0, (2, 4))
        plain = [seen[row] @ asked[row] for row in range(2)]
        by_hand = [plain[0] + LEAD * seen[0] @ (asked[0] - other[0]), plain[1]]
        best, without = space.nearest(some, conditions, opposed=opposed), space.nearest(some, conditions)
        assert best is not None and without is not None
        assert best.tolist() == [int(one.argmax()) for one in by_hand]
        assert without.tolist() == [int(one.argmax()) for one in plain]
        changed += int(best[0] != without[0])
    assert changed, "it decides somewhere"

    told = {}
    nearest = space.nearest
    monkeypatch.setattr(space, "nearest", lambda *given: told.update(given=given) or nearest(*given))
    painter(text=texts[0], n=3, candidates=2)
    assert torch.equal(
        told["given"][3]["text"].pooled, repeat_rows(choose_rows(opposed, torch.tensor([0])), 3)["text"].pooled
    )
    painter(text=texts[0], n=3, candidates=2, opposites=0.0)
    assert told["given"][3] == {}


def test_a_run_without_a_clip_refuses_candidates_and_paints_on_where_only_its_recipe_asks_for_them(
    painter: Painter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(vars(painter), "space", None)
    with pytest.raises(ConfigError, match="this run listens to none"):
        painter(text="a red bird", candidates=2)
    assert len(painter(text="a red bird", n=2)) == 2
    with pytest.raises(ConfigError, match="this run listens to none"):  # before any other row is painted
        painter.check(Ask(text="a red bird"), candidates=2)
    painter.check(Ask(text="a red bird"))


def test_sounds_lie_beside_pictures_where_another_encoder_reads_the_captions(run: Path, tmp_path: Path) -> None:
    about = dict(Painter.load(run, device="cpu").about)
    about["text"] = {**about["text"], "encoder": str(tiny_encoders.t5(tmp_path / "t5")), "projection": 0}
    for heard in (("text", "audio"), ("text", "audio", "picture")):
        space = Space.of({name: about[name] for name in heard}, [run / "align"])
        assert space is not None and "audio" in space.names and "text" not in space.names
    assert Space.of({"text": about["text"]}, [run / "align"]) is None


def test_classes_without_names_do_not_choose_among_candidates(painter: Painter) -> None:
    conditions = painter.reader.conditions([Ask(text="a red bird", cls="owl")], painter.listens)
    several = replace(painter.settings, candidates=4)
    assert painter._named(conditions) is not None and painter.candidates(["class"], several) == 4
    names, painter.classes = painter.classes, [str(i) for i in range(len(painter.classes))]
    try:
        assert painter._named(conditions) is None and painter.candidates(["class"], several) == 1
    finally:
        painter.classes = names
