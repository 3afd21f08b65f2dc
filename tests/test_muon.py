"""Muon: orthogonal steps for matrices and kernels, AdamW to the bit for the rest."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from pipeline.muon import RMS, Muon, orthogonal
from pipeline.player import _optimizer, warn_of_adamw
from pipeline.training_config import BackendConfig, OptimizerConfig


@pytest.mark.parametrize("shape", [(16, 64), (64, 16), (32, 32), (1, 8)])
def test_orthogonal_keeps_directions_and_levels_singular_values(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    u, s, vh = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    matrix = (u * (0.05 + s / s.max())) @ vh

    [turned] = orthogonal([matrix])

    values = torch.diagonal(u.T @ turned @ vh.T)
    assert turned.shape == matrix.shape
    assert ((values > 0.6) & (values < 1.3)).all(), values
    assert torch.allclose(turned, (u * values) @ vh, atol=1e-4), "singular vectors changed"


def test_matrices_turn_as_they_would_alone() -> None:
    torch.manual_seed(0)
    matrices = [torch.randn(8, 12), torch.randn(12, 8), torch.randn(8, 12), torch.randn(8, 8)]

    together = orthogonal(matrices)

    for matrix, turned in zip(matrices, together, strict=True):
        assert turned.shape == matrix.shape
        assert torch.allclose(turned, orthogonal([matrix])[0], atol=1e-5)


def test_a_kernel_steps_as_a_matrix_at_adams_scale() -> None:
    kernel = nn.Conv2d(8, 16, 3)
    before = kernel.weight.detach().clone()
    optimizer = Muon([{"params": [kernel.weight], "orthogonal": True}], lr=0.1, weight_decay=0.0)
    kernel(torch.randn(2, 8, 9, 9)).square().sum().backward()

    optimizer.step()

    step = (kernel.weight.detach() - before).flatten(1)
    values = torch.linalg.svdvals(step) / (0.1 * RMS * 72**0.5)
    assert ((values > 0.6) & (values < 1.3)).all()
    assert step.square().mean().sqrt() == pytest.approx(0.1 * RMS, rel=0.3)


def test_everything_else_is_adamw_to_the_bit() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(7, 8), nn.Linear(8, 8), nn.LayerNorm(8))
    twin = copy.deepcopy(net)
    muon = _optimizer(net, OptimizerConfig(lr=0.01, kind="muon"), sharded=False)
    adam = torch.optim.AdamW(twin.parameters(), lr=0.01, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    for _ in range(3):
        for model, optimizer in ((net, muon), (twin, adam)):
            with torch.no_grad():  # the matrix of both alike, so that the rest sees the same gradients
                model[1].weight.copy_(torch.eye(8))
            model(torch.arange(7)).pow(4).sum().backward()
            optimizer.step()
            optimizer.zero_grad()

    assert torch.equal(net[0].weight, twin[0].weight)
    assert torch.equal(net[1].bias, twin[1].bias)
    assert torch.equal(net[2].weight, twin[2].weight)
    assert not torch.equal(net[1].weight, twin[1].weight)


def test_modules_that_ask_for_it_are_left_to_adamw() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    net.by_adam = ("1",)  # type: ignore[assignment]

    groups = _optimizer(net, OptimizerConfig(), sharded=False).param_groups

    assert [p is net[0].weight for g in groups if g.get("orthogonal") for p in g["params"]] == [True]
    assert len(_optimizer(net, OptimizerConfig(), sharded=True).param_groups) == 2, "ZeRO shards AdamW"


def test_a_rate_found_for_muon_is_not_taken_for_adamw_in_silence(caplog: pytest.LogCaptureFixture) -> None:
    warn_of_adamw("prior", OptimizerConfig(lr=0.02), sharded=False)
    warn_of_adamw("prior", OptimizerConfig(kind="adamw", lr=0.02), sharded=True)
    assert not caplog.records
    warn_of_adamw("prior", OptimizerConfig(lr=0.02), sharded=True)
    assert "AdamW, and optimizer.lr stays 0.02" in caplog.text


def test_zero_refuses_muon() -> None:
    with pytest.raises(ValueError, match=r"optimizer\.kind=adamw"):
        BackendConfig(zero_stage=1).check(OptimizerConfig(kind="muon"))
    BackendConfig(zero_stage=1).check(OptimizerConfig())
