"""A run as a painter: pictures belong to their seeds, classes have names, another tokenizer is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.artifacts import fingerprint, write_manifest
from pipeline.errors import ConfigError, MissingInputError
from pipeline.shard_index import ShardSet
from stages.codes.read import CodeSet
from stages.generate import Painter
from stages.picture_grid import SHOWN_SIDE, paint_grid
from stages.prior.load import save_prior
from stages.prior.model import Prior
from stages.prior.settings import SampleSettings
from stages.vqvae.load import save_autoencoder
from stages.vqvae.model import Autoencoder

SIZE = 32


def save_tokenizer(folder: Path, seed: int = 0) -> str:
    torch.manual_seed(seed)
    model = Autoencoder(levels=(16, 8), codebook_sizes=(16, 32), code_widths=(4, 4), channels=8, blocks=1)
    save_autoencoder(model, folder / "model", {"image_size": SIZE})
    write_manifest(folder, stage="vqvae", config={}, inputs={}, results={}, makes=("model",))
    return fingerprint(folder)


def make_run(run: Path, classes: list[str]) -> Path:
    mark = save_tokenizer(run / "vqvae")
    torch.manual_seed(1)
    prior = Prior(
        kind="masked", grids=[(2, 2), (4, 4)], codebook_sizes=[16, 32], width=32, depth=2, heads=2,
        conditions={"class": len(classes)} if classes else {},
    )  # fmt: skip
    for parameter in prior.parameters():  # fresh heads are zero: every class and seed would look alike
        torch.nn.init.normal_(parameter, std=0.3)
    codes = CodeSet(ShardSet("", {}, {}), mark, [(2, 2), (4, 4)], [16, 32], classes, SIZE, 1)
    save_prior(prior, run / "prior" / "model", codes, SampleSettings(steps=(2, 3)))
    write_manifest(run / "prior", stage="prior", config={}, inputs={}, results={}, makes=("model",))
    return run


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("labelled"), ["owl", "wren", "duck"])


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("unlabelled"), [])


def bytes_of(pictures: list[Image.Image]) -> list[bytes]:
    return [picture.tobytes() for picture in pictures]


def test_it_paints_rgb_pictures_of_the_tokenizers_size(labelled: Path) -> None:
    pictures = Painter.load(labelled, device="cpu")(cls="owl", n=3)
    assert [(picture.mode, picture.size) for picture in pictures] == [("RGB", (SIZE, SIZE))] * 3
    assert len(set(bytes_of(pictures))) == 3


def test_a_picture_belongs_to_its_seed_whatever_the_batch(labelled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    painter = Painter.load(labelled, device="cpu")
    labels, seeds = torch.tensor([0, 1, 2, 1, 0]), torch.tensor([9, 4, 7, 2**40, 9])
    together = painter.codes(labels, seeds)
    for i in range(5):
        alone = painter.codes(labels[i : i + 1], seeds[i : i + 1])
        assert all(torch.equal(a[0], t[i]) for a, t in zip(alone, together, strict=True))
    monkeypatch.setattr("stages.generate.BATCH", 2)
    assert np.abs(painter.paint(labels, seeds)[4].astype(int) - painter.paint(labels[:1], seeds[:1])[0]).max() <= 1


def test_seeds_count_on_from_the_first(labelled: Path) -> None:
    painter = Painter.load(labelled, device="cpu")
    assert bytes_of(painter(cls=1, n=4, seed=5))[2:] == bytes_of(painter(cls=1, n=2, seed=7))
    assert bytes_of(painter(cls=1, n=2, seed=5)) != bytes_of(painter(cls=1, n=2, seed=6))


def test_class_names_numbers_and_guidance_reach_the_prior(labelled: Path) -> None:
    painter = Painter.load(labelled, device="cpu")
    assert bytes_of(painter(cls="wren", n=2)) == bytes_of(painter(cls=1, n=2))
    assert bytes_of(painter(cls="wren", n=4)) != bytes_of(painter(cls="duck", n=4))
    asked = [bytes_of(painter(cls=cls, n=8)) for cls in (None, 0, 1, 2)]
    assert len(set(map(tuple, asked))) == 4  # no class is none of the classes
    assert bytes_of(painter(cls="wren", n=4, guidance=1.0)) != bytes_of(painter(cls="wren", n=4, guidance=8.0))
    greedy = painter(cls="wren", n=2, temperature=0.0)
    assert bytes_of(greedy)[0] == bytes_of(greedy)[1]


@pytest.mark.parametrize("wrong", ["ow", 3, -1, "3"])
def test_an_unknown_class_lists_the_classes(labelled: Path, wrong: str | int) -> None:
    with pytest.raises(ConfigError, match="0 owl, 1 wren, 2 duck"):
        Painter.load(labelled, device="cpu")(cls=wrong)


def test_a_run_without_labels_paints_and_says_so_when_asked_for_a_class(unlabelled: Path) -> None:
    painter = Painter.load(unlabelled, device="cpu")
    assert painter.classes == []
    assert len(set(bytes_of(painter(n=2)))) == 2
    with pytest.raises(ConfigError, match="not trained on class: it listens to nothing"):
        painter(cls=0)


def test_a_missing_stage_says_what_to_run(labelled: Path) -> None:
    with pytest.raises(MissingInputError, match=r"no stage 'gan'(.|\n)*tessera run"):
        Painter.load(labelled, with_="gan")


def test_a_second_tokenizer_of_the_run_is_found_by_its_fingerprint(tmp_path: Path, labelled: Path) -> None:
    run = tmp_path / "two"
    shutil.copytree(labelled, run)
    (run / "vqvae").rename(run / "vqvae@large")
    save_tokenizer(run / "vqvae", seed=5)

    assert np.array_equal(
        Painter.load(run).paint(torch.tensor([0]), torch.tensor([1])),
        Painter.load(labelled).paint(torch.tensor([0]), torch.tensor([1])),
    )


def test_codes_of_another_tokenizer_are_never_painted(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", ["a", "b"])
    save_tokenizer(run / "vqvae", seed=5)
    with pytest.raises(ConfigError, match="another tokenizer"):
        Painter.load(run, device="cpu")


def test_a_grid_puts_each_row_in_its_place() -> None:
    colours = [["red", "lime"], ["blue"]]
    rows = [[Image.new("RGB", (8, 6), colour) for colour in row] for row in colours]
    grid = np.asarray(paint_grid(rows))
    painted = {tuple(pixel) for pixel in grid.reshape(-1, 3).tolist()}
    assert painted == {(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)}
    ys, xs = np.nonzero((grid == (0, 0, 255)).all(2))
    red = np.nonzero((grid == (255, 0, 0)).all(2))
    assert len(ys) == 8 * 6 * (SHOWN_SIDE // 6) ** 2
    assert xs.min() == red[1].min()
    assert ys.min() > red[0].max()


def test_row_labels_leave_the_pictures_whole() -> None:
    rows = [[Image.new("RGB", (16, 16), "red")], [Image.new("RGB", (16, 16), "blue")]]
    plain, labelled = paint_grid(rows), paint_grid(rows, labels=["owl <&>", "wren"])
    assert labelled.width > plain.width
    pixels = np.asarray(labelled)
    assert int((pixels == (255, 0, 0)).all(2).sum()) == SHOWN_SIDE**2
    assert (pixels[:, : labelled.width - plain.width] < 128).any()  # something is written there
    with pytest.raises(ValueError, match="at least one picture"):
        paint_grid([])


def test_stages_used_by_a_relative_path_are_found_from_anywhere(
    tmp_path: Path, labelled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = tmp_path / "project" / "runs"
    shutil.copytree(labelled, runs / "second")
    (runs / "first").mkdir()
    (runs / "second" / "vqvae").rename(runs / "first" / "vqvae")
    (runs / "second" / "recipe.yaml").write_text("use: {vqvae: runs/first/vqvae}\nprior: {}\n")
    painted = []
    for place in (tmp_path / "project", tmp_path):
        monkeypatch.chdir(place)
        painted += bytes_of(Painter.load(runs / "second", device="cpu")(cls=0))
    assert painted[0] == painted[1]
