"""FVD (Unterthiner et al. 2018): how far a set of generated videos is from the set of the real ones.

Features come from the network that the field uses, I3D trained on Kinetics-400, as the TorchScript file that was
published with StyleGAN-V (Skorokhodov et al. 2022). The file scales and resizes by itself, so the numbers are those of
that protocol: the whole clip at its own frame rate, stretched to 224 x 224.

Axis legend: F frames, H W pixels, n m videos, d features.
"""

import warnings
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor

from fw_train.config.schema import ConfigError


class VideoFeatures:
    """The features of a video, from a TorchScript program.

    A TorchScript file is a program: it cannot run Python, but what it computes, and which files it writes, it decides
    itself. Give no file whose origin you do not trust.

    Args:
        network: a TorchScript module called as `module(video, rescale=True, resize=True, return_features=True)` with
            float RGB of 0 to 255 in [1, 3, F, H, W], which gives [1, d].
        device: where it runs.

    Raises:
        ConfigError: no such file, or no TorchScript.
    """

    def __init__(self, network: Path, device: str = "cpu") -> None:
        if not network.is_file():
            raise ConfigError(f"--fvd-network {network} does not exist")
        self.network, self.device = network, device
        try:
            with warnings.catch_warnings():
                # torch steers new programs to torch.export; the published file stays what it is
                warnings.filterwarnings("ignore", ".*torch.jit.load.* is deprecated", DeprecationWarning)
                self._module = torch.jit.load(str(network), map_location=device).eval()
        except (RuntimeError, ValueError) as error:
            raise ConfigError(
                f"--fvd-network {network} is not a TorchScript file ({_first_line(error)}); "
                "docs/evaluate-a-model.md describes the file"
            ) from None

    def check(self, frames: int, height: int, width: int) -> None:
        """Run it once on black frames, so that what it cannot do is known before anything is generated.

        Raises:
            ConfigError: it takes no such video, or gives something else than features.
        """
        try:
            self(np.zeros((frames, height, width, 3), np.uint8))
        except (RuntimeError, TypeError) as error:
            raise ConfigError(
                f"--fvd-network {self.network} takes no video of {frames} frames of {height}x{width} "
                f"({_first_line(error)}); I3D needs some 10 frames, and the file must be the one with the options "
                "rescale, resize and return_features"
            ) from None

    @torch.no_grad()
    def __call__(self, video: UInt8[np.ndarray, "F H W 3"]) -> Float[np.ndarray, "d"]:
        """Features of one video in float64. TypeError where the network gives no [1, d] of finite numbers."""
        x = rearrange(torch.from_numpy(video), "f h w c -> 1 c f h w").to(self.device, torch.float32)
        features = self._module(x, rescale=True, resize=True, return_features=True)
        if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != 1:
            shape = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise TypeError(f"it gives {shape}, not one row of features")
        if not features.isfinite().all():
            raise TypeError("it gives features that are not finite")
        return features[0].double().cpu().numpy()


def frechet_distance(generated: Float[np.ndarray, "n d"], real: Float[np.ndarray, "m d"]) -> float:
    """Squared Frechet distance of the normal distributions with the means and covariances of two sets, in float64.

    |mean - mean'|^2 + tr(C + C' - 2 (C C')^(1/2)) (Dowson and Landau 1982), covariances over n - 1. The trace of the
    root is the sum of the singular values of A A'^T, where C = A^T A and A contains the centered features. No matrix
    root is computed, so covariances without full rank (fewer videos than features) are exact too.

    Raises:
        ValueError: fewer than two videos in a set, or features that are not finite.
    """
    first, other = np.asarray(generated, np.float64), np.asarray(real, np.float64)
    if min(len(first), len(other)) < 2:
        raise ValueError(f"sets of two or more videos have a distance, got {len(first)} and {len(other)}")
    if not (np.isfinite(first).all() and np.isfinite(other).all()):
        raise ValueError("features that are not finite have no distance")
    means = first.mean(axis=0), other.mean(axis=0)
    a = (first - means[0]) / np.sqrt(len(first) - 1)
    b = (other - means[1]) / np.sqrt(len(other) - 1)
    root = np.linalg.svd(_short(a) @ _short(b).T, compute_uv=False)
    distance = ((means[0] - means[1]) ** 2).sum() + (a**2).sum() + (b**2).sum() - 2 * root.sum()
    return max(0.0, float(distance))


def _short(a: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "k d"]:
    """With the same A^T A, and at most as many rows as columns: thousands of videos cost no more than d of them."""
    return np.linalg.qr(a).R if len(a) > a.shape[1] else a


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines and lines[0].startswith("The following operation failed") else (lines or [repr(error)])[0]
