"""Observations below one pixel: each scene point's patch is found again in every frame that should see it.

A point has one template, the patch around its observation in the frame that shows it best. For every other frame the
patch is warped as a plane through the point would move it, and shifted until it fits. One template per point means
that nothing drifts, and points gain observations in frames that were never matched with each other.
Image positions are (x, y) in pixels with pixel centers at + 0.5.
Axis legend: f frames, h height, w width, p points, o observations.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from fw_data.annotators.sfm.bundle import select_points
from fw_data.annotators.sfm.matching.patches import (
    PATCH_RADIUS,
    align_to_frame,
    build_levels,
    sample_patches,
    weaker_texture,
)
from fw_data.annotators.sfm.rolling_shutter import shift_px
from fw_data.annotators.sfm.scene import SparseScene
from fw_data.annotators.sfm.workers import map_parallel

MIN_CORRELATION = 0.8
MARGIN_PX = PATCH_RADIUS + 2


@dataclass(frozen=True, kw_only=True)
class Templates:
    """The frame and position that define each point."""

    frame: Int64[np.ndarray, " p"]
    xy: Float64[np.ndarray, "p 2"]
    normal: Float64[np.ndarray, "p 3"]
    """Unit normal of the surface in the world, towards the camera."""


def refine_observations(
    scene: SparseScene, image: Float[Tensor, "f h w"], *, max_shift_px: float, max_points: int, threads: int = 1
) -> SparseScene:
    """New observations of (at most `max_points`) points, in all posed frames where their patch is found.

    `image` is gray, in [0, 1]. A patch is accepted when it correlates better than 0.8 and is closer than
    `max_shift_px` to where the scene predicts it.
    """
    scene = spread_points(scene, max_points)
    templates = choose_templates(scene, image)
    levels = build_levels(image, torch.from_numpy(templates.frame), torch.from_numpy(templates.xy).float())

    def find(frame: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        points, guess, warp = _predict(scene, templates, frame)
        found, correlation = align_to_frame(
            levels,
            frame,
            torch.from_numpy(points),
            torch.from_numpy(guess).float(),
            torch.from_numpy(warp).float(),
        )
        xy = found.double().numpy()
        good = (correlation.numpy() > MIN_CORRELATION) & (np.linalg.norm(xy - guess, axis=1) < max_shift_px)
        return np.full(int(good.sum()), frame), points[good], xy[good]

    rows = map_parallel(find, np.flatnonzero(scene.posed).tolist(), threads)
    rows = [(templates.frame, np.arange(len(scene.points)), templates.xy), *rows]
    return replace(
        scene,
        obs_frame=np.concatenate([row[0] for row in rows]).astype(np.int64),
        obs_point=np.concatenate([row[1] for row in rows]).astype(np.int64),
        obs_xy=np.concatenate([row[2] for row in rows]),
    )


def choose_templates(scene: SparseScene, image: Float[Tensor, "f h w"]) -> Templates:
    """For each point, the observation whose patch has the strongest texture in its weaker direction."""
    patches = sample_patches(image, torch.from_numpy(scene.obs_frame), torch.from_numpy(scene.obs_xy).float())
    strength = weaker_texture(patches).numpy()
    strength = np.where(_inside(scene.obs_xy, scene.width, scene.height), strength, -1.0)
    order = np.lexsort((-strength, scene.obs_point))
    first = order[np.r_[True, np.diff(scene.obs_point[order]) > 0]]
    frame = scene.obs_frame[first]
    normal = -scene.pose_w2c[frame][:, 2, :3]
    return Templates(frame=frame, xy=scene.obs_xy[first], normal=normal)


def spread_points(scene: SparseScene, max_points: int, cell_px: float = 24.0) -> SparseScene:
    """At most `max_points` points, so that every part of every frame keeps some.

    Points are taken in order of their number of observations, but a point counts for less the more points already
    chosen lie in its image cells.
    """
    count = len(scene.points)
    if count <= max_points:
        return scene
    columns = int(np.ceil(scene.width / cell_px))
    rows = int(np.ceil(scene.height / cell_px))
    cell = np.clip(scene.obs_xy // cell_px, 0, [columns - 1, rows - 1]).astype(np.int64)
    slot = (scene.obs_frame * rows + cell[:, 1]) * columns + cell[:, 0]
    order = np.argsort(scene.obs_point, kind="stable")
    bounds = np.searchsorted(scene.obs_point[order], np.arange(count + 1))
    slots = [slot[order[bounds[i] : bounds[i + 1]]] for i in range(count)]
    filled = np.zeros(len(scene.posed) * rows * columns)
    chosen = np.zeros(count, bool)
    gain = np.array([float(len(s)) for s in slots])
    while chosen.sum() < max_points:
        # Greedy with stale gains: recompute the best few, take those that are still the best.
        batch = np.argsort(-np.where(chosen, -1.0, gain), kind="stable")[: max(64, max_points // 8)]
        for point in batch:
            if chosen[point] or chosen.sum() >= max_points:
                continue
            now = float((1 / (1 + filled[slots[point]])).sum())
            if now >= 0.5 * gain[point]:
                chosen[point] = True
                filled[slots[point]] += 1
            gain[point] = now
    return select_points(scene, chosen)


def plane_warp(
    scene: SparseScene, templates: Templates, frame: int, points: Int64[np.ndarray, " o"]
) -> Float64[np.ndarray, "o 2 2"]:
    """Jacobian from offsets in the template's image to another frame, for the plane through the point."""
    source = templates.frame[points]
    target = np.full(len(points), frame)
    step = 2.0
    K_inv = np.linalg.inv(scene.K)
    rotation = scene.pose_w2c[source][:, :3, :3]
    center = scene.centers[source]
    normal = templates.normal[points]
    level = np.einsum("oi,oi->o", normal, scene.points[points] - center)

    def transfer(xy: np.ndarray) -> np.ndarray:
        ray = np.einsum("oji,oj->oi", rotation, np.c_[xy, np.ones(len(xy))] @ K_inv.T)
        along = np.einsum("oi,oi->o", normal, ray)
        distance = level / np.where(np.abs(along) > 1e-9, along, 1e-9)
        return scene.project(target, center + distance[:, None] * ray)[0]

    middle = templates.xy[points]
    columns = [(transfer(middle + d) - transfer(middle - d)) / (2 * step) for d in np.eye(2) * step]
    return np.stack(columns, axis=2)


def _predict(scene: SparseScene, templates: Templates, frame: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points that the frame may see, where, and how their patch is deformed there."""
    points = np.flatnonzero(templates.frame != frame)
    xy, depth = scene.project(np.full(len(points), frame), scene.points[points])
    visible = (depth > 0) & _inside(xy, scene.width, scene.height)
    points, xy = points[visible], xy[visible]
    warp = plane_warp(scene, templates, frame, points)
    xy = xy + shift_px(scene, np.full(len(points), frame), scene.points[points], xy)
    source = templates.frame[points]
    own, _ = scene.project(source, scene.points[points])
    own = own + shift_px(scene, source, scene.points[points], own)
    xy = xy + np.einsum("oij,oj->oi", warp, templates.xy[points] - own)
    size = np.linalg.det(warp)
    sane = (size > 0.25) & (size < 4.0) & (np.linalg.norm(warp, axis=(1, 2)) < 4.0)
    sane &= _inside(xy, scene.width, scene.height)
    return points[sane], xy[sane], warp[sane]


def _inside(xy: np.ndarray, width: int, height: int) -> Bool[np.ndarray, " o"]:
    return (
        (xy[:, 0] > MARGIN_PX)
        & (xy[:, 1] > MARGIN_PX)
        & (xy[:, 0] < width - MARGIN_PX)
        & (xy[:, 1] < height - MARGIN_PX)
    )
