"""Grade of an annotated clip: figures from the geometry alone, a letter and its reasons.

Axis legend: f frames, h height, w width; OpenCV axes, camera-to-world.
"""

import numpy as np
from jaxtyping import Float32, Float64
from scipy.spatial.transform import Rotation

from fw_data.annotators.base import ClipGeometry
from fw_data.dataset.schema import Grade
from fw_geometry.metrics import ConsistencyResult, reprojection_consistency

CONFIDENT = 0.3
"""Confidence from which a depth pixel counts as known, and a pose as found."""
GRADE_MEANINGS: dict[Grade, str] = {
    "A": "fit for training as it is",
    "B": "usable with the confidence as weight",
    "C": "weak: look before use",
    "D": "something is wrong with it: kept for completeness, not for training",
}
LIMITS: dict[Grade, dict[str, tuple[float | None, float | None]]] = {
    "A": {
        "posed_fraction": (0.95, None),
        "coverage": (0.4, None),
        "reprojection_inliers": (0.8, None),
        "reprojection_error": (None, 0.02),
        "pose_jerk_deg": (None, 1.5),
        "fov_deg": (20.0, 120.0),
        "focal_sigma": (None, 0.025),
        "focal_drift": (None, 0.08),
        "path_drift": (None, 0.006),
    },
    "B": {
        "posed_fraction": (0.8, None),
        "coverage": (0.25, None),
        "reprojection_inliers": (0.5, None),
        "reprojection_error": (None, 0.06),
        "pose_jerk_deg": (None, 4.0),
        "fov_deg": (12.0, 140.0),
        "focal_sigma": (None, 0.035),
        "focal_drift": (None, 0.1),
        "path_drift": (None, 0.008),
    },
    "C": {
        "posed_fraction": (0.5, None),
        "coverage": (0.05, None),
        "reprojection_inliers": (0.2, None),
        "reprojection_error": (None, 0.2),
        "pose_jerk_deg": (None, 15.0),
        "fov_deg": (5.0, 160.0),
        "focal_sigma": (None, 0.04),
        "focal_drift": (None, 0.12),
        "path_drift": (None, 0.012),
    },
}
"""Least and largest value that a score may have for a grade (None = no limit); a clip that misses C is D.

The last three come from `sfm`, which finds its own cameras; other backends have no such scores."""
_VIEWS = 9
_LONG_SIDE = 160


def score_geometry(geometry: ClipGeometry, times_s: list[float] | None = None) -> dict[str, float]:
    """Posed fraction, coverage, cross-frame consistency, jerk and field of view of a clip (see dataset.schema.SCORES).

    `times_s` are the time stamps of the frames; None = evenly spaced. Without a single comparable
    pixel the consistency scores are those of a failure: error 1, inliers 0.
    """
    found = consistency(geometry.depth_m, geometry.confidence, geometry.K, geometry.pose_c2w)
    known = (geometry.depth_m > 0) & (geometry.confidence >= CONFIDENT)
    _, height, width = geometry.depth_m.shape
    times = np.arange(len(geometry.K), dtype=np.float64) if times_s is None else np.asarray(times_s, np.float64)
    focal = geometry.K[:, 0, 0] if width >= height else geometry.K[:, 1, 1]
    return {
        "posed_fraction": float((geometry.pose_confidence >= CONFIDENT).mean()),
        "coverage": float(known.mean()),
        "reprojection_error": found.median if found.comparisons else 1.0,
        "reprojection_inliers": found.inlier_fraction if found.comparisons else 0.0,
        "pose_jerk_deg": pose_jerk_deg(geometry.pose_c2w, times, median_depth(geometry)),
        "fov_deg": float(np.degrees(2 * np.arctan(max(height, width) / 2 / np.median(focal)))),
    }


def median_depth(geometry: ClipGeometry) -> float:
    """Median known depth over some frames; 1 if no depth is known."""
    frames = np.unique(np.linspace(0, len(geometry.depth_m) - 1, 5).round().astype(int))
    depth = geometry.depth_m[frames, ::4, ::4]
    known = depth[(depth > 0) & (geometry.confidence[frames, ::4, ::4] >= CONFIDENT)]
    return float(np.median(known)) if known.size else 1.0


def pose_jerk_deg(pose_c2w: Float64[np.ndarray, "f 4 4"], times_s: Float64[np.ndarray, " f"], depth: float) -> float:
    """Largest distance of a camera from the path between its neighbors, as a visual angle in degrees.

    The way is a straight line and an even turn over time; off counts what exceeds half the distance of the neighbors,
    so quick but smooth motion is no jerk and a single wrong pose is. A shift is seen from the depth of the scene.
    """
    if len(pose_c2w) < 3:
        return 0.0
    rotation, center = Rotation.from_matrix(pose_c2w[:, :3, :3]), pose_c2w[:, :3, 3]
    span = np.maximum(times_s[2:] - times_s[:-2], 1e-9)
    part = np.clip((times_s[1:-1] - times_s[:-2]) / span, 0, 1)[:, None]
    chord = center[2:] - center[:-2]
    turn = (rotation[:-2].inv() * rotation[2:]).as_rotvec()
    between = rotation[:-2] * Rotation.from_rotvec(part * turn)
    shift_off = np.linalg.norm(center[1:-1] - center[:-2] - part * chord, axis=1) - np.linalg.norm(chord, axis=1) / 2
    turn_off = (between.inv() * rotation[1:-1]).magnitude() - np.linalg.norm(turn, axis=1) / 2
    off = np.maximum(turn_off, 0) + np.arctan2(np.maximum(shift_off, 0), max(depth, 1e-9))
    return float(np.degrees(off.max()))


def grade(scores: dict[str, float]) -> Grade:
    """The letter for a set of scores."""
    return grade_with_reasons(scores)[0]


def grade_with_reasons(scores: dict[str, float]) -> tuple[Grade, list[str]]:
    """The letter, and what keeps it from the next better one. Scores that are not there are not judged."""
    missed: list[str] = []
    for letter, limits in LIMITS.items():
        reasons = [reason for name in limits if (reason := _miss(scores, name, limits[name]))]
        if not reasons:
            return letter, missed
        missed = [f"{reason} for {letter}" for reason in reasons]
    return "D", missed


def _miss(scores: dict[str, float], name: str, limit: tuple[float | None, float | None]) -> str:
    value, (least, most) = scores.get(name), limit
    if value is None:
        return ""
    if least is not None and not value >= least:
        return f"{name} {value:.3g} is below {least:g}"
    if most is not None and not value <= most:
        return f"{name} {value:.3g} is above {most:g}"
    return ""


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
