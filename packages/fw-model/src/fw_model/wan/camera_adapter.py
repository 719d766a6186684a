"""Camera control of the paper: Pluecker maps -> one feature per video token -> a shift inside the first blocks.

Axes: b batch, F frames, f latent frames, H W pixels of the Pluecker map, h w token rows and columns, l = f h w tokens,
d video width, p camera feature width.
"""

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from fw_model.config import PATCH, CameraConfig
from fw_model.layers.declarations import KEEP_POWER, TORCH_DEFAULT, ZERO, Declares, Fill, Layer

_GROUPS = 2


class CameraAdapter(nn.Module, Declares):
    """Shift from camera features and the block's cross-attention output; zero at the start (paper, App. A.1)."""

    group = "cross_branch"
    part = "camera control"

    def __init__(self, dim: int, feature_dim: int, activation: Literal["relu", "gelu"] = "relu") -> None:
        super().__init__()
        self.from_camera = nn.Linear(feature_dim, feature_dim)
        self.from_video = _mlp(dim, min(dim, feature_dim) // 2, feature_dim, activation)
        self.to_shift = _mlp(feature_dim, feature_dim // 5, dim, activation)

    def initial_values(self) -> Mapping[str, Fill | Layer]:
        """A new adapter shifts nothing."""
        return {"": KEEP_POWER, "to_shift.2": ZERO}

    def forward(self, mixed: Float[Tensor, "b l d"], camera: Float[Tensor, "b l p"]) -> Float[Tensor, "b l d"]:
        """Return the shift that is added to the attention output before its output projection."""
        return self.to_shift(self.from_camera(camera) + self.from_video(mixed))


class PoseEncoder(nn.Module, Declares):
    """Pluecker maps to camera features: per-frame 1x1 convolutions, two halvings of time, patches, an MLP."""

    group = "cross_branch"
    part = "camera control"

    def __init__(self, config: CameraConfig, dim: int) -> None:
        super().__init__()
        width = config.channels or config.unshuffled
        self.downscale = config.downscale
        self.first = nn.Sequential(
            nn.Conv2d(config.unshuffled, width, kernel_size=1),
            nn.GroupNorm(_GROUPS, width),
            nn.Conv2d(width, width, kernel_size=1),
            nn.GroupNorm(_GROUPS, width),
            nn.ReLU(),
        )
        self.second = nn.Sequential(
            nn.Conv2d(width, 2 * width, kernel_size=1), nn.GroupNorm(_GROUPS, 2 * width), nn.ReLU()
        )
        self.patch_embedding = nn.Conv3d(2 * width, dim, kernel_size=PATCH, stride=PATCH)
        self.fc = nn.Sequential(
            nn.Linear(dim, dim // 2),
            nn.LayerNorm(dim // 2),
            nn.GELU(),
            nn.Linear(dim // 2, config.feature_dim),
            nn.LayerNorm(config.feature_dim),
        )

    def initial_values(self) -> Mapping[str, Fill | Layer]:
        """PyTorch's default for the layer that reads the rays."""
        return {"": KEEP_POWER, "first.0": TORCH_DEFAULT}

    def forward(self, plucker: Float[Tensor, "b F H W c"]) -> Float[Tensor, "b l p"]:
        """Return one feature vector per video token."""
        x = F.pixel_unshuffle(rearrange(plucker, "b F H W c -> (b F) c H W"), self.downscale)
        x = halve_time(rearrange(self.first(x), "(b F) c y x -> b F c y x", b=plucker.shape[0]))
        x = rearrange(self.second(x.flatten(0, 1)), "(b F) c y x -> b F c y x", b=plucker.shape[0])
        x = self.patch_embedding(rearrange(halve_time(x), "b f c y x -> b c f y x"))
        return self.fc(rearrange(x, "b d f h w -> b (f h w) d"))


def halve_time(x: Float[Tensor, "b F c y x"]) -> Float[Tensor, "b f c y x"]:
    """Average consecutive pairs of frames; with an odd number, the first frame stays by itself."""
    odd = x.shape[1] % 2
    pairs = x[:, odd:].unflatten(1, (-1, 2)).mean(2) if x.shape[1] > 1 else x[:, odd:]
    return torch.cat([x[:, :odd], pairs], dim=1) if odd else pairs


def _mlp(width_in: int, hidden: int, width_out: int, activation: str) -> nn.Sequential:
    between = nn.GELU() if activation == "gelu" else nn.ReLU()
    return nn.Sequential(nn.Linear(width_in, hidden), between, nn.Linear(hidden, width_out))
