"""Integrated reconstruction and generation: a video block and a geometry layer that attend to each other in the middle.

Axes: b batch, l video tokens, d video width, f latent frames, m geometry tokens of a frame, g = f m, c geometry width.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from fw_model.config import WorldConfig
from fw_model.geometry.block import GeometryBlock
from fw_model.geometry.branch import GeometrySteps
from fw_model.layers.attention import AttentionModule, attention
from fw_model.layers.declarations import XAVIER, Declares, Fill, Layer, zeros
from fw_model.layers.modulation import layer_norm
from fw_model.layers.rope import Rotation, rotate_pairs
from fw_model.parallel.sequence import Share, to_heads, to_tokens
from fw_model.wan.blocks import ContextKV, ContextTokens, VideoStep, WanBlock

_EPS = 1e-6


class CrossBranchStep(NamedTuple):
    """Rotary angles of both sides; the special tokens of a geometry frame are not rotated."""

    video: Rotation
    geometry: Rotation
    video_share: Share | None = None
    """Division of the video tokens over processes; None: all are here."""
    geometry_share: Share | None = None
    """The same of the geometry tokens."""


class IRGOutput(NamedTuple):
    """Both streams after the block; the heads may read the two halves of the geometry layer."""

    video: Float[Tensor, "b l d"] | None
    frame: Float[Tensor, "b f m c"] | None
    geometry: Float[Tensor, "b f m c"] | None


class BidirectionalCrossAttention(AttentionModule, Declares):
    """Each branch reads the other through one pair of shared projections (the paper's MM-BiCrossAttn).

    video += gamma_v out_v(softmax(q k^T) value_g(geo)) and geo += gamma_g out_g(softmax(k q^T) value_v(video)), with
    q from video and k from geometry. The gates start at zero: a new model is the plain video model beside a geometry
    branch. A branch that does not read the other has no gate and no output, and stays as it is.
    """

    group = "cross_branch"
    part = "cross-branch attention"

    def __init__(
        self,
        *,
        video_dim: int,
        geometry_dim: int,
        dim: int,
        heads: int,
        video_reads: bool = True,
        geometry_reads: bool = True,
    ) -> None:
        super().__init__()
        self.heads, self.video_reads, self.geometry_reads = heads, video_reads, geometry_reads
        if video_reads:
            self.gamma_video = nn.Parameter(torch.zeros(video_dim))
        if geometry_reads:
            self.gamma_geometry = nn.Parameter(torch.zeros(geometry_dim))
        self.key_video, self.key_geometry = nn.Linear(video_dim, dim), nn.Linear(geometry_dim, dim)
        if geometry_reads:
            self.value_video = nn.Linear(video_dim, dim)
        if video_reads:
            self.value_geometry = nn.Linear(geometry_dim, dim)
            self.out_video = nn.Linear(dim, video_dim)
        if geometry_reads:
            self.out_geometry = nn.Linear(dim, geometry_dim)

    def initial_values(self) -> Mapping[str, Fill | Layer]:
        """The gates start at zero."""
        return {"": XAVIER, "gamma_video": zeros, "gamma_geometry": zeros}

    def forward(
        self, video: Float[Tensor, "b l d"], geometry: Float[Tensor, "b g c"], step: CrossBranchStep
    ) -> tuple[Float[Tensor, "b l d"], Float[Tensor, "b g c"]]:
        """Update both streams from their states before the call."""
        a, b = layer_norm(video, _EPS).to(video.dtype), layer_norm(geometry, _EPS).to(geometry.dtype)
        q = to_heads(rotate_pairs(self._split(self.key_video(a)), step.video), step.video_share)
        k = to_heads(rotate_pairs(self._split(self.key_geometry(b)), step.geometry), step.geometry_share)
        if self.video_reads:
            value = to_heads(self._split(self.value_geometry(b)), step.geometry_share)
            to_video = to_tokens(attention(q, k, value, self.backend), step.video_share, self.heads)
            video = video + self.gamma_video * self.out_video(to_video.flatten(2))
        if self.geometry_reads:
            value = to_heads(self._split(self.value_video(a)), step.video_share)
            to_geometry = to_tokens(attention(k, q, value, self.backend), step.geometry_share, self.heads)
            geometry = geometry + self.gamma_geometry * self.out_geometry(to_geometry.flatten(2))
        return video, geometry

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1))


class IRGBlock(nn.Module):
    """The paper's IRG block: video block, frame and global attention, and the attention between the branches.

    Two submodules keep their stored names: `all_frames` is `global_`, `coupling` is `cross_branch`.
    """

    def __init__(self, config: WorldConfig, index: int) -> None:
        super().__init__()
        video, geometry = config.video, config.geometry
        self.cross_branch_after = config.compat.cross_branch_placement == "after_block"
        self.video = build_video_block(config, config.pcb_blocks + index)
        self.frame, self.all_frames = (
            GeometryBlock(
                width=geometry.width,
                heads=geometry.heads,
                mlp_ratio=geometry.mlp_ratio,
                compat=config.compat,
                layer_scale=geometry.layer_scale,
                gate_start=geometry.gate_start,
            )
            for _ in range(2)
        )
        self.frame.part = self.global_.part = "geometry layers"
        self.coupling: BidirectionalCrossAttention | None = None
        if config.cross_branch.direction != "none":
            self.coupling = BidirectionalCrossAttention(
                video_dim=video.dim,
                geometry_dim=geometry.width,
                dim=config.cross_branch.dim,
                heads=config.cross_branch.heads,
                video_reads=config.cross_branch.video_reads,
                geometry_reads=config.cross_branch.geometry_reads,
            )

    def forward(
        self,
        video: Float[Tensor, "b l d"] | None,
        geometry: Float[Tensor, "b f m c"] | None,
        *,
        video_step: VideoStep | None = None,
        context: ContextTokens | ContextKV | None = None,
        geometry_steps: GeometrySteps | None = None,
        cross_branch_step: CrossBranchStep | None = None,
    ) -> IRGOutput:
        """Run both streams, or the one that is given; without `cross_branch_step` they are independent."""
        if video is not None and (video_step is None or context is None):
            raise ValueError("IRGBlock: a video stream needs video_step and context.")
        if geometry is not None and geometry_steps is None:
            raise ValueError("IRGBlock: a geometry stream needs geometry_steps.")
        # geometry: frame attention, then global attention
        frame, state = None, None
        if geometry is not None and geometry_steps is not None:
            frame = self.frame(geometry.flatten(0, 1), geometry_steps.frame).unflatten(0, geometry.shape[:2])
            state = self.global_.apply_attention(frame.flatten(1, 2), geometry_steps.global_)
        # video: self- and cross-attention
        if video is not None and video_step is not None and context is not None:
            video = self.video.apply_attention(video, video_step, context)
        # both branches attend to each other (released: before their MLPs)
        if cross_branch_step is not None and not self.cross_branch_after:
            video, state = self._cross_branch(video, state, cross_branch_step)
        if video is not None and video_step is not None:
            video = self.video.apply_mlp(video, video_step)
        if state is not None and geometry_steps is not None:
            state = self.global_.apply_mlp(state, geometry_steps.global_)
        if cross_branch_step is not None and self.cross_branch_after:
            video, state = self._cross_branch(video, state, cross_branch_step)
        after = None if state is None or frame is None else rearrange(state, "b (f m) c -> b f m c", f=frame.shape[1])
        return IRGOutput(video, frame, after)

    @property
    def global_(self) -> GeometryBlock:
        """Global attention over the tokens of all frames."""
        return self.all_frames

    @property
    def cross_branch(self) -> "BidirectionalCrossAttention | None":
        """Attention between the branches; None if `config.cross_branch.direction` is none."""
        return self.coupling

    def _cross_branch(self, video: Tensor | None, state: Tensor | None, step: CrossBranchStep) -> tuple[Tensor, Tensor]:
        if video is None or state is None:
            raise ValueError("IRGBlock: cross_branch_step needs both streams")
        if self.cross_branch is None:
            raise ValueError("IRGBlock: cross_branch_step was given, but config.cross_branch.direction is none")
        return self.cross_branch(video, state, step)


def build_video_block(config: WorldConfig, block: int) -> WanBlock:
    """Video block `block`, counted over all blocks, with its camera adapter if it has one."""
    video = config.video
    made = WanBlock(
        dim=video.dim,
        heads=video.heads,
        ffn_dim=video.ffn_dim,
        eps=video.eps,
        image=video.clip_dim is not None,
        camera_dim=config.camera.feature_dim if config.camera is not None and config.has_adapter(block) else None,
        camera_activation="relu" if config.camera is None else config.camera.activation,
        gate_start=video.gate_start,
    )
    made.part = "video blocks: PCB" if block < config.pcb_blocks else "video blocks: IRG"
    return made
