"""Put a segment into the frame and the scale of the segments before it, and measure the seam.

Consecutive segments share one frame: the last of the earlier segment is the image that the later one starts from. The
later segment's lengths are multiplied by the factor that makes its depth of the shared frame fit the earlier one's,
and its cameras are composed with the earlier segment's camera of that frame. So the depth and the camera agree there
by construction. What can still differ are the points of the two segments (of the point head, which no step of the
alignment reads): the motion between them is the pose jump.

Axes: F frames, H W pixels, n points. Arrays are numpy, on the host.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from fw_core.images import psnr
from fw_geometry.align import Sim3, fit_scale, umeyama
from fw_geometry.camera import Trajectory
from fw_geometry.rays import unproject
from fw_geometry.rigid import invert_poses, rotation_angles
from fw_model.pipeline.result import Seam, World

DROP_SHARE = 0.25
"""Share of the pixels of a shared frame, the least confident first, that the alignment leaves out, as clouds do."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Placed:
    """A segment in the frame of the whole world, with the seam at its first frame."""

    world: World
    """The segment; its first camera is the last one of the segment before it."""
    seam: Seam | None
    """Agreement with that segment on the shared frame; None for the first segment."""


def scene_scale(world: World) -> float:
    """Mean distance of the points of the last frame from its camera, in the world's unit.

    It is the length of one unit for the model if it continues from this frame (`GenerationSettings.scene_scale`).
    """
    import torch

    K = torch.from_numpy(world.trajectory.K[-1:]).float()
    points = unproject(torch.from_numpy(world.depth[-1:]), K, torch.eye(4)[None]).numpy()
    distance = np.linalg.norm(points, axis=-1)
    return float(distance[np.isfinite(distance) & (world.depth[-1:] > 0)].mean())


def place(before: World, after: World, *, segment: int, path_length: float) -> Placed:
    """Put a segment behind another one that is already in the frame of the whole world.

    Args:
        before: the earlier segment.
        after: the later one, in the frame of its own first camera, in any unit.
        segment: number of the later segment.
        path_length: length of the requested path of the whole world, for `Seam.translation_share`.

    Raises:
        ValueError: sizes that differ, or a shared frame without finite depth.
    """
    if before.video.shape[1:] != after.video.shape[1:]:
        raise ValueError(f"segments of different sizes: {before.video.shape[1:]} and {after.video.shape[1:]}")
    sure = _sure(before.depth_confidence[-1]) & _sure(after.depth_confidence[0])
    sure &= (before.depth[-1] > 0) & (after.depth[0] > 0)
    scale = fit_scale(after.depth[0], before.depth[-1], sure)
    anchor = before.trajectory.pose_c2w[-1]
    to_world = Sim3(scale=scale, R=anchor[:3, :3], t=anchor[:3, 3])
    world = replace(
        after,
        depth=(after.depth * scale).astype(np.float32),
        points=to_world.apply(after.points.astype(np.float64)).astype(np.float32),
        trajectory=_moved(after.trajectory, to_world),
    )
    relative = np.abs(world.depth[0] - before.depth[-1])[sure] / before.depth[-1][sure]
    rotation_rad, translation = _jump(before, world)
    seam = Seam(
        segment=segment,
        frame=segment * (len(after.video) - 1),
        overlap_psnr_db=float(psnr(after.video[:1], before.video[-1:])[0]),
        scale=scale,
        depth_abs_rel=float(relative.mean()),
        rotation_deg=float(np.degrees(rotation_rad)),
        translation_share=translation / path_length if path_length > 0 else None,
    )
    return Placed(world=world, seam=seam)


def merge(placed: Sequence[Placed], requested: Trajectory, settings: dict[str, Any]) -> World:
    """One world of consecutive segments; of every shared frame, the earlier segment's version stays.

    Args:
        placed: the segments in the frame of the first one, in order.
        requested: the requested cameras of all frames, in that frame and unit.
        settings: further entries of ``World.settings``.
    """
    first = placed[0].world
    parts = [first, *(_without_first(segment.world) for segment in placed[1:])]
    arrays: dict[str, Any] = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in ("video", "depth", "depth_confidence", "points", "points_confidence")
    }
    return World(
        **arrays,
        trajectory=replace(
            first.trajectory,
            pose_c2w=np.concatenate([part.trajectory.pose_c2w for part in parts]),
            K=np.concatenate([part.trajectory.K for part in parts]),
        ),
        requested=requested,
        fps=first.fps,
        settings={**first.settings, **settings},
        notes=tuple(dict.fromkeys(note for part in parts for note in part.notes)),
        seams=tuple(segment.seam for segment in placed if segment.seam is not None),
    )


def _sure(confidence: Float[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
    """The pixels that are not among the least confident ones; all of them if the confidences are equal."""
    return confidence >= np.quantile(confidence, DROP_SHARE)


def _moved(path: Trajectory, to_world: Sim3) -> Trajectory:
    return replace(path, pose_c2w=to_world.apply_poses(path.pose_c2w))


def _jump(before: World, after: World) -> tuple[float, float]:
    """Rotation (rad) and length of the motion that takes the later points of the shared frame to the earlier ones.

    It is measured in the frame of the shared camera, so that the translation is that of the camera. A difference of
    scale between the two is not a motion.
    """
    world_to_camera = invert_poses(before.trajectory.pose_c2w[-1])
    old, new = (
        (points.reshape(-1, 3).astype(np.float64) @ world_to_camera[:3, :3].T + world_to_camera[:3, 3])
        for points in (before.points[-1], after.points[0])
    )
    sure = _sure(before.points_confidence[-1]) & _sure(after.points_confidence[0])
    use = sure.reshape(-1) & np.isfinite(old).all(-1) & np.isfinite(new).all(-1)
    motion = umeyama(new[use], old[use])
    return float(rotation_angles(motion.R)), float(np.linalg.norm(motion.t))


def _without_first(world: World) -> World:
    return replace(
        world,
        video=world.video[1:],
        depth=world.depth[1:],
        depth_confidence=world.depth_confidence[1:],
        points=world.points[1:],
        points_confidence=world.points_confidence[1:],
        trajectory=world.trajectory.slice(1),
        requested=world.requested.slice(1),
    )
