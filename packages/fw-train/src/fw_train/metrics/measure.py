"""Compute all measures of one world against one clip.

Lengths are in scene units for both (see `fw_train.metrics.truth` and `fw_train.evaluate.worlds`).
Axis legend: F frames, H W pixels.
"""

import numpy as np
import torch
from jaxtyping import Bool, Float

from fw_core.images import psnr
from fw_geometry import (
    abs_rel,
    align_poses,
    ate,
    camera_error,
    chamfer,
    delta_accuracy,
    fit_scale,
    fit_scale_shift_disparity,
    rpe,
    unproject,
)
from fw_geometry.align import Sim3
from fw_model.pipeline.result import World
from fw_train.evaluate.options import Recover
from fw_train.metrics.consistency import HEADLINE_GAP, measured_gaps, reprojection
from fw_train.metrics.images import ssim
from fw_train.metrics.measures import ClipScores, finite
from fw_train.metrics.perceptual import Lpips
from fw_train.metrics.st_lpips import StLpips
from fw_train.metrics.truth import TruthClip

_MOST_FITTED = 1_000_000
_MOST_POINTS = 10_000  # for distant clouds, nearest-neighbor search costs almost the square of this


def measure(
    world: World,
    truth: TruthClip,
    *,
    lpips: Lpips | None = None,
    st_lpips: StLpips | None = None,
    recover: Recover = "model",
) -> ClipScores:
    """Measure a world (in scene units) against its clip.

    Raises:
        ValueError: frames or size differ, there are fewer than two frames, or the geometry is not finite.
    """
    if world.video.shape != truth.video.shape:
        raise ValueError(f"the world is {world.video.shape}, the clip {truth.video.shape}; shapes must be the same")
    if len(world.video) < 2:
        raise ValueError("a world of one frame has no motion to measure; generate at least five frames")
    _check_geometry(world, truth)
    result = ClipScores()
    _video(result, world, truth, lpips, st_lpips)
    scale = _depth(result, world, truth)
    _poses(result, world, truth)
    _points(result, world, truth, scale)
    _following(result, world, recover)
    _consistency(result, world)
    return result


def measure_geometry(world: World, truth: TruthClip) -> ClipScores:
    """Measure depth, cameras and points only, for worlds whose video is not generated.

    Raises:
        ValueError: the geometry differs in shape from the clip, or is not finite and positive.
    """
    _check_geometry(world, truth)
    result = ClipScores()
    scale = _depth(result, world, truth)
    _poses(result, world, truth)
    _points(result, world, truth, scale)
    _following(result, world, "model")
    return result


def _check_geometry(world: World, truth: TruthClip) -> None:
    if world.depth.shape != truth.depth.shape:
        raise ValueError(
            f"the world's depth is {world.depth.shape}, the clip's {truth.depth.shape}; shapes must be the same"
        )
    if not (np.isfinite(world.depth).all() and np.isfinite(world.points).all() and (world.depth > 0).all()):
        raise ValueError("the world's depth or points are not finite and positive everywhere; generate it again")


def _video(result: ClipScores, world: World, truth: TruthClip, lpips: Lpips | None, st_lpips: StLpips | None) -> None:
    per_frame = {"video/psnr": psnr, "video/ssim": ssim} | ({"video/lpips": lpips} if lpips else {})
    per_frame |= {"video/st_lpips": st_lpips} if st_lpips else {}
    for name, function in per_frame.items():
        values = function(world.video, truth.video)
        result.scores[name] = float(values[1:].mean())
        result.curves[name] = [(frame, float(value)) for frame, value in enumerate(values)]


def _depth(result: ClipScores, world: World, truth: TruthClip) -> float:
    """Add the depth measures; returns the scale from predicted to true depth."""
    known = truth.depth > 0
    pred, true = world.depth.astype(np.float64), truth.depth.astype(np.float64)
    some = _some(known, _MOST_FITTED)
    scale = fit_scale(pred.reshape(-1)[some], true.reshape(-1)[some])
    result.scores["depth/abs_rel"] = abs_rel(scale * pred, true, known)
    result.scores["depth/delta1"] = delta_accuracy(scale * pred, true, known)
    result.curves["depth/abs_rel"] = [
        (frame, abs_rel(scale * p, t, mask) if mask.any() else None)
        for frame, (p, t, mask) in enumerate(zip(pred, true, known, strict=True))
    ]
    farthest = float(true.max())
    try:
        fit = fit_scale_shift_disparity(1 / pred.reshape(-1)[some], true.reshape(-1)[some])
        affine = fit.depth(1 / pred, farthest)
    except ValueError:
        result.notes.append("predicted depth does not increase with true depth: the scale-and-shift fit is constant")
        affine = np.full_like(pred, 1 / np.median(1 / true.reshape(-1)[some]))
    result.scores["depth/abs_rel_affine"] = abs_rel(affine, true, known)
    result.scores["depth/delta1_affine"] = delta_accuracy(affine, true, known)
    return scale


def _poses(result: ClipScores, world: World, truth: TruthClip) -> None:
    pred, true = world.trajectory.pose_c2w, truth.trajectory.pose_c2w
    position = ate(pred, true)
    drift = rpe(pred, true)
    result.scores |= {"pose/ate": position.rmse, "pose/rpe_trans": drift.trans, "pose/rpe_rot": drift.rot_deg}
    result.scores |= {"pose/ate_directed": _directed_ate(pred, true), "pose/ate_still": _spread(true)}
    result.curves["pose/position"] = [(frame, float(error)) for frame, error in enumerate(position.errors)]


def _directed_ate(pred: Float[np.ndarray, "F 4 4"], true: Float[np.ndarray, "F 4 4"]) -> float:
    """ATE with the rotation of the camera directions and the scale of the spreads; reversed travel is not turned."""
    turn = align_poses(pred, true, with_scale=False).R
    moved, target = (centers - centers.mean(axis=0) for centers in (pred[:, :3, 3] @ turn.T, true[:, :3, 3]))
    scale = _spread(true) / spread if (spread := _spread(pred)) > 1e-9 else 0.0
    return float(np.sqrt(((scale * moved - target) ** 2).sum(axis=-1).mean()))


def _spread(pose_c2w: Float[np.ndarray, "F 4 4"]) -> float:
    """Root mean square distance of the camera centers from their mean."""
    centers = pose_c2w[:, :3, 3]
    return float(np.sqrt(((centers - centers.mean(axis=0)) ** 2).sum(axis=-1).mean()))


def _points(result: ClipScores, world: World, truth: TruthClip, depth_scale: float) -> None:
    """Add the Chamfer distance between the same pixels of both point maps, after Sim(3) alignment of the cameras.

    The rotation comes from the camera directions, so it is defined for straight paths too. If the path has no scale (no
    motion, or in the opposite direction), the depth scale is used, about the mean camera center.
    """
    pred, true = world.trajectory.pose_c2w, truth.trajectory.pose_c2w
    try:
        fit = align_poses(pred, true)
    except ValueError:
        turn = align_poses(pred, true, with_scale=False)
        middle, target = pred[:, :3, 3].mean(axis=0), true[:, :3, 3].mean(axis=0)
        fit = Sim3(scale=depth_scale, R=turn.R, t=target - depth_scale * turn.R @ middle)
        result.notes.append("the recovered path has no scale: points are compared at the scale of the depth")
    some = _some(truth.depth > 0, _MOST_POINTS)
    cameras = (torch.from_numpy(truth.trajectory.K).float(), torch.from_numpy(true).float())
    true_points = unproject(torch.from_numpy(truth.depth), *cameras).numpy().reshape(-1, 3)[some]
    points = fit.apply(world.points.reshape(-1, 3)[some].astype(np.float64))
    result.scores["points/chamfer"] = chamfer(points, true_points.astype(np.float64))


def _following(result: ClipScores, world: World, recover: Recover) -> None:
    requested = world.requested.pose_c2w
    own = camera_error(world.trajectory.pose_c2w, requested)
    result.scores |= {"follow/rotation": own.rotation_deg, "follow/direction": finite(own.translation_deg)}
    length = world.requested.path_length()
    recovered = world.trajectory.relative_to_first()
    away = np.linalg.norm(recovered.centers_world - world.requested.relative_to_first().centers_world, axis=-1)[1:]
    moves = np.isfinite(own.translation_deg)
    result.scores["follow/position"] = float(away.mean()) / length if moves else None
    result.scores["follow/length"] = recovered.path_length() / length if moves else None
    if not moves:
        result.notes.append("the requested camera does not move: the direction of travel is not defined")
    if recover == "sfm":
        found = _recovered_by_sfm(result, world)
        error = None if found is None else camera_error(found, requested)
        result.scores["follow_sfm/rotation"] = None if error is None else error.rotation_deg
        result.scores["follow_sfm/direction"] = None if error is None else finite(error.translation_deg)


def _recovered_by_sfm(result: ClipScores, world: World) -> Float[np.ndarray, "F 4 4"] | None:
    """Recover cameras from the generated video with the `sfm` backend of fw-data; None on failure."""
    from fw_data.annotators.base import AnnotationRefused
    from fw_data.annotators.sfm import SfmBackend

    try:
        return SfmBackend().annotate(world.video).pose_c2w
    except AnnotationRefused as refusal:
        result.notes.append(f"structure from motion finds no cameras in the generated video: {refusal}")
        return None


def _consistency(result: ClipScores, world: World) -> None:
    names = ("depth", "depth_ratio", "photometric", "photometric_ratio", "visible")
    gaps = measured_gaps(len(world.video))
    headline = HEADLINE_GAP if HEADLINE_GAP in gaps else gaps[-1]
    for name in names:
        result.curves[f"consistency/{name}"] = []
    for gap in gaps:
        found = reprojection(world, gap)
        for name in names:
            value = finite(getattr(found, name))
            result.curves[f"consistency/{name}"].append((gap, value))
            if gap == headline:
                result.scores[f"consistency/{name}"] = value
        if gap == headline and found.failed:
            result.notes.append(
                f"reprojection has failed: {100 * found.visible:.1f} % of the pixels are visible {gap} frames apart"
            )


def _some(mask: Bool[np.ndarray, "F H W"], most: int) -> np.ndarray:
    """Flat indices of at most `most` pixels of a mask, evenly spread."""
    found = np.flatnonzero(mask)
    return found if len(found) <= most else found[np.linspace(0, len(found) - 1, most).astype(int)]
