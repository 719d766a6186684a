"""3D consistency of a world across frames: warp frame i into frame j with the depth and cameras of the world.

No pixel is left out because of the depth under test: noisy depth would otherwise mask its own errors. A pixel that is
hidden in the other frame, by the depth there, counts at least as much as without a warp.

Axis legend: F frames, H W pixels, n compared pixels; OpenCV axes, camera-to-world, pixel centers at +0.5.
"""

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from fw_model.pipeline.result import World

GAPS = (1, 2, 4, 8, 16, 32, 64)
"""Frames between the two views; gaps shorter than the clip are measured."""
HEADLINE_GAP = 4
"""Gap of the summary (the largest measured gap for shorter clips)."""
HIDDEN = 1.1
"""A pixel is hidden in frame i if its depth is more than this factor times the depth of the visible surface."""
LEAST_VISIBLE = 0.1
"""Share of visible pixels below which reprojection has failed."""
_MOST_PIXELS = 16384
_STILL_COLOR = 0.5 / 255
_STILL_DEPTH = 1e-4


@dataclass(frozen=True, kw_only=True)
class Reprojection:
    """Agreement of frames `gap` apart, over all such pairs and all pixels that stay inside the frame."""

    gap: int
    """Frames between the two views."""
    depth: float
    """Median of |z_moved - z_seen| / z_seen; at least 1 if reprojection has failed."""
    depth_still: float
    """The same for a static camera."""
    photometric: float
    """Mean absolute color difference, 0 to 1; at least `photometric_still` if reprojection has failed."""
    photometric_still: float
    """The same between the two unwarped frames."""
    visible: float
    """Share of the pixels that are inside the other frame and not hidden there, 0 to 1."""

    @property
    def failed(self) -> bool:
        """Whether too few pixels are visible in both frames."""
        return self.visible < LEAST_VISIBLE

    @property
    def depth_ratio(self) -> float | None:
        """`depth` / `depth_still`; None if the depth does not change between frames."""
        return self.depth / self.depth_still if self.depth_still > _STILL_DEPTH else None

    @property
    def photometric_ratio(self) -> float | None:
        """`photometric` / `photometric_still`; None if the image does not change between frames."""
        return self.photometric / self.photometric_still if self.photometric_still > _STILL_COLOR else None


def reprojection(world: World, gap: int) -> Reprojection:
    """Warp each frame into the frame `gap` later.

    Each pixel of frame j is unprojected with its depth and sampled in frame i: color bilinearly, depth linearly in
    1 / z (exact on planes). Pixels that leave frame i are not compared. Pixels that are hidden in frame i (`HIDDEN`)
    count with their depth error, and with the larger of both color differences, warped and not. Large images are
    subsampled to about 16,000 pixels a frame.

    Raises:
        ValueError: the world has `gap` frames or fewer.
    """
    frames = len(world.video)
    if not 1 <= gap < frames:
        raise ValueError(f"reprojection: gap is {gap} for {frames} frames; it must be 1 to frames - 1")
    layers = _layers(world)
    uv, pixel = _grid(*world.depth.shape[1:])
    K = torch.from_numpy(world.trajectory.K).float()
    pose = torch.from_numpy(world.trajectory.pose_c2w).double()
    errors: list[Tensor] = []
    still_everywhere: list[Tensor] = []
    visible = 0
    for i in range(frames - gap):
        j = i + gap
        here = rearrange(layers[j], "c h w -> (h w) c")[pixel]
        still = rearrange(layers[i], "c h w -> (h w) c")[pixel]
        depth_j = 1 / here[:, 3]
        # unproject the pixels of frame j, move the points into camera i and project them
        rays = torch.cat([uv, torch.ones_like(uv[:, :1])], dim=-1) @ K[j].inverse().T
        move = (pose[i].inverse() @ pose[j]).float()
        points = (rays * depth_j[:, None]) @ move[:3, :3].T + move[:3, 3]
        z = points[:, 2]
        at = (points @ K[i].T)[:, :2] / z.clamp_min(1e-6)[:, None]
        there, inside = _sampled(layers[i], at)
        depth_i = 1 / there[:, 3].clamp_min(1e-12)
        inside &= z > 0
        hidden = z > HIDDEN * depth_i
        # compare color and depth, with and without the warp
        color_still = (here[:, :3] - still[:, :3]).abs().mean(dim=-1)
        color = (here[:, :3] - there[:, :3]).abs().mean(dim=-1)
        color = torch.where(hidden, torch.maximum(color, color_still), color)
        depth_still = (depth_j - 1 / still[:, 3]).abs() * still[:, 3]
        errors.append(torch.stack([(z - depth_i).abs() / depth_i, depth_still, color, color_still], dim=-1)[inside])
        still_everywhere.append(torch.stack([depth_still, color_still], dim=-1))
        visible += int((inside & ~hidden).sum())
    found, without = torch.cat(errors), torch.cat(still_everywhere)
    share = visible / len(without)
    if share < LEAST_VISIBLE:
        return Reprojection(
            gap=gap,
            depth=max(1.0, float(found[:, 0].median()) if len(found) else 1.0),
            depth_still=float(without[:, 0].median()),
            photometric=max(
                float(without[:, 1].double().mean()), float(found[:, 2].double().mean()) if len(found) else 0.0
            ),
            photometric_still=float(without[:, 1].double().mean()),
            visible=share,
        )
    return Reprojection(
        gap=gap,
        depth=float(found[:, 0].median()),
        depth_still=float(found[:, 1].median()),
        photometric=float(found[:, 2].double().mean()),
        photometric_still=float(found[:, 3].double().mean()),
        visible=share,
    )


def _layers(world: World) -> Float[Tensor, "F 4 H W"]:
    """Color 0 to 1, and 1 / depth."""
    color = rearrange(torch.from_numpy(world.video).float() / 255, "f h w c -> f c h w")
    return torch.cat([color, 1 / torch.from_numpy(world.depth).float().clamp_min(1e-12)[:, None]], dim=1)


def _grid(height: int, width: int) -> tuple[Float[Tensor, "n 2"], Tensor]:
    """Centers of the compared pixels, and their indices in a flattened frame."""
    step = max(1, round((height * width / _MOST_PIXELS) ** 0.5))
    rows, columns = torch.meshgrid(torch.arange(0, height, step), torch.arange(0, width, step), indexing="ij")
    rows, columns = rows.flatten(), columns.flatten()
    return torch.stack([columns, rows], dim=-1).float() + 0.5, rows * width + columns


def _sampled(layers: Float[Tensor, "c H W"], uv: Float[Tensor, "n 2"]) -> tuple[Float[Tensor, "n c"], Tensor]:
    """Sample layers bilinearly at uv; also whether each uv is within the outermost pixel centers (to rounding)."""
    height, width = layers.shape[-2:]
    size = torch.tensor([width, height], dtype=uv.dtype)
    inside = ((uv >= 0.5 - 1e-3) & (uv <= size - 0.5 + 1e-3)).all(dim=-1)
    normal = (2 * uv / size - 1).clamp(-2, 2)
    read = functional.grid_sample(layers[None], normal[None, None], padding_mode="border", align_corners=False)
    return rearrange(read, "1 c 1 n -> n c"), inside


def measured_gaps(frames: int) -> tuple[int, ...]:
    """The gaps in `GAPS` that are shorter than a clip of `frames` frames."""
    return tuple(gap for gap in GAPS if gap < frames)
