"""Finite scalar quantization: every code is the nearest point of its grid, and every point has a code."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from stages.vqvae.fsq import FiniteScalarQuantizer
from stages.vqvae.settings import FSQ_STEPS


def features(width: int, *, spread: float = 2.0, seed: int = 0) -> Tensor:
    return spread * torch.randn(2, width, 16, 16, generator=torch.Generator().manual_seed(seed))


def as_rows(latents: Tensor) -> Tensor:
    return latents.permute(0, 2, 3, 1).reshape(-1, latents.shape[1])


@pytest.mark.parametrize("rows", FSQ_STEPS)
def test_the_codebook_is_about_as_large_as_asked_for_and_no_two_rows_are_alike(rows: int) -> None:
    quantizer = FiniteScalarQuantizer(rows)

    assert quantizer.rows == len(quantizer.codebook) == math.prod(FSQ_STEPS[rows])
    assert 0.9 < quantizer.rows / rows < 1.1
    assert len(quantizer.codebook.unique(dim=0)) == quantizer.rows
    assert quantizer.codebook.min() == -1 and quantizer.codebook.max() == 1


@pytest.mark.parametrize("rows", [64, 512, 1024, 4096])
def test_codes_name_the_nearest_point_and_the_decoder_gets_it(rows: int) -> None:
    quantizer = FiniteScalarQuantizer(rows)
    quantized = quantizer(features(quantizer.width))

    distances = torch.cdist(as_rows(quantized.before).double(), quantizer.codebook.double())

    assert torch.equal(quantized.codes.flatten(), distances.argmin(1))
    torch.testing.assert_close(quantized.latents, quantizer.lookup(quantized.codes))
    assert quantized.loss == 0


@pytest.mark.parametrize("rows", [64, 256])
def test_every_code_can_be_reached(rows: int) -> None:
    quantizer = FiniteScalarQuantizer(rows)
    codes = torch.cat([quantizer(features(quantizer.width, seed=i)).codes.flatten() for i in range(30)])

    assert len(codes.unique()) == quantizer.rows


@pytest.mark.parametrize("rows", [64, 1024])
def test_extreme_features_end_in_the_corners_of_the_grid(rows: int) -> None:
    quantizer = FiniteScalarQuantizer(rows)
    far = torch.full((1, quantizer.width, 1, 2), 1e4)
    far[..., 0] *= -1

    quantized = quantizer(far)

    assert quantized.codes.flatten().tolist() == [0, quantizer.rows - 1]
    assert as_rows(quantized.latents).tolist() == [[-1.0] * quantizer.width, [1.0] * quantizer.width]


def test_the_gradient_passes_the_rounding_unchanged() -> None:
    quantizer = FiniteScalarQuantizer(512)
    z, gradient = features(3).requires_grad_(), features(3, seed=1)

    quantized = quantizer(z)
    (through,) = torch.autograd.grad(quantized.latents, z, gradient, retain_graph=True)
    (without,) = torch.autograd.grad(quantized.before, z, gradient)

    assert torch.equal(through, without) and through.abs().sum() > 0


def test_autocast_and_bf16_features_keep_the_grid_exact() -> None:
    quantizer = FiniteScalarQuantizer(8192)
    z = features(quantizer.width).bfloat16()

    with torch.autocast("cpu", dtype=torch.bfloat16):
        quantized = quantizer(z)

    assert quantized.latents.dtype == torch.float32
    assert torch.equal(quantized.codes, quantizer(z.float()).codes)


def test_a_size_without_a_grid_names_those_with_one() -> None:
    with pytest.raises(ValueError, match=r"codebooks of 64, 128, .*65536 rows; got 100"):
        FiniteScalarQuantizer(100)


def test_codes_exist_whatever_the_model_is_cast_to() -> None:
    quantizer = FiniteScalarQuantizer(64).bfloat16()
    features = torch.randn(4, quantizer.width, 16, 16) * 10
    features[0, 0, 0, 0] = float("nan")

    codes = quantizer(features).codes

    assert quantizer.codebook.dtype == torch.float32
    assert int(codes.min()) >= 0 and int(codes.max()) < quantizer.rows
