"""Image similarity: SSIM per frame, in float64. PSNR is in `fw_core.images`.

Axis legend: F frames, H W pixels; uint8 RGB.
"""

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

_WINDOW, _SIGMA = 11, 1.5
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def ssim(pred: UInt8[np.ndarray, "F H W 3"], truth: UInt8[np.ndarray, "F H W 3"]) -> Float[np.ndarray, "F"]:
    """Structural similarity of every frame (Wang et al. 2004), mean over pixels and color channels.

    Gaussian window of 11 x 11 pixels with sigma 1.5, K1 = 0.01, K2 = 0.03, population variances; border pixels where
    the window leaves the image are skipped.

    Raises:
        ValueError: the images are smaller than the window.
    """
    if min(pred.shape[1:3]) < _WINDOW:
        raise ValueError(f"SSIM needs images of at least {_WINDOW} x {_WINDOW} pixels, got {pred.shape[1:3]}")
    return np.array([_ssim(p, t) for p, t in zip(pred, truth, strict=True)])


def _ssim(pred: UInt8[np.ndarray, "H W 3"], truth: UInt8[np.ndarray, "H W 3"]) -> float:
    x, y = (rearrange(torch.from_numpy(image).double(), "h w c -> c 1 h w") for image in (pred, truth))
    mean_x, mean_y = _blurred(x), _blurred(y)
    var_x = _blurred(x * x) - mean_x**2
    var_y = _blurred(y * y) - mean_y**2
    covariance = _blurred(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1)
    structure = (2 * covariance + _C2) / (var_x + var_y + _C2)
    return float((luminance * structure).mean())


def _blurred(x: Float[Tensor, "c 1 H W"]) -> Float[Tensor, "c 1 h w"]:
    """Gaussian-weighted mean, for all window positions inside the image."""
    offsets = torch.arange(_WINDOW, dtype=x.dtype) - _WINDOW // 2
    weights = torch.exp(-0.5 * (offsets / _SIGMA) ** 2)
    weights = weights / weights.sum()
    rows = functional.conv2d(x, weights.reshape(1, 1, -1, 1))
    return functional.conv2d(rows, weights.reshape(1, 1, 1, -1))
