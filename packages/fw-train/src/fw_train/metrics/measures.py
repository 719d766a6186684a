"""The registry of measures: label, unit, better direction and meaning of each. Reports and comparisons read it."""

import math
from dataclasses import dataclass, field
from typing import Literal

Better = Literal["lower", "higher", "neither"]


@dataclass(frozen=True, kw_only=True)
class Measure:
    """Description of one measure of a clip."""

    label: str
    """Label in tables."""
    unit: str
    """Unit of the score; empty for shares and ratios."""
    better: Better
    """The better direction; "neither" for measures that only explain others."""
    meaning: str
    """Meaning in one sentence."""
    ranked: bool = False
    """Whether the measure is used to rank clips."""


@dataclass(kw_only=True)
class ClipScores:
    """The scores and curves of one clip."""

    scores: dict[str, float | None] = field(default_factory=dict)
    """Scores by name; None = not defined for this clip, with the reason in `notes`."""
    curves: dict[str, list[tuple[int, float | None]]] = field(default_factory=dict)
    """Curves by name: (frame number, or frame gap for consistency; value)."""
    notes: list[str] = field(default_factory=list)
    """Remarks on the scores."""


def _measure(label: str, better: Better, meaning: str, *, unit: str = "", ranked: bool = False) -> Measure:
    return Measure(label=label, unit=unit, better=better, meaning=meaning, ranked=ranked)


_LATER = "mean over all frames after the input"
_SCALED = "after one scale for the whole clip"
_AFFINE = "after one scale and one shift in disparity (1 / depth) for the whole clip"
_LENGTH = "scene units"
MEASURES: dict[str, Measure] = {
    "video/psnr": _measure(
        "PSNR", "higher", f"peak signal-to-noise ratio against the real frames, {_LATER}", unit="dB", ranked=True
    ),
    "video/ssim": _measure("SSIM", "higher", f"structural similarity to the real frames (11 x 11 Gaussian), {_LATER}"),
    "video/lpips": _measure(
        "LPIPS", "lower", f"perceptual distance to the real frames (AlexNet, version 0.1), {_LATER}"
    ),
    "video/st_lpips": _measure(
        "ST-LPIPS", "lower", f"shift-tolerant perceptual distance to the real frames (not LPIPS), {_LATER}"
    ),
    "depth/abs_rel": _measure(
        "AbsRel, scale",
        "lower",
        f"mean relative depth error over pixels with trusted depth, {_SCALED}",
        ranked=True,
    ),
    "depth/delta1": _measure(
        "delta < 1.25, scale", "higher", f"share of pixels whose depth is within a factor of 1.25, {_SCALED}"
    ),
    "depth/abs_rel_affine": _measure("AbsRel, scale and shift", "lower", f"mean relative depth error, {_AFFINE}"),
    "depth/delta1_affine": _measure(
        "delta < 1.25, scale and shift", "higher", f"share of pixels within a factor of 1.25, {_AFFINE}"
    ),
    "pose/ate": _measure(
        "ATE",
        "lower",
        "root mean square distance of the camera centers from the true ones after Sim(3) alignment (Umeyama)",
        unit=_LENGTH,
    ),
    "pose/ate_directed": _measure(
        "ATE, directed",
        "lower",
        "the same, with the rotation of the alignment from the camera directions and the scale from the spread of the "
        "centers, so that reversed travel is an error",
        unit=_LENGTH,
    ),
    "pose/ate_still": _measure(
        "ATE of a standing camera", "neither", "ATE of a camera that does not move, for comparison", unit=_LENGTH
    ),
    "pose/rpe_trans": _measure(
        "RPE, translation",
        "lower",
        "root mean square drift of the motion from frame to frame, after Sim(3) alignment",
        unit=_LENGTH,
    ),
    "pose/rpe_rot": _measure(
        "RPE, rotation", "lower", "root mean square drift of the turn from frame to frame", unit="deg"
    ),
    "points/chamfer": _measure(
        "Chamfer",
        "lower",
        "symmetric Chamfer distance of the point map to the true points, after the Sim(3) of the cameras",
        unit=_LENGTH,
        ranked=True,
    ),
    "follow/rotation": _measure(
        "camera following, rotation",
        "lower",
        "mean angle between requested and recovered camera (the model's own cameras), relative to frame 0",
        unit="deg",
        ranked=True,
    ),
    "follow/direction": _measure(
        "camera following, direction",
        "lower",
        "mean angle between the requested and the recovered direction of travel from frame 0",
        unit="deg",
    ),
    "follow/position": _measure(
        "camera following, position",
        "lower",
        "mean distance of the recovered camera from the requested one, without alignment, as a share of the length of "
        "the requested path",
    ),
    "follow/length": _measure(
        "camera following, path length",
        "neither",
        "length of the recovered path over that of the requested one; 1 is ideal",
    ),
    "follow_sfm/rotation": _measure(
        "camera following by SfM, rotation",
        "lower",
        "mean angle between the requested camera and the one found in the generated video",
        unit="deg",
    ),
    "follow_sfm/direction": _measure(
        "camera following by SfM, direction",
        "lower",
        "mean angle between the requested direction of travel and the one found in the generated video",
        unit="deg",
    ),
    "consistency/depth": _measure(
        "reprojection, depth",
        "lower",
        "median relative disagreement of the depth of two frames after reprojection, over all pixels that stay inside",
    ),
    "consistency/depth_ratio": _measure(
        "reprojection, depth / no motion",
        "lower",
        "the same divided by its value for a static camera; below 1 the cameras explain the change",
    ),
    "consistency/photometric": _measure(
        "reprojection, color",
        "lower",
        "mean absolute color difference (0 to 1) of a frame and another one warped into it; a pixel that is hidden "
        "there counts at least its difference without a warp",
    ),
    "consistency/photometric_ratio": _measure(
        "reprojection, color / no motion",
        "lower",
        "the same divided by the difference without a warp; below 1 the geometry explains the change",
    ),
    "consistency/visible": _measure(
        "reprojection, share visible",
        "higher",
        "coverage: share of pixels that are inside the other frame and not hidden; below 0.1 reprojection has failed, "
        "and its ratios are at least 1",
    ),
}


def finite(value: float | None) -> float | None:
    """The value as a float, or None if it is not finite (JSON has no NaN)."""
    return float(value) if value is not None and math.isfinite(value) else None
