"""Start and joint refinement put together: `align`. Axis legend: e pairs, f frames, p pixels."""

import numpy as np

from fw_data.annotators.dust3r.alignment.adjust import Residuals, adjust
from fw_data.annotators.dust3r.alignment.clouds import AlignmentConfig, AlignmentFailed, PairClouds, SceneAlignment
from fw_data.annotators.dust3r.alignment.groups import conspiring_pairs
from fw_data.annotators.dust3r.alignment.start import State, start
from fw_geometry.rigid import compose_poses, invert_poses, nearest_rotations

LEAST_FOCAL, MOST_FOCAL = 0.01, 1000.0
"""Bounds on the refined focal length, over the largest offset of a pixel from the center."""


def align(clouds: PairClouds, config: AlignmentConfig | None = None) -> SceneAlignment:
    """One scene from the point maps of many pairs.

    Raises:
        AlignmentFailed: the point maps do not determine one scene.
        ValueError: the pairs do not connect all frames.
    """
    config = config or AlignmentConfig()
    # 1. fewer pixels: cameras need some hundred points per map, not all
    clouds = _thinned(clouds, config.max_points)
    shared = config.focal == "shared"
    # 2. initial focal lengths, pair motions and a spanning tree of cameras
    state = start(clouds, shared_focal=shared)
    # 3. joint robust Gauss-Newton over cameras, pair scales and focal lengths
    found, steps = adjust(clouds, state, shared_focal=shared, iterations=config.iterations, tolerance=config.tolerance)
    focal = state.log_focal - np.log(np.abs(clouds.offsets_px).max())
    if not ((focal > np.log(LEAST_FOCAL)) & (focal < np.log(MOST_FOCAL))).all():
        raise AlignmentFailed("no focal length fits: the point maps may be constant, or contradict each other")
    return _result(clouds, state, found, steps, config)


def _thinned(clouds: PairClouds, most: int) -> PairClouds:
    count = clouds.first.shape[1]
    if count <= most:
        return clouds
    keep = np.linspace(0, count - 1, most).astype(int)
    return PairClouds(
        pairs=clouds.pairs,
        frames=clouds.frames,
        first=clouds.first[:, keep],
        second=clouds.second[:, keep],
        first_weight=clouds.first_weight[:, keep],
        second_weight=clouds.second_weight[:, keep],
        offsets_px=clouds.offsets_px[keep],
    )


def _result(clouds: PairClouds, state: State, found: Residuals, steps: int, config: AlignmentConfig) -> SceneAlignment:
    # world = first camera
    pose = invert_poses(compose_poses(nearest_rotations(state.rotation_w2c), state.translation_w2c))
    pose = invert_poses(pose[0]) @ pose
    pose[0] = np.eye(4)
    # trust of a frame: fraction of the weight of its pairs that agrees with the rest
    accepted = found.kept >= config.min_weight
    weight = clouds.first_weight.sum(1) + clouds.second_weight.sum(1)
    ends = clouds.pairs.T.reshape(-1)
    total = np.bincount(ends, np.tile(weight, 2), clouds.frames)
    good = np.bincount(ends, np.tile(weight * accepted, 2), clouds.frames)
    # pixels whose depth an accepted pair knows
    known = np.zeros(found.agreed.shape)
    for side, (frame, base) in enumerate(zip(clouds.pairs.T, (clouds.first_weight, clouds.second_weight), strict=True)):
        np.add.at(known, frame, base * accepted[:, None] * (found.across_weight[side] > 0))
    return SceneAlignment(
        pose_c2w=pose,
        focal_px=np.exp(state.log_focal),
        pair_scale=np.exp(state.log_scale),
        accepted=accepted,
        conspiring=conspiring_pairs(clouds.pairs, state.pair_rotation),
        depth=np.where(known > 0, np.exp(found.agreed), 0),
        depth_spread=found.spread,
        frame_confidence=good / np.maximum(total, 1e-12),
        across_px=found.across_px[1],
        along=found.along[1],
        iterations=steps,
    )
