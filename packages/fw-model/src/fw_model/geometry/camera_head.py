"""Camera head: one pose per output frame, refined several times from the camera tokens of the last layer.

Axes: b batch, f latent frames, F = 4 (f - 1) + 1 output frames, e feature width, 9 pose numbers: translation,
quaternion x y z w (world to camera, not normalized), vertical and horizontal field of view in radians.
"""

from collections.abc import Mapping

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from fw_model.config import POSE_DIM, Compat, GeometryConfig
from fw_model.geometry.block import GeometryBlock, Mlp
from fw_model.layers.declarations import XAVIER, Declares, Fill, Layer, normal, zeros
from fw_model.layers.float32 import ExactModule, Float32Module, without_autocast
from fw_model.layers.modulation import layer_norm

_EPS = 1e-5
_ADALN_EPS = 1e-6
_EXPANSION = 4
_POSE_STD = 0.002


class CameraHead(Float32Module, ExactModule, Declares):
    """Iterative refinement in the manner of VGGT, with one camera token expanded to four frames; weights in float32."""

    group = "geometry"
    part = "camera head"

    def __init__(self, config: GeometryConfig, compat: Compat) -> None:
        super().__init__()
        width = 2 * config.width
        self.iterations = config.camera_iterations
        self.normalize_expanded = compat.camera_token_norm
        self.expand = CameraExpansion(width, interleaved=compat.camera_token_order == "interleaved")
        self.empty_pose = nn.Parameter(torch.zeros(1, 1, POSE_DIM))
        self.embed_pose = nn.Linear(POSE_DIM, width)
        self.pose_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 3 * width))
        self.token_norm = nn.LayerNorm(width, eps=_EPS)
        self.trunk = nn.ModuleList(
            [
                GeometryBlock(
                    width=width,
                    heads=config.camera_heads,
                    modulated=False,
                    idle_modulation=compat.idle_trunk_modulation,
                    layer_scale=config.layer_scale,
                )
                for _ in range(config.camera_trunk)
            ]
        )
        self.trunk_norm = nn.LayerNorm(width, eps=_EPS)
        self.pose_branch = Mlp(width, width // 2, POSE_DIM)

    def initial_values(self) -> Mapping[str, Fill | Layer]:
        """New poses: no motion, and a field of view of about 50 degrees after the usual four refinements."""

        def still(value: Tensor, _generator: torch.Generator, _fan_in: int) -> None:
            value.zero_()
            value[6:] = 0.25

        return {"": XAVIER, "empty_pose": zeros, "pose_branch.fc2": Layer(normal(_POSE_STD), still)}

    def forward(self, camera: Float[Tensor, "b f e"]) -> list[Float[Tensor, "b F 9"]]:
        """Poses after every refinement, the last one best; the gradient stops at every earlier pose."""
        with without_autocast(camera):
            return self._refine(camera.to(self.embed_pose.weight.dtype))

    def _refine(self, camera: Float[Tensor, "b f e"]) -> list[Float[Tensor, "b F 9"]]:
        expanded = self.expand(camera[:, 1:])
        if self.normalize_expanded:
            expanded = self.token_norm(expanded)
        tokens = torch.cat([self.token_norm(camera[:, :1]), expanded], dim=1).to(camera.dtype)
        poses: list[Tensor] = []
        raw = self.empty_pose.expand(*tokens.shape[:2], POSE_DIM)
        for i in range(self.iterations):
            before = raw.detach() if i else raw
            delta = self.delta(tokens, before)
            raw = before + delta if i else delta
            poses.append(_activate(raw))
        return poses

    def delta(self, tokens: Float[Tensor, "b F e"], pose: Float[Tensor, "b F 9"]) -> Float[Tensor, "b F 9"]:
        """Compute one refinement, the increment of the raw pose."""
        embedded = self.pose_modulation(self.embed_pose(pose.to(tokens.dtype)))
        shift, scale, gate = (part.float() for part in embedded.chunk(3, dim=-1))
        normed = layer_norm(tokens, _ADALN_EPS) * (1 + scale) + shift
        x = (tokens + gate * normed).to(tokens.dtype)
        for block in self.trunk:
            x = block(x)
        return self.pose_branch(self.trunk_norm(x)).float()


class CameraExpansion(nn.Module):
    """One camera token of a latent frame to four of its output frames, by a 1x1 convolution."""

    def __init__(self, width: int, *, interleaved: bool) -> None:
        super().__init__()
        self.interleaved = interleaved
        self.conv = nn.Conv1d(width, _EXPANSION * width, kernel_size=1)

    def forward(self, tokens: Float[Tensor, "b n e"]) -> Float[Tensor, "b m e"]:
        """Expand n tokens to 4 n, each beside its own frames or (released) in four blocks."""
        if tokens.shape[1] == 0:
            return tokens
        order = "b (e j) n -> b (n j) e" if self.interleaved else "b (e j) n -> b (j n) e"
        return rearrange(self.conv(tokens.transpose(1, 2)), order, j=_EXPANSION)


def _activate(raw: Tensor) -> Tensor:
    return torch.cat([raw[..., :7], raw[..., 7:].relu()], dim=-1)
