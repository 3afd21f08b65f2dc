"""Figures on pictures and features, against brute force, SciPy and torchmetrics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from stages.evaluation.probe_model import Probe
from stages.evaluation.probes import accuracies, masked_loss
from stages.metrics import (
    edge_f1,
    frechet_distance,
    kernel_distance,
    luma,
    luma_psnr,
    ms_ssim,
    mse,
    num_scales,
    precision_recall_density_coverage,
    psnr,
    sharpness,
)


def pictures(count: int, side: int, seed: int = 0) -> Tensor:
    """Smooth random pictures in [-1, 1]: noise at every scale, as photographs have."""
    generator = torch.Generator().manual_seed(seed)
    layers = [torch.randn(count, 3, side >> i, side >> i, generator=generator) for i in range(4)]
    mixed = sum(F.interpolate(x, (side, side), mode="bilinear") * 2**i for i, x in enumerate(layers))
    assert isinstance(mixed, Tensor)
    return (mixed / 10).clamp(-1, 1)


def normal(n: int, width: int, seed: int, spread: float = 1.0) -> Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed)) * spread


def test_mse_and_psnr_are_per_picture() -> None:
    from torchmetrics.functional.image import peak_signal_noise_ratio

    a, b = pictures(3, 32, 0), pictures(3, 32, 1)
    expected = [peak_signal_noise_ratio(a[i], b[i], data_range=2.0) for i in range(3)]
    assert psnr(a, b).tolist() == pytest.approx([float(x) for x in expected], abs=1e-4)
    assert mse(a, b)[1] == pytest.approx(float(((a[1] - b[1]) ** 2).mean()), rel=1e-5)


def test_psnr_of_a_perfect_copy_is_finite() -> None:
    a = pictures(1, 32)
    assert torch.isfinite(psnr(a, a)).all()
    assert psnr(a, a) > 100


def test_five_scales_agree_with_torchmetrics() -> None:
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as reference

    a = pictures(2, 192)
    b = (a + 0.2 * pictures(2, 192, 5)).clamp(-1, 1)
    assert num_scales(192, 192) == 5
    expected = reference((b + 1) / 2, (a + 1) / 2, data_range=1.0, reduction="none")
    assert ms_ssim(b, a).tolist() == pytest.approx(expected.tolist(), abs=1e-3)


def test_64_pixels_have_room_for_three_scales_whose_weights_sum_to_one() -> None:
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as reference

    a = pictures(2, 64)
    b = (a + 0.2 * pictures(2, 64, 5)).clamp(-1, 1)
    assert [num_scales(side, side) for side in (8, 16, 32, 64, 128, 176)] == [1, 1, 2, 3, 4, 5]
    weights = torch.tensor([0.0448, 0.2856, 0.3001])
    betas = tuple((weights / weights.sum()).tolist())
    expected = reference((b + 1) / 2, (a + 1) / 2, data_range=1.0, betas=betas, reduction="none")
    assert ms_ssim(b, a).tolist() == pytest.approx(expected.tolist(), abs=2e-3)


def ms_ssim_by_hand(a: np.ndarray, b: np.ndarray, scales: int) -> float:
    """Wang et al. 2003 in NumPy, in float64: (3, h, w) in [0, 1], windows inside the picture."""
    from scipy.signal import convolve2d

    weights = np.array([0.0448, 0.2856, 0.3001, 0.2363, 0.1333])[:scales]
    bell = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    window = np.outer(bell, bell) / bell.sum() ** 2

    def blur(x: np.ndarray) -> np.ndarray:
        return np.stack([convolve2d(channel, window, mode="valid") for channel in x])

    result = 1.0
    for i, weight in enumerate(weights / weights.sum()):
        mean_a, mean_b = blur(a), blur(b)
        var_a, var_b, cov = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2, blur(a * b) - mean_a * mean_b
        value = (2 * cov + 0.03**2) / (var_a + var_b + 0.03**2)
        if i == scales - 1:
            value = value * (2 * mean_a * mean_b + 0.01**2) / (mean_a**2 + mean_b**2 + 0.01**2)
        result *= value.mean() ** weight
        a, b = (x.reshape(3, x.shape[1] // 2, 2, x.shape[2] // 2, 2).mean((2, 4)) for x in (a, b))
    return result


def test_ms_ssim_is_the_paper_by_hand() -> None:
    a = pictures(2, 64)
    b = (a + 0.2 * pictures(2, 64, 5)).clamp(-1, 1)
    by_hand = [
        ms_ssim_by_hand(((x + 1) / 2).double().numpy(), ((y + 1) / 2).double().numpy(), 3)
        for x, y in zip(a, b, strict=True)
    ]
    assert ms_ssim(a, b).tolist() == pytest.approx(by_hand, abs=1e-5)


def test_a_small_change_of_a_mid_grey_picture_is_a_small_change_of_ms_ssim() -> None:
    grey = 0.02 * pictures(1, 64)  # around the middle of [-1, 1]: intensities, not signs, must be compared
    assert ms_ssim(grey + 0.04, grey - 0.04)[0] > 0.99


def test_ms_ssim_is_one_for_a_copy_and_falls_with_blur() -> None:
    a = pictures(2, 64)
    blurred = F.interpolate(F.avg_pool2d(a, 4), size=64, mode="bilinear")
    lightly = F.interpolate(F.avg_pool2d(a, 2), size=64, mode="bilinear")
    assert ms_ssim(a, a).tolist() == pytest.approx([1.0, 1.0], abs=1e-5)
    assert (ms_ssim(blurred, a) < ms_ssim(lightly, a)).all()


def test_ms_ssim_of_an_inverted_picture_is_a_number() -> None:
    assert torch.isfinite(ms_ssim(-pictures(1, 64), pictures(1, 64))).all()


def test_blur_lowers_sharpness_and_a_flat_picture_has_none() -> None:
    a = pictures(2, 32)
    blurred = F.interpolate(F.avg_pool2d(a, 2), size=32, mode="bilinear")
    assert (sharpness(blurred) < sharpness(a)).all()
    assert sharpness(torch.full((1, 3, 16, 16), 0.3)) == pytest.approx(0.0, abs=1e-9)


def test_sharpness_is_the_variance_of_the_laplacian_of_the_luma() -> None:
    a = pictures(1, 12)
    luma = (a[0] * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(0).numpy()
    laplacian = [
        luma[y - 1, x] + luma[y + 1, x] + luma[y, x - 1] + luma[y, x + 1] - 4 * luma[y, x]
        for y in range(1, 11)
        for x in range(1, 11)
    ]
    assert float(sharpness(a)[0]) == pytest.approx(float(np.var(laplacian, ddof=1)), rel=1e-4)


def test_luma_is_the_grey_of_pillow() -> None:
    from PIL import Image

    levels = torch.randint(0, 256, (2, 3, 9, 7), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    by_pillow = [np.asarray(Image.fromarray(x.permute(1, 2, 0).numpy()).convert("L")) for x in levels]
    grey = (luma(levels / 127.5 - 1) + 1) * 127.5
    assert grey.shape == (2, 1, 9, 7)
    assert np.abs(grey[:, 0].numpy() - np.stack(by_pillow)).max() < 0.51


def test_luma_psnr_sees_brightness_and_no_colour() -> None:
    a = 0.5 * pictures(2, 32)
    grey = luma(a).expand(-1, 3, -1, -1)
    assert (luma_psnr(a, grey) > 100).all()
    assert (psnr(a, grey) < 40).all()
    assert luma_psnr(a, a + 0.1).tolist() == pytest.approx([10 * np.log10(4 / 0.01)] * 2, abs=1e-3)


def edge_f1_by_hand(drawn: np.ndarray, wanted: np.ndarray, reach: int) -> float:
    """One pair of pixels at a time."""
    a, b = np.argwhere(drawn).tolist(), np.argwhere(wanted).tolist()
    if not a or not b:
        return float(a == b)

    def found(these: list[list[int]], those: list[list[int]]) -> float:
        return sum(any(max(abs(y - v), abs(x - u)) <= reach for v, u in those) for y, x in these) / len(these)

    precision, recall = found(a, b), found(b, a)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@pytest.mark.parametrize("reach", [0, 1, 2, 5])
def test_edge_f1_is_its_definition(reach: int) -> None:
    generator = torch.Generator().manual_seed(reach)
    shares = torch.tensor([0.005, 0.01, 0.03, 0.4])[:, None, None]
    drawn, wanted = (torch.rand(4, 27, 31, generator=generator) < shares for _ in range(2))
    by_hand = [edge_f1_by_hand(x, y, reach) for x, y in zip(drawn.numpy(), wanted.numpy(), strict=True)]
    assert edge_f1(drawn, wanted, reach).tolist() == pytest.approx(by_hand, abs=1e-6)
    assert len(set(by_hand)) > 2


def test_edge_f1_of_empty_pictures_is_one_for_two_and_zero_for_one() -> None:
    drawn, wanted = torch.zeros(3, 8, 8, dtype=torch.bool), torch.zeros(3, 8, 8, dtype=torch.bool)
    drawn[1, 2, 2] = wanted[2, 2, 2] = True
    assert edge_f1(drawn, wanted).tolist() == [1.0, 0.0, 0.0]


def test_edge_f1_forgives_a_shift_within_reach_and_none_beyond() -> None:
    line = torch.zeros(1, 16, 16, dtype=torch.bool)
    line[:, :, 5] = True
    assert [float(edge_f1(line.roll(by, 2), line)) for by in (0, 2, 3)] == [1.0, 1.0, 0.0]
    doubled = line | line.roll(6, 2)
    assert float(edge_f1(doubled, line)) == pytest.approx(2 / 3)  # precision 1/2, recall 1


def test_frechet_distance_is_the_textbook_formula() -> None:
    from scipy.linalg import sqrtm

    real, fake = normal(400, 6, 0), normal(300, 6, 1, 1.4) @ normal(6, 6, 2) + 0.5
    a, b = np.cov(real.double().numpy().T), np.cov(fake.double().numpy().T)
    gap = (real.double().mean(0) - fake.double().mean(0)).square().sum()
    expected = float(gap) + np.trace(a + b - 2 * np.real(sqrtm(a @ b)))
    assert frechet_distance(real, fake) == pytest.approx(float(expected), rel=1e-6)


def test_frechet_distance_of_a_set_to_itself_is_zero_even_with_few_samples() -> None:
    few = normal(20, 64, 0)  # a covariance of rank 19
    assert frechet_distance(few, few) == pytest.approx(0.0, abs=1e-4)


def test_kernel_distance_agrees_with_torchmetrics() -> None:
    from torchmetrics.image.kid import poly_mmd

    real, fake = normal(60, 16, 0).double(), normal(60, 16, 1, 1.3).double()
    assert kernel_distance(real, fake) == pytest.approx(float(poly_mmd(real, fake)), rel=1e-9)


def test_kernel_distance_is_unbiased() -> None:
    same = [kernel_distance(normal(50, 8, 2 * i), normal(50, 8, 2 * i + 1)) for i in range(60)]
    assert abs(np.mean(same)) < 3 * np.std(same) / np.sqrt(len(same))
    assert min(same) < 0 < max(same)


def brute_force(real: Tensor, fake: Tensor, k: int) -> dict[str, float]:
    """The four definitions, one pair at a time."""

    def radius(points: np.ndarray, i: int) -> float:
        others = [float(np.linalg.norm(points[i] - points[j])) for j in range(len(points)) if j != i]
        return sorted(others)[k - 1]

    r, f = real.double().numpy(), fake.double().numpy()
    real_radius = [radius(r, i) for i in range(len(r))]
    fake_radius = [radius(f, j) for j in range(len(f))]
    d = np.array([[np.linalg.norm(x - y) for y in f] for x in r])
    n, m = len(r), len(f)
    return {
        "precision": sum(any(d[i, j] <= real_radius[i] for i in range(n)) for j in range(m)) / m,
        "recall": sum(any(d[i, j] <= fake_radius[j] for j in range(m)) for i in range(n)) / n,
        "density": sum(d[i, j] <= real_radius[i] for i in range(n) for j in range(m)) / (k * m),
        "coverage": sum(any(d[i, j] <= real_radius[i] for j in range(m)) for i in range(n)) / n,
    }


@pytest.mark.parametrize("k", [1, 5])
def test_precision_to_coverage_are_their_definitions(k: int) -> None:
    real, fake = normal(45, 4, 0), normal(37, 4, 1, 1.2) + 0.4
    assert precision_recall_density_coverage(real, fake, k) == pytest.approx(brute_force(real, fake, k))


def test_a_set_against_itself_is_fully_covered() -> None:
    real = normal(100, 8, 0)
    found = precision_recall_density_coverage(real, real.clone())
    assert (found["precision"], found["recall"], found["coverage"]) == (1.0, 1.0, 1.0)


def test_mode_collapse_keeps_precision_and_loses_coverage() -> None:
    real = normal(200, 4, 0)
    collapsed = real[:1] + 0.01 * normal(200, 4, 1)
    found = precision_recall_density_coverage(real, collapsed)
    assert found["precision"] > 0.95
    assert found["coverage"] < 0.15


def test_one_outlier_among_the_real_flatters_precision_but_not_density() -> None:
    real, far = normal(200, 4, 0), normal(200, 4, 1) + 8
    real[0] = 60.0  # its ball reaches over everything
    found = precision_recall_density_coverage(real, far)
    assert found["precision"] == 1.0
    assert found["density"] <= 0.25
    assert found["coverage"] < 0.05


def test_duplicates_among_the_real_do_not_break_the_balls() -> None:
    real = normal(40, 4, 0).repeat(2, 1)
    found = precision_recall_density_coverage(real, real)
    assert all(np.isfinite(value) for value in found.values())
    assert found["coverage"] == 1.0


def test_a_probe_learns_nothing_of_pictures_of_which_nothing_is_known() -> None:
    logits = {"wing": torch.randn(4, 3, requires_grad=True), "body": torch.randn(4, 2, requires_grad=True)}
    labels = {"wing": torch.tensor([0, -1, 2, -1]), "body": torch.full((4,), -1)}
    known = F.cross_entropy(logits["wing"][[0, 2]], torch.tensor([0, 2]))
    assert torch.allclose(masked_loss(logits, labels), known)
    nothing = masked_loss(logits, {name: torch.full((4,), -1) for name in logits})
    torch.autograd.backward(nothing)
    assert nothing.item() == 0 and not logits["wing"].grad.any()  # type: ignore[union-attr]
    assert accuracies({"wing": torch.tensor([0, 1, 1, 1])}, {"wing": labels["wing"]}) == {"wing": 0.5}
    assert accuracies({"body": torch.zeros(4)}, {"body": labels["body"]}) == {}


def test_an_attribute_may_be_called_anything() -> None:
    values = {"type": ["sedan", "van"], "a.b": ["x", "y", "z"], "values": ["0", "1"]}
    logits = Probe(values)(torch.zeros(2, 3, 64, 64))
    assert {name: one.shape[1] for name, one in logits.items()} == {"type": 2, "a.b": 3, "values": 2}
