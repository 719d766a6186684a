"""The registry of measures: label, unit, better direction and meaning of each. Reports and comparisons read it."""

import math
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Measure:
    """Description of one measure of a clip."""

    label: str
    """Label in tables."""
    unit: str
    """Unit of the score; empty for shares and ratios."""
    better: Literal["lower", "higher", "neither"]
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


MEASURES: dict[str, Measure] = {
    "video/psnr": Measure(
        label="PSNR",
        unit="dB",
        better="higher",
        meaning="peak signal-to-noise ratio against the real frames, mean over all frames after the input",
        ranked=True,
    ),
    "video/ssim": Measure(
        label="SSIM",
        unit="",
        better="higher",
        meaning="structural similarity to the real frames (11 x 11 Gaussian), mean over all frames after the input",
    ),
    "video/lpips": Measure(
        label="LPIPS",
        unit="",
        better="lower",
        meaning="perceptual distance to the real frames (AlexNet, version 0.1), mean over all frames after the input",
    ),
    "depth/abs_rel": Measure(
        label="AbsRel, scale",
        unit="",
        better="lower",
        meaning="mean relative depth error over pixels with trusted depth, after one scale for the whole clip",
        ranked=True,
    ),
    "depth/delta1": Measure(
        label="delta < 1.25, scale",
        unit="",
        better="higher",
        meaning="share of those pixels whose depth is within a factor of 1.25, after one scale for the whole clip",
    ),
    "depth/abs_rel_affine": Measure(
        label="AbsRel, scale and shift",
        unit="",
        better="lower",
        meaning="the same after one scale and one shift in disparity (1 / depth) for the whole clip",
    ),
    "depth/delta1_affine": Measure(
        label="delta < 1.25, scale and shift",
        unit="",
        better="higher",
        meaning="the same after one scale and one shift in disparity (1 / depth) for the whole clip",
    ),
    "pose/ate": Measure(
        label="ATE",
        unit="scene units",
        better="lower",
        meaning="root mean square distance of the camera centers from the true ones after Sim(3) alignment (Umeyama)",
    ),
    "pose/rpe_trans": Measure(
        label="RPE, translation",
        unit="scene units",
        better="lower",
        meaning="root mean square drift of the motion from frame to frame, after Sim(3) alignment",
    ),
    "pose/rpe_rot": Measure(
        label="RPE, rotation",
        unit="deg",
        better="lower",
        meaning="root mean square drift of the turn from frame to frame",
    ),
    "points/chamfer": Measure(
        label="Chamfer",
        unit="scene units",
        better="lower",
        meaning="symmetric Chamfer distance of the point map to the true points, after the Sim(3) of the cameras",
        ranked=True,
    ),
    "follow/rotation": Measure(
        label="camera following, rotation",
        unit="deg",
        better="lower",
        meaning="mean angle between requested and recovered camera (the model's own cameras), relative to frame 0",
        ranked=True,
    ),
    "follow/direction": Measure(
        label="camera following, direction",
        unit="deg",
        better="lower",
        meaning="mean angle between the requested and the recovered direction of travel from frame 0",
    ),
    "follow_sfm/rotation": Measure(
        label="camera following by SfM, rotation",
        unit="deg",
        better="lower",
        meaning="mean angle between the requested camera and the one found in the generated video",
    ),
    "follow_sfm/direction": Measure(
        label="camera following by SfM, direction",
        unit="deg",
        better="lower",
        meaning="mean angle between the requested direction of travel and the one found in the generated video",
    ),
    "consistency/depth": Measure(
        label="reprojection, depth",
        unit="",
        better="lower",
        meaning="median relative disagreement of the depth of two frames after reprojection, visible pixels only",
    ),
    "consistency/depth_ratio": Measure(
        label="reprojection, depth / no motion",
        unit="",
        better="lower",
        meaning="the same divided by its value for a static camera; below 1 the cameras explain the change",
    ),
    "consistency/photometric": Measure(
        label="reprojection, color",
        unit="",
        better="lower",
        meaning="mean absolute color difference (0 to 1) of a frame and another one warped into it, visible pixels",
    ),
    "consistency/photometric_ratio": Measure(
        label="reprojection, color / no motion",
        unit="",
        better="lower",
        meaning="the same divided by the difference without a warp; below 1 the geometry explains the change",
    ),
    "consistency/visible": Measure(
        label="reprojection, share visible",
        unit="",
        better="neither",
        meaning="share of compared pixels: inside the other frame, not hidden, not at a depth edge",
    ),
}


def finite(value: float | None) -> float | None:
    """The value as a float, or None if it is not finite (JSON has no NaN)."""
    return float(value) if value is not None and math.isfinite(value) else None
