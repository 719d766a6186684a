"""Depth of every pixel of every frame: coarse search over planes, a finer search around it, then agreement of frames.

Everything here runs on ideal pinhole images at a reduced size. Axis legend: f frames, h height, w width; a height and
b width of another size.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Float64, UInt8
from torch import Tensor

from fw_data.annotators.sfm.config import SfmConfig
from fw_data.annotators.sfm.dense.filling import fill_depth
from fw_data.annotators.sfm.dense.flow_depth import improve_unsure
from fw_data.annotators.sfm.dense.fusion import carry_over, compare_with_neighbors
from fw_data.annotators.sfm.dense.plane_sweep import matching_scores, refine_between_planes
from fw_data.annotators.sfm.dense.semi_global import aggregate
from fw_data.annotators.sfm.dense.views import choose_sources, depth_limits
from fw_data.annotators.sfm.scene import SparseScene
from fw_data.annotators.sfm.workers import map_parallel

FINE_STEPS = 4
BEYOND = 2.0
"""Depths end at this multiple of the furthest one searched; without an end, one pixel of sky could be a million."""
CARRIED_TRUST = 0.12
"""Trust of a depth that only neighbors have: less than that of a well-founded filling."""


@dataclass(frozen=True, kw_only=True)
class DenseDepth:
    """Depth of all frames at the size of the search."""

    depth: Float[Tensor, "f h w"]
    confidence: Float[Tensor, "f h w"]


@dataclass(frozen=True, kw_only=True)
class Level:
    """The images at one size, and the cameras that go with them."""

    gray: Float[Tensor, "f h w"]
    K: Float[Tensor, "3 3"]
    pose_w2c: Float[Tensor, "f 4 4"]


def dense_depth(
    scene: SparseScene,
    gray: Float[Tensor, "f h w"],
    config: SfmConfig,
    on_done: Callable[[float], None] = lambda _: None,
) -> DenseDepth:
    """Depth and confidence of every frame, at the size of the (ideal, gray, in [0, 1]) images given."""
    sources = choose_sources(scene, config.source_views)
    limits = depth_limits(scene)
    fine = _level(scene, gray)
    coarse = _level(scene, F.avg_pool2d(gray[:, None], 2, ceil_mode=True)[:, 0])
    frames = list(range(len(gray)))

    def search(frame: int) -> tuple[Tensor, Tensor]:
        return _search_planes(coarse, frame, sources[frame], limits[frame], config.depth_planes)

    found = map_parallel(search, frames, config.threads, lambda part: on_done(0.35 * part))
    depth, weight = torch.stack([d for d, _ in found]), torch.stack([w for _, w in found])
    depth, weight = _agree(coarse, depth, weight, sources, config.threads, tolerance=0.03)
    on_done(0.4)

    size = tuple(gray.shape[1:])

    def search_near(frame: int) -> tuple[Tensor, Tensor]:
        start = _enlarge(fill_depth(depth[frame], weight[frame], coarse.gray[frame])[0], size)
        near, far = limits[frame]
        poses = _relative(coarse, frame, sources[frame])
        planes = plane_count(coarse, poses, near, far, config.depth_planes)
        step = (1 / near - 1 / far) / (planes - 1) / 2
        return _search_near(fine, frame, sources[frame], start, step, furthest=BEYOND * far)

    found = map_parallel(search_near, frames, config.threads, lambda part: on_done(0.4 + 0.45 * part))
    depth, weight = torch.stack([d for d, _ in found]), torch.stack([w for _, w in found])
    depth, weight = _agree(fine, depth, weight, sources, config.threads, tolerance=0.02, carry=False)
    depth, weight = _agree(fine, depth, weight, sources, config.threads, tolerance=0.015)
    filled = map_parallel(lambda i: fill_depth(depth[i], weight[i], fine.gray[i]), frames, config.threads)
    on_done(1.0)
    return DenseDepth(depth=torch.stack([d for d, _ in filled]), confidence=torch.stack([c for _, c in filled]))


def with_flow(
    dense: DenseDepth,
    scene: SparseScene,
    color: UInt8[np.ndarray, "f h w 3"],
    config: SfmConfig,
    on_done: Callable[[float], None] = lambda _: None,
) -> DenseDepth:
    """Depth with the pixels that the search left unsure taken from optical flow; `color` is ideal, sRGB."""
    images = rearrange(torch.from_numpy(color), "f h w c -> f c h w").float() / 255
    level = _level(scene, images[:, 1])
    depth, confidence = improve_unsure(
        dense.depth,
        dense.confidence,
        images,
        level.K,
        level.pose_w2c,
        choose_sources(scene, config.source_views),
        config.threads,
        on_done,
    )
    return DenseDepth(depth=depth, confidence=confidence)


def plane_count(level: Level, poses: Float[Tensor, "s 4 4"], near: float, far: float, most: int) -> int:
    """Planes between two depths so that a step moves the image by about one pixel in the source that moves most."""
    height, width = level.gray.shape[1:]
    corners = torch.tensor([[0.5, 0.5], [0.1, 0.1], [0.9, 0.1], [0.1, 0.9], [0.9, 0.9]]) * torch.tensor([width, height])
    rays = torch.cat([corners, torch.ones(5, 1)], dim=1) @ torch.linalg.inv(level.K).T
    places = []
    for depth in (near, far):
        moved = torch.einsum("sij,nj->sni", poses[:, :3, :3], rays * depth) + poses[:, None, :3, 3]
        places.append(moved[..., :2] / moved[..., 2:].clamp_min(0.05 * depth) * level.K[0, 0])
    travel = (places[0] - places[1]).norm(dim=-1)
    return int(min(most, max(16, float(travel.max()) + 2))) if len(poses) else 16


def _search_planes(
    level: Level, frame: int, sources: list[int], limits: Float64[np.ndarray, " 2"], planes: int
) -> tuple[Tensor, Tensor]:
    """Semi-global choice among planes evenly spread in inverse depth; depth and a weight in [0, 1]."""
    poses = _relative(level, frame, sources)
    near, far = limits
    inverse = torch.linspace(float(1 / far), float(1 / near), plane_count(level, poses, near, far, planes))
    planes = len(inverse)
    score = matching_scores(
        level.gray[frame],
        level.gray[sources],
        inverse[:, None, None],
        level.K,
        poses,
        radius=2,
        best=max(1, len(sources) // 2),
    )
    cost = aggregate(1 - score, level.gray[frame], small_step=0.06, large_step=0.6)
    index = cost.min(dim=0).indices  # argmin walks this layout several times slower
    position = refine_between_planes(cost, index)
    step = (inverse[-1] - inverse[0]) / (planes - 1)
    depth = 1 / (inverse[0] + position * step)
    return depth, score.gather(0, index[None])[0].clamp(0, 1)


def _search_near(
    level: Level, frame: int, sources: list[int], start: Float[Tensor, "h w"], step: float, *, furthest: float
) -> tuple[Tensor, Tensor]:
    """Best of a few inverse depths around a start map; depth and a weight in [0, 1]."""
    offsets = torch.arange(-FINE_STEPS, FINE_STEPS + 1, dtype=torch.float32) * step
    inverse = (1 / start)[None] + offsets[:, None, None]
    score = matching_scores(
        level.gray[frame],
        level.gray[sources],
        inverse.clamp_min(1 / furthest),
        level.K,
        _relative(level, frame, sources),
        radius=2,
        best=max(1, len(sources) // 2),
    )
    cost = aggregate(1 - score, level.gray[frame], small_step=0.06, large_step=0.3)
    index = cost.min(dim=0).indices  # argmin walks this layout several times slower
    position = refine_between_planes(cost, index)
    inverse_depth = inverse[0] + position * step
    return 1 / inverse_depth.clamp_min(1 / furthest), score.gather(0, index[None])[0].clamp(0, 1)


def _agree(
    level: Level,
    depth: Tensor,
    weight: Tensor,
    sources: list[list[int]],
    threads: int,
    *,
    tolerance: float,
    carry: bool = True,
) -> tuple[Tensor, Tensor]:
    """One round of fusion over all frames: depth, and how well each pixel is confirmed, in [0, 1].

    With `carry`, pixels that nothing confirms take the depth that neighbors agree on there.
    """

    def compare(frame: int) -> tuple[Tensor, Tensor]:
        own = compare_with_neighbors(frame, sources[frame], depth, weight, level.K, level.pose_w2c, tolerance=tolerance)
        trust = own.support / (own.support + own.conflict + 1.0)
        return own.depth, trust

    compared = map_parallel(compare, list(range(len(depth))), threads)
    fused = torch.stack([d for d, _ in compared])
    trust = torch.stack([t for _, t in compared])

    if not carry:
        return fused, trust

    def replace_doubtful(frame: int) -> tuple[Tensor, Tensor]:
        carried, count = carry_over(frame, sources[frame], fused, (trust > 0.3).float(), level.K, level.pose_w2c)
        better = (trust[frame] < 0.15) & (count >= 2)
        return torch.where(better, carried, fused[frame]), torch.where(better, CARRIED_TRUST, trust[frame])

    replaced = map_parallel(replace_doubtful, list(range(len(depth))), threads)
    return torch.stack([d for d, _ in replaced]), torch.stack([t for _, t in replaced])


def _level(scene: SparseScene, gray: Float[Tensor, "f h w"]) -> Level:
    height, width = gray.shape[1:]
    scale = torch.tensor([[width / scene.width], [height / scene.height], [1.0]])
    return Level(
        gray=gray.contiguous(),
        K=torch.from_numpy(scene.K).float() * scale,
        pose_w2c=torch.from_numpy(scene.pose_w2c).float(),
    )


def _relative(level: Level, frame: int, sources: list[int]) -> Float[Tensor, "s 4 4"]:
    return level.pose_w2c[sources] @ torch.linalg.inv(level.pose_w2c[frame])


def _enlarge(depth: Float[Tensor, "h w"], size: tuple[int, ...]) -> Float[Tensor, "a b"]:
    inverse = 1 / depth.clamp_min(1e-6)
    larger = F.interpolate(inverse[None, None], size, mode="bilinear", align_corners=False)[0, 0]
    return 1 / larger
