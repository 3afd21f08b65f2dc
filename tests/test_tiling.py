"""Pictures of any size, tile by tile: as from the whole picture."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stages.vqvae.evaluate import decibel
from stages.vqvae.model import Autoencoder
from stages.vqvae.tiling import pad_to_multiple, reconstruct

SYSTEMS = {
    "autoencoder": {"bottleneck": "none", "levels": [8]},
    "vae": {"bottleneck": "gaussian", "levels": [4]},
    "vqvae2": {"bottleneck": "vq", "levels": [8, 4]},
    "vqvae2_fsq": {"bottleneck": "fsq", "levels": [8, 4, 2]},
}


def make(system: str, **changes: Any) -> Autoencoder:
    """A model in which every weight says something: blocks that start as the identity would see no neighbours."""
    torch.manual_seed(0)
    count = len(SYSTEMS[system]["levels"])
    sizes = {"codebook_sizes": [64] * count, "code_widths": [4] * count}
    model = Autoencoder(**{**SYSTEMS[system], **sizes, "channels": 8, "blocks": 1, **changes})
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
            nn.init.normal_(module.bias, std=0.1)
    return model.eval()


def scaled(model: Autoencoder, images: Tensor) -> Autoencoder:
    """Its pictures as contrasty as real ones, so that decibels mean something."""
    last = model.decoder.pixels[0]
    spread = model(pad_to_multiple(images, model.levels[0])).images.std()
    last.weight.mul_(0.5 / spread)
    last.bias.mul_(0.5 / spread)
    return model


def psnr(images: Tensor, others: Tensor) -> float:
    return float(decibel((images - others).square().mean(dim=(1, 2, 3))).min())


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("size", [(128, 160), (101, 150), (40, 203)])
@torch.no_grad()
def test_tiles_give_the_untiled_picture(system: str, size: tuple[int, int]) -> None:
    images = torch.rand(1, 3, *size) * 2 - 1
    model = scaled(make(system), images)

    whole = reconstruct(model, images, tile=0)
    tiled = reconstruct(model, images, tile=32)

    assert whole.shape == tiled.shape == images.shape
    assert whole.std() > 0.3
    assert psnr(tiled, whole) >= 50


@torch.no_grad()
def test_without_overlap_the_seams_show() -> None:
    images = torch.rand(1, 3, 96, 96) * 2 - 1
    model = scaled(make("vqvae2"), images)

    assert psnr(reconstruct(model, images, tile=32, overlap=0), reconstruct(model, images, tile=0)) < 40


@pytest.mark.parametrize("size", [(1, 1), (7, 33), (64, 64)])
@torch.no_grad()
def test_sizes_that_are_no_multiple_come_back_in_their_own_size(size: tuple[int, int]) -> None:
    images = torch.rand(2, 3, *size) * 2 - 1

    assert reconstruct(make("vqvae2"), images).shape == images.shape


@torch.no_grad()
def test_a_picture_within_one_tile_is_not_cut() -> None:
    model, images = make("vqvae2"), torch.rand(1, 3, 64, 48) * 2 - 1

    assert torch.equal(reconstruct(model, images, tile=64), model(images).images)


@torch.no_grad()
def test_a_tile_is_never_larger_than_tile_and_two_borders() -> None:
    model, seen = make("vqvae2"), []
    model.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(max(inputs[0].shape[2:])))
    border = -(-model.reach // 8) * 8

    reconstruct(model, torch.rand(1, 3, 330, 200), tile=30)  # rounded up to 32

    assert len(seen) == 11 * 7 and max(seen) <= 32 + 2 * border


def test_padding_repeats_the_edge() -> None:
    images = torch.rand(1, 3, 5, 8)

    padded = pad_to_multiple(images, 4)

    assert padded.shape == (1, 3, 8, 8)
    assert torch.equal(padded[:, :, :5], images)
    assert torch.equal(padded[:, :, 5:], images[:, :, 4:].expand(-1, -1, 3, -1))
    assert pad_to_multiple(padded, 4) is padded
