"""Shutter, lens and focal length of the camera, each estimated only as far as the footage determines it.

Costs are mean Cauchy costs of the observations. Observations of one point in neighboring frames err together, so the
evidence of many of them counts as that of a few (`EVIDENCE`). Axis legend: o observations.
"""

from dataclasses import replace

import numpy as np

from fw_data.annotators.sfm.bundle import adjust
from fw_data.annotators.sfm.rolling_shutter import MAX_READOUT, estimate_readout, residuals_px
from fw_data.annotators.sfm.scene import SparseScene

LOSS_PX = 0.5
MAX_ERROR_PX = 20.0
"""Larger residuals, and those of points behind a camera, cost as much as this one."""
EVIDENCE = 1 / 15
"""Independent observations per observation."""
FOCAL_RANGE = (0.35, 3.0)
"""Plausible focal lengths, in long sides (110 to 19 degrees)."""
USUAL_FOCAL = 0.9
"""In long sides: about 58 degrees, between phones and camcorders."""
FOCAL_SPREAD = 0.35
"""Standard deviation of the logarithm of the focal lengths that cameras have (two thirds: 43 to 76 degrees)."""
FOCAL_PROBE = 1.06
MAX_FOCAL_STEP = 0.25
MAX_FOCAL_STEPS = 5
RADIAL_SPREAD = 0.03
MAX_RADIAL = 0.15
"""Distortion beyond which images would have to be undistorted."""
MAX_ZOOM = 0.1
"""Change of the focal length within a shot, as a logarithm, from which one focal length is wrong."""
MIN_READOUT = 0.03
SHUTTER_GAIN = 0.97
"""A rolling shutter must bring the robust cost below this part of what a global one leaves."""


def robust_cost(scene: SparseScene) -> float:
    """Mean Cauchy cost of the observations, in units of LOSS_PX squared."""
    residual = np.minimum(residuals_px(scene), MAX_ERROR_PX)
    return float(np.log1p((residual / LOSS_PX) ** 2).mean())


def fit_shutter(scene: SparseScene, threads: int, steps: int = 4) -> SparseScene:
    """Alternate readout and adjustment until the readout rests; a global shutter stays when the gain is small."""
    start = scene
    for _ in range(steps):
        readout = estimate_readout(scene)
        change = np.array(readout) - np.array(scene.readout)
        if np.abs(change).max() < MIN_READOUT:
            break
        # Points give way to the shutter as poses do, so each estimate falls short of the answer: step past it.
        stepped = np.clip(np.array(scene.readout) + 1.6 * change, -MAX_READOUT, MAX_READOUT)
        scene = replace(scene, readout=(float(stepped[0]), float(stepped[1])))
        scene = adjust(scene, loss_px=LOSS_PX, max_iterations=15, threads=threads)
    plausible = max(map(abs, scene.readout)) < 0.95 * MAX_READOUT
    pays = start.readout != (0.0, 0.0) or robust_cost(scene) < SHUTTER_GAIN * robust_cost(start)
    return scene if plausible and pays else replace(start, readout=(0.0, 0.0))


def fit_lens(scene: SparseScene, threads: int) -> SparseScene:
    """Fit one radial coefficient; an ideal lens is kept unless the gain outweighs how unusual the distortion is."""
    bent = adjust(scene, loss_px=LOSS_PX, refine_radial=True, threads=threads)
    gain = EVIDENCE * len(scene.obs_xy) * (robust_cost(scene) - robust_cost(bent))
    unusual = 1 + (bent.radial / RADIAL_SPREAD) ** 2 / 2
    return bent if gain > unusual else scene


def settle_focal(scene: SparseScene, threads: int) -> tuple[SparseScene, float]:
    """Maximum a posteriori focal length from the footage and a prior, and the standard deviation of its logarithm.

    The cost is probed a little below and above the focal length, everything else adjusted; with the log-normal prior
    this is one step of Newton's method, repeated while steps are long. Where the motion determines the focal length
    nothing moves; where it does not (a camera that moves straight ahead, one that hardly turns) the prior wins.
    """
    count = EVIDENCE * len(scene.obs_xy)
    pull = 1 / FOCAL_SPREAD**2
    usual = np.log(USUAL_FOCAL * max(scene.width, scene.height))
    width = np.log(FOCAL_PROBE)
    curvature = pull
    for _ in range(MAX_FOCAL_STEPS):
        below, above = (
            _with_focal(scene, scene.focal_px * factor, threads) for factor in (1 / FOCAL_PROBE, FOCAL_PROBE)
        )
        costs = [count * robust_cost(probe) for probe in (below, scene, above)]
        slope = (costs[2] - costs[0]) / (2 * width) + pull * (np.log(scene.focal_px) - usual)
        curvature = max(costs[0] + costs[2] - 2 * costs[1], 0.0) / width**2 + pull
        step = float(np.clip(-slope / curvature, -MAX_FOCAL_STEP, MAX_FOCAL_STEP))
        start = above if step > width / 2 else below if step < -width / 2 else scene
        scene = _with_focal(start, scene.focal_px * np.exp(step), threads)
        if abs(step) < width:
            break
    return scene, float(1 / np.sqrt(curvature))


def _with_focal(scene: SparseScene, focal_px: float, threads: int) -> SparseScene:
    """The scene adjusted with a fixed focal length."""
    return adjust(replace(scene, focal_px=float(focal_px)), loss_px=LOSS_PX, refine_focal=False, threads=threads)
