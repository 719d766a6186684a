"""Tokens of the geometry branch: a camera token and registers before the bridged patches of every latent frame.

Axes: b batch, f latent frames, F = 4 (f - 1) + 1 output frames, s special tokens, l patches of a frame, c width.
The first latent frame has its own special tokens; all others share a second set.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from fw_model.config import POSE_DIM, Compat, GeometryConfig, VideoConfig
from fw_model.geometry.block import GeometryBlock
from fw_model.parallel.sequence import Share, split

_GROUP = 4
_POSE_HIDDEN = 128


class SpecialTokens(nn.Module):
    """Learned camera and register tokens; the camera token can be made from known poses instead."""

    def __init__(self, width: int, num_register_tokens: int, padding: str) -> None:
        super().__init__()
        self.camera = nn.Parameter(torch.zeros(1, 2, 1, width))
        self.register = nn.Parameter(torch.zeros(1, 2, num_register_tokens, width))
        self.from_poses = PoseTokens(width, padding)

    def forward(
        self, patches: Float[Tensor, "b f l c"], poses: Float[Tensor, "b t c"] | None, share: Share | None = None
    ) -> Float[Tensor, "b f m c"]:
        """Put the special tokens before the patches; `poses` are camera tokens made by `from_poses`.

        With `share`, the patches are those of this process's frames, and the poses those of all.
        """
        batch, frames = patches.shape[0], patches.shape[1] if share is None else share.total
        which = torch.ones(frames, dtype=torch.long, device=patches.device)
        which[0] = 0
        camera = self.camera[:, which].expand(batch, -1, -1, -1) if poses is None else poses[:, :, None]
        register = self.register[:, which].expand(batch, -1, -1, -1)
        special = split(torch.cat([camera.to(patches.dtype), register.to(patches.dtype)], dim=2), share)
        return torch.cat([special, patches], dim=2)


class PoseTokens(nn.Module):
    """Camera tokens from known poses: frames in groups of four, 36 numbers to one token."""

    def __init__(self, width: int, padding: str) -> None:
        super().__init__()
        self.pad_start = padding == "start"
        self.mlp = nn.Sequential(nn.Linear(POSE_DIM * _GROUP, _POSE_HIDDEN), nn.GELU(), nn.Linear(_POSE_HIDDEN, width))

    def forward(self, poses: Float[Tensor, "b F 9"]) -> Float[Tensor, "b f c"]:
        """Frame 0 fills up the first group (or, in released models, the last)."""
        filler = poses[:, :1].expand(-1, _GROUP - 1, -1)
        padded = torch.cat([filler, poses] if self.pad_start else [poses, filler], dim=1)
        return self.mlp(rearrange(padded, "b (f j) n -> b f (j n)", j=_GROUP))


class TransformerBridge(nn.Module):
    """The paper's latent bridge: a linear layer and a few transformer blocks over the tokens of each latent frame."""

    def __init__(self, video: VideoConfig, geometry: GeometryConfig) -> None:
        super().__init__()
        self.project = nn.Linear(video.dim, geometry.width)
        self.blocks = nn.ModuleList(
            [
                GeometryBlock(
                    width=geometry.width,
                    heads=geometry.heads,
                    mlp_ratio=geometry.mlp_ratio,
                    modulated=False,
                    layer_scale=geometry.layer_scale,
                )
                for _ in range(geometry.bridge_depth)
            ]
        )

    def forward(self, video: Float[Tensor, "b f l d"]) -> Float[Tensor, "b f l c"]:
        """Bring video tokens to the geometry width."""
        x = self.project(video).flatten(0, 1)
        for block in self.blocks:
            x = block(x)
        return x.unflatten(0, video.shape[:2])


class ConvBridge(nn.Module):
    """The released latent bridge: one 1x1x1 convolution."""

    def __init__(self, video: VideoConfig, geometry: GeometryConfig) -> None:
        super().__init__()
        self.conv = nn.Conv3d(video.dim, geometry.width, kernel_size=1)

    def forward(self, video: Float[Tensor, "b f l d"]) -> Float[Tensor, "b f l c"]:
        """Bring video tokens to the geometry width."""
        return F.linear(video, self.conv.weight.flatten(1), self.conv.bias)


def build_bridge(video: VideoConfig, geometry: GeometryConfig, compat: Compat) -> tuple[nn.Module, SpecialTokens]:
    """The bridge that the config names, and the special tokens."""
    bridge = TransformerBridge if geometry.bridge == "transformer" else ConvBridge
    return bridge(video, geometry), SpecialTokens(
        geometry.width, geometry.num_register_tokens, compat.pose_token_padding
    )
