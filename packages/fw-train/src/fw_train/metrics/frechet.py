"""FVD (Unterthiner et al. 2018): the distance between a set of generated videos and a set of real videos.

The features are those of I3D trained on Kinetics-400, from the TorchScript file published with StyleGAN-V (Skorokhodov
et al. 2022). The file rescales and resizes its input, so scores follow that protocol: the whole clip at its original
frame rate, stretched to 224 x 224.

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
    """Extract features of a video with a TorchScript program.

    A TorchScript file cannot run Python, but it can compute anything and write files. Use only files from a trusted
    source.

    Args:
        network: a TorchScript module called as `module(video, rescale=True, resize=True, return_features=True)` with
            float RGB of 0 to 255 in [1, 3, F, H, W]; it returns [1, d].
        device: device to run on.

    Raises:
        ConfigError: the file is missing or not TorchScript.
    """

    def __init__(self, network: Path, device: str | torch.device = "cpu") -> None:
        if not network.is_file():
            raise ConfigError(f"--fvd-network {network} does not exist")
        self.network, self.device = network, device
        try:
            with warnings.catch_warnings():
                # torch recommends torch.export for new programs; the published file is TorchScript
                warnings.filterwarnings("ignore", ".*torch.jit.load.* is deprecated", DeprecationWarning)
                self._module = torch.jit.load(str(network), map_location=device).eval()
        except (RuntimeError, ValueError) as error:
            raise ConfigError(
                f"--fvd-network {network} is not a TorchScript file ({_first_line(error)}); "
                "docs/evaluate-a-model.md describes the file"
            ) from None

    def check(self, frames: int, height: int, width: int) -> None:
        """Run the network once on black frames, to find errors before anything is generated.

        Raises:
            ConfigError: the network rejects videos of this shape or does not return features.
        """
        try:
            self(np.zeros((frames, height, width, 3), np.uint8))
        except (RuntimeError, TypeError) as error:
            raise ConfigError(
                f"--fvd-network {self.network} fails on a video of {frames} frames of {height}x{width} "
                f"({_first_line(error)}); I3D needs about 10 frames, and the file must accept the options rescale, "
                "resize and return_features"
            ) from None

    @torch.no_grad()
    def __call__(self, video: UInt8[np.ndarray, "F H W 3"]) -> Float[np.ndarray, "d"]:
        """Features of one video in float64. TypeError if the network does not return finite features of [1, d]."""
        x = rearrange(torch.from_numpy(video), "f h w c -> 1 c f h w").to(self.device, torch.float32)
        features = self._module(x, rescale=True, resize=True, return_features=True)
        if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != 1:
            shape = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise TypeError(f"it gives {shape}, not one row of features")
        if not features.isfinite().all():
            raise TypeError("it gives features that are not finite")
        return features[0].double().cpu().numpy()


def frechet_distance(generated: Float[np.ndarray, "n d"], real: Float[np.ndarray, "m d"]) -> float:
    """Squared Frechet distance between normal distributions fitted to two sets of features, in float64.

    |mean - mean'|^2 + tr(C + C' - 2 (C C')^(1/2)) (Dowson and Landau 1982), covariances over n - 1. The trace of the
    root is the sum of the singular values of A A'^T, where C = A^T A and A contains the centered features. No matrix
    root is computed, so covariances without full rank (fewer videos than features) are exact too.

    Raises:
        ValueError: a set has fewer than two videos, or features are not finite.
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
    """A matrix with the same A^T A and at most as many rows as columns, so many videos cost no more than d."""
    return np.linalg.qr(a).R if len(a) > a.shape[1] else a


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines and lines[0].startswith("The following operation failed") else (lines or [repr(error)])[0]
