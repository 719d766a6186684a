"""The geometry branch around its layers: bridge and tokens at the front, timestep, rotary angles, heads at the end.

Axes: b batch, f latent frames, F = 4 (f - 1) + 1 output frames, m tokens of a frame (special tokens, then patches),
c width, e = 2 c feature width, H W output pixels. The frame and global blocks are in the IRG blocks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from fw_model.config import WorldConfig
from fw_model.geometry.block import GeometryStep
from fw_model.geometry.camera_head import CameraHead
from fw_model.geometry.dpt import DPTHead
from fw_model.geometry.tokens import build_bridge
from fw_model.layers.declarations import TORCH_DEFAULT, XAVIER, Declares, Fill, Layer, normal
from fw_model.layers.float32 import float32_region, trains_under_autocast
from fw_model.layers.modulation import TimeEmbedding, sinusoid
from fw_model.layers.rope import PlaneRope, Rotation, turn_by_frame
from fw_model.parallel.sequence import WHOLE, Layout, Share, gather, split

_TOKEN_STD = 1e-6


@dataclass(frozen=True, kw_only=True)
class GeometryOutput:
    """Geometry of a clip, in scene units; world axes are those of frame 0's camera.

    T output frames have depth and points: all F of them unless `dense_frames` chose some.
    """

    depth: Float[Tensor, "b T H W"]
    """z-depth, above 0."""
    depth_confidence: Float[Tensor, "b T H W"]
    """Above 1; larger is surer."""
    points: Float[Tensor, "b T H W 3"]
    """World points."""
    points_confidence: Float[Tensor, "b T H W"]
    """Above 1; larger is surer."""
    pose_encodings: list[Float[Tensor, "b F 9"]]
    """Pose after every refinement (last one best): translation, quaternion x y z w (world to camera, not normalized),
    vertical and horizontal field of view in radians."""


class GeometrySteps(NamedTuple):
    """Timestep and angles for frame attention (b f sequences) and for global attention (b sequences)."""

    frame: GeometryStep
    global_: GeometryStep


class GeometryBranch(nn.Module, Declares):
    """Bridge, special tokens, timestep embedding and the three heads."""

    group = "geometry"
    part = "bridge and tokens"

    def __init__(self, config: WorldConfig) -> None:
        super().__init__()
        geometry, compat = config.geometry, config.compat
        self.num_special_tokens = geometry.num_special_tokens
        self.width = geometry.width
        self.time_index = geometry.time_index
        self.taps = geometry.dpt_taps
        self.bridge, self.tokens = build_bridge(config.video, geometry, compat)
        self.time = TimeEmbedding(geometry.freq_dim, geometry.width, rows=6)
        self.rope = PlaneRope(geometry.width // geometry.heads)
        self.camera_head = CameraHead(geometry, compat)
        self.depth_head = DPTHead(geometry, out=1, activation="exp", rectified_skip=compat.dpt_rectified_skip)
        self.point_head = DPTHead(geometry, out=3, activation="inverse_log", rectified_skip=compat.dpt_rectified_skip)

    def initial_values(self) -> Mapping[str, Fill | Layer]:
        """The heads and blocks declare their own."""
        return {
            "bridge": XAVIER,
            "tokens.camera": normal(_TOKEN_STD),
            "tokens.register": normal(_TOKEN_STD),
            "tokens.from_poses": XAVIER,
            "time": TORCH_DEFAULT,
        }

    def enter(
        self,
        video: Float[Tensor, "b l d"],
        frames: int,
        poses: Float[Tensor, "b t c"] | None,
        share: Share | None = None,
    ) -> Float[Tensor, "b f m c"]:
        """Bridge the video tokens after the preconditioning blocks, add the special tokens and an additive time index.

        On features of a backbone that knows no camera, a common component of all frames can grow from layer to layer
        until the frames are equal; the time index keeps them apart.

        With `share`, of the `frames` latent frames only the tokens of this process are in `video`.
        """
        here = frames if share is None else share.length
        tokens = self.tokens(self.bridge(rearrange(video, "b (f l) d -> b f l d", f=here)), poses, share)
        if self.time_index == "additive":
            index = sinusoid(torch.arange(frames, device=tokens.device, dtype=torch.float32), self.width)
            tokens = tokens + split(rearrange(index, "f c -> 1 f 1 c"), share).to(tokens.dtype)
        return tokens

    def steps(
        self, timestep: Float[Tensor, " b"], frames: int, rows: int, columns: int, layout: Layout = WHOLE
    ) -> GeometrySteps:
        """Compute the timestep and grid inputs of the geometry blocks."""
        modulation = self.time(timestep)[1]
        rotation = self.rope(rows, columns, self.num_special_tokens)
        everywhere = Rotation(rotation.cos.repeat(frames, 1), rotation.sin.repeat(frames, 1))
        if self.time_index == "rotary":
            everywhere = turn_by_frame(everywhere, frames)
        here = frames if layout.frames is None else layout.frames.length
        return GeometrySteps(
            GeometryStep(modulation.repeat_interleave(here, dim=0), rotation),
            GeometryStep(modulation, everywhere.part(layout.geometry), layout.geometry),
        )

    def predict(
        self,
        features: dict[int, Float[Tensor, "b f m e"]],
        rows: int,
        columns: int,
        dense_frames: Sequence[int] | None = None,
        share: Share | None = None,
    ) -> GeometryOutput:
        """Run the heads on the features of the tapped layers and of the last layer.

        They run in float32. In training under autocast, only the camera head and the last layer of the dense heads do.

        With `share`, the features are those of this process's latent frames. Every process has the output of all
        frames, and has run the fusion of the dense heads for its part of the output frames.

        Args:
            features: by layer.
            rows: token rows.
            columns: token columns.
            dense_frames: ascending output frames to predict depth and points of; None: all. Poses are always of all.
        """
        features = {layer: gather(x, share) for layer, x in features.items()}
        parts = None
        if share is not None:
            wanted = list(range(4 * share.total - 3) if dense_frames is None else dense_frames)
            parts = share.group.divide(len(wanted))
            dense_frames = wanted[parts.start : parts.start + parts.length]
        camera = features[max(features)][:, :, 0]
        if not trains_under_autocast(camera):
            dtype = self.depth_head.conv1.weight.dtype
            features = {layer: x.to(dtype) for layer, x in features.items()}
        taps = tuple(features[layer][:, :, self.num_special_tokens :] for layer in self.taps)
        with float32_region(camera):
            depth = self.depth_head(taps, rows, columns, dense_frames)
            points = self.point_head(taps, rows, columns, dense_frames)
        poses = self.camera_head(camera)
        return GeometryOutput(
            depth=gather(depth.value.squeeze(-1), parts),
            depth_confidence=gather(depth.confidence, parts),
            points=gather(points.value, parts),
            points_confidence=gather(points.confidence, parts),
            pose_encodings=poses,
        )


def join_features(frame: Float[Tensor, "b f m c"], global_: Float[Tensor, "b f m c"]) -> Float[Tensor, "b f m e"]:
    """A layer's feature for the heads: frame attention's output beside global attention's."""
    return torch.cat([frame, global_], dim=-1)
