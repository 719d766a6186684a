"""A focal length that changes within the shot: found from the residuals of a scene with one focal length.

The model is a zoom at a constant rate, exp(trend t) with t from -1/2 (first frame) to 1/2 (last frame). A moving
camera mimics a zoom only for flat scenes; poses are projected out first. Axis legend: o observations.
"""

from dataclasses import replace

import numpy as np
from jaxtyping import Float64

from fw_data.annotators.sfm.bundle import adjust
from fw_data.annotators.sfm.calibration import LOSS_PX, robust_cost
from fw_data.annotators.sfm.rolling_shutter import fit_field
from fw_data.annotators.sfm.scene import SparseScene

STEPS = 6
SETTLED = 0.01
OVERSTEP = 1.6
"""Points and poses take up part of a zoom, so each estimate falls short of the answer."""
MAX_TREND = 1.5
GAIN = 0.9
"""A zoom must bring the robust cost below this part of the cost with one focal length."""


def fit_zoom(scene: SparseScene, threads: int) -> float:
    """Logarithm of the last focal length over the first one; 0 where one focal length explains the footage as well."""
    center = np.array([scene.width / 2, scene.height / 2])
    time = _time(scene)[:, None]
    trend, current = 0.0, scene
    for _ in range(STEPS):
        change = fit_field(current, (current.obs_xy - center) * time, start=0.0, limit=MAX_TREND, loss_px=2 * LOSS_PX)
        if abs(change) < SETTLED:
            break
        trend = float(np.clip(trend + OVERSTEP * change, -MAX_TREND, MAX_TREND))
        still = center + (scene.obs_xy - center) * np.exp(-trend * time)
        current = adjust(replace(current, obs_xy=still), loss_px=LOSS_PX, max_iterations=15, threads=threads)
    return trend if robust_cost(current) < GAIN * robust_cost(scene) else 0.0


def _time(scene: SparseScene) -> Float64[np.ndarray, " o"]:
    """Time of every observation, from -1/2 to 1/2."""
    return scene.obs_frame / max(len(scene.posed) - 1, 1) - 0.5
