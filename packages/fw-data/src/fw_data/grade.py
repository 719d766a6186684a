"""How good an annotated clip is: figures from the geometry alone, and a letter.

A: fit for training as it is. B: usable with the confidence as weight. C: kept for completeness, look before use.
Axis legend: f frames, h height, w width.
"""

import numpy as np
from jaxtyping import Float32, Float64

from fw_data.annotators.base import ClipGeometry
from fw_data.schema import Grade
from fw_geometry.metrics import ConsistencyResult, reprojection_consistency

CONFIDENT = 0.3
"""Confidence from which a depth pixel counts as known, and a pose as found."""
LIMITS: dict[Grade, dict[str, float]] = {
    "A": {"posed_fraction": 0.95, "coverage": 0.5, "reprojection_inliers": 0.8, "reprojection_error": 0.02},
    "B": {"posed_fraction": 0.8, "coverage": 0.25, "reprojection_inliers": 0.5, "reprojection_error": 0.06},
}
"""What a clip must reach (errors: stay below) for a grade; all others are C."""
_VIEWS = 9
_LONG_SIDE = 160


def score_geometry(geometry: ClipGeometry) -> dict[str, float]:
    """Posed fraction, coverage and cross-frame consistency of a clip (see schema.SCORES).

    Without a single comparable pixel the consistency scores are those of a failure: error 1, inliers 0.
    """
    found = consistency(geometry.depth_m, geometry.confidence, geometry.K, geometry.pose_c2w)
    known = (geometry.depth_m > 0) & (geometry.confidence >= CONFIDENT)
    return {
        "posed_fraction": float((geometry.pose_confidence >= CONFIDENT).mean()),
        "coverage": float(known.mean()),
        "reprojection_error": found.median if found.comparisons else 1.0,
        "reprojection_inliers": found.inlier_fraction if found.comparisons else 0.0,
    }


def grade(scores: dict[str, float]) -> Grade:
    """The letter for a set of scores."""
    for letter, limits in LIMITS.items():
        enough = all(scores[name] >= limit for name, limit in limits.items() if name != "reprojection_error")
        if enough and scores["reprojection_error"] <= limits["reprojection_error"]:
            return letter
    return "C"


def consistency(
    depth_m: Float32[np.ndarray, "f h w"],
    confidence: Float32[np.ndarray, "f h w"],
    K: Float64[np.ndarray, "f 3 3"],
    pose_c2w: Float64[np.ndarray, "f 4 4"],
) -> ConsistencyResult:
    """Point maps of nine frames spread over the clip, each seen from the second next; every n-th pixel of large ones.

    So views a quarter of the clip apart are compared: far enough for wrong poses to show.
    """
    frames, height, width = depth_m.shape
    views = np.unique(np.linspace(0, frames - 1, min(frames, _VIEWS)).round().astype(int))
    if len(views) < 2:
        return ConsistencyResult(
            median=float("nan"), mean=float("nan"), inlier_fraction=float("nan"), overlap=0.0, comparisons=0
        )
    step = max(1, round(max(height, width) / _LONG_SIDE))
    depth = depth_m[views, ::step, ::step]
    sampled_K = K[views].copy()  # pixel i of the sample is pixel i * step of the frame
    sampled_K[:, :2, 2] = (sampled_K[:, :2, 2] - 0.5) / step + 0.5
    sampled_K[:, (0, 1), (0, 1)] /= step
    mask = confidence[views, ::step, ::step] >= CONFIDENT
    return reprojection_consistency(depth, sampled_K, pose_c2w[views], mask=mask, gap=min(2, len(views) - 1))
