"""The autoencoder in all four systems: round trips, sizes, files on disk, and whether it learns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from data_prep.birds.picture import draw
from data_prep.birds.scene import describe
from pipeline.errors import DataError, MissingInputError
from stages.images import picture_to_tensor
from stages.vqvae.evaluate import decibel, squared_error
from stages.vqvae.load import load_autoencoder, save_autoencoder
from stages.vqvae.loss import pixel_loss
from stages.vqvae.model import Autoencoder, Reconstruction

SYSTEMS = {
    "autoencoder": {"bottleneck": "none", "levels": [8]},
    "vae": {"bottleneck": "gaussian", "levels": [8]},
    "vqvae": {"bottleneck": "vq", "levels": [8]},
    "vqvae2": {"bottleneck": "vq", "levels": [8, 4]},
    "vqvae2_fsq": {"bottleneck": "fsq", "levels": [16, 8, 4]},
}
WITH_CODES = ("vqvae", "vqvae2", "vqvae2_fsq")


def make(system: str = "vqvae2", **changes: Any) -> Autoencoder:
    torch.manual_seed(0)
    count = len(SYSTEMS[system]["levels"])
    sizes = {"codebook_sizes": [64, 128, 256][:count], "code_widths": [6] * count}
    return Autoencoder(**{**SYSTEMS[system], **sizes, "channels": 8, "blocks": 1, **changes})


def birds(count: int, size: int = 32) -> Tensor:
    """Drawn pictures in [-1, 1]."""
    pictures = np.stack([draw(describe(0, i), size) for i in range(count)])
    return picture_to_tensor(torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous())


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_system_gives_pictures_and_a_gradient_to_every_weight(system: str) -> None:
    model, images = make(system).train(), birds(2)
    several = len(model.levels) > 1
    noise = [torch.randn(2, 6, 4, 4)] if system == "vae" else None

    output: Reconstruction = model(images, noise=noise, top_every=2 if several else 0)
    bottleneck = sum(level.loss for level in output.levels)
    loss = pixel_loss(output.images, images, l1=1.0, mse=1.0, multiscale=1.0) + bottleneck
    if several:
        assert output.top_images is not None and output.top_images.shape == (1, 3, 32, 32)
        loss = loss + output.top_images.square().mean()
    loss.backward()

    assert output.images.shape == images.shape
    assert [tuple(level.latents.shape[2:]) for level in output.levels] == [(32 // f, 32 // f) for f in model.levels]
    without = [name for name, weight in model.named_parameters() if weight.grad is None]
    assert not without


def test_noise_moves_the_reconstruction_of_a_vae_and_without_it_the_mean_is_decoded() -> None:
    model, images = make("vae").eval(), birds(2)

    mean = model(images)

    assert torch.equal(mean.levels[0].latents, mean.levels[0].before)
    assert torch.equal(mean.images, model(images).images)
    assert not torch.equal(mean.images, model(images, noise=[torch.randn(2, 6, 4, 4)]).images)
    assert float(mean.levels[0].loss.detach()) >= 0


@pytest.mark.parametrize("system", WITH_CODES)
@torch.no_grad()
def test_decoding_the_codes_gives_the_reconstruction(system: str) -> None:
    model, images = make(system).eval(), birds(2)

    codes = model.encode(images)
    output = model(images, top_every=1)

    assert len(codes) == len(model.levels) == len(model.codebooks())
    for code, rows, level, factor in zip(codes, model.codebook_sizes, output.levels, model.levels, strict=True):
        assert code.shape == (2, 32 // factor, 32 // factor) and code.dtype == torch.int64
        assert code.min() >= 0 and code.max() < rows
        assert level.codes is not None and torch.equal(code, level.codes)
    torch.testing.assert_close(model.decode(codes), output.images, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.decode_top(codes[0]), output.top_images, rtol=1e-4, atol=1e-5)
    for latents, level in zip(model.latents(images), output.levels, strict=True):
        assert torch.equal(latents, level.before)


@torch.no_grad()
def test_a_finer_level_left_out_is_a_learned_blank() -> None:
    model, images = make("vqvae2_fsq").eval(), birds(1)
    codes = model.encode(images)
    before = model.decode(codes[:2])

    model.absent[1] += 1  # of the finest level, here left out

    assert not torch.allclose(model.decode(codes[:2]), before)
    torch.testing.assert_close(model.decode(codes), model(images).images, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("system", ["autoencoder", "vae"])
def test_a_system_without_codes_says_so(system: str) -> None:
    model = make(system)

    assert model.codebooks() == [] and model.codebook_sizes == ()
    with pytest.raises(ValueError, match=r"has no codes; `latents` gives"):
        model.encode(birds(1))
    with pytest.raises(ValueError, match=r"has no codes to decode"):
        model.decode([torch.zeros(1, 4, 4, dtype=torch.int64)])


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("size", [(16, 16), (16, 48), (80, 32)])
@torch.no_grad()
def test_any_size_that_is_a_multiple_goes_through(system: str, size: tuple[int, int]) -> None:
    model = make(system).eval()

    output = model(torch.rand(1, 3, *size) * 2 - 1)

    assert output.images.shape == (1, 3, *size)
    assert [tuple(q.before.shape[2:]) for q in output.levels] == [(size[0] // f, size[1] // f) for f in model.levels]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"bottleneck": "vg"}, r"one of none, gaussian, vq, fsq; got 'vg'"),
        ({"levels": [4, 8]}, r"coarsest first; got \[4, 8\]"),
        ({"levels": [12, 4]}, r"powers of two"),
        ({"levels": [], "codebook_sizes": [], "code_widths": []}, r"powers of two"),
        ({"codebook_sizes": [64]}, r"2 levels need as many"),
        ({"bottleneck": "fsq", "codebook_sizes": [64, 100]}, r"fsq has codebooks of 64, .*; got 100"),
    ],
)
def test_an_impossible_model_says_what_is_possible(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make(**changes)


@pytest.mark.parametrize("system", SYSTEMS)
@torch.no_grad()
def test_a_saved_model_comes_back_bit_for_bit(system: str, tmp_path: Path) -> None:
    model, images = make(system), birds(2)
    for number in range(2):
        model.train()(images)
        model.follow(number)
    model.eval()

    save_autoencoder(model, tmp_path / "model", {"image_size": 32})
    loaded, about = load_autoencoder(tmp_path)

    state = model.state_dict()
    assert state.keys() == loaded.state_dict().keys()
    assert all(torch.equal(value, state[name]) for name, value in loaded.state_dict().items())
    assert torch.equal(loaded(images).images, model(images).images)
    assert not loaded.training and not any(weight.requires_grad for weight in loaded.parameters())
    assert about["kind"] == "autoencoder" and about["image_size"] == 32 and about["levels"] == list(model.levels)
    assert about["grids"] == [[32 // f, 32 // f] for f in model.levels]
    assert about["codebook_sizes"] == list(model.codebook_sizes)


def test_a_missing_model_is_told_from_a_damaged_one(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="no trained autoencoder"):
        load_autoencoder(tmp_path)
    save_autoencoder(make(), tmp_path / "model", {})
    (tmp_path / "model" / "config.json").unlink()
    with pytest.raises(MissingInputError, match="no trained autoencoder"):
        load_autoencoder(tmp_path)


def cut_short(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])


def scramble(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\xff" * 64)


def break_json(folder: Path) -> None:
    (folder / "config.json").write_text('{"kind": "autoenc')


def another_kind(folder: Path) -> None:
    (folder / "config.json").write_text('{"kind": "prior", "model": {"width": 8}}')


def other_weights(folder: Path) -> None:
    about = json.loads((folder / "config.json").read_text())
    about["model"]["channels"] = 16
    (folder / "config.json").write_text(json.dumps(about))


@pytest.mark.parametrize("damage", [cut_short, scramble, break_json, another_kind, other_weights])
def test_a_damaged_model_is_a_data_error_that_says_how_to_mend_it(damage: Any, tmp_path: Path) -> None:
    save_autoencoder(make(), tmp_path / "model", {"image_size": 32})

    damage(tmp_path / "model")

    with pytest.raises(DataError, match=r"(?s)is damaged or no autoencoder.*--redo vqvae"):
        load_autoencoder(tmp_path)


@pytest.mark.parametrize("system", ["autoencoder", "vae", "vqvae2", "vqvae2_fsq"])
def test_it_learns_sixteen_pictures(system: str) -> None:
    images = birds(16)
    model = make(system, channels=16).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)
    psnr = []
    for number in range(60):
        output = model(images)
        commitment = 0.25 * sum(level.loss for level in output.levels) if model.kind == "vq" else 0.0
        loss = pixel_loss(output.images, images, l1=1.0, mse=2.0, multiscale=0.5) + commitment
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        model.follow(number)
        psnr.append(float(decibel(squared_error(output.images.detach(), images)).mean()))

    best_grey = float(decibel(squared_error(images.mean((2, 3), keepdim=True).expand_as(images), images)).mean())
    assert psnr[-1] >= psnr[0] + 5
    assert psnr[-1] >= best_grey + 3, "no better than each picture's mean colour"


def test_the_loss_of_colour_alone_does_not_see_brightness() -> None:
    images = birds(2)
    brighter = images + 0.1
    redder = images + torch.tensor([0.114, 0.0, -0.299])[:, None, None]  # of the same luma

    weights = {"l1": 0.0, "mse": 0.0, "multiscale": 0.0, "chroma": 2.0}
    assert float(pixel_loss(brighter, images, **weights)) < 1e-9
    assert float(pixel_loss(redder, images, **weights)) == pytest.approx(2 * (0.114**2 + 0.299**2) / 3, rel=1e-4)
