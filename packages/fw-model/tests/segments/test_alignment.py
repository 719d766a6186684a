"""Alignment and merging of segments against the exact geometry of a box that is seen from the inside."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fw_geometry import Trajectory, make_trajectory
from fw_geometry.continuation import total_frames
from fw_geometry.rigid import invert_poses, rotations_from_vectors
from fw_model.pipeline.result import World
from fw_model.segments.alignment import Placed, merge, place, scene_scale

HALF_SIZE = np.array([1.0, 0.8, 1.5])
"""Half the size of the box, whose center is the first camera."""
HEIGHT, WIDTH = 24, 32


def box_world(path: Trajectory) -> World:
    """The exact world of a path in the box: its frame is the box's, colors are a function of the point."""
    column, row = np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5)
    pixels = np.stack([column, row, np.ones_like(row)], axis=-1)
    ray = np.einsum("fij,hwj->fhwi", path.pose_c2w[:, :3, :3] @ np.linalg.inv(path.K), pixels)  # depth 1 along z
    center = path.pose_c2w[:, None, None, :3, 3]
    depth = ((np.sign(ray) * HALF_SIZE - center) / ray).min(axis=-1)
    points = center + ray * depth[..., None]
    confidence = 2 + np.sin(7 * points).sum(axis=-1) / 3
    return World(
        video=np.round(127 + 120 * np.sin(3 * points)).astype(np.uint8),
        depth=depth.astype(np.float32),
        depth_confidence=confidence.astype(np.float32),
        points=points.astype(np.float32),
        points_confidence=confidence.astype(np.float32),
        trajectory=path,
        requested=path,
    )


def segment_of(world: World, start: int, stop: int, unit: float) -> World:
    """Frames of a world in the frame of its own first camera, with another unit of length."""
    path = world.trajectory.slice(start, stop)
    to_camera = invert_poses(path.pose_c2w[0])
    points = world.points[start:stop] @ to_camera[:3, :3].T + to_camera[:3, 3]
    part: dict[str, Any] = {
        name: getattr(world, name)[start:stop] for name in ("video", "depth_confidence", "points_confidence")
    }
    return World(
        **part,
        depth=world.depth[start:stop] * np.float32(unit),
        points=(points * unit).astype(np.float32),
        trajectory=path.relative_to_first().scaled(unit),
        requested=path.relative_to_first(),
    )


@pytest.fixture(scope="module")
def whole() -> World:
    path = make_trajectory("orbit", total_frames(5, 3), width=WIDTH, height=HEIGHT, angle_rad=0.5, focus_distance=0.6)
    return box_world(path)


def joined(segments: list[World], requested: Trajectory) -> World:
    placed = [Placed(world=segments[0], seam=None)]
    for number, segment in enumerate(segments[1:], start=1):
        placed.append(place(placed[-1].world, segment, segment=number, path_length=requested.path_length()))
    return merge(placed, requested, {"segments": len(segments)})


def test_segments_in_other_frames_and_units_merge_to_the_exact_world(whole: World) -> None:
    units = (1.0, 0.37, 2.6)
    segments = [segment_of(whole, 4 * k, 4 * k + 5, unit) for k, unit in enumerate(units)]
    merged = joined(segments, whole.trajectory)
    np.testing.assert_array_equal(merged.video, whole.video)
    np.testing.assert_allclose(merged.trajectory.pose_c2w, whole.trajectory.pose_c2w, atol=1e-6)
    np.testing.assert_allclose(merged.depth, whole.depth, rtol=1e-6)
    np.testing.assert_allclose(merged.points, whole.points, atol=2e-6)
    np.testing.assert_allclose(merged.points_from_depth(), whole.points, atol=1e-5)
    assert [(seam.segment, seam.frame) for seam in merged.seams] == [(1, 4), (2, 8)]
    for seam, unit in zip(merged.seams, units[1:], strict=True):
        assert seam.scale == pytest.approx(1 / unit, rel=1e-6)
        assert seam.overlap_psnr_db == 100
        assert seam.depth_abs_rel < 1e-6
        assert seam.rotation_deg < 1e-4
        assert seam.translation_share is not None
        assert seam.translation_share < 1e-5


def test_a_seam_reports_the_jump_the_noise_and_the_wrong_depth_that_were_put_in(whole: World) -> None:
    first, second = segment_of(whole, 0, 5, 1.0), segment_of(whole, 4, 9, 0.5)
    turn, shift = rotations_from_vectors(np.radians(3.0) * np.array([0.0, 0.6, 0.8])), np.array([0.02, 0.0, -0.01])
    rng = np.random.default_rng(0)
    noisy = np.clip(second.video[:1].astype(int) + rng.choice([-10, 10], second.video[:1].shape), 0, 255)
    depth = second.depth.copy()
    depth[0, :, :4] *= 1.5  # an eighth of the pixels; the scale must not follow them
    spoiled = replace(
        second,
        points=(second.points @ turn.T + 0.5 * shift).astype(np.float32),
        video=np.concatenate([noisy.astype(np.uint8), second.video[1:]]),
        depth=depth,
        depth_confidence=np.full_like(second.depth, 2.0),
    )
    first = replace(first, depth_confidence=np.full_like(first.depth, 2.0))
    seam = place(first, spoiled, segment=1, path_length=0.5).seam
    assert seam is not None
    assert seam.scale == pytest.approx(2.0, rel=1e-3)
    assert seam.depth_abs_rel == pytest.approx(0.5 / 8, rel=1e-2)
    assert seam.rotation_deg == pytest.approx(3.0, abs=1e-3)
    assert seam.translation_share == pytest.approx(np.linalg.norm(shift) / 0.5, rel=1e-3)
    assert seam.overlap_psnr_db == pytest.approx(10 * np.log10(255**2 / 100), abs=0.1)
    assert place(first, spoiled, segment=1, path_length=0.0).seam.translation_share is None  # pyright: ignore[reportOptionalMemberAccess]


def test_unsure_depth_has_no_say(whole: World) -> None:
    first, second = segment_of(whole, 0, 5, 1.0), segment_of(whole, 4, 9, 1.0)
    confidence, depth = np.full_like(second.depth, 3.0), second.depth.copy()
    confidence[0, :, :8], depth[0, :, :8] = 1.1, 9.0
    placed = place(first, replace(second, depth=depth, depth_confidence=confidence), segment=1, path_length=1.0)
    assert placed.seam is not None
    assert placed.seam.depth_abs_rel < 1e-6


def test_the_scale_of_the_scene_is_the_mean_distance_from_the_last_camera(whole: World) -> None:
    distance = np.linalg.norm(whole.points[-1] - whole.trajectory.pose_c2w[-1, :3, 3], axis=-1)
    assert scene_scale(whole) == pytest.approx(distance.mean(), rel=1e-5)


def test_segments_of_another_size_are_refused(whole: World) -> None:
    small = ("video", "depth", "depth_confidence", "points", "points_confidence")
    other = replace(whole, **{name: getattr(whole, name)[:, :16] for name in small})
    with pytest.raises(ValueError, match="sizes"):
        place(whole, other, segment=1, path_length=1.0)
