"""A first guess of the focal length from pairs of key frames, before anything is reconstructed.

Axis legend: m matches.
"""

import numpy as np
import poselib

from fw_data.annotators.sfm.calibration import FOCAL_RANGE, USUAL_FOCAL
from fw_data.annotators.sfm.matching.features import Features
from fw_data.annotators.sfm.matching.matching import PairMatches


def guess_focal_px(features: list[Features], pairs: list[PairMatches], seed: int, max_pairs: int = 12) -> float:
    """Weighted median over the pairs with most parallax of the focal length that both views share.

    Each pair votes with the number of its inliers (six-point solver with one unknown focal length, then refinement);
    pairs that one homography explains cannot tell a focal length and do not vote. Falls back to 0.9 of the long side.
    """
    width, height = features[0].size
    long_side = max(width, height)
    ranked = sorted(pairs, key=lambda pair: -len(pair.indices) * (1.0 - pair.homography_fraction))
    center = np.array([width / 2, height / 2])
    votes, weights = [], []
    for pair in ranked[:max_pairs]:
        if pair.homography_fraction > 0.85:
            continue
        a = features[pair.first].positions.numpy()[pair.indices[:, 0]].astype(np.float64) - center
        b = features[pair.second].positions.numpy()[pair.indices[:, 1]].astype(np.float64) - center
        result, info = poselib.estimate_shared_focal_relative_pose(
            a, b, np.zeros(2), {"seed": seed, "max_epipolar_error": 1.5, "max_iterations": 1000, "min_iterations": 100}
        )
        focal = float(result.camera1.focal())
        if FOCAL_RANGE[0] * long_side < focal < FOCAL_RANGE[1] * long_side:
            votes.append(focal)
            weights.append(float(info["num_inliers"]))
    if not votes:
        return USUAL_FOCAL * long_side
    order = np.argsort(votes)
    share = np.cumsum(np.array(weights)[order]) / sum(weights)
    return float(np.array(votes)[order][np.searchsorted(share, 0.5)])
