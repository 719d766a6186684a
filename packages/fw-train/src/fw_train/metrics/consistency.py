"""3D consistency of a world across frames: warp frame i into frame j with the depth and cameras of the world.

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
EDGE = 1.1
"""Pixels are skipped if depth changes by more than this ratio within 3 x 3 pixels."""
_MOST_PIXELS = 16384
_STILL_COLOR = 0.5 / 255
_STILL_DEPTH = 1e-4


@dataclass(frozen=True, kw_only=True)
class Reprojection:
    """Agreement of frames `gap` apart, over all such pairs and all pixels visible in both."""

    gap: int
    """Frames between the two views."""
    depth: float
    """Median of |z_moved - z_seen| / z_seen."""
    depth_still: float
    """The same for a static camera."""
    photometric: float
    """Mean absolute color difference, 0 to 1."""
    photometric_still: float
    """The same between the two unwarped frames."""
    visible: float
    """Share of the pixels that were compared, 0 to 1."""

    @property
    def depth_ratio(self) -> float | None:
        """`depth` / `depth_still`; None if the depth does not change between frames."""
        return self.depth / self.depth_still if self.depth_still > _STILL_DEPTH else None

    @property
    def photometric_ratio(self) -> float | None:
        """`photometric` / `photometric_still`; None if the image does not change between frames."""
        return self.photometric / self.photometric_still if self.photometric_still > _STILL_COLOR else None


def reprojection(world: World, gap: int) -> Reprojection | None:
    """Warp each frame into the frame `gap` later; None if no pixel is visible in both.

    Each pixel of frame j is unprojected with its depth and sampled in frame i: color bilinearly, depth linearly in
    1 / z (exact on planes). Pixels are skipped if they leave the frame, are occluded in frame i (`HIDDEN`) or fall on a
    depth edge (`EDGE`). Large images are subsampled to about 16,000 pixels a frame.

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
        # keep the pixels that are visible in both frames and not at a depth edge
        use = inside & (z > 0) & (there[:, 4] == 0) & (here[:, 4] == 0) & (z <= HIDDEN * depth_i)
        errors.append(
            torch.stack(
                [
                    (z - depth_i).abs() / depth_i,
                    (depth_j - 1 / still[:, 3]).abs() * still[:, 3],
                    (here[:, :3] - there[:, :3]).abs().mean(dim=-1),
                    (here[:, :3] - still[:, :3]).abs().mean(dim=-1),
                ],
                dim=-1,
            )[use]
        )
    found = torch.cat(errors)
    if len(found) == 0:
        return None
    return Reprojection(
        gap=gap,
        depth=float(found[:, 0].median()),
        depth_still=float(found[:, 1].median()),
        photometric=float(found[:, 2].double().mean()),
        photometric_still=float(found[:, 3].double().mean()),
        visible=len(found) / (len(pixel) * (frames - gap)),
    )


def _layers(world: World) -> Float[Tensor, "F 5 H W"]:
    """Color 0 to 1, 1 / depth, and 1 where the depth has an edge."""
    color = rearrange(torch.from_numpy(world.video).float() / 255, "f h w c -> f c h w")
    disparity = 1 / torch.from_numpy(world.depth).float().clamp_min(1e-12)[:, None]
    nearest = functional.max_pool2d(disparity, 3, stride=1, padding=1)
    farthest = -functional.max_pool2d(-disparity, 3, stride=1, padding=1)
    return torch.cat([color, disparity, (nearest > EDGE * farthest).float()], dim=1)


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
