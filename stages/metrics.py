"""Figures on pictures and on sets of features. Nothing is downloaded: features come from whoever calls.

Shapes: b batch, c channels, h w height and width, n m numbers of samples, d feature width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the five scales, Wang et al. 2003, section 3.2
_WINDOW, _SIGMA = 11, 1.5
_LUMA = (0.299, 0.587, 0.114)


def mse(a: Float[Tensor, "b c h w"], b: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
    """Mean squared error per picture."""
    return (a.float() - b.float()).square().flatten(1).mean(1)


def psnr(a: Float[Tensor, "b c h w"], b: Float[Tensor, "b c h w"], *, span: float = 2.0) -> Float[Tensor, " b"]:
    """Peak signal-to-noise ratio per picture in dB; `span` is the width of the value range (2 for [-1, 1])."""
    return 10.0 * torch.log10(span**2 / mse(a, b).clamp(min=1e-10))


def luma(images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 1 h w"]:
    """Brightness without colour (ITU-R BT.601), in the value range of the images."""
    r, g, b = images.float().unbind(dim=1)  # no product of matrices, which autocast would round
    return (_LUMA[0] * r + _LUMA[1] * g + _LUMA[2] * b).unsqueeze(1)


def luma_psnr(a: Float[Tensor, "b 3 h w"], b: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
    """PSNR of the luma per picture in dB, of images in [-1, 1]: whether a coloured picture keeps its grey source."""
    return psnr(luma(a), luma(b))


def edge_f1(drawn: Bool[Tensor, "b h w"], wanted: Bool[Tensor, "b h w"], reach: int = 2) -> Float[Tensor, " b"]:
    """How well the edges drawn are the edges wanted, per picture in [0, 1].

    Harmonic mean of precision, the share of drawn pixels with a wanted one within `reach` px in rows and in columns,
    and recall, the share of wanted pixels with a drawn one as near. 1 where neither picture has an edge, 0 where only
    one of them has.
    """
    precision, recall = _share_near(drawn, wanted, reach), _share_near(wanted, drawn, reach)
    f1 = 2 * precision * recall / (precision + recall).clamp(min=1e-12)
    return torch.where((drawn | wanted).flatten(1).any(1), f1, torch.ones_like(f1))


def _share_near(these: Tensor, those: Tensor, reach: int) -> Tensor:
    """The share of these pixels that have one of those within reach; 0 where there are none of these."""
    near = F.max_pool2d(those.float().unsqueeze(1), 2 * reach + 1, stride=1, padding=reach).squeeze(1) > 0
    return (these & near).flatten(1).sum(1) / these.flatten(1).sum(1).clamp(min=1)


def num_scales(height: int, width: int) -> int:
    """How many of MS-SSIM's five scales fit: the window must lie inside the smallest."""
    scales = 1
    while scales < len(_WEIGHTS) and min(height, width) >> scales >= _WINDOW:
        scales += 1
    return scales


def ms_ssim(a: Float[Tensor, "b c h w"], b: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
    """Multi-scale structural similarity per picture in [-1, 1] (Wang, Simoncelli and Bovik 2003, equation 7).

    Pictures below 176 px have room for fewer than five scales; the weights of those left are scaled to sum to one.
    Windows lie inside the picture, as in the paper; libraries that mirror the border differ by about 0.001 at 64 px.
    """
    scales = num_scales(a.shape[2], a.shape[3])
    weights = torch.tensor(_WEIGHTS[:scales], device=a.device)
    weights = weights / weights.sum()
    # The luminance term compares intensities from 0 up; of values around 0 it would compare signs.
    a, b = (a.float() + 1) / 2, (b.float() + 1) / 2
    result = torch.ones(len(a), device=a.device)
    for i in range(scales):
        luminance, contrast = _ssim_parts(a, b)
        value = luminance * contrast if i == scales - 1 else contrast
        result = result * value.flatten(1).mean(1).clamp(min=0) ** weights[i]
        a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
    return result


def _ssim_parts(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The luminance and the contrast-structure map of pictures in [0, 1] (equations 1 to 3)."""
    c1, c2 = 0.01**2, 0.03**2
    mean_a, mean_b = _blur(a), _blur(b)
    var_a, var_b = _blur(a * a) - mean_a**2, _blur(b * b) - mean_b**2
    cov = _blur(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    return luminance, (2 * cov + c2) / (var_a + var_b + c2)


def _blur(x: Tensor) -> Tensor:
    at = torch.arange(_WINDOW, device=x.device, dtype=x.dtype) - _WINDOW // 2
    kernel = torch.exp(-(at**2) / (2 * _SIGMA**2))
    kernel = (kernel / kernel.sum()).expand(x.shape[1], 1, _WINDOW)
    x = F.conv2d(x, kernel.unsqueeze(2), groups=x.shape[1])
    return F.conv2d(x, kernel.unsqueeze(3), groups=x.shape[1])


def sharpness(images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
    """Variance of the Laplacian of the luma: blur lowers it."""
    kernel = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]], device=images.device).view(1, 1, 3, 3)
    return F.conv2d(luma(images), kernel).flatten(1).var(1)


def frechet_distance(real: Float[Tensor, "n d"], fake: Float[Tensor, "m d"]) -> float:
    """Distance of two Gaussians fitted to the features (Heusel et al. 2017, equation 6)."""
    real, fake = real.double(), fake.double()
    gap = (real.mean(0) - fake.mean(0)).square().sum()
    a, b = torch.cov(real.T), torch.cov(fake.T)
    # tr sqrt(ab) is the sum of the square roots of the eigenvalues of ab, which are real and not negative
    roots = torch.linalg.eigvals(a @ b).real.clamp(min=0).sqrt().sum()
    return float(gap + a.trace() + b.trace() - 2 * roots)


def kernel_distance(real: Float[Tensor, "n d"], fake: Float[Tensor, "m d"]) -> float:
    """Unbiased squared MMD with the cubic kernel (KID, Binkowski et al. 2018, equation 4)."""
    real, fake = real.double(), fake.double()
    width = real.shape[1]

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.T / width + 1) ** 3

    n, m = len(real), len(fake)
    rr, ff = kernel(real, real), kernel(fake, fake)
    within = (rr.sum() - rr.trace()) / (n * (n - 1)) + (ff.sum() - ff.trace()) / (m * (m - 1))
    return float(within - 2 * kernel(real, fake).mean())


def precision_recall_density_coverage(
    real: Float[Tensor, "n d"], fake: Float[Tensor, "m d"], k: int = 5
) -> dict[str, float]:
    """How many fakes look real and how much of the real is reached, by k-nearest-neighbour balls.

    Precision and recall: Kynkaanniemi et al. 2019, equations 1 to 3; density and coverage: Naeem et al. 2020,
    equations 4 and 5.
    """
    real, fake = real.double(), fake.double()
    real_radius = torch.cdist(real, real).kthvalue(k + 1, dim=1).values  # the nearest is the sample itself
    fake_radius = torch.cdist(fake, fake).kthvalue(k + 1, dim=1).values
    apart = torch.cdist(real, fake)
    inside_real = apart <= real_radius[:, None]
    inside_fake = apart <= fake_radius[None, :]
    return {
        "precision": float(inside_real.any(0).double().mean()),
        "recall": float(inside_fake.any(1).double().mean()),
        "density": float(inside_real.double().sum(0).mean() / k),
        "coverage": float(inside_real.any(1).double().mean()),
    }
